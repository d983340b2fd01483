//! A server's store on a slow disk that fails: commits wait until the disk has them, and a crash takes those that wait.
//! May not: make a commit in another order, or know what is in it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::ServerName;
use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};
use vestibule_storage::{
    commit::{Commit, CommitSink, NoSlot, Stores, Ticket, WriterSlot},
    error::StorageError,
    memory::{Failure, MemoryStorage},
    server_keys::{ServerKeyStore, StoredServerKeys},
};

/// One in so many writes fails in bad weather.
const FAILS_ONE_IN: u32 = 120;
/// One in so many writes takes long.
const STALLS_ONE_IN: u32 = 100;
const WRITE_MS_MAX: u64 = 8;
const STALL_MS_MAX: u64 = 4_000;
/// With a plant, one in so many entries of the outbox, or commits.
const PLANTED_ONE_IN: u32 = 6;

/// What is wrong with a disk on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    LostOutboxRow,
    AnswerBeforeSync,
}

pub struct Disk {
    pub storage: MemoryStorage,
    bell: Notify,
    planted: Option<(Planted, Mutex<StdRng>)>,
}

impl Disk {
    pub fn new(storage: MemoryStorage, planted: Option<(Planted, StdRng)>) -> Arc<Self> {
        storage.hold();
        let planted = planted.map(|(planted, random)| (planted, Mutex::new(random)));
        Arc::new(Self { storage, bell: Notify::new(), planted })
    }

    /// The store, written through this disk.
    pub fn stores(self: &Arc<Self>) -> Stores {
        Stores { writer: self.clone(), server_keys: self.clone(), ..self.storage.stores() }
    }

    /// Writes for as long as it is polled. `noted` hears how many were written and what failed.
    pub async fn write(
        &self,
        random: &mut StdRng,
        is_stormy: impl Fn() -> bool,
        noted: impl Fn(usize, Option<Failure>),
    ) {
        loop {
            self.bell.notified().await;
            while self.storage.waiting() > 0 {
                let is_stall = is_stormy() && random.random_ratio(1, STALLS_ONE_IN);
                let took = random.random_range(1..=if is_stall { STALL_MS_MAX } else { WRITE_MS_MAX });
                sleep(Duration::from_millis(took)).await;
                let mut failed = None;
                if is_stormy() && random.random_ratio(1, FAILS_ONE_IN) {
                    let failures = [Failure::NotWritten, Failure::UnknownAndLost, Failure::UnknownButKept];
                    failed = failures.choose(random).copied();
                    failed.into_iter().for_each(|failure| self.storage.fail_only(1, failure));
                }
                let written = random.random_range(1..=self.storage.waiting().max(1));
                noted(written, failed);
                self.storage.release(written);
            }
        }
    }

    /// Takes from a commit what the plant wants gone.
    fn tampered(&self, mut commit: Commit) -> Commit {
        if let (Some((Planted::LostOutboxRow, random)), Commit::Room(room)) = (&self.planted, &mut commit) {
            let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
            room.outbox.retain(|_| !random.random_ratio(1, PLANTED_ONE_IN));
        }
        commit
    }

    fn answers_early(&self, commit: &Commit) -> bool {
        let (Some((Planted::AnswerBeforeSync, random)), Commit::Room(_)) = (&self.planted, commit) else {
            return false;
        };
        random.lock().unwrap_or_else(PoisonError::into_inner).random_ratio(1, PLANTED_ONE_IN)
    }
}

impl CommitSink for Disk {
    fn reserve(&self) -> Result<WriterSlot, NoSlot> {
        self.storage.reserve()
    }

    fn enqueue(&self, slot: WriterSlot, commit: Commit) -> Ticket {
        let is_early = self.answers_early(&commit);
        let ticket = self.storage.enqueue(slot, self.tampered(commit));
        self.bell.notify_one();
        if !is_early {
            return ticket;
        }
        let (answer, early) = oneshot::channel();
        let position = vestibule_storage::stream::StreamReader::position(&self.storage).next();
        // The other end is in this function.
        let _ = answer.send(Ok(position));
        Ticket::new(early)
    }
}

impl ServerKeyStore for Disk {
    fn lookup<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Option<StoredServerKeys>, StorageError>> {
        self.storage.lookup(server)
    }

    fn store(&self, keys: StoredServerKeys) -> BoxFuture<'_, Result<(), StorageError>> {
        // It is enqueued when the future is polled, which is before the disk's own task runs again.
        self.bell.notify_one();
        self.storage.store(keys)
    }
}
