//! Takes receipts of a room, of users here and elsewhere, as far as they lead on.
//! May not: move a receipt back, to an event that is not shown here, or into another room; or judge who may set it.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedUserId, RoomId};
use vestibule_protocol::{
    membership::ReadRefusal,
    stream::{StreamPosition, TimelineOrder},
};
use vestibule_storage::{
    commit::{Commit, CommitError, Stores},
    error::StorageError,
    receipts::{Receipt, ReceiptCommit, ReceiptSlot, ReceiptThread, StoredReceipt},
};

use crate::AskError;

/// Threads of one room in which a user's receipts of one kind are kept; the ones moved the longest time ago go. Ours: as many
/// threads as somebody follows, and some 30 kB a user and room at worst.
pub const THREADS_MAX: usize = 100;

/// What became of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is kept, in the place of the one before.
    Moved,
    /// The user had read as far or further.
    Behind,
    /// No such event is shown in the room.
    UnknownEvent,
    /// No event that could be the root of the thread is in the room.
    UnknownThread,
}

/// Takes receipts of one room, in one commit; says what became of each. Those that moved are durable when it returns.
///
/// Two that are taken side by side for the same slot may move it back by what lies between them; the next one moves it on.
///
/// # Errors
/// `Overloaded`, and `Storage`: then none was taken, unless the commit's outcome is unknown.
pub async fn take(
    stores: &Stores,
    room_id: &RoomId,
    receipts: Vec<Receipt>,
) -> Result<Vec<(Receipt, Fate)>, AskError<ReadRefusal>> {
    let unreadable = |error: StorageError| AskError::Storage(CommitError::Storage(error));
    let mut held = held(stores, room_id, &receipts).await.map_err(unreadable)?;
    let places = places(stores, room_id, &receipts, &held).await.map_err(unreadable)?;
    let mut commit = ReceiptCommit { room_id: room_id.to_owned(), removed: Vec::new(), set: Vec::new() };
    let mut fates = Vec::new();
    for receipt in receipts {
        let held = held.entry(receipt.slot.user_id.clone()).or_default();
        let fate = fate(&receipt, held, &places);
        if fate == Fate::Moved {
            let crowded_out = crowded_out(&receipt.slot, held);
            held.retain(|stored| {
                stored.receipt.slot != receipt.slot && Some(&stored.receipt.slot) != crowded_out.as_ref()
            });
            commit.set.retain(|set| Some(&set.slot) != crowded_out.as_ref());
            commit.removed.extend(crowded_out);
            commit.set.push(receipt.clone());
            // For those behind it in this list it is as if it were kept.
            held.push(StoredReceipt { receipt: receipt.clone(), position: StreamPosition(u64::MAX) });
        }
        fates.push((receipt, fate));
    }
    if !commit.set.is_empty() {
        let slot = stores.writer.reserve()?;
        stores.writer.enqueue(slot, Commit::Receipts(commit)).await.map_err(AskError::Storage)?;
    }
    Ok(fates)
}

/// What the users have by now.
async fn held(
    stores: &Stores,
    room_id: &RoomId,
    receipts: &[Receipt],
) -> Result<BTreeMap<OwnedUserId, Vec<StoredReceipt>>, StorageError> {
    let users: BTreeSet<&OwnedUserId> = receipts.iter().map(|receipt| &receipt.slot.user_id).collect();
    let mut held = BTreeMap::new();
    for user_id in users {
        held.insert(user_id.clone(), stores.receipts.receipts_of(room_id, user_id).await?);
    }
    Ok(held)
}

/// The places in the room's timeline of all events that matter; those without one are left out.
async fn places(
    stores: &Stores,
    room_id: &RoomId,
    receipts: &[Receipt],
    held: &BTreeMap<OwnedUserId, Vec<StoredReceipt>>,
) -> Result<BTreeMap<OwnedEventId, TimelineOrder>, StorageError> {
    let mut ids: BTreeSet<&OwnedEventId> = BTreeSet::new();
    for receipt in receipts {
        ids.insert(&receipt.event_id);
        if let ReceiptThread::Root(root) = &receipt.slot.thread {
            ids.insert(root);
        }
        let before = held.get(&receipt.slot.user_id).map(Vec::as_slice).unwrap_or_default();
        ids.extend(in_slot(&receipt.slot, before).map(|stored| &stored.receipt.event_id));
    }
    let ids: Vec<OwnedEventId> = ids.into_iter().cloned().collect();
    let found = stores.rooms.events(room_id, &ids).await?;
    let placed = ids.into_iter().zip(found).filter_map(|(id, stored)| Some((id, stored?.order?)));
    Ok(placed.collect())
}

fn fate(receipt: &Receipt, before: &[StoredReceipt], places: &BTreeMap<OwnedEventId, TimelineOrder>) -> Fate {
    let Some(place) = places.get(&receipt.event_id) else { return Fate::UnknownEvent };
    if let ReceiptThread::Root(root) = &receipt.slot.thread
        && !places.contains_key(root)
    {
        return Fate::UnknownThread;
    }
    let before = in_slot(&receipt.slot, before).and_then(|stored| places.get(&stored.receipt.event_id));
    if before.is_some_and(|before| before >= place) { Fate::Behind } else { Fate::Moved }
}

fn in_slot<'a>(slot: &ReceiptSlot, held: &'a [StoredReceipt]) -> Option<&'a StoredReceipt> {
    held.iter().find(|stored| stored.receipt.slot == *slot)
}

/// The slot that must go for one more thread.
fn crowded_out(slot: &ReceiptSlot, held: &[StoredReceipt]) -> Option<ReceiptSlot> {
    let is_of_thread = |slot: &ReceiptSlot| matches!(slot.thread, ReceiptThread::Root(_));
    if !is_of_thread(slot) || in_slot(slot, held).is_some() {
        return None;
    }
    let alike =
        held.iter().filter(|stored| stored.receipt.slot.kind == slot.kind && is_of_thread(&stored.receipt.slot));
    let alike: Vec<&StoredReceipt> = alike.collect();
    if alike.len() < THREADS_MAX {
        return None;
    }
    alike.into_iter().min_by_key(|stored| stored.position).map(|stored| stored.receipt.slot.clone())
}
