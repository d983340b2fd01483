//! What was acknowledged is there after a crash, whatever became of the look-up store.
//! May not: close an engine before it is copied.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ruma::{RoomVersionId, events::room::member::MembershipState};
use vestibule_storage::commit::{Commit, CommitError, Synced};
use vestibule_storage::conformance::block_on;
use vestibule_storage::conformance::fixture::{RoomFixture, local, sent_to};
use vestibule_storage::conformance::survey::{Questions, survey};
use vestibule_storage::error::StorageError;
use vestibule_storage::outbox::{OutboxDone, OutboxPlace};
use vestibule_storage::room::Progress;

use super::place::{Place, assert_whole, commit, copy_dir, enqueue, talk};
use crate::journal::faults::{Draw, Fault, FaultyFiles, Operation};
use crate::{IndexReport, OpenError, Options, SledStorage};

/// The files below a directory, sorted.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = usize::try_from(at).unwrap() % bytes.len();
    bytes[at] ^= 0x55;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn everything_acknowledged_is_there_after_a_kill() {
    let place = Place::new();
    let opened = place.open();
    for round in 0..5 {
        let room = talk(&opened.stores, &format!("killed{round}"), 20);
        let copy = place.dir.path().join(format!("copy{round}"));
        copy_dir(&place.data_dir(), &copy);
        let again = SledStorage::open(place.options_at(&copy)).unwrap();
        assert_whole(&again.stores, &room);
        assert_eq!(again.report.position, opened.stores.stream.position());
        assert_eq!(again.stores.stream.position(), opened.stores.stream.position());
        again.handle.close().unwrap();
    }
}

#[test]
fn what_others_must_hear_is_there_after_a_kill_and_from_a_checkpoint() {
    let place = Place::new();
    let opened = place.open();
    let (mut here, first) = RoomFixture::create("here");
    commit(&opened.stores, first).unwrap();
    let mut elsewhere = RoomFixture::elsewhere(&RoomVersionId::V12, "elsewhere");
    let (bob, carol) = (local("bob"), local("carol"));
    for round in 0..5 {
        let sent = sent_to(here.message(&local("creator"), &round.to_string()), &["a.example", "b.example"]);
        let position = commit(&opened.stores, sent).unwrap();
        let progress = if round % 2 == 0 { Progress::Asking } else { Progress::Settled };
        commit(&opened.stores, elsewhere.out_of_band(&bob, MembershipState::Knock, progress)).unwrap();
        let places = vec![OutboxPlace { position, index: 0 }];
        let done = OutboxDone { destination: "a.example".try_into().unwrap(), places };
        block_on(enqueue(&opened.stores, Commit::OutboxDone(done))).unwrap();
    }
    commit(&opened.stores, elsewhere.out_of_band(&carol, MembershipState::Invite, Progress::Settled)).unwrap();
    commit(&opened.stores, elsewhere.leave_out_of_band(&bob)).unwrap();
    commit(&opened.stores, elsewhere.begin_join(&carol)).unwrap();
    commit(&opened.stores, elsewhere.begin_join(&bob)).unwrap();
    commit(&opened.stores, elsewhere.end_join(&bob)).unwrap();
    let questions = Questions::of_rooms([&here, &elsewhere]);
    let expected = block_on(survey(&opened.stores, &questions));

    let copy = place.dir.path().join("copy");
    copy_dir(&place.data_dir(), &copy);
    let again = SledStorage::open(place.options_at(&copy)).unwrap();
    assert_eq!(block_on(survey(&again.stores, &questions)), expected, "after a kill");
    again.handle.checkpoint().unwrap();
    assert!(again.handle.verify().unwrap().is_sound());
    again.handle.close().unwrap();
    std::fs::remove_dir_all(copy.join("sled")).unwrap();
    let again = SledStorage::open(place.options_at(&copy)).unwrap();
    assert!(matches!(again.report.index, IndexReport::Rebuilt { replayed: 0, .. }), "{:?}", again.report);
    assert_eq!(block_on(survey(&again.stores, &questions)), expected, "from the checkpoint");
}

#[test]
fn lost_look_up_store_is_built_anew() {
    let place = Place::new();
    let opened = place.open();
    let room = talk(&opened.stores, "lost", 30);
    opened.handle.close().unwrap();
    std::fs::remove_dir_all(place.data_dir().join("sled")).unwrap();
    let again = place.open();
    assert_eq!(again.report.index, IndexReport::Rebuilt { why: "missing".to_owned(), entries: 0, replayed: 31 });
    assert_whole(&again.stores, &room);
    assert!(again.handle.verify().unwrap().is_sound());
}

#[test]
fn damaged_look_up_store_loses_nothing() {
    let place = Place::new();
    let opened = place.open();
    let room = talk(&opened.stores, "damaged", 40);
    opened.handle.close().unwrap();
    let mut draw = Draw(7);
    for round in 0..8 {
        let copy = place.dir.path().join(format!("copy{round}"));
        copy_dir(&place.data_dir(), &copy);
        for file in files_below(&copy.join("sled")) {
            if std::fs::metadata(&file).unwrap().len() > 0 {
                flip(&file, draw.bits());
            }
        }
        let again = SledStorage::open(place.options_at(&copy)).unwrap();
        // Damage where sled does not look while opening is found by comparing, and a rebuild heals it.
        let report = again.handle.verify();
        let is_sound = report.is_ok_and(|report| report.is_sound());
        again.handle.close().unwrap();
        if is_sound {
            let again = SledStorage::open(place.options_at(&copy)).unwrap();
            assert_whole(&again.stores, &room);
        } else {
            let report = SledStorage::rebuild(place.options_at(&copy)).unwrap();
            assert!(matches!(report.index, IndexReport::Rebuilt { .. }));
            let again = SledStorage::open(place.options_at(&copy)).unwrap();
            assert_whole(&again.stores, &room);
        }
    }
}

#[test]
fn look_up_store_ahead_of_the_journal_is_built_anew() {
    let place = Place::new();
    let opened = place.open();
    let early = talk(&opened.stores, "early", 3);
    let copy = place.dir.path().join("copy");
    copy_dir(&place.data_dir().join("journal"), &copy);
    let late = talk(&opened.stores, "late", 3);
    opened.handle.close().unwrap();
    std::fs::remove_dir_all(place.data_dir().join("journal")).unwrap();
    copy_dir(&copy, &place.data_dir().join("journal"));
    let again = place.open();
    assert!(matches!(again.report.index, IndexReport::Rebuilt { .. }));
    assert_whole(&again.stores, &early);
    assert_eq!(block_on(again.stores.rooms.room(late.room_id())), Ok(None));
}

#[test]
fn data_without_a_journal_are_refused() {
    let place = Place::new();
    let opened = place.open();
    talk(&opened.stores, "bare", 3);
    opened.handle.close().unwrap();
    std::fs::remove_dir_all(place.data_dir().join("journal")).unwrap();
    assert!(matches!(SledStorage::open(place.options()), Err(OpenError::Damaged { .. })));
}

#[test]
fn damage_inside_the_journal_is_refused() {
    let place = Place::new();
    let opened = place.open();
    talk(&opened.stores, "journal", 30);
    opened.handle.close().unwrap();
    let mut draw = Draw(11);
    for round in 0..8 {
        let copy = place.dir.path().join(format!("copy{round}"));
        copy_dir(&place.data_dir(), &copy);
        let largest =
            files_below(&copy.join("journal")).into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len());
        flip(&largest.unwrap(), draw.bits());
        match SledStorage::open(place.options_at(&copy)) {
            Err(OpenError::Damaged { .. } | OpenError::NewerFormat { .. }) => {}
            Err(error) => panic!("{error:?}"),
            Ok(opened) => panic!("damage was not seen: {:?}", opened.report),
        }
    }
}

#[test]
fn failed_commit_in_a_pipeline_never_appears_later() {
    let files = FaultyFiles::new();
    let place = Place::on(Arc::new(files.clone()));
    let opened = place.open();
    let (mut room, first) = RoomFixture::create("pipeline");
    let creator = room.creator().to_owned();
    commit(&opened.stores, first).unwrap();
    for number in 2..=6 {
        let message = room.message(&creator, &format!("message {number}"));
        commit(&opened.stores, message).unwrap();
    }
    let reached = room.clone();

    files.fail_next(Operation::SyncData, Fault::Io);
    let slots: Vec<_> = (7..=20).map(|_| opened.stores.writer.reserve().unwrap()).collect();
    let tickets: Vec<_> = slots
        .into_iter()
        .map(|slot| {
            let message = room.message(&creator, "never");
            opened.stores.writer.enqueue(slot, Commit::Room(Box::new(message)))
        })
        .collect();
    for ticket in tickets {
        let outcome = block_on(ticket);
        let is_certain = matches!(
            outcome,
            Err(CommitError::PredecessorMissing | CommitError::Storage(StorageError::NotWritten { .. }))
        );
        assert!(is_certain, "{outcome:?}");
    }
    assert_whole(&opened.stores, &reached);

    let mut next = reached.clone();
    next.next_life();
    let message = next.message(&creator, "the 21st");
    let position = commit(&opened.stores, message).unwrap();
    assert_eq!(position.0, 7);
    let images: Vec<FaultyFiles> = (0..16).map(|seed| files.crash(seed)).collect();
    let index = place.dir.path().join("index");
    copy_dir(&place.data_dir().join("sled"), &index);
    drop(opened);
    let never: Vec<_> = room.events().keys().filter(|id| !next.events().contains_key(*id)).cloned().collect();
    for (number, image) in images.into_iter().enumerate() {
        std::fs::remove_dir_all(place.data_dir().join("sled")).unwrap();
        // With the look-up store and without it.
        if number % 2 == 0 {
            copy_dir(&index, &place.data_dir().join("sled"));
        }
        let opened = SledStorage::open(Options { files: Arc::new(image), ..place.options() }).unwrap();
        assert_eq!(opened.stores.stream.position(), position);
        assert_whole(&opened.stores, &next);
        let stored = block_on(opened.stores.rooms.events(room.room_id(), &never)).unwrap();
        assert!(stored.iter().all(Option::is_none));
    }
}

#[test]
fn writes_are_refused_until_the_journal_has_recovered() {
    let files = FaultyFiles::new();
    let place = Place::on(Arc::new(files.clone()));
    let opened = place.open();
    let mut room = talk(&opened.stores, "refused", 2);
    let reached = room.clone();
    let creator = room.creator().to_owned();

    files.fail_changes(Some(Fault::Io));
    let slot = opened.stores.writer.reserve().unwrap();
    let message = room.message(&creator, "lost");
    let outcome = block_on(opened.stores.writer.enqueue(slot, Commit::Room(Box::new(message))));
    assert!(matches!(outcome, Err(CommitError::Storage(StorageError::OutcomeUnknown { .. }))), "{outcome:?}");
    assert!(opened.stores.writer.reserve().is_err());
    assert_whole(&opened.stores, &reached);

    files.fail_changes(None);
    let slot = loop {
        match opened.stores.writer.reserve() {
            Ok(slot) => break slot,
            Err(_) => std::thread::yield_now(),
        }
    };
    let mut next = reached;
    next.next_life();
    let message = next.message(&creator, "again");
    block_on(opened.stores.writer.enqueue(slot, Commit::Room(Box::new(message)))).unwrap();
    assert_whole(&opened.stores, &next);
}

#[test]
fn what_was_enqueued_is_made_before_the_end() {
    let place = Place::new();
    let opened = place.open();
    let (mut room, first) = RoomFixture::create("end");
    let creator = room.creator().to_owned();
    let mut tickets = vec![enqueue(&opened.stores, Commit::Room(Box::new(first)))];
    for _ in 0..50 {
        let message = room.message(&creator, "in a hurry");
        tickets.push(enqueue(&opened.stores, Commit::Room(Box::new(message))));
    }
    let late = opened.stores.writer.reserve().unwrap();
    opened.handle.close().unwrap();
    for ticket in tickets {
        block_on(ticket).unwrap();
    }
    let Synced { syncs, commits } = opened.stores.writer.synced();
    assert_eq!(commits, 51);
    assert!((1..=51).contains(&syncs), "{syncs} syncs");
    assert!(opened.stores.writer.reserve().is_err());
    let message = room.clone().message(&creator, "too late");
    let outcome = block_on(opened.stores.writer.enqueue(late, Commit::Room(Box::new(message))));
    assert!(matches!(outcome, Err(CommitError::Storage(StorageError::NotWritten { .. }))));
    let read = block_on(opened.stores.rooms.room(room.room_id()));
    assert!(matches!(read, Err(StorageError::Unavailable { .. })));
    // The old handles do not keep the directory.
    let again = place.open();
    assert_whole(&again.stores, &room);
}
