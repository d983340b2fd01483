//! What servers read that have no business in a room, and ACLs, which say so by name.
//! May not: be content with one endpoint; each that an ACL or membership protects is asked.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ground::Ground;
use crate::support::{Answer, FakePeer, encoded, path_of};

/// What an ACL may cost whoever knocks. Source: SECURITY V41, of builds that are not optimized; a matcher that tries every way
/// of matching takes years.
const JUDGED_WITHIN: Duration = Duration::from_millis(50);

/// What an ACL may cost once: whoever sets it, and the first at its door. Ours: far more than a busy machine needs to compile one.
const COMPILED_WITHIN: Duration = Duration::from_secs(10);

/// What ten thousand places to begin at may cost more than one. Source: SECURITY V65.
const WALKED_WITHIN: Duration = Duration::from_secs(1);

/// Events in an answer to `get_missing_events`. Source: README, Limits.
const MISSING_EVENTS_MAX: usize = 20;

/// Every read of a room that other servers have: method, target, body.
fn reads(room_id: &str, event_id: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let (room, event) = (encoded(room_id), encoded(event_id));
    let v1 = |rest: String| format!("/_matrix/federation/v1/{rest}");
    let missing = json!({ "earliest_events": [], "latest_events": [event_id], "limit": 10 });
    vec![
        ("GET", v1(format!("state/{room}?event_id={event}")), None),
        ("GET", v1(format!("state_ids/{room}?event_id={event}")), None),
        ("GET", v1(format!("backfill/{room}?v={event}&limit=10")), None),
        ("GET", v1(format!("event_auth/{room}/{event}")), None),
        ("POST", v1(format!("get_missing_events/{room}")), Some(missing)),
    ]
}

#[track_caller]
fn ask(peer: &FakePeer, ground: &Ground, request: &(&'static str, String, Option<Value>)) -> Answer {
    let (method, target, body) = request;
    let body = body.as_ref().map(|body| serde_json::from_value(body.clone()).unwrap());
    peer.ask(&ground.server, method, target, body.as_ref())
}

#[test]
fn continuwuity_0ea0d09b9_a_pending_knock_opens_no_reads() {
    let stranger = FakePeer::new("stranger.test");
    let ground = Ground::with(&[&stranger]);
    let room_id = ground.owner.knockable_room("11");
    let said = ground.owner.say(&room_id, "1", "among ourselves");
    let ann = ground.peer.user("ann");
    let knock = ground.peer.knock(&ground.server, &room_id, &ann, "otters").event_id;
    let event = |event_id: &str| ("GET", format!("/_matrix/federation/v1/event/{}", encoded(event_id)), None);
    for peer in [&ground.peer, &stranger] {
        for event_id in [&said, &knock] {
            for request in reads(&room_id, event_id) {
                ask(peer, &ground, &request).refused(403, "M_FORBIDDEN");
            }
        }
        let answer = ask(peer, &ground, &event(&said));
        assert!([403, 404].contains(&answer.status), "{}", answer.text());
        assert!(!answer.text().contains("among ourselves"));
    }
    // An invite is no membership either; who has joined reads.
    ground.owner.about(&room_id, "invite", &ann);
    for request in reads(&room_id, &said) {
        ask(&ground.peer, &ground, &request).refused(403, "M_FORBIDDEN");
    }
    ground.peer.join(&ground.server, &room_id, &ann).ok();
    for request in reads(&room_id, &said) {
        assert_eq!(ask(&ground.peer, &ground, &request).status, 200, "{}", request.1);
    }
}

#[test]
fn msc4436_acls_go_by_names_in_any_case_on_every_endpoint_that_they_protect() {
    let spellings = ["evil.test", "EVIL.test", "eViL.TesT"].map(FakePeer::new);
    let ground = Ground::with(&[&spellings[0], &spellings[1], &spellings[2]]);
    for denied in ["evil.test", "Evil.Test", "e?il.*"] {
        let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
        let said = ground.owner.say(&room_id, "1", "among ourselves");
        // Who has joined might read, if it were not for the list.
        for peer in &spellings {
            peer.join(&ground.server, &room_id, &peer.user("bob")).ok();
            for request in reads(&room_id, &said) {
                assert_eq!(ask(peer, &ground, &request).status, 200, "{} {}", peer.name(), request.1);
            }
        }
        ground.owner.set_state(&room_id, "m.room.join_rules", "", json!({ "join_rule": "knock" }));
        let acl = json!({ "allow": ["*"], "deny": [denied], "allow_ip_literals": true });
        ground.owner.set_state(&room_id, "m.room.server_acl", "", acl);
        for peer in &spellings {
            let ann = peer.user("ann");
            let path = |endpoint: &str| path_of(endpoint, &room_id, &ann);
            let sent = |endpoint: &str| path_of(endpoint, &room_id, &said);
            let mut requests = reads(&room_id, &said);
            requests.extend([
                ("GET", format!("{}?ver=11", path("v1/make_knock")), None),
                ("GET", format!("{}?ver=11", path("v1/make_join")), None),
                ("GET", path("v1/make_leave"), None),
                ("PUT", sent("v1/send_knock"), Some(json!({}))),
                ("PUT", sent("v1/send_join"), Some(json!({}))),
                ("PUT", sent("v2/send_join"), Some(json!({}))),
                ("PUT", sent("v1/send_leave"), Some(json!({}))),
                ("PUT", sent("v2/send_leave"), Some(json!({}))),
                ("PUT", sent("v2/invite"), Some(json!({ "room_version": "11", "event": {}, "invite_room_state": [] }))),
            ]);
            for request in requests {
                let answer = ask(peer, &ground, &request);
                assert_eq!(answer.status, 403, "{denied} {} {}: {}", peer.name(), request.1, answer.text());
                answer.refused(403, "M_FORBIDDEN");
            }
        }
        ground.peer.make_knock(&ground.server, &room_id, &ground.peer.user("ann")).ok();
    }
}

/// How much longer a server waits at the door of one room than at that of another: every other time, and at the most.
#[track_caller]
fn waits_longer_by(peer: &FakePeer, ground: &Ground, room_id: &str, status: u16, than: &str) -> (Duration, Duration) {
    let ask = |room_id: &str, status: u16| {
        let begun = Instant::now();
        let made = peer.make_knock(&ground.server, room_id, &peer.user("ann"));
        assert_eq!(made.status, status, "{}", made.text());
        begun.elapsed()
    };
    // By turns, so that whatever else the machine does is in both.
    let longer = |_| {
        let without = ask(than, 200);
        ask(room_id, status).saturating_sub(without)
    };
    let mut longer: Vec<Duration> = (0..9).map(longer).collect();
    longer.sort();
    (longer[longer.len() / 2], longer[longer.len() - 1])
}

#[test]
fn cve_2023_45129_a_hostile_acl_costs_no_time() {
    let long = format!("{}.test", vec!["a".repeat(60); 3].join("."));
    let patient = FakePeer::new(&long);
    let ground = Ground::with(&[&patient]);
    let glob = format!("{}b", "*a".repeat(100));
    let without = ground.owner.knockable_room("11");
    let many: Vec<String> = (0..250).map(|number| format!("{glob}{number}")).collect();
    let few_and_long = vec![format!("{}b", "*a".repeat(10_000)), format!("{}b", "*?".repeat(10_000))];
    let odd = json!([1, null, {}, [], "*a*a*b", "\u{0}", "", "x".repeat(20_000)]);
    for (content, is_open) in [
        (json!({ "allow": ["*"], "deny": many }), true),
        (json!({ "allow": ["*"], "deny": few_and_long }), true),
        (json!({ "allow": ["*"], "deny": odd }), true),
        (json!({ "allow": "*", "deny": "*" }), false),
        (json!({ "allow": { "*": true } }), false),
        (json!({}), false),
    ] {
        let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "knock" }), &[]);
        let path = format!("/rooms/{}/state/m.room.server_acl", encoded(&room_id));
        let begun = Instant::now();
        ground.owner.put(&path, content);
        let took = begun.elapsed();
        assert!(took < COMPILED_WITHIN, "{took:?}");
        for peer in [&patient, &ground.peer] {
            let status = if is_open { 200 } else { 403 };
            let (half, all) = waits_longer_by(peer, &ground, &room_id, status, &without);
            assert!(half < JUDGED_WITHIN && all < COMPILED_WITHIN, "{half:?}, {all:?}");
        }
    }
    ground.still_serves();
}

#[test]
fn cve_2022_39335_an_event_is_read_by_way_of_its_own_room_alone() {
    let ground = Ground::new();
    let bob = ground.peer.user("bob");
    let open = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    ground.peer.join(&ground.server, &open, &bob).ok();
    let closed = ground.owner.knockable_room("11");
    let said = ground.owner.say(&closed, "1", "among ourselves");
    for request in reads(&open, &said) {
        let answer = ask(&ground.peer, &ground, &request);
        let is_empty = ["events", "pdus"].iter().any(|list| answer.json()[list] == json!([]));
        assert!([403, 404].contains(&answer.status) || is_empty, "{}: {}", request.1, answer.text());
        assert!(!answer.text().contains("among ourselves"), "{}", request.1);
    }
}

#[test]
fn cve_2023_43796_devices_of_others_are_not_passed_on() {
    let other = FakePeer::new("other.test");
    let ground = Ground::with(&[&other]);
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    for peer in [&ground.peer, &other] {
        peer.join(&ground.server, &room_id, &peer.user("bob")).ok();
    }
    let devices = |user_id: &str| {
        let target = format!("/_matrix/federation/v1/user/devices/{}", encoded(user_id));
        ground.peer.ask(&ground.server, "GET", &target, None)
    };
    for user_id in [other.user("bob"), ground.peer.user("bob")] {
        let answer = devices(&user_id);
        assert!([400, 403, 404].contains(&answer.status), "{user_id}: {} {}", answer.status, answer.text());
    }
    devices(&ground.owner.user_id).ok();
}

#[test]
fn tuwunel_35655a859_a_walk_through_a_room_has_an_end_wherever_it_begins() {
    let ground = Ground::new();
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    ground.peer.join(&ground.server, &room_id, &ground.peer.user("bob")).ok();
    let said: Vec<String> = (0..60).map(|turn| ground.owner.say(&room_id, &turn.to_string(), "and on")).collect();
    let target = format!("/_matrix/federation/v1/get_missing_events/{}", encoded(&room_id));
    let walk = |latest: &[String]| {
        let body = json!({ "earliest_events": [], "latest_events": latest, "limit": u32::MAX });
        let begun = Instant::now();
        let answer = ground.peer.ask(&ground.server, "POST", &target, Some(&serde_json::from_value(body).unwrap()));
        (answer.ok()["events"].as_array().unwrap().len(), begun.elapsed())
    };
    // From the end of the room, and behind so many places that the end is never looked at.
    let end = said.last().unwrap();
    assert_eq!(walk(std::slice::from_ref(end)).0, MISSING_EVENTS_MAX);
    let mut places: Vec<String> = (0..10_000).map(|number| format!("${number:->43}")).collect();
    places.push(end.clone());
    assert_eq!(walk(&places).0, 0);
    let fastest = |latest: &[String]| (0..3).map(|_| walk(latest).1).min().unwrap();
    let (many, one) = (fastest(&places), fastest(std::slice::from_ref(end)));
    assert!(many.saturating_sub(one) < WALKED_WITHIN, "{many:?}, and one {one:?}");
    ground.still_serves();
}
