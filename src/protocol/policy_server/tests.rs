//! Which rooms have a policy server, and which events pass it.
//! May not: ask one.

use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::*;
use crate::{
    fixture::{ALICE, BOB, EventSpec, RoomFixture, canonical, identity, pdu_from},
    pdu::checks::ShapedPdu,
    signing::{Identity, SigningKey},
};

const VIA: &str = "peer.test";

fn server(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

/// The policy server's identity: the name that the room gives, and a key of its own.
fn signer(seed: u8) -> Identity {
    let key = SigningKey::from_seed("policy_server", &[seed; 32]).unwrap();
    Identity::new(server(VIA).to_owned(), key)
}

fn policy_content(seed: u8) -> Value {
    json!({ "via": VIA, "public_keys": { "ed25519": signer(seed).key().public_key_base64().to_string() } })
}

fn room_with(version_id: &RoomVersionId, content: Value) -> RoomFixture {
    RoomFixture::knockable(version_id.clone()).join(BOB).event(EventSpec::state(ALICE, POLICY_TYPE, content)).build()
}

fn policy_of(room: &RoomFixture) -> Option<PolicyServer> {
    let joined = room.state().joined_servers();
    PolicyServer::of(room.state(), |via| joined.contains(via))
}

/// What the policy server with that key answers when it is asked for an event.
fn answer_for(event: &Pdu, version: &RoomVersion, seed: u8) -> CanonicalJsonObject {
    let mut object = event.to_object().unwrap();
    object.remove("signatures");
    signer(seed).cosign(&mut object, version.rules()).unwrap();
    object["signatures"].as_object().unwrap().clone()
}

#[test]
fn a_room_has_the_policy_server_that_its_state_names_completely() {
    let key = signer(7).key().public_key_base64().to_string();
    let table = [
        (policy_content(7), true),
        (json!({ "via": VIA, "public_keys": { "ed25519": key, "x.other": 7 }, "x": 1 }), true),
        (json!({}), false),
        (json!({ "via": VIA }), false),
        (json!({ "via": VIA, "public_key": key }), false),
        (json!({ "via": VIA, "public_keys": {} }), false),
        (json!({ "via": VIA, "public_keys": key }), false),
        (json!({ "via": VIA, "public_keys": { "ed25519": 7 } }), false),
        (json!({ "via": VIA, "public_keys": { "ed25519": "AAAA" } }), false),
        (json!({ "via": VIA, "public_keys": { "ed25519": "!" } }), false),
        (json!({ "public_keys": { "ed25519": key } }), false),
        (json!({ "via": "not a name", "public_keys": { "ed25519": key } }), false),
        // Nobody of that server is in the room.
        (json!({ "via": "third.test", "public_keys": { "ed25519": key } }), false),
    ];
    for (content, has_one) in table {
        let room = room_with(&RoomVersionId::V11, content.clone());
        assert_eq!(policy_of(&room).is_some(), has_one, "{content}");
    }
    assert_eq!(policy_of(&RoomFixture::knockable(RoomVersionId::V11).build()), None);
    let mut left = room_with(&RoomVersionId::V11, policy_content(7));
    left.append(EventSpec::leave(BOB));
    assert_eq!(policy_of(&left), None, "a policy server that leaves is none");
}

#[test]
fn only_the_event_that_names_it_goes_without_its_signature() {
    let mut room = room_with(&RoomVersionId::V11, policy_content(7));
    let policy = policy_of(&room).unwrap();
    let table = [
        (EventSpec::message(ALICE, "hi"), true),
        (EventSpec::knock("@dan:third.test"), true),
        (EventSpec::leave(BOB), true),
        (EventSpec::power_levels(ALICE, &[]), true),
        (EventSpec::any(ALICE, POLICY_TYPE, None, policy_content(7)), true),
        (EventSpec::any(ALICE, POLICY_TYPE, Some("x"), policy_content(7)), true),
        (EventSpec::state(ALICE, POLICY_TYPE, policy_content(8)), false),
        (EventSpec::state(ALICE, POLICY_TYPE, json!({})), false),
    ];
    for (spec, needs_one) in table {
        let event = room.make(spec);
        assert_eq!(needs_signature(&event), needs_one, "{event:?}");
        let expected = if needs_one { Err(PolicyFault::Missing) } else { Ok(()) };
        assert_eq!(policy.check(&event, room.version()), expected, "{event:?}");
    }
}

#[test]
fn a_signature_is_added_beside_those_of_others() {
    for version_id in RoomVersion::hosted().into_iter().filter(|id| crate::fixture::version(id).can_knock()) {
        let mut room = room_with(&version_id, policy_content(7));
        let policy = policy_of(&room).unwrap();
        // Bob's server is the policy server too: its own signature must survive.
        for sender in [ALICE, BOB] {
            let event = room.make(EventSpec::message(sender, "hi"));
            let answer = answer_for(&event, room.version(), 7);
            let signed = policy.add_signature(&event, &answer, room.version()).unwrap();
            assert_eq!(signed.event_id(), event.event_id(), "version {version_id}");
            assert_eq!(policy.check(&signed, room.version()), Ok(()), "version {version_id}");
            let shaped = ShapedPdu::parse(signed.to_object().unwrap(), room.version()).unwrap();
            // Where signatures of senders are required, the policy server's key is not looked for.
            let required = shaped.required_signatures().unwrap();
            assert_eq!(required[event.sender_server()].iter().collect::<Vec<_>>(), ["ed25519:fixture"]);
            let verified = shaped.verify(&room.keys()).unwrap();
            assert_eq!(verified.pdu().json(), signed.json(), "version {version_id}, {sender}");
        }
    }
}

#[test]
fn what_does_not_verify_is_not_added() {
    let mut room = room_with(&RoomVersionId::V11, policy_content(7));
    let policy = policy_of(&room).unwrap();
    let event = room.make(EventSpec::message(ALICE, "hi"));
    let other = room.make(EventSpec::message(ALICE, "buy"));
    let right = answer_for(&event, room.version(), 7);
    let wrong = |answer: &CanonicalJsonObject| policy.add_signature(&event, answer, room.version()).unwrap_err();
    assert!(matches!(wrong(&answer_for(&event, room.version(), 8)), PolicyFault::Wrong(_)), "another key");
    assert!(matches!(wrong(&answer_for(&other, room.version(), 7)), PolicyFault::Wrong(_)), "another event");
    assert!(matches!(wrong(&canonical(json!({ VIA: { POLICY_SERVER_KEY: "!" } }))), PolicyFault::Wrong(_)));
    for answer in [
        json!({}),
        json!({ VIA: {} }),
        json!({ VIA: 7 }),
        json!({ VIA: { POLICY_SERVER_KEY: 7 } }),
        json!({ VIA: { "ed25519:fixture": "AAAA" } }),
        json!({ "third.test": Value::from(right[VIA].clone()) }),
    ] {
        assert_eq!(wrong(&canonical(answer.clone())), PolicyFault::Missing, "{answer}");
    }
    // Of a right answer nothing but the one signature is taken.
    let mut greedy = right.clone();
    greedy.insert("resident.test".to_owned(), json!({ "ed25519:fixture": "AAAA" }).try_into().unwrap());
    let signed = policy.add_signature(&event, &greedy, room.version()).unwrap();
    assert_eq!(signed.json(), policy.add_signature(&event, &right, room.version()).unwrap().json());
    assert!(!signed.json().contains("AAAA"));
}

#[test]
fn a_signature_by_a_key_that_the_room_no_longer_names_is_wrong() {
    let mut room = room_with(&RoomVersionId::V11, policy_content(7));
    let event = room.make(EventSpec::message(ALICE, "hi"));
    let answer = answer_for(&event, room.version(), 7);
    let signed = policy_of(&room).unwrap().add_signature(&event, &answer, room.version()).unwrap();
    room.append(EventSpec::state(ALICE, POLICY_TYPE, policy_content(8)));
    let policy = policy_of(&room).unwrap();
    assert!(matches!(policy.check(&signed, room.version()), Err(PolicyFault::Wrong(_))));
    // Asked again, the new signature takes the old one's place.
    let answer = answer_for(&signed, room.version(), 8);
    let again = policy.add_signature(&signed, &answer, room.version()).unwrap();
    assert_eq!(policy.check(&again, room.version()), Ok(()));
}

#[test]
fn a_server_that_signs_with_its_ordinary_key_is_not_heard() {
    let mut room = room_with(&RoomVersionId::V11, policy_content(7));
    let policy = policy_of(&room).unwrap();
    let event = room.make(EventSpec::message(BOB, "hi"));
    assert!(event.json().contains("peer.test"), "the sender's server is the policy server and has signed as such");
    assert_eq!(policy.check(&event, room.version()), Err(PolicyFault::Missing));
    let mut object = event.to_object().unwrap();
    identity(server(VIA)).cosign(&mut object, room.version().rules()).unwrap();
    assert_eq!(policy.check(&pdu_from(&object, room.version()), room.version()), Err(PolicyFault::Missing));
}
