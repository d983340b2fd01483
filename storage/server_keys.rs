//! What is kept of other servers' signing keys, so that a restart does not ask for them all again.
//! May not: judge signatures, fetch, or decide whether a key is still valid.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName};

use crate::error::StorageError;

/// One server's keys as they were last accepted by the keyring.
///
/// The key material is unpadded base64, as it stood in the signed document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredServerKeys {
    /// Whose keys these are.
    pub server_name: OwnedServerName,
    /// Keys that sign requests and events.
    pub verify_keys: BTreeMap<OwnedServerSigningKeyId, String>,
    /// Keys that sign events only. Also holds keys that later documents no longer mention.
    pub old_verify_keys: BTreeMap<OwnedServerSigningKeyId, StoredOldKey>,
    /// End of the validity that the server gave to `verify_keys`, in milliseconds since the Unix epoch.
    pub valid_until_ts: u64,
    /// When we got the document, by our own wall clock, in milliseconds since the Unix epoch.
    pub fetched_at_ms: u64,
    /// The document as signed by the server, for answering as a notary.
    pub signed_json: String,
}

/// A key that its server no longer signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOldKey {
    /// The public key in unpadded base64.
    pub key: String,
    /// Last moment for which the key verifies events, in milliseconds since the Unix epoch.
    pub expired_ts: u64,
}

/// Keeps one [`StoredServerKeys`] for each server name.
pub trait ServerKeyStore: Send + Sync {
    /// The keys last stored for `server`, or `None` if there were never any.
    ///
    /// # Errors
    /// A [`StorageError`] that says why the store could not be read; nothing changes.
    fn lookup<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<Option<StoredServerKeys>, StorageError>>;

    /// Replaces what is stored for `keys.server_name`. Durable when it returns `Ok`.
    ///
    /// # Errors
    /// A [`StorageError`]; keys are a cache, so the caller may carry on with what it holds.
    fn store(&self, keys: StoredServerKeys) -> BoxFuture<'_, Result<(), StorageError>>;
}
