//! Rules that hold between settings, and bounds that a type alone does not give.
//! May not: change a value, or look at the disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use vestibule_protocol::room_version::RoomVersion;

use super::{Config, ConfigError, Listener, Span};

/// Highest rate and largest burst of a bucket; more is the same as no limit.
const BUCKET_MAX: u32 = 1_000_000;

/// Smallest cache that the look-up store works with, in bytes: one segment of its log.
const CACHE_BYTES_MIN: u64 = 1 << 20;

/// Checks what the types could not.
///
/// # Errors
/// The first key whose value does not go with the others.
pub(super) fn across_keys(config: &Config) -> Result<(), ConfigError> {
    listeners(&config.listener)?;
    well_known(config)?;
    registration(config)?;
    federation(config)?;
    limits(config)?;
    let hosted = RoomVersion::hosted();
    if !hosted.contains(&config.rooms.default_version) {
        let names: Vec<&str> = hosted.iter().map(|version| version.as_str()).collect();
        let problem = format!(
            "version \"{}\" is not hosted here; expected one of {}",
            config.rooms.default_version,
            names.join(", ")
        );
        return Err(ConfigError::of_value("rooms.default_version", problem));
    }
    Ok(())
}

fn listeners(listeners: &[Listener]) -> Result<(), ConfigError> {
    if listeners.is_empty() {
        return Err(ConfigError::of_value("listener", "expected at least one listener"));
    }
    let mut seen: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for (index, listener) in listeners.iter().enumerate() {
        let refuse =
            |key: &str, problem: String| Err(ConfigError::of_value(format!("listener.{index}.{key}"), problem));
        if listener.serves.is_empty() {
            return refuse("serves", "expected one or more of \"client\", \"federation\" and \"admin\"".to_owned());
        }
        match (&listener.tls_certificate, &listener.tls_private_key) {
            (Some(_), None) => {
                return refuse("tls_private_key", "is required beside tls_certificate".to_owned());
            }
            (None, Some(_)) => {
                return refuse("tls_certificate", "is required beside tls_private_key".to_owned());
            }
            (Some(_), Some(_)) if !listener.tls => {
                return refuse("tls", "must be true when a certificate is given".to_owned());
            }
            _ => {}
        }
        // With port 0 each listener gets a port of its own.
        let is_fixed = listener.address.port() != 0;
        if let Some(other) = seen.insert(listener.address, index).filter(|_| is_fixed) {
            return refuse("address", format!("{} is the address of listener.{other} already", listener.address));
        }
    }
    Ok(())
}

fn well_known(config: &Config) -> Result<(), ConfigError> {
    let Some(url) = &config.well_known_client else {
        return Ok(());
    };
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let is_base_url =
        !host.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}?#@".contains(&byte));
    if is_base_url {
        return Ok(());
    }
    Err(ConfigError::of_value(
        "well_known_client",
        "expected a URL such as \"https://matrix.example.org\", without user, query and fragment",
    ))
}

fn registration(config: &Config) -> Result<(), ConfigError> {
    let registration = &config.registration;
    if registration.shared_secret.is_some() && registration.shared_secret_file.is_some() {
        return Err(ConfigError::of_value(
            "registration.shared_secret_file",
            "give either this or registration.shared_secret, not both",
        ));
    }
    Ok(())
}

fn federation(config: &Config) -> Result<(), ConfigError> {
    let federation = &config.federation;
    above_zero("federation.request_timeout", federation.request_timeout)?;
    above_zero("federation.retry_backoff_min", federation.retry_backoff_min)?;
    if federation.retry_backoff_max < federation.retry_backoff_min {
        let problem = format!(
            "{} is shorter than retry_backoff_min, {}",
            federation.retry_backoff_max, federation.retry_backoff_min
        );
        return Err(ConfigError::of_value("federation.retry_backoff_max", problem));
    }
    if let Some((name, address)) = federation.server_addresses.iter().find(|(_, address)| address.port() == 0) {
        let problem = format!("{address} has no port to connect to");
        return Err(ConfigError::of_value(format!("federation.server_addresses.\"{name}\""), problem));
    }
    if let Some(index) = federation.notaries.iter().position(|notary| *notary == config.server_name) {
        return Err(ConfigError::of_value(format!("federation.notaries.{index}"), "a server is no notary of itself"));
    }
    Ok(())
}

fn limits(config: &Config) -> Result<(), ConfigError> {
    above_zero("actors.idle_timeout", config.actors.idle_timeout)?;
    let at_least_one = [
        ("actors.mailbox_capacity", config.actors.mailbox_capacity == 0),
        ("actors.live_max", config.actors.live_max == 0),
    ];
    if let Some((key, _)) = at_least_one.into_iter().find(|(_, is_zero)| *is_zero) {
        return Err(ConfigError::of_value(key, "expected at least 1"));
    }
    if config.storage.cache.get() < CACHE_BYTES_MIN {
        let problem = format!("{} is too small; expected at least 1MiB", config.storage.cache);
        return Err(ConfigError::of_value("storage.cache", problem));
    }
    for (name, bucket) in config.rate_limit.buckets() {
        let refuse =
            |key: &str, problem: String| Err(ConfigError::of_value(format!("rate_limit.{name}.{key}"), problem));
        let is_rate = bucket.per_second > 0.0 && bucket.per_second <= f64::from(BUCKET_MAX);
        if !is_rate {
            return refuse(
                "per_second",
                format!("{} is no rate; expected a number above 0 and up to {BUCKET_MAX}", bucket.per_second),
            );
        }
        if !(1..=BUCKET_MAX).contains(&bucket.burst) {
            return refuse("burst", format!("{} is out of range; expected 1 to {BUCKET_MAX}", bucket.burst));
        }
    }
    Ok(())
}

fn above_zero(key: &str, span: Span) -> Result<(), ConfigError> {
    match span.unless_zero() {
        Some(_) => Ok(()),
        None => Err(ConfigError::of_value(key, "expected a duration above zero")),
    }
}
