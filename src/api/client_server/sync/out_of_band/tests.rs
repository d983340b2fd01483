use std::sync::Arc;

use ruma::{RoomVersionId, user_id};
use serde_json::{Value, json};
use vestibule_protocol::{clock::UnixMillis, stream::StreamPosition};

use super::*;
use crate::client_server::testing::{Event, event_id};

const ANN: &str = "@ann:x";

fn elsewhere(event: StoredEvent, stripped: &[&str]) -> Elsewhere<'static> {
    let out_of_band = OutOfBand {
        room_version: RoomVersionId::V11,
        membership: event.event.membership().unwrap_or(MembershipState::Leave),
        progress: Progress::Settled,
        event: event.event,
        stripped: stripped.iter().map(|text| (*text).to_owned()).collect(),
        via: vec!["y".try_into().unwrap()],
        since: UnixMillis(5),
        knock: None,
        joins: Vec::new(),
        early: None,
    };
    Elsewhere { user_id: user_id!("@ann:x"), out_of_band }
}

fn own(membership: &MembershipState) -> StoredEvent {
    Event::at(1).member(ANN, membership).build()
}

fn shown(elsewhere: &Elsewhere<'_>) -> Vec<Value> {
    elsewhere.stripped().events.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect()
}

fn membership_row(membership: MembershipState) -> UserMembership {
    UserMembership {
        room_id: "!r:x".try_into().unwrap(),
        membership,
        event_id: event_id(1),
        position: StreamPosition(9),
        forgotten: false,
    }
}

#[test]
fn one_odd_entry_hides_nothing_but_itself() {
    let name = r#"{"content":{"name":"Otters"},"sender":"@o:y","state_key":"","type":"m.room.name"}"#;
    let odd = [
        "null",
        "5",
        "[]",
        "\"text\"",
        "{",
        "",
        "{}",
        r#"{"content":null,"sender":"@o:y","state_key":"","type":"m.room.topic"}"#,
        r#"{"content":[],"sender":"@o:y","state_key":"","type":"m.room.topic"}"#,
        r#"{"content":{},"sender":"nobody","state_key":"","type":"m.room.topic"}"#,
        r#"{"content":{},"sender":"@o:y","type":"m.room.topic"}"#,
        r#"{"content":{},"sender":"@o:y","state_key":7,"type":"m.room.topic"}"#,
        r#"{"content":{},"sender":"@o:y","state_key":"","type":"a","type":"b"}"#,
    ];
    let deep = format!(
        r#"{{"content":{{"a":{}{}}},"sender":"@o:y","state_key":"","type":"m.room.topic"}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let entries: Vec<&str> = odd.into_iter().chain([deep.as_str(), name]).collect();
    let seen = shown(&elsewhere(own(&MembershipState::Knock), &entries));
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[0], serde_json::from_str::<Value>(name).unwrap());
    assert_eq!(seen[1]["content"], json!({ "membership": "knock" }));
}

#[test]
fn nothing_but_the_four_keys_is_shown() {
    let entry = r#"{"auth_events":[],"content":{},"event_id":"$a","hashes":{},"origin_server_ts":1,"prev_events":[],
        "sender":"@o:y","signatures":{},"state_key":"","type":"m.room.create","unsigned":{}}"#;
    for event in shown(&elsewhere(own(&MembershipState::Invite), &[entry])) {
        let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["content", "sender", "state_key", "type"]);
    }
}

#[test]
fn the_own_membership_is_the_verified_one_and_told_once() {
    let claimed = r#"{"content":{"membership":"join"},"sender":"@ann:x","state_key":"@ann:x","type":"m.room.member"}"#;
    let inviter = r#"{"content":{"membership":"join"},"sender":"@o:y","state_key":"@o:y","type":"m.room.member"}"#;
    let seen = shown(&elsewhere(own(&MembershipState::Invite), &[claimed, inviter]));
    let keys: Vec<&str> = seen.iter().map(|event| event["state_key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["@o:y", "@ann:x"]);
    assert_eq!(seen[1]["content"]["membership"], "invite");
}

#[test]
fn no_more_is_shown_than_a_client_needs() {
    let entries: Vec<String> = (0..10_000)
        .map(|number| format!(r#"{{"content":{{}},"sender":"@o:y","state_key":"{number}","type":"m.room.name"}}"#))
        .collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let seen = shown(&elsewhere(own(&MembershipState::Knock), &entries));
    assert_eq!(seen.len(), SHOWN_MAX + 1);
    assert_eq!(seen[SHOWN_MAX]["state_key"], ANN);
}

#[test]
fn only_an_own_leave_or_ban_is_an_ending() {
    let by_owner = |membership: &str| {
        let content = json!({ "membership": membership });
        Event::at(1).with("sender", "@o:y").state("m.room.member", ANN, content).build()
    };
    let others = Event::at(1).member("@bob:x", &MembershipState::Leave).build();
    let message = Event::at(1).build();
    for (event, ends) in [
        (own(&MembershipState::Leave), true),
        (by_owner("leave"), true),
        (by_owner("ban"), true),
        (own(&MembershipState::Knock), false),
        (own(&MembershipState::Invite), false),
        (others, false),
        (message, false),
    ] {
        let expected = ends.then(|| event.event.event_id().to_owned());
        let shown = format!("{:?}", event.event);
        let ending = elsewhere(event, &[]).ending(&membership_row(MembershipState::Leave));
        let ending = ending.inspect(|ending| {
            assert_eq!((ending.order, ending.received_at), (None, UnixMillis(5)));
            assert_eq!(ending.position, StreamPosition(9));
        });
        assert_eq!(ending.map(|ending| ending.event.event_id().to_owned()), expected, "{shown}");
    }
}

#[test]
fn an_odd_own_event_leaves_the_room_shown_without_it() {
    let others: Arc<Pdu> = Event::at(1).member("@bob:x", &MembershipState::Knock).build().event;
    let mut odd = elsewhere(own(&MembershipState::Knock), &[]);
    odd.out_of_band.event = others;
    assert_eq!(shown(&odd), Vec::<Value>::new());
}
