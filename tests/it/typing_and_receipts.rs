//! Who is typing and how far users have read, between two servers and over a kill.
//! May not: wait for a while; what ends by itself is waited for as a condition.

use std::thread;

use serde_json::{Value, json};

use crate::support::{FakePeer, TestServer, User, encoded, until};

fn content<'a>(sync: &'a Value, room_id: &str, kind: &str) -> Option<&'a Value> {
    let events = sync["rooms"]["join"][room_id]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == kind).map(|event| &event["content"])
}

fn token(sync: &Value) -> &str {
    sync["next_batch"].as_str().unwrap()
}

fn typing(room_id: &str, user_id: &str) -> Value {
    json!({"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": user_id, "typing": true}})
}

fn receipt(room_id: &str, user_id: &str, event_id: &str) -> Value {
    let receipt = json!({"event_ids": [event_id], "data": {"ts": 7}});
    json!({"edu_type": "m.receipt", "content": {(room_id): {"m.read": {(user_id): receipt}}}})
}

/// The owner's room with a user of the peer in it.
fn shared_room(peer: &FakePeer, server: &TestServer, owner: &User) -> String {
    let room_id = owner.create_room(json!({"preset": "public_chat"}));
    peer.join(server, &room_id, &peer.user("ann")).ok();
    room_id
}

#[test]
fn what_a_peer_tells_is_shown_and_after_a_kill_only_what_is_kept() {
    let peer = FakePeer::new("peer.test");
    let mut server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = shared_room(&peer, &server, &owner);
    let ann = peer.user("ann");
    let event_id = owner.say(&room_id, "1", "hello");
    let since = owner.now();
    let polling = {
        let (owner, since) = (owner.clone(), since.clone());
        thread::spawn(move || owner.sync(&format!("since={since}&timeout=30000")))
    };
    let edus = [typing(&room_id, &ann), receipt(&room_id, &ann, &event_id)];
    assert_eq!(peer.send_edus(&server, &edus).ok(), json!({"pdus": {}}));
    assert!(content(&polling.join().unwrap(), &room_id, "m.typing").is_some());

    let shown = json!({(event_id.as_str()): {"m.read": {(ann.as_str()): {"ts": 7}}}});
    let told = owner.sync_since(&since);
    assert_eq!(content(&told, &room_id, "m.typing"), Some(&json!({"user_ids": [ann]})));
    assert_eq!(content(&told, &room_id, "m.receipt"), Some(&shown));
    server.kill();
    server.restart();
    // Nobody knows any more who was typing, so whoever saw it is told that nobody is.
    let after = owner.sync_since(token(&told));
    assert_eq!(content(&after, &room_id, "m.typing"), Some(&json!({"user_ids": []})));
    assert_eq!(content(&after, &room_id, "m.receipt"), None, "a receipt is told once");
    let quiet = owner.sync_since(token(&after));
    assert!(quiet["rooms"]["join"].get(&room_id).is_none(), "{quiet}");
    let first = owner.sync("timeout=0");
    assert_eq!(content(&first, &room_id, "m.receipt"), Some(&shown));
    assert_eq!(content(&first, &room_id, "m.typing"), None);
}

#[test]
fn what_our_users_do_is_told_to_the_peer_and_what_is_private_is_not() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = shared_room(&peer, &server, &owner);
    let first = owner.say(&room_id, "1", "hello");
    let second = owner.say(&room_id, "2", "there");
    let path = format!("/rooms/{}/typing/{}", encoded(&room_id), encoded(&owner.user_id));
    owner.put(&path, json!({"typing": true, "timeout": 200}));
    let states = || {
        let edus = peer.received_edus("m.typing").into_iter();
        let states: Vec<bool> = edus.map(|content| content["typing"].as_bool().unwrap()).collect();
        (states.len() >= 2).then_some(states)
    };
    assert_eq!(until("the end of the typing is told", states), [true, false]);
    let read = |kind: &str, event_id: &str| {
        owner.post(&format!("/rooms/{}/receipt/{kind}/{}", encoded(&room_id), encoded(event_id)), json!({}));
    };
    read("m.read.private", &second);
    read("m.read", &first);
    let receipts = || Some(peer.received_edus("m.receipt")).filter(|receipts| !receipts.is_empty());
    let told = until("the receipt is told", receipts);
    assert_eq!(told.len(), 1, "{told:?}");
    let of_owner = &told[0][&room_id]["m.read"][&owner.user_id];
    assert_eq!(of_owner["event_ids"], json!([first]));
    assert_eq!(told[0][&room_id].as_object().unwrap().len(), 1, "nothing but m.read: {told:?}");
}
