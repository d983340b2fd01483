//! Listeners, and which paths are there on which of them.
//! May not: bind or route; it answers one question, the same way for every request.

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc};

use rustls::ServerConfig;

/// A kind of request that a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serves {
    /// The client-server API.
    Client,
    /// The server-server API.
    Federation,
    /// Actor stats, knocks, decisions, metrics.
    Admin,
}

impl fmt::Display for Serves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Client => "client",
            Self::Federation => "federation",
            Self::Admin => "admin",
        })
    }
}

/// Where connections are accepted, and what for.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address; port 0 lets the operating system choose.
    pub address: SocketAddr,
    /// What is served there.
    pub serves: BTreeSet<Serves>,
    /// With TLS, and how.
    pub tls: Option<Arc<ServerConfig>>,
}

/// What an admin listener takes of the client API, so that existing tools can log in there. Source: DESIGN section 6.
const CLIENT_PATHS_ON_ADMIN: [&str; 5] = [
    "/_matrix/client/v3/login",
    "/_matrix/client/v3/logout",
    "/_matrix/client/v3/logout/all",
    "/_matrix/client/v3/account/whoami",
    "/_matrix/client/versions",
];

/// Who a path belongs to. A path that belongs to nobody is not there on any listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The client-server API and what goes with it.
    Client,
    /// The part of it that tools need to log in, also on admin listeners.
    Login,
    /// The page on which knocks are answered: where the client-server API is, and for no other page to read.
    Desk,
    /// The server-server API.
    Federation,
    /// The server's own discovery, asked by servers and by tools for clients.
    ServerDiscovery,
    /// The admin listener's own.
    Admin,
}

impl Area {
    /// The area of a path, decoded as the router decodes it.
    pub fn of(path: &str) -> Option<Self> {
        let is_under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if CLIENT_PATHS_ON_ADMIN.contains(&path) {
            Some(Self::Login)
        } else if is_under("/_matrix/client")
            || is_under("/_matrix/media")
            || ["/.well-known/matrix/client", "/_synapse/admin/v1/register"].contains(&path)
        {
            Some(Self::Client)
        } else if is_under("/desk") {
            Some(Self::Desk)
        } else if path == "/.well-known/matrix/server" {
            Some(Self::ServerDiscovery)
        } else if is_under("/_matrix/federation") || is_under("/_matrix/key") {
            Some(Self::Federation)
        } else if is_under("/_vestibule/admin") || ["/metrics", "/health", "/ready", "/stats"].contains(&path) {
            Some(Self::Admin)
        } else {
            None
        }
    }

    /// Whether a listener that serves these kinds has the area.
    pub fn is_served(self, serves: &BTreeSet<Serves>) -> bool {
        let has = |kind| serves.contains(&kind);
        match self {
            Self::Client | Self::Desk => has(Serves::Client),
            Self::Login => has(Serves::Client) || has(Serves::Admin),
            Self::Federation => has(Serves::Federation),
            Self::ServerDiscovery => has(Serves::Federation) || has(Serves::Client),
            Self::Admin => has(Serves::Admin),
        }
    }

    /// Whether web pages of other origins may read it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
    pub fn is_open_to_browsers(self) -> bool {
        match self {
            Self::Client | Self::Login | Self::ServerDiscovery => true,
            Self::Desk | Self::Federation | Self::Admin => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_there_on_its_listeners_only() {
        // (path, client, federation, admin)
        let table = [
            ("/_matrix/client/versions", true, false, true),
            ("/_matrix/client/v3/login", true, false, true),
            ("/_matrix/client/v3/logout", true, false, true),
            ("/_matrix/client/v3/logout/all", true, false, true),
            ("/_matrix/client/v3/account/whoami", true, false, true),
            ("/_matrix/client/v3/register", true, false, false),
            ("/_matrix/client/v3/sync", true, false, false),
            ("/_matrix/client", true, false, false),
            ("/_matrix/clients", false, false, false),
            ("/_matrix/media/v3/upload", true, false, false),
            ("/_synapse/admin/v1/register", true, false, false),
            ("/_synapse/admin/v1/users", false, false, false),
            ("/.well-known/matrix/client", true, false, false),
            ("/.well-known/matrix/server", true, true, false),
            ("/desk", true, false, false),
            ("/desk/desk.js", true, false, false),
            ("/desks", false, false, false),
            ("/_matrix/federation/v1/version", false, true, false),
            ("/_matrix/key/v2/server", false, true, false),
            ("/_matrix/keys", false, false, false),
            ("/_vestibule/admin/v1/actors", false, false, true),
            ("/_vestibule/other", false, false, false),
            ("/metrics", false, false, true),
            ("/health", false, false, true),
            ("/ready", false, false, true),
            ("/stats", false, false, true),
            ("/stats/x", false, false, false),
            ("/", false, false, false),
            ("", false, false, false),
        ];
        for (path, client, federation, admin) in table {
            for (kind, expected) in [(Serves::Client, client), (Serves::Federation, federation), (Serves::Admin, admin)]
            {
                let served = Area::of(path).is_some_and(|area| area.is_served(&BTreeSet::from([kind])));
                assert_eq!(served, expected, "{path} on {kind}");
            }
        }
    }
}
