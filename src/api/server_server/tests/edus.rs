//! Typing and receipts between servers, end to end: what other servers say, and what they are told.

use std::{sync::Arc, time::Duration};

use actix_web::{
    http::Method,
    test::{TestRequest, init_service},
};
use ruma::{OwnedRoomId, RoomId, RoomVersionId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::join;
use crate::{
    listener::Serves,
    testing::{NOW, Peer, World, ask, rates},
};

const VERSION: RoomVersionId = RoomVersionId::V11;
const BOTH: [Serves; 2] = [Serves::Client, Serves::Federation];
const ANN: &str = "@ann:them.test";
const OWNER: &str = "@owner:us.test";

/// A peer that hears nothing for so long never will.
const HEARD_WITHIN: Duration = Duration::from_secs(20);

/// A room of the owner's, who has a client, and a peer's user in it.
async fn shared_room(
    asked: impl AsyncFn(TestRequest) -> (u16, Value),
    world: &World,
    more: &[(&str, Value)],
) -> (Peer, OwnedRoomId) {
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    world.user("owner", false, "owner").await;
    let room_id = world.room(VERSION, "public", more).await;
    let (status, answer) = join(asked, &peer, &room_id, ANN, &VERSION).await;
    assert_eq!(status, 200, "{answer}");
    (peer, room_id)
}

fn typing(room_id: &RoomId, user_id: &str, typing: bool) -> Value {
    json!({"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": user_id, "typing": typing}})
}

fn receipt(room_id: &RoomId, user_id: &str, event_id: &str) -> Value {
    let receipt = json!({"event_ids": [event_id], "data": {"ts": 7}});
    json!({"edu_type": "m.receipt", "content": {(room_id.as_str()): {"m.read": {(user_id): receipt}}}})
}

fn transaction(peer: &Peer, id: &str, edus: Value) -> TestRequest {
    let body = json!({"origin": peer.identity.server_name(), "origin_server_ts": NOW.0, "pdus": [], "edus": edus});
    peer.put(&format!("/_matrix/federation/v1/send/{id}"), &body)
}

fn client(method: Method, path: &str, body: Value) -> TestRequest {
    let request = TestRequest::with_uri(&format!("/_matrix/client/v3{path}"))
        .method(method)
        .insert_header(("authorization", "Bearer owner"));
    if body.is_null() { request } else { request.set_payload(body.to_string()) }
}

fn sync(since: Option<&Value>, timeout_ms: u32) -> TestRequest {
    let since = since.and_then(Value::as_str).map(|since| format!("&since={since}")).unwrap_or_default();
    client(Method::GET, &format!("/sync?timeout={timeout_ms}{since}"), Value::Null)
}

/// The content of the first event of a type, if there is one.
fn content<'a>(answer: &'a Value, room_id: &RoomId, kind: &str) -> Option<&'a Value> {
    let events = answer["rooms"]["join"][room_id.as_str()]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == kind).map(|event| &event["content"])
}

async fn say(asked: impl AsyncFn(TestRequest) -> (u16, Value), room_id: &RoomId, text: &str) -> String {
    let body = json!({"msgtype": "m.text", "body": text});
    let (_, said) = asked(client(Method::PUT, &format!("/rooms/{room_id}/send/m.room.message/{text}"), body)).await;
    said["event_id"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn a_peers_typing_is_shown_while_it_lasts() {
    let world = World::new();
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (peer, room_id) = shared_room(&asked, &world, &[]).await;
    let (_, quiet) = asked(sync(None, 0)).await;
    assert_eq!(content(&quiet, &room_id, "m.typing"), None);

    let (status, answer) = asked(transaction(&peer, "t1", json!([typing(&room_id, ANN, true)]))).await;
    assert_eq!((status, &answer), (200, &json!({"pdus": {}})));
    let shown = json!({"user_ids": [ANN]});
    let (_, told) = asked(sync(Some(&quiet["next_batch"]), 0)).await;
    assert_eq!(content(&told, &room_id, "m.typing"), Some(&shown));
    let (_, first) = asked(sync(None, 0)).await;
    assert_eq!(content(&first, &room_id, "m.typing"), Some(&shown), "who starts learns it too");
    let (_, nothing) = asked(sync(Some(&told["next_batch"]), 0)).await;
    assert_eq!(nothing["rooms"]["join"], json!({}));

    asked(transaction(&peer, "t2", json!([typing(&room_id, ANN, false)]))).await;
    let (_, stopped) = asked(sync(Some(&nothing["next_batch"]), 0)).await;
    assert_eq!(content(&stopped, &room_id, "m.typing"), Some(&json!({"user_ids": []})));

    // A server that goes away leaves nobody typing, and whoever waits is woken by the end.
    asked(transaction(&peer, "t3", json!([typing(&room_id, ANN, true)]))).await;
    let (_, told) = asked(sync(Some(&stopped["next_batch"]), 0)).await;
    assert_eq!(content(&told, &room_id, "m.typing"), Some(&shown));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(50)).await;
    let (_, over) = asked(sync(Some(&told["next_batch"]), 30_000)).await;
    assert_eq!(content(&over, &room_id, "m.typing"), Some(&json!({"user_ids": []})));
}

/// SECURITY V16 and V39: only users of the server, only those in the room, and only where the ACL lets the server.
#[actix_web::test]
async fn what_a_server_may_not_say_is_passed_over() {
    let world = World::new();
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (peer, room_id) = shared_room(&asked, &world, &[]).await;
    let stranger = Peer::new("else.test", 3);
    world.know(&stranger).await;
    let other_room = say(&asked, &room_id, "hello").await;
    let (_, before) = asked(sync(None, 0)).await;
    let nothing_for = [
        (&peer, json!([typing(&room_id, "@gus:else.test", true), receipt(&room_id, "@gus:else.test", &other_room)])),
        (&peer, json!([typing(&room_id, OWNER, true), receipt(&room_id, OWNER, &other_room)])),
        (
            &peer,
            json!([typing(&room_id, "@nobody:them.test", true), receipt(&room_id, "@nobody:them.test", &other_room)]),
        ),
        (
            &stranger,
            json!([typing(&room_id, "@gus:else.test", true), receipt(&room_id, "@gus:else.test", &other_room)]),
        ),
        (&peer, json!([typing(ruma::room_id!("!none:us.test"), ANN, true)])),
        (&peer, json!([receipt(&room_id, ANN, "$unknown")])),
        (&peer, json!([{"edu_type": "m.presence", "content": {"push": [{"user_id": ANN, "presence": "online"}]}}])),
        (&peer, json!([{"edu_type": "org.example", "content": 5}, 5, null, {"edu_type": "m.typing"}])),
    ];
    for (number, (who, edus)) in nothing_for.into_iter().enumerate() {
        let (status, answer) = asked(transaction(who, &format!("t{number}"), edus.clone())).await;
        assert_eq!((status, &answer), (200, &json!({"pdus": {}})), "{edus}");
        let (_, after) = asked(sync(Some(&before["next_batch"]), 0)).await;
        assert_eq!(after["rooms"]["join"], json!({}), "{edus}");
    }
    // The same of somebody in the room is heard, until the room denies the server.
    asked(transaction(&peer, "good", json!([receipt(&room_id, ANN, &other_room)]))).await;
    let (_, heard) = asked(sync(Some(&before["next_batch"]), 0)).await;
    assert!(content(&heard, &room_id, "m.receipt").is_some());
    let acl = json!({"allow": ["*"], "deny": ["them.test"]});
    asked(client(Method::PUT, &format!("/rooms/{room_id}/state/m.room.server_acl"), acl)).await;
    let newer = say(&asked, &room_id, "secret").await;
    let (_, before) = asked(sync(None, 0)).await;
    let edus = json!([typing(&room_id, ANN, true), receipt(&room_id, ANN, &newer)]);
    let (status, _) = asked(transaction(&peer, "denied", edus)).await;
    assert_eq!(status, 200);
    let (_, after) = asked(sync(Some(&before["next_batch"]), 0)).await;
    assert_eq!(after["rooms"]["join"], json!({}));
}

#[actix_web::test]
async fn a_peers_receipts_move_forward_only_and_within_their_room() {
    let world = World::new();
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (peer, room_id) = shared_room(&asked, &world, &[]).await;
    let (_, other) = asked(client(Method::POST, "/createRoom", json!({}))).await;
    let other: OwnedRoomId = other["room_id"].as_str().unwrap().try_into().unwrap();
    let (first, second) = (say(&asked, &room_id, "one").await, say(&asked, &room_id, "two").await);
    let elsewhere = say(&asked, &other, "elsewhere").await;
    let (_, mut seen) = asked(sync(None, 0)).await;
    let shown = |event_id: &str| Some(json!({(event_id): {"m.read": {(ANN): {"ts": 7}}}}));
    let private = json!({"edu_type": "m.receipt", "content": {(room_id.as_str()): {"m.read.private": {
        (ANN): {"event_ids": [second], "data": {"ts": 7}},
    }}}});
    for (number, (edu, expected)) in [
        (receipt(&room_id, ANN, &first), shown(&first)),
        (receipt(&room_id, ANN, &first), None),
        (receipt(&room_id, ANN, &elsewhere), None),
        (private, None),
        (receipt(&room_id, ANN, &second), shown(&second)),
        (receipt(&room_id, ANN, &first), None),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, _) = asked(transaction(&peer, &format!("t{number}"), json!([edu]))).await;
        assert_eq!(status, 200);
        let (_, next) = asked(sync(Some(&seen["next_batch"]), 0)).await;
        assert_eq!(content(&next, &room_id, "m.receipt").cloned(), expected, "{edu}");
        seen = next;
    }
}

type Heard = mpsc::UnboundedReceiver<Value>;

/// A world whose other servers take every transaction, and the EDUs that they are sent.
fn hearing_world() -> (World, Heard) {
    let (hears, heard) = mpsc::unbounded_channel();
    let peers = Arc::new(move |_: &str, request: &http::Request<bytes::Bytes>| {
        if request.uri().path().starts_with("/_matrix/federation/v1/send/") {
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            body["edus"].as_array().unwrap().iter().for_each(|edu| hears.send(edu.clone()).unwrap());
        }
        Some((200, json!({"pdus": {}})))
    });
    (World::among(rates(false), |_| {}, peers), heard)
}

async fn next(heard: &mut Heard) -> Value {
    tokio::time::timeout(HEARD_WITHIN, heard.recv()).await.expect("an EDU is sent").unwrap()
}

#[actix_web::test]
async fn our_users_typing_and_reading_is_told_to_the_servers_in_the_room() {
    let (world, mut heard) = hearing_world();
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (_peer, room_id) = shared_room(&asked, &world, &[]).await;
    let at = |body: Value| client(Method::PUT, &format!("/rooms/{room_id}/typing/{OWNER}"), body);
    assert_eq!(asked(at(json!({"typing": true, "timeout": 20_000}))).await, (200, json!({})));
    assert_eq!(next(&mut heard).await, typing(&room_id, OWNER, true));
    // Going on is told again only when the others may be about to forget; stopping is told once.
    asked(at(json!({"typing": true}))).await;
    asked(at(json!({"typing": false}))).await;
    asked(at(json!({"typing": false}))).await;
    assert_eq!(next(&mut heard).await, typing(&room_id, OWNER, false));

    let event_id = say(&asked, &room_id, "hello").await;
    let path = |kind: &str| format!("/rooms/{room_id}/receipt/{kind}/{event_id}");
    for kind in ["m.read.private", "m.fully_read", "m.read", "m.read"] {
        let (status, answer) = asked(client(Method::POST, &path(kind), json!({}))).await;
        assert_eq!((status, answer), (200, json!({})), "{kind}");
    }
    let told = next(&mut heard).await;
    let mut expected = receipt(&room_id, OWNER, &event_id);
    let told_data = &told["content"][room_id.as_str()]["m.read"][OWNER]["data"];
    assert!(told_data["ts"].as_u64().is_some_and(|ts| ts >= NOW.0));
    expected["content"][room_id.as_str()]["m.read"][OWNER]["data"] = told_data.clone();
    assert_eq!(told, expected);

    // Who falls silent while typing stops for the others too.
    asked(at(json!({"typing": true, "timeout": 100}))).await;
    assert_eq!(next(&mut heard).await, typing(&room_id, OWNER, true));
    assert_eq!(next(&mut heard).await, typing(&room_id, OWNER, false));
}
