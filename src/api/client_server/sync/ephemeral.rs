//! The short-lived part of what a sync tells of rooms: who is typing, and how far users have read.
//! May not: show a private receipt to anybody but its user, or more than the newest receipts of a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receipts>, and there "Typing Notifications"

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, UserId, api::client::filter::FilterDefinition,
    events::room::member::MembershipState,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use vestibule_federation::perform::edus::receipts::thread_id;
use vestibule_protocol::stream::{StreamPosition, TypingSerial};
use vestibule_storage::{
    error::StorageError,
    receipts::{ReceiptKind, StoredReceipt},
    room::UserMembership,
};

use super::{Asked, is_wanted};
use crate::{
    client_server::event_filter::{lets_room_through, lets_type_through},
    extract::Caller,
    state::App,
};

/// Receipts of one room in one sync, the newest. Ours: some 100 kB, and more users than any client shows.
const RECEIPTS_OF_ROOM_MAX: usize = 1_000;

const TYPING: &str = "m.typing";
const RECEIPT: &str = "m.receipt";

/// Events of one room.
pub type RoomEphemeral = Vec<Box<RawValue>>;

/// What there is to tell.
#[derive(Default)]
pub struct EphemeralNews {
    /// By room.
    pub of_rooms: BTreeMap<OwnedRoomId, RoomEphemeral>,
    /// What the next token says of who is typing.
    pub typing: Option<TypingSerial>,
}

#[derive(Serialize)]
struct EphemeralEvent<C> {
    content: C,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct TypingContent {
    user_ids: Vec<OwnedUserId>,
}

/// Event → `m.read` or `m.read.private` → user → receipt.
type ReceiptContent<'a> =
    BTreeMap<&'a OwnedEventId, BTreeMap<&'static str, BTreeMap<&'a OwnedUserId, ReceiptData<'a>>>>;

#[derive(Serialize)]
struct ReceiptData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    ts: u64,
}

/// What is new after what the client knows, and not after `until`, in the rooms that the user is in.
///
/// # Errors
/// When the store cannot be read.
pub async fn since(
    app: &App,
    caller: &Caller,
    asked: &Asked,
    until: StreamPosition,
    memberships: &[UserMembership],
) -> Result<EphemeralNews, StorageError> {
    let joined: Vec<Joined> = memberships
        .iter()
        .filter(|membership| membership.membership == MembershipState::Join && is_wanted(&asked.filter, membership))
        .filter(|membership| lets_room_through(&asked.filter.room.ephemeral, &membership.room_id))
        .map(|membership| Joined::new(asked, membership))
        .collect();
    let mut news = EphemeralNews::default();
    if lets_through(&asked.filter, TYPING) {
        let rooms: Vec<_> = joined.iter().map(|joined| (joined.room_id.clone(), joined.typing)).collect();
        let typing = app.typing.news(&rooms);
        news.typing = typing.serial;
        for (room_id, user_ids) in typing.rooms {
            news.of_rooms.entry(room_id).or_default().extend(event(TYPING, TypingContent { user_ids }));
        }
    }
    if lets_through(&asked.filter, RECEIPT) {
        let rooms: Vec<_> = joined.into_iter().map(|joined| (joined.room_id, joined.receipts)).collect();
        for (room_id, receipts) in app.stores.receipts.receipts_since(&rooms, RECEIPTS_OF_ROOM_MAX).await? {
            let told = receipt_events(&caller.user_id, until, &receipts);
            if !told.is_empty() {
                news.of_rooms.entry(room_id).or_default().extend(told);
            }
        }
    }
    Ok(news)
}

/// A room that the user is in, and what their client knows of it.
struct Joined {
    room_id: OwnedRoomId,
    typing: Option<TypingSerial>,
    receipts: StreamPosition,
}

impl Joined {
    fn new(asked: &Asked, membership: &UserMembership) -> Self {
        let room_id = membership.room_id.clone();
        let known = asked.since.filter(|since| membership.position <= *since);
        match known {
            Some(since) => Self { room_id, typing: asked.typing, receipts: since },
            // Who starts over may still show somebody as typing.
            None if asked.is_fresh_start => Self { room_id, typing: asked.typing, receipts: StreamPosition::START },
            None => Self { room_id, typing: None, receipts: StreamPosition::START },
        }
    }
}

fn lets_through(filter: &FilterDefinition, kind: &str) -> bool {
    lets_type_through(&filter.room.ephemeral, kind)
}

/// One event for each thread: a user may have read up to one event in two ways, and an event has one place for each user.
fn receipt_events(user_id: &UserId, until: StreamPosition, receipts: &[StoredReceipt]) -> RoomEphemeral {
    let mut by_thread: BTreeMap<Option<&str>, ReceiptContent<'_>> = BTreeMap::new();
    for StoredReceipt { receipt, position } in receipts {
        let slot = &receipt.slot;
        let kind = match slot.kind {
            ReceiptKind::Public => "m.read",
            ReceiptKind::Private if slot.user_id == user_id => "m.read.private",
            ReceiptKind::Private => continue,
        };
        // What came later is told by the next sync.
        if *position > until {
            continue;
        }
        let thread_id = thread_id(&slot.thread);
        let content = by_thread.entry(thread_id).or_default();
        let users = content.entry(&receipt.event_id).or_default().entry(kind).or_default();
        users.insert(&slot.user_id, ReceiptData { thread_id, ts: receipt.at.0 });
    }
    by_thread.into_values().filter_map(|content| event(RECEIPT, content)).collect()
}

fn event(kind: &'static str, content: impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(&EphemeralEvent { content, kind }).ok()
}

#[cfg(test)]
mod tests;
