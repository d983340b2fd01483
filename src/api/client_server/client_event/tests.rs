use ruma::{device_id, events::room::member::MembershipState::Join, owned_device_id, owned_user_id, user_id};
use serde_json::{Value, json};
use vestibule_storage::room::ClientTransaction;

use super::*;
use crate::client_server::{
    testing::{Event, event_id},
    visibility::Sight,
};

fn shown_to(user_id: &UserId, device_id: &DeviceId, event: &StoredEvent, around: &Surroundings) -> Value {
    let sight = Sight::of_history(user_id, &[(1, Join)]);
    let viewer = Viewer { user_id, device_id, sight: &sight, now: UnixMillis(2_500) };
    let shown = client_event(event, viewer, around, RoomIdForm::Named).unwrap();
    serde_json::from_str(shown.get()).unwrap()
}

fn shown(event: &StoredEvent, around: &Surroundings) -> Value {
    shown_to(user_id!("@me:x"), device_id!("PHONE"), event, around)
}

#[test]
fn nothing_of_the_federation_format_gets_out() {
    let event = Event::at(5).with("origin", "x").with("unsigned", json!({"secret": 1})).build();
    assert_eq!(
        shown(&event, &Surroundings::default()),
        json!({
            "content": {"body": "hello", "msgtype": "m.text"},
            "event_id": "$event5",
            "origin_server_ts": 1_000,
            "room_id": "!r:x",
            "sender": "@ann:x",
            "type": "m.room.message",
            "unsigned": {"age": 500, "membership": "join"},
        })
    );
}

#[test]
fn the_room_is_named_only_where_it_is_not_known() {
    let sight = Sight::of_history(user_id!("@me:x"), &[]);
    let viewer =
        Viewer { user_id: user_id!("@me:x"), device_id: device_id!("PHONE"), sight: &sight, now: UnixMillis(0) };
    let event = Event::at(5).build();
    let shown = client_event(&event, viewer, &Surroundings::default(), RoomIdForm::Implied).unwrap();
    let shown: Value = serde_json::from_str(shown.get()).unwrap();
    assert_eq!(shown.get("room_id"), None);
    assert_eq!(shown["unsigned"], json!({"age": 0, "membership": "leave"}), "a clock set back makes no negative age");
}

#[test]
fn only_the_sending_device_sees_the_transaction() {
    let event = Event::at(5)
        .stored(|stored| {
            stored.transaction = Some(ClientTransaction {
                user_id: owned_user_id!("@me:x"),
                device_id: owned_device_id!("PHONE"),
                endpoint: "/send".to_owned(),
                transaction_id: "txn1".into(),
            });
        })
        .build();
    for (user, device, expected) in
        [("@me:x", "PHONE", json!("txn1")), ("@me:x", "LAPTOP", Value::Null), ("@other:x", "PHONE", Value::Null)]
    {
        let user = UserId::parse(user).unwrap();
        let shown = shown_to(&user, device.into(), &event, &Surroundings::default());
        assert_eq!(shown["unsigned"]["transaction_id"], expected, "{user} {device}");
    }
}

#[test]
fn changed_state_says_what_it_replaced() {
    let topic = |number, text: &str| Event::at(number).state("m.room.topic", "", json!({ "topic": text })).build();
    let mut around = Surroundings::default();
    around.replaced.insert(event_id(6), topic(5, "old"));
    let shown = shown(&topic(6, "new"), &around);
    assert_eq!(shown["state_key"], "");
    assert_eq!(shown["content"], json!({"topic": "new"}));
    assert_eq!(shown["unsigned"]["prev_content"], json!({"topic": "old"}));
    assert_eq!(shown["unsigned"]["prev_sender"], "@ann:x");
    assert_eq!(shown["unsigned"]["replaces_state"], "$event5");
}

#[test]
fn redacted_events_say_why() {
    let mut around = Surroundings::default();
    let redaction =
        Event::at(7).with("type", "m.room.redaction").with("content", json!({"redacts": "$event5"})).build();
    around.redactions.insert(event_id(7), redaction);
    let redacted =
        Event::at(5).with("content", json!({})).stored(|stored| stored.redacted_by = Some(event_id(7))).build();
    let shown = shown(&redacted, &around);
    assert_eq!(shown["content"], json!({}));
    let because = &shown["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], "$event7");
    assert_eq!(because["redacts"], "$event5");
    assert_eq!(because.get("signatures"), None);
}

#[test]
fn redactions_name_their_target_in_both_places() {
    let redaction =
        Event::at(7).with("type", "m.room.redaction").with("content", json!({"redacts": "$event5"})).build();
    let shown = shown(&redaction, &Surroundings::default());
    assert_eq!(shown["redacts"], "$event5");
    assert_eq!(shown["content"]["redacts"], "$event5");
}
