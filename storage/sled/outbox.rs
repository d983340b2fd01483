//! Reads what must still reach other servers.
//! May not: write, or read the rows of a destination to learn its name.

use std::ops::Bound;
use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    Read,
    error::StorageError,
    outbox::{EduContent, OutboxPlace, OutboxReader, OutboxRow, QueuedEdu},
};

use crate::draft::outbox_key;
use crate::fields::StoredForm;
use crate::index::{Entry, Index};
use crate::keys::{Key, KeyParts, Table};
use crate::peer_values::OutboxValue;
use crate::values::parsed;
use crate::views::{Subject, Views, scan};

/// Reads the outbox from the look-up store.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) views: Arc<Views>,
}

impl Outbox {
    /// What is queued for one destination in a table, after a place.
    fn page<'a, T: Send + 'static>(
        &self,
        table: Table,
        row: fn(Entry) -> Result<T, StorageError>,
        (destination, after, limit): (&ServerName, Option<OutboxPlace>, usize),
    ) -> Read<'a, Vec<T>> {
        let rows = Key::of(table).text(destination.as_str());
        let begin = match after {
            Some(after) => Bound::Excluded(outbox_key(table, destination, after).into_bytes()),
            None => Bound::Included(rows.as_bytes().to_vec()),
        };
        let range = (begin, Bound::Excluded(rows.after()));
        scan(&self.views, Subject::server(destination), move |index| {
            index.range(range.clone()).take(limit).map(|entry| row(entry?)).collect()
        })
    }
}

impl OutboxReader for Outbox {
    fn destinations<'a>(&'a self, after: Option<&'a ServerName>, limit: usize) -> Read<'a, Vec<OwnedServerName>> {
        let after = after.map(ToOwned::to_owned);
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let mut destinations = Vec::new();
            let mut last = after.clone();
            while destinations.len() < limit {
                let with_rows = next_destination(index, Table::Outbox, last.as_deref())?;
                let with_edus = next_destination(index, Table::EduOutbox, last.as_deref())?;
                let Some(next) = with_rows.into_iter().chain(with_edus).min() else { break };
                last = Some(next.clone());
                destinations.push(next);
            }
            Ok(destinations)
        })
    }

    fn pending<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<OutboxRow>> {
        self.page(Table::Outbox, row, (destination, after, limit))
    }

    fn edus<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<QueuedEdu>> {
        self.page(Table::EduOutbox, edu, (destination, after, limit))
    }
}

/// The next name with rows in a table. One row says that a destination has some; the next name stands behind all of them.
fn next_destination(
    index: &Index,
    table: Table,
    after: Option<&ServerName>,
) -> Result<Option<OwnedServerName>, StorageError> {
    let rows = Key::of(table);
    let first = after.map_or_else(|| rows.as_bytes().to_vec(), |after| rows.clone().text(after.as_str()).after());
    let Some(entry) = index.range(first..rows.after()).next() else { return Ok(None) };
    let (key, _) = entry?;
    KeyParts::of(&key).text().as_deref().and_then(parsed).ok_or_else(damaged).map(Some)
}

fn place(key: &[u8]) -> Result<OutboxPlace, StorageError> {
    let mut parts = KeyParts::of(key);
    let position = parts.text().and_then(|_| parts.number()).ok_or_else(damaged)?;
    Ok(OutboxPlace { position: StreamPosition(position), index: parts.part().ok_or_else(damaged)? })
}

fn row((key, value): Entry) -> Result<OutboxRow, StorageError> {
    let place = place(&key)?;
    let OutboxValue { room_id, event_id, delivery } = OutboxValue::from_bytes(&value)?;
    Ok(OutboxRow { place, room_id, event_id, delivery })
}

fn edu((key, value): Entry) -> Result<QueuedEdu, StorageError> {
    Ok(QueuedEdu { place: place(&key)?, content: EduContent::from_bytes(&value)? })
}

fn damaged() -> StorageError {
    StorageError::Corrupt { what: "key of an outbox row".to_owned() }
}
