//! Target `config`: the text of a configuration file, and the same setting given on the command line.
//! May not: look at the disk.

use std::path::Path;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use vestibule::config::Config;
use vestibule_protocol::room_version::RoomVersion;

use super::super::{
    Target, Verdict,
    drawing::{Input, mutate, one_of},
};
use crate::proof::{Plant, Settings};

pub static SECRET_TOLD: Plant =
    Plant { name: "secret-told", what: "an error quotes the line it is about", cases: 5_000 };

const SECRET: &str = "hunter2hunter2";
const SECRET_KEY: &str = "registration.shared_secret";

/// Settings with a value that they can have.
const SETTINGS: [(&str, &str); 24] = [
    ("server_name", "\"peer.test\""),
    ("data_dir", "\"elsewhere\""),
    ("trusted_proxies", "[\"10.0.0.0/8\", \"::1\"]"),
    ("well_known_client", "\"https://peer.test\""),
    ("well_known_server", "\"peer.test:443\""),
    ("listener", "[{ address = \"127.0.0.1:0\", serves = [\"client\", \"federation\"] }]"),
    ("registration.open", "true"),
    (SECRET_KEY, "\"hunter2hunter2\""),
    ("registration.shared_secret_file", "\"secret\""),
    ("federation.denied_ip_ranges", "[]"),
    ("federation.allowed_ip_ranges", "[\"127.0.0.0/8\"]"),
    ("federation.server_addresses", "{ \"hs1:8448\" = \"127.0.0.1:1\" }"),
    ("federation.denied_servers", "[\"*.evil.test\"]"),
    ("federation.banned_keys", "[\"l8Hft5qXKn1vfHrg3p4+W8gELQVo8N13JkluMfmn2sQ\"]"),
    ("federation.request_timeout", "\"20s\""),
    ("federation.retry_backoff_min", "\"10m\""),
    ("rooms.default_version", "\"11\""),
    ("knock.repeat_after", "\"1h\""),
    ("knock.max_pending_per_room", "1000"),
    ("knock.auto_join_accepted", "false"),
    ("actors.live_max", "2000"),
    ("storage.cache", "\"64MiB\""),
    ("storage.min_free", "1048576"),
    ("rate_limit.enabled", "true"),
];

/// Values that belong nowhere, or elsewhere.
const VALUES: [&str; 28] = [
    "0",
    "-1",
    "1e400",
    "nan",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "\"\"",
    "\"0s\"",
    "\"1d\"",
    "\"36525d\"",
    "\"99999999999TiB\"",
    "\"ms\"",
    "true",
    "[]",
    "{}",
    "{ a = {} }",
    "[[[[[]]]]]",
    "1979-05-27",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "'x'",
    "\"12\"",
    "[{}]",
    "[{ address = \"[::1]:0\", serves = [] }]",
    "[\"0.0.0.0/0\", \"x\"]",
    "\"hunter2hunter2\"",
    "{ \"hs1\" = 1 }",
];

pub fn make() -> Result<Box<dyn Target>, String> {
    Ok(Box::new(ConfigFile))
}

struct ConfigFile;

impl Target for ConfigFile {
    fn draw(&self, random: &mut StdRng) -> Input {
        let count = if random.random_ratio(1, 2) { 1 } else { random.random_range(0..6) };
        let lines: Vec<String> = (0..count).map(|_| draw_line(random)).collect();
        let mut bytes = lines.join("\n").into_bytes();
        if random.random_ratio(1, 4) {
            let others: Vec<Vec<u8>> =
                SETTINGS.iter().map(|(key, value)| format!("{key} = {value}").into_bytes()).collect();
            mutate(&mut bytes, &others, random);
        }
        Input::new(bytes, random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let Ok(text) = std::str::from_utf8(&input.bytes) else { return Ok(Verdict::Refused) };
        let file = Path::new("config.toml");
        let config = match Config::of_text(Some((file, text)), [], &[]) {
            Ok(config) => config,
            Err(error) => {
                let quoted = if settings.has(&SECRET_TOLD) { text } else { "" };
                let words = format!("{error} {quoted}");
                // Another key's value may be quoted, also when it is by mistake the secret.
                if error.key().is_none_or(|key| key == SECRET_KEY) && words.contains(SECRET) {
                    return Err(format!("the refusal tells the secret: {words}"));
                }
                return Ok(Verdict::Refused);
            }
        };
        may_be_taken(&config)?;
        let is_one_setting = text.lines().count() == 1 && !text.contains(['#', '[', '\r']) && text.contains('=');
        if is_one_setting {
            match Config::of_text(None, [], &[text.trim().to_owned()]) {
                Ok(set) if set == config => {}
                Ok(_) => return Err("by --set it is another configuration".to_owned()),
                Err(error) => return Err(format!("by --set: {error}")),
            }
        }
        Ok(Verdict::Taken)
    }
}

/// What the program relies on.
fn may_be_taken(config: &Config) -> Result<(), String> {
    let has = |is_so: bool, what: &str| if is_so { Ok(()) } else { Err(format!("taken with {what}")) };
    has(!config.listener.is_empty(), "no listener")?;
    for listener in &config.listener {
        has(!listener.serves.is_empty(), "a listener that serves nothing")?;
        has(listener.tls_certificate.is_some() == listener.tls_private_key.is_some(), "half a certificate")?;
    }
    let federation = &config.federation;
    has(!federation.request_timeout.get().is_zero(), "no time for a request")?;
    has(!federation.retry_backoff_min.get().is_zero(), "no pause after a failure")?;
    has(federation.retry_backoff_min <= federation.retry_backoff_max, "a least pause above the longest")?;
    has(RoomVersion::hosted().contains(&config.rooms.default_version), "a version that is not hosted")?;
    let registration = &config.registration;
    has(registration.shared_secret.is_none() || registration.shared_secret_file.is_none(), "two secrets")?;
    has(registration.shared_secret.as_ref().is_none_or(|secret| !secret.expose().is_empty()), "an empty secret")?;
    has(!format!("{registration:?}").contains(SECRET) || registration.shared_secret.is_none(), "a secret that is shown")
}

fn draw_line(random: &mut StdRng) -> String {
    let (key, value) = SETTINGS.choose(random).copied().unwrap_or_default();
    let value = if random.random_ratio(2, 3) { value } else { one_of(&VALUES, random) };
    match random.random_range(0..12) {
        0 => format!("{key}x = {value}"),
        1 => format!("[{key}]\nopen = {value}"),
        2 => format!("{key} = {{ a = {value} }}"),
        3 => format!("# {key} = {value}"),
        _ => format!("{key} = {value}"),
    }
}
