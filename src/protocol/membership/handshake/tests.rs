//! The body of `send_knock`, `send_leave` and `send_join`: each refusal, and which of two comes first.
//! May not: ask a room; nothing here depends on its state.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, RoomVersionId, ServerName};
use serde_json::{Value, json};

use super::{
    HANDSHAKE_CONTENT_BYTES_MAX, Handshake, HandshakeKind, HandshakeShape, TIMESTAMP_AHEAD_MAX, member_content,
};
use crate::{
    clock::UnixMillis,
    fixture::{ALICE, BOB, EPOCH, EventSpec, RoomFixture, canonical, identity, pdu_from, public_keys},
    membership::{HandshakeRefusal, JoinRefusal},
    pdu::checks::event_id_of,
};

use ruma::events::room::member::MembershipState;

const NOW: UnixMillis = UnixMillis(EPOCH.0 + 3_600_000);

fn server(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

const KINDS: [HandshakeKind; 3] = [HandshakeKind::Knock, HandshakeKind::Leave, HandshakeKind::Join];

/// A fault put into a right event of Bob, unsigned so far.
type Fault = (&'static str, fn(&mut CanonicalJsonObject));

/// One fault for each refusal about the event's structure, in the order in which they must be found.
const FAULTS: [Fault; 9] = [
    ("too_large", |event| put_content(event, "x", json!("x".repeat(70_000)))),
    ("bad_format", |event| put(event, "depth", json!("deep"))),
    ("content_too_large", |event| put_content(event, "reason", json!("x".repeat(HANDSHAKE_CONTENT_BYTES_MAX)))),
    ("room_mismatch", |event| put(event, "room_id", json!("!elsewhere:resident.test"))),
    // The id of the path is another one; see `refusal_of`.
    ("event_id_mismatch", |event| put(event, "x.other_id", json!(true))),
    ("not_a_member_event", |event| put(event, "type", json!("m.room.topic"))),
    ("not_a_state_event", |event| {
        event.remove("state_key");
    }),
    ("wrong_membership", |event| put_content(event, "membership", json!("ban"))),
    ("sender_not_of_origin", |event| put(event, "sender", json!("@bob:third.test"))),
];

/// Faults that are found after those, in order.
const LATER_FAULTS: [Fault; 3] = [
    ("state_key_mismatch", |event| put(event, "state_key", json!("@eve:peer.test"))),
    ("timestamp_ahead", |event| put(event, "origin_server_ts", json!(NOW.0 + 86_400_001))),
    ("signature_invalid", |event| put(event, "depth", json!(99))),
];

fn put(event: &mut CanonicalJsonObject, key: &str, value: Value) {
    event.insert(key.to_owned(), CanonicalJsonValue::try_from(value).unwrap());
}

fn put_content(event: &mut CanonicalJsonObject, key: &str, value: Value) {
    let mut content = event["content"].as_object().unwrap().clone();
    content.insert(key.to_owned(), CanonicalJsonValue::try_from(value).unwrap());
    event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
}

fn right_event(kind: HandshakeKind) -> (RoomFixture, CanonicalJsonObject) {
    let mut room = RoomFixture::knockable(RoomVersionId::V10).build();
    let spec = match kind {
        HandshakeKind::Knock => EventSpec::knock(BOB),
        HandshakeKind::Leave => {
            room.append(EventSpec::knock(BOB));
            EventSpec::leave(BOB)
        }
        HandshakeKind::Join => {
            room.append(EventSpec::invite(ALICE, BOB));
            EventSpec::join(BOB)
        }
    };
    let object = room.make(spec).to_object().unwrap();
    (room, object)
}

fn expected<'a>(kind: HandshakeKind, room: &'a RoomFixture, event_id: &'a EventId) -> Handshake<'a> {
    Handshake {
        kind,
        version: room.version(),
        room_id: room.room_id(),
        event_id,
        origin: server("peer.test"),
        now: NOW,
    }
}

/// What the checks find, all of them, on an event with these faults.
fn refusal_of(kind: HandshakeKind, faults: &[Fault]) -> Option<HandshakeRefusal> {
    let (room, mut object) = right_event(kind);
    // The later ones first, so that none undoes an earlier one.
    for (_, fault) in faults.iter().rev() {
        fault(&mut object);
    }
    let is = |name: &str| faults.iter().any(|(fault, _)| *fault == name);
    if !is("signature_invalid") && !is("too_large") && !is("bad_format") {
        object.remove("signatures");
        identity(server("peer.test")).hash_and_sign(&mut object, room.version().rules()).unwrap();
    }
    let event_id: OwnedEventId = if is("event_id_mismatch") {
        "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap()
    } else {
        event_id_of(&object, room.version()).unwrap()
    };
    match HandshakeShape::parse(object, &expected(kind, &room, &event_id)) {
        Ok(shape) => shape.verify(&public_keys([server("peer.test")])).err(),
        Err(refusal) => Some(refusal),
    }
}

/// What the checks of the structure say to a body whose id is the one in the path.
fn shape_of(
    kind: HandshakeKind,
    room: &RoomFixture,
    object: CanonicalJsonObject,
) -> Result<HandshakeShape, HandshakeRefusal> {
    let event_id = event_id_of(&object, room.version()).unwrap();
    HandshakeShape::parse(object, &expected(kind, room, &event_id))
}

#[test]
fn a_right_body_is_taken() {
    for kind in KINDS {
        assert_eq!(refusal_of(kind, &[]), None, "{kind:?}");
    }
}

#[test]
fn each_fault_is_named() {
    for kind in KINDS {
        for fault in FAULTS.iter().chain(&LATER_FAULTS) {
            let refusal = refusal_of(kind, &[*fault]).map(|refusal| refusal.name());
            assert_eq!(refusal, Some(fault.0), "{kind:?}");
        }
    }
}

#[test]
fn of_two_faults_the_earlier_is_named() {
    let faults: Vec<&Fault> = FAULTS.iter().chain(&LATER_FAULTS).collect();
    for (index, earlier) in faults.iter().enumerate() {
        for later in &faults[index + 1..] {
            let refusal = refusal_of(HandshakeKind::Knock, &[**earlier, **later]).map(|refusal| refusal.name());
            assert_eq!(refusal, Some(earlier.0), "{} and {}", earlier.0, later.0);
        }
    }
}

#[test]
fn each_endpoint_takes_its_own_membership_only() {
    let pairs = KINDS.iter().flat_map(|kind| KINDS.iter().map(move |other| (*kind, *other)));
    for (kind, other) in pairs.filter(|(kind, other)| kind != other) {
        let (room, object) = right_event(other);
        let refusal = shape_of(kind, &room, object).err();
        assert_eq!(refusal, Some(HandshakeRefusal::WrongMembership), "{kind:?}");
    }
}

#[test]
fn what_was_verified_is_of_one_kind_alone() {
    for kind in KINDS {
        let signed = || {
            let (room, object) = right_event(kind);
            let event_id = event_id_of(&object, room.version()).unwrap();
            let origin = server("peer.test");
            let shape = shape_of(kind, &room, object).unwrap();
            assert_eq!(shape.pdu().event_id(), event_id);
            let required = shape.required_signatures().unwrap();
            assert_eq!(required.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["peer.test"]);
            shape.verify(&public_keys([origin])).unwrap()
        };
        assert_eq!(signed().into_knock().is_some(), kind == HandshakeKind::Knock);
        assert_eq!(signed().into_leave().is_some(), kind == HandshakeKind::Leave);
        assert_eq!(signed().into_join().is_some(), kind == HandshakeKind::Join);
    }
}

#[test]
fn a_clock_may_be_a_day_ahead_and_any_time_behind() {
    let greatest = NOW.plus(TIMESTAMP_AHEAD_MAX);
    for (timestamp, is_refused) in [(0, false), (NOW.0, false), (greatest.0, false), (greatest.0 + 1, true)] {
        let (room, mut object) = right_event(HandshakeKind::Knock);
        put(&mut object, "origin_server_ts", json!(timestamp));
        let refusal = shape_of(HandshakeKind::Knock, &room, object).err();
        assert_eq!(refusal == Some(HandshakeRefusal::TimestampAhead), is_refused, "{timestamp}");
        assert_eq!(refusal.is_some(), is_refused, "{timestamp}");
    }
}

#[test]
fn a_content_may_have_4096_bytes() {
    for (bytes, is_refused) in [(4_096, false), (4_097, true)] {
        let (room, mut object) = right_event(HandshakeKind::Knock);
        let bare = r#"{"membership":"knock","reason":""}"#.len();
        put_content(&mut object, "reason", json!("x".repeat(bytes - bare)));
        let refusal = shape_of(HandshakeKind::Knock, &room, object).err();
        assert_eq!(refusal == Some(HandshakeRefusal::ContentTooLarge), is_refused, "{bytes}: {refusal:?}");
    }
}

#[test]
fn a_reason_changed_on_the_way_is_dropped_and_the_knock_stands() {
    let (room, mut object) = right_event(HandshakeKind::Knock);
    put_content(&mut object, "reason", json!("put in on the way"));
    let event_id = event_id_of(&object, room.version()).unwrap();
    let origin = server("peer.test");
    let knock = shape_of(HandshakeKind::Knock, &room, object)
        .unwrap()
        .verify(&public_keys([origin]))
        .unwrap()
        .into_knock()
        .unwrap();
    assert_eq!(knock.pdu().reason(), None);
    assert_eq!(knock.pdu().membership(), Some(MembershipState::Knock));
    assert_eq!(knock.pdu().event_id(), event_id);
}

#[test]
fn content_of_a_member_event_carries_the_authorizing_user_in_joins_only() {
    let given = canonical(json!({
        "join_authorised_via_users_server": "@a:b", "membership": "ban", "reason": "please", "displayname": "Bob",
    }));
    let table = [
        (MembershipState::Join, Some("@a:b")),
        (MembershipState::Knock, None),
        (MembershipState::Invite, None),
        (MembershipState::Leave, None),
        (MembershipState::Ban, None),
    ];
    for (membership, authorizing) in table {
        let content = member_content(given.clone(), &membership);
        assert_eq!(content["membership"].as_str(), Some(membership.as_str()));
        assert_eq!(content["reason"].as_str(), Some("please"));
        let found = content.get("join_authorised_via_users_server").and_then(CanonicalJsonValue::as_str);
        assert_eq!(found, authorizing, "{membership}");
    }
}

#[test]
fn a_body_in_which_a_foreign_id_stands_keeps_its_own() {
    let (room, mut object) = right_event(HandshakeKind::Knock);
    let event_id = event_id_of(&object, room.version()).unwrap();
    assert_eq!(pdu_from(&object, room.version()).event_id(), event_id);
    put(&mut object, "event_id", json!("$foreign:peer.test"));
    put(&mut object, "unsigned", json!({ "age": 5 }));
    let shape = HandshakeShape::parse(object, &expected(HandshakeKind::Knock, &room, &event_id)).unwrap();
    assert!(!shape.pdu().json().contains("foreign") && !shape.pdu().json().contains("unsigned"));
}

/// A room of that version that members of another one may join, in which Alice may invite, and a join of Bob that names
/// `vouching` and is signed by Bob's server.
fn restricted_join(version_id: &RoomVersionId, vouching: Value) -> (RoomFixture, CanonicalJsonObject) {
    let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("restricted")).build();
    let object =
        room.make(EventSpec::join(BOB).with("join_authorised_via_users_server", vouching)).to_object().unwrap();
    (room, object)
}

#[test]
fn a_join_that_we_vouch_for_needs_both_signatures() {
    let (us, origin) = (server("resident.test"), server("peer.test"));
    for version_id in [RoomVersionId::V8, RoomVersionId::V9, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12]
    {
        let (room, object) = restricted_join(&version_id, json!(ALICE));
        let event_id = event_id_of(&object, room.version()).unwrap();
        // Without ours it does not verify, though our key is known.
        let bare = shape_of(HandshakeKind::Join, &room, object.clone()).unwrap();
        let required: Vec<_> = bare.required_signatures().unwrap().into_keys().collect();
        assert_eq!(required, [origin, us], "version {version_id}");
        let refused = bare.verify(&public_keys([origin, us])).err();
        assert!(
            matches!(refused, Some(HandshakeRefusal::SignatureInvalid { .. })),
            "version {version_id}: {refused:?}"
        );
        // With ours it does, and the caller need not bring our key.
        let mut shape = shape_of(HandshakeKind::Join, &room, object.clone()).unwrap();
        assert_eq!(shape.authorised_via().unwrap(), ALICE);
        shape.cosign(&identity(us)).unwrap();
        let required: Vec<_> = shape.required_signatures().unwrap().into_keys().collect();
        assert_eq!(required, [origin], "version {version_id}");
        let join = shape.verify(&public_keys([origin])).unwrap().into_join().unwrap();
        assert_eq!(join.pdu().event_id(), event_id, "version {version_id}");
        assert_eq!(join.authorised_via().unwrap(), ALICE);
        let signatures = join.pdu().to_object().unwrap()["signatures"].clone();
        let signers: Vec<_> = signatures.as_object().unwrap().keys().cloned().collect();
        assert_eq!(signers, ["peer.test", "resident.test"], "version {version_id}");
        // Ours stands for nobody else's.
        let mut shape = shape_of(HandshakeKind::Join, &room, object).unwrap();
        shape.cosign(&identity(us)).unwrap();
        assert!(shape.verify(&public_keys([us])).is_err(), "version {version_id}");
    }
}

#[test]
fn we_vouch_for_no_join_but_that_of_our_own_user() {
    let us = identity(server("resident.test"));
    let (room, object) = restricted_join(&RoomVersionId::V10, json!("@carol:third.test"));
    let mut shape = shape_of(HandshakeKind::Join, &room, object).unwrap();
    assert_eq!(shape.cosign(&us), Err(JoinRefusal::UnableToGrant));
    assert_eq!(shape.required_signatures().unwrap().len(), 2, "nothing was signed");
    for kind in KINDS {
        let (room, object) = right_event(kind);
        let mut shape = shape_of(kind, &room, object).unwrap();
        let before = shape.pdu().json().to_owned();
        assert!(matches!(shape.cosign(&us), Err(JoinRefusal::BadContent { .. })), "{kind:?}");
        assert_eq!(shape.pdu().json(), before);
    }
    // A knock may carry the key; it gets no signature of ours for it.
    let mut room = RoomFixture::knockable(RoomVersionId::V10).build();
    let knock = EventSpec::knock(BOB).with("join_authorised_via_users_server", json!(ALICE));
    let object = room.make(knock).to_object().unwrap();
    let mut shape = shape_of(HandshakeKind::Knock, &room, object).unwrap();
    assert!(matches!(shape.cosign(&us), Err(JoinRefusal::BadContent { .. })));
}

#[test]
fn who_vouches_for_a_join_is_a_user_where_the_version_knows_that() {
    // Version, what stands in the key, and whether the structure is right.
    let table = [
        (RoomVersionId::V7, json!(ALICE), false),
        (RoomVersionId::V8, json!(ALICE), true),
        (RoomVersionId::V10, json!(ALICE), true),
        (RoomVersionId::V12, json!(ALICE), true),
        (RoomVersionId::V10, json!("alice"), false),
        (RoomVersionId::V10, json!(""), false),
        (RoomVersionId::V10, json!(7), false),
        (RoomVersionId::V10, json!({}), false),
        (RoomVersionId::V10, json!(["@alice:resident.test"]), false),
    ];
    for (version_id, vouching, is_right) in table {
        let mut room = RoomFixture::with_join_rule(version_id.clone(), Some("public")).build();
        let mut object = room.make(EventSpec::join(BOB)).to_object().unwrap();
        put_content(&mut object, "join_authorised_via_users_server", vouching.clone());
        let refusal = shape_of(HandshakeKind::Join, &room, object).err();
        assert_eq!(refusal.is_none(), is_right, "version {version_id}, {vouching}: {refusal:?}");
        assert!(is_right || matches!(refusal, Some(HandshakeRefusal::BadFormat { .. })), "{refusal:?}");
    }
}

#[test]
fn a_join_whose_voucher_was_put_in_on_the_way_is_not_vouched_for() {
    let us = server("resident.test");
    let mut room = RoomFixture::with_join_rule(RoomVersionId::V8, Some("restricted")).build();
    let mut object = room.make(EventSpec::join(BOB)).to_object().unwrap();
    put_content(&mut object, "join_authorised_via_users_server", json!(ALICE));
    let mut shape = shape_of(HandshakeKind::Join, &room, object).unwrap();
    shape.cosign(&identity(us)).unwrap();
    let join = shape.verify(&public_keys([server("peer.test")])).unwrap().into_join().unwrap();
    assert_eq!(join.authorised_via(), None, "version 8 signs nothing of the key, so the hash of the content decides");
}
