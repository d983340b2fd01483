//! Server access control lists: compiled once per room, asked once per request.
//! May not: backtrack, fail on a hostile list, or compare names by anything but their ASCII letters.

use std::net::{Ipv4Addr, Ipv6Addr};

use ruma::{CanonicalJsonValue, ServerName};
use serde_json::value::RawValue;

use crate::canonical_json::parse_object;

/// Globs of one list that are looked at; a list with more denies what the rest would have to judge.
/// Ours: an event holds 64 KiB, so at most some 16,000 globs of two characters.
const GLOBS_MAX: usize = 20_000;

/// A room's `m.room.server_acl`, ready to be asked.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomserver_acl>
#[derive(Clone, Debug, Default)]
pub struct ServerAcl {
    rules: Option<Rules>,
}

#[derive(Clone, Debug)]
struct Rules {
    allow_ip_literals: bool,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

impl ServerAcl {
    /// A room without an ACL: everybody is allowed.
    pub fn absent() -> Self {
        Self { rules: None }
    }

    /// Reads the event's content. Values of the wrong type count as absent, entries that are no strings are skipped: so a
    /// missing or unreadable `allow` list denies everybody, as the specification says of an empty one.
    pub fn parse(content: &RawValue) -> Self {
        // The strict parser knows no keys of its own: `serde_json` takes an object with a certain one for what a text in it says.
        let content = parse_object(content.get().as_bytes()).unwrap_or_default();
        let rules = Rules {
            allow_ip_literals: content.get("allow_ip_literals").and_then(CanonicalJsonValue::as_bool).unwrap_or(true),
            allow: globs(content.get("allow")),
            deny: globs(content.get("deny")),
        };
        Self { rules: Some(rules) }
    }

    /// Whether the server may take part. The port does not matter, neither does the case.
    pub fn allows(&self, server: &ServerName) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let host = server.host().to_ascii_lowercase();
        if !rules.allow_ip_literals && is_ip_literal(&host) {
            return false;
        }
        let denied = rules.deny.iter().any(|glob| glob.matches(&host));
        !denied && rules.allow.iter().any(|glob| glob.matches(&host))
    }
}

/// Addresses in brackets, dotted quads, and the short and hexadecimal forms that resolvers read as addresses.
fn is_ip_literal(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    host.parse::<Ipv4Addr>().is_ok() || is_numeric_host(host)
}

/// `127.1`, `0x7f.1`, `2130706433`: no DNS name ends in a number, so these can only be addresses.
fn is_numeric_host(host: &str) -> bool {
    host.split('.').all(|label| {
        let hexadecimal = label.strip_prefix("0x");
        match hexadecimal {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()),
        }
    })
}

fn globs(list: Option<&CanonicalJsonValue>) -> Vec<Glob> {
    let entries = list.and_then(CanonicalJsonValue::as_array).unwrap_or_default();
    entries.iter().take(GLOBS_MAX).filter_map(CanonicalJsonValue::as_str).map(Glob::parse).collect()
}

/// A pattern in which `*` stands for any characters and `?` for one, matched against the whole name.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#glob-style-matching>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pattern: Box<[u8]>,
}

impl Glob {
    /// Every text is a pattern. Runs of `*` count as one.
    pub fn parse(pattern: &str) -> Self {
        let mut lowered = pattern.to_ascii_lowercase().into_bytes();
        lowered.dedup_by(|later, earlier| *later == b'*' && *earlier == b'*');
        Self { pattern: lowered.into() }
    }

    /// Whether the whole of `text` (in lower case) fits. Time at most pattern × text, without recursion.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (&*self.pattern, text.as_bytes());
        let (mut at_pattern, mut at_text) = (0_usize, 0_usize);
        // Where to resume when the characters after the last star did not fit: one character further in the text.
        let mut resume: Option<(usize, usize)> = None;
        while let Some(character) = text.get(at_text) {
            match pattern.get(at_pattern) {
                Some(b'*') => {
                    resume = Some((at_pattern, at_text));
                    at_pattern = at_pattern.saturating_add(1);
                    continue;
                }
                Some(wanted) if *wanted == b'?' || wanted == character => {
                    at_pattern = at_pattern.saturating_add(1);
                    at_text = at_text.saturating_add(1);
                    continue;
                }
                _ => {}
            }
            let Some((star, taken)) = resume else {
                return false;
            };
            resume = Some((star, taken.saturating_add(1)));
            at_pattern = star.saturating_add(1);
            at_text = taken.saturating_add(1);
        }
        pattern.get(at_pattern..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
    use serde_json::{Value, json};

    use super::*;

    fn acl(content: &Value) -> ServerAcl {
        ServerAcl::parse(&serde_json::value::to_raw_value(content).unwrap())
    }

    #[test]
    fn names_get_the_verdict_of_the_table() {
        let evil = json!({"allow": ["*"], "deny": ["evil.test", "*.evil.test", "ev?l.org", "xn--bcher-kva.example"]});
        let no_literals = json!({"allow": ["*"], "allow_ip_literals": false});
        let table = [
            (&evil, "good.test", true),
            (&evil, "evil.test", false),
            (&evil, "EVIL.test", false),
            (&evil, "Evil.Test:8448", false),
            (&evil, "a.evil.test", false),
            (&evil, "a.b.evil.test:1", false),
            (&evil, "notevil.test", true),
            (&evil, "evil.test.good.org", true),
            (&evil, "evil.org", false),
            (&evil, "evvil.org", true),
            (&evil, "xn--bcher-kva.example", false),
            (&evil, "XN--BCHER-kva.example", false),
            (&evil, "1.2.3.4", true),
            (&evil, "[::1]:8448", true),
            (&no_literals, "1.2.3.4", false),
            (&no_literals, "1.2.3.4:8448", false),
            (&no_literals, "[::1]", false),
            (&no_literals, "[::ffff:1.2.3.4]:8448", false),
            (&no_literals, "127.1", false),
            (&no_literals, "0x7f.1", false),
            (&no_literals, "good.test", true),
            (&no_literals, "4chan.test", true),
            (&json!({"allow": []}), "good.test", false),
            (&json!({}), "good.test", false),
            (&json!({"allow": "good.test"}), "good.test", false),
            (&json!({"allow": [1, "good.test"], "deny": {"a": 1}}), "good.test", true),
            (&json!({"allow": ["*"], "deny": ["*"]}), "good.test", false),
            (&json!({"allow": ["*.good.test"]}), "good.test", false),
            (&json!({"allow": ["*good.test"]}), "good.test", true),
            (&json!({"allow": ["*"], "allow_ip_literals": "no"}), "1.2.3.4", true),
            (&json!([1]), "good.test", false),
            (&json!([["*"], [], true]), "good.test", false),
            (&json!({"allow": {"$serde_json::private::RawValue": "[\"*\"]"}}), "good.test", false),
            (&json!({"allow": ["*"], "deny": {"$serde_json::private::RawValue": "[\"*\"]"}}), "good.test", true),
        ];
        for (content, server, allowed) in table {
            let server = <&ServerName>::try_from(server).unwrap();
            assert_eq!(acl(content).allows(server), allowed, "{server} under {content}");
        }
        assert!(ServerAcl::absent().allows("anybody.test".try_into().unwrap()));
    }

    #[test]
    fn hostile_list_is_judged_quickly_enough_to_finish() {
        let stars = "*a".repeat(120);
        let list: Vec<String> = (0..500).map(|number| format!("{stars}{number}")).collect();
        let hostile = acl(&json!({"allow": ["*"], "deny": list}));
        let name = format!("{}.test", "a".repeat(200));
        assert!(hostile.allows(name.as_str().try_into().unwrap()));
    }

    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..])),
            (Some((b'?', rest)), Some((_, text))) => naive(rest, text),
            (Some((wanted, rest)), Some((character, text))) => wanted == character && naive(rest, text),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn glob_agrees_with_a_naive_matcher(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(Glob::parse(&pattern).matches(&text), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
