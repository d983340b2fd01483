//! Clients that are no clients: ids without end, keys that are none, tokens of nobody, names of others.
//! May not: take a refusal for enough; what is right works before and after.

use serde_json::{Value, json};

use super::ground::Ground;
use crate::support::{Answer, PASSWORD, TestServer, User, encoded, until};

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
    let is_heard = || ground.peer.received().iter().any(|event| event["content"]["body"] == "hello");
    until("the peer hears it", || is_heard().then_some(()));
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
    owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "for all" }));
    let since = anna.now();
    anna.in_room(&room_id, "leave", json!({}));
    owner.about(&room_id, "kick", &carl.user_id);
    owner.say(&room_id, "1", "among ourselves");
    owner.set_state(&room_id, "m.room.name", "", json!({ "name": "ours alone" }));
    owner.set_state(&room_id, "m.room.topic", "", json!({ "topic": "among ourselves" }));
    owner.about(&room_id, "invite", &server.register("newcomer").user_id);
    let room = encoded(&room_id);
    let reads = |user: &User| {
        [
            ("sync", user.try_get("/sync?timeout=0")),
            ("news", user.try_get(&format!("/sync?since={since}&timeout=0"))),
            ("messages", user.try_get(&format!("/rooms/{room}/messages?dir=b&limit=50"))),
            ("state", user.try_get(&format!("/rooms/{room}/state"))),
            ("members", user.try_get(&format!("/rooms/{room}/members"))),
            ("topic", user.try_state(&room_id, "m.room.topic", "")),
        ]
    };
    let is_new = |answer: &Answer| {
        ["among ourselves", "ours alone", "@newcomer"].iter().any(|word| answer.text().contains(word))
    };
    for (what, answer) in reads(&owner) {
        assert!(answer.status == 200 && is_new(&answer), "{what} is there to be seen: {}", answer.text());
    }
    for user in [&anna, &carl] {
        for (what, answer) in reads(user) {
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            assert!(!is_new(&answer), "{what}: {}", answer.text());
        }
        assert_eq!(user.try_state(&room_id, "m.room.topic", "").ok()["topic"], "for all", "as it was then");
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

#[test]
fn tuwunel_c564d9e23_cve_2025_62425_no_stage_is_passed_by_who_does_not_prove_it() {
    let server = TestServer::started();
    let anna = server.register("anna");
    let (first, second) = (server.log_in("anna", PASSWORD), server.log_in("anna", PASSWORD));
    let device = |user: &User| user.get("/account/whoami")["device_id"].as_str().unwrap().to_owned();
    let (first, second) = (device(&first), device(&second));
    let delete = |device: &str, body: Value| anna.ask("DELETE", &format!("/devices/{device}"), Some(body));
    let asked = delete(&first, json!({}));
    let session = asked.json()["session"].as_str().unwrap().to_owned();
    assert_eq!(asked.status, 401);
    let identifier = json!({ "type": "m.id.user", "user": anna.user_id });
    let password = |password: Value| json!({ "type": "m.login.password", "session": session, "identifier": identifier, "password": password });
    let proven = password(json!(PASSWORD));
    let mut proofs = vec![
        json!({}),
        json!({ "session": session }),
        json!({ "type": "m.login.dummy", "session": session }),
        json!({ "type": "m.login.token", "session": session, "token": anna.token }),
        json!({ "type": "m.login.sso", "session": session }),
        json!({ "type": "org.matrix.cross_signing_reset", "session": session }),
        json!({ "type": "m.login.password", "session": session, "identifier": identifier }),
        json!({ "type": "m.login.password", "password": PASSWORD, "identifier": { "type": "m.id.user", "user": "berta" } }),
    ];
    proofs.extend(["", " ", "*", "!", "correct horse battery stapl", "null"].map(|word| password(json!(word))));
    for proof in proofs {
        for answer in [
            delete(&first, json!({ "auth": proof })),
            anna.try_post("/delete_devices", json!({ "devices": [first], "auth": proof })),
            anna.try_post("/account/deactivate", json!({ "auth": proof })),
        ] {
            assert_eq!(answer.status, 401, "{proof}: {}", answer.text());
        }
    }
    for odd in [json!(null), json!(7), json!([]), json!({})] {
        assert_ne!(delete(&first, json!({ "auth": password(odd.clone()) })).status, 200, "{odd}");
    }
    let devices = || anna.get("/devices")["devices"].to_string();
    assert!(devices().contains(&first) && devices().contains(&second));
    // What was proven for one is proven for no other.
    delete(&first, json!({ "auth": proven })).ok();
    assert_eq!(delete(&second, json!({ "auth": { "session": session } })).status, 401);
    assert_eq!(anna.try_post("/account/deactivate", json!({ "auth": { "session": session } })).status, 401);
    assert!(!devices().contains(&first) && devices().contains(&second));
}
