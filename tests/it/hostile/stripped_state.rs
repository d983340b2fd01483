//! What other servers show of a room that our user asks into or is invited to: kept for good, and read at every `/sync`.
//! May not: end before a restart; what was stored badly breaks the next start.

use std::time::{Duration, Instant};

use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

use super::guest::Guest;
use crate::support::{
    Answer, FakePeer, SignedEvent,
    foul::shown::{odd_creates, odd_lists},
    path_of,
};

/// Until the client has its answer. Source: SECURITY V06.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Of all that is shown of one room together, and what is around it.
const SHOWN_BYTES_MAX: usize = 262_144 + 1_024;

/// Every sync of that user can be read by a client that takes the specification at its word.
#[track_caller]
fn assert_syncs(guest: &Guest, list: &str, rooms: usize) {
    let sync = guest.anna.sync("timeout=0");
    let shown = sync["rooms"][list].as_object().unwrap();
    assert_eq!(shown.len(), rooms, "{list}");
    let key = format!("{list}_state");
    for room in shown.values() {
        assert!(room.to_string().len() <= SHOWN_BYTES_MAX, "{}", room.to_string().len());
        for event in room[&key]["events"].as_array().unwrap() {
            let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["content", "sender", "state_key", "type"]);
            assert!(event["content"].is_object() && event["state_key"].is_string() && event["type"].is_string());
            assert!(event["sender"].as_str().unwrap().starts_with('@'), "{event}");
            assert!(event["type"] != "m.room.member" || event["content"]["membership"] == *list, "{event}");
        }
    }
}

#[test]
fn cve_2024_52815_what_a_knock_is_answered_with_breaks_no_sync() {
    let mut guest = Guest::new();
    let entry = json!({ "type": "m.room.name", "state_key": "", "sender": "@o:peer.test", "content": { "name": "x" } });
    let mut lists = odd_lists();
    lists.push(json!(vec![entry; 5_000]));
    lists.push(json!([{ "type": "m.room.topic", "state_key": "", "sender": "@o:peer.test",
        "content": { "topic": "x".repeat(900_000) } }]));
    // Above what is read of a reply at all.
    lists.push(json!([{ "type": "m.room.topic", "state_key": "", "sender": "@o:peer.test",
        "content": { "topic": "x".repeat(10_000_000) } }]));
    let count = lists.len();
    for (number, list) in lists.into_iter().enumerate() {
        let room_id = guest.room("11", "knock");
        let shown: String = list.to_string().chars().take(80).collect();
        guest.peer.corrupt("send_knock", move |mut answer| {
            answer["knock_room_state"] = list.clone();
            answer
        });
        let begun = Instant::now();
        assert_eq!(guest.try_knock(&room_id, &["peer.test"]).status, 200, "{shown}");
        assert!(begun.elapsed() < ANSWERED_WITHIN, "{shown}");
        assert_syncs(&guest, "knock", number + 1);
    }
    guest.server.kill();
    guest.server.restart();
    assert_syncs(&guest, "knock", count);
}

/// The event by which a user of the peer invites anna, and the room that it is of.
fn invite(guest: &Guest, version: &str, room_id: &str) -> SignedEvent {
    let event = json!({
        "type": "m.room.member", "room_id": room_id, "sender": guest.peer.user("owner"), "state_key": guest.anna.user_id,
        "content": { "membership": "invite" }, "prev_events": ["$last"], "auth_events": ["$levels"], "depth": 9,
    });
    guest.peer.sign_for(version, event)
}

#[track_caller]
fn put_invite(guest: &Guest, version: &str, room_id: &str, event: &SignedEvent, state: Option<Value>) -> Answer {
    let mut body = json!({ "room_version": version, "event": event.event });
    if let Some(state) = state {
        body["invite_room_state"] = state;
    }
    let body: CanonicalJsonObject = serde_json::from_value(body).unwrap();
    guest.peer.ask(&guest.server, "PUT", &path_of("v2/invite", room_id, &event.event_id), Some(&body))
}

#[test]
fn cve_2024_52815_what_an_invite_shows_breaks_no_sync() {
    let mut guest = Guest::new();
    let mut taken = 0;
    for (number, list) in odd_lists().into_iter().map(Some).chain([None]).enumerate() {
        let room_id = format!("!odd{number}:peer.test");
        let event = invite(&guest, "11", &room_id);
        let answer = put_invite(&guest, "11", &room_id, &event, list.clone());
        // Refused as a whole or taken without the odd ones, but never half.
        assert!([200, 400].contains(&answer.status), "{list:?}: {} {}", answer.status, answer.text());
        taken += usize::from(answer.status == 200);
        assert_syncs(&guest, "invite", taken);
    }
    assert!(taken > 0);
    guest.server.kill();
    guest.server.restart();
    assert_syncs(&guest, "invite", taken);
}

#[test]
fn msc4311_the_create_event_that_a_knock_shows_is_that_of_the_room() {
    let impostor = FakePeer::new("peer.test");
    let guest = Guest::new();
    for version in ["11", "12"] {
        let other = guest.room(version, "knock");
        let foreign = guest.peer.create_event(&other);
        for (what, change) in odd_creates(version, &foreign, &impostor) {
            let room_id = guest.room(version, "knock");
            let bad = change(guest.peer.create_event(&room_id));
            guest.peer.corrupt("send_knock", move |mut answer| {
                let entries = answer["knock_room_state"].as_array_mut().unwrap();
                *entries.iter_mut().find(|event| event["type"] == "m.room.create").unwrap() = bad.clone();
                answer
            });
            guest.try_knock(&room_id, &["peer.test"]).ok();
            let shown = guest.shown("knock", &room_id).unwrap();
            let events = shown["knock_state"]["events"].as_array().unwrap();
            assert!(events.iter().all(|event| event["type"] != "m.room.create"), "{version} {what}: {shown}");
            assert!(events.iter().any(|event| event["content"]["name"] == "Burrow"), "{version} {what}: {shown}");
        }
    }
}

#[test]
fn msc4311_an_invite_into_a_room_of_version_12_shows_the_event_that_names_it() {
    let impostor = FakePeer::new("peer.test");
    let guest = Guest::new();
    let room_id = guest.room("12", "invite");
    let create = guest.peer.create_event(&room_id);
    let other = guest.peer.create_event(&guest.room("12", "invite"));
    let mut unsigned = create.clone();
    unsigned["signatures"] = json!({});
    let mut changed = create.clone();
    changed["content"]["additional_creators"] = json!(["@eve:peer.test"]);
    let forged = serde_json::to_value(&impostor.sign_for("12", create.clone()).event).unwrap();
    let stripped =
        json!({ "type": "m.room.create", "state_key": "", "sender": create["sender"], "content": create["content"] });
    let event = invite(&guest, "12", &room_id);
    for (state, errcode) in [
        (None, "M_MISSING_PARAM"),
        (Some(json!([])), "M_MISSING_PARAM"),
        (Some(json!([other])), "M_INVALID_PARAM"),
        (Some(json!([unsigned])), "M_INVALID_PARAM"),
        (Some(json!([changed])), "M_INVALID_PARAM"),
        (Some(json!([forged])), "M_INVALID_PARAM"),
        (Some(json!([stripped])), "M_INVALID_PARAM"),
    ] {
        let body = put_invite(&guest, "12", &room_id, &event, state).refused(400, errcode);
        assert!(!super::ground::is_signed_by_us(&body));
        guest.assert_nothing_of(&room_id);
    }
    put_invite(&guest, "12", &room_id, &event, Some(json!([create]))).ok();
    assert!(guest.shown("invite", &room_id).is_some());
}
