//! The settings of the server: one struct for each table of `config.toml`, whose text is the documented default.
//! May not: start anything, write a file, or hold a setting that `config.toml` does not explain.

mod check;
mod egress;
mod error;
mod layers;
mod listener;
mod rate_limit;
mod secret;
mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use ruma::{OwnedServerName, RoomVersionId};
use serde::Deserialize;
use vestibule_federation::egress::DEFAULT_DENIED_IP_RANGES;

pub use self::egress::BannedKey;
pub use self::error::{ConfigError, SetBy};
pub use self::listener::{Listener, Serves};
pub use self::rate_limit::{Bucket, RateLimit};
pub use self::secret::Secret;
pub use self::units::{ByteSize, Span, UnitError};
use crate::private_file;

/// Read when no file is named; it may be missing.
pub const DEFAULT_FILE: &str = "config.toml";

/// The documented default, as it ships. A test holds it and [`Config::default`] together.
const DEFAULT_TEXT: &str = include_str!("../config.toml");

/// All settings. Paths are as the program must use them: those of a file are relative to its directory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Config {
    /// The name that other servers know us by; it cannot change once there is data.
    pub server_name: OwnedServerName,
    /// Everything that the server keeps.
    pub data_dir: PathBuf,
    /// Networks whose `X-Forwarded-For` counts.
    #[serde(deserialize_with = "egress::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Base URL for clients, served under `/.well-known/matrix/client`.
    pub well_known_client: Option<String>,
    /// Host and port for servers, served under `/.well-known/matrix/server`.
    pub well_known_server: Option<OwnedServerName>,
    /// Where we accept connections, and what for.
    pub listener: Vec<Listener>,
    /// New accounts.
    pub registration: Registration,
    /// Other servers.
    pub federation: Federation,
    /// Rooms made here.
    pub rooms: Rooms,
    /// Knocks.
    pub knock: Knock,
    /// Room actors.
    pub actors: Actors,
    /// Journal and store.
    pub storage: Storage,
    /// Token buckets.
    pub rate_limit: RateLimit,
}

/// `[registration]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Registration {
    /// Anybody may make an account (`m.login.dummy`).
    pub open: bool,
    /// Enables `/_synapse/admin/v1/register`. Filled from `shared_secret_file` when that is given and exists.
    pub shared_secret: Option<Secret>,
    /// Where the shared secret is, or will be made at first start.
    pub shared_secret_file: Option<PathBuf>,
}

/// `[federation]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Federation {
    /// Certificate authorities in PEM files, besides the system's.
    pub trusted_ca_files: Vec<PathBuf>,
    /// Networks that we never connect to.
    #[serde(deserialize_with = "egress::networks")]
    pub denied_ip_ranges: Vec<IpNet>,
    /// Exceptions from `denied_ip_ranges`.
    #[serde(deserialize_with = "egress::networks")]
    pub allowed_ip_ranges: Vec<IpNet>,
    /// Servers that are reached without discovery. Neither the address filter nor the certificate's name is bypassed.
    pub server_addresses: BTreeMap<OwnedServerName, SocketAddr>,
    /// Globs over server names; what matches is refused both ways.
    #[serde(deserialize_with = "egress::server_globs")]
    pub denied_servers: Vec<String>,
    /// Public keys that never verify anything.
    pub banned_keys: Vec<BannedKey>,
    /// Servers that are asked for keys which their owner does not give.
    pub notaries: Vec<OwnedServerName>,
    /// For one request to another server.
    pub request_timeout: Span,
    /// First pause after a failed destination; it doubles.
    pub retry_backoff_min: Span,
    /// Longest pause after failures.
    pub retry_backoff_max: Span,
}

/// `[rooms]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Rooms {
    /// Version of a room whose maker names none; one that we host.
    pub default_version: RoomVersionId,
}

/// `[knock]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Knock {
    /// How long the same user's next knock on the same room is refused, from our receipt of the first.
    pub repeat_after: Span,
    /// Knocks that may wait in one room.
    pub max_pending_per_room: u32,
    /// Knocks of one server's users that may wait in one room.
    pub max_pending_per_origin_in_room: u32,
    /// Longest reason of our own users, in bytes.
    pub reason_bytes_max: usize,
    /// Age at which a waiting knock is let go; zero: never.
    pub expire_after: Span,
    /// Join at once when a knock of our user is answered with an invite.
    pub auto_join_accepted: bool,
}

/// `[actors]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Actors {
    /// Messages that may wait for one room.
    pub mailbox_capacity: usize,
    /// Rooms kept in memory; the least recently used leave first.
    pub live_max: usize,
    /// After this long without a message a room leaves memory.
    pub idle_timeout: Span,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct Storage {
    /// Cache of the look-up store.
    pub cache: ByteSize,
    /// The smaller of this and 5 % of the disk: with less space free, writes are refused.
    pub min_free: ByteSize,
}

impl Config {
    /// Reads the settings: the built-in defaults, over them the file, over it the environment's `VESTIBULE_…`,
    /// over that `--set KEY=VALUE`. Without `file`, [`DEFAULT_FILE`] is read if there is one.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key, what was expected, and who set it. Nothing has been written.
    pub fn load<E>(file: Option<&Path>, environment: E, set: &[String]) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (OsString, OsString)>,
    {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => None,
            Err(source) => {
                return Err(ConfigError::Unreadable { path: path.to_owned(), source });
            }
        };
        let mut config = Self::of_text(text.as_deref().map(|text| (path, text)), environment, set)?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        config.read_shared_secret()?;
        Ok(config)
    }

    /// The same with a file that is read already (its name and text). Paths stay as they are written.
    ///
    /// # Errors
    /// As [`Self::load`], but for what only the disk can tell.
    pub fn of_text<E>(file: Option<(&Path, &str)>, environment: E, set: &[String]) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (OsString, OsString)>,
    {
        let config = layers::merge(DEFAULT_TEXT, file, layers::overrides(environment, set)?)?;
        check::across_keys(&config)?;
        Ok(config)
    }

    /// Paths in a file are relative to the directory of that file, wherever the program was started.
    fn resolve_paths(&mut self, directory: &Path) {
        let certificates = self
            .listener
            .iter_mut()
            .flat_map(|listener| [&mut listener.tls_certificate, &mut listener.tls_private_key]);
        let optional = certificates.chain([&mut self.registration.shared_secret_file]).flatten();
        for path in optional.chain(&mut self.federation.trusted_ca_files).chain([&mut self.data_dir]) {
            *path = directory.join(&path);
        }
    }

    /// A file that is missing is no error: it is made at first start.
    fn read_shared_secret(&mut self) -> Result<(), ConfigError> {
        let Some(path) = &self.registration.shared_secret_file else {
            return Ok(());
        };
        let text = match private_file::read(path, private_file::Readers::Anybody) {
            Ok(text) => text,
            Err(private_file::ReadError::Missing { .. }) => return Ok(()),
            Err(source) => {
                return Err(ConfigError::SecretFile { key: "registration.shared_secret_file", source });
            }
        };
        match Secret::new(text.trim().to_owned()) {
            Some(secret) => self.registration.shared_secret = Some(secret),
            None => {
                return Err(ConfigError::of_value(
                    "registration.shared_secret_file",
                    "the file holds no secret: it is empty",
                ));
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: ruma::owned_server_name!("localhost:8448"),
            data_dir: PathBuf::from("data"),
            trusted_proxies: Vec::new(),
            well_known_client: None,
            well_known_server: None,
            listener: listener::defaults(),
            registration: Registration::default(),
            federation: Federation::default(),
            rooms: Rooms::default(),
            knock: Knock::default(),
            actors: Actors::default(),
            storage: Storage::default(),
            rate_limit: RateLimit::default(),
        }
    }
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            trusted_ca_files: Vec::new(),
            denied_ip_ranges: DEFAULT_DENIED_IP_RANGES.to_vec(),
            allowed_ip_ranges: Vec::new(),
            server_addresses: BTreeMap::new(),
            denied_servers: Vec::new(),
            banned_keys: Vec::new(),
            notaries: Vec::new(),
            request_timeout: Span::seconds(20),
            retry_backoff_min: Span::seconds(10 * 60),
            retry_backoff_max: Span::seconds(7 * 24 * 3600),
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self { default_version: RoomVersionId::V12 }
    }
}

impl Default for Knock {
    fn default() -> Self {
        Self {
            repeat_after: Span::seconds(3600),
            max_pending_per_room: 1000,
            max_pending_per_origin_in_room: 50,
            reason_bytes_max: 512,
            expire_after: Span::seconds(0),
            auto_join_accepted: false,
        }
    }
}

impl Default for Actors {
    fn default() -> Self {
        Self { mailbox_capacity: 1024, live_max: 2000, idle_timeout: Span::seconds(60) }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { cache: ByteSize::mebibytes(64), min_free: ByteSize::mebibytes(256) }
    }
}

#[cfg(test)]
mod tests;
