//! Which servers may read a room, and what they get.

use std::collections::BTreeSet;

use actix_web::test::{TestRequest, init_service};
use ruma::{OwnedRoomId, RoomId, RoomVersionId};
use serde_json::{Value, json};
use vestibule_actors::{AddHistory, JoinAnswer, testing::membership_change};
use vestibule_protocol::{membership::change::MembershipChange, room_version::RoomVersion};

use super::{FEDERATION, join, knock_from, make_knock};
use crate::testing::{NOW, Peer, World, ask, event_id, object};

const BASE: &str = "/_matrix/federation/v1";

/// Every question about a room and one of its events, as one server asks them.
fn questions(peer: &Peer, room_id: &str, event_id: &str) -> Vec<(&'static str, TestRequest)> {
    let missing = json!({ "earliest_events": [], "latest_events": [event_id] });
    vec![
        ("state_ids", peer.get(&format!("{BASE}/state_ids/{room_id}?event_id={event_id}"))),
        ("state", peer.get(&format!("{BASE}/state/{room_id}?event_id={event_id}"))),
        ("event_auth", peer.get(&format!("{BASE}/event_auth/{room_id}/{event_id}"))),
        ("backfill", peer.get(&format!("{BASE}/backfill/{room_id}?v={event_id}&limit=10"))),
        ("get_missing_events", peer.post(&format!("{BASE}/get_missing_events/{room_id}"), &missing)),
        ("event", peer.get(&format!("{BASE}/event/{event_id}"))),
    ]
}

async fn create_event(world: &World, room_id: &RoomId) -> String {
    let state = world.app.stores.rooms.current_state(room_id).await.unwrap();
    let create = state.iter().find(|event| event.event.kind().to_string() == "m.room.create").unwrap();
    create.event.event_id().to_string()
}

#[actix_web::test]
async fn servers_without_a_joined_user_read_nothing() {
    // V11: not whoever knocks, and not a stranger, even where history is open to the world.
    let world = World::new();
    let (knocking, stranger) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&knocking).await;
    world.know(&stranger).await;
    let open = ("m.room.history_visibility", json!({ "history_visibility": "world_readable" }));
    let room_id = world.room(RoomVersionId::V11, "knock", &[open]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let (_, template) = ask(&service, knocking.get(&make_knock(room_id.as_str(), "@ann:them.test")).to_request()).await;
    let (event_id, knock) = knocking.sign(knock_from(&template, "them.test", "hi"), RoomVersionId::V11);
    let send_knock = format!("{BASE}/send_knock/{room_id}/{event_id}");
    assert_eq!(ask(&service, knocking.put(&send_knock, &knock).to_request()).await.0, 200);
    let create = create_event(&world, &room_id).await;
    for peer in [&knocking, &stranger] {
        for event in [create.as_str(), event_id.as_str()] {
            for (what, request) in questions(peer, room_id.as_str(), event) {
                let (status, body) = ask(&service, request.to_request()).await;
                assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")), "{what}: {body}");
            }
        }
    }
    for (what, request) in questions(&stranger, "!other:us.test", "$unknown") {
        let (status, body) = ask(&service, request.to_request()).await;
        assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{what}: {body}");
    }
}

fn ids<'a>(events: &'a Value, version: &'a RoomVersionId) -> Vec<String> {
    events.as_array().unwrap().iter().map(|event| event_id(event, version)).collect()
}

fn texts(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[actix_web::test]
async fn the_state_before_an_event_is_told_with_all_that_authorizes_it() {
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let world = World::new();
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let room_id = world.room(version.clone(), "public", &[]).await;
        let service = init_service(world.application(&FEDERATION)).await;
        let asked = |request: TestRequest| ask(&service, request.to_request());
        let (_, joined) = join(&asked, &peer, &room_id, "@ann:them.test", &version).await;
        let join_id = event_id(&joined["event"], &version);
        let topic_id = world.state(&room_id, "m.room.topic", json!({ "topic": "otters" })).await;
        let state_ids = |event_id: &str| peer.get(&format!("{BASE}/state_ids/{room_id}?event_id={event_id}"));
        let (status, before_join) = asked(state_ids(&join_id)).await;
        assert_eq!(status, 200, "{before_join}");
        let (_, before_topic) = asked(state_ids(topic_id.as_str())).await;
        let (before_join, chain) = (texts(&before_join["pdu_ids"]), texts(&before_join["auth_chain_ids"]));
        let before_topic = texts(&before_topic["pdu_ids"]);
        let came: Vec<&String> = before_topic.difference(&before_join).collect();
        assert_eq!(came, [&join_id], "{version}: not the join itself before it, not the topic before it");
        assert!(before_join.contains(&create_event(&world, &room_id).await));
        assert!(chain.contains(&create_event(&world, &room_id).await), "{version}: also where nobody cites it");

        let (status, whole) = asked(peer.get(&format!("{BASE}/state/{room_id}?event_id={join_id}"))).await;
        assert_eq!(status, 200, "{whole}");
        assert_eq!(ids(&whole["pdus"], &version).into_iter().collect::<BTreeSet<_>>(), before_join);
        assert_eq!(ids(&whole["auth_chain"], &version).into_iter().collect::<BTreeSet<_>>(), chain);
        assert!(whole["pdus"].as_array().unwrap().iter().all(|event| event.get("unsigned").is_none()));

        let (status, auth) = asked(peer.get(&format!("{BASE}/event_auth/{room_id}/{join_id}"))).await;
        assert_eq!(status, 200, "{auth}");
        let auth: BTreeSet<String> = ids(&auth["auth_chain"], &version).into_iter().collect();
        assert!(texts(&joined["event"]["auth_events"]).is_subset(&auth), "{version}");
        assert!(!auth.contains(&join_id) && auth.contains(&create_event(&world, &room_id).await));
    }
}

#[actix_web::test]
async fn bad_questions_have_their_errors() {
    let world = World::new();
    let (peer, denied) = (Peer::new("them.test", 2), Peer::new("evil.test", 3));
    world.know(&peer).await;
    world.know(&denied).await;
    let room_id = world.room(RoomVersionId::V11, "public", &[]).await;
    let other = world.room(RoomVersionId::V12, "public", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    for who in [&peer, &denied] {
        let user_id = format!("@ann:{}", who.identity.server_name());
        assert_eq!(join(&asked, who, &room_id, &user_id, &RoomVersionId::V11).await.0, 200);
        assert_eq!(join(&asked, who, &other, &user_id, &RoomVersionId::V12).await.0, 200);
    }
    let here = create_event(&world, &room_id).await;
    let there = create_event(&world, &other).await;
    // V42: an event of another room is not here, whoever asks.
    for (what, request) in questions(&peer, room_id.as_str(), &there) {
        let (status, body) = asked(request).await;
        match what {
            "event" => assert_eq!(status, 200, "{body}"),
            "backfill" => assert_eq!(body["pdus"], json!([])),
            "get_missing_events" => assert_eq!(body["events"], json!([])),
            _ => assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{what}: {body}"),
        }
    }
    // A denied server has users in the room still: protected endpoints refuse it, and so all but the one without a room.
    world.state(&room_id, "m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.test"] })).await;
    for (what, request) in questions(&denied, room_id.as_str(), &here) {
        let (status, body) = asked(request).await;
        assert_eq!(status, if what == "event" { 200 } else { 403 }, "{what}: {body}");
    }
    let table = [
        (format!("{BASE}/state_ids/{room_id}"), 400, "M_MISSING_PARAM"),
        (format!("{BASE}/state_ids/{room_id}?event_id=x"), 400, "M_INVALID_PARAM"),
        (format!("{BASE}/state_ids/{room_id}?event_id=$unknown"), 404, "M_NOT_FOUND"),
        (format!("{BASE}/state/{room_id}"), 400, "M_MISSING_PARAM"),
        (format!("{BASE}/state/{room_id}?event_id=$unknown"), 404, "M_NOT_FOUND"),
        (format!("{BASE}/state/nonsense?event_id={here}"), 400, "M_INVALID_PARAM"),
        (format!("{BASE}/event/nonsense"), 400, "M_INVALID_PARAM"),
        (format!("{BASE}/event/$unknown"), 404, "M_NOT_FOUND"),
        (format!("{BASE}/event_auth/{room_id}/nonsense"), 400, "M_INVALID_PARAM"),
        (format!("{BASE}/event_auth/{room_id}/$unknown"), 404, "M_NOT_FOUND"),
        (format!("{BASE}/backfill/{room_id}?limit=10"), 400, "M_MISSING_PARAM"),
        (format!("{BASE}/backfill/{room_id}?v={here}"), 400, "M_MISSING_PARAM"),
        (format!("{BASE}/backfill/{room_id}?v={here}&limit=-1"), 400, "M_INVALID_PARAM"),
    ];
    for (uri, status, errcode) in table {
        let (found, body) = asked(peer.get(&uri)).await;
        assert_eq!((found, body["errcode"].as_str().unwrap_or_default()), (status, errcode), "{uri}: {body}");
    }
}

#[actix_web::test]
async fn history_comes_newest_first_and_gaps_are_filled_oldest_first() {
    let version = RoomVersionId::V11;
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(version.clone(), "public", &[]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    assert_eq!(join(&asked, &peer, &room_id, "@ann:them.test", &version).await.0, 200);
    let mut said = Vec::new();
    for number in 0..30 {
        let content = json!({ "msgtype": "m.text", "body": number.to_string() });
        said.push(world.send(&room_id, "m.room.message", None, content).await.to_string());
    }
    let backfill = |v: &str, limit: usize| peer.get(&format!("{BASE}/backfill/{room_id}?v={v}&limit={limit}"));
    let (status, page) = asked(backfill(&said[20], 5)).await;
    assert_eq!((status, &page["origin"]), (200, &json!("us.test")), "{page}");
    let expected: Vec<String> = said[16..=20].iter().rev().cloned().collect();
    assert_eq!(ids(&page["pdus"], &version), expected);
    let (_, all) = asked(backfill(&said[29], 100)).await;
    let all = ids(&all["pdus"], &version);
    assert_eq!((&all[0], all.last().unwrap()), (&said[29], &create_event(&world, &room_id).await));

    let missing = |body: Value| peer.post(&format!("{BASE}/get_missing_events/{room_id}"), &body);
    let (status, gap) =
        asked(missing(json!({ "earliest_events": [said[3]], "latest_events": [said[9]], "limit": 10 }))).await;
    assert_eq!(status, 200, "{gap}");
    assert_eq!(ids(&gap["events"], &version), said[4..9]);
    let (_, nearest) =
        asked(missing(json!({ "earliest_events": [], "latest_events": [said[29]], "limit": 500 }))).await;
    assert_eq!(ids(&nearest["events"], &version), said[9..29], "as many as one answer has, nearest to the latest");
    let depth = nearest["events"][15]["depth"].as_u64().unwrap();
    let since = json!({ "earliest_events": [], "latest_events": [said[29]], "limit": 20, "min_depth": depth });
    assert_eq!(ids(&asked(missing(since)).await.1["events"], &version), said[24..29]);
}

#[actix_web::test]
async fn what_a_servers_users_could_not_see_comes_redacted() {
    for (visibility, is_seen) in [("shared", true), ("joined", false), ("invited", false), ("org.example.x", true)] {
        let version = RoomVersionId::V11;
        let world = World::new();
        let peer = Peer::new("them.test", 2);
        world.know(&peer).await;
        let history = ("m.room.history_visibility", json!({ "history_visibility": visibility }));
        let room_id = world.room(version.clone(), "public", &[history]).await;
        let service = init_service(world.application(&FEDERATION)).await;
        let asked = |request: TestRequest| ask(&service, request.to_request());
        let said = |body: &str| json!({ "msgtype": "m.text", "body": body });
        let before = world.send(&room_id, "m.room.message", None, said("before")).await;
        assert_eq!(join(&asked, &peer, &room_id, "@ann:them.test", &version).await.0, 200);
        let after = world.send(&room_id, "m.room.message", None, said("after")).await;
        let (_, page) = asked(peer.get(&format!("{BASE}/backfill/{room_id}?v={after}&limit=4"))).await;
        let shown = page["pdus"].as_array().unwrap();
        assert_eq!(event_id(&shown[2], &version), before, "redacted or not, it is the same event");
        assert_eq!(shown[0]["content"]["body"], "after");
        assert_eq!(shown[2]["content"]["body"], if is_seen { json!("before") } else { Value::Null }, "{visibility}");
        assert!(shown[2]["signatures"].is_object());
        let gap = json!({ "earliest_events": [], "latest_events": [after], "limit": 2 });
        let (_, gap) = asked(peer.post(&format!("{BASE}/get_missing_events/{room_id}"), &gap)).await;
        assert_eq!(gap["events"][0], shown[2], "{visibility}");
        let (status, _) = asked(peer.get(&format!("{BASE}/event/{before}"))).await;
        assert_eq!(status, if is_seen { 200 } else { 403 }, "{visibility}");
        let (status, one) = asked(peer.get(&format!("{BASE}/event/{after}"))).await;
        assert_eq!((status, &one["pdus"][0]), (200, &shown[0]), "{visibility}");
    }
}

/// A room of them.test that a user of ours joined, and into which `@eve:else.test` came later: the room, an event from before
/// our join, and the join.
async fn room_from_elsewhere(world: &World, them: &Peer) -> (OwnedRoomId, String, String) {
    let version = RoomVersion::lookup(&RoomVersionId::V11).unwrap();
    let room_id: OwnedRoomId = "!theirs:them.test".try_into().unwrap();
    let mut made: Vec<(String, Value)> = Vec::new();
    let mut add = |who: &Peer, kind: &str, sender: &str, state_key: Option<&str>, content: Value, auth: &[usize]| {
        let auth_events: Vec<&String> = auth.iter().map(|place| &made[*place].0).collect();
        let mut event = json!({
            "auth_events": auth_events, "prev_events": made.last().map(|(id, _)| id).into_iter().collect::<Vec<_>>(),
            "depth": made.len() + 1, "origin_server_ts": NOW.0, "content": content, "room_id": room_id, "sender": sender,
            "type": kind,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        made.push(who.sign(event, RoomVersionId::V11));
    };
    let (bob, member) = ("@bob:them.test", "m.room.member");
    add(them, "m.room.create", bob, Some(""), json!({ "room_version": "11" }), &[]);
    add(them, member, bob, Some(bob), json!({ "membership": "join" }), &[0]);
    add(them, "m.room.power_levels", bob, Some(""), json!({ "users": { bob: 100 } }), &[0, 1]);
    add(them, "m.room.join_rules", bob, Some(""), json!({ "join_rule": "public" }), &[0, 1, 2]);
    add(them, "m.room.message", bob, None, json!({ "msgtype": "m.text", "body": "before you" }), &[0, 1, 2]);
    let ann = "@ann:us.test";
    add(&Peer::new("us.test", 1), member, ann, Some(ann), json!({ "membership": "join" }), &[0, 2, 3]);
    let mut verified = Vec::new();
    for (_, event) in &made {
        verified.push(world.app.federation.verify_pdu(object(event.clone()), &version).await.unwrap());
    }
    let state: Vec<_> = verified[..4].iter().map(|event| event.pdu().clone()).collect();
    let answer = JoinAnswer { join: verified[5].pdu().clone(), auth_chain: state.clone(), state };
    world.app.rooms.import_join(&room_id, &version, answer).await.unwrap();
    let history = AddHistory { before: verified[5].pdu().event_id().to_owned(), events: vec![verified.remove(4)] };
    assert_eq!(world.app.rooms.ask(&room_id, history).await.unwrap(), 1);
    (room_id, made[4].0.clone(), made[5].0.clone())
}

/// Found by `cargo xtask prove sim --seed 15`: the last of ours left by an event that stands on one which another server never
/// got, and nobody told it that.
#[actix_web::test]
async fn servers_inside_when_the_last_of_ours_left_may_ask_what_their_leave_stands_on() {
    let world = World::new();
    let (them, stranger) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&them).await;
    world.know(&stranger).await;
    let (room_id, _, joined) = room_from_elsewhere(&world, &them).await;
    let ann = "@ann:us.test";
    let leave = membership_change(ann, MembershipChange::Leave, ann, json!({}));
    let leave = world.app.rooms.ask(&room_id, leave).await.unwrap().to_string();
    let service = init_service(world.application(&FEDERATION)).await;
    for event in [&joined, &leave] {
        for (what, request) in questions(&them, room_id.as_str(), event) {
            let (status, body) = ask(&service, request.to_request()).await;
            assert_eq!(status, 200, "{what}: {body}");
        }
        for (what, request) in questions(&stranger, room_id.as_str(), event) {
            let (status, body) = ask(&service, request.to_request()).await;
            assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{what}: {body}");
        }
    }
    let gap = json!({ "earliest_events": [], "latest_events": [leave] });
    let gap = them.post(&format!("{BASE}/get_missing_events/{room_id}"), &gap);
    let (_, gap) = ask(&service, gap.to_request()).await;
    assert_eq!(ids(&gap["events"], &RoomVersionId::V11).last(), Some(&joined));
    // What the room is now, we do not know any more.
    let hierarchy = them.get(&format!("{BASE}/hierarchy/{room_id}"));
    assert_eq!(ask(&service, hierarchy.to_request()).await.0, 404);
}

#[actix_web::test]
async fn of_what_we_only_heard_no_state_is_told_and_nothing_is_shown() {
    // V43: the state around fetched history is not known, and neither is who could see it then.
    let world = World::new();
    let (them, reader) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&them).await;
    world.know(&reader).await;
    let (room_id, heard, joined) = room_from_elsewhere(&world, &them).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    assert_eq!(join(&asked, &reader, &room_id, "@eve:else.test", &RoomVersionId::V11).await.0, 200);
    for (what, request) in questions(&reader, room_id.as_str(), &heard) {
        let (status, body) = asked(request).await;
        match what {
            "state" | "state_ids" => assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{what}"),
            "event" => assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")), "{body}"),
            "backfill" => assert_eq!(body["pdus"], json!([])),
            "get_missing_events" => assert_eq!(body["events"], json!([])),
            _ => assert_eq!(status, 200, "{what}: its authorization is known: {body}"),
        }
    }
    let (status, state) = asked(reader.get(&format!("{BASE}/state_ids/{room_id}?event_id={joined}"))).await;
    assert_eq!(
        (status, texts(&state["pdu_ids"]).len()),
        (200, 4),
        "the state that our join was answered with: {state}"
    );
    let create = create_event(&world, &room_id).await;
    let (status, body) = asked(reader.get(&format!("{BASE}/state_ids/{room_id}?event_id={create}"))).await;
    assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "an outlier: {body}");
    assert_eq!(
        asked(reader.get(&format!("{BASE}/event/{create}"))).await.0,
        200,
        "it is in the state that all are told"
    );
}
