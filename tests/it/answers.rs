//! Answers to knocks by users of other servers, and how they get there: at once, or when the server is back.
//! May not: take the state of our room for what the other server knows.

use serde_json::{Value, json};

use crate::support::{FakePeer, TestServer, User, until};

struct Cast {
    peer: FakePeer,
    server: TestServer,
    owner: User,
    room_id: String,
    /// The one who knocks.
    ann: String,
}

fn cast() -> Cast {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new()
        .set("federation.retry_backoff_min", "\"100ms\"")
        .set("federation.retry_backoff_max", "\"1s\"")
        .knowing(&[&peer])
        .start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("11");
    let ann = peer.user("ann");
    peer.knock(&server, &room_id, &ann, "otters");
    Cast { peer, server, owner, room_id, ann }
}

/// The member event of a user that a transaction brought.
fn brought(peer: &FakePeer, user_id: &str, membership: &str) -> Option<Value> {
    peer.received().into_iter().find(|event| {
        event["type"] == "m.room.member"
            && event["state_key"] == user_id
            && event["content"]["membership"] == membership
    })
}

#[test]
fn an_invite_reaches_the_server_of_the_one_who_knocked() {
    let Cast { peer, server, owner, room_id, ann } = cast();
    owner.about(&room_id, "invite", &ann);
    let seen = until("the invite comes", || peer.seen("invite").pop());
    let event = &seen.body["event"];
    assert_eq!((&event["state_key"], &event["content"]["membership"]), (&json!(ann), &json!("invite")));
    assert_eq!(seen.body["room_version"], "11");
    let shown = seen.body["invite_room_state"].as_array().unwrap();
    assert!(shown.iter().any(|event| event["type"] == "m.room.create"), "{shown:?}");
    peer.join(&server, &room_id, &ann).ok();
    assert_eq!(owner.membership(&room_id, &ann).as_deref(), Some("join"));
    owner.say(&room_id, "1", "welcome");
    until("the message comes", || peer.received().into_iter().find(|event| event["content"]["body"] == "welcome"));
}

#[test]
fn a_denial_and_a_ban_reach_the_server_of_the_one_who_knocked() {
    for (action, membership) in [("kick", "leave"), ("ban", "ban")] {
        let Cast { peer, owner, room_id, ann, server: _running } = cast();
        owner.in_room(&room_id, action, json!({ "user_id": ann, "reason": "not now" }));
        let event = until(action, || brought(&peer, &ann, membership));
        assert_eq!(event["content"]["reason"], "not now");
        owner.say(&room_id, "1", "among ourselves");
        owner.in_room(&room_id, "invite", json!({ "user_id": peer.user("bea") }));
        until("a later invite comes", || peer.seen("invite").pop());
        let told: Vec<Value> = peer.received();
        assert!(told.iter().all(|event| event["state_key"] == json!(ann)), "a knock lets nobody listen: {told:?}");
    }
}

#[test]
fn a_knock_is_answered_while_its_server_is_down() {
    let Cast { peer, mut server, owner, room_id, ann } = cast();
    peer.set_down(true);
    owner.about(&room_id, "invite", &ann);
    assert_eq!(owner.membership(&room_id, &ann).as_deref(), Some("invite"));
    server.kill();
    server.restart();
    assert!(peer.seen("invite").is_empty());
    peer.set_down(false);
    until("the invite comes", || peer.seen("invite").pop());
}

#[test]
fn an_invite_that_is_not_wanted_is_taken_back() {
    let Cast { peer, owner, room_id, server: _running, .. } = cast();
    peer.refuse("invite", 403, "M_FORBIDDEN");
    let bea = peer.user("bea");
    owner.about(&room_id, "invite", &bea);
    until("the invite is taken back", || (owner.membership(&room_id, &bea).as_deref() == Some("leave")).then_some(()));
}

#[test]
fn a_room_is_made_with_a_user_of_another_server_in_mind() {
    let Cast { peer, owner, server: _running, .. } = cast();
    let bea = peer.user("bea");
    let room_id = owner.create_room(json!({ "invite": [bea], "name": "Burrow" }));
    assert_eq!(owner.membership(&room_id, &bea).as_deref(), Some("invite"));
    let seen = until("the invite comes", || peer.seen("invite").pop());
    assert_eq!((&seen.body["event"]["state_key"], &seen.body["event"]["room_id"]), (&json!(bea), &json!(room_id)));
}
