//! The look-up store: one sled tree that follows the journal and says how far, and the newest changes, in memory before it.
//! May not: be written before the journal is durable, or be believed when it disagrees with it.
//!
//! sled wakes all its threads for each batch, and holds all readers up meanwhile. So changes gather in memory, where readers
//! find them first, and go down together. What a crash takes of them is in the journal.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use sled::{Batch, IVec};
use thiserror::Error;
use vestibule_storage::error::StorageError;

use crate::fields::StoredForm;
use crate::journal::JournalPosition;
use crate::keys::{Key, Table};
use crate::record::Changes;

/// Bytes of one sled batch, and of changes that gather in memory. Measured: larger ones hold readers back and gain nothing.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// Stands for a checksum that nobody knows: a checkpoint does not keep the record it ends with.
pub(crate) const CHECKSUM_UNKNOWN: u32 = 0;

/// How sled says that its lock is held; it has no error of its own for that.
const LOCK_HELD: &str = "could not acquire lock";
/// How often and how far apart opening is tried while it is. Measured: sled's threads let go within milliseconds; 2 s is for
/// a machine that is busy.
const LOCK_ATTEMPTS_MAX: usize = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const MARK: &str = "applied";
const IDENTITY: &str = "identity";

/// Why the look-up store did not do what it was asked. sled's own errors and panics, as text.
#[derive(Clone, Debug, Error)]
#[error("look-up store: {reason}")]
pub(crate) struct IndexError {
    pub(crate) reason: String,
    /// It says nothing against what is stored: the disk is full, or sled's lock is held.
    pub(crate) is_for_now: bool,
}

impl IndexError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_for_now: false }
    }
}

impl From<IndexError> for StorageError {
    fn from(error: IndexError) -> Self {
        Self::Unavailable { reason: error.to_string() }
    }
}

impl From<sled::Error> for IndexError {
    fn from(error: sled::Error) -> Self {
        let reason = error.to_string();
        let is_for_now =
            reason.contains(LOCK_HELD) || matches!(&error, sled::Error::Io(error) if is_lack_of_room(error));
        Self { reason, is_for_now }
    }
}

/// Whether the disk, the quota or the size that files may have is used up.
fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// How far the store follows the journal: the last record that is wholly in it, and that record's checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) applied: JournalPosition,
    pub(crate) checksum: u32,
}

impl Mark {
    pub(crate) fn of(position: JournalPosition, record: &[u8]) -> Self {
        Self { applied: position, checksum: crc32fast::hash(record) }
    }

    fn to_bytes(self) -> Vec<u8> {
        [&self.applied.0.to_be_bytes()[..], &self.checksum.to_be_bytes()[..]].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (applied, rest) = bytes.split_first_chunk()?;
        let checksum = rest.try_into().ok()?;
        Some(Self { applied: JournalPosition(u64::from_be_bytes(*applied)), checksum: u32::from_be_bytes(checksum) })
    }
}

/// The store. Reads may run on any thread; one thread writes.
#[derive(Debug)]
pub(crate) struct Index {
    db: sled::Db,
    recent: RwLock<Recent>,
}

/// Changes that sled does not have yet.
#[derive(Debug, Default)]
struct Recent {
    changes: BTreeMap<IVec, Option<IVec>>,
    bytes: usize,
    mark: Mark,
}

impl Recent {
    fn add(&mut self, changes: Changes, mark: Mark) {
        for (key, value) in changes {
            let (key, value) = (IVec::from(key), value.map(IVec::from));
            self.bytes += bytes_of(&key, &value);
            if let Some(older) = self.changes.insert(key.clone(), value) {
                self.bytes -= bytes_of(&key, &older);
            }
        }
        self.mark = mark;
    }
}

fn bytes_of(key: &IVec, value: &Option<IVec>) -> usize {
    key.len() + value.as_ref().map_or(0, |value| value.len())
}

impl Index {
    /// Opens or makes the store. A panic inside sled is an error like any other. Blocks while sled's lock is held: the data
    /// directory is ours, so it is held by threads of a store that was just closed, and building anew would be in vain.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        let mut attempts_left = LOCK_ATTEMPTS_MAX;
        loop {
            attempts_left = attempts_left.saturating_sub(1);
            match Self::try_open(path, cache_bytes) {
                Err(error) if attempts_left > 0 && error.reason.contains(LOCK_HELD) => {
                    std::thread::park_timeout(LOCK_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_open(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        guarded(|| {
            make_private_dir(path).map_err(sled::Error::from)?;
            // The background flush stays at its default: without it sled never cleans its log.
            let db = sled::Config::new().path(path).cache_capacity(cache_bytes).open()?;
            Ok(Self { db, recent: RwLock::default() })
        })
    }

    /// How far it follows the journal of `identity`. `None`: it holds something else, or is half-made.
    pub(crate) fn mark(&self, identity: &str) -> Result<Option<Mark>, IndexError> {
        guarded(|| {
            if self.db.get(meta(IDENTITY))?.as_deref() != Some(identity.as_bytes()) {
                return Ok(None);
            }
            Ok(self.db.get(meta(MARK))?.and_then(|bytes| Mark::from_bytes(&bytes)))
        })
    }

    /// Says whose it is and how far it follows: what makes a filled store count.
    pub(crate) fn set_mark(&self, identity: &str, mark: Mark) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        batch.insert(meta(IDENTITY), identity.as_bytes());
        batch.insert(meta(MARK), mark.to_bytes());
        guarded(|| Ok(self.db.apply_batch(batch)?))
    }

    pub(crate) fn is_empty(&self) -> Result<bool, IndexError> {
        guarded(|| Ok(self.db.iter().next().transpose()?.is_none()))
    }

    /// Applies commits in their order and moves the mark with the last of them. Commits that fit into one batch are one atomic step of
    /// sled; a larger one is several, and the mark moves with the last.
    pub(crate) fn apply<'a>(
        &self,
        commits: impl IntoIterator<Item = &'a Changes>,
        mark: Mark,
    ) -> Result<(), IndexError> {
        guarded(|| {
            let mut batch = SizedBatch::default();
            for (key, value) in commits.into_iter().flatten() {
                if let Some(full) = batch.add(IVec::from(&**key), value.as_deref().map(IVec::from)) {
                    self.db.apply_batch(full)?;
                }
            }
            batch.batch.insert(meta(MARK), mark.to_bytes());
            Ok(self.db.apply_batch(batch.batch)?)
        })
    }

    /// Takes the changes of commits up to `mark`: readers find them from now on.
    pub(crate) fn take(&self, changes: Changes, mark: Mark) {
        self.recent.write().unwrap_or_else(PoisonError::into_inner).add(changes, mark);
    }

    /// Hands sled the changes that have gathered, if they are many. An error takes nothing from readers, but then the store
    /// has to be opened again.
    pub(crate) fn write_down_if_many(&self) -> Result<(), IndexError> {
        if self.recent().bytes < BATCH_BYTES { Ok(()) } else { self.write_down() }
    }

    /// Hands sled the changes that have gathered.
    pub(crate) fn write_down(&self) -> Result<(), IndexError> {
        let (changes, mark) = {
            let recent = self.recent();
            (recent.changes.clone(), recent.mark)
        };
        if changes.is_empty() {
            return Ok(());
        }
        guarded(|| {
            let mut batch = SizedBatch::default();
            for (key, value) in changes {
                if let Some(full) = batch.add(key, value) {
                    self.db.apply_batch(full)?;
                }
            }
            batch.batch.insert(meta(MARK), mark.to_bytes());
            Ok(self.db.apply_batch(batch.batch)?)
        })?;
        // Nobody but the one writer adds to them, so sled has all of them.
        *self.recent.write().unwrap_or_else(PoisonError::into_inner) = Recent::default();
        Ok(())
    }

    fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes anything. Once a write of its own threads failed, sled takes nothing until it is opened again, and what of
    /// it can be read is a matter of luck.
    pub(crate) fn touch(&self) -> Result<(), IndexError> {
        guarded(|| Ok(self.db.apply_batch(Batch::default())?))
    }

    /// Gives sled's threads and files back, as far as nobody else holds the store.
    pub(crate) fn close(self) -> Result<(), IndexError> {
        guarded(|| {
            drop(self);
            Ok(())
        })
    }

    /// Puts entries without moving the mark: filling a store that does not count yet.
    pub(crate) fn fill<'a>(&self, entries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), IndexError> {
        guarded(|| {
            let mut batch = Batch::default();
            for (key, value) in entries {
                batch.insert(key, value);
            }
            Ok(self.db.apply_batch(batch)?)
        })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<IVec>, IndexError> {
        // First here: what is not here any more is in sled.
        if let Some(value) = self.recent().changes.get(key) {
            return Ok(value.clone());
        }
        guarded(|| Ok(self.db.get(key)?))
    }

    /// The value under a key in its stored form.
    pub(crate) fn value<T: StoredForm>(&self, key: &Key) -> Result<Option<T>, StorageError> {
        self.get(key.as_bytes())?.map(|bytes| T::from_bytes(&bytes)).transpose()
    }

    /// The entries whose keys begin with a prefix, in the order of the keys.
    pub(crate) fn under(&self, prefix: &Key) -> Entries {
        self.range(prefix.as_bytes().to_vec()..prefix.clone().after())
    }

    /// The entries between two keys.
    pub(crate) fn range(&self, range: impl RangeBounds<Vec<u8>>) -> Entries {
        let bounds = (range.start_bound().map(Vec::as_slice), range.end_bound().map(Vec::as_slice));
        let recent = if is_empty(bounds) { VecDeque::new() } else { self.recent_within(bounds) };
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        Entries { recent, stored: self.db.range::<Vec<u8>, _>(bounds), front: None, back: None }
    }

    fn recent_within(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> VecDeque<(IVec, Option<IVec>)> {
        let recent = self.recent();
        recent.changes.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Everything that a checkpoint holds.
    pub(crate) fn all(&self) -> Entries {
        self.range(Key::of(Table::Meta).after()..)
    }

    /// Writes out what memory and sled still hold. Not what durability rests on.
    pub(crate) fn flush(&self) -> Result<(), IndexError> {
        self.write_down()?;
        guarded(|| self.db.flush().map(|_| ()).map_err(IndexError::from))
    }
}

/// A key with its value.
pub(crate) type Entry = (IVec, IVec);

/// Entries in the order of their keys, from either end: what sled has, with the recent changes over it.
pub(crate) struct Entries {
    recent: VecDeque<(IVec, Option<IVec>)>,
    stored: sled::Iter,
    /// What sled gave already from either end.
    front: Option<Entry>,
    back: Option<Entry>,
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl Entries {
    /// The next entry from one end.
    fn step(&mut self, end: End) -> Result<Option<Entry>, IndexError> {
        loop {
            let recent = match end {
                End::Front => self.recent.front(),
                End::Back => self.recent.back(),
            };
            let recent = recent.map(|(key, _)| key.clone());
            let stored = self.peek(end)?;
            let stored_first = match (stored.as_ref(), &recent) {
                (_, None) => return Ok(stored.take()),
                (None, Some(_)) => Ordering::Greater,
                (Some((stored, _)), Some(recent)) => match end {
                    End::Front => stored.cmp(recent),
                    End::Back => recent.cmp(stored),
                },
            };
            match stored_first {
                Ordering::Less => return Ok(stored.take()),
                Ordering::Equal => _ = stored.take(),
                Ordering::Greater => {}
            }
            let newest = match end {
                End::Front => self.recent.pop_front(),
                End::Back => self.recent.pop_back(),
            };
            if let Some((key, Some(value))) = newest {
                return Ok(Some((key, value)));
            }
        }
    }

    /// What sled has next at one end.
    fn peek(&mut self, end: End) -> Result<&mut Option<Entry>, IndexError> {
        let (near, far) = match end {
            End::Front => (&mut self.front, &mut self.back),
            End::Back => (&mut self.back, &mut self.front),
        };
        if near.is_none() {
            let stored = &mut self.stored;
            *near = guarded(|| match end {
                End::Front => Ok(stored.next().transpose()?),
                End::Back => Ok(stored.next_back().transpose()?),
            })?;
        }
        if near.is_none() {
            *near = far.take();
        }
        Ok(near)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(End::Front).transpose()
    }
}

impl DoubleEndedIterator for Entries {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(End::Back).transpose()
    }
}

/// Whether nothing can lie between the bounds. Of such, maps in memory want to hear nothing.
fn is_empty(bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match bounds {
        (Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start > end,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

/// Calls into sled, taking a panic for an error.
fn guarded<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    // Nothing of ours is half-changed by a panic in there: what sled holds is judged anew when it is opened again.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(IndexError::new(format!("panicked: {}", text.unwrap_or("without words"))))
    })
}

/// sled gives its files the usual modes, and they hold private messages and token hashes.
fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn meta(name: &str) -> Vec<u8> {
    Key::of(Table::Meta).last(name).into_bytes()
}

#[derive(Default)]
struct SizedBatch {
    batch: Batch,
    bytes: usize,
}

impl SizedBatch {
    /// Adds a change; what was there before comes back if both together are too much.
    fn add(&mut self, key: IVec, value: Option<IVec>) -> Option<Batch> {
        let bytes = bytes_of(&key, &value);
        let full = (self.bytes > 0 && self.bytes + bytes > BATCH_BYTES).then(|| {
            self.bytes = 0;
            std::mem::take(&mut self.batch)
        });
        self.bytes += bytes;
        match value {
            Some(value) => self.batch.insert(key, value),
            None => self.batch.remove(key),
        }
        full
    }
}
