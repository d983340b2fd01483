//! The production engine under the rooms of a history, on a disk in memory that is late and fails.
//! May not: hold a sync up for ever; whoever holds it lets go in the end.
//!
//! Its writer is a thread of its own, so a history is not the same again with the same seed.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use tempfile::TempDir;
use vestibule_storage::commit::Stores;
use vestibule_storage_sled::{
    Opened,
    journal::faults::{Fault, FaultyFiles, Operation},
};

use crate::engine::{self, Geometry, WatchedFiles, Watcher};

/// Small, so that the journal goes on in new segments now and then.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// While no sync waits.
const NOTHING_TO_DO: Duration = Duration::from_micros(50);
/// Of so many syncs one fails, where any does.
const FAILS_ONE_IN: u32 = 12;

/// An engine and its disk.
pub struct OnDisk {
    place: TempDir,
    files: Arc<WatchedFiles>,
    gate: Arc<Gate>,
    opened: Opened,
}

impl OnDisk {
    /// # Errors
    /// It does not open.
    pub fn open() -> Result<Self, String> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let gate = Arc::new(Gate { now: Mutex::new(Now::Open), moved: Condvar::new() });
        let watcher: Arc<dyn Watcher> = gate.clone();
        let files = Arc::new(WatchedFiles { disk: FaultyFiles::new(), watcher });
        let opened = open(&files, place.path())?;
        Ok(Self { place, files, gate, opened })
    }

    pub fn stores(&self) -> Stores {
        self.opened.stores.clone()
    }

    /// From now on each sync waits.
    pub fn hold(&self) {
        self.gate.set(Now::Held);
    }

    /// Lets a sync that waits go on, perhaps into a failure.
    pub fn release_some(&self, random: &mut StdRng, is_faulty: bool) {
        if *self.gate.now() != Now::Waits {
            thread::park_timeout(NOTHING_TO_DO);
        } else if random.random_ratio(1, 2) {
            if is_faulty && random.random_ratio(1, FAILS_ONE_IN) {
                let disk = &self.files.disk;
                let fault = *[Fault::Io, Fault::NoSpace].choose(random).unwrap_or(&Fault::Io);
                disk.fail_next(Operation::SyncData, fault);
                if random.random_ratio(1, 2) {
                    // Then nobody knows for a while whether the batch is there.
                    disk.fail_next(Operation::CreateNew, fault);
                }
            }
            self.gate.set(Now::Held);
        }
    }

    pub fn release_all(&self) {
        self.gate.set(Now::Open);
    }

    /// What a new start finds.
    ///
    /// # Errors
    /// It does not close or open.
    pub fn reopened(self) -> Result<(Opened, TempDir), String> {
        self.files.disk.heal();
        self.opened.handle.close().map_err(|error| error.to_string())?;
        let opened = open(&self.files, self.place.path())?;
        Ok((opened, self.place))
    }
}

fn open(files: &Arc<WatchedFiles>, place: &Path) -> Result<Opened, String> {
    let geometry = Geometry { segment_bytes: SEGMENT_BYTES, salt: 0x5eed };
    engine::open(files.clone(), &place.join("data"), geometry).map_err(|error| error.to_string())
}

/// Where syncs wait.
struct Gate {
    now: Mutex<Now>,
    moved: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    Open,
    /// The next sync waits.
    Held,
    /// One waits.
    Waits,
}

impl Gate {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, now: Now) {
        *self.now() = now;
        self.moved.notify_all();
    }
}

impl Watcher for Gate {
    fn before(&self, operation: Operation, _: &Path) {
        let mut now = self.now();
        if operation == Operation::SyncData && *now == Now::Held {
            *now = Now::Waits;
            let gone_on = self.moved.wait_while(now, |now| *now == Now::Waits);
            drop(gone_on.unwrap_or_else(PoisonError::into_inner));
        }
    }
}
