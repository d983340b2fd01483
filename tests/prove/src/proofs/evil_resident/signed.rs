//! What of a template may be signed, in a second reading: of what another server says only the place in its graph and who vouches.
//! May not: ask the program, or share a line with it. Source: SECURITY V01, T11.

use ruma::{
    CanonicalJsonObject, RoomVersionId,
    canonical_json::redact,
    serde::Base64,
    signatures::{PublicKeyMap, content_hash, reference_hash, verify_json},
};
use serde_json::{Value, json};

/// What our server is called.
pub const US: &str = "vestibule.test";

/// The greatest number that canonical JSON has.
const DEPTH_MAX: u64 = (1 << 53) - 1;

/// What a client of ours wanted.
pub struct Asked<'a> {
    pub room_id: &'a str,
    pub user_id: &'a str,
    pub membership: &'a str,
    pub reason: Option<&'a str>,
    /// The version that the room has, for templates that may leave it out.
    pub version: &'a str,
}

/// An event that somebody got from us: its body, and the path that it came by.
pub struct Sent<'a> {
    pub body: &'a Value,
    pub target: &'a str,
    /// Milliseconds since 1970 between which it was made.
    pub made: (u64, u64),
}

/// The event that follows from a template, without what follows from the event itself; and the room's version.
///
/// # Errors
/// Why nothing may be signed for it.
pub fn expected(told: &Value, asked: &Asked<'_>) -> Result<(Value, String), &'static str> {
    let version = match told.get("room_version") {
        None if asked.membership == "leave" => asked.version,
        named => named.and_then(Value::as_str).ok_or("the version is no text")?,
    };
    let number: u32 = version.parse().map_err(|_| "the version is none that we know")?;
    let oldest = if asked.membership == "knock" { 7 } else { 3 };
    if !(oldest..=12).contains(&number) {
        return Err("the version is none that was offered");
    }
    let event = told["event"].as_object().ok_or("the event is no object")?;
    let is = |key: &str, wanted: &str| event.get(key).and_then(Value::as_str) == Some(wanted);
    let whom = [("type", "m.room.member"), ("room_id", asked.room_id), ("sender", asked.user_id)];
    if !whom.iter().chain(&[("state_key", asked.user_id)]).all(|(key, wanted)| is(key, wanted)) {
        return Err("it is another event than was asked for");
    }
    if told["event"]["content"]["membership"] != asked.membership {
        return Err("it is another membership than was asked for");
    }
    let mut content = json!({ "membership": asked.membership });
    if let Some(reason) = asked.reason {
        content["reason"] = json!(reason);
    }
    let voucher = told["event"]["content"].get("join_authorised_via_users_server");
    if let Some(voucher) = voucher.filter(|_| asked.membership == "join" && number >= 8) {
        let server =
            voucher.as_str().and_then(|user_id| user_id.strip_prefix('@')?.split_once(':')).map(|parts| parts.1);
        if server.is_none_or(|server| server == US) {
            return Err("nobody whose word counts vouches for it");
        }
        content["join_authorised_via_users_server"] = voucher.clone();
    }
    let auth_events = ids(&told["event"]["auth_events"], 0..=10)?;
    if number == 12 && auth_events.iter().any(|event_id| event_id.trim_start_matches('$') == &asked.room_id[1..]) {
        return Err("from version 12 on the create event authorizes without being named");
    }
    let depth = told["event"]["depth"].as_u64().filter(|depth| *depth <= DEPTH_MAX).ok_or("no depth")?;
    let event = json!({
        "type": "m.room.member", "room_id": asked.room_id, "sender": asked.user_id, "state_key": asked.user_id,
        "content": content, "auth_events": auth_events, "prev_events": ids(&told["event"]["prev_events"], 1..=20)?,
        "depth": depth, "origin": US,
    });
    Ok((event, version.to_owned()))
}

fn ids(list: &Value, count: std::ops::RangeInclusive<usize>) -> Result<Vec<&str>, &'static str> {
    let entries =
        list.as_array().filter(|entries| count.contains(&entries.len())).ok_or("too many events, or too few")?;
    let mut event_ids: Vec<&str> = Vec::new();
    for entry in entries {
        let event_id = entry.as_str().filter(|id| id.starts_with('$') && id.len() <= 255).ok_or("no event id")?;
        if event_ids.contains(&event_id) {
            return Err("one event twice");
        }
        event_ids.push(event_id);
    }
    Ok(event_ids)
}

/// Field by field: what is not as expected in an event that bears our signature.
pub fn differences(sent: &Sent<'_>, expected: &Value, version: &str, keys: &PublicKeyMap) -> Vec<String> {
    let mut found = Vec::new();
    let own = ["hashes", "origin_server_ts", "signatures"];
    let fields = expected.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).chain(own);
    let fields: Vec<&str> = fields.collect();
    for (key, value) in sent.body.as_object().into_iter().flatten() {
        if !fields.contains(&key.as_str()) {
            found.push(format!("{key} is not of our making: {value}"));
        }
    }
    for key in &fields {
        let value = &sent.body[*key];
        if !own.contains(key) && *value != expected[*key] {
            found.push(format!("{key} is {value}, not {}", expected[*key]));
        }
    }
    let at = sent.body["origin_server_ts"].as_u64();
    if at.is_none_or(|at| !(sent.made.0..=sent.made.1).contains(&at)) {
        found.push(format!("its time is {at:?}, not of {:?}", sent.made));
    }
    let signers: Vec<&String> =
        sent.body["signatures"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    if signers != [US] {
        found.push(format!("signed by {signers:?}"));
    }
    found.extend(proven(sent, version, keys).err());
    found
}

/// That hash, signature and id are those of the event.
fn proven(sent: &Sent<'_>, version: &str, keys: &PublicKeyMap) -> Result<(), String> {
    let event: CanonicalJsonObject =
        serde_json::from_value(sent.body.clone()).map_err(|error| format!("no canonical JSON: {error}"))?;
    let rules = RoomVersionId::try_from(version).ok().and_then(|version| version.rules()).ok_or("no such version")?;
    let hash = content_hash(&event).map_err(|error| error.to_string())?.encode();
    if sent.body["hashes"] != json!({ "sha256": hash }) {
        return Err(format!("its hash is {hash}, not {}", sent.body["hashes"]));
    }
    // Ours alone: who vouches for a join signs it later.
    let redacted = redact(event.clone(), &rules.redaction, None).map_err(|error| error.to_string())?;
    verify_json(keys, &redacted).map_err(|error| format!("the signature does not verify: {error}"))?;
    let hash = reference_hash(&event, &rules).map_err(|error| error.to_string())?;
    let last = sent.target.rsplit('/').next().unwrap_or_default().replace("%24", "$");
    if last == format!("${hash}") { Ok(()) } else { Err(format!("it came as {last}, and is ${hash}")) }
}

/// The keys that our server says are its own.
pub fn own_keys(document: &Value) -> PublicKeyMap {
    let keys = document["verify_keys"].as_object().into_iter().flatten().filter_map(|(id, key)| {
        let key = Base64::parse(key["key"].as_str()?).ok()?;
        Some((id.clone(), key))
    });
    PublicKeyMap::from([(US.to_owned(), keys.collect())])
}

/// Whether something in there bears a signature of ours.
pub fn bears_our_signature(value: &Value) -> bool {
    match value {
        Value::Object(object) => {
            let is_signed = object.get("signatures").is_some_and(|signatures| signatures.get(US).is_some());
            is_signed || object.values().any(bears_our_signature)
        }
        Value::Array(entries) => entries.iter().any(bears_our_signature),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked {
        room_id: "!r:evil.test",
        user_id: "@anna:vestibule.test",
        membership: "knock",
        reason: Some("otters"),
        version: "11",
    };

    fn template() -> Value {
        json!({ "room_version": "11", "event": {
            "type": "m.room.member", "room_id": ASKED.room_id, "sender": ASKED.user_id, "state_key": ASKED.user_id,
            "content": { "membership": "knock", "displayname": "bait" }, "auth_events": ["$a"], "prev_events": ["$b"],
            "depth": 7, "unsigned": {},
        } })
    }

    #[test]
    fn of_a_template_the_place_alone_is_taken() {
        let (event, version) = expected(&template(), &ASKED).unwrap();
        assert_eq!(
            (&event["content"], &event["depth"]),
            (&json!({ "membership": "knock", "reason": "otters" }), &json!(7))
        );
        assert_eq!((version.as_str(), event.get("unsigned")), ("11", None));
    }

    #[test]
    fn every_lie_of_the_scenery_is_one() {
        for (pointer, lie) in vestibule_scenery::foul::templates::lies("knock") {
            let mut told = template();
            vestibule_scenery::foul::put_at(&mut told, pointer, lie.clone());
            assert!(expected(&told, &ASKED).is_err(), "{pointer} {lie}");
        }
    }

    #[test]
    fn a_word_more_or_less_is_a_difference() {
        let (event, _) = expected(&template(), &ASKED).unwrap();
        let mut body = event.clone();
        body["redacts"] = json!("$bait");
        body["sender"] = json!("@boss:vestibule.test");
        let sent = Sent { body: &body, target: "/send_knock/!r/$x", made: (1, 2) };
        let found = differences(&sent, &event, "11", &PublicKeyMap::new());
        for word in ["redacts is not of our making", "sender is", "its time", "signed by", "its hash is"] {
            assert!(found.iter().any(|difference| difference.contains(word)), "{word}: {found:?}");
        }
        assert!(bears_our_signature(&json!([{ "a": { "signatures": { US: {} } } }])));
        assert!(!bears_our_signature(&json!([{ "a": { "signatures": { "x": {} } } }])));
    }
}
