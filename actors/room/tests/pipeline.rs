//! Commits that fail, turns that panic, and who is told what.
//! May not: let anything that was not acknowledged be assumed, or anything acknowledged be lost.

use futures_util::{FutureExt, future::join_all};
use ruma::{RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::fixture::{ALICE, BOB, CAROL};
use vestibule_storage::{commit::CommitError, error::StorageError, memory::Failure};

use super::support::Panic;
use crate::{
    AdmittedKnock, AskError,
    testing::{Settings, TestRoom, World, message, until},
};
use vestibule_protocol::membership::KnockRefusal;

type Answer = Result<AdmittedKnock, AskError<KnockRefusal>>;

fn users(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("@user{number}:server{}.test", number % 5)).collect()
}

/// Enqueues twenty knocks behind a disk that stands still, then lets the seventh fail.
async fn commit_seven_of_twenty_fails(world: &World, room: &TestRoom, failure: Failure) -> Vec<Answer> {
    let template = world.template(room, BOB).await;
    world.storage.hold();
    let users = users(20);
    let knocks = users.iter().map(|user_id| world.admit(room, room.signed_knock(&template, user_id, "")));
    let mut answers = Box::pin(join_all(knocks));
    assert!(answers.as_mut().now_or_never().is_none());
    until("all twenty are enqueued", || world.storage.waiting() == 20).await;
    world.storage.fail_only(7, failure);
    world.storage.release_all();
    answers.await
}

#[actix::test]
async fn failed_commit_takes_all_behind_it_along_and_none_before_it() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let answers = commit_seven_of_twenty_fails(&world, &room, Failure::NotWritten).await;
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), index < 6, "{} {answer:?}", index + 1);
    }
    assert!(matches!(answers[6], Err(AskError::Storage(CommitError::Storage(StorageError::NotWritten { .. })))));
    assert_eq!(world.pending(&room).len(), 6);
    let late = "@late:server0.test";
    world.knock(&room, late).await;
    let memory = world.memory(&room).await;
    assert_eq!((memory.counts.knock, memory.pending), (7, 7));
    assert_eq!(world.totals().actors_restarted, 1);
    let restarted = world.restarted();
    assert_eq!(restarted.memory(&room).await, memory);
    for user_id in &users(20)[6..] {
        assert_eq!(restarted.membership(&room, user_id), MembershipState::Leave, "{user_id}");
    }
    // Those who were refused may try again.
    world.knock(&room, &users(20)[10]).await;
}

#[actix::test]
async fn commit_of_unknown_outcome_is_read_again_whichever_it_was() {
    for (failure, kept) in [(Failure::UnknownAndLost, 6), (Failure::UnknownButKept, 7)] {
        let world = World::new();
        let room = world.knockable(RoomVersionId::V12).await;
        let answers = commit_seven_of_twenty_fails(&world, &room, failure).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 6, "{failure:?}");
        let unknown = &answers[6];
        let is_unknown =
            matches!(unknown, Err(AskError::Storage(CommitError::Storage(StorageError::OutcomeUnknown { .. }))));
        assert!(is_unknown, "{unknown:?}");
        world.knock(&room, "@late:server0.test").await;
        assert_eq!(world.pending(&room).len(), kept + 1, "{failure:?}");
        assert_eq!(world.memory(&room).await.counts.knock, u64::try_from(kept).unwrap() + 1, "{failure:?}");
        // The same event again finds its way in, or out of the store.
        let user_id = &users(20)[6];
        if kept == 7 {
            assert_eq!(world.membership(&room, user_id), MembershipState::Knock);
        } else {
            world.knock(&room, user_id).await;
        }
    }
}

#[actix::test]
async fn nothing_is_counted_that_was_not_written() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let answers = commit_seven_of_twenty_fails(&world, &room, Failure::DiskFull).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 6);
    let totals = world.totals();
    assert_eq!((totals.knocks.admitted, totals.knocks.pending), (6, 6));
    assert_eq!(world.decisions().len(), 6);
}

#[actix::test]
async fn what_a_room_shows_of_itself_is_durable() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let shown = || world.rooms.gauges().room(&room.room_id).unwrap().facts;
    world.storage.hold();
    let mut knock = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "")));
    assert!(knock.as_mut().now_or_never().is_none());
    until("the knock is enqueued", || world.storage.waiting() == 1).await;
    assert_eq!((shown().pending_knocks, shown().members.knock), (0, 0));
    world.storage.release_all();
    knock.await.unwrap();
    assert_eq!((shown().pending_knocks, shown().members.knock), (1, 1));
}

#[actix::test]
async fn panic_in_a_turn_fails_its_caller_and_no_other() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    world.knock(&room, BOB).await;
    for count in 1..=3 {
        assert_eq!(world.rooms.ask(&room.room_id, Panic).await, Err(AskError::Failed));
        assert_eq!(world.memory(&room).await.counts.knock, 1);
        assert_eq!(world.totals().actors_restarted, count);
        assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().restarts, count);
    }
    world.knock(&room, CAROL).await;
    assert_eq!(world.totals().actors_live, 1);
}

#[actix::test]
async fn panic_lets_what_was_enqueued_before_it_become_durable() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    world.storage.hold();
    let mut knock = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "")));
    assert!(knock.as_mut().now_or_never().is_none());
    until("the knock is enqueued", || world.storage.waiting() == 1).await;
    assert_eq!(world.rooms.ask(&room.room_id, Panic).await, Err(AskError::Failed));
    assert!(knock.as_mut().now_or_never().is_none());
    // A fresh actor now would not see the knock, and would write over its place.
    assert_eq!(world.prepare(&room, CAROL).await.unwrap_err(), AskError::Failed);
    world.storage.release_all();
    assert!(knock.await.is_ok());
    world.knock(&room, CAROL).await;
    assert_eq!(world.memory(&room).await.counts.knock, 2);
    assert_eq!(world.pending(&room).len(), 2);
}

#[actix::test]
async fn messages_behind_a_panic_get_an_error_and_change_nothing() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let panic = world.rooms.ask(&room.room_id, Panic);
    let behind = world.admit(&room, room.signed_knock(&template, BOB, ""));
    let (panic, behind) = tokio::join!(panic, behind);
    assert_eq!(panic, Err(AskError::Failed));
    assert!(matches!(behind, Err(AskError::Failed)), "{behind:?}");
    assert!(world.pending(&room).is_empty());
}

#[actix::test]
async fn full_mailbox_turns_away_and_changes_nothing() {
    let world = World::with(Settings { mailbox_capacity: 4, ..Settings::default() });
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let users = users(10);
    // All are asked before the actor gets a turn.
    let knocks = users.iter().map(|user_id| world.admit(&room, room.signed_knock(&template, user_id, "")));
    let answers = join_all(knocks).await;
    let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(admitted, 4);
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Err(AskError::Overloaded))).count(), 6);
    assert_eq!(world.pending(&room).len(), 4);
    assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().mailbox_depth, 0);
    world.knock(&room, CAROL).await;
}

#[actix::test]
async fn no_free_writer_slot_turns_away_and_changes_nothing() {
    let world = World::with(Settings { writer_slots: 2, ..Settings::default() });
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    world.storage.hold();
    let users = users(3);
    let mut answers: Vec<_> =
        users.iter().map(|user_id| Box::pin(world.admit(&room, room.signed_knock(&template, user_id, "")))).collect();
    for answer in &mut answers {
        assert!(answer.as_mut().now_or_never().is_none());
    }
    until("the slots are taken", || world.storage.waiting() == 2).await;
    assert!(matches!(answers.pop().unwrap().await, Err(AskError::Overloaded)));
    world.storage.release_all();
    for answer in answers {
        assert!(answer.await.is_ok());
    }
    assert_eq!(world.memory(&room).await.counts.knock, 2);
    world.storage.refuse_writes();
    let refused = world.admit(&room, room.signed_knock(&template, &users[2], "")).await;
    assert!(matches!(refused, Err(AskError::Storage(_))), "{refused:?}");
    assert!(world.prepare(&room, CAROL).await.is_ok(), "reads go on");
}

#[actix::test]
async fn caller_who_hangs_up_before_the_turn_never_runs() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let mut knock = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "")));
    assert!(knock.as_mut().now_or_never().is_none());
    assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().mailbox_depth, 1);
    drop(knock);
    assert_eq!(world.memory(&room).await.counts.knock, 0);
    assert!(world.pending(&room).is_empty());
    let gauges = world.rooms.gauges().room(&room.room_id).unwrap();
    assert_eq!(gauges.mailbox_depth, 0);
    assert_eq!(gauges.messages.get("admit_knock"), None);
}

#[actix::test]
async fn caller_who_hangs_up_after_the_turn_cancels_nothing() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    world.storage.hold();
    let mut knock = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "")));
    assert!(knock.as_mut().now_or_never().is_none());
    until("the turn is over", || world.storage.waiting() == 1).await;
    drop(knock);
    world.storage.release_all();
    assert_eq!(world.membership(&room, BOB), MembershipState::Knock);
    assert_eq!(world.memory(&room).await.counts.knock, 1);
}

#[actix::test]
async fn stalled_room_does_not_hold_another() {
    let world = World::with(Settings { mailbox_capacity: 8, ..Settings::default() });
    let room = world.knockable(RoomVersionId::V12).await;
    let other = world.room_with(RoomVersionId::V12, "other", vec![]).await;
    world.storage.hold();
    let mut stalled = Box::pin(world.send(&room, message(ALICE, "waits")));
    assert!(stalled.as_mut().now_or_never().is_none());
    until("it is enqueued", || world.storage.waiting() == 1).await;
    let door = crate::room::check_door::CheckDoor { origin: crate::testing::server("a.test") };
    assert_eq!(world.rooms.ask(&other.room_id, door).await.unwrap(), other.version);
    world.storage.release_all();
    assert!(stalled.await.is_ok());
}
