//! What our own users send: texts, state, redactions, and transactions that come twice.
//! May not: let a transaction make two events.

use std::time::Duration;

use futures_util::{FutureExt, future::join_all};
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;
use vestibule_protocol::{
    fixture::{ALICE, BOB, user},
    membership::{
        SendRefusal,
        change::MembershipChange::{Invite, Join},
    },
};
use vestibule_storage::room::ClientTransaction;

use super::support::{DAVE, Panic, invite_rule};
use crate::{
    AskError, SendEvent,
    testing::{Settings, TestRoom, World, event, message, until},
};

fn transaction(device: &str, id: &str) -> Option<ClientTransaction> {
    Some(ClientTransaction {
        user_id: user(ALICE),
        device_id: device.into(),
        endpoint: "/send/m.room.message".to_owned(),
        transaction_id: id.into(),
    })
}

fn sent_with(device: &str, id: &str) -> SendEvent {
    SendEvent { transaction: transaction(device, id), ..message(ALICE, "hello") }
}

fn redaction(sender: &str, redacts: &OwnedEventId) -> SendEvent {
    SendEvent {
        redacts: Some(redacts.clone()),
        ..event(sender, "m.room.redaction", None, json!({ "reason": "why not" }))
    }
}

fn refusal(answer: Result<OwnedEventId, AskError<SendRefusal>>) -> SendRefusal {
    match answer {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn with_dave(world: &World, version_id: RoomVersionId) -> TestRoom {
    let room = world.room_with(version_id.clone(), &format!("dave{version_id}"), vec![invite_rule()]).await;
    world.change(&room, ALICE, Invite, DAVE).await.unwrap();
    world.change(&room, DAVE, Join, DAVE).await.unwrap();
    room
}

#[actix::test]
async fn transaction_in_flight_makes_one_event() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V11, "txn", vec![]).await;
    let events = world.timeline(&room).len();
    world.storage.hold();
    let mut answers = Box::pin(join_all((0..10).map(|_| world.send(&room, sent_with("D1", "t1")))));
    assert!(answers.as_mut().now_or_never().is_none());
    until("the first is enqueued", || world.storage.waiting() == 1).await;
    let mut late = Box::pin(world.send(&room, sent_with("D1", "t1")));
    assert!(late.as_mut().now_or_never().is_none());
    crate::testing::settle().await;
    assert!(late.as_mut().now_or_never().is_none(), "a repeat waits for the disk too");
    world.storage.release_all();
    let first = late.await.unwrap();
    for answer in answers.await {
        assert_eq!(answer.unwrap(), first);
    }
    assert_eq!(world.timeline(&room).len(), events + 1);
}

#[actix::test]
async fn transaction_is_remembered_by_storage() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V11, "txn", vec![]).await;
    let first = world.send(&room, sent_with("D1", "t1")).await.unwrap();
    let events = world.timeline(&room).len();
    assert_eq!(world.rooms.ask(&room.room_id, Panic).await, Err(AskError::Failed));
    assert_eq!(world.send(&room, sent_with("D1", "t1")).await.unwrap(), first);
    let restarted = world.restarted();
    assert_eq!(restarted.send(&room, sent_with("D1", "t1")).await.unwrap(), first);
    assert_eq!(restarted.timeline(&room).len(), events);
    restarted.clock.advance(Duration::from_secs(1));
    assert_ne!(restarted.send(&room, sent_with("D2", "t1")).await.unwrap(), first, "another device");
    assert_ne!(restarted.send(&room, sent_with("D1", "t2")).await.unwrap(), first, "another id");
    let stored = restarted.stored(&room, &first).unwrap();
    assert_eq!(stored.transaction, transaction("D1", "t1"));
}

#[actix::test]
async fn two_texts_in_one_millisecond_are_two_events() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V11, "twice", vec![]).await;
    let (first, second) = tokio::join!(world.send(&room, message(ALICE, "a")), world.send(&room, message(ALICE, "a")));
    assert_ne!(first.unwrap(), second.unwrap());
}

#[actix::test]
async fn redaction_takes_content_away_for_good() {
    let world = World::new();
    for version_id in [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let room = with_dave(&world, version_id.clone()).await;
        let own = world.send(&room, message(DAVE, "secret")).await.unwrap();
        let because = world.send(&room, redaction(DAVE, &own)).await.unwrap();
        let stored = world.stored(&room, &own).unwrap();
        assert_eq!(stored.event.content().get(), "{}", "{version_id}");
        assert_eq!(stored.redacted_by, Some(because.clone()));
        let redacting = world.stored(&room, &because).unwrap();
        assert_eq!(redacting.event.redacts(), Some(&*own), "{version_id}");
        // Old enough to be known only from storage.
        let others = world.send(&room, message(DAVE, "also secret")).await.unwrap();
        world.set_state(&room, "m.room.topic", json!({ "topic": "weather" })).await;
        let restarted = world.restarted();
        restarted.send(&room, redaction(ALICE, &others)).await.unwrap();
        assert_eq!(restarted.stored(&room, &others).unwrap().event.content().get(), "{}");
    }
}

#[actix::test]
async fn redacted_state_is_empty_in_memory_too() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let name = world.set_state(&room, "m.room.name", json!({ "name": "Rude" })).await;
    world.send(&room, redaction(ALICE, &name)).await.unwrap();
    let knock = room.signed_knock(&world.template(&room, BOB).await, BOB, "");
    let shown = world.admit(&room, knock).await.unwrap();
    assert!(shown.stripped.iter().chain(&shown.knock_room_state).all(|event| !event.get().contains("Rude")));
    let content = world.look(&room, |room| {
        room.state().get(&ruma::events::StateEventType::RoomName, "").unwrap().content().get().to_owned()
    });
    assert_eq!(content.await, "{}");
}

#[actix::test]
async fn redactions_need_right_target_and_power() {
    let world = World::new();
    let room = with_dave(&world, RoomVersionId::V11).await;
    let of_alice = world.send(&room, message(ALICE, "stays")).await.unwrap();
    let refused = refusal(world.send(&room, redaction(DAVE, &of_alice)).await);
    assert!(matches!(refused, SendRefusal::NotAuthorized { .. }));
    assert!(world.stored(&room, &of_alice).unwrap().event.content().get().contains("stays"));
    let create = world.timeline(&room)[0].event.event_id().to_owned();
    let acl = world.set_state(&room, "m.room.server_acl", json!({ "allow": ["*"] })).await;
    for protected in [create, acl] {
        let refused = refusal(world.send(&room, redaction(ALICE, &protected)).await);
        assert!(matches!(refused, SendRefusal::NotAuthorized { .. }));
        assert_eq!(world.stored(&room, &protected).unwrap().redacted_by, None);
    }
    let nowhere: OwnedEventId = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".try_into().unwrap();
    assert_eq!(refusal(world.send(&room, redaction(ALICE, &nowhere)).await), SendRefusal::UnknownRedactionTarget);
    let elsewhere = world.room_with(RoomVersionId::V11, "elsewhere", vec![]).await;
    let foreign = world.send(&elsewhere, message(ALICE, "there")).await.unwrap();
    assert_eq!(refusal(world.send(&room, redaction(ALICE, &foreign)).await), SendRefusal::UnknownRedactionTarget);
}

#[actix::test]
async fn power_levels_decide_at_once() {
    let world = World::new();
    let room = with_dave(&world, RoomVersionId::V12).await;
    let name = || event(DAVE, "m.room.name", Some(""), json!({ "name": "Dave's" }));
    assert!(matches!(refusal(world.send(&room, name()).await), SendRefusal::NotAuthorized { .. }));
    world.set_state(&room, "m.room.power_levels", json!({ "users": { DAVE: 50 } })).await;
    world.send(&room, name()).await.unwrap();
    let own_level = event(DAVE, "m.room.power_levels", Some(""), json!({ "users": { DAVE: 100 } }));
    assert!(matches!(refusal(world.send(&room, own_level).await), SendRefusal::NotAuthorized { .. }));
    world.set_state(&room, "m.room.power_levels", json!({ "users": {}, "events_default": 10 })).await;
    assert!(matches!(refusal(world.send(&room, message(DAVE, "muted")).await), SendRefusal::NotAuthorized { .. }));
    assert!(matches!(refusal(world.restarted().send(&room, name()).await), SendRefusal::NotAuthorized { .. }));
}

#[actix::test]
async fn events_beyond_the_limits_are_refused_and_change_nothing() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V11, "limits", vec![]).await;
    let before = (world.timeline(&room).len(), world.memory(&room).await);
    let too_large = message(ALICE, &"x".repeat(70_000));
    assert_eq!(refusal(world.send(&room, too_large).await), SendRefusal::TooLarge);
    let long_key = "k".repeat(256);
    let too_long = event(ALICE, "org.example", Some(&long_key), json!({}));
    assert_eq!(refusal(world.send(&room, too_long).await), SendRefusal::FieldTooLong);
    let of_stranger = message("@stranger:resident.test", "hi");
    assert!(matches!(refusal(world.send(&room, of_stranger).await), SendRefusal::NotAuthorized { .. }));
    let bad_rules = event(ALICE, "m.room.create", Some(""), json!({}));
    assert!(matches!(refusal(world.send(&room, bad_rules).await), SendRefusal::NotAuthorized { .. }));
    assert_eq!((world.timeline(&room).len(), world.memory(&room).await), before);
    world.send(&room, message(ALICE, "still works")).await.unwrap();
}

#[actix::test]
async fn failed_commit_forgets_its_transaction() {
    let world = World::with(Settings::default());
    let room = world.room_with(RoomVersionId::V11, "txn", vec![]).await;
    world.storage.fail_only(1, vestibule_storage::memory::Failure::NotWritten);
    let failed = world.send(&room, sent_with("D1", "t1")).await;
    assert!(matches!(failed, Err(AskError::Storage(_))), "{failed:?}");
    let event_id = world.send(&room, sent_with("D1", "t1")).await.unwrap();
    assert!(world.stored(&room, &event_id).is_some());
}
