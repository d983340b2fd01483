//! What must still reach other servers: rows that ride in the commit of the change they tell of.
//! May not: send anything, or decide when a server is tried again; the federation sender does.
//!
//! A row is there until its destination has taken it. Rows of one destination are delivered in the order of their places, and
//! each is removed by itself, so that one item which cannot be delivered holds up no other.
//!
//! What it costs: an event for a hundred servers is a hundred rows of the two ids each, some 150 bytes, in the same journal
//! record as the event, and later a hundred removals. The event itself is stored once. A queue for each destination could
//! be a number into a shared list instead; rows are what lets a server that is away for days keep no list of others alive,
//! and lets each item end by itself.

use std::collections::BTreeSet;

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};
use vestibule_protocol::stream::StreamPosition;

use crate::Read;

/// How an event gets to a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// In a transaction, with others.
    Transaction,
    /// By the invite endpoint: the destination is the server of the invited user.
    Invite,
    /// By `make_leave` and `send_leave`, for a user of ours who takes back a knock or declines an invite in a room that we
    /// are not in. The row's event is the knock or the invite.
    Leave {
        /// Who leaves.
        user_id: OwnedUserId,
    },
}

/// One event of a commit and the servers that it must reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The event.
    pub event_id: OwnedEventId,
    /// How it gets there.
    pub delivery: Delivery,
    /// Where to; never this server.
    pub destinations: BTreeSet<OwnedServerName>,
}

/// Where a row stands in the queues: the commit that brought it, and its number in that commit's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxPlace {
    /// The commit.
    pub position: StreamPosition,
    /// Which entry of its list, from 0.
    pub index: u32,
}

/// Something that one destination has not taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place; unique for the destination.
    pub place: OutboxPlace,
    /// The room of the event.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event_id: OwnedEventId,
    /// How it gets there.
    pub delivery: Delivery,
}

/// An EDU that must get there: unlike typing or receipts, what it says is said once. It has a queue of its own beside that of
/// events, and place counts within that queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedEdu {
    /// Its place; unique for the destination. The index counts the EDUs of the commit.
    pub place: OutboxPlace,
    /// What it says.
    pub content: EduContent,
}

/// What a queued EDU says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EduContent {
    /// The whole EDU as JSON text.
    Whole(String),
    /// The state of a device, as it is when the EDU is sent.
    DeviceList {
        /// Whose.
        user_id: OwnedUserId,
        /// Which device.
        device_id: OwnedDeviceId,
        /// The id of this news.
        stream_id: u64,
        /// The id of the news of the user before it.
        previous: Option<u64>,
    },
    /// A user's cross-signing keys, as they are when the EDU is sent.
    SigningKeys {
        /// Whose.
        user_id: OwnedUserId,
    },
}

/// Says that a destination has taken some rows, or that they are given up for a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxDone {
    /// Which destination.
    pub destination: OwnedServerName,
    /// Which of its rows. A row that is not there is no conflict.
    pub places: Vec<OutboxPlace>,
}

/// Reads the outbox.
pub trait OutboxReader: Send + Sync {
    /// Destinations with at least one row or EDU, in the order of their names, after one.
    fn destinations<'a>(&'a self, after: Option<&'a ServerName>, limit: usize) -> Read<'a, Vec<OwnedServerName>>;

    /// Rows of one destination in the order of their places, after one.
    fn pending<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<OutboxRow>>;

    /// EDUs for one destination in the order of their places, after one.
    fn edus<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<QueuedEdu>>;
}
