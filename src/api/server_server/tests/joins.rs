//! Joins of other servers' users end to end, in open and in restricted rooms.

use std::collections::BTreeSet;

use actix_web::test::{TestRequest, init_service};
use ruma::{OwnedRoomId, RoomVersionId, events::StateEventType};
use serde_json::{Value, json};

use super::{FEDERATION, join, make_join, send_join};
use crate::testing::{NOW, Peer, World, ask};

fn ids_and_authorizers(events: &Value) -> Vec<(String, Vec<String>)> {
    let strings = |list: &Value| list.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let events = events.as_array().unwrap();
    events.iter().map(|event| (event["type"].as_str().unwrap().to_owned(), strings(&event["auth_events"]))).collect()
}

#[actix_web::test]
async fn a_join_is_prepared_admitted_and_answered_in_full() {
    for version in [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let world = World::new();
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let room_id = world.room(version.clone(), "public", &[("m.room.name", json!({ "name": "Den" }))]).await;
        let service = init_service(world.application(&FEDERATION)).await;
        let (status, template) =
            ask(&service, peer.get(&make_join(room_id.as_str(), "@ann:them.test")).to_request()).await;
        assert_eq!(status, 200, "{version}: {template}");
        assert_eq!(template["room_version"], json!(version));
        for absent in ["signatures", "hashes", "unsigned", "event_id"] {
            assert!(template["event"].get(absent).is_none(), "V10: {absent}");
        }
        let mut event = template["event"].clone();
        event["content"]["displayname"] = json!("Ann");
        let (event_id, event) = peer.sign(event, version.clone());
        let (status, answer) =
            ask(&service, peer.put(&send_join(room_id.as_str(), &event_id), &event).to_request()).await;
        assert_eq!(status, 200, "{version}: {answer}");
        assert_eq!(answer["event"]["signatures"].as_object().unwrap().len(), 1, "nobody had to vouch");
        assert_eq!((&answer["members_omitted"], &answer["origin"]), (&json!(false), &json!("us.test")));
        let servers = answer["servers_in_room"].as_array().unwrap();
        assert!(servers.contains(&json!("us.test")), "{servers:?}");
        // The state is that before the join, and the chain holds all that authorizes it and the join.
        let members: Vec<&str> = answer["state"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["type"] == "m.room.member")
            .map(|event| event["state_key"].as_str().unwrap())
            .collect();
        assert_eq!(members, ["@owner:us.test"]);
        let chain = ids_and_authorizers(&answer["auth_chain"]);
        assert!(chain.iter().any(|(kind, _)| kind == "m.room.create"), "{version}: {chain:?}");
        let known: BTreeSet<String> = answer["auth_chain"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| crate::testing::event_id(event, &version))
            .collect();
        let cited: BTreeSet<String> = ids_and_authorizers(&answer["state"])
            .into_iter()
            .chain(chain)
            .chain(ids_and_authorizers(&json!([answer["event"]])))
            .flat_map(|(_, cited)| cited)
            .collect();
        assert!(cited.is_subset(&known), "{version}: {cited:?} of {known:?}");
        // The same event again is the same answer; the first version of the endpoint wraps it.
        let v1 = send_join(room_id.as_str(), &event_id).replace("/v2/", "/v1/");
        let (status, again) = ask(&service, peer.put(&v1, &event).to_request()).await;
        assert_eq!((status, &again[0], &again[1]["state"]), (200, &json!(200), &answer["state"]));
        let rooms = &world.app.stores.rooms;
        let member = rooms.current_state_event(&room_id, &StateEventType::RoomMember, "@ann:them.test").await.unwrap();
        assert_eq!(member.unwrap().event.event_id().as_str(), event_id);
    }
}

#[actix_web::test]
async fn make_join_says_why_not() {
    let world = World::new();
    let (peer, denied) = (Peer::new("them.test", 2), Peer::new("evil.test:8448", 3));
    world.know(&peer).await;
    world.know(&denied).await;
    let acl = json!({ "allow": ["*"], "deny": ["evil.test"] });
    let closed = world.room(RoomVersionId::V10, "invite", &[("m.room.server_acl", acl)]).await;
    let open = world.room(RoomVersionId::V12, "public", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let base = "/_matrix/federation/v1/make_join";
    let table = [
        (&peer, format!("{base}/nonsense/@a:them.test?ver=10"), 400, "M_INVALID_PARAM"),
        (&peer, format!("{base}/{closed}/nonsense?ver=10"), 400, "M_INVALID_PARAM"),
        (&peer, format!("{base}/!other:us.test/@a:them.test?ver=10"), 404, "M_NOT_FOUND"),
        (&denied, format!("{base}/{closed}/@a:evil.test:8448?ver=10"), 403, "M_FORBIDDEN"),
        (&peer, format!("{base}/{closed}/@a:else.test?ver=10"), 403, "M_FORBIDDEN"),
        (&peer, format!("{base}/{closed}/@a:them.test"), 400, "M_INCOMPATIBLE_ROOM_VERSION"),
        (&peer, format!("{base}/{closed}/@a:them.test?ver=9&ver=nonsense%00"), 400, "M_INCOMPATIBLE_ROOM_VERSION"),
        (&peer, format!("{base}/{closed}/@a:them.test?ver=10"), 403, "M_FORBIDDEN"),
        (&peer, format!("{base}/{open}/@a:them.test?ver=10"), 400, "M_INCOMPATIBLE_ROOM_VERSION"),
        (&peer, format!("{base}/{open}/@a:them.test?ver=12"), 200, ""),
    ];
    for (who, uri, status, errcode) in table {
        let (found, body) = ask(&service, who.get(&uri).to_request()).await;
        assert_eq!((found, body["errcode"].as_str().unwrap_or_default()), (status, errcode), "{uri}: {body}");
    }
}

#[actix_web::test]
async fn send_join_judges_structure_before_authorization() {
    let world = World::new();
    let (peer, other) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&peer).await;
    world.know(&other).await;
    let closed = world.room(RoomVersionId::V10, "invite", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let state = world.app.stores.rooms.current_state(&closed).await.unwrap();
    let create = state.iter().find(|event| event.event.kind().to_string() == "m.room.create").unwrap();
    let create = create.event.event_id();
    let good = json!({
        "auth_events": [create], "prev_events": [create], "depth": 5, "content": { "membership": "join" },
        "origin_server_ts": NOW.0, "room_id": closed, "sender": "@a:them.test", "state_key": "@a:them.test",
        "type": "m.room.member",
    });
    let with = |changes: Value| {
        let mut event = good.clone();
        for (key, value) in changes.as_object().unwrap() {
            event[key] = value.clone();
        }
        event
    };
    let vouched =
        |by: &str| with(json!({ "content": { "membership": "join", "join_authorised_via_users_server": by } }));
    let table = [
        (good.clone(), 403, "M_FORBIDDEN"),
        (with(json!({ "type": "m.room.topic" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "content": { "membership": "knock" } })), 400, "M_INVALID_PARAM"),
        (with(json!({ "content": { "membership": "leave" } })), 400, "M_INVALID_PARAM"),
        (with(json!({ "state_key": "@b:them.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "sender": "@a:else.test", "state_key": "@a:else.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "room_id": "!other:us.test" })), 400, "M_INVALID_PARAM"),
        (with(json!({ "origin_server_ts": NOW.0 + 25 * 3_600_000 })), 400, "M_INVALID_PARAM"),
        (with(json!({ "prev_events": ["$unknown"] })), 400, "M_INVALID_PARAM"),
        (with(json!({ "depth": -1 })), 400, "M_BAD_JSON"),
        (with(json!({ "content": { "membership": "join", "x": "x".repeat(5_000) } })), 413, "M_TOO_LARGE"),
        // Somebody of another server cannot be vouched for by our signature; nobody needs to vouch in this room.
        (vouched("@a:else.test"), 400, "M_UNABLE_TO_GRANT_JOIN"),
        (vouched("nobody"), 400, "M_BAD_JSON"),
        (vouched("@owner:us.test"), 403, "M_FORBIDDEN"),
    ];
    for (event, status, errcode) in table {
        let shown: String = event.to_string().chars().take(300).collect();
        let (event_id, signed) = peer.sign(event, RoomVersionId::V10);
        let uri = send_join(closed.as_str(), &event_id);
        let (found, body) = ask(&service, peer.put(&uri, &signed).to_request()).await;
        assert_eq!((found, body["errcode"].as_str().unwrap_or_default()), (status, errcode), "{shown}: {body}");
        assert!(!body.to_string().contains("signatures"), "{shown}: nothing of ours leaves with a refusal: {body}");
    }
    let (event_id, signed) = other.sign(good.clone(), RoomVersionId::V10);
    let (_, right) = peer.sign(good.clone(), RoomVersionId::V10);
    let mut unsigned = right.clone();
    unsigned["signatures"] = json!({});
    for (event_id, event) in [(event_id.as_str(), &signed), ("$AAAA", &right), (event_id.as_str(), &unsigned)] {
        let (status, body) = ask(&service, peer.put(&send_join(closed.as_str(), event_id), event).to_request()).await;
        assert_eq!((status, &body["errcode"]), (400, &json!("M_INVALID_PARAM")), "{body}");
    }
    let members = world.app.stores.rooms.current_state_of_type(&closed, &StateEventType::RoomMember).await.unwrap();
    assert_eq!(members.len(), 1, "no state changed");
}

/// A room into which members of `allowed` may join, and who may invite there.
async fn restricted(world: &World, allowed: &[&str], invite_level: i64) -> OwnedRoomId {
    let allow: Vec<Value> =
        allowed.iter().map(|room_id| json!({ "type": "m.room_membership", "room_id": room_id })).collect();
    let levels = json!({ "users": { "@owner:us.test": 100 }, "invite": invite_level });
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    let room_id = world.room(RoomVersionId::V10, "invite", &[("m.room.power_levels", levels)]).await;
    world.state(&room_id, "m.room.join_rules", rules).await;
    room_id
}

#[actix_web::test]
async fn members_of_an_allowed_room_join_with_our_signature() {
    let version = RoomVersionId::V10;
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let space = world.room(RoomVersionId::V12, "public", &[]).await;
    let room_id = restricted(&world, &[space.as_str()], 0).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (status, body) = join(&asked, &peer, &room_id, "@ann:them.test", &version).await;
    assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")), "not in the space: {body}");
    assert_eq!(join(&asked, &peer, &space, "@ann:them.test", &RoomVersionId::V12).await.0, 200);
    let (status, answer) = join(&asked, &peer, &room_id, "@ann:them.test", &version).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["event"]["content"]["join_authorised_via_users_server"], "@owner:us.test");
    let signers: Vec<&String> = answer["event"]["signatures"].as_object().unwrap().keys().collect();
    assert_eq!(signers, ["them.test", "us.test"]);
}

#[actix_web::test]
async fn a_condition_is_judged_again_when_the_join_comes() {
    let version = RoomVersionId::V10;
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let space = world.room(RoomVersionId::V12, "public", &[]).await;
    let room_id = restricted(&world, &[space.as_str()], 0).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    assert_eq!(join(&asked, &peer, &space, "@ann:them.test", &RoomVersionId::V12).await.0, 200);
    let (_, template) = ask(&service, peer.get(&make_join(room_id.as_str(), "@ann:them.test")).to_request()).await;
    let (event_id, event) = peer.sign(template["event"].clone(), version);
    // In between the user leaves the room that lets her in.
    let make_leave = format!("/_matrix/federation/v1/make_leave/{space}/@ann:them.test");
    let (_, leave) = ask(&service, peer.get(&make_leave).to_request()).await;
    let (leave_id, leave) = peer.sign(leave["event"].clone(), RoomVersionId::V12);
    let send_leave = format!("/_matrix/federation/v2/send_leave/{space}/{leave_id}");
    assert_eq!(ask(&service, peer.put(&send_leave, &leave).to_request()).await.0, 200);
    let (status, body) = ask(&service, peer.put(&send_join(room_id.as_str(), &event_id), &event).to_request()).await;
    assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")), "{body}");
}

#[actix_web::test]
async fn who_cannot_judge_or_grant_sends_the_caller_elsewhere() {
    for (allowed, invite_level, errcode) in [
        (vec!["!elsewhere:else.test"], 0, "M_UNABLE_TO_AUTHORISE_JOIN"),
        (vec![], 0, "M_FORBIDDEN"),
        (vec!["!space"], 101, "M_UNABLE_TO_GRANT_JOIN"),
        (vec!["!elsewhere:else.test", "!space"], 101, "M_UNABLE_TO_GRANT_JOIN"),
    ] {
        let world = World::new();
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let space = world.room(RoomVersionId::V12, "public", &[]).await;
        let allowed: Vec<&str> =
            allowed.into_iter().map(|id| if id == "!space" { space.as_str() } else { id }).collect();
        let room_id = restricted(&world, &allowed, invite_level).await;
        let service = init_service(world.application(&FEDERATION)).await;
        let asked = |request: TestRequest| ask(&service, request.to_request());
        assert_eq!(join(&asked, &peer, &space, "@ann:them.test", &RoomVersionId::V12).await.0, 200);
        let (status, body) = join(&asked, &peer, &room_id, "@ann:them.test", &RoomVersionId::V10).await;
        let expected = if errcode == "M_FORBIDDEN" { 403 } else { 400 };
        assert_eq!((status, &body["errcode"]), (expected, &json!(errcode)), "{allowed:?}: {body}");
    }
}
