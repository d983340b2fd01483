//! Which data directories are opened, and which are refused.
//! May not: open one directory twice at a time, but to see it refused.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ruma::server_name;
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::accounts::{AccountChange, User};
use vestibule_storage::commit::{Commit, CommitError, NoSlot};
use vestibule_storage::conformance::block_on;
use vestibule_storage::conformance::fixture::local;
use vestibule_storage::error::StorageError;

use super::place::{Place, assert_whole, enqueue, talk};
use crate::fields::StoredForm;
use crate::index::Index;
use crate::keys::{Key, Table};
use crate::record::Changes;
use crate::values::EventValue;
use crate::{FreeSpace, IndexReport, OpenError, Options, SledStorage, Space};

#[test]
fn new_directory_is_made() {
    let place = Place::new();
    let opened = place.open();
    assert!(opened.report.is_new);
    assert_eq!(opened.report.position.0, 0);
    opened.handle.close().unwrap();
    let again = place.open();
    assert!(!again.report.is_new);
    assert_eq!(again.report.index, IndexReport::Kept { replayed: 0 });
}

#[test]
fn second_process_is_refused() {
    let place = Place::new();
    let opened = place.open();
    assert!(matches!(SledStorage::open(place.options()), Err(OpenError::Locked { .. })));
    opened.handle.close().unwrap();
    place.open();
}

#[test]
fn data_of_another_server_are_refused() {
    let place = Place::new();
    drop(place.open());
    let options = Options { server_name: server_name!("there.example").to_owned(), ..place.options() };
    assert!(matches!(SledStorage::open(options), Err(OpenError::OtherServer { .. })));
    place.open();
}

#[test]
fn newer_format_is_refused() {
    let place = Place::new();
    drop(place.open());
    let path = place.data_dir().join("format.json");
    std::fs::write(&path, r#"{"format":2,"server_name":"here.example"}"#).unwrap();
    let opened = SledStorage::open(place.options());
    assert!(matches!(opened, Err(OpenError::NewerFormat { found: 2, supported: 1 })));
}

#[test]
fn missing_or_unreadable_format_is_refused() {
    let place = Place::new();
    drop(place.open());
    let path = place.data_dir().join("format.json");
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(SledStorage::open(place.options()), Err(OpenError::Damaged { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(SledStorage::open(place.options()), Err(OpenError::Damaged { .. })));
}

#[test]
fn checkpoint_stands_in_for_old_segments() {
    let place = Place::new();
    let small = || Options { segment_bytes: 16 * 1024, checkpoint_journal_bytes: 64 * 1024, ..place.options() };
    let opened = SledStorage::open(small()).unwrap();
    let mut rooms = Vec::new();
    while rooms.len() < 12 {
        rooms.push(talk(&opened.stores, &format!("checkpoint{}", rooms.len()), 12));
    }
    let position = opened.handle.checkpoint().unwrap();
    rooms.push(talk(&opened.stores, "after", 3));
    // One that the journal's size had started may still have been under way; then that is the answer.
    let after_it = opened.stores.stream.position().0 - position.0;
    assert!(after_it >= 4);
    assert!(opened.handle.verify().unwrap().is_sound());
    opened.handle.close().unwrap();

    let segments = || {
        let files = std::fs::read_dir(place.data_dir().join("journal")).unwrap().map(|entry| entry.unwrap());
        files.map(|file| file.metadata().unwrap().len()).collect::<Vec<_>>()
    };
    assert!(segments().len() <= 4, "{:?}", segments());
    std::fs::remove_dir_all(place.data_dir().join("sled")).unwrap();
    let again = SledStorage::open(small()).unwrap();
    assert_eq!(again.report.checkpoint, Some(position));
    let IndexReport::Rebuilt { entries, replayed, .. } = again.report.index else { panic!("{:?}", again.report) };
    assert!(entries > 0);
    assert_eq!(replayed, after_it);
    for room in &rooms {
        assert_whole(&again.stores, room);
    }
    again.handle.close().unwrap();
    // Also when nothing was written since.
    let again = SledStorage::open(small()).unwrap();
    assert_eq!(again.report.index, IndexReport::Kept { replayed: 0 });
}

#[test]
fn changed_event_is_seen_at_the_start() {
    let place = Place::new();
    let opened = place.open();
    let room = talk(&opened.stores, "changed", 2);
    opened.handle.close().unwrap();

    let index = Index::open(&place.data_dir().join("sled"), 1024 * 1024).unwrap();
    let mark = index.mark("here.example").unwrap().unwrap();
    let (key, bytes) = index.under(&Key::of(Table::Event)).next().unwrap().unwrap();
    let mut value = EventValue::from_bytes(&bytes).unwrap();
    value.json = value.json.replace("here.example", "there.exampl").into();
    index.apply([&Changes::from([(key.to_vec(), Some(value.to_bytes()))])], mark).unwrap();
    index.flush().unwrap();
    drop(index);

    let again = place.open();
    assert!(matches!(again.report.index, IndexReport::Rebuilt { .. }), "{:?}", again.report);
    assert_whole(&again.stores, &room);
}

/// A disk that a test fills.
#[derive(Debug)]
struct Filling(AtomicU64);

impl FreeSpace for Filling {
    fn measure(&self) -> io::Result<Space> {
        Ok(Space { available_bytes: self.0.load(Ordering::SeqCst), total_bytes: 1 << 40 })
    }
}

#[test]
fn full_disk_refuses_writes_and_no_reads() {
    let place = Place::new();
    let disk = Arc::new(Filling(AtomicU64::new(1 << 39)));
    let options = Options { free_space: disk.clone(), min_free_bytes: 1 << 20, ..place.options() };
    let opened = SledStorage::open(options).unwrap();
    let create = |name: &str| {
        let user = User {
            user_id: local(name),
            password_hash: None,
            is_admin: false,
            is_deactivated: false,
            created_at: UnixMillis(1),
            profile: Default::default(),
        };
        Commit::Accounts(vec![AccountChange::CreateUser(user)])
    };
    block_on(enqueue(&opened.stores, create("before"))).unwrap();
    let slot = opened.stores.writer.reserve().unwrap();
    disk.0.store(1 << 10, Ordering::SeqCst);
    let outcome = block_on(opened.stores.writer.enqueue(slot, create("while")));
    assert_eq!(outcome, Err(CommitError::Storage(StorageError::DiskFull)));
    assert!(matches!(opened.stores.writer.reserve(), Err(NoSlot::Refused)));
    assert!(block_on(opened.stores.accounts.user(&local("before"))).unwrap().is_some());
    assert!(block_on(opened.stores.accounts.user(&local("while"))).unwrap().is_none());
    disk.0.store(1 << 39, Ordering::SeqCst);
    let position = block_on(enqueue(&opened.stores, create("after"))).unwrap();
    assert_eq!(position.0, 2);
}
