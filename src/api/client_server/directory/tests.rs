//! Aliases and the list of rooms from outside, over the reference store and real room actors.

use actix_web::{
    http::{Method, header::AUTHORIZATION},
    test::{TestRequest, init_service},
};
use ruma::RoomVersionId;
use serde_json::{Value, json};
use vestibule_federation::denied_servers::DeniedServers;

use crate::{
    listener::Serves,
    testing::{World, ask, rates},
};

/// One request as a client makes it.
fn request(method: Method, path: &str, token: Option<&str>, body: Value) -> TestRequest {
    let mut request = TestRequest::with_uri(path).method(method);
    if let Some(token) = token {
        request = request.insert_header((AUTHORIZATION, format!("Bearer {token}")));
    }
    if body.is_null() { request } else { request.set_payload(body.to_string()) }
}

/// Sends it; a macro because the type of a finished request has no name here.
macro_rules! call {
    ($service:expr, $($request:expr),+) => {
        ask($service, request($($request),+).to_request())
    };
}

#[actix_web::test]
async fn an_alias_is_made_by_members_and_removed_by_its_maker_or_the_powerful() {
    let world = World::new();
    for (name, is_admin) in [("owner", false), ("bob", false), ("eve", false), ("root", true)] {
        world.user(name, is_admin, name).await;
    }
    let canonical = json!({ "alias": "#main:us.test", "alt_aliases": ["#bobs:us.test"] });
    let room_id = world.room(RoomVersionId::V12, "public", &[("m.room.canonical_alias", canonical)]).await;
    let service = init_service(world.application(&[Serves::Client])).await;
    let path = |name: &str| format!("/_matrix/client/v3/directory/room/%23{name}");
    let put = async |name: &str, token| {
        call!(&service, Method::PUT, &path(name), Some(token), json!({ "room_id": room_id })).await.0
    };
    let delete =
        async |name: &str, token| call!(&service, Method::DELETE, &path(name), Some(token), Value::Null).await.0;

    let join = format!("/_matrix/client/v3/rooms/{room_id}/join");
    assert_eq!(call!(&service, Method::POST, &join, Some("bob"), json!({})).await.0, 200);
    assert_eq!(put("main:us.test", "eve").await, 403);
    assert_eq!(put("main:other.test", "owner").await, 400);
    assert_eq!(put("main:us.test", "owner").await, 200);
    assert_eq!(put("main:us.test", "bob").await, 409);
    assert_eq!(put("bobs:us.test", "bob").await, 200);
    let other =
        call!(&service, Method::PUT, &path("x:us.test"), Some("owner"), json!({ "room_id": "!other:us.test" })).await;
    assert_eq!(other.0, 404);

    let found = call!(&service, Method::GET, &path("main:us.test"), None, Value::Null).await;
    assert_eq!(found, (200, json!({ "room_id": room_id, "servers": ["us.test"] })));
    let aliases = format!("/_matrix/client/v3/rooms/{room_id}/aliases");
    let listed = call!(&service, Method::GET, &aliases, Some("bob"), Value::Null).await;
    assert_eq!(listed, (200, json!({ "aliases": ["#bobs:us.test", "#main:us.test"] })));
    assert_eq!(call!(&service, Method::GET, &aliases, Some("eve"), Value::Null).await.0, 403);

    assert_eq!(delete("main:us.test", "bob").await, 403);
    assert_eq!(delete("main:us.test", "eve").await, 403);
    // The powerful remove what others made, and the room's own list follows.
    assert_eq!(delete("bobs:us.test", "owner").await, 200);
    let state = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.canonical_alias/");
    let (_, canonical) = call!(&service, Method::GET, &state, Some("owner"), Value::Null).await;
    assert_eq!(canonical, json!({ "alias": "#main:us.test", "alt_aliases": [] }));
    // Who made it removes it, powerless; an admin removes any.
    assert_eq!(put("bobs:us.test", "bob").await, 200);
    assert_eq!(delete("bobs:us.test", "bob").await, 200);
    assert_eq!(delete("main:us.test", "root").await, 200);
    assert_eq!(delete("main:us.test", "owner").await, 404);
    assert_eq!(call!(&service, Method::GET, &path("main:us.test"), None, Value::Null).await.0, 404);
}

#[actix_web::test]
async fn a_listed_knock_room_says_so() {
    let world = World::new();
    for name in ["owner", "bob"] {
        world.user(name, false, name).await;
    }
    let shown = [
        ("m.room.name", json!({ "name": "The Porch" })),
        ("m.room.topic", json!({ "topic": "Ring twice" })),
        ("m.room.history_visibility", json!({ "history_visibility": "world_readable" })),
    ];
    let room_id = world.room(RoomVersionId::V10, "knock", &shown).await;
    let service = init_service(world.application(&[Serves::Client])).await;
    let rooms = "/_matrix/client/v3/publicRooms";
    let list = format!("/_matrix/client/v3/directory/list/room/{room_id}");
    let publish = async |token, visibility: &str| {
        call!(&service, Method::PUT, &list, Some(token), json!({ "visibility": visibility })).await.0
    };

    let empty = (200, json!({ "chunk": [], "total_room_count_estimate": 0 }));
    assert_eq!(call!(&service, Method::GET, rooms, None, Value::Null).await, empty);
    assert_eq!(publish("bob", "public").await, 403);
    assert_eq!(publish("owner", "secret").await, 400);
    assert_eq!(call!(&service, Method::GET, &list, None, Value::Null).await, (200, json!({ "visibility": "private" })));
    assert_eq!(publish("owner", "public").await, 200);
    assert_eq!(call!(&service, Method::GET, &list, None, Value::Null).await, (200, json!({ "visibility": "public" })));

    let entry = json!({
        "room_id": room_id, "num_joined_members": 1, "join_rule": "knock", "world_readable": true,
        "guest_can_join": false, "name": "The Porch", "topic": "Ring twice",
    });
    let (_, page) = call!(&service, Method::GET, rooms, None, Value::Null).await;
    assert_eq!(page, json!({ "chunk": [entry], "total_room_count_estimate": 1 }));
    for (body, found) in [
        (json!({ "filter": { "generic_search_term": "pORCH" } }), 1),
        (json!({ "filter": { "generic_search_term": "garden" } }), 0),
        (json!({ "filter": { "room_types": ["m.space"] } }), 0),
        (json!({ "limit": 5 }), 1),
    ] {
        let (status, page) = call!(&service, Method::POST, rooms, Some("bob"), body.clone()).await;
        assert_eq!((status, page["chunk"].as_array().unwrap().len()), (200, found), "{body}");
    }
    assert_eq!(call!(&service, Method::POST, rooms, None, json!({})).await.0, 401);
    assert_eq!(call!(&service, Method::GET, &format!("{rooms}?since=nonsense"), None, Value::Null).await.0, 400);
    assert_eq!(call!(&service, Method::GET, &format!("{rooms}?server=other.test"), None, Value::Null).await.0, 502);
    assert_eq!(call!(&service, Method::GET, &format!("{rooms}?server=us.test"), None, Value::Null).await.0, 200);
    assert_eq!(publish("owner", "private").await, 200);
    assert_eq!(call!(&service, Method::GET, rooms, None, Value::Null).await, empty);
}

#[actix_web::test]
async fn others_are_asked_for_a_client_only_so_often_and_never_those_that_are_denied() {
    let world = World::with(rates(true), |settings| settings.denied_servers = DeniedServers::parse(&["evil.test"]));
    let service = init_service(world.application(&[Serves::Client])).await;
    let get =
        async |path: &str| call!(&service, Method::GET, &format!("/_matrix/client/v3{path}"), None, Value::Null).await;
    let denied = get("/directory/room/%23a:evil.test").await;
    assert_eq!((denied.0, &denied.1["errcode"]), (403, &json!("M_FORBIDDEN")));
    // None of them needs a token, and nobody answers; all of them count.
    for path in ["/directory/room/%23a:there.test", "/profile/@ann:there.test", "/publicRooms?server=there.test"] {
        assert_eq!(get(path).await.0, 502, "{path}");
    }
    let over = get("/profile/@ann:there.test/displayname").await;
    assert_eq!((over.0, &over.1["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")));
    assert_eq!(get("/directory/room/%23a:us.test").await.0, 404, "what is here is told");
}
