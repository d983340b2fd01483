//! What can go wrong with a journal.
//! May not: say more than what is known. A batch whose sync failed is neither written nor not written.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::JournalPosition;
use super::segment::{IDENTITY_BYTES_MAX, RECORD_BYTES_MAX};

/// Why a journal cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused. Nothing is known about the journal.
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// Written by a newer Vestibule.
    #[error("journal segment {segment} has format {found}, newer than {supported}")]
    NewerFormat { segment: u64, found: u32, supported: u32 },
    /// Written for another server or data directory.
    #[error("journal segment {segment} belongs to {found:?}, not to {expected:?}")]
    WrongIdentity { segment: u64, found: String, expected: String },
    /// What was once durable is not there any more.
    #[error("journal segment {segment} is damaged at byte {offset}")]
    Damaged { segment: u64, offset: u64 },
    /// The journal does not hold a record that it must hold.
    #[error("journal holds the records from {} to {}, but {} is needed", first.0, last.0, needed.0)]
    Missing { needed: JournalPosition, first: JournalPosition, last: JournalPosition },
    /// The identity is longer than [`IDENTITY_BYTES_MAX`].
    #[error("journal identity has {bytes} bytes, more than {IDENTITY_BYTES_MAX}")]
    IdentityTooLong { bytes: usize },
}

impl JournalError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { operation, path: path.to_owned(), source }
    }
}

/// Why a record was not taken. It was not written and never will be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A write or sync failed and [`Journal::recover`](super::Journal::recover) has not yet succeeded.
    #[error("the journal refuses writes until it has recovered")]
    Refused,
    /// Larger than [`RECORD_BYTES_MAX`].
    #[error("record has {bytes} bytes, more than {RECORD_BYTES_MAX}")]
    TooLarge { bytes: usize },
    /// The batch holds [`BATCH_BYTES_MAX`](super::BATCH_BYTES_MAX); sync first.
    #[error("the batch is full")]
    BatchFull,
}

/// Why a batch is not known to be durable.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A write or sync failed earlier and [`Journal::recover`](super::Journal::recover) has not yet succeeded. Nothing was pending.
    #[error("the journal refuses writes until it has recovered")]
    Refused,
    /// The outcome of these records is unknown until [`Journal::recover`](super::Journal::recover) succeeds: then they are not written, for good. If the process
    /// ends before that, they may appear at the next start.
    #[error("journal batch from {} to {} was not made durable", unknown.start().0, unknown.end().0)]
    OutcomeUnknown { unknown: RangeInclusive<JournalPosition>, source: io::Error },
    /// The batch is durable (or was empty), but the segment after it could not be started. Writes are refused until
    /// [`Journal::recover`](super::Journal::recover) succeeds.
    #[error("a new journal segment could not be started")]
    SegmentNotStarted { source: io::Error },
}
