//! Reads what must still reach other servers.
//! May not: write, or read the rows of a destination to learn its name.

use std::ops::Bound;
use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    Read,
    error::StorageError,
    outbox::{OutboxPlace, OutboxReader, OutboxRow},
};

use crate::draft::outbox_key;
use crate::fields::StoredForm;
use crate::keys::{Key, KeyParts, Table};
use crate::peer_values::OutboxValue;
use crate::values::parsed;
use crate::views::{Subject, Views, scan};

/// Reads the outbox from the look-up store.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) views: Arc<Views>,
}

impl OutboxReader for Outbox {
    fn destinations<'a>(&'a self, after: Option<&'a ServerName>, limit: usize) -> Read<'a, Vec<OwnedServerName>> {
        let table = Key::of(Table::Outbox);
        let first = after.map_or_else(|| table.as_bytes().to_vec(), after_rows_of);
        let end = table.after();
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let mut destinations = Vec::new();
            let mut begin = first.clone();
            while destinations.len() < limit {
                // One row says that a destination has some; the next name stands behind all of them.
                let Some(entry) = index.range(begin..end.clone()).next() else { break };
                let (key, _) = entry?;
                let destination: OwnedServerName =
                    KeyParts::of(&key).text().as_deref().and_then(parsed).ok_or_else(damaged)?;
                begin = after_rows_of(&destination);
                destinations.push(destination);
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
        let rows = Key::of(Table::Outbox).text(destination.as_str());
        let begin = match after {
            Some(after) => Bound::Excluded(outbox_key(destination, after).into_bytes()),
            None => Bound::Included(rows.as_bytes().to_vec()),
        };
        let end = Bound::Excluded(rows.after());
        scan(&self.views, Subject::server(destination), move |index| {
            index.range((begin.clone(), end.clone())).take(limit).map(|entry| row(entry?)).collect()
        })
    }
}

fn after_rows_of(destination: &ServerName) -> Vec<u8> {
    Key::of(Table::Outbox).text(destination.as_str()).after()
}

fn row((key, value): (sled::IVec, sled::IVec)) -> Result<OutboxRow, StorageError> {
    let mut parts = KeyParts::of(&key);
    let position = parts.text().and_then(|_| parts.number()).ok_or_else(damaged)?;
    let place = OutboxPlace { position: StreamPosition(position), index: parts.part().ok_or_else(damaged)? };
    let OutboxValue { room_id, event_id, delivery } = OutboxValue::from_bytes(&value)?;
    Ok(OutboxRow { place, room_id, event_id, delivery })
}

fn damaged() -> StorageError {
    StorageError::Corrupt { what: "key of an outbox row".to_owned() }
}
