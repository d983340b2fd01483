//! Transactions end to end: what is taken, what is refused event by event, and what answers twice the same.

use actix_web::test::{TestRequest, init_service};
use ruma::{
    OwnedEventId, RoomId, RoomVersionId,
    events::{StateEventType, room::member::MembershipState},
    room_id, user_id,
};
use serde_json::{Value, json};
use vestibule_actors::{ChangeMembership, MembershipChange, SourceNetwork};

use super::{FEDERATION, join};
use crate::testing::{NOW, Peer, World, ask, event_id};

const VERSION: RoomVersionId = RoomVersionId::V11;

fn transaction(peer: &Peer, id: &str, pdus: Value) -> TestRequest {
    let body = json!({ "origin": peer.identity.server_name(), "origin_server_ts": NOW.0, "pdus": pdus, "edus": [] });
    peer.put(&format!("/_matrix/federation/v1/send/{id}"), &body)
}

/// A message of a joined user after the newest of the given events, with the auth events that it needs.
async fn message(world: &World, room_id: &RoomId, sender: &str, after: &str, body: &str) -> Value {
    let mut auth_events = Vec::new();
    for (kind, key) in
        [(StateEventType::RoomCreate, ""), (StateEventType::RoomPowerLevels, ""), (StateEventType::RoomMember, sender)]
    {
        let event = world.app.stores.rooms.current_state_event(room_id, &kind, key).await.unwrap();
        auth_events.extend(event.map(|event| event.event.event_id().to_owned()));
    }
    json!({
        "auth_events": auth_events, "prev_events": [after], "depth": 20, "origin_server_ts": NOW.0 + 5,
        "content": { "msgtype": "m.text", "body": body }, "room_id": room_id, "sender": sender, "type": "m.room.message",
    })
}

async fn is_stored(world: &World, room_id: &RoomId, event_id: &str) -> bool {
    let event_id: OwnedEventId = event_id.try_into().unwrap();
    world.app.stores.rooms.events(room_id, &[event_id]).await.unwrap()[0].is_some()
}

#[actix_web::test]
async fn events_are_taken_one_by_one_and_a_repeat_is_answered_the_same() {
    let world = World::new();
    let (peer, other) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&peer).await;
    world.know(&other).await;
    let room_id = world.room(VERSION, "public", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (_, joined) = join(&asked, &peer, &room_id, "@ann:them.test", &VERSION).await;
    let after = event_id(&joined["event"], &VERSION);
    let (first_id, first) = peer.sign(message(&world, &room_id, "@ann:them.test", &after, "hi").await, VERSION);
    let second = message(&world, &room_id, "@ann:them.test", &first_id, "there").await;
    let (second_id, second) = peer.sign(second, VERSION);
    // V05: the request is the peer's, the event is not what it signed; and one that another server signed.
    let third = message(&world, &room_id, "@ann:them.test", &first_id, "forged").await;
    let (forged_id, forged) = other.sign(third, VERSION);
    let (strange_id, strange) =
        other.sign(message(&world, &room_id, "@eve:else.test", &first_id, "I am not in the room").await, VERSION);
    let unknown_room = message(&world, room_id!("!none:us.test"), "@ann:them.test", &after, "nowhere").await;
    let pdus = json!([first, second, forged, strange, unknown_room, 5, { "room_id": room_id }]);
    let (status, answer) = asked(transaction(&peer, "t1", pdus.clone())).await;
    assert_eq!(status, 200, "{answer}");
    let pdus_answered = answer["pdus"].as_object().unwrap();
    assert_eq!((&pdus_answered[&first_id], &pdus_answered[&second_id]), (&json!({}), &json!({})));
    assert!(pdus_answered[&forged_id]["error"].is_string(), "{answer}");
    // A rejected event is no error of the transaction.
    assert_eq!(pdus_answered[&strange_id], json!({}));
    assert!(is_stored(&world, &room_id, &second_id).await && !is_stored(&world, &room_id, &forged_id).await);
    let newest = world.app.stores.rooms.timeline(&room_id, None, vestibule_storage::room::Direction::Backward, 2).await;
    let newest: Vec<String> = newest.unwrap().iter().map(|event| event.event.event_id().to_string()).collect();
    assert_eq!(newest, [second_id, first_id], "what was rejected is not shown");
    assert_eq!(asked(transaction(&peer, "t1", json!([]))).await, (200, answer), "the id says that it is the same");
    assert_eq!(asked(transaction(&peer, "t2", json!([]))).await, (200, json!({ "pdus": {} })));
}

#[actix_web::test]
async fn a_room_that_stays_full_puts_its_server_off_as_any_door_does() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(VERSION, "public", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (_, joined) = join(&asked, &peer, &room_id, "@ann:them.test", &VERSION).await;
    let after = event_id(&joined["event"], &VERSION);
    let (id, event) = peer.sign(message(&world, &room_id, "@ann:them.test", &after, "hi").await, VERSION);
    tokio::time::pause();
    // DESIGN 3.12: a rate, never a 503, although it is an event that the room has no place for and not its door.
    let taken: Vec<_> = std::iter::from_fn(|| world.app.stores.writer.reserve().ok()).collect();
    let (status, answer) = asked(transaction(&peer, "t1", json!([event]))).await;
    assert_eq!((status, &answer["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")), "{answer}");
    drop(taken);
    let (_, answer) = asked(transaction(&peer, "t1", json!([event]))).await;
    assert_eq!(answer["pdus"][&id], json!({}), "{answer}");
}

#[actix_web::test]
async fn bounds_and_shapes_of_transactions() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let put = |id: &str, body: Value| peer.put(&format!("/_matrix/federation/v1/send/{id}"), &body);
    let padded = json!({ "pdus": [], "edus": [{ "edu_type": "x", "content": { "x": "x".repeat(2 * 1024 * 1024) } }] });
    let table = [
        ("a", json!({ "pdus": vec![json!({}); 50], "edus": vec![json!({}); 100] }), 200, ""),
        ("b", json!({ "pdus": vec![json!({}); 51] }), 400, "M_INVALID_PARAM"),
        ("c", json!({ "pdus": [], "edus": vec![json!({}); 101] }), 400, "M_INVALID_PARAM"),
        ("d", json!({ "pdus": "x" }), 400, "M_BAD_JSON"),
        ("e", json!({}), 200, ""),
        ("f", padded.clone(), 200, ""),
        (&"x".repeat(256), json!({}), 400, "M_INVALID_PARAM"),
    ];
    for (id, body, status, errcode) in table {
        let (found, answer) = ask(&service, put(id, body).to_request()).await;
        assert_eq!((found, answer["errcode"].as_str().unwrap_or_default()), (status, errcode), "{id}: {answer}");
    }
    // Only transactions may be that large.
    let invite = "/_matrix/federation/v2/invite/!r:us.test/$e";
    for uri in [invite, "/_matrix/federation/v1/send_knock/!r:us.test/$e"] {
        assert_eq!(ask(&service, peer.put(uri, &padded).to_request()).await.0, 413, "{uri}");
    }
}

#[actix_web::test]
async fn a_denied_server_and_a_room_that_we_left_take_nothing() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(VERSION, "public", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    assert_eq!(join(&asked, &peer, &room_id, "@ann:them.test", &VERSION).await.0, 200);
    // V39: judged for each event by the server that sends it.
    let acl = world.state(&room_id, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["them.test"] })).await;
    let event = message(&world, &room_id, "@ann:them.test", acl.as_str(), "denied").await;
    let (denied_id, event) = peer.sign(event, VERSION);
    let (status, answer) = asked(transaction(&peer, "t1", json!([event]))).await;
    assert_eq!(status, 200);
    assert!(answer["pdus"][&denied_id]["error"].is_string(), "{answer}");
    assert!(!is_stored(&world, &room_id, &denied_id).await);
    // V46.
    world.state(&room_id, "m.room.server_acl", json!({ "allow": ["*"] })).await;
    let owner = user_id!("@owner:us.test").to_owned();
    let leave = ChangeMembership {
        sender: owner.clone(),
        target: owner,
        change: MembershipChange::Leave,
        content: Default::default(),
        network: SourceNetwork::of([127, 0, 0, 1].into()),
    };
    let left = world.app.rooms.ask(&room_id, leave).await.unwrap();
    let event = message(&world, &room_id, "@ann:them.test", left.as_str(), "too late").await;
    let (late_id, event) = peer.sign(event, VERSION);
    let (_, answer) = asked(transaction(&peer, "t2", json!([event]))).await;
    assert!(answer["pdus"][&late_id]["error"].is_string(), "{answer}");
    assert!(!is_stored(&world, &room_id, &late_id).await);
}

#[actix_web::test]
async fn an_invite_is_taken_back_by_its_server_alone() {
    let world = World::new();
    let (peer, other) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&peer).await;
    world.know(&other).await;
    let user_id = world.user("ann", false, "token").await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let theirs = room_id!("!theirs:them.test");
    let event = |membership: &str, sender: &str, auth: &str| {
        json!({
            "auth_events": [auth], "prev_events": [auth], "depth": 9, "content": { "membership": membership },
            "origin_server_ts": NOW.0, "room_id": theirs, "sender": sender, "state_key": user_id, "type": "m.room.member",
        })
    };
    let (invite_id, invite) = peer.sign(event("invite", "@bob:them.test", "$create"), VERSION);
    let body = json!({ "room_version": "11", "event": invite });
    let uri = format!("/_matrix/federation/v2/invite/{theirs}/{invite_id}");
    assert_eq!(asked(peer.put(&uri, &body)).await.0, 200);
    let membership = async || {
        let row = world.app.stores.rooms.out_of_band_of(&user_id, theirs).await.unwrap();
        row.map(|row| row.membership)
    };
    let (forged_id, forged) = other.sign(event("leave", "@eve:else.test", &invite_id), VERSION);
    let (_, answer) = asked(transaction(&other, "t1", json!([forged]))).await;
    assert!(answer["pdus"][&forged_id]["error"].is_string(), "{answer}");
    assert_eq!(membership().await, Some(MembershipState::Invite));
    let (leave_id, leave) = peer.sign(event("leave", "@bob:them.test", &invite_id), VERSION);
    let (_, answer) = asked(transaction(&peer, "t1", json!([leave]))).await;
    assert_eq!(answer["pdus"][&leave_id], json!({}), "{answer}");
    assert_ne!(membership().await, Some(MembershipState::Invite));
}
