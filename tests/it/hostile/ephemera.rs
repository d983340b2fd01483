//! Ephemeral events in the name of somebody else, or from who has no business in the room.
//! May not: prove by silence alone; what is honest comes in the same transaction and is seen.

use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

use super::ground::Ground;
use crate::support::{FakePeer, until};

#[track_caller]
fn send_edus(ground: &Ground, peer: &FakePeer, transaction: &str, edus: Value) {
    let body = json!({ "origin": peer.name(), "origin_server_ts": 1, "pdus": [], "edus": edus });
    let body: CanonicalJsonObject = serde_json::from_value(body).unwrap();
    let target = format!("/_matrix/federation/v1/send/{transaction}");
    peer.ask(&ground.server, "PUT", &target, Some(&body)).ok();
}

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
    let to_device = |sender: &str| {
        let messages = json!({ us.clone(): { "*": { "foul": true } } });
        json!({ "edu_type": "m.direct_to_device", "content":
            { "sender": sender, "type": "m.foul", "message_id": sender, "messages": messages } })
    };
    let mut foul = vec![json!(null), json!([]), json!({}), json!({ "edu_type": 7, "content": [] })];
    for user_id in [&carl, &us] {
        foul.extend([
            typing(&room_id, user_id),
            receipt(&room_id, user_id, &said),
            to_device(user_id),
            json!({ "edu_type": "m.presence", "content": { "push": [{ "user_id": user_id, "presence": "online" }] } }),
            json!({ "edu_type": "m.device_list_update", "content":
                { "user_id": user_id, "device_id": "FOUL", "stream_id": 1, "prev_id": [] } }),
            json!({ "edu_type": "m.signing_key_update", "content": { "user_id": user_id } }),
        ]);
    }
    // A user of its own, who is not in the room; and a room that it is not in.
    foul.extend([typing(&room_id, &outsider), receipt(&room_id, &outsider, &said), typing("!else:where.test", &bob)]);
    send_edus(&ground, &ground.peer, "foul", json!(foul));
    send_edus(&ground, &ground.peer, "fair", json!([typing(&room_id, &bob), receipt(&room_id, &bob, &said)]));
    let shown = until("bob's typing and receipt are shown", || {
        let sync = ground.owner.sync_since(&since);
        let of_room = sync["rooms"]["join"][&room_id]["ephemeral"]["events"].to_string();
        (of_room.contains("m.typing") && of_room.contains("m.receipt")).then_some(sync)
    });
    let ephemeral = &shown["rooms"]["join"][&room_id]["ephemeral"]["events"];
    assert!(ephemeral.to_string().contains(&bob), "{ephemeral}");
    for user_id in [&carl, &us, &outsider] {
        assert!(!ephemeral.to_string().contains(user_id.as_str()), "{ephemeral}");
    }
    assert!(!shown.to_string().contains("m.foul"), "{shown}");
    assert!(!shown["presence"].to_string().contains("online"), "{shown}");
    let changed = shown["device_lists"]["changed"].to_string();
    assert!(!changed.contains(&carl), "{changed}");
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
    send_edus(&ground, &evil, "foul", json!([typing(&room_id, &eve), receipt(&room_id, &eve, &said)]));
    send_edus(&ground, &ground.peer, "fair", json!([typing(&room_id, &bob)]));
    let shown = until("bob's typing is shown", || {
        let sync = ground.owner.sync_since(&since);
        let ephemeral = sync["rooms"]["join"][&room_id]["ephemeral"]["events"].to_string();
        ephemeral.contains(&bob).then_some(ephemeral)
    });
    assert!(!shown.contains(&eve), "{shown}");
}
