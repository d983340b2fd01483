use serde_json::json;

use super::*;
use crate::client_server::testing::Event;

fn filter(json: serde_json::Value) -> RoomEventFilter {
    serde_json::from_value(json).unwrap()
}

#[test]
fn events_pass_what_names_them_and_nothing_else() {
    let message = Event::at(1).build().event;
    let picture = Event::at(1).with("content", json!({"url": "mxc://x/y"})).build().event;
    let table = [
        (json!({}), true, true),
        (json!({"types": []}), false, false),
        (json!({"types": ["m.room.message"]}), true, true),
        (json!({"types": ["m.room.*"]}), true, true),
        (json!({"types": ["m.room.topic", "*.message"]}), true, true),
        (json!({"types": ["m.room"]}), false, false),
        (json!({"not_types": ["m.*"]}), false, false),
        (json!({"types": ["m.*"], "not_types": ["m.room.message"]}), false, false),
        (json!({"not_types": ["m.room.topic"]}), true, true),
        (json!({"senders": ["@ann:x"]}), true, true),
        (json!({"senders": ["@bob:x"]}), false, false),
        (json!({"senders": []}), false, false),
        (json!({"not_senders": ["@ann:x"]}), false, false),
        (json!({"senders": ["@ann:x"], "not_senders": ["@ann:x"]}), false, false),
        (json!({"contains_url": true}), false, true),
        (json!({"contains_url": false}), true, false),
        (json!({"limit": 0}), true, true),
    ];
    for (json, with_text, with_picture) in table {
        let filter = filter(json.clone());
        assert_eq!(lets_through(&filter, &message), with_text, "{json}");
        assert_eq!(lets_through(&filter, &picture), with_picture, "{json}");
    }
}

#[test]
fn a_url_is_text() {
    let filter = filter(json!({"contains_url": true}));
    for url in [json!(null), json!(5), json!({})] {
        let event = Event::at(1).with("content", json!({"url": url})).build().event;
        assert!(!lets_through(&filter, &event), "{url}");
    }
}

#[test]
fn rooms_pass_by_both_lists() {
    let room = ruma::room_id!("!r:x");
    for (json, expected) in [
        (json!({}), true),
        (json!({"rooms": []}), false),
        (json!({"rooms": ["!r:x"]}), true),
        (json!({"rooms": ["!other:x"]}), false),
        (json!({"not_rooms": ["!r:x"]}), false),
        (json!({"rooms": ["!r:x"], "not_rooms": ["!r:x"]}), false),
    ] {
        assert_eq!(lets_room_through(&filter(json.clone()), room), expected, "{json}");
    }
}

#[test]
fn patterns_match_whole_types() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("*", "m.room.member", true),
        ("m.*", "m.room.member", true),
        ("m.*", "im.room.member", false),
        ("*.member", "m.room.member", true),
        ("m.*.member", "m.room.member", true),
        ("m.*.member", "m.member", false),
        ("m.*.*", "m.room.member", true),
        ("a*b*c", "aXbYbZc", true),
        ("a*b*c", "aXcYb", false),
        ("a*a", "a", false),
        ("ab*ba", "aba", false),
        ("?", "a", false),
        ("m.room.[m]ember", "m.room.member", false),
    ] {
        assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
    }
    let costly = format!("{}b", "a*".repeat(200));
    assert!(!matches_pattern(&costly, &"a".repeat(20_000)));
}

#[test]
fn limits_have_a_default_and_an_end() {
    let asked = |limit: u32| Some(UInt::from(limit));
    assert_eq!(limit_of(None, 10, 100), 10);
    assert_eq!(limit_of(asked(0), 10, 100), 0);
    assert_eq!(limit_of(asked(99), 10, 100), 99);
    assert_eq!(limit_of(asked(4_000_000_000), 10, 100), 100);
}

#[test]
fn account_data_is_its_owners() {
    let owner = ruma::user_id!("@ann:x");
    for (json, expected) in [
        (json!({}), true),
        (json!({"types": ["m.push_rules"]}), true),
        (json!({"types": ["m.direct"]}), false),
        (json!({"not_types": ["m.push*"]}), false),
        (json!({"senders": ["@ann:x"]}), true),
        (json!({"not_senders": ["@ann:x"]}), false),
    ] {
        let filter: Filter = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(lets_account_data_through(&filter, owner, "m.push_rules"), expected, "{json}");
    }
}

#[test]
fn laziness_is_asked_for() {
    assert!(!is_lazy(&filter(json!({}))));
    assert!(is_lazy(&filter(json!({"lazy_load_members": true}))));
}
