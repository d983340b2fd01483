//! The only way to change anything: atomic commits through bounded slots, answered when durable.
//! May not: be bypassed; no reader writes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use vestibule_protocol::stream::StreamPosition;

use crate::{
    accounts::AccountChange, error::StorageError, outbox::OutboxDone, receipts::ReceiptCommit, room::RoomCommit,
    server_keys::StoredServerKeys,
};

/// One atomic change: all of it becomes durable, or none.
#[derive(Clone, Debug)]
pub enum Commit {
    /// A change of one room.
    Room(Box<RoomCommit>),
    /// Changes of accounts, devices, aliases and the like, applied in order, all or none.
    Accounts(Vec<AccountChange>),
    /// Another server's keys.
    ServerKeys(Box<StoredServerKeys>),
    /// Rows of the outbox that are done with.
    OutboxDone(OutboxDone),
    /// Receipts of one room.
    Receipts(ReceiptCommit),
    /// EDUs of the outbox that are done with.
    EdusDone(OutboxDone),
}

/// Why a commit was not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The commit before it, in the same room, was not made; so this one cannot stand.
    #[error("the commit before this one was not made")]
    PredecessorMissing,
    /// What must not exist exists already (a user, an alias, a room), or what must exist does not. Nothing was written.
    #[error("conflict: {0}")]
    Conflict(Conflict),
}

/// Which precondition of a commit did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Conflict {
    /// The user id is taken.
    #[error("user exists")]
    UserExists,
    /// The user is not here.
    #[error("no such user")]
    NoSuchUser,
    /// The alias is taken.
    #[error("alias exists")]
    AliasExists,
    /// The alias is not here.
    #[error("no such alias")]
    NoSuchAlias,
    /// The device is not here.
    #[error("no such device")]
    NoSuchDevice,
    /// The key is not here any more.
    #[error("no such key")]
    NoSuchKey,
    /// The message came before.
    #[error("message already seen")]
    AlreadySeen,
    /// The room id is taken.
    #[error("room exists")]
    RoomExists,
    /// The room is not here.
    #[error("no such room")]
    NoSuchRoom,
}

/// All slots of the writer are taken: nothing was changed, try later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoSlot {
    /// Too many commits wait.
    #[error("too many commits wait to be written")]
    Busy,
    /// Writes are refused: the disk is nearly full, the engine recovers from a failure, or it shuts down.
    #[error("writes are refused at the moment")]
    Refused,
}

/// The right to enqueue one commit. Reserved before anything in memory changes.
#[derive(Debug)]
pub struct WriterSlot {
    permit: OwnedSemaphorePermit,
}

impl WriterSlot {
    /// Made by engines, from their own bounded semaphore.
    pub fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { permit }
    }

    /// Given back by the engine when the commit's outcome is known.
    pub fn into_permit(self) -> OwnedSemaphorePermit {
        self.permit
    }
}

/// Waits for one commit. Dropping it cancels nothing.
#[derive(Debug)]
pub struct Ticket {
    outcome: oneshot::Receiver<Result<StreamPosition, CommitError>>,
}

impl Ticket {
    /// Made by engines.
    pub fn new(outcome: oneshot::Receiver<Result<StreamPosition, CommitError>>) -> Self {
        Self { outcome }
    }
}

impl Future for Ticket {
    /// The position of the change once it is durable and readable.
    type Output = Result<StreamPosition, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(context).map(|received| {
            received.unwrap_or_else(|_| {
                let reason = "the writer stopped".to_owned();
                Err(CommitError::Storage(StorageError::OutcomeUnknown { reason }))
            })
        })
    }
}

/// The write side of an engine.
///
/// Commits are made in the order they are enqueued. Order of a commit's life: journal append → sync → readable → position
/// published to the listener → ticket answered.
pub trait CommitSink: Send + Sync {
    /// Takes a slot without waiting.
    ///
    /// # Errors
    /// [`NoSlot`]; nothing changed.
    fn reserve(&self) -> Result<WriterSlot, NoSlot>;

    /// Hands the commit to the writer. Never blocks, never fails here: the ticket tells.
    fn enqueue(&self, slot: WriterSlot, commit: Commit) -> Ticket;

    /// What the disk was asked for since the start. An engine that syncs nothing counts nothing.
    fn synced(&self) -> Synced {
        Synced::default()
    }
}

/// How commits became durable, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Syncs that made commits durable.
    pub syncs: u64,
    /// Commits that they made durable; over the syncs, how many go together.
    pub commits: u64,
}

/// What the writer tells after a commit is durable and readable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Its position. Announcements come in this order, without gaps.
    pub position: StreamPosition,
    /// The room that changed, or in which everybody learns of receipts, if there is one.
    pub room_id: Option<OwnedRoomId>,
    /// Local users whom it concerns beyond the room's members: the invited, those who knock, those who left, account data,
    /// private receipts, messages for devices, changed device lists.
    pub users: Vec<OwnedUserId>,
    /// Servers for which it has rows or EDUs in the outbox.
    pub destinations: Vec<OwnedServerName>,
}

/// Hears of commits. Wake-ups are hints; storage is the truth.
pub trait CommitListener: Send + Sync {
    /// Called by the writer, in order, after durability. Must return at once.
    fn committed(&self, announcement: &Announcement);
}

/// Hears nothing: for tools and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyListens;

impl CommitListener for NobodyListens {
    fn committed(&self, _: &Announcement) {}
}

/// Everything an engine offers, as handles that can be given out one by one.
#[derive(Clone)]
pub struct Stores {
    /// Rooms, events, memberships, knocks, decisions.
    pub rooms: Arc<dyn crate::room::RoomReader>,
    /// Users, devices, tokens, filters, account data, aliases, the directory.
    pub accounts: Arc<dyn crate::accounts::AccountReader>,
    /// Keys of end-to-end encryption.
    pub device_keys: Arc<dyn crate::device_keys::DeviceKeyReader>,
    /// Messages that wait for devices.
    pub inboxes: Arc<dyn crate::to_device::InboxReader>,
    /// Other servers' keys.
    pub server_keys: Arc<dyn crate::server_keys::ServerKeyStore>,
    /// What must still reach other servers.
    pub outbox: Arc<dyn crate::outbox::OutboxReader>,
    /// How far users have read.
    pub receipts: Arc<dyn crate::receipts::ReceiptReader>,
    /// Positions.
    pub stream: Arc<dyn crate::stream::StreamReader>,
    /// The write side.
    pub writer: Arc<dyn CommitSink>,
}
