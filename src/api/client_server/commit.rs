//! Commits changes of accounts and waits until they are durable.
//! May not: decide what changes.

use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    accounts::AccountChange,
    commit::{Commit, Stores},
};

use crate::error::MatrixError;

/// Makes changes, all or none. Durable and readable when it returns.
///
/// # Errors
/// 429 or 503 when nothing can be written, what the table says of a conflict, 500 when the store failed.
pub async fn commit(stores: &Stores, changes: Vec<AccountChange>) -> Result<StreamPosition, MatrixError> {
    let slot = stores.writer.reserve()?;
    Ok(stores.writer.enqueue(slot, Commit::Accounts(changes)).await?)
}
