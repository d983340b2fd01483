//! How far users have read: for each room, user, kind and thread the newest receipt alone.
//! May not: judge whether a receipt may be set, or which of two is further on; whoever commits it has.
//!
//! What it costs: a receipt is a row of some 150 bytes that is replaced whenever the user reads on, and a place in the order
//! of changes of its room, by which a sync finds what is new without reading what is not.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use vestibule_protocol::{clock::UnixMillis, stream::StreamPosition};

use crate::Read;

/// Who learns of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptKind {
    /// `m.read`: everybody in the room.
    Public,
    /// `m.read.private`: the user alone.
    Private,
}

/// What of a room a receipt is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptThread {
    /// All of it, threads included.
    Unthreaded,
    /// What is in no thread.
    Main,
    /// The thread of that root.
    Root(OwnedEventId),
}

/// What a room has one receipt for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiptSlot {
    /// Whose.
    pub user_id: OwnedUserId,
    /// For whom.
    pub kind: ReceiptKind,
    /// About what.
    pub thread: ReceiptThread,
}

/// A user has read up to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whose, for whom and about what.
    pub slot: ReceiptSlot,
    /// Up to which event of the room.
    pub event_id: OwnedEventId,
    /// When, by the clock of the user's server.
    pub at: UnixMillis,
}

/// A receipt with its place in the sequence of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The receipt.
    pub receipt: Receipt,
    /// When it was set.
    pub position: StreamPosition,
}

/// Receipts of one room that are set together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptCommit {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Receipts that go; a slot without one is no conflict.
    pub removed: Vec<ReceiptSlot>,
    /// Receipts that take the places of those in their slots, after the removals.
    pub set: Vec<Receipt>,
}

impl ReceiptCommit {
    /// The room, if anybody but the owners of the receipts learns of them.
    pub fn public_room(&self) -> Option<&OwnedRoomId> {
        let is_public = self.set.iter().any(|receipt| receipt.slot.kind == ReceiptKind::Public);
        is_public.then_some(&self.room_id)
    }

    /// The users who alone learn of some of them.
    pub fn private_users(&self) -> BTreeSet<OwnedUserId> {
        let private = self.set.iter().filter(|receipt| receipt.slot.kind == ReceiptKind::Private);
        private.map(|receipt| receipt.slot.user_id.clone()).collect()
    }
}

/// Reads receipts.
pub trait ReceiptReader: Send + Sync {
    /// The receipts that were set in each of some rooms after a position, at most `limit` a room: the newest, newest first,
    /// those of one commit by their slots, the last one first. Rooms without any are left out.
    fn receipts_since<'a>(
        &'a self,
        rooms: &'a [(OwnedRoomId, StreamPosition)],
        limit: usize,
    ) -> Read<'a, BTreeMap<OwnedRoomId, Vec<StoredReceipt>>>;

    /// The receipts of one user in a room, in the order of their slots.
    fn receipts_of<'a>(&'a self, room_id: &'a RoomId, user_id: &'a UserId) -> Read<'a, Vec<StoredReceipt>>;
}
