//! Invites of our users by other servers: what is taken, and what is never signed.

use std::{sync::Arc, time::Duration};

use actix_web::test::init_service;
use ruma::{RoomVersionId, UserId, events::room::member::MembershipState, room_id};
use serde_json::{Value, json};
use tokio::sync::Notify;
use vestibule_federation::{FederationSettings, perform::KnockElsewhere};
use vestibule_storage::accounts::AccountChange;

use super::FEDERATION;
use crate::testing::{NOW, Peer, World, ask, rates};

const ROOM: &str = "!theirs:them.test";

fn invite_path(room_id: &str, event_id: &str) -> String {
    format!("/_matrix/federation/v2/invite/{room_id}/{event_id}")
}

fn invite_event(room_id: &str) -> Value {
    json!({
        "auth_events": ["$create"], "prev_events": ["$last"], "depth": 9, "content": { "membership": "invite" },
        "origin_server_ts": NOW.0, "room_id": room_id, "sender": "@bob:them.test", "state_key": "@ann:us.test",
        "type": "m.room.member",
    })
}

#[actix_web::test]
async fn an_invite_is_kept_and_answered_with_both_signatures() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let user_id = world.user("ann", false, "token").await;
    let service = init_service(world.application(&FEDERATION)).await;
    let (event_id, event) = peer.sign(invite_event(ROOM), RoomVersionId::V11);
    let (_, name) = peer.sign(
        json!({
            "auth_events": [], "prev_events": ["$x"], "depth": 3, "content": { "name": "Den" }, "origin_server_ts": NOW.0,
            "room_id": ROOM, "sender": "@bob:them.test", "state_key": "", "type": "m.room.name",
        }),
        RoomVersionId::V11,
    );
    let mut forged = name.clone();
    forged["type"] = json!("m.room.topic");
    let state = json!([
        name, forged,
        { "type": "m.room.join_rules", "state_key": "", "sender": "@bob:them.test", "content": { "join_rule": "knock" } },
        { "type": "m.room.power_levels", "state_key": "", "sender": "@bob:them.test", "content": {} },
    ]);
    let body = json!({ "room_version": "11", "event": event, "invite_room_state": state });
    for _ in 0..2 {
        let (status, answer) = ask(&service, peer.put(&invite_path(ROOM, &event_id), &body).to_request()).await;
        assert_eq!(status, 200, "{answer}");
        let signers: Vec<&String> = answer["event"]["signatures"].as_object().unwrap().keys().collect();
        assert_eq!(signers, ["them.test", "us.test"]);
        assert_eq!(answer["event"]["content"], event["content"]);
    }
    let kept = world.app.stores.rooms.out_of_band_of(&user_id, room_id!("!theirs:them.test")).await.unwrap().unwrap();
    assert_eq!((kept.membership, kept.room_version), (MembershipState::Invite, RoomVersionId::V11));
    assert_eq!(kept.via, ["them.test"]);
    let shown: Vec<Value> = kept.stripped.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let kinds: Vec<&str> = shown.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["m.room.name", "m.room.join_rules"], "forged and unlisted ones are not shown");
    assert!(shown.iter().all(|event| event.as_object().unwrap().len() == 4));
}

#[actix_web::test]
async fn whatever_is_no_invite_is_refused_and_not_signed() {
    // V02.
    let world = World::new();
    let (peer, other) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&peer).await;
    world.know(&other).await;
    world.user("ann", false, "token").await;
    let gone = world.user("gone", false, "token2").await;
    let mut user = world.app.stores.accounts.user(&gone).await.unwrap().unwrap();
    user.is_deactivated = true;
    world.change(vec![AccountChange::UpdateUser(user)]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let good = invite_event(ROOM);
    let with = |changes: Value| {
        let mut event = good.clone();
        for (key, value) in changes.as_object().unwrap() {
            event[key] = value.clone();
        }
        event
    };
    let membership = |membership: &str| with(json!({ "content": { "membership": membership } }));
    let events = [
        (with(json!({ "type": "m.room.power_levels" })), 400, "M_INVALID_PARAM"),
        (membership("join"), 400, "M_INVALID_PARAM"),
        (membership("leave"), 400, "M_INVALID_PARAM"),
        (membership("ban"), 400, "M_INVALID_PARAM"),
        (membership("knock"), 400, "M_INVALID_PARAM"),
        (with(json!({ "sender": "@bob:else.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "sender": "@ann:us.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "state_key": "@ann:else.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "state_key": "" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "room_id": "!other:them.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "depth": -1 })), 400, "M_BAD_JSON"),
        (with(json!({ "state_key": "@nobody:us.test" })), 404, "M_NOT_FOUND"),
        (with(json!({ "state_key": "@gone:us.test" })), 404, "M_NOT_FOUND"),
    ];
    for (event, status, errcode) in events {
        let (event_id, signed) = peer.sign(event, RoomVersionId::V11);
        let body = json!({ "room_version": "11", "event": signed });
        let (found, answer) = ask(&service, peer.put(&invite_path(ROOM, &event_id), &body).to_request()).await;
        assert_eq!((found, answer["errcode"].as_str().unwrap_or_default()), (status, errcode), "{body}: {answer}");
        assert!(!answer.to_string().contains("us.test"), "no signature of ours: {answer}");
    }
    let (event_id, signed) = peer.sign(good.clone(), RoomVersionId::V11);
    let (_, forged) = other.sign(good.clone(), RoomVersionId::V11);
    let bodies = [
        (json!({ "room_version": "11", "event": forged }), 400, "M_INVALID_PARAM"),
        (json!({ "event": signed }), 400, "M_MISSING_PARAM"),
        (json!({ "room_version": 11, "event": signed }), 400, "M_BAD_JSON"),
        (json!({ "room_version": "org.example.99", "event": signed }), 400, "M_INCOMPATIBLE_ROOM_VERSION"),
        (json!({ "room_version": "2", "event": signed }), 400, "M_INCOMPATIBLE_ROOM_VERSION"),
        (json!({ "room_version": "11" }), 400, "M_MISSING_PARAM"),
        (json!({ "room_version": "11", "event": [] }), 400, "M_BAD_JSON"),
        (json!({ "room_version": "11", "event": signed, "invite_room_state": {} }), 400, "M_INVALID_PARAM"),
        (json!({ "room_version": "11", "event": signed, "invite_room_state": [1] }), 400, "M_INVALID_PARAM"),
    ];
    for (body, status, errcode) in bodies {
        let (found, answer) = ask(&service, peer.put(&invite_path(ROOM, &event_id), &body).to_request()).await;
        assert_eq!((found, answer["errcode"].as_str().unwrap_or_default()), (status, errcode), "{body}: {answer}");
    }
    let v1 = invite_path(ROOM, &event_id).replace("/v2/", "/v1/");
    let (status, answer) = ask(&service, peer.put(&v1, &signed).to_request()).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_INCOMPATIBLE_ROOM_VERSION")));
    let kept = world.app.stores.rooms.out_of_band(None, None, 10).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

#[actix_web::test]
async fn a_room_named_by_its_create_event_must_show_it() {
    // V12: missing, of another room, badly signed, right.
    let version = RoomVersionId::V12;
    let world = World::new();
    let (peer, other) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&peer).await;
    world.know(&other).await;
    world.user("ann", false, "token").await;
    let service = init_service(world.application(&FEDERATION)).await;
    let create = |content: Value| {
        json!({
            "auth_events": [], "prev_events": [], "depth": 1, "content": content, "origin_server_ts": NOW.0,
            "sender": "@bob:them.test", "state_key": "", "type": "m.room.create",
        })
    };
    let (create_id, right) = peer.sign(create(json!({ "room_version": "12" })), version.clone());
    let (_, foreign) = peer.sign(create(json!({ "room_version": "12", "x": 1 })), version.clone());
    let (_, forged) = other.sign(create(json!({ "room_version": "12" })), version.clone());
    let mut badly_signed = right.clone();
    badly_signed["signatures"]["them.test"] = json!({ "ed25519:k1": "c2lnbmF0dXJl" });
    let stripped = json!({ "type": "m.room.create", "state_key": "", "sender": "@bob:them.test", "content": { "room_version": "12" } });
    let room_id = create_id.replace('$', "!");
    let (event_id, event) = peer.sign(invite_event(&room_id), version);
    let table = [
        (json!([]), 400, "M_MISSING_PARAM"),
        (json!([foreign]), 400, "M_INVALID_PARAM"),
        (json!([stripped]), 400, "M_INVALID_PARAM"),
        (json!([forged]), 400, "M_INVALID_PARAM"),
        (json!([badly_signed]), 400, "M_INVALID_PARAM"),
        (json!([right]), 200, ""),
    ];
    for (state, status, errcode) in table {
        let body = json!({ "room_version": "12", "event": event, "invite_room_state": state });
        let (found, answer) = ask(&service, peer.put(&invite_path(&room_id, &event_id), &body).to_request()).await;
        assert_eq!((found, answer["errcode"].as_str().unwrap_or_default()), (status, errcode), "{state}: {answer}");
    }
}

#[actix_web::test]
async fn a_room_that_we_are_in_has_its_word() {
    let world = World::new();
    let (peer, denied) = (Peer::new("them.test", 2), Peer::new("evil.test", 3));
    world.know(&peer).await;
    world.know(&denied).await;
    let owner = UserId::parse("@owner:us.test").unwrap();
    world.user("owner", false, "token").await;
    world.user("ann", false, "token2").await;
    let acl = json!({ "allow": ["*"], "deny": ["evil.test"] });
    let room_id = world.room(RoomVersionId::V11, "public", &[("m.room.server_acl", acl)]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    for (who, sender, target) in
        [(&denied, "@bob:evil.test", "@ann:us.test"), (&peer, "@bob:them.test", owner.as_str())]
    {
        let mut event = invite_event(room_id.as_str());
        event["sender"] = json!(sender);
        event["state_key"] = json!(target);
        let (event_id, event) = who.sign(event, RoomVersionId::V11);
        let body = json!({ "room_version": "11", "event": event });
        let (status, answer) =
            ask(&service, who.put(&invite_path(room_id.as_str(), &event_id), &body).to_request()).await;
        assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")), "{answer}");
    }
    // SECURITY T26: nor has the caller a say in which version's rules our signature covers.
    for (named, expected) in [("10", 400), ("11", 200)] {
        let version = RoomVersionId::try_from(named).unwrap();
        let (event_id, event) = peer.sign(invite_event(room_id.as_str()), version);
        let body = json!({ "room_version": named, "event": event });
        let (status, answer) =
            ask(&service, peer.put(&invite_path(room_id.as_str(), &event_id), &body).to_request()).await;
        assert_eq!(status, expected, "{named}: {answer}");
        assert!(status == 200 || answer["errcode"] == "M_INVALID_PARAM", "{answer}");
    }
}

#[actix_web::test]
async fn a_knock_that_is_accepted_becomes_a_join_where_that_is_configured() {
    tokio::time::pause();
    for (auto_join_accepted, hangs_up) in [(true, false), (true, true), (false, false)] {
        let joins = Arc::new(Notify::new());
        let hears = joins.clone();
        let peers = Arc::new(move |_: &str, request: &http::Request<bytes::Bytes>| {
            let path = request.uri().path();
            if path.contains("/make_knock/") {
                let template = json!({
                    "auth_events": ["$create"], "prev_events": ["$last"], "depth": 9, "origin_server_ts": NOW.0,
                    "content": { "membership": "knock" }, "room_id": ROOM, "sender": "@ann:us.test",
                    "state_key": "@ann:us.test", "type": "m.room.member",
                });
                return Some((200, json!({ "room_version": "11", "event": template })));
            }
            if path.contains("/make_join/") {
                hears.notify_one();
            }
            path.contains("/send_knock/").then(|| (200, json!({ "knock_room_state": [] })))
        });
        let settings = FederationSettings { request_timeout: Duration::from_secs(20), auto_join_accepted };
        let world = World::federating(rates(false), |_| {}, peers, settings);
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let user_id = world.user("ann", false, "token").await;
        let service = init_service(world.application(&FEDERATION)).await;
        let room_id = room_id!("!theirs:them.test").to_owned();
        let knock = KnockElsewhere {
            user_id: user_id.clone(),
            room_id,
            via: vec!["them.test".try_into().unwrap()],
            content: Default::default(),
        };
        world.app.federation.knock(knock).await.unwrap();
        let (event_id, event) = peer.sign(invite_event(ROOM), RoomVersionId::V11);
        let body = json!({ "room_version": "11", "event": event });
        let mut asked = Box::pin(ask(&service, peer.put(&invite_path(ROOM, &event_id), &body).to_request()));
        if hangs_up {
            // Once the invite is kept, and before it is answered.
            let rooms = &world.app.stores.rooms;
            let is_kept = async || {
                let row = rooms.out_of_band_of(&user_id, room_id!("!theirs:them.test")).await.unwrap().unwrap();
                row.membership == MembershipState::Invite
            };
            while !is_kept().await {
                assert!(futures_util::poll!(asked.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            drop(asked);
        } else {
            assert_eq!(asked.await.0, 200);
        }
        let joined = tokio::time::timeout(Duration::from_secs(60), joins.notified()).await.is_ok();
        assert_eq!(joined, auto_join_accepted, "{hangs_up}");
    }
}
