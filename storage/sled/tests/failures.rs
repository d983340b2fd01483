//! What happens when the look-up store fails after the journal is durable.
//! May not: reach the disk's own faults; those are the journal's.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};

use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::commit::{Announcement, Commit, CommitListener};
use vestibule_storage::conformance::block_on;
use vestibule_storage::error::StorageError;

use super::place::{Place, assert_whole, enqueue, talk};
use crate::index::{Index, IndexError};
use crate::views::{Subject, Views};
use crate::writer::Order;
use crate::{IndexReport, OpenError, Options, SledStorage};

/// Stops the writer at one commit until it is let go, and takes the look-up store away at another.
struct Saboteur {
    views: OnceLock<Arc<Views>>,
    stop_at: u64,
    go_on: Mutex<Receiver<()>>,
    take_at: u64,
    heard: Mutex<Vec<u64>>,
}

impl CommitListener for Saboteur {
    fn committed(&self, announcement: &Announcement) {
        let position = announcement.position.0;
        self.heard.lock().unwrap().push(position);
        if position == self.stop_at {
            self.go_on.lock().unwrap().recv().unwrap();
        }
        if position == self.take_at {
            // As if sled had failed under those of the batch that were not heard yet.
            drop(self.views.get().unwrap().take());
        }
    }
}

#[test]
fn commits_are_made_though_the_look_up_store_fails_under_them() {
    let place = Place::new();
    let (go_on, waits) = channel();
    let saboteur = Arc::new(Saboteur {
        views: OnceLock::new(),
        stop_at: 4,
        go_on: Mutex::new(waits),
        take_at: 5,
        heard: Mutex::new(Vec::new()),
    });
    let listener: Arc<dyn CommitListener> = saboteur.clone();
    let opened = SledStorage::open(Options { listener, ..place.options() }).unwrap();
    saboteur.views.set(Arc::clone(&opened.handle.views)).unwrap();
    let mut room = talk(&opened.stores, "sabotaged", 2);
    let creator = room.creator().to_owned();

    let body = "x".repeat(50_000);
    let mut send = || {
        let message = room.message(&creator, &body);
        enqueue(&opened.stores, Commit::Room(Box::new(message)))
    };
    // The first stops the writer; the others wait together.
    let mut tickets = vec![send()];
    tickets.extend((0..12).map(|_| send()));
    go_on.send(()).unwrap();
    for (ticket, position) in tickets.into_iter().zip(4..) {
        assert_eq!(block_on(ticket).unwrap().0, position);
    }
    // The writer attends to this after it has opened the store again.
    assert!(opened.handle.verify().unwrap().is_sound());
    assert_whole(&opened.stores, &room);
    assert_eq!(*saboteur.heard.lock().unwrap(), (1..=16).collect::<Vec<_>>());
}

#[test]
fn store_that_cannot_be_opened_for_now_is_left_as_it_is() {
    let place = Place::new();
    let opened = place.open();
    let room = talk(&opened.stores, "held", 3);
    opened.handle.close().unwrap();
    let held = Index::open(&place.data_dir().join("sled"), 1024 * 1024).unwrap();
    assert!(matches!(SledStorage::open(place.options()), Err(OpenError::Index { .. })));
    held.close().unwrap();
    let again = place.open();
    assert_eq!(again.report.index, IndexReport::Kept { replayed: 0 });
    assert_whole(&again.stores, &room);
}

#[test]
fn full_disk_says_nothing_against_a_store() {
    let of = |kind: io::ErrorKind| IndexError::from(sled::Error::Io(kind.into()));
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
        assert!(of(kind).is_for_now, "{kind}");
    }
    assert!(!of(io::ErrorKind::UnexpectedEof).is_for_now);
    assert!(!IndexError::from(sled::Error::Corruption { at: None, bt: () }).is_for_now);
}

#[test]
fn reading_that_fails_is_told_once_until_it_was_heard() {
    let place = Place::new();
    let views = Views::new(Index::open(&place.data_dir(), 1024 * 1024).unwrap(), StreamPosition::START);
    let (sender, orders) = channel();
    views.tell_failures(sender);
    let read = |error: StorageError| _ = views.read(Subject::SINGLE, move |_| Err::<(), _>(error.clone()));
    let unavailable = || StorageError::Unavailable { reason: "a test wants it so".to_owned() };
    let told = || orders.try_iter().filter(|order| matches!(order, Order::ReadingFailed)).count();
    read(StorageError::Corrupt { what: "a row".to_owned() });
    assert_eq!(told(), 0);
    read(unavailable());
    read(unavailable());
    assert_eq!(told(), 1);
    views.failure_heard();
    read(unavailable());
    assert_eq!(told(), 1);
}

/// Hears one commit and falls over.
struct Stumbling;

impl CommitListener for Stumbling {
    fn committed(&self, announcement: &Announcement) {
        assert_ne!(announcement.position.0, 2, "a listener of a test falls over");
    }
}

#[test]
fn listener_that_panics_ends_nothing() {
    let place = Place::new();
    let opened = SledStorage::open(Options { listener: Arc::new(Stumbling), ..place.options() }).unwrap();
    let room = talk(&opened.stores, "stumbling", 4);
    assert_whole(&opened.stores, &room);
    opened.handle.close().unwrap();
}
