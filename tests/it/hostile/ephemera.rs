//! Ephemeral events in the name of somebody else, or from who has no business in the room.
//! May not: prove by silence alone; what is honest comes in the same transaction and is seen.

use serde_json::{Value, json};

use super::ground::Ground;
use crate::support::{FakePeer, until};

fn typing(room_id: &str, user_id: &str) -> Value {
    json!({ "edu_type": "m.typing", "content": { "room_id": room_id, "user_id": user_id, "typing": true } })
}

fn receipt(room_id: &str, user_id: &str, event_id: &str) -> Value {
    let read = json!({ user_id: { "event_ids": [event_id], "data": { "ts": 1_700_000_000_000_u64 } } });
    json!({ "edu_type": "m.receipt", "content": { room_id: { "m.read": read } } })
}

#[test]
fn cve_2024_6301_and_cve_2023_42453_nobody_speaks_for_users_of_others() {
    let other = FakePeer::new("other.test");
    let ground = Ground::with(&[&other]);
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let (bob, carl) = (ground.peer.user("bob"), other.user("carl"));
    ground.peer.join(&ground.server, &room_id, &bob).ok();
    other.join(&ground.server, &room_id, &carl).ok();
    let said = ground.owner.say(&room_id, "1", "hello");
    let since = ground.owner.now();
    let us = ground.owner.user_id.clone();
    let outsider = ground.peer.user("outsider");
    let to_device = |sender: &str, kind: &str| {
        let messages = json!({ us.clone(): { "*": { "of": sender } } });
        json!({ "edu_type": "m.direct_to_device", "content":
            { "sender": sender, "type": kind, "message_id": sender, "messages": messages } })
    };
    let devices = |user_id: &str| {
        json!({ "edu_type": "m.device_list_update", "content":
            { "user_id": user_id, "device_id": "NEW", "stream_id": 1, "prev_id": [] } })
    };
    let signing_key = |user_id: &str| json!({ "edu_type": "m.signing_key_update", "content": { "user_id": user_id } });
    let mut foul = vec![json!(null), json!([]), json!({}), json!({ "edu_type": 7, "content": [] })];
    for user_id in [&carl, &us] {
        foul.extend([
            typing(&room_id, user_id),
            receipt(&room_id, user_id, &said),
            to_device(user_id, "m.foul"),
            // Nobody's presence is shown here, so there is no fair one to see beside it.
            json!({ "edu_type": "m.presence", "content": { "push": [{ "user_id": user_id, "presence": "online" }] } }),
            devices(user_id),
            signing_key(user_id),
        ]);
    }
    // A user of its own, who is not in the room; and a room that it is not in.
    foul.extend([typing(&room_id, &outsider), receipt(&room_id, &outsider, &said), typing("!else:where.test", &bob)]);
    ground.peer.send_edus(&ground.server, &foul).ok();
    // Of everything that is shown somewhere, the same in bob's own name: it comes, by the same way, after the foul.
    let fair = [typing(&room_id, &bob), receipt(&room_id, &bob, &said), to_device(&bob, "m.fair"), devices(&bob)];
    ground.peer.send_edus(&ground.server, &fair).ok();
    let ephemeral_of = |sync: &Value| sync["rooms"]["join"][&room_id]["ephemeral"]["events"].clone();
    let shown = until("what bob's server says of bob is shown", || {
        let sync = ground.owner.sync_since(&since);
        let has_all = ["m.typing", "m.receipt"].iter().all(|kind| {
            let of_room = ephemeral_of(&sync);
            let mut events = of_room.as_array().into_iter().flatten();
            events.any(|event| event["type"] == *kind && event.to_string().contains(&bob))
        });
        let has_message = sync["to_device"]["events"].as_array().is_some_and(|events| !events.is_empty());
        (has_all && has_message && sync["device_lists"]["changed"] != json!([])).then_some(sync)
    });
    let ephemeral = ephemeral_of(&shown).to_string();
    for user_id in [&carl, &us, &outsider] {
        assert!(!ephemeral.contains(user_id.as_str()), "{ephemeral}");
    }
    let message = json!({ "sender": bob, "type": "m.fair", "content": { "of": bob } });
    assert_eq!(shown["to_device"]["events"], json!([message]));
    assert_eq!(shown["device_lists"]["changed"], json!([bob]));
    assert!(!shown["presence"].to_string().contains("online"), "{shown}");
    // What changed of a key that signs others is told in the same place.
    let since = shown["next_batch"].as_str().unwrap();
    ground.peer.send_edus(&ground.server, &[&carl, &us, &bob].map(|user_id| signing_key(user_id))).ok();
    let changed = until("a key of bob's has changed", || {
        let changed = ground.owner.sync_since(since)["device_lists"]["changed"].take();
        (changed != json!([])).then_some(changed)
    });
    assert_eq!(changed, json!([bob]));
}

#[test]
fn synapse_3796_acls_are_asked_for_ephemeral_events_too() {
    let evil = FakePeer::new("evil.test");
    let ground = Ground::with(&[&evil]);
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let (bob, eve) = (ground.peer.user("bob"), evil.user("eve"));
    ground.peer.join(&ground.server, &room_id, &bob).ok();
    evil.join(&ground.server, &room_id, &eve).ok();
    let said = ground.owner.say(&room_id, "1", "hello");
    ground.owner.set_state(&room_id, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["EVIL.*"] }));
    let since = ground.owner.now();
    evil.send_edus(&ground.server, &[typing(&room_id, &eve), receipt(&room_id, &eve, &said)]).ok();
    ground.peer.send_edus(&ground.server, &[typing(&room_id, &bob)]).ok();
    let shown = until("bob's typing is shown", || {
        let sync = ground.owner.sync_since(&since);
        let ephemeral = sync["rooms"]["join"][&room_id]["ephemeral"]["events"].to_string();
        ephemeral.contains(&bob).then_some(ephemeral)
    });
    assert!(!shown.contains(&eve), "{shown}");
}
