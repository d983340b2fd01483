//! Servers that the operator denies: nothing of theirs is taken, and nothing is sent to them.
//! May not: know of room ACLs, which are a matter of rooms.

use ruma::ServerName;
use vestibule_protocol::server_acl::Glob;

/// Server names that the operator denies, as globs over names without port, in either case.
#[derive(Clone, Debug, Default)]
pub struct DeniedServers {
    globs: Vec<Glob>,
}

impl DeniedServers {
    /// Compiles the configured patterns.
    pub fn parse<P: AsRef<str>>(patterns: &[P]) -> Self {
        Self { globs: patterns.iter().map(|pattern| Glob::parse(pattern.as_ref())).collect() }
    }

    /// Whether the server is denied.
    pub fn holds(&self, server: &ServerName) -> bool {
        let host = server.host().to_ascii_lowercase();
        self.globs.iter().any(|glob| glob.matches(&host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn denied_servers_match_without_port_and_case() {
        let denied = DeniedServers::parse(&["evil.test", "*.bad.test", "10.0.0.?"]);
        for server in ["evil.test", "EVIL.test:8448", "a.bad.test", "10.0.0.1:80"] {
            assert!(denied.holds(&name(server)), "{server}");
        }
        for server in ["notevil.test", "evil.test.org", "bad.test", "10.0.0.11"] {
            assert!(!denied.holds(&name(server)), "{server}");
        }
    }
}
