use ruma::{RoomVersionId, owned_room_alias_id, owned_user_id};

use super::*;

fn wish(json: serde_json::Value) -> Result<WishedState, MatrixError> {
    serde_json::from_str::<StateWish>(&json.to_string()).unwrap().check()
}

fn object(json: serde_json::Value) -> CanonicalJsonObject {
    canonical_json::parse_object(json.to_string().as_bytes()).unwrap()
}

fn first_events(version: RoomVersionId, preset: Preset) -> FirstEvents {
    FirstEvents {
        creator: owned_user_id!("@ann:x"),
        version: RoomVersion::lookup(&version).unwrap(),
        preset,
        creation_content: CanonicalJsonObject::new(),
        power_levels_override: None,
        initial_state: Vec::new(),
        alias: None,
        name: None,
        topic: None,
        invites: vec![(owned_user_id!("@bob:x"), object(serde_json::json!({"displayname": "Bob"})))],
        is_direct: false,
    }
}

fn kinds(events: &[InitialEvent]) -> Vec<String> {
    events.iter().map(|event| event.kind.to_string()).collect()
}

fn content_of(events: &[InitialEvent], kind: &str) -> serde_json::Value {
    let event = events.iter().find(|event| event.kind.to_string() == kind).unwrap();
    serde_json::to_value(&event.content).unwrap()
}

#[test]
fn events_come_in_the_order_of_the_specification() {
    let mut wishes = first_events(RoomVersionId::V11, Preset::Private);
    wishes.alias = Some(owned_room_alias_id!("#door:x"));
    wishes.name = Some("Door".to_owned());
    wishes.topic = Some("Knock".to_owned());
    wishes.is_direct = true;
    wishes.initial_state =
        vec![wish(serde_json::json!({"type": "m.room.encryption", "content": {"algorithm": "m"}})).unwrap()];
    let events = wishes.initial_events().unwrap();
    assert_eq!(
        kinds(&events),
        [
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.encryption",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
        ]
    );
    let invite = content_of(&events, "m.room.member");
    assert_eq!(invite, serde_json::json!({"displayname": "Bob", "is_direct": true, "membership": "invite"}));
}

#[test]
fn initial_state_wins_over_the_preset_and_loses_to_name_and_topic() {
    let mut wishes = first_events(RoomVersionId::V10, Preset::Public);
    wishes.name = Some("Right".to_owned());
    wishes.initial_state = vec![
        wish(serde_json::json!({"type": "m.room.join_rules", "content": {"join_rule": "knock"}})).unwrap(),
        wish(serde_json::json!({"type": "m.room.name", "content": {"name": "Wrong"}})).unwrap(),
        wish(serde_json::json!({"type": "m.room.topic", "content": {"topic": "Kept"}})).unwrap(),
    ];
    let events = wishes.initial_events().unwrap();
    assert_eq!(content_of(&events, "m.room.join_rules"), serde_json::json!({"join_rule": "knock"}));
    assert_eq!(content_of(&events, "m.room.name"), serde_json::json!({"name": "Right"}));
    assert_eq!(content_of(&events, "m.room.topic"), serde_json::json!({"topic": "Kept"}));
    assert_eq!(content_of(&events, "m.room.guest_access"), serde_json::json!({"guest_access": "forbidden"}));
    let names = kinds(&events);
    for once in ["m.room.join_rules", "m.room.name", "m.room.topic", "m.room.guest_access"] {
        assert_eq!(names.iter().filter(|name| *name == once).count(), 1, "{once}");
    }
}

#[test]
fn server_keys_of_the_create_event_are_the_servers() {
    for (version, creator) in
        [(RoomVersionId::V10, Some("@ann:x")), (RoomVersionId::V11, None), (RoomVersionId::V12, None)]
    {
        let mut wishes = first_events(version.clone(), Preset::Private);
        wishes.creation_content = object(serde_json::json!({
            "creator": "@eve:y", "room_version": "1", "m.federate": false, "type": "m.space",
        }));
        let content = serde_json::to_value(wishes.create_content().unwrap()).unwrap();
        assert_eq!(content["room_version"], version.as_str(), "{version}");
        assert_eq!(content.get("creator").and_then(|creator| creator.as_str()), creator, "{version}");
        assert_eq!(content["m.federate"], false, "{version}");
        assert_eq!(content["type"], "m.space", "{version}");
    }
}

#[test]
fn creators_of_version_12_are_in_no_power_levels() {
    let mut wishes = first_events(RoomVersionId::V12, Preset::TrustedPrivate);
    wishes.creation_content = object(serde_json::json!({"additional_creators": ["@cat:y", "@bob:x", "@ann:x"]}));
    let create = serde_json::to_value(wishes.create_content().unwrap()).unwrap();
    assert_eq!(create["additional_creators"], serde_json::json!(["@cat:y", "@bob:x"]));
    let levels = content_of(&wishes.initial_events().unwrap(), "m.room.power_levels");
    assert_eq!(levels["users"], serde_json::json!({}));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);

    for creator in ["@ann:x", "@bob:x", "@cat:y"] {
        wishes.power_levels_override = Some(object(serde_json::json!({"users": {creator: 100}})));
        assert_eq!(wishes.initial_events().err().map(|error| error.status.as_u16()), Some(400), "{creator}");
    }
    wishes.power_levels_override = Some(object(serde_json::json!({"users": {"@dan:x": 100}, "invite": 7})));
    let levels = content_of(&wishes.initial_events().unwrap(), "m.room.power_levels");
    assert_eq!(levels["users"], serde_json::json!({"@dan:x": 100}));
    assert_eq!(levels["invite"], 7);
    wishes.power_levels_override = None;
    wishes.creation_content = object(serde_json::json!({"additional_creators": ["cat"]}));
    assert_eq!(wishes.create_content().err().map(|error| error.status.as_u16()), Some(400));
}

#[test]
fn trusted_guests_of_older_versions_are_as_powerful_as_the_creator() {
    for (preset, users, invite) in [
        (Preset::TrustedPrivate, serde_json::json!({"@ann:x": 100, "@bob:x": 100}), 0),
        (Preset::Private, serde_json::json!({"@ann:x": 100}), 0),
        (Preset::Public, serde_json::json!({"@ann:x": 100}), 50),
    ] {
        let wishes = first_events(RoomVersionId::V11, preset);
        let levels = content_of(&wishes.initial_events().unwrap(), "m.room.power_levels");
        assert_eq!(levels["users"], users, "{preset:?}");
        assert_eq!(levels["invite"], invite, "{preset:?}");
        assert_eq!(levels["events"]["m.room.tombstone"], 100, "{preset:?}");
        assert!(!wishes.create_content().unwrap().contains_key("additional_creators"), "{preset:?}");
    }
}

#[test]
fn power_levels_of_initial_state_are_taken_whole_and_once() {
    let mut wishes = first_events(RoomVersionId::V11, Preset::Private);
    wishes.initial_state =
        vec![wish(serde_json::json!({"type": "m.room.power_levels", "content": {"users": {"@ann:x": 99}}})).unwrap()];
    wishes.power_levels_override = Some(object(serde_json::json!({"ban": 60})));
    let events = wishes.initial_events().unwrap();
    assert_eq!(content_of(&events, "m.room.power_levels"), serde_json::json!({"ban": 60, "users": {"@ann:x": 99}}));
    assert_eq!(kinds(&events).iter().filter(|kind| *kind == "m.room.power_levels").count(), 1);
}

#[test]
fn what_the_server_makes_cannot_be_wished() {
    for kind in ["m.room.create", "m.room.member"] {
        let refused = wish(serde_json::json!({"type": kind, "content": {}}));
        assert_eq!(refused.err().map(|error| error.status.as_u16()), Some(400), "{kind}");
    }
    let refused = wish(serde_json::json!({"type": "x", "content": {"float": 1.5}}));
    assert_eq!(refused.err().map(|error| error.status.as_u16()), Some(400));
}
