//! The suite on the reference model, and what the model offers beyond it: holds, faults, restarts.
//! May not: wait for anything; the model answers at once.

use std::sync::Arc;

use futures_util::{FutureExt, future::LocalBoxFuture};
use ruma::events::room::member::MembershipState;
use vestibule_protocol::stream::StreamPosition;

use super::{Failure, MemoryStorage};
use crate::{
    commit::{Commit, CommitError, CommitListener, CommitSink, NoSlot, NobodyListens, Stores, Ticket},
    conformance::{
        Engine, Heard, Reopening,
        fixture::{RoomFixture, local, sent_to},
    },
    error::StorageError,
    room::{Progress, RoomCommit, RoomReader},
    stream::StreamReader,
};

crate::conformance!(MemoryEngine { storage: MemoryStorage::new() });

/// The model can even be closed and opened again: its content moves to a new store.
struct MemoryEngine {
    storage: MemoryStorage,
}

impl Engine for MemoryEngine {
    fn open(&mut self, listener: Arc<dyn CommitListener>) -> LocalBoxFuture<'_, Stores> {
        self.storage = self.storage.restart(listener);
        futures_util::future::ready(self.storage.stores()).boxed_local()
    }

    fn close(&mut self) -> LocalBoxFuture<'_, Reopening> {
        futures_util::future::ready(Reopening::Possible).boxed_local()
    }
}

fn enqueue(storage: &MemoryStorage, commit: RoomCommit) -> Ticket {
    storage.enqueue(storage.reserve().unwrap(), Commit::Room(Box::new(commit)))
}

/// What a ticket answers at once; `None`: not yet.
fn answer(ticket: &mut Ticket) -> Option<Result<StreamPosition, CommitError>> {
    ticket.now_or_never()
}

fn now<T>(read: crate::Read<'_, T>) -> T {
    read.now_or_never().unwrap().unwrap()
}

fn message(fixture: &mut RoomFixture) -> RoomCommit {
    fixture.message(&local("creator"), "hello")
}

fn room(storage: &MemoryStorage, label: &str) -> RoomFixture {
    let (fixture, commit) = RoomFixture::create(label);
    assert!(answer(&mut enqueue(storage, commit)).unwrap().is_ok());
    fixture
}

fn messages_shown(storage: &MemoryStorage, fixture: &RoomFixture) -> usize {
    now(storage.timeline(fixture.room_id(), None, crate::room::Direction::Forward, usize::MAX)).len() - 4
}

#[test]
fn held_commits_wait_and_are_released_one_by_one() {
    let storage = MemoryStorage::new();
    let mut fixture = room(&storage, "a");
    storage.hold();
    let mut tickets: Vec<_> = (0..4).map(|_| enqueue(&storage, message(&mut fixture))).collect();
    assert_eq!(storage.waiting(), 4);
    assert!(tickets.iter_mut().all(|ticket| answer(ticket).is_none()));
    assert_eq!(storage.position(), StreamPosition(1));
    storage.release(2);
    assert_eq!(messages_shown(&storage, &fixture), 2);
    assert_eq!(answer(&mut tickets[1]), Some(Ok(StreamPosition(3))));
    assert_eq!(answer(&mut tickets[2]), None);
    storage.release_all();
    assert_eq!(answer(&mut tickets[3]), Some(Ok(StreamPosition(5))));
    assert_eq!(answer(&mut enqueue(&storage, message(&mut fixture))), Some(Ok(StreamPosition(6))));
}

#[test]
fn release_reaches_commits_that_come_later() {
    let storage = MemoryStorage::new();
    let mut fixture = room(&storage, "a");
    storage.hold();
    storage.release(1);
    assert!(answer(&mut enqueue(&storage, message(&mut fixture))).is_some());
    assert!(answer(&mut enqueue(&storage, message(&mut fixture))).is_none());
}

#[test]
fn commit_seven_of_twenty_fails_and_none_after_it_is_made() {
    let storage = MemoryStorage::new();
    let mut fixture = room(&storage, "a");
    let other_room = room(&storage, "b");
    storage.hold();
    storage.fail_only(7, Failure::NotWritten);
    let mut tickets: Vec<_> = (0..20).map(|_| enqueue(&storage, message(&mut fixture))).collect();
    let mut elsewhere = enqueue(&storage, message(&mut other_room.clone()));
    storage.release_all();
    for (number, ticket) in tickets.iter_mut().enumerate() {
        let answer = answer(ticket).unwrap();
        match number {
            0..6 => assert!(answer.is_ok()),
            6 => assert!(matches!(answer, Err(CommitError::Storage(StorageError::NotWritten { .. })))),
            _ => assert_eq!(answer, Err(CommitError::PredecessorMissing)),
        }
    }
    assert!(answer(&mut elsewhere).unwrap().is_ok());
    assert_eq!(messages_shown(&storage, &fixture), 6);
    let restarted = storage.restart(Arc::new(NobodyListens));
    assert_eq!(messages_shown(&restarted, &fixture), 6);
}

#[test]
fn faults_last_until_they_are_mended() {
    let storage = MemoryStorage::new();
    let mut first = room(&storage, "a");
    let mut second = room(&storage, "b");
    storage.fail_from(2, Failure::DiskFull);
    assert!(answer(&mut enqueue(&storage, message(&mut first))).unwrap().is_ok());
    for commit in [message(&mut first.clone()), message(&mut second.clone())] {
        let full = Err(CommitError::Storage(StorageError::DiskFull));
        assert_eq!(answer(&mut enqueue(&storage, commit)), Some(full));
    }
    storage.mend();
    for commit in [message(&mut first), message(&mut second)] {
        assert!(answer(&mut enqueue(&storage, commit)).unwrap().is_ok());
    }
}

#[test]
fn unknown_outcome_is_kept_or_lost_as_told_and_ends_the_life() {
    for (failure, shown) in [(Failure::UnknownAndLost, 0), (Failure::UnknownButKept, 1)] {
        let heard = Arc::new(Heard::default());
        let storage = MemoryStorage::with_listener(heard.clone());
        let mut fixture = room(&storage, "a");
        storage.fail_only(1, failure);
        let outcome = answer(&mut enqueue(&storage, message(&mut fixture))).unwrap();
        assert!(matches!(outcome, Err(CommitError::Storage(StorageError::OutcomeUnknown { .. }))));
        assert_eq!(messages_shown(&storage, &fixture), shown, "{failure:?}");
        assert_eq!(heard.all().len(), 1 + shown);
        assert_eq!(storage.position(), heard.all().last().unwrap().position);
        let after = answer(&mut enqueue(&storage, message(&mut fixture))).unwrap();
        assert_eq!(after, Err(CommitError::PredecessorMissing));
    }
}

#[test]
fn tickets_of_a_store_that_is_gone_answer_outcome_unknown() {
    let storage = MemoryStorage::new();
    let mut fixture = room(&storage, "a");
    storage.hold();
    let mut ticket = enqueue(&storage, message(&mut fixture));
    let restarted = storage.restart(Arc::new(NobodyListens));
    drop(storage);
    let outcome = answer(&mut ticket).unwrap();
    assert!(matches!(outcome, Err(CommitError::Storage(StorageError::OutcomeUnknown { .. }))));
    assert_eq!(messages_shown(&restarted, &fixture), 0);
}

#[test]
fn slots_run_out_and_writes_can_be_refused() {
    let storage = MemoryStorage::with_slots(2, Arc::new(NobodyListens));
    let mut fixture = room(&storage, "a");
    storage.hold();
    let waiting = enqueue(&storage, message(&mut fixture));
    let unused = storage.reserve().unwrap();
    assert_eq!(storage.reserve().err(), Some(NoSlot::Busy));
    drop(waiting);
    assert_eq!(storage.reserve().err(), Some(NoSlot::Busy), "a dropped ticket frees no slot");
    drop(unused);
    storage.release_all();
    storage.refuse_writes();
    assert_eq!(storage.reserve().err(), Some(NoSlot::Refused));
    storage.mend();
    assert!(storage.reserve().is_ok());
}

#[test]
fn reads_fail_as_often_as_told() {
    let storage = MemoryStorage::new();
    let fixture = room(&storage, "a");
    storage.fail_reads(1);
    let failed = storage.snapshot(fixture.room_id()).now_or_never().unwrap();
    assert!(matches!(failed, Err(StorageError::Unavailable { .. })));
    assert!(now(storage.snapshot(fixture.room_id())).is_some());
}

#[test]
fn commit_that_does_not_fit_together_is_refused_whole() {
    let storage = MemoryStorage::new();
    let fixture = room(&storage, "a");
    let other = room(&storage, "b");
    let whole = message(&mut fixture.clone());
    let mut wrong = vec![whole.clone(); 6];
    wrong[0].events = message(&mut other.clone()).events;
    wrong[1].extremities_added[0].event_id = "$unknown".try_into().unwrap();
    wrong[2].room_version = ruma::RoomVersionId::V7;
    wrong[3].current = fixture.clone().knock(&local("bob"), "hello").current;
    wrong[4] = sent_to(wrong[4].clone(), &["there.example"]);
    wrong[4].outbox[0].event_id = "$unknown".try_into().unwrap();
    let invite = fixture.clone().out_of_band(&local("bob"), MembershipState::Invite, Progress::Settled);
    wrong[5].out_of_band = invite.out_of_band;
    wrong[5].out_of_band[0].1.as_mut().unwrap().event = message(&mut other.clone()).events[0].event.clone();
    for commit in wrong {
        let outcome = answer(&mut enqueue(&storage, commit)).unwrap();
        assert!(matches!(outcome, Err(CommitError::Storage(StorageError::NotWritten { .. }))), "{outcome:?}");
        assert_eq!(messages_shown(&storage, &fixture), 0);
    }
    assert!(answer(&mut enqueue(&storage, whole)).unwrap().is_ok());
}

#[test]
fn listener_may_read_and_enqueue() {
    struct Echo {
        storage: std::sync::OnceLock<MemoryStorage>,
    }
    impl CommitListener for Echo {
        fn committed(&self, announcement: &crate::commit::Announcement) {
            let storage = self.storage.get().unwrap();
            assert_eq!(storage.position(), announcement.position);
            if announcement.room_id.is_some() {
                let _ticket = storage.enqueue(storage.reserve().unwrap(), Commit::Accounts(Vec::new()));
            }
        }
    }
    let echo = Arc::new(Echo { storage: std::sync::OnceLock::new() });
    let storage = MemoryStorage::with_listener(echo.clone());
    assert!(echo.storage.set(storage.clone()).is_ok());
    room(&storage, "a");
    assert_eq!(storage.position(), StreamPosition(2));
}

#[test]
fn every_fact_of_the_suite_is_in_its_list() {
    let list = include_str!("../conformance.rs");
    let files = [
        include_str!("../conformance/accounts.rs"),
        include_str!("../conformance/commits.rs"),
        include_str!("../conformance/durability.rs"),
        include_str!("../conformance/events.rs"),
        include_str!("../conformance/knocks.rs"),
        include_str!("../conformance/memberships.rs"),
        include_str!("../conformance/states.rs"),
    ];
    let listed = |fact: &str| list.lines().any(|line| line.trim() == fact);
    let facts = files.iter().flat_map(|file| file.lines()).filter_map(|line| line.strip_prefix("pub async fn "));
    let facts: Vec<&str> = facts.filter_map(|line| line.split('(').next()).collect();
    assert!(facts.len() > 80);
    let missing: Vec<_> = facts.into_iter().filter(|fact| !listed(fact)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
