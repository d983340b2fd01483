//! Brings the look-up store to where the journal is: by replaying what it has not seen, or by building it anew.
//! May not: believe a store that disagrees with the journal, or change the journal.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Checkpoints;
use crate::index::{BATCH_BYTES, CHECKSUM_UNKNOWN, Index, IndexError, Mark};
use crate::journal::files::{JournalFiles, write_whole};
use crate::journal::replay::{Record, Replay};
use crate::journal::{Journal, JournalPosition};
use crate::record::{self, Changes};
use crate::{LOCK_FILE, OpenError, Options, migrations};

/// Name of the look-up store in the data directory.
const INDEX_DIR: &str = "sled";
/// Where a store goes that was not believed. The next good start removes it.
const SET_ASIDE_DIR: &str = "sled.set-aside";
/// Name of the file by which a disk is tried.
const TRIAL_FILE: &str = "sled.trial";
/// Its bytes: two of sled's segments.
const TRIAL_BYTES: usize = 1024 * 1024;
/// Name of the directory of journal segments and checkpoints.
pub(crate) const JOURNAL_DIR: &str = "journal";

/// Where everything of a data directory is.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) files: Arc<dyn JournalFiles>,
    pub(crate) dir: PathBuf,
    pub(crate) identity: String,
    pub(crate) cache_bytes: u64,
}

impl Places {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            files: Arc::clone(&options.files),
            dir: options.dir.clone(),
            identity: options.server_name.to_string(),
            cache_bytes: options.cache_bytes,
        }
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.dir.join(JOURNAL_DIR)
    }

    pub(crate) fn index_dir(&self) -> PathBuf {
        self.dir.join(INDEX_DIR)
    }

    /// Whether the engine itself has something of that name in the data directory.
    pub(crate) fn is_ours(name: &str) -> bool {
        let is_file = [LOCK_FILE, migrations::FILE_NAME]
            .iter()
            .any(|ours| name == *ours || name.starts_with(&format!("{ours}.")));
        let is_dir = name == JOURNAL_DIR || name == INDEX_DIR || name.starts_with(&format!("{INDEX_DIR}."));
        is_file || is_dir
    }

    pub(crate) fn with_checkpoints<T>(&self, work: impl FnOnce(&Checkpoints<'_>) -> T) -> T {
        let dir = self.journal_dir();
        work(&Checkpoints { files: self.files.as_ref(), dir: &dir, identity: &self.identity })
    }

    /// Opens the look-up store, if there is one that can be opened and says how far it is.
    pub(crate) fn find_index(&self) -> Found {
        let index = match Index::open(&self.index_dir(), self.cache_bytes) {
            Ok(index) => index,
            Err(error) => return Found::without_index(error),
        };
        match index.mark(&self.identity) {
            Ok(Some(mark)) => Found::Index { index, mark },
            Ok(None) if index.is_empty().unwrap_or(false) => Found::Empty { index },
            Ok(None) => Found::Unusable { why: "half-made, or of another journal".to_owned() },
            Err(error) => Found::without_index(error),
        }
    }

    /// Whether the disk takes as much as opening the look-up store writes.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn try_disk(&self) -> io::Result<()> {
        let path = self.dir.join(TRIAL_FILE);
        let write = || {
            // What a crash may have left.
            let _ = self.files.remove(&path);
            let mut file = self.files.create_new(&path)?;
            write_whole(file.as_mut(), &vec![0; TRIAL_BYTES])?;
            file.sync_data()
        };
        let written = write();
        let _ = self.files.remove(&path);
        written
    }

    /// Moves a store that is not believed out of the way.
    fn set_aside(&self) -> Result<(), OpenError> {
        let (from, to) = (self.index_dir(), self.dir.join(SET_ASIDE_DIR));
        let io = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { operation, path, source }
        };
        remove_dir(&to).map_err(io("remove", &to))?;
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("rename", &from)(error)),
            _ => Ok(()),
        }
    }

    /// Removes what earlier starts and failures left.
    pub(crate) fn forget_set_aside(&self) {
        // Tidying only; the next start tries again.
        let _ = self.files.remove(&self.dir.join(TRIAL_FILE));
        let _ = remove_dir(&self.dir.join(SET_ASIDE_DIR));
    }
}

/// What is in the look-up store's place.
#[derive(Debug)]
pub(crate) enum Found {
    /// A store that says how far it is.
    Index { index: Index, mark: Mark },
    /// A new one, just made.
    Empty { index: Index },
    /// Nothing that can be used.
    Unusable { why: String },
    /// What is there may be right, and cannot be opened as long as the disk is full or sled's own lock is held.
    OutOfReach(IndexError),
}

impl Found {
    fn without_index(error: IndexError) -> Self {
        if error.is_for_now { Self::OutOfReach(error) } else { Self::Unusable { why: error.to_string() } }
    }
}

/// What was done to the look-up store at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexReport {
    /// It was there and right.
    Kept {
        /// Commits that it had not seen.
        replayed: u64,
    },
    /// It was made anew.
    Rebuilt {
        /// Why.
        why: String,
        /// Entries taken from the checkpoint.
        entries: u64,
        /// Commits taken from the journal.
        replayed: u64,
    },
}

/// Brings a store to where the journal is.
///
/// # Errors
/// [`OpenError::Damaged`] if the journal or its checkpoint is; [`OpenError::Index`] if sled cannot even be built anew, or if a full
/// disk or its own lock, held, keeps it from being opened: then it stays as it is.
pub(crate) fn catch_up(
    places: &Places,
    found: Found,
    journal: &Journal,
    checkpoint: Option<JournalPosition>,
) -> Result<(Index, IndexReport), OpenError> {
    let why = match found {
        Found::Index { index, mark } => match follow(&index, mark, journal)? {
            Followed::Yes { replayed } => return Ok((index, IndexReport::Kept { replayed })),
            Followed::No { why } => why,
        },
        Found::Empty { index } if checkpoint.is_none() && journal.durable() == JournalPosition(0) => {
            index.set_mark(&places.identity, Mark::default()).map_err(index_error)?;
            return Ok((index, IndexReport::Kept { replayed: 0 }));
        }
        Found::Empty { index } => {
            drop(index);
            "missing".to_owned()
        }
        Found::Unusable { why } => why,
        Found::OutOfReach(error) => return Err(index_error(error)),
    };
    places.set_aside()?;
    let replay = journal.replay(checkpoint.map_or(JournalPosition(1), JournalPosition::next))?;
    let (index, entries, replayed) = rebuild(places, &places.index_dir(), checkpoint, replay)?;
    Ok((index, IndexReport::Rebuilt { why, entries, replayed }))
}

enum Followed {
    Yes { replayed: u64 },
    No { why: String },
}

fn follow(index: &Index, mark: Mark, journal: &Journal) -> Result<Followed, OpenError> {
    let no = |why: String| Ok(Followed::No { why });
    if mark.applied > journal.durable() {
        return no(format!("ahead of the journal: at {}, the journal at {}", mark.applied.0, journal.durable().0));
    }
    if mark.applied.next() < journal.first() {
        return no(format!("too far behind: at {}, the journal begins at {}", mark.applied.0, journal.first().0));
    }
    let record_is_at_hand = mark.applied >= journal.first() && mark.applied > JournalPosition(0);
    let from = if record_is_at_hand { mark.applied } else { mark.applied.next() };
    let mut replay = journal.replay(from)?;
    if record_is_at_hand {
        let record = replay.next_record()?;
        let is_same =
            |record: Record<'_>| mark.checksum == CHECKSUM_UNKNOWN || Mark::of(record.position, record.payload) == mark;
        if !record.is_some_and(is_same) {
            return no(format!("follows another journal at {}", mark.applied.0));
        }
    }
    let mut replayed = 0;
    let mut group = Group::default();
    loop {
        let record = replay.next_record()?;
        let is_end = record.is_none();
        if let Some(record) = record {
            replayed += 1;
            group.add(Mark::of(record.position, record.payload), decode(record.position, record.payload)?);
        }
        if (is_end || group.bytes >= BATCH_BYTES)
            && let Err(error) = group.apply(index)
        {
            return if error.is_for_now { Err(index_error(error)) } else { no(error.to_string()) };
        }
        if is_end {
            return Ok(Followed::Yes { replayed });
        }
    }
}

/// Builds a store from a checkpoint and the records after it. Says how many entries and commits that took.
pub(crate) fn rebuild(
    places: &Places,
    path: &Path,
    checkpoint: Option<JournalPosition>,
    replay: Replay,
) -> Result<(Index, u64, u64), OpenError> {
    let index = Index::open(path, places.cache_bytes).map_err(index_error)?;
    let entries = match checkpoint {
        Some(position) => load_checkpoint(places, &index, position)?,
        None => 0,
    };
    // Only now the store counts: a crash before leaves one without a mark, which the next start throws away.
    let applied = checkpoint.unwrap_or_default();
    index.set_mark(&places.identity, Mark { applied, checksum: CHECKSUM_UNKNOWN }).map_err(index_error)?;
    let replayed = replay_into(&index, replay, |_| {})?;
    Ok((index, entries, replayed))
}

/// Applies records, and tells what each changes.
pub(crate) fn replay_into(index: &Index, mut replay: Replay, mut tell: impl FnMut(&Changes)) -> Result<u64, OpenError> {
    let mut group = Group::default();
    let mut replayed = 0;
    while let Some(record) = replay.next_record()? {
        replayed += 1;
        let changes = decode(record.position, record.payload)?;
        tell(&changes);
        group.add(Mark::of(record.position, record.payload), changes);
        if group.bytes >= BATCH_BYTES {
            group.apply(index).map_err(index_error)?;
        }
    }
    group.apply(index).map_err(index_error)?;
    Ok(replayed)
}

fn load_checkpoint(places: &Places, index: &Index, position: JournalPosition) -> Result<u64, OpenError> {
    places.with_checkpoints(|checkpoints| {
        let mut reader = checkpoints.read(position)?;
        let mut block: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let (mut bytes, mut entries) = (0, 0);
        loop {
            let entry = reader.next_entry()?;
            let is_end = entry.is_none();
            if let Some(entry) = entry {
                bytes += entry.key.len() + entry.value.len();
                entries += 1;
                block.push((entry.key.to_vec(), entry.value.to_vec()));
            }
            if is_end || bytes >= BATCH_BYTES {
                index.fill(block.iter().map(|(key, value)| (&**key, &**value))).map_err(index_error)?;
                block.clear();
                bytes = 0;
            }
            if is_end {
                return Ok(entries);
            }
        }
    })
}

/// The changes of a record.
fn decode(position: JournalPosition, payload: &[u8]) -> Result<Changes, OpenError> {
    // The journal vouches for every byte, so a record that cannot be read was written so.
    record::decode(payload)
        .ok_or_else(|| OpenError::Damaged { what: format!("journal record {}", position.0), source: None })
}

/// Commits that go into the store together.
#[derive(Default)]
struct Group {
    commits: Vec<Changes>,
    bytes: usize,
    mark: Option<Mark>,
}

impl Group {
    fn add(&mut self, mark: Mark, changes: Changes) {
        self.bytes += changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        self.commits.push(changes);
        self.mark = Some(mark);
    }

    fn apply(&mut self, index: &Index) -> Result<(), IndexError> {
        if let Some(mark) = self.mark.take() {
            index.apply(&self.commits, mark)?;
        }
        self.commits.clear();
        self.bytes = 0;
        Ok(())
    }
}

pub(crate) fn index_error(error: IndexError) -> OpenError {
    OpenError::Index { reason: error.reason }
}

pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
