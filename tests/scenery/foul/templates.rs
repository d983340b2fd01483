//! Lies in the templates of `make_knock`, `make_join` and `make_leave`.
//! May not: touch a template otherwise; each lie is the only one in it.

use serde_json::{Value, json};

use super::put_at;

/// What a lying template says, as JSON pointers and values, when a user wants to be `membership`.
pub fn lies(membership: &str) -> Vec<(&'static str, Value)> {
    let ids = |count: usize| json!((0..count).map(|number| format!("${number:043}")).collect::<Vec<_>>());
    let others = ["join", "leave", "ban", "invite", "knock"].into_iter().filter(|other| *other != membership);
    let mut lies: Vec<(&str, Value)> = others.map(|other| ("/event/content/membership", json!(other))).collect();
    lies.extend([
        ("/event/content/membership", Value::Null),
        ("/event/content", json!("knock")),
        ("/event/type", json!("m.room.power_levels")),
        ("/event/type", Value::Null),
        ("/event/room_id", json!("!other:peer.test")),
        ("/event/room_id", json!(["!other:peer.test"])),
        ("/event/sender", json!("@boss:vestibule.test")),
        ("/event/sender", json!("@owner:peer.test")),
        ("/event/state_key", json!("@boss:vestibule.test")),
        ("/event/state_key", json!("")),
        ("/event/state_key", Value::Null),
        ("/event/prev_events", json!([])),
        ("/event/prev_events", json!("$a")),
        ("/event/prev_events", json!([["$a", { "sha256": "x" }]])),
        ("/event/prev_events", ids(21)),
        ("/event/prev_events", json!([format!("${}", "a".repeat(255))])),
        ("/event/auth_events", ids(11)),
        ("/event/auth_events", json!(["$a", "$a"])),
        ("/event/auth_events", json!([7])),
        ("/event/depth", json!(-1)),
        ("/event/depth", json!("7")),
        ("/event/depth", Value::Null),
        ("/event", json!([])),
        ("/event", Value::Null),
        ("/room_version", json!("org.example.odd")),
        ("/room_version", json!(11)),
    ]);
    lies
}

/// What an honest template has no need of, and what must not be signed with it.
const BAIT: [(&str, &str); 10] = [
    ("/event/content/third_party_invite", "{\"signed\":{\"token\":\"bait\"}}"),
    ("/event/content/is_direct", "true"),
    ("/event/content/displayname", "\"bait\""),
    ("/event/content/bait", "1"),
    ("/event/redacts", "\"$bait\""),
    ("/event/unsigned", "{\"bait\":1}"),
    ("/event/hashes", "{\"sha256\":\"bait\"}"),
    ("/event/signatures", "{\"bait.test\":{\"ed25519:1\":\"bait\"}}"),
    ("/event/event_id", "\"$bait\""),
    ("/event/bait", "{\"bait\":[]}"),
];

/// The template with all of it in it.
pub fn baited(mut template: Value) -> Value {
    for (pointer, value) in BAIT {
        put_at(&mut template, pointer, serde_json::from_str(value).unwrap());
    }
    if template["event"]["content"]["membership"] != "join" {
        put_at(&mut template, "/event/content/join_authorised_via_users_server", json!("@bait:peer.test"));
    }
    put_at(&mut template, "/event/origin", json!("bait.test"));
    put_at(&mut template, "/event/origin_server_ts", json!(7));
    template
}

/// Writes a template so that it has two readings, or none.
pub type Text = fn(&Value) -> Vec<u8>;

/// Templates whose words are honest and whose text is not.
pub const AMBIGUOUS: [(&str, Text); 12] = [
    ("two senders", |told| before(told, "sender", r#""@boss:vestibule.test""#)),
    ("two state keys", |told| before(told, "state_key", r#""@boss:vestibule.test""#)),
    ("two memberships", |told| before(told, "membership", r#""join""#)),
    ("two versions", |told| before(told, "room_version", r#""12""#)),
    ("a depth with a point", |told| instead(told, "depth", "7.0")),
    ("a depth beyond 2^53", |told| instead(told, "depth", "9007199254740993")),
    ("a depth without end", |told| instead(told, "depth", "1e400")),
    ("a depth that is no number", |told| instead(told, "depth", "NaN")),
    ("half a character", |told| before(told, "unsigned", r#"{"bait":"\ud800"}"#)),
    ("bytes that are no text", |told| [b"{\"bait\":\"\xff\",".as_slice(), &text(told).as_bytes()[1..]].concat()),
    ("a mark before it", |told| format!("\u{feff}{}", text(told)).into_bytes()),
    ("another object behind it", |told| format!("{0}{0}", text(told)).into_bytes()),
];

fn text(told: &Value) -> String {
    told.to_string()
}

/// The key once more, before the honest one. One that is not there is put into the event.
fn before(told: &Value, key: &str, value: &str) -> Vec<u8> {
    let (text, key) = (text(told), format!("\"{key}\":"));
    let place = if text.contains(&key) { key.as_str() } else { "\"sender\":" };
    text.replacen(place, &format!("{key}{value},{place}"), 1).into_bytes()
}

/// Another value for a number.
fn instead(told: &Value, key: &str, value: &str) -> Vec<u8> {
    let mut told = told.clone();
    put_at(&mut told, &format!("/event/{key}"), Value::from("…"));
    text(&told).replacen("\"…\"", value, 1).into_bytes()
}
