//! Making rooms, and what is sent into them.
//! May not: take an answer for the state of the room; what was done is read again.

use serde_json::{Value, json};

use crate::support::{PASSWORD, TestServer, User, encoded};

fn state_of(user: &User, room_id: &str, kind: &str) -> Value {
    user.try_state(room_id, kind, "").ok()
}

#[test]
fn rooms_are_made_in_every_hosted_version_and_by_preset() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    for version in ["6", "7", "8", "9", "10", "11", "12"] {
        let room_id = owner.create_room(json!({ "room_version": version, "name": "Otters", "topic": "All of them" }));
        let create = state_of(&owner, &room_id, "m.room.create");
        assert_eq!(create["room_version"], version);
        assert_eq!(create.get("creator").is_some(), version.parse::<u8>().unwrap() <= 10, "{version}");
        assert_eq!(room_id.ends_with(":vestibule.test"), version != "12", "{room_id}");
        assert_eq!(state_of(&owner, &room_id, "m.room.name")["name"], "Otters");
        assert_eq!(state_of(&owner, &room_id, "m.room.topic")["topic"], "All of them");
        let users = state_of(&owner, &room_id, "m.room.power_levels")["users"].clone();
        // The creator of a version 12 room stands above all levels and may not be named.
        assert_eq!(users.get(&owner.user_id).is_some(), version != "12", "{version}: {users}");
        owner.say(&room_id, "1", "hello");
    }
    for version in ["5", "13", "nonsense"] {
        owner.try_post("/createRoom", json!({ "room_version": version })).refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    }
    // (preset, join rule, may a guest come in, history)
    for (preset, rule, guests, history) in [
        ("private_chat", "invite", "can_join", "shared"),
        ("trusted_private_chat", "invite", "can_join", "shared"),
        ("public_chat", "public", "forbidden", "shared"),
    ] {
        let room_id = owner.create_room(json!({ "preset": preset, "room_version": "11", "invite": [anna.user_id] }));
        assert_eq!(state_of(&owner, &room_id, "m.room.join_rules")["join_rule"], rule, "{preset}");
        assert_eq!(state_of(&owner, &room_id, "m.room.guest_access")["guest_access"], guests, "{preset}");
        assert_eq!(state_of(&owner, &room_id, "m.room.history_visibility")["history_visibility"], history, "{preset}");
        let levels = state_of(&owner, &room_id, "m.room.power_levels");
        let is_trusted = preset == "trusted_private_chat";
        assert_eq!(levels["users"][&anna.user_id] == 100, is_trusted, "{preset}: {levels}");
        assert_eq!(owner.membership(&room_id, &anna.user_id).as_deref(), Some("invite"));
    }
}

#[test]
fn wishes_at_creation_win_over_the_preset() {
    let server = TestServer::started();
    let owner = server.register("owner");
    let room_id = owner.create_room(json!({
        "preset": "public_chat",
        "power_level_content_override": { "invite": 50, "events": { "m.room.topic": 0 } },
        "creation_content": { "m.federate": false, "org.example": 1 },
        "initial_state": [
            { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } },
            { "type": "org.example.color", "state_key": "door", "content": { "color": "red" } },
        ],
        "room_alias_name": "otters",
    }));
    assert_eq!(state_of(&owner, &room_id, "m.room.join_rules")["join_rule"], "knock");
    assert_eq!(owner.try_state(&room_id, "org.example.color", "door").ok()["color"], "red");
    let create = state_of(&owner, &room_id, "m.room.create");
    assert_eq!((&create["m.federate"], &create["org.example"]), (&json!(false), &json!(1)));
    let levels = state_of(&owner, &room_id, "m.room.power_levels");
    assert_eq!((&levels["invite"], &levels["events"]["m.room.topic"]), (&json!(50), &json!(0)));
    assert_eq!(state_of(&owner, &room_id, "m.room.canonical_alias")["alias"], "#otters:vestibule.test");
    let taken = owner.try_post("/createRoom", json!({ "room_alias_name": "otters" }));
    taken.refused(400, "M_ROOM_IN_USE");
    for (body, errcode) in [
        (json!({ "preset": "castle" }), "M_BAD_JSON"),
        (json!({ "initial_state": [{ "content": {} }] }), "M_BAD_JSON"),
        (json!({ "invite": ["nobody"] }), "M_BAD_JSON"),
    ] {
        let answer = owner.try_post("/createRoom", body.clone());
        assert_eq!(answer.status, 400, "{body}: {} (as {errcode})", answer.text());
    }
    owner.try_post("/createRoom", json!({ "invite": ["@nobody:vestibule.test"] })).refused(404, "M_NOT_FOUND");
    assert_eq!(server.totals()["rooms_stored"], 1, "what was refused left no room");
}

#[test]
fn state_is_put_and_got_by_those_who_may() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.create_room(json!({ "preset": "public_chat" }));
    anna.join(&room_id);
    let event_id = owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "otters" }));
    assert_eq!(state_of(&anna, &room_id, "m.room.topic")["topic"], "otters");
    let event = anna.get(&format!("/rooms/{}/event/{}", encoded(&room_id), encoded(&event_id)));
    assert_eq!((&event["type"], &event["state_key"]), (&json!("m.room.topic"), &json!("")));
    let room = encoded(&room_id);
    anna.try_put(&format!("/rooms/{room}/state/m.room.topic"), json!({ "topic": "cats" })).refused(403, "M_FORBIDDEN");
    assert_eq!(state_of(&anna, &room_id, "m.room.topic")["topic"], "otters");
    owner.try_state(&room_id, "m.room.avatar", "").refused(404, "M_NOT_FOUND");
    let whole = anna.get(&format!("/rooms/{room}/state"));
    let kinds: Vec<&str> = whole.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.topic", "m.room.member"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    // Who leaves reads what was there at leaving.
    anna.in_room(&room_id, "leave", json!({}));
    owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "secret" }));
    assert_eq!(state_of(&anna, &room_id, "m.room.topic")["topic"], "otters");
}

#[test]
fn a_transaction_sent_twice_is_one_event_also_after_a_restart() {
    let mut server = TestServer::started();
    let owner = server.register("owner");
    let room_id = owner.create_room(json!({}));
    let first = owner.say(&room_id, "txn", "hello");
    assert_eq!(owner.say(&room_id, "txn", "hello"), first);
    server.kill();
    server.restart();
    assert_eq!(owner.say(&room_id, "txn", "hello"), first);
    let other_session = server.log_in("owner", PASSWORD);
    assert_ne!(other_session.say(&room_id, "txn", "hello"), first, "transactions belong to a session");
    let room = encoded(&room_id);
    let path = format!("/rooms/{room}/redact/{}/txn2", encoded(&first));
    let redaction = owner.put(&path, json!({ "reason": "typo" }))["event_id"].clone();
    assert_eq!(owner.put(&path, json!({ "reason": "typo" }))["event_id"], redaction);
    let page = owner.get(&format!("/rooms/{room}/messages?dir=b&limit=100"));
    let count = |kind: &str| page["chunk"].as_array().unwrap().iter().filter(|event| event["type"] == kind).count();
    assert_eq!((count("m.room.message"), count("m.room.redaction")), (2, 1));
}

#[test]
fn a_redacted_event_keeps_nothing_of_what_was_said() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    for version in ["10", "12"] {
        let room_id = owner.create_room(json!({ "preset": "public_chat", "room_version": version }));
        anna.join(&room_id);
        let (mine, theirs) = (anna.say(&room_id, "a", "a secret"), owner.say(&room_id, "o", "another secret"));
        let redact = |user: &User, event_id: &str| {
            user.try_put(
                &format!("/rooms/{}/redact/{}/r{}", encoded(&room_id), encoded(event_id), &event_id[1..6]),
                json!({}),
            )
        };
        redact(&anna, &theirs).refused(403, "M_FORBIDDEN");
        redact(&anna, &mine).ok();
        let event = |event_id: &str| owner.get(&format!("/rooms/{}/event/{}", encoded(&room_id), encoded(event_id)));
        let redacted = event(&mine);
        assert_eq!(redacted["content"], json!({}));
        assert_eq!(redacted["unsigned"]["redacted_because"]["sender"], json!(anna.user_id));
        assert_eq!(event(&theirs)["content"]["body"], "another secret");
        redact(&owner, &theirs).ok();
        assert_eq!(event(&theirs)["content"], json!({}));
    }
}

#[test]
fn what_is_no_event_is_refused_and_changes_nothing() {
    let server = TestServer::started();
    let (owner, stranger) = (server.register("owner"), server.register("stranger"));
    let room_id = owner.create_room(json!({ "preset": "public_chat" }));
    let room = encoded(&room_id);
    let since = owner.now();
    let send = |user: &User, body: Value| user.try_put(&format!("/rooms/{room}/send/m.room.message/x"), body);
    send(&stranger, json!({ "body": "hi" })).refused(403, "M_FORBIDDEN");
    send(&owner, json!("not an object")).refused(400, "M_BAD_JSON");
    send(&owner, json!({ "float": 1.5 })).refused(400, "M_BAD_JSON");
    send(&owner, json!({ "body": "x".repeat(66_000) })).refused(413, "M_TOO_LARGE");
    let long = "k".repeat(256);
    owner.try_put(&format!("/rooms/{room}/state/{long}/"), json!({})).refused(413, "M_TOO_LARGE");
    owner.try_put("/rooms/%21none%3Avestibule.test/send/m.room.message/x", json!({})).refused(403, "M_FORBIDDEN");
    let raw = owner.token.clone();
    let bearer = format!("Bearer {raw}");
    let target = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/y");
    let garbage = server.client().ask("PUT", &target, &[("Authorization", &bearer)], Some(b"{\"body\":"));
    garbage.refused(400, "M_NOT_JSON");
    let news = owner.sync_since(&since);
    assert!(news["rooms"]["join"].get(&room_id).is_none(), "{news}");
    owner.say(&room_id, "good", "and the next good one works");
}
