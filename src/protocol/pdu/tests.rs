//! Formats, sizes, ids, hashes, signatures and redaction of events, version by version.
//! May not: look up in ruma what the specification's tables say; they are written out here.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, RoomVersionId, ServerName,
    canonical_json::redact,
    serde::{Base64, base64::Standard},
    signatures::PublicKeyMap,
};
use serde_json::{Value, json};

use super::{
    Pdu, Standing,
    checks::{EVENT_BYTES_MAX, FIELD_BYTES_MAX, ShapeRefusal, ShapedPdu, VerifiedPdu, event_id_of},
    event_builder::{BuildRefusal, EventDraft, GraphPlace},
};
use crate::{
    auth::authorize_by_state,
    canonical_json::parse_object,
    fixture::{ALICE, BOB, EPOCH, EventSpec, RoomFixture, canonical, identity, public_keys, user, version},
};

const KNOWN: [RoomVersionId; 10] = [
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

fn server(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

/// A signed knock of Bob as an object.
fn knock(version_id: &RoomVersionId) -> CanonicalJsonObject {
    let mut room = RoomFixture::knockable(version_id.clone()).build();
    room.make(EventSpec::knock(BOB)).to_object().unwrap()
}

fn shape(object: CanonicalJsonObject, version_id: &RoomVersionId) -> Result<ShapedPdu, ShapeRefusal> {
    ShapedPdu::parse(object, &version(version_id))
}

fn verdict(object: CanonicalJsonObject, version_id: &RoomVersionId) -> &'static str {
    match shape(object, version_id) {
        Ok(_) => "ok",
        Err(ShapeRefusal::TooLarge) => "too large",
        Err(ShapeRefusal::FieldTooLong(_)) => "field too long",
        Err(ShapeRefusal::BadFormat(_)) => "bad format",
    }
}

fn with(mut object: CanonicalJsonObject, field: &str, value: Option<Value>) -> CanonicalJsonObject {
    match value {
        Some(value) => object.insert(field.to_owned(), CanonicalJsonValue::try_from(value).unwrap()),
        None => object.remove(field),
    };
    object
}

#[test]
fn each_field_must_have_its_form() {
    const ID: &str = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let table: Vec<(&str, Option<Value>, &str)> = vec![
        ("x.unknown", Some(json!({ "anything": 1 })), "ok"),
        ("origin", Some(json!("peer.test")), "ok"),
        ("unsigned", Some(json!({ "age": 1 })), "ok"),
        ("unsigned", Some(json!(7)), "ok"),
        ("event_id", Some(json!("$foreign:peer.test")), "ok"),
        ("type", None, "bad format"),
        ("type", Some(json!(7)), "bad format"),
        ("type", Some(json!(null)), "bad format"),
        ("sender", None, "bad format"),
        ("sender", Some(json!(7)), "bad format"),
        ("sender", Some(json!("bob")), "bad format"),
        ("sender", Some(json!("@bob")), "bad format"),
        ("sender", Some(json!("!bob:peer.test")), "bad format"),
        ("sender", Some(json!("@:peer.test")), "ok"),
        ("sender", Some(json!("@B\u{f6}b/\u{2603}:peer.test")), "ok"),
        ("room_id", None, "bad format"),
        ("room_id", Some(json!(7)), "bad format"),
        ("room_id", Some(json!("room")), "bad format"),
        ("room_id", Some(json!("#room:peer.test")), "bad format"),
        ("state_key", Some(json!(7)), "bad format"),
        ("state_key", Some(json!(null)), "bad format"),
        ("state_key", None, "ok"),
        ("content", None, "bad format"),
        ("content", Some(json!([])), "bad format"),
        ("content", Some(json!("text")), "bad format"),
        ("content", Some(json!({})), "ok"),
        ("hashes", None, "bad format"),
        ("hashes", Some(json!([])), "bad format"),
        ("signatures", None, "bad format"),
        ("signatures", Some(json!("x")), "bad format"),
        ("depth", None, "bad format"),
        ("depth", Some(json!("1")), "bad format"),
        ("depth", Some(json!(-1)), "bad format"),
        ("depth", Some(json!(0)), "ok"),
        ("depth", Some(json!(9_007_199_254_740_991_i64)), "ok"),
        ("origin_server_ts", None, "bad format"),
        ("origin_server_ts", Some(json!("1")), "bad format"),
        ("origin_server_ts", Some(json!(-1)), "bad format"),
        ("origin_server_ts", Some(json!(0)), "ok"),
        ("prev_events", None, "bad format"),
        ("prev_events", Some(json!({})), "bad format"),
        ("prev_events", Some(json!([7])), "bad format"),
        ("prev_events", Some(json!(["no id"])), "bad format"),
        ("prev_events", Some(json!([[ID, {}]])), "bad format"),
        ("prev_events", Some(json!([format!("${}", "x".repeat(254))])), "ok"),
        ("prev_events", Some(json!([format!("${}", "x".repeat(255))])), "bad format"),
        ("prev_events", Some(json!([])), "ok"),
        ("prev_events", Some(json!(vec![ID; 20])), "ok"),
        ("prev_events", Some(json!(vec![ID; 21])), "bad format"),
        ("auth_events", None, "bad format"),
        ("auth_events", Some(json!("x")), "bad format"),
        ("auth_events", Some(json!([null])), "bad format"),
        ("auth_events", Some(json!(["!room:peer.test"])), "bad format"),
        ("auth_events", Some(json!([[ID, {}]])), "bad format"),
        ("auth_events", Some(json!(vec![ID; 10])), "ok"),
        ("auth_events", Some(json!(vec![ID; 11])), "bad format"),
    ];
    for version_id in KNOWN {
        let whole = if version_id.rules().unwrap().authorization.knocking {
            knock(&version_id)
        } else {
            let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
            room.make(EventSpec::join(BOB)).to_object().unwrap()
        };
        assert_eq!(verdict(whole.clone(), &version_id), "ok", "version {version_id}");
        for (field, value, expected) in &table {
            let object = with(whole.clone(), field, value.clone());
            assert_eq!(verdict(object, &version_id), *expected, "version {version_id}, {field} = {value:?}");
        }
    }
}

#[test]
fn a_third_party_invite_that_has_two_redacted_forms_is_refused() {
    for version_id in KNOWN {
        let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
        let join = room.make(EventSpec::join(BOB)).to_object().unwrap();
        let content = |invite: Value| Some(json!({ "membership": "join", "third_party_invite": invite }));
        let is_kept = [RoomVersionId::V11, RoomVersionId::V12].contains(&version_id);
        for (invite, is_odd) in
            [(json!({}), false), (json!({ "signed": 7 }), false), (json!("x"), true), (json!(null), true)]
        {
            let expected = if is_odd && is_kept { "bad format" } else { "ok" };
            let object = with(join.clone(), "content", content(invite.clone()));
            assert_eq!(verdict(object, &version_id), expected, "version {version_id}, {invite}");
        }
    }
}

#[test]
fn only_the_create_event_of_version_12_has_no_room_id() {
    for version_id in KNOWN {
        let room = RoomFixture::with_join_rule(version_id.clone(), None).build();
        let create = room.state().create().unwrap().to_object().unwrap();
        let is_12 = version_id == RoomVersionId::V12;
        assert_eq!(create.contains_key("room_id"), !is_12, "version {version_id}");
        let named = with(create.clone(), "room_id", Some(json!("!fixture:resident.test")));
        let unnamed = with(create, "room_id", None);
        assert_eq!(verdict(named, &version_id), if is_12 { "bad format" } else { "ok" }, "version {version_id}");
        assert_eq!(verdict(unnamed, &version_id), if is_12 { "ok" } else { "bad format" }, "version {version_id}");
    }
}

#[test]
fn room_ids_of_version_12_are_the_hash_of_the_create_event() {
    let room = RoomFixture::with_join_rule(RoomVersionId::V12, None).build();
    let create = room.state().create().unwrap();
    assert_eq!(create.room_id().as_str()[1..], create.event_id().as_str()[1..]);
    assert_eq!(create.room_id().server_name(), None);
}

#[test]
fn the_create_event_is_not_among_auth_events_in_version_12() {
    let mut room = RoomFixture::knockable(RoomVersionId::V12).build();
    let create = room.state().create().unwrap().event_id().to_owned();
    let knock = room.make(EventSpec::knock(BOB).authorized_by(&[create]));
    assert_eq!(verdict(knock.to_object().unwrap(), &RoomVersionId::V12), "bad format");
}

#[test]
fn the_size_limit_is_65536_bytes_of_canonical_json() {
    for version_id in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12] {
        let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
        let bare = room.make(EventSpec::message(ALICE, "")).json().len();
        for (bytes, expected) in [(65_535, "ok"), (65_536, "ok"), (65_537, "too large")] {
            let filler = bytes - bare;
            let small = room.make(EventSpec::message(ALICE, "")).to_object().unwrap();
            let content = json!({ "msgtype": "m.text", "body": "x".repeat(filler) });
            let object = with(small.clone(), "content", Some(content));
            assert_eq!(serde_json::to_string(&object).unwrap().len(), bytes);
            assert_eq!(verdict(object.clone(), &version_id), expected, "version {version_id}, {bytes}");
            // What does not belong to the canonical event does not count.
            let object = with(object, "unsigned", Some(json!({ "age": "x".repeat(1_000) })));
            assert_eq!(verdict(object, &version_id), expected, "version {version_id}, {bytes} and unsigned");
            // Two bytes for each character: bytes count, not characters.
            let content = json!({ "msgtype": "m.text", "body": "ü".repeat(filler / 2) + &"x".repeat(filler % 2) });
            let object = with(small, "content", Some(content));
            assert_eq!(verdict(object, &version_id), expected, "version {version_id}, {bytes} in umlauts");
        }
    }
}

#[test]
fn events_of_the_greatest_size_verify() {
    for (filler, expected) in [(65_535, true), (65_536, true)] {
        let mut room = RoomFixture::with_join_rule(RoomVersionId::V11, Some("public")).build();
        let bare = room.make(EventSpec::message(ALICE, "")).json().len();
        let event = room.make(EventSpec::message(ALICE, &"x".repeat(filler - bare)));
        assert_eq!(event.json().len(), filler);
        let verified = shape(event.to_object().unwrap(), &RoomVersionId::V11).unwrap().verify(&room.keys());
        assert_eq!(verified.is_ok_and(|verified| !verified.content_was_redacted()), expected, "{filler}");
    }
}

#[test]
fn fields_are_limited_to_255_bytes() {
    let id = |sigil: &str, filler: &str, bytes: usize| {
        let rest = ":peer.test";
        let room = bytes - sigil.len() - rest.len();
        let width = filler.len();
        format!("{sigil}{}{}{rest}", filler.repeat(room / width), "x".repeat(room % width))
    };
    for version_id in [RoomVersionId::V6, RoomVersionId::V11] {
        let object = knock_like(&version_id);
        for filler in ["x", "ü", "☃", "🚪"] {
            for (bytes, expected) in [(254, "ok"), (255, "ok"), (256, "field too long")] {
                let text = |bytes: usize| filler.repeat(bytes / filler.len()) + &"x".repeat(bytes % filler.len());
                let fields = [
                    ("sender", id("@", filler, bytes)),
                    ("room_id", id("!", filler, bytes)),
                    ("state_key", text(bytes)),
                    ("type", text(bytes)),
                ];
                for (field, value) in fields {
                    assert_eq!(value.len(), bytes);
                    let object = with(object.clone(), field, Some(json!(value)));
                    assert_eq!(
                        verdict(object, &version_id),
                        expected,
                        "version {version_id}, {field}, {bytes} of {filler}"
                    );
                }
            }
        }
    }
}

fn knock_like(version_id: &RoomVersionId) -> CanonicalJsonObject {
    let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
    room.make(EventSpec::join(BOB)).to_object().unwrap()
}

/// A create event that a public room began with in 2019. Both ids are published in the tests of gomatrixserverlib.
const CREATE_OF_2019: &str = r#"{"auth_events":[],"prev_events":[],"type":"m.room.create","room_id":"!uXDCzlYgCTHtiWCkEx:jki.re",
"sender":"@erikj:jki.re","content":{"room_version":"5","predecessor":{"room_id":"!gdRMqOrTFdOCYHNwOo:half-shot.uk",
"event_id":"$LP7ROBc4b+cMc1UE9haIz8q5AK2AIW4eJ90FfKLvyZI"},"creator":"@erikj:jki.re"},"depth":1,"prev_state":[],"state_key":"",
"origin":"jki.re","origin_server_ts":1560284621137,"hashes":{"sha256":"IX6zuNiJpJPNf70BLleL3HSCpjKeq9Uhu7uUpyDjBmc"},
"signatures":{"jki.re":{"ed25519:auto":"O4IyFfF2PPtGp5uaDm8t57dZbdh8vc8Q64LgCwvzYRVItAMI0uisfiAFaxkVT7MRpzh6N2QNN5NMRXZKmgPYDA"}},
"unsigned":{"age":1321650}}"#;

#[test]
fn event_ids_are_the_published_ones() {
    let table = [
        (RoomVersionId::V3, "$RrGxF28UrHLmoASHndYb9Jb/1SFww2ptmtur9INS438"),
        (RoomVersionId::V4, "$RrGxF28UrHLmoASHndYb9Jb_1SFww2ptmtur9INS438"),
        (RoomVersionId::V5, "$RrGxF28UrHLmoASHndYb9Jb_1SFww2ptmtur9INS438"),
        (RoomVersionId::V10, "$RrGxF28UrHLmoASHndYb9Jb_1SFww2ptmtur9INS438"),
    ];
    for (version_id, expected) in table {
        let object = parse_object(CREATE_OF_2019.as_bytes()).unwrap();
        let shaped = shape(object, &version_id).unwrap();
        assert_eq!(shaped.pdu().event_id().as_str(), expected, "version {version_id}");
        assert!(!shaped.pdu().json().contains("unsigned"));
    }
}

#[test]
fn the_specs_example_events_have_its_hashes_and_signatures() {
    // Key and values are those of the appendices' test vectors for signed events; the version's form of auth_events and
    // prev_events is empty there, so they are valid in later versions too. The id is not hashed or signed.
    let seed = [
        0x60, 0x90, 0xc1, 0x03, 0xd5, 0xe7, 0xaf, 0x6b, 0x15, 0xa9, 0x70, 0xfd, 0x56, 0x3e, 0xd7, 0x55, 0x49, 0xe6,
        0x15, 0x97, 0x19, 0xae, 0x5c, 0x3c, 0x31, 0xde, 0xe4, 0x31, 0x6f, 0xb7, 0x5c, 0x0d,
    ];
    let key = crate::signing::SigningKey::from_seed("1", &seed).unwrap();
    let identity = crate::signing::Identity::new(server("domain").to_owned(), key);
    let mut event = canonical(json!({
        "room_id": "!x:domain",
        "sender": "@a:domain",
        "origin": "domain",
        "origin_server_ts": 1_000_000,
        "signatures": {},
        "hashes": {},
        "type": "X",
        "content": {},
        "prev_events": [],
        "auth_events": [],
        "depth": 3,
        "unsigned": { "age_ts": 1_000_000 },
    }));
    identity.hash_and_sign(&mut event, version(&RoomVersionId::V6).rules()).unwrap();
    let text = serde_json::to_string(&event).unwrap();
    assert!(text.contains("5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"), "{text}");
    assert!(
        text.contains("KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"),
        "{text}"
    );
}

/// What of a content redaction leaves. The rows of the specification: type, content, and what is left in versions 3 to 5,
/// 6 and 7, 8, 9 and 10, 11 and 12.
fn redactions() -> Vec<(&'static str, Value, [Value; 5])> {
    let member = json!({
        "membership": "knock", "reason": "let me in", "displayname": "Bob", "join_authorised_via_users_server": "@a:b",
        "third_party_invite": { "display_name": "b", "signed": { "token": "t" } },
    });
    let membership = json!({ "membership": "knock" });
    let and_authorized = json!({ "membership": "knock", "join_authorised_via_users_server": "@a:b" });
    let and_signed = json!({
        "membership": "knock", "join_authorised_via_users_server": "@a:b",
        "third_party_invite": { "signed": { "token": "t" } },
    });
    let create = json!({ "creator": "@a:b", "room_version": "9", "m.federate": false, "x": 1 });
    let creator = json!({ "creator": "@a:b" });
    let rules = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership" }], "x": 1 });
    let rule = json!({ "join_rule": "restricted" });
    let and_allow = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership" }] });
    let levels = json!({
        "ban": 1, "events": {}, "events_default": 2, "invite": 9, "kick": 3, "notifications": {}, "redact": 4,
        "state_default": 5, "users": {}, "users_default": 6,
    });
    let without_invite = json!({
        "ban": 1, "events": {}, "events_default": 2, "kick": 3, "redact": 4, "state_default": 5, "users": {},
        "users_default": 6,
    });
    let with_invite = json!({
        "ban": 1, "events": {}, "events_default": 2, "invite": 9, "kick": 3, "redact": 4, "state_default": 5, "users": {},
        "users_default": 6,
    });
    let visibility = json!({ "history_visibility": "shared" });
    let aliases = json!({ "aliases": ["#a:b"] });
    let redaction = json!({ "redacts": "$x", "reason": "spam" });
    let none = json!({});
    vec![
        ("m.room.member", member, [membership.clone(), membership.clone(), membership, and_authorized, and_signed]),
        ("m.room.create", create.clone(), [creator.clone(), creator.clone(), creator.clone(), creator, create]),
        ("m.room.join_rules", rules, [rule.clone(), rule, and_allow.clone(), and_allow.clone(), and_allow]),
        (
            "m.room.power_levels",
            levels,
            [without_invite.clone(), without_invite.clone(), without_invite.clone(), without_invite, with_invite],
        ),
        (
            "m.room.history_visibility",
            json!({ "history_visibility": "shared", "x": 1 }),
            [visibility.clone(), visibility.clone(), visibility.clone(), visibility.clone(), visibility],
        ),
        ("m.room.aliases", aliases.clone(), [aliases, none.clone(), none.clone(), none.clone(), none.clone()]),
        (
            "m.room.redaction",
            redaction,
            [none.clone(), none.clone(), none.clone(), none.clone(), json!({ "redacts": "$x" })],
        ),
        (
            "m.room.message",
            json!({ "body": "x" }),
            [none.clone(), none.clone(), none.clone(), none.clone(), none.clone()],
        ),
        ("m.room.topic", json!({ "topic": "x" }), [none.clone(), none.clone(), none.clone(), none.clone(), none]),
    ]
}

fn column(version_id: &RoomVersionId) -> usize {
    use RoomVersionId::{V3, V4, V5, V6, V7, V8, V9, V10};
    match version_id {
        V3 | V4 | V5 => 0,
        V6 | V7 => 1,
        V8 => 2,
        V9 | V10 => 3,
        _ => 4,
    }
}

#[test]
fn redaction_keeps_the_keys_of_the_specifications_table() {
    const ALWAYS: [&str; 12] = [
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    ];
    const UP_TO_10: [&str; 3] = ["prev_state", "origin", "membership"];
    for version_id in KNOWN {
        for (kind, content, left) in redactions() {
            let mut object =
                canonical(json!({ "type": kind, "content": content, "redacts": "$x", "unsigned": {}, "x": 1 }));
            for field in ALWAYS.iter().chain(&UP_TO_10).filter(|field| !["type", "content"].contains(field)) {
                object.insert((*field).to_owned(), CanonicalJsonValue::String("kept".to_owned()));
            }
            let redacted = redact(object, &version(&version_id).rules().redaction, None).unwrap();
            let content_left = redacted.get("content").cloned().unwrap();
            let expected = CanonicalJsonValue::try_from(left[column(&version_id)].clone()).unwrap();
            assert_eq!(content_left, expected, "version {version_id}, {kind}");
            let mut kept: Vec<&str> = ALWAYS.to_vec();
            if column(&version_id) < 4 {
                kept.extend(UP_TO_10);
            }
            kept.sort_unstable();
            let keys: Vec<&str> = redacted.keys().map(String::as_str).collect();
            assert_eq!(keys, kept, "version {version_id}, {kind}");
        }
    }
}

fn verify(object: CanonicalJsonObject, version_id: &RoomVersionId, keys: &PublicKeyMap) -> Result<VerifiedPdu, String> {
    shape(object, version_id).unwrap().verify(keys).map_err(|error| error.to_string())
}

#[test]
fn a_content_that_has_not_the_signed_hash_is_redacted() {
    for version_id in KNOWN {
        let object = knock_like(&version_id);
        let keys = public_keys([server("peer.test")]);
        let whole = verify(object.clone(), &version_id, &keys).unwrap();
        assert!(!whole.content_was_redacted(), "version {version_id}");
        let content = json!({ "membership": "join", "reason": "put in on the way" });
        let changed = with(object, "content", Some(content));
        let verified = verify(changed, &version_id, &keys).unwrap();
        assert!(verified.content_was_redacted(), "version {version_id}");
        assert_eq!(verified.pdu().content().get(), r#"{"membership":"join"}"#, "version {version_id}");
        assert_eq!(verified.pdu().event_id(), whole.pdu().event_id(), "version {version_id}");
        assert_eq!(
            event_id_of(&verified.pdu().to_object().unwrap(), &version(&version_id)).unwrap(),
            whole.pdu().event_id()
        );
    }
}

#[test]
fn a_changed_membership_breaks_the_signature() {
    for version_id in KNOWN {
        let object = with(knock_like(&version_id), "content", Some(json!({ "membership": "ban" })));
        assert!(verify(object, &version_id, &public_keys([server("peer.test")])).is_err(), "version {version_id}");
    }
}

#[test]
fn the_server_of_the_sender_must_have_signed() {
    let version_id = RoomVersionId::V10;
    let right = knock(&version_id);
    let keys = public_keys([server("peer.test"), server("third.test")]);
    let signature = |object: &CanonicalJsonObject, name: &str| -> Value {
        let json = serde_json::to_value(object).unwrap();
        json["signatures"][name]["ed25519:fixture"].clone()
    };
    let signed_by = |name: &str| {
        let mut object = with(right.clone(), "signatures", None);
        identity(server(name)).hash_and_sign(&mut object, version(&version_id).rules()).unwrap();
        object
    };
    let own = signature(&right, "peer.test");
    let others = signature(&signed_by("third.test"), "third.test");
    let table: Vec<(&str, Value, bool)> = vec![
        ("as it was", json!({ "peer.test": { "ed25519:fixture": own } }), true),
        ("none", json!({}), false),
        ("of another server only", json!({ "third.test": { "ed25519:fixture": others } }), false),
        ("another server's under the sender's name", json!({ "peer.test": { "ed25519:fixture": others } }), false),
        ("no base64", json!({ "peer.test": { "ed25519:fixture": "!" } }), false),
        ("too short", json!({ "peer.test": { "ed25519:fixture": "AAAA" } }), false),
        ("no text", json!({ "peer.test": { "ed25519:fixture": 7 } }), false),
        ("no object", json!({ "peer.test": "x" }), false),
        ("under an unknown key only", json!({ "peer.test": { "ed25519:other": own } }), false),
        (
            "and one under an unknown key",
            json!({ "peer.test": { "ed25519:fixture": own, "ed25519:other": "AAAA" } }),
            true,
        ),
        ("and one of an unknown algorithm", json!({ "peer.test": { "ed25519:fixture": own, "x:y": "AAAA" } }), true),
        (
            "and a third server's wrong one",
            json!({ "peer.test": { "ed25519:fixture": own }, "third.test": { "ed25519:fixture": own } }),
            true,
        ),
        (
            "and a stranger's",
            json!({ "peer.test": { "ed25519:fixture": own }, "unknown.test": { "ed25519:1": "AAAA" } }),
            true,
        ),
    ];
    for (what, signatures, expected) in table {
        let object = with(right.clone(), "signatures", Some(signatures));
        let verdict = verify(object, &version_id, &keys);
        assert_eq!(verdict.is_ok(), expected, "{what}: {verdict:?}");
    }
    assert!(verify(right, &version_id, &PublicKeyMap::new()).is_err(), "no keys");
}

#[test]
fn no_changed_content_makes_an_unsigned_invite_of_one_for_a_third_party_token() {
    for version_id in KNOWN {
        let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("invite")).build();
        let right = room.make(EventSpec::invite(ALICE, BOB).with("third_party_invite", json!({}))).to_object().unwrap();
        let content = json!({ "membership": "invite", "third_party_invite": {}, "reason": "put in on the way" });
        let changed = with(right, "content", Some(content));
        let forged = with(changed.clone(), "signatures", Some(json!({})));
        // From version 11 redaction keeps the token, or that there is none in it: the rules refuse such an invite.
        let keeps_the_token = matches!(version_id, RoomVersionId::V11 | RoomVersionId::V12);
        let verdict = verify(forged, &version_id, &public_keys([server("resident.test")]));
        assert_eq!(verdict.is_ok(), keeps_the_token, "version {version_id}: {verdict:?}");
        if let Ok(kept) = verdict {
            let verdict = authorize_by_state(room.version(), kept.pdu(), room.state());
            assert!(verdict.is_err(), "version {version_id}");
        }
        // What its sender's server signed is an invite all the same.
        let signed = verify(changed, &version_id, &public_keys([server("resident.test")])).unwrap();
        assert!(signed.content_was_redacted(), "version {version_id}");
    }
}

/// The order of the curve's base point, little-endian.
const GROUP_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn a_signature_has_one_form() {
    // SECURITY V18
    let version_id = RoomVersionId::V10;
    let right = knock(&version_id);
    let json = serde_json::to_value(&right).unwrap();
    let own = Base64::<Standard>::parse(json["signatures"]["peer.test"]["ed25519:fixture"].as_str().unwrap()).unwrap();
    let (r, s) = own.as_bytes().split_at(32);
    let mut carry = 0_u16;
    let other_s: Vec<u8> = s
        .iter()
        .zip(GROUP_ORDER)
        .map(|(byte, added)| {
            let sum = u16::from(*byte) + u16::from(added) + carry;
            carry = sum >> 8;
            u8::try_from(sum & 0xff).unwrap()
        })
        .collect();
    // The neutral element, as it is written and as nobody may write it: y = 1, and y = 1 + p.
    let neutral: Vec<u8> = [1].into_iter().chain([0; 31]).collect();
    let other_neutral: Vec<u8> = [0xee].into_iter().chain([0xff; 30]).chain([0x7f]).collect();
    let mut weak_keys = public_keys([server("peer.test")]);
    weak_keys.get_mut("peer.test").unwrap().insert("ed25519:fixture".to_owned(), Base64::new(neutral.clone()));
    let keys = public_keys([server("peer.test")]);
    let table = [
        ("as it was", &keys, r, s, true),
        ("S and the group's order", &keys, r, &other_s, false),
        ("another R", &keys, &neutral, s, false),
        // Of a key of small order anything goes, but in one form too.
        ("any, of a weak key", &weak_keys, &neutral, &[0; 32], true),
        ("R in another form", &weak_keys, &other_neutral, &[0; 32], false),
    ];
    for (what, keys, r, s, expected) in table {
        let signature = Base64::<Standard, _>::new([r, s].concat()).encode();
        let signatures = json!({ "peer.test": { "ed25519:fixture": signature } });
        let verdict = verify(with(right.clone(), "signatures", Some(signatures)), &version_id, keys);
        assert_eq!(verdict.is_ok(), expected, "{what}: {verdict:?}");
    }
}

#[test]
fn all_known_keys_of_the_sender_must_have_signed_rightly() {
    let version_id = RoomVersionId::V10;
    let right = knock(&version_id);
    let own = serde_json::to_value(&right).unwrap()["signatures"]["peer.test"]["ed25519:fixture"].clone();
    let mut keys = public_keys([server("peer.test")]);
    let other = identity(server("third.test")).key().public_key_base64();
    keys.get_mut("peer.test").unwrap().insert("ed25519:second".to_owned(), other);
    assert!(verify(right.clone(), &version_id, &keys).is_ok(), "the second key did not sign");
    let signatures = json!({ "peer.test": { "ed25519:fixture": own, "ed25519:second": own } });
    let object = with(right, "signatures", Some(signatures));
    assert!(verify(object, &version_id, &keys).is_err(), "the second key signed wrongly");
}

#[test]
fn required_signatures_name_the_servers_and_the_keys_present() {
    let version_id = RoomVersionId::V9;
    let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("restricted")).build();
    let spec = EventSpec::join(BOB).with("join_authorised_via_users_server", json!(ALICE));
    let plain = room.make(spec.clone());
    let required = shape(plain.to_object().unwrap(), &version_id).unwrap().required_signatures().unwrap();
    let names =
        |required: &BTreeMap<ruma::OwnedServerName, std::collections::BTreeSet<String>>| -> Vec<(String, Vec<String>)> {
            required.iter().map(|(name, keys)| (name.to_string(), keys.iter().cloned().collect())).collect()
        };
    let key = vec!["ed25519:fixture".to_owned()];
    assert_eq!(names(&required), [("peer.test".to_owned(), key.clone()), ("resident.test".to_owned(), vec![])]);
    let cosigned = room.make(spec.cosigned_by("resident.test")).to_object().unwrap();
    let required = shape(cosigned, &version_id).unwrap().required_signatures().unwrap();
    assert_eq!(names(&required), [("peer.test".to_owned(), key.clone()), ("resident.test".to_owned(), key.clone())]);
    // A policy server's signature is judged elsewhere.
    let knock = with(
        knock(&version_id),
        "signatures",
        Some(json!({
            "peer.test": { "ed25519:fixture": "AAAA", "ed25519:policy_server": "AAAA" }
        })),
    );
    let required = shape(knock, &version_id).unwrap().required_signatures().unwrap();
    assert_eq!(names(&required), [("peer.test".to_owned(), key)]);
}

#[test]
fn an_event_survives_its_canonical_text() {
    for version_id in KNOWN {
        let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
        let spec = EventSpec::message(ALICE, "\u{0}\u{1f}\"\\/ü☃🚪\u{7f}\n")
            .with("z", json!({ "b": [1, null, true], "a": -5 }));
        let event = room.make(spec);
        let object = event.to_object().unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), event.json(), "version {version_id}");
        let version = version(&version_id);
        let again = Pdu::from_canonical_text(
            event_id_of(&object, &version).unwrap(),
            event.json().into(),
            &version,
            Standing::Accepted,
        )
        .unwrap();
        assert_eq!(again.event_id(), event.event_id());
        assert_eq!(again.content().get(), event.content().get());
        assert_eq!(again.prev_events(), event.prev_events());
        assert_eq!(again.auth_events(), event.auth_events());
        assert_eq!(again.depth(), event.depth());
        assert_eq!(again.origin_server_ts(), event.origin_server_ts());
        assert_eq!(again.state_entry(), None);
        let verified = shape(object, &version_id).unwrap().verify(&room.keys()).unwrap();
        assert!(!verified.content_was_redacted(), "version {version_id}");
    }
}

fn place(room: &RoomFixture) -> GraphPlace {
    GraphPlace {
        room_id: Some(room.room_id().to_owned()),
        prev_events: room.cite(),
        auth_events: Vec::new(),
        depth: 7,
        origin_server_ts: EPOCH,
    }
}

fn draft(kind: &str, state_key: Option<&str>, content: Value) -> EventDraft {
    EventDraft {
        kind: kind.into(),
        state_key: state_key.map(ToOwned::to_owned),
        sender: user(ALICE),
        content: canonical(content),
        redacts: None,
    }
}

#[test]
fn redactions_name_their_target_where_the_version_wants_it() {
    let target: OwnedEventId = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap();
    for version_id in KNOWN {
        let room = RoomFixture::with_join_rule(version_id.clone(), None).build();
        let draft = EventDraft {
            redacts: Some(target.clone()),
            ..draft("m.room.redaction", None, json!({ "reason": "spam" }))
        };
        let event = draft.build(&place(&room), room.version(), &identity(server("resident.test"))).unwrap();
        let object = event.to_object().unwrap();
        let is_in_content = object["content"].as_object().unwrap().contains_key("redacts");
        let is_late = [RoomVersionId::V11, RoomVersionId::V12].contains(&version_id);
        assert_eq!(is_in_content, is_late, "version {version_id}");
        assert_eq!(object.contains_key("redacts"), !is_late, "version {version_id}");
        assert_eq!(event.redacts(), Some(&*target), "version {version_id}");
        // In the other place it means nothing.
        let mut moved = object;
        if is_late {
            let content =
                moved.insert("content".to_owned(), CanonicalJsonValue::Object(CanonicalJsonObject::new())).unwrap();
            let redacts = content.as_object().unwrap()["redacts"].clone();
            moved.insert("redacts".to_owned(), redacts);
        } else {
            let redacts = moved.remove("redacts").unwrap();
            let content = CanonicalJsonObject::from([("redacts".to_owned(), redacts)]);
            moved.insert("content".to_owned(), CanonicalJsonValue::Object(content));
        }
        assert_eq!(crate::fixture::pdu_from(&moved, room.version()).redacts(), None, "version {version_id}");
    }
}

#[test]
fn only_redactions_redact() {
    let room = RoomFixture::knockable(RoomVersionId::V10).build();
    let target: OwnedEventId = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap();
    let draft = EventDraft { redacts: Some(target), ..draft("m.room.message", None, json!({})) };
    let event = draft.build(&place(&room), room.version(), &identity(server("resident.test"))).unwrap();
    assert_eq!(event.redacts(), None);
}

#[test]
fn events_that_would_be_too_large_are_not_built() {
    let room = RoomFixture::with_join_rule(RoomVersionId::V11, None).build();
    let identity = identity(server("resident.test"));
    let build = |body: usize| {
        draft("m.room.message", None, json!({ "body": "x".repeat(body) })).build(
            &place(&room),
            room.version(),
            &identity,
        )
    };
    let bare = build(0).unwrap().json().len();
    for bytes in [65_534, 65_535, 65_536] {
        assert_eq!(build(bytes - bare).unwrap().json().len(), bytes);
    }
    for bytes in [65_537, 65_700, 70_000, 1_000_000] {
        assert!(matches!(build(bytes - bare), Err(BuildRefusal::TooLarge)), "{bytes}");
    }
    assert_eq!(EVENT_BYTES_MAX, 65_536);
}

#[test]
fn types_and_state_keys_that_are_too_long_are_not_built() {
    let room = RoomFixture::with_join_rule(RoomVersionId::V11, None).build();
    let identity = identity(server("resident.test"));
    assert_eq!(FIELD_BYTES_MAX, 255);
    for (length, is_refused) in [(127, false), (128, true)] {
        let umlauts = "ü".repeat(length);
        for draft in [draft(&umlauts, None, json!({})), draft("x", Some(&umlauts), json!({}))] {
            let built = draft.build(&place(&room), room.version(), &identity);
            assert_eq!(matches!(built, Err(BuildRefusal::FieldTooLong)), is_refused, "{length}: {built:?}");
        }
    }
}

#[test]
fn the_depth_of_a_new_event_saturates() {
    let room = RoomFixture::with_join_rule(RoomVersionId::V11, None).build();
    let deep = GraphPlace { depth: u64::MAX, ..place(&room) };
    let event = draft("x", None, json!({})).build(&deep, room.version(), &identity(server("resident.test"))).unwrap();
    assert_eq!(event.depth(), 9_007_199_254_740_991);
}

#[test]
fn a_template_has_no_hash_no_signature_and_no_id() {
    for version_id in KNOWN {
        let room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
        let draft = draft("m.room.member", Some(BOB), json!({ "membership": "knock" }));
        let template = draft.to_template(&place(&room), room.version(), server("resident.test"));
        let keys: Vec<&str> = template.keys().map(String::as_str).collect();
        let expected = [
            "auth_events",
            "content",
            "depth",
            "origin",
            "origin_server_ts",
            "prev_events",
            "room_id",
            "sender",
            "state_key",
            "type",
        ];
        assert_eq!(keys, expected, "version {version_id}");
        assert_eq!(template["origin"].as_str(), Some("resident.test"));
    }
}
