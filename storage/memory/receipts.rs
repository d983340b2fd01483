//! Receipts of the reference model.
//! May not: know which of two is further on.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId, UserId};
use vestibule_protocol::stream::StreamPosition;

use super::{MemoryStorage, kept::Kept};
use crate::{
    Read,
    receipts::{ReceiptCommit, ReceiptReader, StoredReceipt},
};

impl Kept {
    pub(super) fn apply_receipts(&mut self, commit: &ReceiptCommit, position: StreamPosition) {
        for slot in &commit.removed {
            self.receipts.remove(&(commit.room_id.clone(), slot.clone()));
        }
        for receipt in &commit.set {
            let key = (commit.room_id.clone(), receipt.slot.clone());
            self.receipts.insert(key, StoredReceipt { receipt: receipt.clone(), position });
        }
    }
}

impl ReceiptReader for MemoryStorage {
    fn receipts_since<'a>(
        &'a self,
        rooms: &'a [(OwnedRoomId, StreamPosition)],
        limit: usize,
    ) -> Read<'a, BTreeMap<OwnedRoomId, Vec<StoredReceipt>>> {
        self.read(|kept| {
            let mut found = BTreeMap::new();
            for (room_id, since) in rooms {
                let of_room = kept.receipts.iter().filter(|((room, _), _)| room == room_id).map(|(_, stored)| stored);
                let mut newer: Vec<StoredReceipt> =
                    of_room.filter(|stored| stored.position > *since).cloned().collect();
                newer.sort_by(|a, b| (b.position, &b.receipt.slot).cmp(&(a.position, &a.receipt.slot)));
                newer.truncate(limit);
                if !newer.is_empty() {
                    found.insert(room_id.clone(), newer);
                }
            }
            Ok(found)
        })
    }

    fn receipts_of<'a>(&'a self, room_id: &'a RoomId, user_id: &'a UserId) -> Read<'a, Vec<StoredReceipt>> {
        self.read(|kept| {
            let of_user = kept.receipts.iter().filter(|((room, slot), _)| room == room_id && slot.user_id == user_id);
            Ok(of_user.map(|(_, stored)| stored.clone()).collect())
        })
    }
}
