//! `[[listener]]`: an address, what is served there, and whether with TLS.
//! May not: bind.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table of settings")]
pub struct Listener {
    /// Where connections are accepted; port 0 lets the operating system choose.
    pub address: SocketAddr,
    /// What is served there; never empty.
    pub serves: BTreeSet<Serves>,
    /// Whether connections are encrypted.
    #[serde(default)]
    pub tls: bool,
    /// Certificate chain in PEM, leaf first. Without it a self-signed certificate is made in the data directory.
    #[serde(default)]
    pub tls_certificate: Option<PathBuf>,
    /// Private key in PEM that belongs to the certificate.
    #[serde(default)]
    pub tls_private_key: Option<PathBuf>,
}

/// A kind of request that a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serves {
    /// The client-server API.
    Client,
    /// The server-server API.
    Federation,
    /// Actor stats, knocks, decisions, metrics.
    Admin,
}

impl fmt::Display for Serves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Federation => "federation",
            Self::Admin => "admin",
        })
    }
}

/// The listeners of `config.toml`, all on the loopback address.
pub(super) fn defaults() -> Vec<Listener> {
    let plain = |port, serves| Listener {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        serves: BTreeSet::from([serves]),
        tls: false,
        tls_certificate: None,
        tls_private_key: None,
    };
    let mut federation = plain(8448, Serves::Federation);
    federation.serves.insert(Serves::Client);
    federation.tls = true;
    vec![plain(8008, Serves::Client), federation, plain(8009, Serves::Admin)]
}
