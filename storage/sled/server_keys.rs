//! Keeps other servers' keys.
//! May not: judge them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::ServerName;
use vestibule_storage::{
    commit::{Commit, CommitError, CommitSink},
    error::StorageError,
    server_keys::{ServerKeyStore, StoredServerKeys},
};

use crate::keys::{Key, Table};
use crate::views::{Subject, Views, point};

/// Reads keys from the look-up store and writes them through the writer.
pub(crate) struct ServerKeys {
    pub(crate) views: Arc<Views>,
    pub(crate) writer: Arc<dyn CommitSink>,
}

impl ServerKeyStore for ServerKeys {
    fn lookup<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Option<StoredServerKeys>, StorageError>> {
        point(&self.views, Subject::SINGLE, move |index| index.value(&Key::of(Table::ServerKeys).last(server.as_str())))
    }

    fn store(&self, keys: StoredServerKeys) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let not_written = |reason: String| StorageError::NotWritten { reason };
            let slot = self.writer.reserve().map_err(|no_slot| not_written(no_slot.to_string()))?;
            match self.writer.enqueue(slot, Commit::ServerKeys(Box::new(keys))).await {
                Ok(_) => Ok(()),
                Err(CommitError::Storage(error)) => Err(error),
                Err(refusal) => Err(not_written(refusal.to_string())),
            }
        })
    }
}
