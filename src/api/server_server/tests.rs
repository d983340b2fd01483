//! Handshakes end to end: a peer that signs, real rooms, the reference store.

mod devices;
mod edus;
mod invites;
mod joins;
mod listings;
mod reads;
mod signs_of_life;
mod transactions;

use actix_web::{
    http::{Method, header::AUTHORIZATION},
    test::{TestRequest, init_service},
};
use ruma::{RoomId, RoomVersionId, events::StateEventType};
use serde_json::{Value, json};
use vestibule_federation::denied_servers::DeniedServers;
use vestibule_storage::accounts::{AccountChange, Alias};

use crate::{
    listener::Serves,
    rate_limit::{HOLD_MAX, PARSED_BODIES_BYTES_MAX},
    testing::{NOW, Peer, World, ask, rates},
};

const FEDERATION: [Serves; 1] = [Serves::Federation];

fn make_knock(room_id: &str, user_id: &str) -> String {
    format!("/_matrix/federation/v1/make_knock/{room_id}/{user_id}?ver=6&ver=7&ver=10&ver=11&ver=12")
}

fn knock_from(template: &Value, server: &str, reason: &str) -> Value {
    let mut event = template["event"].clone();
    event["origin"] = json!(server);
    event["origin_server_ts"] = json!(NOW.0);
    event["content"]["reason"] = json!(reason);
    event
}

/// The whole handshake of a join; status and body of where it ended.
async fn join(
    ask: impl AsyncFn(TestRequest) -> (u16, Value),
    peer: &Peer,
    room_id: &RoomId,
    user_id: &str,
    version: &RoomVersionId,
) -> (u16, Value) {
    let (status, template) = ask(peer.get(&make_join(room_id.as_str(), user_id))).await;
    if status != 200 {
        return (status, template);
    }
    let (event_id, event) = peer.sign(template["event"].clone(), version.clone());
    ask(peer.put(&send_join(room_id.as_str(), &event_id), &event)).await
}

fn make_join(room_id: &str, user_id: &str) -> String {
    format!("/_matrix/federation/v1/make_join/{room_id}/{user_id}?ver=8&ver=10&ver=11&ver=12")
}

fn send_join(room_id: &str, event_id: &str) -> String {
    format!("/_matrix/federation/v2/send_join/{room_id}/{event_id}")
}

#[actix_web::test]
async fn a_knock_is_prepared_admitted_and_repeated() {
    for version in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let world = World::new();
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let room_id = world.room(version.clone(), "knock", &[("m.room.name", json!({ "name": "Den" }))]).await;
        let service = init_service(world.application(&FEDERATION)).await;
        // Percent-encoded as some servers send it: verified as sent, decoded once for the room.
        let encoded = room_id.as_str().replace('!', "%21").replace(':', "%3A");
        let (status, template) = ask(&service, peer.get(&make_knock(&encoded, "@ann:them.test")).to_request()).await;
        assert_eq!(status, 200, "{version}: {template}");
        assert_eq!(template["room_version"], json!(version));
        let event = &template["event"];
        assert_eq!(event["sender"], "@ann:them.test");
        assert_eq!(event["state_key"], "@ann:them.test");
        assert_eq!(event["content"]["membership"], "knock");
        for absent in ["signatures", "hashes", "unsigned", "event_id"] {
            assert!(event.get(absent).is_none(), "V10: {absent}");
        }
        let (event_id, knock) = peer.sign(knock_from(&template, "them.test", "let me in"), version.clone());
        let send = format!("/_matrix/federation/v1/send_knock/{room_id}/{event_id}");
        let (status, answer) = ask(&service, peer.put(&send, &knock).to_request()).await;
        assert_eq!(status, 200, "{version}: {answer}");
        let full = answer["knock_room_state"].as_array().unwrap();
        let stripped = answer["knock_state_events"].as_array().unwrap();
        assert_eq!(full.len(), stripped.len());
        assert!(full.iter().any(|event| event["type"] == "m.room.create" && event["signatures"].is_object()));
        assert!(stripped.iter().all(|event| event.as_object().unwrap().len() == 4), "{stripped:?}");
        assert!(stripped.iter().any(|event| event["content"]["name"] == "Den"));
        // The same event again is the same answer, at once.
        assert_eq!(ask(&service, peer.put(&send, &knock).to_request()).await.0, 200);
        let rooms = &world.app.stores.rooms;
        let member = rooms.current_state_event(&room_id, &StateEventType::RoomMember, "@ann:them.test").await.unwrap();
        assert_eq!(member.unwrap().event.event_id().as_str(), event_id);
        // D3: another one is too early, and the answer says from when one counts.
        let (status, early) =
            ask(&service, peer.get(&make_knock(room_id.as_str(), "@ann:them.test")).to_request()).await;
        assert_eq!((status, &early["errcode"]), (403, &json!("M_FORBIDDEN")));
        assert!(early["error"].as_str().unwrap().contains("T"), "{early}");
        assert_eq!(world.refused("already_knocking"), 1);
        let totals = world.app.rooms.gauges().totals().knocks;
        assert_eq!((totals.prepared, totals.admitted, totals.pending), (1, 1, 1));
    }
}

#[actix_web::test]
async fn make_knock_checks_in_the_order_of_the_specification() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    let denied = Peer::new("evil.test:8448", 3);
    world.know(&peer).await;
    world.know(&denied).await;
    let acl = json!({ "allow": ["*"], "deny": ["evil.test"] });
    let room_id = world.room(RoomVersionId::V10, "knock", &[("m.room.server_acl", acl)]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let base = "/_matrix/federation/v1/make_knock";
    // (who asks, what, status, errcode, counted as)
    let table = [
        (&peer, format!("{base}/nonsense/@a:them.test?ver=10"), 400, "M_INVALID_PARAM", ""),
        (&peer, format!("{base}/{room_id}/nonsense?ver=10"), 400, "M_INVALID_PARAM", ""),
        (&peer, format!("{base}/{room_id}/%ff?ver=10"), 400, "M_INVALID_PARAM", ""),
        (&peer, format!("{base}/!other:us.test/@a:them.test?ver=10"), 404, "M_NOT_FOUND", ""),
        (&peer, format!("{base}/!other:us.test/@a:else.test"), 404, "M_NOT_FOUND", ""),
        (&denied, format!("{base}/{room_id}/@a:else.test"), 403, "M_FORBIDDEN", "server_denied"),
        (&peer, format!("{base}/{room_id}/@a:them.test"), 400, "M_MISSING_PARAM", "no_versions_offered"),
        (&peer, format!("{base}/{room_id}/@a:else.test"), 400, "M_MISSING_PARAM", "no_versions_offered"),
        (&peer, format!("{base}/{room_id}/@a:else.test?ver=9"), 400, "M_INVALID_PARAM", "user_not_of_origin"),
        (
            &peer,
            format!("{base}/{room_id}/@a:them.test?ver=9"),
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "version_not_offered",
        ),
        (&peer, format!("{base}/{room_id}/@a:them.test?ver=9&ver=10"), 200, "", ""),
    ];
    for (who, uri, status, errcode, counted) in table {
        let before = world.refused(counted);
        let (found, body) = ask(&service, who.get(&uri).to_request()).await;
        assert_eq!((found, body["errcode"].as_str().unwrap_or_default()), (status, errcode), "{uri}: {body}");
        if !counted.is_empty() {
            assert_eq!(world.refused(counted), before + 1, "{uri}");
        }
        if errcode == "M_INCOMPATIBLE_ROOM_VERSION" {
            assert_eq!(body["room_version"], "10");
        }
    }
}

#[actix_web::test]
async fn send_knock_judges_structure_before_authorization() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    let other = Peer::new("else.test", 3);
    world.know(&peer).await;
    world.know(&other).await;
    // Nobody may knock here: whoever gets 400 was judged by structure first.
    let closed = world.room(RoomVersionId::V10, "invite", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let create = {
        let events = world.app.stores.rooms.current_state(&closed).await.unwrap();
        events.iter().map(|event| event.event.event_id().to_string()).next().unwrap()
    };
    let good = json!({
        "auth_events": [create], "prev_events": [create], "depth": 5,
        "content": { "membership": "knock" }, "origin": "them.test", "origin_server_ts": NOW.0,
        "room_id": closed, "sender": "@a:them.test", "state_key": "@a:them.test", "type": "m.room.member",
    });
    let with = |changes: Value| {
        let mut event = good.clone();
        for (key, value) in changes.as_object().unwrap() {
            event[key] = value.clone();
        }
        event
    };
    let without = |key: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(key);
        event
    };
    let table = [
        (good.clone(), 403, "M_FORBIDDEN"),
        (without("origin"), 403, "M_FORBIDDEN"),
        (with(json!({ "type": "m.room.topic" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "content": { "membership": "join" } })), 400, "M_INVALID_PARAM"),
        (with(json!({ "content": { "membership": 1 } })), 400, "M_INVALID_PARAM"),
        (with(json!({ "state_key": "@b:them.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "sender": "@a:else.test", "state_key": "@a:else.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "room_id": "!other:us.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "origin_server_ts": NOW.0 + 25 * 3_600_000 })), 400, "M_INVALID_PARAM"),
        (with(json!({ "prev_events": ["$unknown"] })), 400, "M_INVALID_PARAM"),
        (with(json!({ "depth": -1 })), 400, "M_BAD_JSON"),
        (with(json!({ "content": { "membership": "knock", "reason": "x".repeat(5_000) } })), 413, "M_TOO_LARGE"),
        (with(json!({ "content": { "membership": "knock", "reason": "x".repeat(70_000) } })), 413, "M_TOO_LARGE"),
        (without("state_key"), 400, "M_INVALID_PARAM"),
        (without("depth"), 400, "M_BAD_JSON"),
        (without("prev_events"), 400, "M_BAD_JSON"),
    ];
    let send = |event_id: &str| format!("/_matrix/federation/v1/send_knock/{closed}/{event_id}");
    for (event, status, errcode) in table {
        let shown: String = event.to_string().chars().take(300).collect();
        let version = RoomVersionId::V10;
        let (event_id, signed) =
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.sign(event.clone(), version))) {
                Ok(signed) => signed,
                // Too large to be hashed and signed at all: sent as it is.
                Err(_) => ("$none".to_owned(), event),
            };
        let (found, body) = ask(&service, peer.put(&send(&event_id), &signed).to_request()).await;
        assert_eq!((found, body["errcode"].as_str().unwrap_or_default()), (status, errcode), "{shown}: {body}");
    }
    // Signed, but not by the sender's server; by the right one, but under another path; not signed at all.
    let (event_id, signed) = other.sign(good.clone(), RoomVersionId::V10);
    let (status, body) = ask(&service, peer.put(&send(&event_id), &signed).to_request()).await;
    assert_eq!((status, &body["errcode"]), (400, &json!("M_INVALID_PARAM")), "{body}");
    let (_, signed) = peer.sign(good.clone(), RoomVersionId::V10);
    let (status, body) = ask(&service, peer.put(&send("$AAAA"), &signed).to_request()).await;
    assert_eq!((status, &body["errcode"]), (400, &json!("M_INVALID_PARAM")), "{body}");
    let mut unsigned = signed.clone();
    unsigned["signatures"] = json!({});
    let (status, body) = ask(&service, peer.put(&send("$AAAA"), &unsigned).to_request()).await;
    assert_eq!((status, &body["errcode"]), (400, &json!("M_INVALID_PARAM")), "{body}");
}

#[actix_web::test]
async fn unproven_requests_are_refused() {
    let world = World::with(rates(false), |settings| settings.denied_servers = DeniedServers::parse(&["*.evil.test"]));
    let peer = Peer::new("them.test", 2);
    let stranger = Peer::new("stranger.test", 4);
    let denied = Peer::new("a.evil.test", 5);
    world.know(&peer).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let uri = "/_matrix/federation/v1/query/profile?user_id=@nobody:us.test";
    let plain = |value: &str| TestRequest::get().uri(uri).insert_header((AUTHORIZATION, value.to_owned()));
    let signed_for = |method: &Method, target: &str, destination: &str, body: Option<&Value>| {
        plain(&peer.authorization(method, target, destination, body))
    };
    let empty = json!({});
    let without_destination =
        peer.authorization(&Method::GET, uri, "us.test", None).replace("destination=\"us.test\",", "");
    let replayed = peer.authorization(&Method::GET, uri, "else.test", None).replace("destination=\"else.test\",", "");
    let table = [
        ("good", peer.get(uri), 404, "M_NOT_FOUND"),
        ("no destination", plain(&without_destination), 404, "M_NOT_FOUND"),
        ("no header", TestRequest::get().uri(uri), 401, "M_UNAUTHORIZED"),
        ("other scheme", plain("Bearer abc"), 401, "M_UNAUTHORIZED"),
        ("malformed", plain("X-Matrix nonsense"), 401, "M_UNAUTHORIZED"),
        ("other destination", signed_for(&Method::GET, uri, "else.test", None), 401, "M_UNAUTHORIZED"),
        ("replayed from another server", plain(&replayed), 401, "M_UNAUTHORIZED"),
        ("other method", signed_for(&Method::PUT, uri, "us.test", None), 401, "M_UNAUTHORIZED"),
        ("other spelling", signed_for(&Method::GET, &uri.replace('@', "%40"), "us.test", None), 401, "M_UNAUTHORIZED"),
        ("a body that is not there", signed_for(&Method::GET, uri, "us.test", Some(&empty)), 401, "M_UNAUTHORIZED"),
        ("unknown keys", stranger.get(uri), 401, "M_UNAUTHORIZED"),
        ("denied", denied.get(uri), 403, "M_FORBIDDEN"),
    ];
    for (what, request, status, errcode) in table {
        let (found, body) = ask(&service, request.to_request()).await;
        assert_eq!((found, body["errcode"].as_str().unwrap_or_default()), (status, errcode), "{what}: {body}");
    }
    // A body is judged before its sender, and a wrong body is nobody's.
    let put = "/_matrix/federation/v1/send_knock/!r:us.test/$e";
    for (body, errcode) in [
        ("", "M_NOT_JSON"),
        ("{", "M_NOT_JSON"),
        ("[]", "M_BAD_JSON"),
        (r#"{"a":1,"a":1}"#, "M_BAD_JSON"),
        (r#"{"a":1.5}"#, "M_BAD_JSON"),
    ] {
        let request = TestRequest::put().uri(put).set_payload(body.to_owned());
        let (status, answer) = ask(&service, request.to_request()).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap()), (400, errcode), "{body}");
    }
    let changed = peer.put(put, &json!({ "a": 1 })).set_payload(r#"{"a":2}"#);
    assert_eq!(ask(&service, changed.to_request()).await.0, 401);
    let spaced = peer.put(put, &json!({ "a": 1 })).set_payload("{ \"a\" : 1 }");
    assert_eq!(ask(&service, spaced.to_request()).await.0, 404, "canonical form is what is signed");
}

#[actix_web::test]
async fn a_dense_body_is_parsed_for_who_signed_it_and_when_there_is_memory() {
    tokio::time::pause();
    let world = World::new();
    let (peer, stranger) = (Peer::new("them.test", 2), Peer::new("stranger.test", 3));
    world.know(&peer).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let dense = json!({ "pdus": [], "x": vec![json!({ "": 0 }); 20_000] });
    let send = |who: &Peer, id: &str, body: &Value| {
        ask(&service, who.put(&format!("/_matrix/federation/v1/send/{id}"), body).to_request())
    };
    let all = world.app.limits.hold_parsed_body(PARSED_BODIES_BYTES_MAX).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(send(&stranger, "a", &dense).await.0, 401);
    assert_eq!(send(&peer, "a", &json!({ "pdus": [] })).await.0, 200);
    assert!(begun.elapsed() < HOLD_MAX, "neither waits for memory");
    assert_eq!(send(&peer, "b", &dense).await.0, 429);
    drop(all);
    assert_eq!(send(&peer, "b", &dense).await.0, 200);
    world.app.limits.hold_parsed_body(PARSED_BODIES_BYTES_MAX).await.unwrap();
}

#[actix_web::test]
async fn a_knock_is_retracted_by_both_versions_of_send_leave() {
    for (version, expected) in [("v2", json!({})), ("v1", json!([200, {}]))] {
        let world = World::new();
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let room_id = world.room(RoomVersionId::V11, "knock", &[]).await;
        let service = init_service(world.application(&FEDERATION)).await;
        let (_, template) = ask(&service, peer.get(&make_knock(room_id.as_str(), "@ann:them.test")).to_request()).await;
        let make_leave = format!("/_matrix/federation/v1/make_leave/{room_id}/@ann:them.test");
        assert_eq!(ask(&service, peer.get(&make_leave).to_request()).await.0, 403, "nothing to leave yet");
        let (event_id, knock) = peer.sign(knock_from(&template, "them.test", "hi"), RoomVersionId::V11);
        let send_knock = format!("/_matrix/federation/v1/send_knock/{room_id}/{event_id}");
        assert_eq!(ask(&service, peer.put(&send_knock, &knock).to_request()).await.0, 200);
        let (status, template) = ask(&service, peer.get(&make_leave).to_request()).await;
        assert_eq!(status, 200, "{template}");
        let foreign = make_leave.replace("them.test", "else.test");
        assert_eq!(ask(&service, peer.get(&foreign).to_request()).await.0, 403, "V09");
        let mut leave = template["event"].clone();
        leave["origin_server_ts"] = json!(NOW.0 + 1);
        let (event_id, leave) = peer.sign(leave, RoomVersionId::V11);
        let send_leave = format!("/_matrix/federation/{version}/send_leave/{room_id}/{event_id}");
        // A leave is no knock: each endpoint takes its own.
        let wrong_door = format!("/_matrix/federation/v1/send_knock/{room_id}/{event_id}");
        assert_eq!(ask(&service, peer.put(&wrong_door, &leave).to_request()).await.0, 400);
        assert_eq!(ask(&service, peer.put(&send_leave, &leave).to_request()).await, (200, expected));
        let totals = world.app.rooms.gauges().totals().knocks;
        assert_eq!((totals.retracted, totals.pending), (1, 0));
    }
}

#[actix_web::test]
async fn queries_answer_for_our_own() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let owner = world.user("owner", false, "token").await;
    let open = world.room(RoomVersionId::V12, "knock", &[]).await;
    let closed = world.room(RoomVersionId::V12, "invite", &[]).await;
    let alias = |name: &str, room_id| {
        AccountChange::CreateAlias(Alias { alias: name.try_into().unwrap(), room_id, creator: owner.clone() })
    };
    world.change(vec![alias("#open:us.test", open.clone()), alias("#closed:us.test", closed)]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let base = "/_matrix/federation/v1/query";
    let table = [
        (format!("{base}/profile?user_id=@owner:us.test"), 200, json!({ "displayname": "owner" })),
        (
            format!("{base}/profile?user_id=%40owner%3Aus.test&field=displayname"),
            200,
            json!({ "displayname": "owner" }),
        ),
        (format!("{base}/profile?user_id=@owner:us.test&field=avatar_url"), 200, json!({})),
        (format!("{base}/profile?user_id=@none:us.test"), 404, json!("M_NOT_FOUND")),
        (format!("{base}/profile?user_id=@a:them.test"), 404, json!("M_NOT_FOUND")),
        (format!("{base}/profile?user_id=nonsense"), 400, json!("M_INVALID_PARAM")),
        (format!("{base}/profile"), 400, json!("M_MISSING_PARAM")),
        (
            format!("{base}/directory?room_alias=%23open:us.test"),
            200,
            json!({ "room_id": open, "servers": ["us.test"] }),
        ),
        (format!("{base}/directory?room_alias=%23closed:us.test"), 404, json!("M_NOT_FOUND")),
        (format!("{base}/directory?room_alias=%23none:us.test"), 404, json!("M_NOT_FOUND")),
        (format!("{base}/directory?room_alias=nonsense"), 400, json!("M_INVALID_PARAM")),
        (format!("{base}/directory"), 400, json!("M_MISSING_PARAM")),
    ];
    for (uri, status, expected) in table {
        let (found, body) = ask(&service, peer.get(&uri).to_request()).await;
        assert_eq!(found, status, "{uri}: {body}");
        let said = if status == 200 { &body } else { &body["errcode"] };
        assert_eq!(said, &expected, "{uri}");
    }
}

#[actix_web::test]
async fn over_rate_requests_are_held_and_then_refused() {
    let world = World::with(rates(true), |_| {});
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    tokio::time::pause();
    let service = init_service(world.application(&FEDERATION)).await;
    let uri = "/_matrix/federation/v1/query/profile?user_id=@none:us.test";
    let mut waited = Vec::new();
    // Burst 3, then one a second: the fourth and fifth wait a second each.
    for _ in 0..5 {
        let before = tokio::time::Instant::now();
        assert_eq!(ask(&service, peer.get(uri).to_request()).await.0, 404);
        waited.push(before.elapsed().as_millis());
    }
    assert!(waited[..3].iter().all(|ms| *ms < 100), "{waited:?}");
    assert!(waited[3..].iter().all(|ms| (900..=1_200).contains(ms)), "{waited:?}");
    // Ten at once: at one a second only those within five seconds are served.
    let asked: Vec<_> = (0..10).map(|_| ask(&service, peer.get(uri).to_request())).collect();
    let answers = futures_util::future::join_all(asked).await;
    let limited = answers.iter().filter(|(status, _)| *status == 429).count();
    assert!((4..=6).contains(&limited), "{limited}");
    let (_, body) = answers.iter().find(|(status, _)| *status == 429).unwrap();
    assert!(body["retry_after_ms"].as_u64().unwrap() > 0, "{body}");
}
