//! Server ACLs: the specification's words as a matcher that tries everything, against the compiled one.
//! May not: be fast.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomserver_acl>

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::ServerName;
use serde_json::{Value, json, value::to_raw_value};
use vestibule_protocol::server_acl::ServerAcl;

use crate::{
    globs,
    proof::{Outcome, Plant, Settings},
    seeds,
};

/// ACLs judged for a server each, in a full run.
pub const ACLS: u64 = 50_000;

pub static UNANCHORED: Plant =
    Plant { name: "unanchored-acl", what: "a glob of an ACL matches a part of a name", cases: 2_000 };

/// Names, each with its host in lower case and whether that is an address.
const SERVERS: [(&str, &str, Host); 20] = [
    ("evil.test", "evil.test", Host::Name),
    ("EVIL.Test", "evil.test", Host::Name),
    ("evil.test:8448", "evil.test", Host::Name),
    ("a.evil.test", "a.evil.test", Host::Name),
    ("evil.test.example", "evil.test.example", Host::Name),
    ("notevil.test", "notevil.test", Host::Name),
    ("evil-test", "evil-test", Host::Name),
    ("xn--vl-jma.test", "xn--vl-jma.test", Host::Name),
    ("e", "e", Host::Name),
    ("1.2.3.4", "1.2.3.4", Host::Address),
    ("1.2.3.4:1", "1.2.3.4", Host::Address),
    // Ours, stricter than the specification's grammar: what a resolver reads as an address is one.
    ("1.2.3", "1.2.3", Host::Address),
    ("2130706433", "2130706433", Host::Address),
    ("0x7F.1", "0x7f.1", Host::Address),
    ("1.2.3.4.test", "1.2.3.4.test", Host::Name),
    ("[2001:db8::1]", "[2001:db8::1]", Host::Address),
    ("[2001:DB8::1]:8448", "[2001:db8::1]", Host::Address),
    ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", Host::Address),
    ("good.example", "good.example", Host::Name),
    ("aab.test", "aab.test", Host::Name),
];

#[derive(Clone, Copy, PartialEq)]
enum Host {
    Name,
    Address,
}

/// Entries of lists: what people write, and what attackers write.
const GLOBS: [&str; 24] = [
    "*",
    "**",
    "",
    "?",
    "evil.test",
    "EVIL.TEST",
    "evil.test:8448",
    "*.evil.test",
    "evil.*",
    "evil?test",
    "*evil*",
    "e*t",
    "?vil.test",
    "*.test",
    "*.*.*.*",
    "1.2.3.?",
    "1.2.3.4",
    "[2001:db8::1]",
    "[*]",
    "[2001*",
    "a*b.test",
    "evil.test*?",
    "xn--*",
    "???????",
];

/// Draws ACLs and asks both readings about a server each.
pub fn compare(settings: &Settings, outcome: &mut Outcome) {
    let wanted = if settings.has(&UNANCHORED) { settings.cases } else { settings.scaled(ACLS) };
    let mut judged = 0;
    for case in 0..wanted {
        let mut random = seeds::of_case(settings.seed, case);
        let content = draw_content(&mut random);
        let seen = if settings.has(&UNANCHORED) { unanchored(&content) } else { content.clone() };
        let Ok(raw) = to_raw_value(&seen) else { continue };
        let acl = ServerAcl::parse(&raw);
        let &(name, host, kind) = SERVERS.choose(&mut random).unwrap_or(&SERVERS[0]);
        let Ok(server) = <&ServerName>::try_from(name) else {
            outcome.miss(format!("acl: {name} is no server name to production"));
            continue;
        };
        let expected = allows(&content, host, kind);
        outcome.case();
        judged += 1;
        if acl.allows(server) != expected {
            outcome.miss(format!("acl {case}: {name} under {content}: the oracle says {expected}"));
        }
    }
    outcome.count_at_least("ACLs", judged, settings.scaled(ACLS));
}

/// The specification's four steps: addresses, then `deny`, then `allow`, then no.
fn allows(content: &Value, host: &str, kind: Host) -> bool {
    let addresses_pass = content["allow_ip_literals"].as_bool().unwrap_or(true);
    let is_in = |list: &str| {
        let entries = content[list].as_array();
        entries.is_some_and(|entries| {
            entries
                .iter()
                .filter_map(Value::as_str)
                .any(|glob| globs::matches(glob.to_ascii_lowercase().as_bytes(), host.as_bytes()))
        })
    };
    (addresses_pass || kind == Host::Name) && !is_in("deny") && is_in("allow")
}

/// What a matcher that forgets the ends of names makes of a list.
fn unanchored(content: &Value) -> Value {
    let mut content = content.clone();
    for list in ["allow", "deny"] {
        let entries = content.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            if let Some(glob) = entry.as_str() {
                *entry = json!(format!("*{glob}*"));
            }
        }
    }
    content
}

fn draw_content(random: &mut StdRng) -> Value {
    let mut content = json!({});
    for list in ["allow", "deny"] {
        match random.random_range(0..12) {
            0 => {}
            1 => content[list] = json!("*"),
            2 => content[list] = json!({ "*": true }),
            _ => {
                let length = random.random_range(0..3);
                content[list] = (0..length).map(|_| draw_entry(random)).collect();
            }
        }
    }
    match random.random_range(0..6) {
        0 | 1 => {}
        2 => content["allow_ip_literals"] = json!("false"),
        3 => content["allow_ip_literals"] = json!(true),
        _ => content["allow_ip_literals"] = json!(false),
    }
    content
}

fn draw_entry(random: &mut StdRng) -> Value {
    match random.random_range(0..10) {
        0 => json!(1),
        1..=6 => json!(GLOBS.choose(random).unwrap_or(&"*")),
        // Made from a real name: some characters become wildcards, some go.
        _ => {
            let (_, host, _) = SERVERS.choose(random).unwrap_or(&SERVERS[0]);
            let glob: String = host
                .chars()
                .filter_map(|char| match random.random_range(0..12) {
                    0 => Some('*'),
                    1 => Some('?'),
                    2 => None,
                    _ => Some(char),
                })
                .collect();
            json!(glob)
        }
    }
}
