//! Encrypting clients against a whole application.
//! May not: reach a network.

use actix_web::http::Method;
use ruma::serde::{Base64, base64::Standard};
use serde_json::{Value, json};
use vestibule_protocol::{canonical_json::parse_object, key_signatures::signed_part, signing::SigningKey};

use crate::client_server::testing::server::{Client, TestServer};

/// The device that every user of the test server has.
const DEVICE: &str = "DEVICE";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed("x", &[seed; 32]).unwrap()
}

fn public(seed: u8) -> String {
    key(seed).public_key_base64().encode()
}

/// Adds the signature of a key that has a name.
fn sign(mut object: Value, user_id: &str, key_id: &str, seed: u8) -> Value {
    let message = signed_part(&parse_object(object.to_string().as_bytes()).unwrap());
    let message = serde_json::to_string(&message).unwrap();
    let signature = Base64::<Standard, _>::new(key(seed).sign_bytes(message.as_bytes())).encode();
    if object["signatures"].get(user_id).is_none() {
        object["signatures"][user_id] = json!({});
    }
    object["signatures"][user_id][key_id] = signature.into();
    object
}

/// Identity keys of a user's device, signed by itself.
fn device_keys(user_id: &str, seed: u8) -> Value {
    let id = format!("ed25519:{DEVICE}");
    let keys = json!({
        "user_id": user_id, "device_id": DEVICE, "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": { (id.as_str()): public(seed), "curve25519:DEVICE": "curve" }, "signatures": {},
    });
    sign(keys, user_id, &id, seed)
}

/// A cross-signing key, signed by another if that is named.
fn cross_signing_key(user_id: &str, usage: &str, seed: u8, signed_by: Option<u8>) -> Value {
    let public_key = public(seed);
    let key =
        json!({ "user_id": user_id, "usage": [usage], "keys": { (format!("ed25519:{public_key}")): public_key } });
    match signed_by {
        None => key,
        Some(by) => {
            let mut key = key;
            key["signatures"] = json!({});
            sign(key, user_id, &format!("ed25519:{}", public(by)), by)
        }
    }
}

async fn token(client: &Client<'_>) -> String {
    client.get("/sync").await["next_batch"].as_str().unwrap().to_owned()
}

async fn since(client: &Client<'_>, token: &str) -> Value {
    client.get(&format!("/sync?since={token}")).await
}

async fn query(client: &Client<'_>, user_id: &str) -> Value {
    client.post("/keys/query", json!({ "device_keys": { (user_id): [] } })).await
}

/// A room of both, so that they see each other's devices.
async fn together(ann: &Client<'_>, bob: &Client<'_>) -> String {
    let room = ann.room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    room
}

#[actix_web::test]
async fn keys_of_one_are_had_by_the_other_each_once() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    together(&ann, &bob).await;
    let (ann_token, bob_token) = (token(&ann).await, token(&bob).await);
    let keys = device_keys("@ann:us.test", 1);
    let uploaded = ann
        .post(
            "/keys/upload",
            json!({
                "device_keys": keys,
                "one_time_keys": { "signed_curve25519:B": { "key": "b" }, "signed_curve25519:A": { "key": "a" } },
                "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
            }),
        )
        .await;
    assert_eq!(uploaded, json!({ "one_time_key_counts": { "signed_curve25519": 2 } }));
    let seen = since(&bob, &bob_token).await;
    assert_eq!(seen["device_lists"], json!({ "changed": ["@ann:us.test"], "left": [] }));
    let seen = since(&ann, &ann_token).await;
    assert_eq!(seen["device_one_time_keys_count"], json!({ "signed_curve25519": 2 }));
    assert_eq!(seen["device_unused_fallback_key_types"], json!(["signed_curve25519"]));

    let found = query(&bob, "@ann:us.test").await;
    let found = &found["device_keys"]["@ann:us.test"][DEVICE];
    assert_eq!((&found["keys"], &found["signatures"]), (&keys["keys"], &keys["signatures"]));
    let claim = async || {
        let wanted = json!({ "one_time_keys": { "@ann:us.test": { (DEVICE): "signed_curve25519" } } });
        let claimed = bob.post("/keys/claim", wanted).await;
        assert_eq!(claimed["failures"], json!({}));
        claimed["one_time_keys"]["@ann:us.test"][DEVICE].as_object().unwrap().keys().next().cloned().unwrap()
    };
    let claimed = [claim().await, claim().await, claim().await, claim().await];
    assert_eq!(claimed, ["A", "B", "F", "F"].map(|id| format!("signed_curve25519:{id}")));
    let seen = since(&ann, &ann_token).await;
    assert_eq!(seen["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(seen["device_unused_fallback_key_types"], json!([]));
    let nothing = bob.post("/keys/claim", json!({ "one_time_keys": { "@bob:us.test": { "X": "other" } } })).await;
    assert_eq!(nothing, json!({ "failures": {}, "one_time_keys": {} }));
}

#[actix_web::test]
async fn uploads_are_judged_before_anything_is_kept() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let one_time = |name: &str, key: Value| json!({ "one_time_keys": { (name): key } });
    ann.post("/keys/upload", one_time("signed_curve25519:A", json!({ "key": "a" }))).await;
    ann.post("/keys/upload", one_time("signed_curve25519:A", json!({ "key": "a" }))).await;
    ann.post("/keys/upload", json!({ "device_keys": null, "one_time_keys": null, "fallback_keys": null })).await;
    ann.post("/keys/upload", json!({})).await;
    let mut others = device_keys("@ann:us.test", 1);
    others["device_id"] = json!("OTHER");
    for (body, refused) in [
        (one_time("signed_curve25519:A", json!({ "key": "b" })), (400, "M_INVALID_PARAM")),
        (one_time("signed_curve25519:B", json!(null)), (400, "M_BAD_JSON")),
        (one_time("nonsense", json!("b")), (400, "M_BAD_JSON")),
        (json!({ "one_time_keys": [] }), (400, "M_BAD_JSON")),
        (json!({ "fallback_keys": { "a:1": "x", "a:2": "y" } }), (400, "M_INVALID_PARAM")),
        (json!({ "device_keys": [] }), (400, "M_BAD_JSON")),
        (json!({ "device_keys": device_keys("@bob:us.test", 1) }), (400, "M_INVALID_PARAM")),
        (json!({ "device_keys": others }), (400, "M_INVALID_PARAM")),
        (json!([]), (400, "M_BAD_JSON")),
    ] {
        let found = ann.post_refused("/keys/upload", body.clone()).await;
        assert_eq!((found.0, found.1.as_str()), refused, "{body}");
    }
    let counts = ann.post("/keys/upload", json!({})).await;
    assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 1 } }));
    assert_eq!(query(&ann, "@ann:us.test").await["device_keys"], json!({ "@ann:us.test": {} }));
    for path in ["/keys/query", "/keys/claim"] {
        assert_eq!(ann.post_refused(path, json!({})).await, (400, "M_MISSING_PARAM".to_owned()), "{path}");
        for odd in [json!([]), json!({ "nobody": {} }), json!({ "@a:b": 1 })] {
            let body = json!({ "device_keys": odd, "one_time_keys": odd });
            assert_eq!(ann.post_refused(path, body.clone()).await.0, 400, "{path}: {body}");
        }
    }
}

#[actix_web::test]
async fn messages_wait_until_the_next_sync_says_that_they_came() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let mut bob_token = token(&bob).await;
    let send = async |transaction: &str, body: &str| {
        let messages =
            json!({ "messages": { "@bob:us.test": { "*": { "body": body } }, "@nobody:us.test": { "X": {} } } });
        ann.put(&format!("/sendToDevice/m.test/{transaction}"), messages).await
    };
    send("1", "one").await;
    send("1", "one").await;
    send("2", "two").await;
    let event = |body: &str| json!({ "content": { "body": body }, "sender": "@ann:us.test", "type": "m.test" });
    // Until then they are told again: the answer may not have come.
    for _ in 0..2 {
        assert_eq!(since(&bob, &bob_token).await["to_device"]["events"], json!([event("one"), event("two")]));
    }
    bob_token = since(&bob, &bob_token).await["next_batch"].as_str().unwrap().to_owned();
    assert_eq!(since(&bob, &bob_token).await["to_device"]["events"], json!([]));
    assert_eq!(bob.get("/sync").await["to_device"]["events"], json!([]));

    // More than one answer takes come in several, each once and in order.
    for number in 0..250 {
        send(&format!("many{number}"), &number.to_string()).await;
    }
    let mut told = Vec::new();
    while told.len() < 250 {
        let answer = since(&bob, &bob_token).await;
        let events = answer["to_device"]["events"].as_array().unwrap();
        assert!(!events.is_empty() && events.len() <= 100, "{} after {}", events.len(), told.len());
        told.extend(events.iter().map(|event| event["content"]["body"].as_str().unwrap().to_owned()));
        bob_token = answer["next_batch"].as_str().unwrap().to_owned();
    }
    assert_eq!(told, (0..250).map(|number| number.to_string()).collect::<Vec<_>>());
    for (path, body) in [
        ("m.test/x", json!({})),
        ("m.test/x", json!({ "messages": { "@bob:us.test": { "*": null } } })),
        ("m.test/x", json!({ "messages": { "@bob:us.test": [] } })),
        ("m.test/x", json!({ "messages": { "bob": {} } })),
    ] {
        assert_eq!(ann.put_refused(&format!("/sendToDevice/{path}"), body.clone()).await.0, 400, "{body}");
    }
    let long = "t".repeat(1000);
    let body = json!({ "messages": {} });
    assert_eq!(ann.put_refused(&format!("/sendToDevice/m.test/{long}"), body).await.0, 400);
}

#[actix_web::test]
async fn messages_and_devices_wake_who_waits() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    together(&ann, &bob).await;
    // Longer than anybody waits for a test: who is not woken is told nothing.
    let waiting = async |token: &str| bob.get(&format!("/sync?since={token}&timeout=30000")).await;
    let messages = json!({ "messages": { "@bob:us.test": { (DEVICE): { "body": "hello" } } } });
    let bobs = token(&bob).await;
    let (seen, _) = futures_util::join!(waiting(&bobs), ann.put("/sendToDevice/m.test/1", messages));
    assert_eq!(seen["to_device"]["events"][0]["content"]["body"], "hello");
    let bobs = seen["next_batch"].as_str().unwrap();
    let keys = json!({ "device_keys": device_keys("@ann:us.test", 1) });
    let (seen, _) = futures_util::join!(waiting(bobs), ann.post("/keys/upload", keys));
    assert_eq!(seen["device_lists"]["changed"], json!(["@ann:us.test"]));
}

#[actix_web::test]
async fn who_comes_and_goes_is_followed_and_no_longer() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(json!({ "preset": "public_chat" })).await;
    let (before, bobs) = (token(&ann).await, token(&bob).await);
    bob.post(&format!("/join/{room}"), json!({})).await;
    assert_eq!(since(&ann, &before).await["device_lists"], json!({ "changed": ["@bob:us.test"], "left": [] }));
    assert_eq!(since(&bob, &bobs).await["device_lists"], json!({ "changed": ["@ann:us.test"], "left": [] }));
    let (inside, bobs) = (token(&ann).await, token(&bob).await);
    // A new name is no news of devices.
    bob.put("/profile/@bob:us.test/displayname", json!({ "displayname": "Bobby" })).await;
    assert_eq!(since(&ann, &inside).await["device_lists"], json!({ "changed": [], "left": [] }));
    bob.post(&format!("/rooms/{room}/leave"), json!({})).await;
    assert_eq!(since(&ann, &inside).await["device_lists"], json!({ "changed": [], "left": ["@bob:us.test"] }));
    assert_eq!(since(&bob, &bobs).await["device_lists"], json!({ "changed": [], "left": ["@ann:us.test"] }));
    let changes = ann.get(&format!("/keys/changes?from={inside}&to={}", token(&ann).await)).await;
    assert_eq!(changes, json!({ "changed": [], "left": ["@bob:us.test"] }));
    // Strangers hear nothing of each other.
    let apart = token(&ann).await;
    bob.post("/keys/upload", json!({ "device_keys": device_keys("@bob:us.test", 1) })).await;
    assert_eq!(since(&ann, &apart).await["device_lists"], json!({ "changed": [], "left": [] }));
    assert_eq!(ann.get_refused("/keys/changes?from=x&to=y").await, (400, "M_INVALID_PARAM".to_owned()));
}

#[actix_web::test]
async fn who_comes_from_a_life_that_was_lost_asks_for_all_devices_again() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    together(&ann, &bob).await;
    let changed = |sync: Value| sync["device_lists"]["changed"].clone();
    assert_eq!(changed(since(&ann, "s1_0.99999999").await), json!(["@bob:us.test"]));
    // Who has no token knows no devices.
    assert_eq!(changed(ann.get("/sync").await), json!([]));
}

#[actix_web::test]
async fn of_many_who_go_those_stay_who_are_elsewhere_too() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let (cat, dan) = (server.user("cat").await, server.user("dan").await);
    let hall = ann.room(json!({ "preset": "public_chat" })).await;
    for guest in [&bob, &cat, &dan] {
        guest.post(&format!("/join/{hall}"), json!({})).await;
    }
    together(&ann, &bob).await;
    let inside = token(&ann).await;
    ann.post(&format!("/rooms/{hall}/leave"), json!({})).await;
    let left = json!({ "changed": [], "left": ["@cat:us.test", "@dan:us.test"] });
    assert_eq!(since(&ann, &inside).await["device_lists"], left);
    let outside = token(&ann).await;
    ann.post(&format!("/join/{hall}"), json!({})).await;
    let changed = json!({ "changed": ["@bob:us.test", "@cat:us.test", "@dan:us.test"], "left": [] });
    assert_eq!(since(&ann, &outside).await["device_lists"], changed);
}

#[actix_web::test]
async fn cross_signing_keys_are_signed_and_only_good_signatures_are_kept() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    together(&ann, &bob).await;
    let (ann_id, bob_id) = ("@ann:us.test", "@bob:us.test");
    let upload = |user_id: &str, seed: u8| {
        json!({
            "master_key": cross_signing_key(user_id, "master", seed, None),
            "self_signing_key": cross_signing_key(user_id, "self_signing", seed + 1, Some(seed)),
            "user_signing_key": cross_signing_key(user_id, "user_signing", seed + 2, Some(seed)),
        })
    };
    let path = "/keys/device_signing/upload";
    let mut forged = upload(ann_id, 10);
    forged["self_signing_key"] = cross_signing_key(ann_id, "self_signing", 11, Some(12));
    assert_eq!(ann.post_refused(path, forged).await, (400, "M_INVALID_SIGNATURE".to_owned()));
    let alone = json!({ "self_signing_key": cross_signing_key(ann_id, "self_signing", 11, Some(10)) });
    assert_eq!(ann.post_refused(path, alone).await, (400, "M_INVALID_PARAM".to_owned()));
    // The first keys need no password; the same keys again neither; others do.
    ann.post(path, upload(ann_id, 10)).await;
    bob.post(path, upload(bob_id, 20)).await;
    ann.post(path, upload(ann_id, 10)).await;
    let (status, to_do) = ann.ask(Method::POST, path, upload(ann_id, 30)).await;
    assert_eq!((status, &to_do["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])));

    ann.post("/keys/upload", json!({ "device_keys": device_keys(ann_id, 1) })).await;
    let bobs = token(&bob).await;
    let stored = query(&ann, ann_id).await["device_keys"][ann_id][DEVICE].clone();
    let mut bare = stored.clone();
    bare["signatures"] = json!({});
    let self_signing = format!("ed25519:{}", public(11));
    let mut other_key = sign(bare.clone(), ann_id, &self_signing, 11);
    other_key["keys"]["curve25519:DEVICE"] = json!("stolen");
    let master_of_bob = cross_signing_key(bob_id, "master", 20, None);
    let user_signing = format!("ed25519:{}", public(12));
    let mut of_bob = master_of_bob.clone();
    of_bob["signatures"] = json!({});
    let signed_bob = sign(of_bob, ann_id, &user_signing, 12);
    let signatures = "/keys/signatures/upload";
    for (target, target_key, signed, errcode) in [
        (ann_id, DEVICE, sign(bare.clone(), ann_id, &self_signing, 13), "M_INVALID_SIGNATURE"),
        (ann_id, DEVICE, sign(bare.clone(), ann_id, &user_signing, 12), "M_INVALID_SIGNATURE"),
        (ann_id, DEVICE, other_key, "M_INVALID_PARAM"),
        (ann_id, DEVICE, stored.clone(), "M_INVALID_SIGNATURE"),
        (ann_id, "OTHER", sign(bare.clone(), ann_id, &self_signing, 11), "M_NOT_FOUND"),
        (bob_id, DEVICE, signed_bob.clone(), "M_NOT_FOUND"),
        ("@dan:there.test", "x", signed_bob.clone(), "M_NOT_FOUND"),
        (ann_id, DEVICE, json!(null), "M_BAD_JSON"),
    ] {
        let answer = ann.post(signatures, json!({ (target): { (target_key): signed } })).await;
        assert_eq!(answer["failures"][target][target_key]["errcode"], errcode, "{answer}");
    }
    assert_eq!(query(&bob, ann_id).await["device_keys"][ann_id][DEVICE]["signatures"], stored["signatures"]);

    let good = json!({
        (ann_id): { (DEVICE): sign(bare, ann_id, &self_signing, 11) },
        (bob_id): { (public(20)): signed_bob },
    });
    assert_eq!(ann.post(signatures, good).await, json!({ "failures": {} }));
    let found = query(&bob, ann_id).await;
    assert!(found["device_keys"][ann_id][DEVICE]["signatures"][ann_id][&self_signing].is_string());
    assert!(found["user_signing_keys"].as_object().unwrap().is_empty());
    assert!(query(&ann, ann_id).await["user_signing_keys"][ann_id].is_object());
    // Whom Ann trusts is Ann's to know.
    assert!(query(&ann, bob_id).await["master_keys"][bob_id]["signatures"][ann_id].is_object());
    assert!(query(&bob, bob_id).await["master_keys"][bob_id]["signatures"][ann_id].is_null());
    let changed = since(&bob, &bobs).await["device_lists"]["changed"].clone();
    assert!(changed.as_array().unwrap().contains(&json!(ann_id)), "{changed}");
}

#[actix_web::test]
async fn devices_are_shown_named_and_removed_with_the_password_alone() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    assert_eq!(ann.get("/devices").await["devices"][0]["device_id"], DEVICE);
    ann.put(&format!("/devices/{DEVICE}"), json!({ "display_name": "the phone" })).await;
    let shown = ann.get(&format!("/devices/{DEVICE}")).await;
    assert_eq!(shown, json!({ "device_id": DEVICE, "display_name": "the phone" }));
    assert_eq!(ann.get_refused("/devices/OTHER").await, (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(
        ann.put_refused("/devices/OTHER", json!({ "display_name": "x" })).await,
        (404, "M_NOT_FOUND".to_owned())
    );
    let long = json!({ "display_name": "x".repeat(1000) });
    assert_eq!(ann.put_refused(&format!("/devices/{DEVICE}"), long).await, (400, "M_INVALID_PARAM".to_owned()));
    let auth = json!({ "type": "m.login.password", "password": "guess", "identifier": { "type": "m.id.user", "user": "ann" } });
    for body in [json!({}), json!({ "auth": auth }), json!({ "auth": { "type": "m.login.dummy" } })] {
        let (status, to_do) = ann.ask(Method::DELETE, &format!("/devices/{DEVICE}"), body.clone()).await;
        assert_eq!((status, &to_do["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])), "{body}");
        let mut body = body;
        body["devices"] = json!([DEVICE]);
        assert_eq!(ann.ask(Method::POST, "/delete_devices", body).await.0, 401);
    }
    assert_eq!(ann.get("/devices").await["devices"].as_array().unwrap().len(), 1);
    for path in ["/room_keys/version", "/room_keys/keys"] {
        assert_eq!(ann.get_refused(path).await, (404, "M_NOT_FOUND".to_owned()));
    }
}
