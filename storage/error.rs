//! What can go wrong while keeping things, told by whether it happened.
//! May not: carry engine types or text meant for users.

use thiserror::Error;

/// A failure of the store. Never a refusal: refusals are facts about requests.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// Nothing was written, and nothing of it will appear later.
    #[error("not written: {reason}")]
    NotWritten {
        /// For the log.
        reason: String,
    },
    /// The write may or may not be there; memory that assumes either must be thrown away and read again.
    #[error("outcome of the write unknown: {reason}")]
    OutcomeUnknown {
        /// For the log.
        reason: String,
    },
    /// Free disk space is below `storage.min_free`: writes are refused, reads work.
    #[error("not enough free disk space")]
    DiskFull,
    /// The engine cannot be read at the moment.
    #[error("storage unavailable: {reason}")]
    Unavailable {
        /// For the log.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("stored data damaged: {what}")]
    Corrupt {
        /// Which row or file.
        what: String,
    },
}
