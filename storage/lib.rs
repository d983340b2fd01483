//! What is kept, as traits: readers and one commit sink, which every engine implements.
//! May not: name an engine, decide a rule, or know of HTTP.
//!
//! Readers and the sink are different handles, so that who may only look cannot write. All reads see committed changes
//! only: what a read returns is durable.

#![warn(missing_docs)]

pub mod accounts;
pub mod commit;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod device_keys;
pub mod error;
#[cfg(feature = "testing")]
pub mod memory;
pub mod outbox;
pub mod receipts;
pub mod room;
pub mod server_keys;
pub mod stream;
pub mod to_device;

use futures_util::future::BoxFuture;

/// What every read returns: a future that any runtime can poll, with a storage error when the engine failed.
pub type Read<'a, T> = BoxFuture<'a, Result<T, error::StorageError>>;
