//! Target `acl`: server ACLs, against a matcher that tries everything.
//! May not: be fast.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomserver_acl>

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::ServerName;
use serde_json::value::RawValue;
use vestibule_protocol::server_acl::{Glob, ServerAcl};

use super::super::{
    Target, Verdict,
    drawing::{Input, change, one_of, write},
    json::{self, Json},
};
use crate::{
    globs,
    proof::{Plant, Settings},
};

pub static UNANCHORED: Plant =
    Plant { name: "unanchored-glob", what: "a glob of an ACL matches a part of a name", cases: 10_000 };

/// Names, each with its host in lower case and whether that is an address.
const SERVERS: [(&str, &str, bool); 12] = [
    ("evil.test", "evil.test", false),
    ("EVIL.Test:8448", "evil.test", false),
    ("a.evil.test", "a.evil.test", false),
    ("notevil.test", "notevil.test", false),
    ("evil.test.example", "evil.test.example", false),
    ("aabaabaab.aab", "aabaabaab.aab", false),
    ("e", "e", false),
    ("1.2.3.4", "1.2.3.4", true),
    ("127.1:1", "127.1", true),
    ("0x7F.1", "0x7f.1", true),
    ("[2001:DB8::1]:8448", "[2001:db8::1]", true),
    ("xn--vl-jma.test", "xn--vl-jma.test", false),
];
const GLOBS: [&str; 14] = [
    "*",
    "**",
    "",
    "?",
    "evil.test",
    "EVIL.TEST",
    "evil.test:8448",
    "*.evil.test",
    "e*t",
    "*a*b*",
    "a*b?a*",
    "[*]",
    "*.?.?.*",
    "evil",
];
/// Stars in a glob that the matcher that tries everything is asked about.
const STARS_MAX: usize = 4;

pub fn make() -> Result<Box<dyn Target>, String> {
    Ok(Box::new(Acl))
}

struct Acl;

impl Target for Acl {
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut fields = vec![];
        for list in ["allow", "deny"] {
            let length = random.random_range(0..4);
            let globs = (0..length).map(|_| Json::Text(draw_glob(random)));
            fields.push((list.to_owned(), Json::List(globs.collect())));
        }
        if random.random() {
            fields.push(("allow_ip_literals".to_owned(), Json::Bool(random.random())));
        }
        let mut content = Json::Object(fields);
        if random.random_ratio(1, 2) {
            let star = Json::List(vec![Json::Text("*".to_owned())]);
            change(&mut content, &[star, Json::Bool(false)], random);
        }
        Input::new(write(&content, random), random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        // A content comes out of an event, which is canonical JSON with an object there.
        let Some(content) = json::read(&input.bytes).filter(|content| content.object().is_some()) else {
            return Ok(Verdict::Refused);
        };
        let &(name, host, is_address) = input.choose(&SERVERS).ok_or("there are no servers")?;
        let server = <&ServerName>::try_from(name).map_err(|error| format!("{name}: {error}"))?;
        let seen = if settings.has(&UNANCHORED) { unanchored(&content).canonical() } else { content.canonical() };
        let raw = RawValue::from_string(seen).map_err(|error| error.to_string())?;
        let allowed = ServerAcl::parse(&raw).allows(server);
        let globs =
            |list: &str| content.get(list).and_then(Json::list).unwrap_or_default().iter().filter_map(Json::text);
        for glob in globs("allow").chain(globs("deny")) {
            // A glob written again is the same glob.
            if Glob::parse(glob) != Glob::parse(&glob.to_ascii_uppercase()) {
                return Err(format!("{glob} is another in capitals"));
            }
        }
        if globs("allow").chain(globs("deny")).any(|glob| glob.matches('*').count() > STARS_MAX) {
            return Ok(allowed.into());
        }
        let is_in =
            |list: &str| globs(list).any(|glob| globs::matches(glob.to_ascii_lowercase().as_bytes(), host.as_bytes()));
        let literals_pass = content.get("allow_ip_literals").and_then(Json::bool).unwrap_or(true);
        let expected = (literals_pass || !is_address) && !is_in("deny") && is_in("allow");
        if allowed != expected {
            return Err(format!("{name} is let in: {allowed}, and by the second reading: {expected}"));
        }
        Ok(allowed.into())
    }
}

fn draw_glob(random: &mut StdRng) -> String {
    if random.random() {
        return one_of(&GLOBS, random).to_owned();
    }
    let (_, host, _) = SERVERS.choose(random).unwrap_or(&SERVERS[0]);
    let characters = host.chars().filter_map(|character| match random.random_range(0..10) {
        0 => Some('*'),
        1 => Some('?'),
        2 => None,
        _ => Some(character),
    });
    characters.collect()
}

/// The content as a matcher reads it that forgets the ends of names.
fn unanchored(content: &Json) -> Json {
    let fields = content.object().unwrap_or_default().iter().map(|(key, value)| {
        let loosened = value.list().map(|globs| {
            let globs = globs.iter().map(|glob| glob.text().map_or(Json::Null, |glob| Json::Text(format!("*{glob}*"))));
            Json::List(globs.collect())
        });
        (key.clone(), loosened.unwrap_or_else(|| value.clone()))
    });
    Json::Object(fields.collect())
}
