//! Templates as a hostile resident server makes them: each wrong field in turn, and every field that must not come through.
//! May not: sign anything but what we built.

use proptest::{
    prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest},
    sample::select,
};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::*;
use crate::{
    fixture::{ALICE, BOB, EPOCH, any_json::any_json, canonical, identity, public_keys, user, version},
    membership::handshake::member_content,
    pdu::{checks::ShapedPdu, event_builder::EventDraft},
};

const ROOM: &str = "!fixture:resident.test";
const HASH_ROOM: &str = "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn reply(room_version: &str, membership: &str) -> Value {
    let room_id = if room_version == "12" { HASH_ROOM } else { ROOM };
    json!({
        "room_version": room_version,
        "event": {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": BOB,
            "state_key": BOB,
            "content": { "membership": membership },
            "auth_events": ["$one", "$two"],
            "prev_events": ["$three"],
            "depth": 7,
            "origin": "resident.test",
            "origin_server_ts": 1,
        },
    })
}

fn read_as(reply: &Value, membership: MembershipState, offered: &[RoomVersionId]) -> Result<Template, TemplateRefusal> {
    let is_hash = reply["event"]["room_id"] == HASH_ROOM;
    let wanted = TemplateRequest {
        room_id: <&RoomId>::try_from(if is_hash { HASH_ROOM } else { ROOM }).unwrap(),
        user_id: &user(BOB),
        membership,
        offered,
        fallback_version: None,
    };
    read_template(&canonical(reply.clone()), &wanted, EPOCH)
}

fn read(reply: &Value) -> Result<Template, TemplateRefusal> {
    read_as(reply, MembershipState::Knock, &RoomVersion::hosted())
}

/// A right answer with one field of the event replaced, or removed where the value is null.
fn with(field: &str, value: Value) -> Value {
    let mut reply = reply("10", "knock");
    match value {
        Value::Null => {
            reply["event"].as_object_mut().unwrap().remove(field);
        }
        value => reply["event"][field] = value,
    }
    reply
}

#[test]
fn a_right_template_gives_its_place_and_nothing_else() {
    for version_id in ["7", "8", "9", "10", "11", "12"] {
        let template = read(&reply(version_id, "knock")).unwrap();
        assert_eq!(template.version.id().as_str(), version_id);
        let place = template.place;
        assert_eq!(place.auth_events, ["$one", "$two"]);
        assert_eq!(place.prev_events, ["$three"]);
        assert_eq!((place.depth, place.origin_server_ts), (7, EPOCH), "version {version_id}");
        assert_eq!(place.room_id.unwrap(), if version_id == "12" { HASH_ROOM } else { ROOM });
        assert_eq!(template.authorised_via, None);
    }
}

#[test]
fn an_answer_to_another_question_is_thrown_away() {
    use TemplateRefusal::{WrongMembership, WrongRoom, WrongSender, WrongStateKey, WrongType};
    let table = [
        (
            "room_id",
            vec![Value::Null, json!(7), json!("!other:resident.test"), json!(HASH_ROOM.to_lowercase())],
            WrongRoom,
        ),
        ("type", vec![Value::Null, json!(7), json!("m.room.power_levels"), json!("m.room.member ")], WrongType),
        (
            "sender",
            vec![Value::Null, json!(7), json!(ALICE), json!("@BOB:peer.test"), json!("@dan:peer.test")],
            WrongSender,
        ),
        ("state_key", vec![Value::Null, json!(7), json!(""), json!(ALICE), json!("@dan:peer.test")], WrongStateKey),
        (
            "content",
            vec![
                Value::Null,
                json!("knock"),
                json!({}),
                json!({ "membership": 7 }),
                json!({ "membership": "join" }),
                json!({ "membership": "leave" }),
                json!({ "membership": "ban" }),
                json!({ "membership": "invite" }),
            ],
            WrongMembership,
        ),
    ];
    for (field, values, refusal) in table {
        for value in values {
            assert_eq!(read(&with(field, value.clone())).err(), Some(refusal.clone()), "{field}: {value}");
        }
    }
    for event in [Value::Null, json!([]), json!("x")] {
        let mut reply = reply("10", "knock");
        reply["event"] = event.clone();
        assert_eq!(read(&reply).err(), Some(TemplateRefusal::NotAnObject), "{event}");
    }
}

#[test]
fn each_membership_is_asked_for_by_its_name() {
    let memberships = [MembershipState::Join, MembershipState::Knock, MembershipState::Leave];
    for asked in &memberships {
        for answered in &memberships {
            let read = read_as(&reply("10", answered.as_str()), asked.clone(), &RoomVersion::hosted());
            assert_eq!(read.is_ok(), asked == answered, "{asked}, {answered}");
        }
    }
}

#[test]
fn a_place_that_is_none_is_thrown_away() {
    let ids = |count: usize| Value::from((0..count).map(|number| format!("$id{number}")).collect::<Vec<_>>());
    // Field, value, whether it is taken.
    let table = [
        ("auth_events", Value::Null, false),
        ("auth_events", json!("$one"), false),
        ("auth_events", json!({}), false),
        ("auth_events", json!([7]), false),
        ("auth_events", json!(["no id"]), false),
        ("auth_events", json!([["$one", { "sha256": "x" }]]), false),
        ("auth_events", json!(["$one", "$one"]), false),
        ("auth_events", json!([format!("${}", "x".repeat(254))]), true),
        ("auth_events", json!([format!("${}", "x".repeat(255))]), false),
        ("auth_events", json!([]), true),
        ("auth_events", ids(AUTH_EVENTS_MAX), true),
        ("auth_events", ids(AUTH_EVENTS_MAX + 1), false),
        ("prev_events", Value::Null, false),
        ("prev_events", json!([]), false),
        ("prev_events", json!([null]), false),
        ("prev_events", json!(["$one", "$one"]), false),
        ("prev_events", json!([format!("${}", "a".repeat(254))]), true),
        ("prev_events", json!([format!("${}", "a".repeat(255))]), false),
        ("prev_events", ids(PREV_EVENTS_MAX), true),
        ("prev_events", ids(PREV_EVENTS_MAX + 1), false),
        ("depth", Value::Null, false),
        ("depth", json!("7"), false),
        ("depth", json!(-1), false),
        ("depth", json!(0), true),
        ("depth", json!(9_007_199_254_740_991_i64), true),
    ];
    for (field, value, is_taken) in table {
        let read = read(&with(field, value.clone()));
        assert_eq!(read.is_ok(), is_taken, "{field}: {value}");
        if let Err(refusal) = read {
            assert!(matches!(refusal, TemplateRefusal::BadPlace { .. }), "{field}: {value}: {refusal:?}");
        }
    }
}

#[test]
fn the_create_event_of_version_12_authorizes_nothing_again() {
    let create = HASH_ROOM.replace('!', "$");
    for (version_id, is_taken) in [("11", true), ("12", false)] {
        let mut reply = reply(version_id, "knock");
        reply["event"]["auth_events"] = json!(["$one", create]);
        assert_eq!(read(&reply).is_ok(), is_taken, "version {version_id}");
    }
}

#[test]
fn only_versions_that_were_offered_are_taken() {
    let (v9, v10, unknown) = (RoomVersionId::V9, RoomVersionId::V10, RoomVersionId::try_from("x.custom").unwrap());
    let not_offered = Some(TemplateRefusal::VersionNotOffered);
    let table = [
        (json!("10"), vec![v9.clone(), v10.clone()], None),
        (json!("10"), vec![v9.clone()], not_offered.clone()),
        (json!("10"), vec![], not_offered.clone()),
        (json!(10), vec![v10.clone()], not_offered.clone()),
        (json!(""), vec![v10.clone()], not_offered.clone()),
        (Value::Null, vec![v10.clone()], not_offered.clone()),
        (json!("x.custom"), vec![v10.clone()], not_offered),
        (
            json!("x.custom"),
            vec![unknown.clone()],
            Some(TemplateRefusal::VersionNotKnown { room_version: unknown.clone() }),
        ),
        (
            json!("1"),
            vec![RoomVersionId::V1],
            Some(TemplateRefusal::VersionNotKnown { room_version: RoomVersionId::V1 }),
        ),
    ];
    for (named, offered, refusal) in table {
        let mut reply = reply("10", "knock");
        reply["room_version"] = named.clone();
        assert_eq!(read_as(&reply, MembershipState::Knock, &offered).err(), refusal, "{named} of {offered:?}");
    }
}

#[test]
fn a_leave_may_come_without_a_version() {
    let mut reply = reply("10", "leave");
    reply.as_object_mut().unwrap().remove("room_version");
    let wanted = TemplateRequest {
        room_id: <&RoomId>::try_from(ROOM).unwrap(),
        user_id: &user(BOB),
        membership: MembershipState::Leave,
        offered: &[RoomVersionId::V10],
        fallback_version: Some(&RoomVersionId::V10),
    };
    let template = read_template(&canonical(reply.clone()), &wanted, EPOCH).unwrap();
    assert_eq!(*template.version.id(), RoomVersionId::V10);
    // What is named counts, and must be one that the room can have.
    reply["room_version"] = json!("11");
    let named = read_template(&canonical(reply), &wanted, EPOCH);
    assert_eq!(named.err(), Some(TemplateRefusal::VersionNotOffered));
}

#[test]
fn who_vouches_is_taken_from_joins_of_versions_that_know_it() {
    let bad = Err(TemplateRefusal::BadAuthorisedVia);
    let table = [
        ("8", MembershipState::Join, json!(ALICE), Ok(Some(user(ALICE)))),
        ("12", MembershipState::Join, json!(ALICE), Ok(Some(user(ALICE)))),
        ("10", MembershipState::Join, json!("alice"), bad.clone()),
        ("10", MembershipState::Join, json!(7), bad.clone()),
        ("10", MembershipState::Join, json!(null), bad.clone()),
        ("10", MembershipState::Join, json!(BOB), bad.clone()),
        ("10", MembershipState::Join, json!("@else:peer.test"), bad),
        // Elsewhere the key means nothing and must never be signed.
        ("7", MembershipState::Join, json!(ALICE), Ok(None)),
        ("10", MembershipState::Knock, json!(ALICE), Ok(None)),
        ("10", MembershipState::Knock, json!(7), Ok(None)),
        ("10", MembershipState::Leave, json!(ALICE), Ok(None)),
    ];
    for (version_id, membership, key, expected) in table {
        let mut reply = reply(version_id, membership.as_str());
        reply["event"]["content"]["join_authorised_via_users_server"] = key.clone();
        let found = read_as(&reply, membership.clone(), &RoomVersion::hosted()).map(|template| template.authorised_via);
        assert_eq!(found, expected, "version {version_id}, {membership}, {key}");
    }
}

#[test]
fn foreign_words_in_a_template_are_never_signed() {
    // SECURITY V01: everything a hostile resident might like to have our signature on.
    let mut hostile = reply("10", "knock");
    let event = hostile["event"].as_object_mut().unwrap();
    for (key, value) in [
        ("redacts", json!("$victim")),
        ("signatures", json!({ "evil.test": { "ed25519:1": "foreign" } })),
        ("hashes", json!({ "sha256": "foreign" })),
        ("unsigned", json!({ "foreign": 1 })),
        ("event_id", json!("$foreign")),
        ("prev_state", json!(["$foreign"])),
        ("membership", json!("foreign")),
        ("origin", json!("foreign.test")),
        ("x.foreign", json!(1)),
    ] {
        event.insert(key.to_owned(), value);
    }
    event["content"]["third_party_invite"] = json!({ "display_name": "foreign" });
    event["content"]["join_authorised_via_users_server"] = json!("@foreign:evil.test");
    event["content"]["reason"] = json!("foreign");
    let template = read(&hostile).unwrap();
    let bob = user(BOB);
    let draft = EventDraft {
        kind: "m.room.member".into(),
        state_key: Some(BOB.to_owned()),
        sender: bob.clone(),
        content: member_content(canonical(json!({ "reason": "please" })), &MembershipState::Knock),
        redacts: None,
    };
    let us = identity(bob.server_name());
    let (pdu, body) = draft.build_for_handshake(&template.place, &template.version, &us).unwrap();
    let text = serde_json::to_string(&body).unwrap();
    assert!(!text.contains("foreign") && !text.contains("redacts") && !text.contains("evil.test"), "{text}");
    assert_eq!(text, pdu.json());
    assert_eq!(body["origin"].as_str(), Some("peer.test"), "the endpoint's schema wants it");
    let shaped = ShapedPdu::parse(body, &template.version).unwrap();
    assert_eq!(shaped.pdu().event_id(), pdu.event_id());
    assert!(!shaped.verify(&public_keys([bob.server_name()])).unwrap().content_was_redacted());
}

#[test]
fn what_goes_to_a_handshake_is_named_and_verified_alike_in_every_version() {
    for version_id in RoomVersion::hosted() {
        let version = version(&version_id);
        let room_id = if version.room_id_is_create_hash() { HASH_ROOM } else { ROOM };
        let place = GraphPlace {
            room_id: Some(RoomId::parse(room_id).unwrap()),
            prev_events: vec!["$three".try_into().unwrap()],
            auth_events: vec!["$one".try_into().unwrap()],
            depth: 8,
            origin_server_ts: EPOCH,
        };
        for membership in [MembershipState::Knock, MembershipState::Join, MembershipState::Leave] {
            let bob = user(BOB);
            let draft = EventDraft {
                kind: "m.room.member".into(),
                state_key: Some(BOB.to_owned()),
                sender: bob.clone(),
                content: member_content(CanonicalJsonObject::new(), &membership),
                redacts: None,
            };
            let us = identity(bob.server_name());
            let (pdu, body) = draft.build_for_handshake(&place, &version, &us).unwrap();
            assert_eq!(body["origin"].as_str(), Some("peer.test"), "version {version_id}");
            let shaped = ShapedPdu::parse(body, &version).unwrap();
            assert_eq!(shaped.pdu().event_id(), pdu.event_id(), "version {version_id}");
            let verified = shaped.verify(&public_keys([bob.server_name()])).unwrap();
            assert_eq!(verified.pdu().json(), pdu.json(), "version {version_id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn whatever_stands_in_one_field_the_rest_of_a_template_is_what_was_asked(
        field in select(vec![
            "type", "room_id", "sender", "state_key", "content", "auth_events", "prev_events", "depth", "x.other",
        ]),
        value in any_json(),
    ) {
        let mut hostile = reply("10", "knock");
        hostile["event"][field] = value;
        if let Ok(template) = read(&hostile) {
            prop_assert_eq!(template.place.room_id.as_deref().map(RoomId::as_str), Some(ROOM));
            prop_assert!(template.place.auth_events.len() <= AUTH_EVENTS_MAX);
            prop_assert!((1..=PREV_EVENTS_MAX).contains(&template.place.prev_events.len()));
            prop_assert!(template.place.depth < 1 << 53);
            prop_assert_eq!(template.authorised_via, None);
        }
        for wholly_other in [json!({ "room_version": "10", "event": hostile[field] }), hostile["event"].clone()] {
            prop_assert!(read(&wholly_other).is_err());
        }
    }
}
