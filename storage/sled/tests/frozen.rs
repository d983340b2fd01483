//! Every stored form as it once was written. A file here never changes; a new version of a form gets a new one.
//! May not: be written by the code it tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{
    OwnedDeviceId, RoomVersionId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
    owned_event_id, owned_room_alias_id, owned_room_id, owned_server_name, owned_user_id,
};
use vestibule_protocol::{
    clock::UnixMillis,
    pdu::{Pdu, Standing},
    room_version::RoomVersion,
    stream::StreamPosition,
};
use vestibule_storage::accounts::{Alias, Device, User};
use vestibule_storage::device_keys::{FallbackKey, PublishedKey, RemoteKeys};
use vestibule_storage::outbox::{Delivery, EduContent};
use vestibule_storage::room::{
    ClientTransaction, Decision, DecisionAction, MemberCounts, OutOfBand, PendingKnock, Progress,
};
use vestibule_storage::server_keys::{StoredOldKey, StoredServerKeys};

use crate::account_values::{AccountDataValue, TokenValue};
use crate::device_values::DeviceListValue;
use crate::fields::StoredForm;
use crate::peer_values::OutboxValue;
use crate::receipt_values::ReceiptValue;
use crate::record::{self, Changes};
use crate::values::{
    CounterValue, EventValue, MembershipValue, OrderValue, PointerValue, RoomValue, StateHead, StatePartValue,
    TextValue,
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = digits.chunks(32).map(|line| line.concat()).collect();
    lines.join("\n") + "\n"
}

fn assert_frozen<T: StoredForm + PartialEq + std::fmt::Debug>(name: &str, file: &str, example: &T) {
    assert_eq!(hex(&example.to_bytes()), file, "{name} is written otherwise");
    assert_eq!(&T::from_bytes(&bytes(file)).unwrap(), example, "{name} is read otherwise");
}

macro_rules! frozen {
    ($name:literal, $example:expr) => {
        assert_frozen($name, include_str!(concat!("../frozen/", $name, ".hex")), &$example)
    };
}

fn transaction() -> ClientTransaction {
    ClientTransaction {
        user_id: owned_user_id!("@alice:here.example"),
        device_id: OwnedDeviceId::from("PHONE"),
        endpoint: "/rooms/!r/send/m.room.message".to_owned(),
        transaction_id: "t1".into(),
    }
}

#[test]
fn stored_forms_read_as_they_were_written() {
    let event_id = owned_event_id!("$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    let hash: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap());
    frozen!("counter.v1", CounterValue(7));
    frozen!("pointer.v1", PointerValue(hash));
    frozen!("text.v1", TextValue("!room:here.example".to_owned()));
    frozen!("order.v1", OrderValue(-3));
    frozen!(
        "room.v1",
        RoomValue {
            number: 1,
            room_version: RoomVersionId::V12,
            current: 9,
            counts: MemberCounts { join: 1, invite: 2, knock: 3, leave: 4, ban: 5 },
            next_arrival: 11,
            newest_order: Some(-2),
        }
    );
    frozen!(
        "event.v1",
        EventValue {
            event_id: event_id.clone(),
            room_number: 1,
            standing: Standing::SoftFailed,
            order: Some(4),
            position: 5,
            state_before: 6,
            current_after: 7,
            visibility: HistoryVisibility::Shared,
            received_at: UnixMillis(1_790_000_000_000),
            redacted_by: Some(event_id.clone()),
            transaction: Some(transaction()),
            json: "{}".into(),
        }
    );
    let key = |kind: &str, state_key: &str| (kind.into(), state_key.to_owned());
    frozen!(
        "state_version.v1",
        StatePartValue {
            head: Some(StateHead { parent: Some(3), delta_entries: 2 }),
            changes: vec![(key("m.room.name", ""), Some(hash)), (key("m.room.member", "@a:b"), None)],
        }
    );
    frozen!(
        "membership.v1",
        MembershipValue { membership: MembershipState::Knock, event_id: event_id.clone(), position: 8 }
    );
    frozen!(
        "knock.v1",
        PendingKnock {
            event_id: event_id.clone(),
            origin: owned_server_name!("there.example"),
            reason: Some("let me in".to_owned()),
            since: UnixMillis(9),
        }
    );
    frozen!(
        "decision.v1",
        Decision {
            at: UnixMillis(10),
            room_id: owned_room_id!("!room:here.example"),
            user_id: owned_user_id!("@bob:there.example"),
            origin: owned_server_name!("there.example"),
            by: Some(owned_user_id!("@alice:here.example")),
            action: DecisionAction::Denied,
            reason: Some("no".to_owned()),
            event_id: Some(event_id),
        }
    );
}

#[test]
fn stored_forms_of_what_concerns_peers_read_as_they_were_written() {
    let event_id = owned_event_id!("$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    let user_id = owned_user_id!("@alice:here.example");
    let room_id = owned_room_id!("!room:there.example");
    let row = |delivery| OutboxValue { room_id: room_id.clone(), event_id: event_id.clone(), delivery };
    frozen!("outbox.v1", row(Delivery::Leave { user_id }));
    frozen!("outbox_transaction.v1", row(Delivery::Transaction));
    frozen!("outbox_invite.v1", row(Delivery::Invite));
    frozen!("receipt.v1", ReceiptValue { event_id: event_id.clone(), at: UnixMillis(13), position: 14 });
    let json = r#"{"auth_events":[],"content":{"membership":"knock"},"depth":3,"hashes":{},"origin_server_ts":4,"prev_events":[],"room_id":"!room:there.example","sender":"@alice:here.example","signatures":{},"state_key":"@alice:here.example","type":"m.room.member"}"#;
    let version = RoomVersion::lookup(&RoomVersionId::V11).unwrap();
    let knock = Pdu::from_canonical_text(event_id.clone(), json.into(), &version, Standing::Accepted).unwrap();
    let out_of_band = OutOfBand {
        room_version: RoomVersionId::V11,
        membership: MembershipState::Knock,
        progress: Progress::Settled,
        event: Arc::new(knock),
        stripped: vec![r#"{"type":"m.room.name"}"#.to_owned()],
        via: vec![owned_server_name!("there.example"), owned_server_name!("other.example")],
        since: UnixMillis(12),
        knock: None,
        joins: Vec::new(),
        early: None,
    };
    let older = OutOfBand::from_bytes(&bytes(include_str!("../frozen/out_of_band.v1.hex"))).unwrap();
    assert_eq!(older, out_of_band, "the first version is read otherwise");
    frozen!("out_of_band.v2", out_of_band);
    let early = Some(out_of_band.event.clone());
    frozen!(
        "out_of_band_of_knock.v2",
        OutOfBand { knock: Some(event_id.clone()), joins: vec![event_id], early, ..out_of_band.clone() }
    );
    let read = OutOfBand::from_bytes(&out_of_band.to_bytes()).unwrap();
    assert_eq!((read.event.json(), read.event.standing()), (json, Standing::Accepted));
}

#[test]
fn stored_forms_of_accounts_read_as_they_were_written() {
    frozen!(
        "user.v1",
        User {
            user_id: owned_user_id!("@alice:here.example"),
            password_hash: Some("$argon2id$".to_owned()),
            is_admin: true,
            is_deactivated: false,
            created_at: UnixMillis(1),
            profile: BTreeMap::from([("displayname".to_owned(), "\"Alice\"".to_owned())]),
        }
    );
    frozen!(
        "device.v1",
        Device {
            user_id: owned_user_id!("@alice:here.example"),
            device_id: OwnedDeviceId::from("PHONE"),
            display_name: Some("phone".to_owned()),
            token_hash: [3; 32],
            created_at: UnixMillis(2),
        }
    );
    frozen!(
        "token.v1",
        TokenValue { user_id: owned_user_id!("@alice:here.example"), device_id: OwnedDeviceId::from("PHONE") }
    );
    frozen!("account_data.v1", AccountDataValue { position: 4, content: "{}".to_owned() });
    frozen!(
        "alias.v1",
        Alias {
            alias: owned_room_alias_id!("#hall:here.example"),
            room_id: owned_room_id!("!room:here.example"),
            creator: owned_user_id!("@alice:here.example"),
        }
    );
    let old_key = StoredOldKey { key: "b2xk".to_owned(), expired_ts: 6 };
    frozen!(
        "server_keys.v1",
        StoredServerKeys {
            server_name: owned_server_name!("there.example"),
            verify_keys: BTreeMap::from([("ed25519:new".try_into().unwrap(), "bmV3".to_owned())]),
            old_verify_keys: BTreeMap::from([("ed25519:old".try_into().unwrap(), old_key)]),
            valid_until_ts: 7,
            fetched_at_ms: 8,
            signed_json: "{}".to_owned(),
        }
    );
}

#[test]
fn stored_forms_of_keys_read_as_they_were_written() {
    let key = PublishedKey {
        algorithm: "signed_curve25519".to_owned(),
        key_id: "AAAAAQ".to_owned(),
        key: r#"{"key":"a2V5"}"#.to_owned(),
    };
    frozen!("published_key.v1", key);
    frozen!("fallback_key.v1", FallbackKey { key: key.clone(), is_used: true });
    frozen!("device_list.v1", DeviceListValue { changed_at: 5, stream_id: Some(1281) });
    frozen!("remote_keys.v1", RemoteKeys { keys: "{}".to_owned(), as_of: StreamPosition(6) });
    let user_id = owned_user_id!("@alice:here.example");
    frozen!("edu.v1", EduContent::Whole(r#"{"edu_type":"m.direct_to_device"}"#.to_owned()));
    frozen!(
        "edu_device_list.v1",
        EduContent::DeviceList {
            user_id: user_id.clone(),
            device_id: OwnedDeviceId::from("PHONE"),
            stream_id: 1281,
            previous: Some(1024),
        }
    );
    frozen!("edu_signing_keys.v1", EduContent::SigningKeys { user_id });
}

#[test]
fn journal_records_read_as_they_were_written() {
    let changes = Changes::from([(vec![2, 3], Some(vec![4, 5, 6])), (vec![7], None), (vec![8], Some(Vec::new()))]);
    let file = include_str!("../frozen/record.v1.hex");
    assert_eq!(hex(&record::encode(&changes)), file);
    assert_eq!(record::decode(&bytes(file)), Some(changes));
}
