//! `/sync`: what a client is told, when, and only once.
//! May not: wait for a while; a long poll ends when something happens.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{FakePeer, PASSWORD, TestServer, User, encoded, until};

fn timeline<'a>(sync: &'a Value, room_id: &str) -> &'a Vec<Value> {
    sync["rooms"]["join"][room_id]["timeline"]["events"].as_array().unwrap()
}

fn token(sync: &Value) -> &str {
    sync["next_batch"].as_str().unwrap()
}

fn state<'a>(sync: &'a Value, room_id: &str) -> Vec<&'a Value> {
    let events = sync["rooms"]["join"][room_id]["state"]["events"].as_array();
    events.into_iter().flatten().collect()
}

fn bodies(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[test]
fn first_everything_then_only_what_is_new() {
    let mut server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.create_room(json!({ "preset": "public_chat", "name": "Otters" }));
    owner.say(&room_id, "1", "one");
    anna.join(&room_id);
    let first = anna.sync("timeout=0");
    let told: Vec<&Value> = state(&first, &room_id).into_iter().chain(timeline(&first, &room_id)).collect();
    for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name"] {
        assert_eq!(told.iter().filter(|event| event["type"] == kind).count(), 1, "{kind}");
    }
    assert_eq!(first["rooms"]["join"][&room_id]["summary"]["m.joined_member_count"], 2);
    assert!(first["account_data"]["events"].as_array().unwrap().iter().any(|event| event["type"] == "m.push_rules"));
    let nothing = anna.sync_since(token(&first));
    assert!(nothing["rooms"]["join"].get(&room_id).is_none(), "{nothing}");
    owner.say(&room_id, "2", "two");
    owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "otters" }));
    let news = anna.sync_since(token(&nothing));
    let kinds: Vec<&str> = timeline(&news, &room_id).iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["m.room.message", "m.room.topic"]);
    assert_eq!(news["rooms"]["join"][&room_id]["timeline"]["limited"], false);
    // The same token gives the same, also after a crash.
    server.kill();
    server.restart();
    let again = anna.sync_since(token(&nothing));
    assert_eq!(timeline(&again, &room_id).len(), 2);
    let whole = anna.sync(&format!("since={}&timeout=0&full_state=true", token(&news)));
    assert!(state(&whole, &room_id).iter().any(|event| event["type"] == "m.room.create"), "{whole}");
    anna.try_get("/sync?since=nonsense").refused(400, "M_INVALID_PARAM");
}

#[test]
fn a_long_poll_ends_with_the_news_and_without_it_in_time() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("11");
    let since = owner.now();
    let begun = Instant::now();
    let quiet = owner.sync(&format!("since={since}&timeout=300"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(quiet["rooms"].get("join").is_none_or(|join| join.get(&room_id).is_none()));
    let template = peer.knock_template(&server, &room_id, &peer.user("ann"));
    let knock = peer.sign(template.with_reason("otters"));
    let polling = {
        let (owner, since) = (owner.clone(), since.clone());
        thread::spawn(move || {
            let begun = Instant::now();
            (owner.sync(&format!("since={since}&timeout=30000")), begun.elapsed())
        })
    };
    let is_waiting = || server.ask_admin("/metrics").text().contains("\nvestibule_sync_waiting 1\n").then_some(());
    until("the owner waits", is_waiting);
    peer.send_knock(&server, &room_id, &knock).ok();
    let (news, took) = polling.join().unwrap();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let seen = timeline(&news, &room_id);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["event_id"], json!(knock.event_id));
    assert_eq!((&seen[0]["content"]["membership"], &seen[0]["content"]["reason"]), (&json!("knock"), &json!("otters")));
    until("nobody waits", || {
        server.ask_admin("/metrics").text().contains("\nvestibule_sync_waiting 0\n").then_some(())
    });
}

#[test]
fn a_gap_is_told_and_can_be_filled() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.create_room(json!({ "preset": "public_chat" }));
    anna.join(&room_id);
    let since = anna.now();
    owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "in the gap" }));
    let texts: Vec<String> = (0..12).map(|number| format!("text {number}")).collect();
    for (number, text) in texts.iter().enumerate() {
        owner.say(&room_id, &number.to_string(), text);
    }
    let filter = encoded(&json!({ "room": { "timeline": { "limit": 5 } } }).to_string());
    let news = anna.sync(&format!("since={since}&timeout=0&filter={filter}"));
    let room = &news["rooms"]["join"][&room_id];
    assert_eq!(room["timeline"]["limited"], true);
    assert_eq!(bodies(timeline(&news, &room_id)), texts[7..]);
    let topic: Vec<&Value> =
        state(&news, &room_id).into_iter().filter(|event| event["type"] == "m.room.topic").collect();
    assert_eq!(topic.len(), 1, "the state at the start of the timeline knows what the gap changed: {room}");
    let mut found: Vec<String> = Vec::new();
    let mut from = room["timeline"]["prev_batch"].as_str().unwrap().to_owned();
    while found.len() < 7 {
        let page = anna.get(&format!("/rooms/{}/messages?dir=b&limit=3&from={from}", encoded(&room_id)));
        found.extend(bodies(page["chunk"].as_array().unwrap()).into_iter().map(str::to_owned));
        from = page["end"].as_str().expect("more lies behind").to_owned();
    }
    let expected: Vec<String> = texts[..7].iter().rev().cloned().collect();
    assert_eq!(found, expected);
}

#[test]
fn filters_are_kept_and_applied() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let (one, two) = (owner.create_room(json!({})), owner.create_room(json!({})));
    owner.say(&one, "1", "in one");
    owner.say(&two, "1", "in two");
    let path = format!("/user/{}/filter", encoded(&owner.user_id));
    let filter = json!({ "room": { "rooms": [one], "timeline": { "types": ["m.room.message"], "limit": 10 }, "state": { "types": ["m.room.create"] } } });
    let id = owner.post(&path, filter.clone())["filter_id"].as_str().unwrap().to_owned();
    assert_eq!(owner.get(&format!("{path}/{id}")), filter);
    anna.try_get(&format!("{path}/{id}")).refused(403, "M_FORBIDDEN");
    let told = owner.sync(&format!("timeout=0&filter={id}"));
    let rooms: Vec<&String> = told["rooms"]["join"].as_object().unwrap().keys().collect();
    assert_eq!(rooms, [&one]);
    assert_eq!(bodies(timeline(&told, &one)), ["in one"]);
    assert_eq!(timeline(&told, &one).len(), 1);
    assert!(state(&told, &one).iter().all(|event| event["type"] == "m.room.create"));
    for bad in ["99", "%7Bnot-json"] {
        assert_eq!(owner.try_get(&format!("/sync?timeout=0&filter={bad}")).status, 400, "{bad}");
    }
}

#[test]
fn a_transaction_id_is_shown_to_the_session_that_sent_it_alone() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let second = server.log_in("owner", PASSWORD);
    let room_id = owner.create_room(json!({ "preset": "public_chat" }));
    anna.join(&room_id);
    let sessions = [&owner, &second, &anna];
    let tokens = sessions.map(User::now);
    let event_id = owner.say(&room_id, "my-transaction", "hello");
    for (session, since) in sessions.iter().zip(&tokens) {
        let news = session.sync_since(since);
        let event = timeline(&news, &room_id).iter().find(|event| event["event_id"] == json!(event_id)).unwrap();
        let shown = event["unsigned"].get("transaction_id").and_then(Value::as_str);
        assert_eq!(shown, (session.device_id == owner.device_id).then_some("my-transaction"), "{}", session.user_id);
    }
}

#[test]
fn those_who_knock_are_shown_the_door_and_their_own_knock() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.knockable_room("12");
    owner.say(&room_id, "1", "a secret");
    let since = anna.now();
    anna.try_knock(&room_id, "otters").ok();
    for sync in [anna.sync_since(&since), anna.sync("timeout=0")] {
        let shown = sync["rooms"]["knock"][&room_id]["knock_state"]["events"].as_array().unwrap();
        let kinds: Vec<&str> = shown.iter().map(|event| event["type"].as_str().unwrap()).collect();
        for kind in ["m.room.create", "m.room.join_rules", "m.room.name", "m.room.member"] {
            assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
        }
        let own = shown.iter().find(|event| event["type"] == "m.room.member").unwrap();
        assert_eq!((&own["state_key"], &own["content"]["reason"]), (&json!(anna.user_id), &json!("otters")));
        assert!(sync["rooms"].get("join").is_none_or(|join| join.get(&room_id).is_none()));
        assert!(!sync.to_string().contains("a secret"));
    }
    let since = anna.now();
    owner.say(&room_id, "2", "another secret");
    let nothing = anna.sync_since(&since);
    assert!(!nothing.to_string().contains(&room_id), "told once: {nothing}");
    anna.in_room(&room_id, "leave", json!({}));
    let left = anna.sync_since(&since);
    assert!(left["rooms"]["leave"].get(&room_id).is_some(), "{left}");
    assert!(left["rooms"]["knock"].get(&room_id).is_none(), "{left}");
    assert!(!left.to_string().contains("secret"));
}
