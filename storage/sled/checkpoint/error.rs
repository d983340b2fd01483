//! What can go wrong with a checkpoint.
//! May not: leave open whether there is a new checkpoint.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::format::ENTRY_BYTES_MAX;
use crate::journal::JournalPosition;
use crate::journal::segment::IDENTITY_BYTES_MAX;

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused. While writing: there is no new checkpoint.
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// The source of the entries failed; there is no new checkpoint.
    #[error("the entries for a checkpoint cannot be read")]
    Entries { source: Box<dyn Error + Send + Sync> },
    /// The source's keys do not ascend; there is no new checkpoint.
    #[error("the entries for a checkpoint are not sorted at number {entry}")]
    NotSorted { entry: u64 },
    /// An entry is larger than [`ENTRY_BYTES_MAX`]; there is no new checkpoint.
    #[error("entry {entry} for a checkpoint has {bytes} bytes, more than {ENTRY_BYTES_MAX}")]
    EntryTooLarge { entry: u64, bytes: usize },
    /// The identity is longer than [`IDENTITY_BYTES_MAX`].
    #[error("checkpoint identity has {bytes} bytes, more than {IDENTITY_BYTES_MAX}")]
    IdentityTooLong { bytes: usize },
    /// Written by a newer Vestibule.
    #[error("checkpoint {} has format {found}, newer than {supported}", position.0)]
    NewerFormat { position: JournalPosition, found: u32, supported: u32 },
    /// Written for another server or data directory.
    #[error("checkpoint {} belongs to {found:?}, not to {expected:?}", position.0)]
    WrongIdentity { position: JournalPosition, found: String, expected: String },
    /// What was once durable is not there any more.
    #[error("checkpoint {} is damaged at byte {offset}", position.0)]
    Damaged { position: JournalPosition, offset: u64 },
}

impl CheckpointError {
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { operation, path: path.to_owned(), source }
    }
}
