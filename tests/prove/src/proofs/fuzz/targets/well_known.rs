//! Target `well-known`: to whom a name delegates, for how long, and where its answer redirects to.
//! May not: ask anybody.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::ServerName;
use url::Url;
use vestibule_federation::answers::{delegation, next_hop};
use vestibule_protocol::clock::UnixMillis;

use super::super::{
    Target, Verdict,
    drawing::{Input, mutate, one_of, text_of},
    json::{self, Json},
};
use crate::proof::{Plant, Settings};

pub static ANY_SCHEME: Plant = Plant { name: "any-scheme", what: "redirects to plain HTTP are followed", cases: 5_000 };

/// The least and the most that an answer counts. Ours, as production says of itself.
const KEPT: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(48 * 3600)];

const BODIES: [&str; 5] = [
    r#"{"m.server":"matrix.peer.test:443"}"#,
    r#"{"m.server":"[::1]:8448","x":[1,{"y":null}]}"#,
    r#"{"m.server":"peer.test","m.homeserver":{"base_url":"x"}}"#,
    r#"["peer.test"]"#,
    r#"<html>404</html>"#,
];
const LINES: [&str; 16] = [
    "cache-control: max-age=600",
    "cache-control: public, max-age=\"86400\"",
    "cache-control: no-store",
    "cache-control: max-age=99999999999999999999",
    "cache-control: max-age=18446744073709551615",
    "cache-control: max-age=-1, max-age=7200",
    "expires: Wed, 25 Nov 2026 17:00:00 GMT",
    "expires: 0",
    "expires: Fri, 31 Dec 9999 23:59:59 GMT",
    "location: https://other.test/.well-known/matrix/server",
    "location: http://other.test/",
    "location: //third.test/x#y",
    "location: /again?x=1",
    "location: https://user:word@other.test/",
    "location: javascript:alert(1)",
    "location: https://[::1]:99999/",
];

pub fn make() -> Result<Box<dyn Target>, String> {
    let seeds: Vec<Json> = BODIES.iter().filter_map(|body| json::read(body.as_bytes())).collect();
    let from = Url::parse("https://peer.test/.well-known/matrix/server").map_err(|error| error.to_string())?;
    Ok(Box::new(WellKnown { seeds, from }))
}

struct WellKnown {
    seeds: Vec<Json>,
    from: Url,
}

impl Target for WellKnown {
    /// Lines of a head, an empty line, a body.
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut head = Vec::new();
        for _ in 0..random.random_range(0..4) {
            head.extend_from_slice(one_of(&LINES, random).as_bytes());
            head.push(b'\n');
        }
        if random.random_ratio(1, 2) {
            let other = one_of(&LINES, random).as_bytes().to_vec();
            mutate(&mut head, &[other], random);
        }
        let body = if random.random_ratio(1, 10) {
            one_of(&BODIES, random).as_bytes().to_vec()
        } else {
            text_of(self.seeds.choose(random).cloned().unwrap_or(Json::Null), &self.seeds, random)
        };
        head.extend_from_slice(b"\n\n");
        head.extend_from_slice(&body);
        Input::new(head, random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let at = input.bytes.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.bytes.len());
        let (head, body) = input.bytes.split_at(at);
        let body = body.get(2..).unwrap_or_default();
        let headers = headers_of(head);
        self.redirect(&headers, settings)?;
        let delegated = delegation(&headers, body, UnixMillis(1_790_000_000_000));
        // Where the strict reading has one, the lenient one must have the same; where it has none, there must be a name all the same.
        let strict = json::read(body);
        if let Some(strict) = &strict {
            let expected = strict.text_at("m.server").filter(|name| <&ServerName>::try_from(*name).is_ok());
            if delegated.as_ref().map(|(name, _)| name.as_str()) != expected {
                return Err(format!("delegates to {delegated:?}, by the second reading to {expected:?}"));
            }
        }
        let Some((name, kept)) = delegated else { return Ok(Verdict::Refused) };
        if !body.trim_ascii_start().starts_with(b"{") || <&ServerName>::try_from(name.as_str()).is_err() {
            return Err(format!("delegates to {name}"));
        }
        if kept < KEPT[0] || kept > KEPT[1] {
            return Err(format!("counts for {kept:?}"));
        }
        if let Some(expected) = max_age(&headers)
            && kept != expected.clamp(KEPT[0], KEPT[1])
        {
            return Err(format!("counts for {kept:?}, by the second reading for {expected:?}"));
        }
        Ok(Verdict::Taken)
    }
}

impl WellKnown {
    fn redirect(&self, headers: &HeaderMap, settings: &Settings) -> Result<(), String> {
        let found = if settings.has(&ANY_SCHEME) {
            headers.get("location").and_then(|to| self.from.join(to.to_str().ok()?).ok())
        } else {
            next_hop(&self.from, headers)
        };
        let Some(to) = found else { return Ok(()) };
        let text = to.as_str();
        let authority = text.strip_prefix("https://").and_then(|rest| rest.split(['/', '?', '#']).next());
        let is_plain = authority.is_some_and(|authority| !authority.is_empty() && !authority.contains('@'));
        if !is_plain || text.contains('#') {
            return Err(format!("redirects to {text}"));
        }
        if Url::parse(text).as_ref() != Ok(&to) {
            return Err(format!("{text} is another place when it is read again"));
        }
        Ok(())
    }
}

fn headers_of(head: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(at);
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value[1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// What a single plain line says; `None`: it is not as simple as that.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut lines = headers.get_all("cache-control").iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let digits = line.to_str().ok()?.strip_prefix("max-age=")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    digits.parse().ok().map(Duration::from_secs)
}
