use actix_web::http::Method;
use serde_json::{Value, json};

use crate::client_server::testing::server::{Client, TestServer};

fn token(sync: &Value) -> &str {
    sync["next_batch"].as_str().unwrap()
}

async fn since(client: &Client<'_>, seen: &Value) -> Value {
    client.get(&format!("/sync?since={}", token(seen))).await
}

fn ephemeral<'a>(sync: &'a Value, room: &str) -> &'a [Value] {
    sync["rooms"]["join"][room]["ephemeral"]["events"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The receipts of a room, each as thread, event, kind, user.
fn receipts(sync: &Value, room: &str) -> Vec<(Option<String>, String, String, String)> {
    let mut found = Vec::new();
    for event in ephemeral(sync, room).iter().filter(|event| event["type"] == "m.receipt") {
        for (event_id, kinds) in event["content"].as_object().unwrap() {
            for (kind, users) in kinds.as_object().unwrap() {
                for (user, data) in users.as_object().unwrap() {
                    assert!(data["ts"].is_u64(), "{data}");
                    let thread = data["thread_id"].as_str().map(ToOwned::to_owned);
                    found.push((thread, event_id.clone(), kind.clone(), user.clone()));
                }
            }
        }
    }
    found
}

fn shown(thread: Option<&str>, event_id: &str, kind: &str, user: &str) -> (Option<String>, String, String, String) {
    (thread.map(ToOwned::to_owned), event_id.to_owned(), kind.to_owned(), format!("@{user}:us.test"))
}

/// A room of ann's that bob is in.
async fn room_of_two(ann: &Client<'_>, bob: &Client<'_>) -> String {
    let room = ann.room(json!({"preset": "public_chat"})).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    room
}

async fn read(client: &Client<'_>, room: &str, kind: &str, event_id: &str, body: Value) {
    client.post(&format!("/rooms/{room}/receipt/{kind}/{event_id}"), body).await;
}

#[actix_web::test]
async fn typing_is_shown_to_the_room_and_its_end_to_who_saw_it() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = room_of_two(&ann, &bob).await;
    let (ann_seen, bob_seen) = (ann.get("/sync").await, bob.get("/sync").await);
    let path = format!("/rooms/{room}/typing/@bob:us.test");
    assert_eq!(bob.put(&path, json!({"typing": true, "timeout": 30_000})).await, json!({}));
    let typing = json!({"type": "m.typing", "content": {"user_ids": ["@bob:us.test"]}});
    let told = since(&ann, &ann_seen).await;
    assert_eq!(ephemeral(&told, &room), std::slice::from_ref(&typing));
    let joined = &told["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["events"], json!([]));
    assert_eq!(joined["timeline"]["limited"], false);
    assert!(joined["timeline"]["prev_batch"].as_str().is_some_and(|token| !token.is_empty()));
    assert_eq!(ephemeral(&since(&bob, &bob_seen).await, &room), [typing], "their other devices show it");
    // The token of a client that shows somebody typing pages like any other.
    ann.get(&format!("/rooms/{room}/messages?dir=b&from={}", token(&told))).await;
    bob.put(&path, json!({"typing": false})).await;
    let stopped = since(&ann, &told).await;
    assert_eq!(ephemeral(&stopped, &room), [json!({"type": "m.typing", "content": {"user_ids": []}})]);
    assert_eq!(since(&ann, &ann_seen).await["rooms"]["join"], json!({}), "who saw nobody type is told of no end");
    assert_eq!(token(&stopped), token(&ann_seen), "where nobody types a token says nothing of it");
}

#[actix_web::test]
async fn only_members_type_and_only_for_themselves() {
    let server = TestServer::start().await;
    let (ann, bob, eve) = (server.user("ann").await, server.user("bob").await, server.user("eve").await);
    let room = room_of_two(&ann, &bob).await;
    let seen = ann.get("/sync").await;
    let typing = json!({"typing": true, "timeout": 1_000});
    for (who, path, body, status, errcode) in [
        (&eve, format!("/rooms/{room}/typing/@eve:us.test"), typing.clone(), 403, "M_FORBIDDEN"),
        (&eve, format!("/rooms/{room}/typing/@ann:us.test"), typing.clone(), 403, "M_FORBIDDEN"),
        (&ann, format!("/rooms/{room}/typing/@bob:us.test"), typing.clone(), 403, "M_FORBIDDEN"),
        (&ann, "/rooms/!none:us.test/typing/@ann:us.test".to_owned(), typing.clone(), 403, "M_FORBIDDEN"),
        (&ann, "/rooms/none/typing/@ann:us.test".to_owned(), typing.clone(), 400, "M_INVALID_PARAM"),
        (&ann, format!("/rooms/{room}/typing/ann"), typing, 400, "M_INVALID_PARAM"),
        (&ann, format!("/rooms/{room}/typing/@ann:us.test"), json!({"timeout": 1}), 400, "M_MISSING_PARAM"),
        (&ann, format!("/rooms/{room}/typing/@ann:us.test"), json!({"typing": "yes"}), 400, "M_BAD_JSON"),
    ] {
        assert_eq!(who.put_refused(&path, body).await, (status, errcode.to_owned()), "{path}");
    }
    bob.post(&format!("/rooms/{room}/leave"), json!({})).await;
    let path = format!("/rooms/{room}/typing/@bob:us.test");
    assert_eq!(bob.put_refused(&path, json!({"typing": true})).await.0, 403);
    assert!(ephemeral(&since(&ann, &seen).await, &room).is_empty());
}

#[actix_web::test]
async fn receipts_are_shown_to_all_and_private_ones_to_their_user() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = room_of_two(&ann, &bob).await;
    let (one, two) = (ann.say(&room, "one").await, ann.say(&room, "two").await);
    let (ann_seen, bob_seen) = (ann.get("/sync").await, bob.get("/sync").await);
    read(&bob, &room, "m.read", &one, json!({})).await;
    read(&bob, &room, "m.read.private", &two, Value::Null).await;
    let public = shown(None, &one, "m.read", "bob");
    let private = shown(None, &two, "m.read.private", "bob");
    let told = since(&ann, &ann_seen).await;
    assert_eq!(receipts(&told, &room), std::slice::from_ref(&public));
    assert_eq!(told["rooms"]["join"][&room]["timeline"]["events"], json!([]));
    let mut own = receipts(&since(&bob, &bob_seen).await, &room);
    own.sort();
    let mut expected = [public.clone(), private];
    expected.sort();
    assert_eq!(own, expected);
    assert_eq!(receipts(&ann.get("/sync").await, &room), [public], "who starts learns where the others are");
    // Behind or the same is no news.
    read(&bob, &room, "m.read", &one, json!({})).await;
    read(&bob, &room, "m.read.private", &one, json!({})).await;
    assert_eq!(since(&ann, &told).await["rooms"]["join"], json!({}));
    read(&bob, &room, "m.read", &two, json!({})).await;
    assert_eq!(receipts(&since(&ann, &told).await, &room), [shown(None, &two, "m.read", "bob")]);
    // Whoever comes into the room later learns it with the room.
    let carol = server.user("carol").await;
    let before = carol.get("/sync").await;
    carol.post(&format!("/join/{room}"), json!({})).await;
    assert_eq!(receipts(&since(&carol, &before).await, &room), [shown(None, &two, "m.read", "bob")]);
}

#[actix_web::test]
async fn a_thread_has_receipts_of_its_own() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = room_of_two(&ann, &bob).await;
    let (root, apart) = (ann.say(&room, "root").await, ann.say(&room, "apart").await);
    let related = |kind: &str, to: &str| json!({"body": "b", "m.relates_to": {"rel_type": kind, "event_id": to}});
    let send = async |id: &str, content: Value| {
        let sent = ann.put(&format!("/rooms/{room}/send/m.room.message/{id}"), content).await;
        sent["event_id"].as_str().unwrap().to_owned()
    };
    let reply = send("1", related("m.thread", &root)).await;
    let edit = send("2", related("m.replace", &reply)).await;
    let (other_reply, later) =
        (send("3", related("m.thread", &apart)).await, send("4", json!({"body": "later"})).await);
    let seen = ann.get("/sync").await;
    for (event_id, thread, status) in [
        (&reply, json!(root), 200),
        (&edit, json!(root), 200),
        (&root, json!(apart), 400),
        (&later, json!(root), 400),
        (&other_reply, json!(root), 400),
        (&reply, json!("main"), 400),
        (&later, json!("main"), 200),
        (&later, json!("$unknown"), 400),
        (&later, json!(""), 400),
        (&later, json!(7), 400),
    ] {
        let path = format!("/rooms/{room}/receipt/m.read/{event_id}");
        let (found, answer) = bob.ask(Method::POST, &path, json!({"thread_id": thread})).await;
        assert_eq!(found, status, "{event_id} in {thread}: {answer}");
        assert!(status == 200 || answer["errcode"] == "M_INVALID_PARAM", "{answer}");
    }
    // Up to the same event in two ways: none hides the other.
    read(&bob, &room, "m.read", &later, json!({})).await;
    let mut told = receipts(&since(&ann, &seen).await, &room);
    told.sort();
    let mut expected = [
        shown(None, &later, "m.read", "bob"),
        shown(Some("main"), &later, "m.read", "bob"),
        shown(Some(&root), &edit, "m.read", "bob"),
    ];
    expected.sort();
    assert_eq!(told, expected);
}

#[actix_web::test]
async fn only_members_read_and_only_events_of_the_room() {
    let server = TestServer::start().await;
    let (ann, eve) = (server.user("ann").await, server.user("eve").await);
    let (room, other) = (ann.room(json!({})).await, ann.room(json!({})).await);
    let (here, elsewhere) = (ann.say(&room, "here").await, ann.say(&other, "elsewhere").await);
    let seen = ann.get("/sync").await;
    for (who, path, body, status, errcode) in [
        (&eve, format!("/rooms/{room}/receipt/m.read/{here}"), json!({}), 403, "M_FORBIDDEN"),
        (&ann, format!("/rooms/!none:us.test/receipt/m.read/{here}"), json!({}), 403, "M_FORBIDDEN"),
        (&ann, format!("/rooms/{room}/receipt/m.read/{elsewhere}"), json!({}), 404, "M_NOT_FOUND"),
        (&ann, format!("/rooms/{room}/receipt/m.read/$unknown"), json!({}), 404, "M_NOT_FOUND"),
        (&ann, format!("/rooms/{room}/receipt/m.read/unknown"), json!({}), 400, "M_INVALID_PARAM"),
        (&ann, format!("/rooms/{room}/receipt/m.seen/{here}"), json!({}), 400, "M_INVALID_PARAM"),
        (&ann, format!("/rooms/{room}/receipt/m.read/{here}"), json!([]), 400, "M_BAD_JSON"),
        (
            &ann,
            format!("/rooms/{room}/receipt/m.fully_read/{here}"),
            json!({"thread_id": "main"}),
            400,
            "M_INVALID_PARAM",
        ),
        (&ann, format!("/rooms/{room}/receipt/m.fully_read/{elsewhere}"), json!({}), 404, "M_NOT_FOUND"),
        (&ann, format!("/rooms/{room}/read_markers"), json!({"m.read": elsewhere}), 404, "M_NOT_FOUND"),
        (&eve, format!("/rooms/{room}/read_markers"), json!({"m.read": here}), 403, "M_FORBIDDEN"),
    ] {
        assert_eq!(who.post_refused(&path, body).await, (status, errcode.to_owned()), "{path}");
    }
    assert_eq!(since(&ann, &seen).await["rooms"]["join"], json!({}));
}

#[actix_web::test]
async fn what_is_fully_read_is_account_data_that_moves_forward() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({})).await;
    let (one, two) = (ann.say(&room, "one").await, ann.say(&room, "two").await);
    let seen = ann.get("/sync").await;
    let markers = json!({"m.fully_read": one, "m.read": two, "m.read.private": two});
    assert_eq!(ann.post(&format!("/rooms/{room}/read_markers"), markers).await, json!({}));
    let told = since(&ann, &seen).await;
    let data = |sync: &Value| sync["rooms"]["join"][&room]["account_data"]["events"].clone();
    assert_eq!(data(&told), json!([{"type": "m.fully_read", "content": {"event_id": one}}]));
    assert_eq!(receipts(&told, &room).len(), 2);
    read(&ann, &room, "m.fully_read", &two, json!({})).await;
    read(&ann, &room, "m.fully_read", &one, json!({})).await;
    let path = format!("/user/@ann:us.test/rooms/{room}/account_data/m.fully_read");
    assert_eq!(ann.get(&path).await, json!({"event_id": two}));
    assert_eq!(ann.put_refused(&path, json!({"event_id": one})).await.0, 405);
    assert_eq!(ann.post(&format!("/rooms/{room}/read_markers"), json!({})).await, json!({}));
}

#[actix_web::test]
async fn filters_leave_out_what_is_not_wanted() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = room_of_two(&ann, &bob).await;
    let event_id = ann.say(&room, "one").await;
    let seen = ann.get("/sync").await;
    read(&bob, &room, "m.read", &event_id, json!({})).await;
    bob.put(&format!("/rooms/{room}/typing/@bob:us.test"), json!({"typing": true})).await;
    for (filter, kinds) in [
        (json!({}), vec!["m.typing", "m.receipt"]),
        (json!({"types": ["m.receipt"]}), vec!["m.receipt"]),
        (json!({"not_types": ["m.rec*"]}), vec!["m.typing"]),
        (json!({"types": []}), vec![]),
        (json!({"not_rooms": [room]}), vec![]),
        (json!({"rooms": ["!other:us.test"]}), vec![]),
    ] {
        let filter = json!({"room": {"ephemeral": filter}}).to_string();
        let filter = percent_encoding::utf8_percent_encode(&filter, percent_encoding::NON_ALPHANUMERIC);
        for start in [String::new(), format!("&since={}", token(&seen))] {
            let told = ann.get(&format!("/sync?filter={filter}{start}")).await;
            let found: Vec<&str> = ephemeral(&told, &room).iter().filter_map(|event| event["type"].as_str()).collect();
            assert_eq!(found, kinds, "{filter}");
            assert_eq!(told["rooms"]["join"].get(&room).is_none(), kinds.is_empty() && !start.is_empty(), "{filter}");
        }
    }
}

#[actix_web::test]
async fn receipts_for_many_threads_do_not_pile_up() {
    use vestibule_actors::receipts::THREADS_MAX;

    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = room_of_two(&ann, &bob).await;
    let mut newest = String::new();
    for number in 0..THREADS_MAX + 3 {
        newest = ann.say(&room, &format!("root{number}")).await;
        read(&bob, &room, "m.read", &newest, json!({"thread_id": newest})).await;
    }
    read(&bob, &room, "m.read", &newest, json!({})).await;
    let told = receipts(&ann.get("/sync").await, &room);
    assert_eq!(told.len(), THREADS_MAX + 1);
    assert!(told.contains(&shown(Some(&newest), &newest, "m.read", "bob")));
}
