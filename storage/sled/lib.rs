//! The embedded engine: a journal that is the promise, and sled to look things up.
//! May not: answer a commit before the journal is durable, or let sled say what happened.
//!
//! - [`journal`] and [`checkpoint`] hold what was committed, as puts and deletes of keys.
//! - `keys`, `fields`, `values`, `account_values`, `device_values`, `peer_values`, `receipt_values`: the bytes of keys and
//!   values; `record`: those of a journal record.
//! - `draft` turns a commit into puts and deletes; `writer` is the one thread that writes them.
//! - `index` is sled; `views` is what readers see of it; `opening` brings it to where the journal is.
//! - `room`, `accounts`, `device_keys` (inboxes too), `outbox`, `receipts`, `server_keys`, `stream` are the readers, a file
//!   for each trait.
//! - [`backup`] copies and restores a data directory, [`verify`] holds sled against the journal.

#![warn(missing_docs)]

mod account_values;
mod accounts;
pub mod backup;
#[expect(missing_docs, reason = "fields of errors say in their names what they are")]
pub mod checkpoint;
mod device_keys;
mod device_values;
mod draft;
mod fields;
mod handle;
mod index;
#[expect(missing_docs, reason = "fields of errors say in their names what they are")]
pub mod journal;
mod keys;
mod migrations;
mod opening;
mod outbox;
mod peer_values;
mod receipt_values;
mod receipts;
mod record;
mod room;
mod self_check;
mod server_keys;
mod space;
#[cfg(any(test, feature = "testing"))]
pub mod stored_forms;
mod stream;
mod values;
pub mod verify;
mod views;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ruma::OwnedServerName;
use thiserror::Error;
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::commit::{CommitListener, CommitSink, NobodyListens, Stores};

pub use self::handle::{CloseError, Handle};
pub use self::opening::IndexReport;
pub use self::space::{DiskSpace, FreeSpace, Space};

use self::checkpoint::Inspection;
use self::checkpoint::error::CheckpointError;
use self::journal::error::JournalError;
use self::journal::files::{JournalFiles, RealFiles};
use self::journal::{Journal, JournalOptions, JournalPosition, Recovery, SEGMENT_BYTES};
use self::migrations::Origin;
use self::opening::{Found, Places, catch_up, index_error};
use self::space::SpaceGuard;
use self::views::Views;
use self::writer::WriterOptions;

/// Commits that may wait for the writer. Source: LIMITS section 4.
pub const QUEUE_CAPACITY: usize = 4096;
/// Bytes of journal that a checkpoint is worth. Source: DESIGN section 4.
pub const CHECKPOINT_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// Name of the lock file in the data directory.
const LOCK_FILE: &str = "lock";

/// What the engine is opened with.
#[derive(Clone)]
pub struct Options {
    /// The data directory; made if absent.
    pub dir: PathBuf,
    /// Whose data it is.
    pub server_name: OwnedServerName,
    /// What sled may cache, in bytes.
    pub cache_bytes: u64,
    /// Free space below which writes are refused, in bytes; 5 % of the disk if that is less.
    pub min_free_bytes: u64,
    /// The file system of journal and checkpoints. Lock file and sled are always on the machine's.
    pub files: Arc<dyn JournalFiles>,
    /// The disk under the data directory.
    pub free_space: Arc<dyn FreeSpace>,
    /// Hears of commits.
    pub listener: Arc<dyn CommitListener>,
    /// Commits that may wait, [`QUEUE_CAPACITY`] unless a test fills it.
    pub queue_capacity: usize,
    /// Random: keeps content that a peer chose from passing as a journal record.
    pub journal_salt: u64,
    /// Bytes of journal after which a checkpoint is taken, if the last checkpoint is not twice as large.
    pub checkpoint_journal_bytes: u64,
    /// Bytes after which the journal goes on in a new segment.
    pub segment_bytes: u64,
    /// First and longest pause between attempts to write again after a failure. The disk has room again long before somebody tells us.
    pub recovery_pauses: (Duration, Duration),
    /// What becomes of the look-up store.
    pub index: IndexChoice,
}

/// What becomes of the look-up store at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexChoice {
    /// It is kept if it follows the journal, else built anew.
    Keep,
    /// It is built anew, and what it knew about the journal does not count: the way out of a journal whose end is damaged.
    Rebuild,
}

impl Options {
    /// Options for the machine's file system, without a listener.
    pub fn new(dir: impl Into<PathBuf>, server_name: OwnedServerName, journal_salt: u64) -> Self {
        let dir = dir.into();
        Self {
            free_space: Arc::new(DiskSpace { dir: dir.clone() }),
            dir,
            server_name,
            cache_bytes: 64 * 1024 * 1024,
            min_free_bytes: 256 * 1024 * 1024,
            files: Arc::new(RealFiles),
            listener: Arc::new(NobodyListens),
            queue_capacity: QUEUE_CAPACITY,
            journal_salt,
            checkpoint_journal_bytes: CHECKPOINT_JOURNAL_BYTES,
            segment_bytes: SEGMENT_BYTES,
            recovery_pauses: (Duration::from_millis(50), Duration::from_secs(1)),
            index: IndexChoice::Keep,
        }
    }
}

/// An open engine.
pub struct Opened {
    /// What the rest of the program gets.
    pub stores: Stores,
    /// What opening found and did.
    pub report: OpenReport,
    /// Closes, backs up, checks.
    pub handle: Handle,
}

/// What opening found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The data directory was made.
    pub is_new: bool,
    /// What was found in the journal.
    pub journal: Recovery,
    /// Up to where a checkpoint stands in for the journal.
    pub checkpoint: Option<JournalPosition>,
    /// What was done to the look-up store.
    pub index: IndexReport,
    /// Events whose hashes were computed again.
    pub events_checked: usize,
    /// The position of the newest change.
    pub position: StreamPosition,
}

/// Why the engine cannot be opened. Nothing durable was changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process holds the data directory.
    #[error("{} is locked by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The data belong to another server.
    #[error("the data belong to {found}, not to {expected}")]
    OtherServer {
        /// Whose they are.
        found: OwnedServerName,
        /// Who asked.
        expected: OwnedServerName,
    },
    /// Written by a newer Vestibule.
    #[error("the data have format {found}, newer than {supported}")]
    NewerFormat {
        /// Their format.
        found: u32,
        /// The newest that is understood.
        supported: u32,
    },
    /// What was durable is not what it was. `vestibule rebuild` or `vestibule restore` may help.
    #[error("{what}; `vestibule rebuild` keeps what can be read, `vestibule restore` goes back to a backup")]
    Damaged {
        /// Which file or record.
        what: String,
        /// What was wrong with it.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// sled cannot be opened, not even an empty one.
    #[error("the look-up store cannot be made: {reason}")]
    Index {
        /// In sled's words.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Io { operation, path, source } => Self::Io { operation, path, source },
            JournalError::NewerFormat { found, supported, .. } => Self::NewerFormat { found, supported },
            other => Self::Damaged { what: "the journal cannot be read".to_owned(), source: Some(Box::new(other)) },
        }
    }
}

impl From<CheckpointError> for OpenError {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Io { operation, path, source } => Self::Io { operation, path, source },
            CheckpointError::NewerFormat { found, supported, .. } => Self::NewerFormat { found, supported },
            other => Self::Damaged { what: "a checkpoint cannot be read".to_owned(), source: Some(Box::new(other)) },
        }
    }
}

/// The embedded engine.
#[derive(Clone, Copy, Debug)]
pub struct SledStorage;

impl SledStorage {
    /// Opens the data directory and starts the writer. Blocks: reads the journal, and builds the look-up store anew if it must.
    ///
    /// # Errors
    /// [`OpenError`]; the directory can be opened again.
    pub fn open(options: Options) -> Result<Opened, OpenError> {
        let (ground, writer_options, is_new) = Ground::prepare(options)?;
        let Ground { lock, places, journal, recovery, checkpoint, index, index_report, events_checked } = ground;
        let position = StreamPosition(journal.durable().0);
        let report = OpenReport {
            is_new,
            journal: recovery,
            checkpoint: checkpoint.as_ref().map(|checkpoint| checkpoint.position),
            index: index_report,
            events_checked,
            position,
        };
        let views = Arc::new(Views::new(index, position));
        let started = writer::start(writer_options, places.clone(), journal, checkpoint, Arc::clone(&views));
        let (sink, thread) = started.map_err(|source| OpenError::Io {
            operation: "start the writer's thread for",
            path: places.dir.clone(),
            source,
        })?;
        let writer: Arc<dyn CommitSink> = Arc::new(sink.clone());
        let stores = Stores {
            rooms: Arc::new(room::Rooms { views: Arc::clone(&views) }),
            accounts: Arc::new(accounts::Accounts { views: Arc::clone(&views) }),
            device_keys: Arc::new(device_keys::DeviceKeys { views: Arc::clone(&views) }),
            inboxes: Arc::new(device_keys::DeviceKeys { views: Arc::clone(&views) }),
            server_keys: Arc::new(server_keys::ServerKeys { views: Arc::clone(&views), writer: Arc::clone(&writer) }),
            outbox: Arc::new(outbox::Outbox { views: Arc::clone(&views) }),
            receipts: Arc::new(receipts::Receipts { views: Arc::clone(&views) }),
            stream: Arc::new(stream::Stream { views: Arc::clone(&views) }),
            writer,
        };
        let handle = Handle::new(lock, places, views, sink, thread);
        Ok(Opened { stores, report, handle })
    }

    /// Builds the look-up store anew on a stopped server, and closes. A damaged end of the journal is cut. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; a journal that is damaged before its end cannot be helped.
    pub fn rebuild(options: Options) -> Result<OpenReport, OpenError> {
        let opened = Self::open(Options { index: IndexChoice::Rebuild, ..options })?;
        let closed = opened.handle.close();
        closed.map_err(|error| OpenError::Index { reason: error.to_string() })?;
        Ok(opened.report)
    }
}

/// A data directory that is locked, sound and brought up to date, before anything writes to it.
struct Ground {
    lock: File,
    places: Places,
    journal: Journal,
    recovery: Recovery,
    checkpoint: Option<checkpoint::Checkpoint>,
    index: index::Index,
    index_report: IndexReport,
    events_checked: usize,
}

impl Ground {
    fn prepare(options: Options) -> Result<(Self, WriterOptions, bool), OpenError> {
        let places = Places::of(&options);
        let lock = lock(&places.dir, options.files.as_ref())?;
        let origin = migrations::examine(options.files.as_ref(), &places.dir, &options.server_name)?;
        if origin == Origin::New {
            refuse_data_without_format(&places)?;
            migrations::establish(options.files.as_ref(), &places.dir, &options.server_name)?;
        }
        let found = match options.index {
            IndexChoice::Keep => places.find_index(),
            IndexChoice::Rebuild => Found::Unusable { why: "a rebuild was asked for".to_owned() },
        };
        let known_durable = match &found {
            Found::Index { mark, .. } => mark.applied,
            Found::Empty { .. } | Found::Unusable { .. } => JournalPosition(0),
            // The journal is not judged without what the look-up store knows of it.
            Found::OutOfReach(error) => return Err(index_error(error.clone())),
        };
        let Promised { journal, recovery, checkpoint } = Promised::open(&places, &options, known_durable)?;
        let checkpoint_position = checkpoint.as_ref().map(|checkpoint| checkpoint.position);
        let (mut index, mut index_report) = catch_up(&places, found, &journal, checkpoint_position)?;
        let events_checked = match self_check::check_events(&index, options.journal_salt) {
            Ok(checked) => checked,
            Err(what) => {
                drop(index);
                let found = Found::Unusable { why: what };
                (index, index_report) = catch_up(&places, found, &journal, checkpoint_position)?;
                self_check::check_events(&index, options.journal_salt)
                    .map_err(|what| OpenError::Damaged { what, source: None })?
            }
        };
        match &index_report {
            IndexReport::Kept { .. } => places.forget_set_aside(),
            IndexReport::Rebuilt { why, entries, replayed } => {
                log::warn!(why:%, entries, replayed; "look-up store built anew");
            }
        }
        let writer_options = WriterOptions {
            listener: options.listener,
            space: SpaceGuard { disk: options.free_space, min_free_bytes: options.min_free_bytes },
            queue_capacity: options.queue_capacity,
            checkpoint_journal_bytes: options.checkpoint_journal_bytes,
            recovery_pauses: options.recovery_pauses,
        };
        let is_new = origin == Origin::New;
        let ground = Self { lock, places, journal, recovery, checkpoint, index, index_report, events_checked };
        Ok((ground, writer_options, is_new))
    }
}

/// What was promised: the newest checkpoint and the journal after it.
struct Promised {
    journal: Journal,
    recovery: Recovery,
    checkpoint: Option<checkpoint::Checkpoint>,
}

impl Promised {
    fn open(places: &Places, options: &Options, known_durable: JournalPosition) -> Result<Self, OpenError> {
        let checkpoints = places.with_checkpoints(|checkpoints| checkpoints.find(Inspection::Ends))?;
        for (position, error) in &checkpoints.damaged {
            log::warn!(position = position.0, error:% = error; "checkpoint passed over");
        }
        let checkpoint = checkpoints.newest;
        let first_needed = checkpoint.as_ref().map_or(JournalPosition(1), |checkpoint| checkpoint.position.next());
        let journal_options = JournalOptions {
            first_needed,
            known_durable,
            segment_bytes: options.segment_bytes,
            ..JournalOptions::new(places.identity.clone(), options.journal_salt)
        };
        let (journal, recovery) = open_journal(places, journal_options)?;
        if let Some(torn) = recovery.torn {
            log::warn!(segment = torn.segment, offset = torn.offset, bytes = torn.bytes; "torn end of the journal cut");
        }
        Ok(Self { journal, recovery, checkpoint })
    }
}

/// Takes the data directory for this process. Held as long as the file is open.
fn lock(dir: &Path, files: &dyn JournalFiles) -> Result<File, OpenError> {
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { operation, path, source }
    };
    std::fs::create_dir_all(dir).map_err(io("make", dir))?;
    files.ensure_dir(dir).map_err(io("make", dir))?;
    let path = dir.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
    match fs4::FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(fs4::TryLockError::WouldBlock) => Err(OpenError::Locked { path }),
        Err(fs4::TryLockError::Error(source)) => Err(io("lock", &path)(source)),
    }
}

/// A journal without the file that says whose it is was not left so by us.
fn refuse_data_without_format(places: &Places) -> Result<(), OpenError> {
    let dir = places.journal_dir();
    let names = match places.files.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(OpenError::Io { operation: "list", path: dir, source }),
        Ok(names) => names,
    };
    if names.is_empty() {
        return Ok(());
    }
    Err(OpenError::Damaged { what: format!("{} is missing beside a journal", migrations::FILE_NAME), source: None })
}

fn open_journal(places: &Places, options: JournalOptions) -> Result<(Journal, Recovery), OpenError> {
    let dir = places.journal_dir();
    let known_durable = options.known_durable;
    let opened = Journal::open(Arc::clone(&places.files), &dir, options.clone());
    match opened {
        // The look-up store is ahead of a sound journal: an older journal was put into its place. The journal is what counts. But where
        // nothing of a journal is left, nothing says that it ever was an older one.
        Err(JournalError::Missing { needed, first, last })
            if needed == known_durable && last < needed && last >= first && known_durable > JournalPosition(0) =>
        {
            log::error!(index = needed.0, journal = last.0; "look-up store is ahead of the journal and will be built anew");
            let options = JournalOptions { known_durable: JournalPosition(0), ..options };
            Ok(Journal::open(Arc::clone(&places.files), &dir, options)?)
        }
        other => Ok(other?),
    }
}
