//! What readers see: the look-up store as of one moment, without holding the writer up.
//! May not: let a reader combine rows from before and after a commit.
//!
//! sled has no snapshots over several keys. So the writer marks what a group of commits touches as changing, applies it, and marks it as
//! changed; a reader that finds a mark moved reads again. Only a reader that was disturbed several times makes the writer wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ruma::{RoomId, ServerName, UserId};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::Read;
use vestibule_storage::error::StorageError;

use crate::index::{Index, IndexError};
use crate::writer::Order;

/// Marks of rooms, users and servers; those that share one disturb each other's reads, nothing more.
const MARKS: usize = 256;
/// The mark that every commit moves.
const EVERYTHING: usize = MARKS;
/// A mark that no commit moves.
const SINGLE: usize = MARKS + 1;
/// Readings before a reader makes the writer wait. Ours: a room is rarely written three times during one reading.
const UNDISTURBED_ATTEMPTS: usize = 3;

/// What a reading depends on, or a commit touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject(usize);

impl Subject {
    /// All that is stored.
    pub(crate) const EVERYTHING: Self = Self(EVERYTHING);

    /// Keys that need not be of the same moment.
    pub(crate) const SINGLE: Self = Self(SINGLE);

    pub(crate) fn room(room_id: &RoomId) -> Self {
        Self::named(room_id.as_str())
    }

    pub(crate) fn user(user_id: &UserId) -> Self {
        Self::named(user_id.as_str())
    }

    pub(crate) fn server(server: &ServerName) -> Self {
        Self::named(server.as_str())
    }

    fn named(name: &str) -> Self {
        let hash = usize::try_from(crc32fast::hash(name.as_bytes())).unwrap_or(0);
        Self(hash % MARKS)
    }
}

/// What the writer and all readers share.
#[derive(Debug)]
pub(crate) struct Views {
    /// `None` while the store is being opened again, and after the end.
    index: RwLock<Option<Arc<Index>>>,
    /// Odd: a commit is being applied.
    marks: Vec<AtomicU64>,
    /// Held for writing while commits are applied.
    gate: RwLock<()>,
    published: AtomicU64,
    /// Hears of readings that failed.
    writer: OnceLock<Sender<Order>>,
    is_failure_told: AtomicBool,
}

impl Views {
    pub(crate) fn new(index: Index, published: StreamPosition) -> Self {
        Self {
            index: RwLock::new(Some(Arc::new(index))),
            marks: (0..=SINGLE).map(|_| AtomicU64::new(0)).collect(),
            gate: RwLock::new(()),
            published: AtomicU64::new(published.0),
            writer: OnceLock::new(),
            is_failure_told: AtomicBool::new(false),
        }
    }

    /// Readings that fail are told from now on, one until [`Self::failure_heard`].
    pub(crate) fn tell_failures(&self, writer: Sender<Order>) {
        // Set once, by whoever starts the writer.
        let _ = self.writer.set(writer);
    }

    pub(crate) fn failure_heard(&self) {
        self.is_failure_told.store(false, Ordering::SeqCst);
    }

    /// The store, if it is open.
    pub(crate) fn index(&self) -> Option<Arc<Index>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the store away from new readers.
    pub(crate) fn take(&self) -> Option<Arc<Index>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives readers a store again.
    pub(crate) fn give(&self, index: Index) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(index));
    }

    /// The newest position whose change, and all before it, can be read.
    pub(crate) fn published(&self) -> StreamPosition {
        StreamPosition(self.published.load(Ordering::Acquire))
    }

    pub(crate) fn publish(&self, position: StreamPosition) {
        self.published.store(position.0, Ordering::Release);
    }

    /// Applies commits that touch `subjects`. One thread calls this.
    pub(crate) fn change(&self, subjects: &[Subject], apply: impl FnOnce(&Index)) -> Result<(), IndexError> {
        let index = self.index().ok_or_else(|| IndexError::new("not open"))?;
        let _no_reader_inside = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched: Vec<usize> = subjects.iter().map(|subject| subject.0).chain([EVERYTHING]).collect();
        touched.sort_unstable();
        touched.dedup();
        let marks: Vec<&AtomicU64> = touched.iter().filter_map(|mark| self.marks.get(*mark)).collect();
        let step = || {
            for mark in &marks {
                mark.fetch_add(1, Ordering::SeqCst);
            }
        };
        step();
        apply(&index);
        step();
        Ok(())
    }

    /// Reads, with everything that belongs to `subject` as of one moment.
    pub(crate) fn read<T>(
        &self,
        subject: Subject,
        read: impl Fn(&Index) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let closed = || StorageError::Unavailable { reason: "the look-up store is not open".to_owned() };
        let index = self.index().ok_or_else(closed)?;
        for _ in 0..UNDISTURBED_ATTEMPTS {
            let Some(before) = self.settled(subject) else { break };
            let outcome = read(&index);
            if self.mark(subject) == before {
                return self.telling(outcome);
            }
        }
        let _no_writer_inside = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.telling(read(&index))
    }

    fn telling<T>(&self, outcome: Result<T, StorageError>) -> Result<T, StorageError> {
        if matches!(outcome, Err(StorageError::Unavailable { .. }))
            && let Some(writer) = self.writer.get()
            && !self.is_failure_told.swap(true, Ordering::SeqCst)
        {
            // A writer that has ended opens nothing again.
            let _ = writer.send(Order::ReadingFailed);
        }
        outcome
    }

    fn mark(&self, subject: Subject) -> u64 {
        self.marks.get(subject.0).map_or(0, |mark| mark.load(Ordering::SeqCst))
    }

    /// The mark while nothing is being applied to the subject.
    fn settled(&self, subject: Subject) -> Option<u64> {
        let mark = self.mark(subject);
        if mark.is_multiple_of(2) {
            return Some(mark);
        }
        drop(self.gate.read().unwrap_or_else(PoisonError::into_inner));
        Some(self.mark(subject)).filter(|mark| mark.is_multiple_of(2))
    }
}

/// A reading of a few keys: made where it is asked for.
pub(crate) fn point<'a, T: Send + 'a>(
    views: &'a Views,
    subject: Subject,
    read: impl Fn(&Index) -> Result<T, StorageError> + Send + 'a,
) -> Read<'a, T> {
    Box::pin(async move { views.read(subject, read) })
}

/// A reading of many keys: made on a thread that may take its time, if there is a runtime that has such threads.
pub(crate) fn scan<'a, T: Send + 'static>(
    views: &Arc<Views>,
    subject: Subject,
    read: impl Fn(&Index) -> Result<T, StorageError> + Send + 'static,
) -> Read<'a, T> {
    let views = Arc::clone(views);
    Box::pin(async move {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return views.read(subject, read);
        };
        let reading = runtime.spawn_blocking(move || views.read(subject, read)).await;
        reading.unwrap_or_else(|_| Err(StorageError::Unavailable { reason: "the reading was interrupted".to_owned() }))
    })
}
