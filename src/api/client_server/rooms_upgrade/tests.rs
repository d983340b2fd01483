//! What only shows from inside: upgrades side by side, and those that broke off.

use actix_web::http::Method;
use futures_util::future::join;
use serde_json::{Value, json};
use vestibule_actors::limits::Rate;

use crate::{
    client_server::testing::server::{Client, TestServer},
    rate_limit::Rates,
    testing::rates,
};

async fn upgrade(client: &Client<'_>, room: &str, new_version: &str) -> (u16, Value) {
    client.ask(Method::POST, &format!("/rooms/{room}/upgrade"), json!({ "new_version": new_version })).await
}

async fn state(client: &Client<'_>, room: &str, kind: &str) -> Value {
    client.ask(Method::GET, &format!("/rooms/{room}/state/{kind}/"), Value::Null).await.1
}

/// A room of the older kind in which `second` has all power too, and in which everything may be upgraded by both.
async fn shared_room(first: &Client<'_>, second: &Client<'_>) -> String {
    let users = json!({ "@ann:us.test": 100, "@bob:us.test": 100 });
    let wishes = json!({
        "preset": "public_chat", "room_version": "10", "power_level_content_override": { "users": users },
    });
    let room = first.room(wishes).await;
    second.post(&format!("/join/{room}"), json!({})).await;
    room
}

async fn joined(client: &Client<'_>) -> usize {
    client.get("/sync").await["rooms"]["join"].as_object().map_or(0, serde_json::Map::len)
}

#[actix_web::test]
async fn a_request_that_comes_twice_makes_one_room() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = shared_room(&ann, &bob).await;
    let (first, second) = join(upgrade(&ann, &room, "12"), upgrade(&ann, &room, "12")).await;
    assert_eq!((first.0, second.0), (200, 200), "{first:?} {second:?}");
    assert_eq!(first, second);
    assert_eq!(upgrade(&ann, &room, "12").await, first, "and one that comes later");
    assert_eq!(joined(&ann).await, 2);
    // Another wish is another room.
    let other = upgrade(&ann, &room, "11").await;
    assert_eq!(other.0, 200);
    assert_ne!(other.1, first.1);
    assert_eq!(state(&bob, &room, "m.room.tombstone").await["replacement_room"], other.1["replacement_room"]);
}

#[actix_web::test]
async fn of_two_users_at_the_same_time_one_replaces_the_room() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = shared_room(&ann, &bob).await;
    let (anns, bobs) = join(upgrade(&ann, &room, "12"), upgrade(&bob, &room, "12")).await;
    let (done, refused) = if anns.0 == 200 { (anns, bobs) } else { (bobs, anns) };
    assert_eq!((done.0, refused.0, &refused.1["errcode"]), (200, 400, &json!("M_BAD_STATE")));
    assert_eq!(state(&ann, &room, "m.room.tombstone").await["replacement_room"], done.1["replacement_room"]);
    assert_eq!(joined(&ann).await + joined(&bob).await, 3);
    // Who has seen it and still wants another one gets it.
    let again = if joined(&ann).await == 2 { &bob } else { &ann };
    let second = upgrade(again, &room, "12").await;
    assert_eq!(second.0, 200);
    assert_ne!(second.1, done.1);
}

#[actix_web::test]
async fn an_upgrade_that_broke_off_is_finished_by_the_same_request() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = shared_room(&ann, &bob).await;
    let new_room = upgrade(&ann, &room, "12").await.1["replacement_room"].clone();
    // As it looks after the tombstone, before anything else.
    let alias = "/directory/room/%23otters:us.test";
    ann.put(alias, json!({ "room_id": room })).await;
    let canonical = format!("/rooms/{room}/state/m.room.canonical_alias/");
    ann.put(&canonical, json!({ "alias": "#otters:us.test" })).await;
    ann.put(&format!("/directory/list/room/{room}"), json!({ "visibility": "public" })).await;
    let mut open = state(&ann, &room, "m.room.power_levels").await;
    open["events_default"] = json!(0);
    ann.put(&format!("/rooms/{room}/state/m.room.power_levels/"), open).await;

    assert_eq!(upgrade(&ann, &room, "12").await, (200, json!({ "replacement_room": new_room })));
    assert_eq!(ann.get(alias).await["room_id"], new_room);
    assert_eq!(state(&ann, &room, "m.room.canonical_alias").await, json!({}));
    let (_, listed) = ann.ask(Method::GET, "/publicRooms", Value::Null).await;
    assert_eq!(listed["chunk"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["chunk"][0]["room_id"], new_room);
    assert_eq!(state(&ann, &room, "m.room.power_levels").await["events_default"], 50);
}

#[actix_web::test]
async fn who_may_replace_a_room_but_not_name_it_takes_only_own_aliases_along() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let events = json!({ "m.room.tombstone": 0, "m.room.canonical_alias": 50 });
    let wishes = json!({
        "preset": "public_chat", "visibility": "public", "room_version": "11", "room_alias_name": "anns",
        "power_level_content_override": { "events": events },
    });
    let room = ann.room(wishes).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    bob.put("/directory/room/%23bobs:us.test", json!({ "room_id": room })).await;
    let (status, answer) = upgrade(&bob, &room, "11").await;
    assert_eq!(status, 200, "{answer}");
    let new_room = answer["replacement_room"].clone();
    assert_eq!(bob.get("/directory/room/%23anns:us.test").await["room_id"], json!(room));
    assert_eq!(bob.get("/directory/room/%23bobs:us.test").await["room_id"], new_room);
    assert_eq!(bob.get("/publicRooms").await["chunk"][0]["room_id"], json!(room));
    // In the new room Bob is as powerless as before, and the old one is not closed: its levels are not his to set.
    let levels = state(&bob, new_room.as_str().unwrap(), "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ "@ann:us.test": 100 }));
    assert_eq!(state(&bob, &room, "m.room.power_levels").await["events_default"], 0);
}

#[actix_web::test]
async fn a_new_room_counts_as_one_and_a_refused_wish_as_none() {
    let once = Rate { per_second: 0.001, burst: 2.0 };
    let server = TestServer::with(Rates { rooms_by_user: once, ..rates(true) }).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    for _ in 0..3 {
        assert_eq!(upgrade(&bob, &room, "12").await.0, 403);
    }
    bob.room(json!({})).await;
    let upgraded = upgrade(&ann, &room, "12").await;
    assert_eq!(upgraded.0, 200);
    assert_eq!(upgrade(&ann, &room, "11").await.1["errcode"], "M_LIMIT_EXCEEDED");
    assert_eq!(upgrade(&ann, &room, "12").await, upgraded, "what is done is told");
    let tombstone = state(&ann, &room, "m.room.tombstone").await;
    assert_eq!(tombstone["replacement_room"], upgraded.1["replacement_room"]);
}
