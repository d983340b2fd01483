//! The reference model: what every engine must answer, as plain ordered maps behind one lock.
//! May not: keep anything beyond its process, or be named outside tests.
//!
//! Commits are made at once, on the thread that enqueues them. A test may hold them ([`MemoryStorage::hold`],
//! [`MemoryStorage::release`]: a slow disk, step by step), let them fail ([`MemoryStorage::fail_from`]), let reads fail
//! ([`MemoryStorage::fail_reads`]), or start anew on what is kept ([`MemoryStorage::restart`]: a crash, without one).

mod accounts;
mod device_keys;
mod kept;
mod outbox;
mod receipts;
mod room;
mod room_reader;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use ruma::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use vestibule_protocol::stream::StreamPosition;

use crate::{
    Read,
    commit::{
        Announcement, Commit, CommitError, CommitListener, CommitSink, NoSlot, NobodyListens, Stores, Ticket,
        WriterSlot,
    },
    error::StorageError,
    server_keys::{ServerKeyStore, StoredServerKeys},
    stream::StreamReader,
};
use kept::{Kept, Lives};

/// Commits that may wait when a test does not say otherwise.
const SLOTS_DEFAULT: usize = 1024;

/// How a commit fails when a test wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// [`StorageError::NotWritten`].
    NotWritten,
    /// [`StorageError::DiskFull`], so not written either.
    DiskFull,
    /// [`StorageError::OutcomeUnknown`], and the commit is lost.
    UnknownAndLost,
    /// [`StorageError::OutcomeUnknown`], yet the commit is there: readable and announced.
    UnknownButKept,
}

/// The reference engine. Clones are handles to the same store.
#[derive(Clone)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
}

struct Shared {
    inside: Mutex<Inside>,
    slots: Arc<Semaphore>,
    listener: Arc<dyn CommitListener>,
}

struct Inside {
    kept: Kept,
    lives: Lives,
    queue: VecDeque<Waiting>,
    is_writing: bool,
    gate: Gate,
    faults: Option<Faults>,
    /// What the next reads answer instead, the last first.
    failing_reads: Vec<StorageError>,
    writes: Writes,
}

struct Waiting {
    commit: Commit,
    permit: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<StreamPosition, CommitError>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Held { let_through: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Taken,
    Refused,
}

struct Faults {
    failure: Failure,
    good_before: usize,
    /// How many fail after that. `None`: all.
    bad_left: Option<usize>,
}

impl MemoryStorage {
    /// An empty store that tells nobody.
    pub fn new() -> Self {
        Self::with_listener(Arc::new(NobodyListens))
    }

    /// An empty store that tells `listener` of each commit, in order, on the thread that made it.
    pub fn with_listener(listener: Arc<dyn CommitListener>) -> Self {
        Self::with_slots(SLOTS_DEFAULT, listener)
    }

    /// An empty store in which so many commits may wait.
    pub fn with_slots(slots: usize, listener: Arc<dyn CommitListener>) -> Self {
        Self::on(Kept::default(), slots, listener)
    }

    /// A new store on a copy of what is kept now: what a crash leaves. Commits that wait are not in it, holds and faults
    /// are gone, and incarnations start anew. The old store goes on undisturbed; drop it to end the tickets that wait.
    pub fn restart(&self, listener: Arc<dyn CommitListener>) -> Self {
        Self::on(self.inside().kept.clone(), SLOTS_DEFAULT, listener)
    }

    /// The handles to give out.
    pub fn stores(&self) -> Stores {
        Stores {
            rooms: Arc::new(self.clone()),
            accounts: Arc::new(self.clone()),
            device_keys: Arc::new(self.clone()),
            inboxes: Arc::new(self.clone()),
            server_keys: Arc::new(self.clone()),
            outbox: Arc::new(self.clone()),
            receipts: Arc::new(self.clone()),
            stream: Arc::new(self.clone()),
            writer: Arc::new(self.clone()),
        }
    }

    /// From now on commits wait until they are released.
    pub fn hold(&self) {
        self.inside().gate = Gate::Held { let_through: 0 };
    }

    /// Makes the next `count` commits of those held, also of those that are enqueued later. Nothing is held: nothing happens.
    pub fn release(&self, count: usize) {
        if let Gate::Held { let_through } = &mut self.inside().gate {
            *let_through = let_through.saturating_add(count);
        }
        self.write_what_may_be_written();
    }

    /// Makes all that is held, and ends the hold.
    pub fn release_all(&self) {
        self.inside().gate = Gate::Open;
        self.write_what_may_be_written();
    }

    /// How many commits are enqueued and not made.
    pub fn waiting(&self) -> usize {
        self.inside().queue.len()
    }

    /// The `nth` commit from now (1 is the next one) and all after it fail, until [`MemoryStorage::mend`].
    pub fn fail_from(&self, nth: usize, failure: Failure) {
        self.inside().faults = Some(Faults { failure, good_before: nth.saturating_sub(1), bad_left: None });
    }

    /// The `nth` commit from now (1 is the next one) fails, and no other, unless it follows from the failure.
    pub fn fail_only(&self, nth: usize, failure: Failure) {
        self.inside().faults = Some(Faults { failure, good_before: nth.saturating_sub(1), bad_left: Some(1) });
    }

    /// The next `count` reads answer [`StorageError::Unavailable`].
    pub fn fail_reads(&self, count: usize) {
        let unavailable = StorageError::Unavailable { reason: "a test wants it so".to_owned() };
        self.inside().failing_reads = vec![unavailable; count];
    }

    /// The next read answers [`StorageError::Corrupt`].
    pub fn damage_read(&self) {
        self.inside().failing_reads = vec![StorageError::Corrupt { what: "whatever a test wants".to_owned() }];
    }

    /// From now on no slot is given: [`NoSlot::Refused`].
    pub fn refuse_writes(&self) {
        self.inside().writes = Writes::Refused;
    }

    /// Ends all faults: commits, reads and reservations succeed again. What is held stays held.
    pub fn mend(&self) {
        let mut inside = self.inside();
        inside.faults = None;
        inside.failing_reads.clear();
        inside.writes = Writes::Taken;
    }

    fn on(kept: Kept, slots: usize, listener: Arc<dyn CommitListener>) -> Self {
        let inside = Inside {
            kept,
            lives: Lives::default(),
            queue: VecDeque::new(),
            is_writing: false,
            gate: Gate::Open,
            faults: None,
            failing_reads: Vec::new(),
            writes: Writes::Taken,
        };
        let slots = Arc::new(Semaphore::new(slots));
        Self { shared: Arc::new(Shared { inside: Mutex::new(inside), slots, listener }) }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // A panic in a test's thread must not hide the state from the assertions that follow.
        self.shared.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a read from what is kept at this moment.
    fn read<'a, T, F>(&'a self, question: F) -> Read<'a, T>
    where
        T: Send + 'a,
        F: FnOnce(&Kept) -> Result<T, StorageError>,
    {
        let mut inside = self.inside();
        let answer = match inside.failing_reads.pop() {
            Some(failure) => Err(failure),
            None => question(&inside.kept),
        };
        futures_util::future::ready(answer).boxed()
    }

    /// One thread writes at a time; whoever finds it writing leaves the commit to it. No lock is held while the listener
    /// is called, so a listener may read, and even enqueue.
    fn write_what_may_be_written(&self) {
        let mut inside = self.inside();
        if inside.is_writing {
            return;
        }
        inside.is_writing = true;
        while let Some(waiting) = inside.next_to_write() {
            let Waiting { commit, permit, answer } = waiting;
            let Written { outcome, announcement } = inside.write(commit);
            drop(inside);
            if let Some(announcement) = &announcement {
                self.shared.listener.committed(announcement);
            }
            drop(permit);
            // Whoever dropped the ticket does not want to know.
            let _unheard = answer.send(outcome);
            inside = self.inside();
        }
        inside.is_writing = false;
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = self.inside();
        formatter
            .debug_struct("MemoryStorage")
            .field("position", &inside.kept.position)
            .field("waiting", &inside.queue.len())
            .field("gate", &inside.gate)
            .finish_non_exhaustive()
    }
}

struct Written {
    outcome: Result<StreamPosition, CommitError>,
    announcement: Option<Announcement>,
}

impl Inside {
    fn next_to_write(&mut self) -> Option<Waiting> {
        match &mut self.gate {
            Gate::Open => {}
            Gate::Held { let_through: 0 } => return None,
            Gate::Held { let_through } if !self.queue.is_empty() => *let_through -= 1,
            Gate::Held { .. } => return None,
        }
        self.queue.pop_front()
    }

    fn write(&mut self, commit: Commit) -> Written {
        let failure = self.failure_of_next();
        let reason = || "a test wants it so".to_owned();
        match failure {
            None => {
                let made = self.make(&commit);
                Written {
                    outcome: made.as_ref().map(|made| made.position).map_err(Clone::clone),
                    announcement: made.ok(),
                }
            }
            Some(Failure::NotWritten) => refused(StorageError::NotWritten { reason: reason() }),
            Some(Failure::DiskFull) => refused(StorageError::DiskFull),
            Some(Failure::UnknownAndLost) => {
                self.lives.lose_track(&commit);
                refused(StorageError::OutcomeUnknown { reason: reason() })
            }
            Some(Failure::UnknownButKept) => match self.make(&commit) {
                Ok(announcement) => {
                    self.lives.lose_track(&commit);
                    Written {
                        announcement: Some(announcement),
                        ..refused(StorageError::OutcomeUnknown { reason: reason() })
                    }
                }
                Err(error) => Written { outcome: Err(error), announcement: None },
            },
        }
    }

    fn make(&mut self, commit: &Commit) -> Result<Announcement, CommitError> {
        if let Commit::Room(room_commit) = commit {
            self.lives.check(room_commit)?;
        }
        let announcement = self.kept.apply(commit)?;
        if let Commit::Room(room_commit) = commit {
            self.lives.made(room_commit);
        }
        Ok(announcement)
    }

    fn failure_of_next(&mut self) -> Option<Failure> {
        let faults = self.faults.as_mut()?;
        if faults.good_before > 0 {
            faults.good_before -= 1;
            return None;
        }
        match &mut faults.bad_left {
            None => Some(faults.failure),
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                Some(faults.failure)
            }
        }
    }
}

fn refused(error: StorageError) -> Written {
    Written { outcome: Err(CommitError::Storage(error)), announcement: None }
}

impl CommitSink for MemoryStorage {
    fn reserve(&self) -> Result<WriterSlot, NoSlot> {
        if self.inside().writes == Writes::Refused {
            return Err(NoSlot::Refused);
        }
        self.shared.slots.clone().try_acquire_owned().map(WriterSlot::new).map_err(|_| NoSlot::Busy)
    }

    fn enqueue(&self, slot: WriterSlot, commit: Commit) -> Ticket {
        let (answer, ticket) = oneshot::channel();
        self.inside().queue.push_back(Waiting { commit, permit: slot.into_permit(), answer });
        self.write_what_may_be_written();
        Ticket::new(ticket)
    }
}

impl StreamReader for MemoryStorage {
    fn position(&self) -> StreamPosition {
        self.inside().kept.position
    }
}

impl ServerKeyStore for MemoryStorage {
    fn lookup<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Option<StoredServerKeys>, StorageError>> {
        self.read(|kept| Ok(kept.server_keys.get(server).cloned()))
    }

    fn store(&self, keys: StoredServerKeys) -> BoxFuture<'_, Result<(), StorageError>> {
        async move {
            let not_written = |reason: String| StorageError::NotWritten { reason };
            let slot = self.reserve().map_err(|no_slot| not_written(no_slot.to_string()))?;
            match self.enqueue(slot, Commit::ServerKeys(Box::new(keys))).await {
                Ok(_) => Ok(()),
                Err(CommitError::Storage(error)) => Err(error),
                Err(refusal) => Err(not_written(refusal.to_string())),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
