//! Receipts as puts and deletes.
//! May not: leave a receipt in the order of changes that another has replaced.

use ruma::RoomId;
use vestibule_storage::{
    commit::CommitError,
    receipts::{ReceiptCommit, ReceiptKind, ReceiptSlot, ReceiptThread},
};

use super::Draft;
use crate::keys::{Key, Table};
use crate::receipt_values::ReceiptValue;

impl Draft<'_> {
    pub(super) fn receipts(&mut self, commit: &ReceiptCommit) -> Result<(), CommitError> {
        let room_id = &commit.room_id;
        for slot in &commit.removed {
            self.forget_receipt(room_id, slot)?;
        }
        for receipt in &commit.set {
            self.forget_receipt(room_id, &receipt.slot)?;
            let value = ReceiptValue { event_id: receipt.event_id.clone(), at: receipt.at, position: self.position.0 };
            self.put_key(receipt_change_key(room_id, value.position, &receipt.slot));
            self.put(receipt_key(room_id, &receipt.slot), &value);
        }
        Ok(())
    }

    fn forget_receipt(&mut self, room_id: &RoomId, slot: &ReceiptSlot) -> Result<(), CommitError> {
        let key = receipt_key(room_id, slot);
        if let Some(old) = self.value::<ReceiptValue>(&key)? {
            self.delete(receipt_change_key(room_id, old.position, slot));
            self.delete(key);
        }
        Ok(())
    }
}

/// Where a receipt is kept.
pub(crate) fn receipt_key(room_id: &RoomId, slot: &ReceiptSlot) -> Key {
    with_slot(Key::of(Table::Receipt).text(room_id.as_str()), slot)
}

fn receipt_change_key(room_id: &RoomId, position: u64, slot: &ReceiptSlot) -> Key {
    with_slot(Key::of(Table::ReceiptChange).text(room_id.as_str()).number(position), slot)
}

/// Keys sort as slots do.
fn with_slot(begin: Key, slot: &ReceiptSlot) -> Key {
    let kind = match slot.kind {
        ReceiptKind::Public => 0,
        ReceiptKind::Private => 1,
    };
    let (thread, root) = match &slot.thread {
        ReceiptThread::Unthreaded => (0, ""),
        ReceiptThread::Main => (1, ""),
        ReceiptThread::Root(root) => (2, root.as_str()),
    };
    begin.text(slot.user_id.as_str()).part(kind).part(thread).last(root)
}
