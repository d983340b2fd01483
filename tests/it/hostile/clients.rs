//! Clients that are no clients: ids without end, keys that are none, tokens of nobody, names of others.
//! May not: take a refusal for enough; what is right works before and after.

use serde_json::{Value, json};

use super::ground::Ground;
use crate::support::{Answer, PASSWORD, TestServer, encoded};

fn refused(answer: &Answer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    assert!(answer.json()["errcode"].is_string(), "{what}: {}", answer.text());
}

#[test]
fn cve_2021_21393_ids_have_an_end() {
    let server = TestServer::started();
    let anna = server.register("anna");
    let room_id = anna.knockable_room("11");
    let long = "x".repeat(2_000_000);
    for body in [
        json!({ "username": long, "password": PASSWORD, "auth": { "type": "m.login.dummy" } }),
        json!({ "username": "berta", "password": PASSWORD, "device_id": long, "auth": { "type": "m.login.dummy" } }),
    ] {
        let body = body.to_string();
        refused(&server.client().ask("POST", "/_matrix/client/v3/register", &[], Some(body.as_bytes())), "register");
    }
    let long = "x".repeat(5_000);
    let room = encoded(&room_id);
    for (what, answer) in [
        ("a user", anna.try_in_room(&room_id, "invite", json!({ "user_id": format!("@{long}:x.test") }))),
        ("a room", anna.try_in_room(&format!("!{long}:x.test"), "join", json!({}))),
        (
            "an alias",
            anna.try_put(
                &format!("/directory/room/{}", encoded(&format!("#{long}:vestibule.test"))),
                json!({ "room_id": room_id }),
            ),
        ),
        ("a type", anna.try_put(&format!("/rooms/{room}/state/{long}/"), json!({}))),
        ("a state key", anna.try_put(&format!("/rooms/{room}/state/test.odd/{long}"), json!({}))),
        ("a filter", anna.try_get(&format!("/sync?filter={long}"))),
    ] {
        refused(&answer, what);
    }
    anna.say(&room_id, "1", "hello");
    anna.sync("timeout=0");
}

#[test]
fn cve_2025_61672_keys_that_are_none_are_not_kept() {
    let ground = Ground::new();
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    ground.peer.join(&ground.server, &room_id, &ground.peer.user("bob")).ok();
    for keys in [
        json!({ "device_keys": 7 }),
        json!({ "device_keys": [] }),
        json!({ "device_keys": { "user_id": 7 } }),
        json!({ "device_keys": { "user_id": ground.owner.user_id, "device_id": "OTHER", "algorithms": [], "keys": {}, "signatures": {} } }),
        json!({ "one_time_keys": [7] }),
        json!({ "one_time_keys": { "signed_curve25519:A": 7 } }),
        json!({ "fallback_keys": "x" }),
    ] {
        refused(&ground.owner.try_post("/keys/upload", keys.clone()), &keys.to_string());
    }
    let target = format!("/_matrix/federation/v1/user/devices/{}", encoded(&ground.owner.user_id));
    let devices = ground.peer.ask(&ground.server, "GET", &target, None).ok();
    assert!(
        devices["devices"].as_array().unwrap().iter().all(|device| device.get("keys").is_none_or(Value::is_object)),
        "{devices}"
    );
    ground.owner.say(&room_id, "1", "hello");
    crate::support::until("the peer hears it", || (!ground.peer.received().is_empty()).then_some(()));
}

#[test]
fn cve_2023_32682_nobody_is_who_says_nothing() {
    let server = TestServer::started();
    let anna = server.register("anna");
    for header in ["", "Bearer", "Bearer ", "Bearer  ", "Basic eDp4", "bearer x", "Bearer null", "Bearer undefined"] {
        let answer =
            server.client().ask("GET", "/_matrix/client/v3/account/whoami", &[("Authorization", header)], None);
        assert_eq!(answer.status, 401, "{header:?}: {}", answer.text());
    }
    assert_eq!(anna.get("/account/whoami")["user_id"], json!(anna.user_id));
}

#[test]
fn continuwuity_d1ebcfaf0_tokens_differ_and_names_are_of_here() {
    let server = TestServer::started();
    let anna = server.register("anna");
    let mut tokens: Vec<String> = (0..5).map(|_| server.log_in("anna", PASSWORD).token).collect();
    tokens.push(anna.token.clone());
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 6);
    for name in ["@x:other.test", "x:other.test", "@x:vestibule.test", "anna", "ANNA", "a b", "", "@"] {
        let body = json!({ "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy" } }).to_string();
        let answer = server.client().ask("POST", "/_matrix/client/v3/register", &[], Some(body.as_bytes()));
        assert_eq!(answer.status, 400, "{name:?}: {}", answer.text());
    }
    // The old password is still the one.
    server.log_in("anna", PASSWORD);
}

#[test]
fn tuwunel_5798aad7e_nothing_for_users_is_given_to_who_is_none() {
    let server = TestServer::started();
    for path in ["voip/turnServer", "account/whoami", "sync", "joined_rooms", "devices", "pushrules/", "capabilities"] {
        let answer = server.client().get(&format!("/_matrix/client/v3/{path}"));
        // What is not there is 404 to everybody.
        assert!([401, 404].contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
        assert!(!answer.text().contains("password"), "{path}");
    }
}

#[test]
fn cve_2024_52805_no_form_is_read() {
    let server = TestServer::started();
    let anna = server.register("anna");
    let bearer = format!("Bearer {}", anna.token);
    let head = [("Authorization", bearer.as_str()), ("Content-Type", "multipart/form-data; boundary=x")];
    let mut connection = server.client().connect().unwrap();
    // Ours adds a type of its own to a body, so there is none: the length alone is told, and must not be waited for.
    let head: Vec<(&str, &str)> = head.into_iter().chain([("Content-Length", "1073741824")]).collect();
    let answer = connection.ask("POST", "/_matrix/client/v3/createRoom", &head, None).unwrap();
    assert_eq!(answer.status, 415, "{}", answer.text());
    anna.knockable_room("11");
}

#[test]
fn cve_2021_39163_who_has_left_hears_nothing_more() {
    let server = TestServer::started();
    let (owner, anna, carl) = (server.register("owner"), server.register("anna"), server.register("carl"));
    let room_id = owner.knockable_room("11");
    for user in [&anna, &carl] {
        owner.about(&room_id, "invite", &user.user_id);
        user.join(&room_id);
    }
    let since = anna.now();
    anna.in_room(&room_id, "leave", json!({}));
    owner.about(&room_id, "kick", &carl.user_id);
    owner.say(&room_id, "1", "among ourselves");
    owner.set_state(&room_id, "m.room.name", "", json!({ "name": "ours alone" }));
    owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "among ourselves" }));
    let room = encoded(&room_id);
    for user in [&anna, &carl] {
        for (what, answer) in [
            ("sync", user.try_get("/sync?timeout=0")),
            ("news", user.try_get(&format!("/sync?since={since}&timeout=0"))),
            ("messages", user.try_get(&format!("/rooms/{room}/messages?dir=b&limit=50"))),
            ("state", user.try_get(&format!("/rooms/{room}/state"))),
            ("members", user.try_get(&format!("/rooms/{room}/members"))),
            ("topic", user.try_state(&room_id, "m.room.topic", "")),
        ] {
            assert!([200, 400, 403, 404].contains(&answer.status), "{what}: {}", answer.status);
            for word in ["among ourselves", "ours alone"] {
                assert!(!answer.text().contains(word), "{what}: {}", answer.text());
            }
        }
    }
}

#[test]
fn line_breaks_in_what_others_say_break_no_line_of_the_log() {
    let server = TestServer::new().variable("RUST_LOG", "debug").start();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.knockable_room("11");
    let reason = "otters\n2026-01-01 ERROR forged: line\u{1b}[31m\u{202e}\r";
    anna.try_knock(&room_id, reason).ok();
    anna.try_knock("!nowhere\n2026-01-01 ERROR forged:x.test", reason);
    anna.try_get(&format!("/profile/{}", encoded("@a\n2026-01-01 ERROR forged:x.test")));
    server.client().ask("GET", "/_matrix/client/v3/sync", &[("User-Agent", "x\u{1b}[31m")], None);
    for line in server.log().lines() {
        assert!(!line.starts_with("2026-01-01 ERROR forged"), "{line:?}");
        assert!(!line.chars().any(char::is_control) && line.len() <= 2_048, "{line:?}");
    }
    assert_eq!(owner.members(&room_id, "?membership=knock")[0]["content"]["reason"], json!(reason));
}
