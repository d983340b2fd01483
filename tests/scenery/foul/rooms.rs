//! Lies in what `send_join` gives: a room whose foundations are missing, forged or of another room.
//! May not: lie about more than it says.

use serde_json::{Value, json};

use super::Change;
use crate::peer::FakePeer;

/// What is given with a room whose foundations are not proven.
pub const UNPROVEN: [(&str, Change); 14] = [
    ("no state", |answer| answer["state"] = json!([])),
    ("no auth chain, state of another kind", |answer| *answer = json!({ "state": {}, "auth_chain": null })),
    ("nothing", |answer| *answer = json!({})),
    ("null", |answer| *answer = Value::Null),
    ("a list", |answer| *answer = json!([200, { "state": [], "auth_chain": [] }])),
    ("numbers", |answer| *answer = json!({ "state": [1, 2], "auth_chain": [null, "x"] })),
    ("partial state that nobody asked for", |answer| answer["members_omitted"] = json!(true)),
    ("no create event", |answer| without(answer, "m.room.create")),
    ("no power levels", |answer| without(answer, "m.room.power_levels")),
    ("no join rules", |answer| without(answer, "m.room.join_rules")),
    ("an unsigned create event", |answer| {
        break_signature(find(&mut answer["state"], "m.room.create", ""));
        break_signature(find(&mut answer["auth_chain"], "m.room.create", ""));
    }),
    ("unsigned power levels", |answer| {
        break_signature(find(&mut answer["state"], "m.room.power_levels", ""));
        break_signature(find(&mut answer["auth_chain"], "m.room.power_levels", ""));
    }),
    ("unsigned join rules", |answer| {
        break_signature(find(&mut answer["state"], "m.room.join_rules", ""));
        break_signature(find(&mut answer["auth_chain"], "m.room.join_rules", ""));
    }),
    ("the owner's membership changed where the signature reaches", |answer| {
        for list in ["state", "auth_chain"] {
            find(&mut answer[list], "m.room.create", "")["sender"] = json!("@eve:peer.test");
        }
    }),
];

/// The join of who was vouched for, which has to come back as it was with one signature more, comes back otherwise.
pub const UNVOUCHED: [(&str, Change); 6] = [
    ("no event", |told| told["event"] = Value::Null),
    ("an event of somebody else", |told| told["event"] = told["state"][0].clone()),
    ("without the signature that vouches", |told| {
        if let Some(signatures) = told["event"]["signatures"].as_object_mut() {
            signatures.retain(|server, _| server == "vestibule.test");
        }
    }),
    ("without our signature", |told| {
        if let Some(signatures) = told["event"]["signatures"].as_object_mut() {
            signatures.remove("vestibule.test");
        }
    }),
    ("with another content", |told| told["event"]["content"]["displayname"] = json!("forged")),
    ("with another voucher", |told| {
        told["event"]["content"]["join_authorised_via_users_server"] = json!("@ghost:evil.test");
    }),
];

/// The event of a list with that type, and key.
pub fn find<'a>(events: &'a mut Value, kind: &str, state_key: &str) -> &'a mut Value {
    let mut events = events.as_array_mut().unwrap().iter_mut();
    events.find(|event| event["type"] == kind && event["state_key"] == state_key).unwrap()
}

/// No event of that type is there.
fn without(answer: &mut Value, kind: &str) {
    for list in ["state", "auth_chain"] {
        answer[list].as_array_mut().unwrap().retain(|event| event["type"] != kind);
    }
}

/// The same bytes under a signature that is none.
pub fn break_signature(event: &mut Value) {
    for signatures in event["signatures"].as_object_mut().unwrap().values_mut() {
        for signature in signatures.as_object_mut().unwrap().values_mut() {
            *signature = json!("A".repeat(86));
        }
    }
}

/// Who forges: a server that is in the room, one of its name with another key, and one that has no business there.
pub struct Forgers<'a> {
    pub resident: &'a FakePeer,
    pub impostor: &'a FakePeer,
    pub stranger: &'a FakePeer,
}

impl Forgers<'_> {
    /// Events that say `forged` or are about a `ghost` or about `boss`, who is a user of ours. The rules let all but the last
    /// stand: only the signature, or the room, is not what it should be.
    pub fn events(&self, version: &str, room_id: &str, elsewhere: &str, boss: &str) -> Vec<Value> {
        let Self { resident, impostor, stranger } = self;
        let owner = resident.user("owner");
        let topic = |room_id: &str, sender: &str| {
            resident.unsigned(room_id, sender, "m.room.topic", Some(""), &json!({ "topic": "forged" }))
        };
        let join = |user_id: &str| {
            resident.unsigned(room_id, user_id, "m.room.member", Some(user_id), &json!({ "membership": "join" }))
        };
        let signed = [
            impostor.sign_for(version, topic(room_id, &owner)),
            stranger.sign_for(version, topic(room_id, &owner)),
            resident.sign_for(version, topic(elsewhere, &owner)),
            impostor.sign_for(version, join(&resident.user("ghost"))),
            resident.sign_for(version, join(&stranger.user("ghost"))),
            resident.sign_for(version, join(boss)),
            // Rightly signed, and against the rules.
            resident.sign_for(version, topic(room_id, &resident.user("outsider"))),
        ];
        signed.iter().map(|event| json!(event.event)).collect()
    }
}
