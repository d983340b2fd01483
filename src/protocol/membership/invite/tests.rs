//! The body of `invite`: each refusal, which of two comes first, and what gets our signature.
//! May not: ask a room; nothing here depends on its state.

use ruma::{CanonicalJsonValue, OwnedEventId, RoomVersionId};
use serde_json::{Value, json};

use super::*;
use crate::{
    fixture::{ALICE, BOB, EPOCH, EventSpec, RoomFixture, identity, public_keys, version},
    membership::handshake::HANDSHAKE_CONTENT_BYTES_MAX,
    pdu::checks::event_id_of,
};

const NOW: UnixMillis = UnixMillis(EPOCH.0 + 3_600_000);
const ORIGIN: &str = "resident.test";
const US: &str = "peer.test";

/// A fault put into a right invite of Bob by Alice, unsigned so far.
type Fault = (&'static str, fn(&mut CanonicalJsonObject));

/// One fault for each refusal about the event's structure, in the order in which they must be found.
const FAULTS: [Fault; 13] = [
    ("TooLarge", |event| put_content(event, "x", json!("x".repeat(70_000)))),
    ("BadFormat", |event| put(event, "depth", json!("deep"))),
    ("ContentTooLarge", |event| put_content(event, "reason", json!("x".repeat(HANDSHAKE_CONTENT_BYTES_MAX)))),
    ("RoomMismatch", |event| put(event, "room_id", json!("!elsewhere:resident.test"))),
    // The id of the path is another one; see `refusal_of`.
    ("EventIdMismatch", |event| put(event, "x.other_id", json!(true))),
    ("NotAMemberEvent", |event| put(event, "type", json!("m.room.topic"))),
    ("NotAStateEvent", |event| {
        event.remove("state_key");
    }),
    ("WrongMembership", |event| put_content(event, "membership", json!("ban"))),
    ("SenderNotOfOrigin", |event| put(event, "sender", json!("@alice:third.test"))),
    ("NotOurUser", |event| put(event, "state_key", json!("@bob:third.test"))),
    ("TimestampAhead", |event| put(event, "origin_server_ts", json!(NOW.0 + 86_400_001))),
    ("SignatureInvalid", |event| put(event, "depth", json!(99))),
    ("", |_| {}),
];

fn server(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

fn put(event: &mut CanonicalJsonObject, key: &str, value: Value) {
    event.insert(key.to_owned(), CanonicalJsonValue::try_from(value).unwrap());
}

fn put_content(event: &mut CanonicalJsonObject, key: &str, value: Value) {
    let mut content = event["content"].as_object().unwrap().clone();
    content.insert(key.to_owned(), CanonicalJsonValue::try_from(value).unwrap());
    event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
}

fn sign(event: &mut CanonicalJsonObject, version: &RoomVersion, name: &str) {
    event.remove("signatures");
    identity(server(name)).hash_and_sign(event, version.rules()).unwrap();
}

fn right_invite(version_id: &RoomVersionId) -> (RoomFixture, CanonicalJsonObject) {
    let mut room = RoomFixture::knockable(version_id.clone()).knock(BOB).build();
    let object = room.make(EventSpec::invite(ALICE, BOB)).to_object().unwrap();
    (room, object)
}

fn expected<'a>(room: &'a RoomFixture, event_id: &'a EventId) -> Invitation<'a> {
    Invitation {
        version: room.version(),
        room_id: room.room_id(),
        event_id,
        origin: server(ORIGIN),
        our_name: server(US),
        now: NOW,
    }
}

/// The name of what the checks find, all of them, on an event with these faults; empty: nothing.
fn refusal_of(faults: &[Fault]) -> String {
    let (room, mut object) = right_invite(&RoomVersionId::V10);
    // The later ones first, so that none undoes an earlier one.
    for (_, fault) in faults.iter().rev() {
        fault(&mut object);
    }
    let is = |name: &str| faults.iter().any(|(fault, _)| *fault == name);
    if !is("SignatureInvalid") && !is("TooLarge") && !is("BadFormat") {
        sign(&mut object, room.version(), ORIGIN);
    }
    let event_id: OwnedEventId = if is("EventIdMismatch") {
        "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap()
    } else {
        event_id_of(&object, room.version()).unwrap()
    };
    let refusal = match InviteShape::parse(object, &expected(&room, &event_id)) {
        Ok(shape) => shape.verify(&public_keys([server(ORIGIN)])).err(),
        Err(refusal) => Some(refusal),
    };
    refusal.map_or(String::new(), |refusal| {
        let debug = format!("{refusal:?}");
        debug.split(' ').next().unwrap_or("").to_owned()
    })
}

#[test]
fn each_fault_is_named() {
    for fault in FAULTS {
        assert_eq!(refusal_of(&[fault]), fault.0);
    }
}

#[test]
fn of_two_faults_the_earlier_is_named() {
    for (index, earlier) in FAULTS.iter().enumerate() {
        for later in &FAULTS[index + 1..] {
            assert_eq!(refusal_of(&[*earlier, *later]), earlier.0, "{} and {}", earlier.0, later.0);
        }
    }
}

#[test]
fn no_other_membership_gets_our_signature() {
    // SECURITY V02: what a server that signs whatever comes along this road can be made to sign.
    for membership in ["join", "leave", "ban", "knock", "x.custom", ""] {
        let (room, mut object) = right_invite(&RoomVersionId::V10);
        put_content(&mut object, "membership", json!(membership));
        sign(&mut object, room.version(), ORIGIN);
        let event_id = event_id_of(&object, room.version()).unwrap();
        let refusal = InviteShape::parse(object, &expected(&room, &event_id)).err();
        assert_eq!(refusal, Some(InviteRefusal::WrongMembership), "{membership:?}");
    }
}

#[test]
fn an_invite_goes_out_again_with_both_signatures_and_its_id() {
    for version_id in RoomVersion::hosted().into_iter().filter(|id| version(id).can_knock()) {
        let (room, object) = right_invite(&version_id);
        let event_id = event_id_of(&object, room.version()).unwrap();
        let shape = InviteShape::parse(object.clone(), &expected(&room, &event_id)).unwrap();
        assert_eq!((shape.pdu().event_id(), shape.target().as_str()), (&*event_id, BOB));
        let signers: Vec<_> = shape.required_signatures().unwrap().into_keys().collect();
        assert_eq!(signers, [server(ORIGIN)]);
        let signed = shape.verify(&public_keys([server(ORIGIN)])).unwrap();
        assert_eq!(signed.pdu().json(), serde_json::to_string(&object).unwrap());
        let cosigned = signed.cosign(&identity(server(US))).unwrap();
        assert_eq!((cosigned.origin(), cosigned.target().as_str()), (server(ORIGIN), BOB));
        assert_eq!(cosigned.pdu().event_id(), event_id, "version {version_id}");
        let answered = cosigned.pdu().to_object().unwrap();
        // Nothing but our signature was added, and both verify.
        let mut without_ours = answered.clone();
        let Some(CanonicalJsonValue::Object(signatures)) = without_ours.get_mut("signatures") else {
            panic!("signatures are an object");
        };
        assert_eq!(signatures.keys().collect::<Vec<_>>(), [US, ORIGIN]);
        let ours = signatures.remove(US).unwrap();
        assert_eq!(without_ours, object, "version {version_id}");
        let mut only_ours = answered.clone();
        only_ours.insert("signatures".to_owned(), json!({ US: Value::from(ours) }).try_into().unwrap());
        let redacted = ruma::canonical_json::redact(only_ours, &room.version().rules().redaction, None).unwrap();
        ruma::signatures::verify_json(&public_keys([server(US)]), &redacted).unwrap();
    }
}

#[test]
fn an_invite_for_a_third_party_token_needs_its_servers_signature_too() {
    // The library asks for nobody's signature on such an event; whoever calls us has signed what it brings.
    let token = json!({ "display_name": "bob", "signed": { "mxid": BOB, "token": "x", "signatures": {} } });
    for version_id in [RoomVersionId::V10, RoomVersionId::V11] {
        let (room, mut object) = right_invite(&version_id);
        put_content(&mut object, "third_party_invite", token.clone());
        sign(&mut object, room.version(), ORIGIN);
        let event_id = event_id_of(&object, room.version()).unwrap();
        let verdict = |object: CanonicalJsonObject| {
            let shape = InviteShape::parse(object, &expected(&room, &event_id)).unwrap();
            assert!(shape.required_signatures().unwrap().contains_key(server(ORIGIN)));
            shape.verify(&public_keys([server(ORIGIN), server("third.test")])).map(|_| ())
        };
        assert_eq!(verdict(object.clone()), Ok(()), "version {version_id}");
        for signatures in [json!({}), json!({ "third.test": { "ed25519:fixture": "AAAA" } })] {
            let mut forged = object.clone();
            put(&mut forged, "signatures", signatures.clone());
            let refused = verdict(forged);
            assert!(matches!(refused, Err(InviteRefusal::SignatureInvalid { .. })), "{signatures}: {refused:?}");
        }
        let mut foreign = object.clone();
        sign(&mut foreign, room.version(), "third.test");
        assert!(matches!(verdict(foreign), Err(InviteRefusal::SignatureInvalid { .. })), "version {version_id}");
    }
}

#[test]
fn a_content_changed_on_the_way_is_dropped_and_the_invite_stands() {
    let (room, mut object) = right_invite(&RoomVersionId::V10);
    put_content(&mut object, "reason", json!("put in on the way"));
    let event_id = event_id_of(&object, room.version()).unwrap();
    let shape = InviteShape::parse(object, &expected(&room, &event_id)).unwrap();
    let invite = shape.verify(&public_keys([server(ORIGIN)])).unwrap().cosign(&identity(server(US))).unwrap();
    assert_eq!(invite.pdu().reason(), None);
    assert_eq!(invite.pdu().membership(), Some(MembershipState::Invite));
    assert_eq!(invite.pdu().event_id(), event_id);
}

#[test]
fn a_room_id_has_the_form_of_its_version() {
    let hash = "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let table = [
        (RoomVersionId::V11, "!x:resident.test", true),
        (RoomVersionId::V11, hash, false),
        (RoomVersionId::V12, hash, true),
        (RoomVersionId::V12, "!x:resident.test", false),
        (RoomVersionId::V12, "!short", false),
        (RoomVersionId::V12, "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA+/", false),
        (RoomVersionId::V12, &format!("{hash}:resident.test"), false),
    ];
    for (version_id, room_id, is_taken) in table {
        let (room, mut object) = right_invite(&version_id);
        put(&mut object, "room_id", json!(room_id));
        sign(&mut object, room.version(), ORIGIN);
        let event_id = event_id_of(&object, room.version()).unwrap();
        let room_id = <&RoomId>::try_from(room_id).unwrap();
        let shape = InviteShape::parse(object, &Invitation { room_id, ..expected(&room, &event_id) });
        assert_eq!(shape.is_ok(), is_taken, "version {version_id}, {room_id}: {:?}", shape.err());
    }
}

#[test]
fn there_must_be_room_for_our_signature() {
    let (room, mut object) = right_invite(&RoomVersionId::V10);
    put(&mut object, "x.padding", json!(""));
    sign(&mut object, room.version(), ORIGIN);
    let bytes = serde_json::to_string(&object).unwrap().len();
    for (spare, is_cosigned) in [(10, false), (200, true)] {
        let mut padded = object.clone();
        let padding = crate::pdu::checks::EVENT_BYTES_MAX - bytes - spare;
        put(&mut padded, "x.padding", json!("x".repeat(padding)));
        padded.remove("hashes");
        sign(&mut padded, room.version(), ORIGIN);
        let event_id = event_id_of(&padded, room.version()).unwrap();
        let signed = InviteShape::parse(padded, &expected(&room, &event_id))
            .unwrap()
            .verify(&public_keys([server(ORIGIN)]))
            .unwrap();
        let cosigned = signed.cosign(&identity(server(US)));
        assert_eq!(cosigned.is_ok(), is_cosigned, "{spare} bytes to spare");
        assert!(is_cosigned || cosigned.err() == Some(InviteRefusal::TooLarge));
    }
}
