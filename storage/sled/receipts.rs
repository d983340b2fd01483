//! Reads receipts.
//! May not: write, or read what is not new to find what is.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{OwnedRoomId, RoomId, UserId};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    Read,
    error::StorageError,
    receipts::{Receipt, ReceiptKind, ReceiptReader, ReceiptSlot, ReceiptThread, StoredReceipt},
};

use crate::draft::receipt_key;
use crate::fields::StoredForm;
use crate::index::Index;
use crate::keys::{Key, KeyParts, Table};
use crate::receipt_values::ReceiptValue;
use crate::values::parsed;
use crate::views::{Subject, Views, scan};

/// Reads receipts from the look-up store.
#[derive(Debug)]
pub(crate) struct Receipts {
    pub(crate) views: Arc<Views>,
}

impl ReceiptReader for Receipts {
    fn receipts_since<'a>(
        &'a self,
        rooms: &'a [(OwnedRoomId, StreamPosition)],
        limit: usize,
    ) -> Read<'a, BTreeMap<OwnedRoomId, Vec<StoredReceipt>>> {
        let rooms = rooms.to_vec();
        // A receipt that moves meanwhile may be read in neither place: the newest come first, and it went there. Whoever asked
        // knows a position from before that, and is given it when they ask for what came after.
        scan(&self.views, Subject::SINGLE, move |index| {
            let mut found = BTreeMap::new();
            for (room_id, since) in &rooms {
                let newer = newer(index, room_id, *since, limit)?;
                if !newer.is_empty() {
                    found.insert(room_id.clone(), newer);
                }
            }
            Ok(found)
        })
    }

    fn receipts_of<'a>(&'a self, room_id: &'a RoomId, user_id: &'a UserId) -> Read<'a, Vec<StoredReceipt>> {
        let of_user = Key::of(Table::Receipt).text(room_id.as_str()).text(user_id.as_str());
        scan(&self.views, Subject::SINGLE, move |index| {
            let entries = index.under(&of_user).map(|entry| {
                let (key, value) = entry?;
                let mut parts = KeyParts::of(&key);
                let slot = parts.text().and_then(|_| slot(parts)).ok_or_else(damaged)?;
                Ok(stored(slot, ReceiptValue::from_bytes(&value)?))
            });
            entries.collect()
        })
    }
}

fn newer(
    index: &Index,
    room_id: &RoomId,
    since: StreamPosition,
    limit: usize,
) -> Result<Vec<StoredReceipt>, StorageError> {
    let Some(first) = since.0.checked_add(1) else { return Ok(Vec::new()) };
    let of_room = Key::of(Table::ReceiptChange).text(room_id.as_str());
    let changes = index.range(of_room.clone().number(first).into_bytes()..of_room.after());
    let mut found = Vec::new();
    for entry in changes.rev().take(limit) {
        let (key, _) = entry?;
        let mut parts = KeyParts::of(&key);
        let slot = parts.text().and_then(|_| parts.number()).and_then(|_| slot(parts)).ok_or_else(damaged)?;
        let value: Option<ReceiptValue> = index.value(&receipt_key(room_id, &slot))?;
        found.extend(value.map(|value| stored(slot, value)));
    }
    Ok(found)
}

fn stored(slot: ReceiptSlot, value: ReceiptValue) -> StoredReceipt {
    let ReceiptValue { event_id, at, position } = value;
    StoredReceipt { receipt: Receipt { slot, event_id, at }, position: StreamPosition(position) }
}

fn slot(mut parts: KeyParts<'_>) -> Option<ReceiptSlot> {
    let user_id = parsed(&parts.text()?)?;
    let kind = match parts.part()? {
        0 => ReceiptKind::Public,
        1 => ReceiptKind::Private,
        _ => return None,
    };
    let thread = match parts.part()? {
        0 => ReceiptThread::Unthreaded,
        1 => ReceiptThread::Main,
        2 => ReceiptThread::Root(parsed(parts.last()?)?),
        _ => return None,
    };
    Some(ReceiptSlot { user_id, kind, thread })
}

fn damaged() -> StorageError {
    StorageError::Corrupt { what: "key of a receipt".to_owned() }
}
