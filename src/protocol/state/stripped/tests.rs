//! Stripped state as hostile and as ordinary servers send it.
//! May not: ask a room.

use proptest::prelude::{ProptestConfig, prop_assert, proptest};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{ALICE, BOB, EventSpec, RoomFixture, any_json::any_json, canonical};

fn room_of(version_id: &RoomVersionId, name: &str) -> RoomFixture {
    RoomFixture::knockable(version_id.clone())
        .named(name)
        .event(EventSpec::state(ALICE, "m.room.name", json!({ "name": name })))
        .event(EventSpec::state(ALICE, "m.room.server_acl", json!({ "allow": ["*"] })))
        .build()
}

fn pdu_entry(room: &RoomFixture, kind: &str, state_key: &str) -> Value {
    serde_json::from_str(room.state().get(&kind.into(), state_key).unwrap().json()).unwrap()
}

fn stripped_entry(room: &RoomFixture, kind: &str, state_key: &str) -> Value {
    let event = room.state().get(&kind.into(), state_key).unwrap();
    serde_json::from_str(&prune(event).unwrap().to_json()).unwrap()
}

fn value(entries: Value) -> CanonicalJsonValue {
    entries.try_into().unwrap()
}

/// The types of what is left, `!` before those that came whole.
fn left(entries: &[StrippedEntry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| match entry {
            StrippedEntry::Pdu(shaped) => format!("!{}", shaped.pdu().kind()),
            StrippedEntry::Stripped(stripped) => stripped.kind.to_string(),
        })
        .collect()
}

#[test]
fn both_forms_are_read_and_other_types_are_dropped() {
    let room = room_of(&RoomVersionId::V11, "one");
    let entries = value(json!([
        pdu_entry(&room, "m.room.create", ""),
        stripped_entry(&room, "m.room.name", ""),
        pdu_entry(&room, "m.room.join_rules", ""),
        pdu_entry(&room, "m.room.power_levels", ""),
        stripped_entry(&room, "m.room.server_acl", ""),
        pdu_entry(&room, "m.room.member", ALICE),
    ]));
    let read = read_stripped(Some(&entries), room.room_id(), room.version());
    assert_eq!(left(&read), ["!m.room.create", "m.room.name", "!m.room.join_rules"]);
}

#[test]
fn odd_answers_leave_what_is_fit() {
    let room = room_of(&RoomVersionId::V10, "one");
    let name = stripped_entry(&room, "m.room.name", "");
    let with = |key: &str, value: Value| {
        let mut entry = name.clone();
        entry[key] = value;
        entry
    };
    let table = [
        (Value::Null, 0),
        (json!({}), 0),
        (json!("x"), 0),
        (json!([]), 0),
        (json!([1, 2, null, "x", [], {}]), 0),
        (json!([name]), 1),
        (json!([with("sender", json!(7))]), 0),
        (json!([with("sender", json!("nobody"))]), 0),
        (json!([with("content", json!("x"))]), 0),
        (json!([with("content", Value::Null)]), 0),
        (json!([with("type", json!(7))]), 0),
        (json!([with("state_key", json!("x"))]), 0),
        (json!([with("state_key", Value::Null)]), 0),
        (json!([with("room_id", json!(room.room_id()))]), 1),
        (json!([with("room_id", json!("!other:resident.test"))]), 0),
        (json!([with("room_id", json!(7))]), 0),
        (json!([with("sender", json!(format!("@{}:resident.test", "x".repeat(300))))]), 0),
        (json!([name, name, with("content", json!({ "name": "two" }))]), 1),
        // A thing with the keys of an event that is none.
        (json!([{ "auth_events": [], "prev_events": [], "signatures": {}, "hashes": {}, "type": "m.room.name" }]), 0),
    ];
    for (entries, count) in table {
        let read = read_stripped(Some(&value(entries.clone())), room.room_id(), room.version());
        assert_eq!(read.len(), count, "{entries}");
    }
    assert!(read_stripped(None, room.room_id(), room.version()).is_empty());
}

#[test]
fn long_lists_and_large_entries_are_cut() {
    let room = room_of(&RoomVersionId::V10, "one");
    let name = stripped_entry(&room, "m.room.name", "");
    let mut many: Vec<Value> = vec![json!({}); STRIPPED_ENTRIES_MAX - 1];
    many.push(name.clone());
    let read = |entries: &[Value]| {
        left(&read_stripped(Some(&value(json!(entries))), room.room_id(), room.version())).join(" ")
    };
    assert_eq!(read(&many), "m.room.name");
    many.insert(0, json!({}));
    assert_eq!(read(&many), "", "the {STRIPPED_ENTRIES_MAX}th is the last one looked at");
    let topic = |bytes: usize| json!({ "type": "m.room.topic", "state_key": "", "sender": ALICE, "content": { "topic": "x".repeat(bytes) } });
    assert_eq!(read(&[topic(STRIPPED_BYTES_MAX), name.clone()]), "m.room.name", "what is too large makes room");
    assert_eq!(read(&[topic(STRIPPED_BYTES_MAX - 300), name.clone()]), "m.room.topic m.room.name");
    assert_eq!(read(&[topic(STRIPPED_BYTES_MAX - 150), name]), "m.room.topic");
}

#[test]
fn a_create_event_is_bound_to_its_room() {
    // Version, whether the entry is whole, of which room it is, and whether it is shown.
    let table = [
        (RoomVersionId::V7, true, "one", true),
        (RoomVersionId::V7, true, "two", false),
        (RoomVersionId::V7, false, "one", true),
        (RoomVersionId::V11, true, "one", true),
        (RoomVersionId::V11, true, "two", false),
        // Four keys name no room: most servers send no more, so that has to do.
        (RoomVersionId::V11, false, "one", true),
        (RoomVersionId::V12, true, "one", true),
        (RoomVersionId::V12, true, "two", false),
        (RoomVersionId::V12, false, "one", false),
    ];
    for (version_id, is_whole, which, is_shown) in table {
        let one = room_of(&version_id, "one");
        let two = RoomFixture::knockable(version_id.clone()).named("two").create_with("x", json!(2)).build();
        let room = if which == "one" { &one } else { &two };
        let entry =
            if is_whole { pdu_entry(room, "m.room.create", "") } else { stripped_entry(room, "m.room.create", "") };
        let entries = value(json!([entry]));
        let read = read_stripped(Some(&entries), one.room_id(), one.version());
        assert_eq!(!read.is_empty(), is_shown, "version {version_id}, whole {is_whole}, {which}");
    }
}

#[test]
fn a_create_event_of_another_version_is_dropped() {
    let room = room_of(&RoomVersionId::V10, "one");
    let mut create = stripped_entry(&room, "m.room.create", "");
    for (named, is_shown) in [(json!("10"), true), (json!("11"), false), (json!(10), false), (Value::Null, false)] {
        create["content"]["room_version"] = named.clone();
        let read = read_stripped(Some(&value(json!([create]))), room.room_id(), room.version());
        assert_eq!(!read.is_empty(), is_shown, "{named}");
    }
}

#[test]
fn an_invite_of_version_12_needs_its_create_event() {
    let room = room_of(&RoomVersionId::V12, "one");
    let other = RoomFixture::knockable(RoomVersionId::V12).create_with("x", json!(2)).build();
    let create = pdu_entry(&room, "m.room.create", "");
    let name = stripped_entry(&room, "m.room.name", "");
    let mut changed = create.clone();
    changed["origin_server_ts"] = json!(5);
    let inviter = crate::fixture::user(ALICE);
    let bad = Err("bad");
    let table = [
        (json!([create, name]), Ok(2)),
        (json!([name, create]), Ok(2)),
        (json!([name]), Err("missing")),
        (json!([]), Err("missing")),
        (json!([stripped_entry(&room, "m.room.create", "")]), bad),
        (json!([pdu_entry(&other, "m.room.create", "")]), bad),
        (json!([changed]), bad),
        // A wrong one beside the right one is dropped like any other entry of another room.
        (json!([pdu_entry(&other, "m.room.create", ""), create]), Ok(1)),
        (json!([create, 7]), bad),
        (json!([create, null]), bad),
        (json!({ "0": create }), bad),
        (Value::Null, bad),
    ];
    for (entries, expected) in table {
        let found = check_invite_state(Some(&value(entries.clone())), room.room_id(), room.version(), &inviter);
        let found = match found {
            Ok(read) => Ok(read.len()),
            Err(InviteRefusal::NoCreateEvent) => Err("missing"),
            Err(InviteRefusal::BadInviteState { .. }) => bad,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{entries}");
    }
    let absent = check_invite_state(None, room.room_id(), room.version(), &inviter);
    assert!(matches!(absent, Err(InviteRefusal::NoCreateEvent)));
}

#[test]
fn an_invite_of_an_older_version_may_come_without_create_event() {
    let room = room_of(&RoomVersionId::V11, "one");
    let inviter = crate::fixture::user(ALICE);
    let read = |entries: Option<Value>| {
        let entries = entries.map(value);
        check_invite_state(entries.as_ref(), room.room_id(), room.version(), &inviter).map(|read| left(&read))
    };
    assert_eq!(read(None), Ok(vec![]));
    assert_eq!(read(Some(json!([stripped_entry(&room, "m.room.name", "")]))), Ok(vec!["m.room.name".to_owned()]));
    assert!(matches!(read(Some(json!(["x"]))), Err(InviteRefusal::BadInviteState { .. })));
    assert!(matches!(read(Some(json!("x"))), Err(InviteRefusal::BadInviteState { .. })));
}

#[test]
fn an_invite_shows_its_inviter_and_no_other_member() {
    let mut room = room_of(&RoomVersionId::V11, "one");
    room.append(EventSpec::knock(BOB));
    let inviter = crate::fixture::user(ALICE);
    let entries =
        value(json!([stripped_entry(&room, "m.room.member", ALICE), stripped_entry(&room, "m.room.member", BOB),]));
    let read = check_invite_state(Some(&entries), room.room_id(), room.version(), &inviter).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].key().unwrap().1, ALICE);
}

#[test]
fn what_clients_get_has_four_keys_and_survives_odd_characters() {
    let odd = "quote \" backslash \\ newline \n snowman ☃";
    let room = RoomFixture::knockable(RoomVersionId::V11)
        .event(EventSpec::any(ALICE, "m.room.name", Some(""), json!({ "name": odd })))
        .build();
    let event = room.state().get(&"m.room.name".into(), "").unwrap();
    let stripped = prune(event).unwrap();
    let json: Value = serde_json::from_str(&stripped.to_json()).unwrap();
    let expected = json!({ "type": "m.room.name", "state_key": "", "sender": ALICE, "content": { "name": odd } });
    assert_eq!(json, expected);
    let again = StrippedEvent::read(&canonical(json)).unwrap();
    assert_eq!(again.to_json(), stripped.to_json());
    let keyed = StrippedEvent { state_key: odd.to_owned(), kind: odd.into(), ..stripped };
    let json: Value = serde_json::from_str(&keyed.to_json()).unwrap();
    assert_eq!((json["state_key"].as_str(), json["type"].as_str()), (Some(odd), Some(odd)));
    let mut with_message = RoomFixture::knockable(RoomVersionId::V11).build();
    let message = with_message.append(EventSpec::message(ALICE, "hi"));
    assert!(prune(&message).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn whatever_comes_is_listed_types_with_four_readable_keys_or_nothing(entries in any_json(), place in any_json()) {
        let room_id = <&RoomId>::try_from("!fixture:resident.test").unwrap();
        let version = crate::fixture::version(&RoomVersionId::V11);
        let near = json!({ "type": "m.room.name", "state_key": "", "sender": BOB, "content": place });
        for entries in [entries.clone(), json!([entries]), json!([near])] {
            let read = read_stripped(Some(&value(entries)), room_id, &version);
            prop_assert!(read.len() <= STRIPPED_TYPES.len());
            for entry in read {
                let stripped = match entry {
                    StrippedEntry::Pdu(shaped) => prune(shaped.pdu()).unwrap(),
                    StrippedEntry::Stripped(stripped) => stripped,
                };
                prop_assert!(STRIPPED_TYPES.contains(&stripped.kind) && stripped.state_key.is_empty());
                let json: Value = serde_json::from_str(&stripped.to_json()).unwrap();
                prop_assert!(json["content"].is_object() && json.as_object().unwrap().len() == 4);
            }
        }
    }
}
