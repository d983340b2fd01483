//! Odd things that are shown of a room to who knocks on it or is invited: `knock_room_state`, `invite_room_state`.
//! May not: be such that one server could show them and be right.

use serde_json::{Value, json};

use super::rooms::break_signature;
use crate::peer::FakePeer;

/// Lists that are none, and lists of what is no event.
pub fn odd_lists() -> Vec<Value> {
    let named =
        |name: Value| json!({ "type": "m.room.name", "state_key": "", "sender": "@o:peer.test", "content": name });
    vec![
        Value::Null,
        json!({}),
        json!("text"),
        json!(7),
        json!([1, null, [], {}, "x", [[]], { "type": 7 }, { "type": "m.room.name" }]),
        json!([{ "type": "m.room.name", "state_key": 7, "sender": "@o:peer.test", "content": {} }]),
        json!([{ "type": "m.room.name", "state_key": "", "sender": "odd", "content": {} }]),
        json!([
            named(Value::Null),
            named(json!("x")),
            named(json!({ "name": 7 })),
            named(json!({ "name": { "a": [] } }))
        ]),
        json!([{ "type": "m.room.member", "state_key": "@anna:vestibule.test", "sender": "@o:peer.test",
            "content": { "membership": "join" } }]),
        json!([{ "type": "m.room.join_rules", "state_key": "", "sender": "@o:peer.test", "content": { "join_rule": [] } },
            { "type": "m.room.create", "state_key": "", "sender": "@o:peer.test", "content": { "room_version": 9 } },
            { "type": "m.room.encryption", "state_key": "", "sender": "@o:peer.test", "content": { "algorithm": {} } }]),
        json!([named(json!({ "name": "\u{0}\u{202e}\u{1b}[31m" }))]),
    ]
}

/// Makes another create event of the room's own.
pub type CreateChange = Box<dyn Fn(Value) -> Value + Send + Sync>;

/// Create events that a room of that version must not be shown with. `foreign` is that of another room, `impostor` a server of
/// the room's name with another key.
pub fn odd_creates(version: &str, foreign: &Value, impostor: &FakePeer) -> Vec<(&'static str, CreateChange)> {
    let stripped = |version: &str, sender: &str| {
        json!({ "type": "m.room.create", "state_key": "", "sender": sender,
            "content": { "room_version": version, "creator": sender } })
    };
    let (foreign, impostor) = (foreign.clone(), impostor.clone());
    let mut elsewhere = stripped(version, "@eve:peer.test");
    elsewhere["room_id"] = foreign["room_id"].clone();
    let [older, same] = ["7", version].map(|version| stripped(version, "@owner:peer.test"));
    let mut changes: Vec<(&str, CreateChange)> = vec![
        ("of another room", Box::new(move |_| foreign.clone())),
        (
            "with a signature of nobody",
            Box::new(|mut create| {
                break_signature(&mut create);
                create
            }),
        ),
        ("signed with another key", Box::new(move |create| json!(impostor.sign_for("11", create).event))),
        ("in stripped form, of another room", Box::new(move |_| elsewhere.clone())),
        ("in stripped form, of another version", Box::new(move |_| older.clone())),
    ];
    if version == "12" {
        changes.push(("in stripped form, where its hash is the room's id", Box::new(move |_| same.clone())));
    }
    changes
}
