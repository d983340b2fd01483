//! Thins what waits for a server that has been away for long: of each room the newest events are enough, since whoever gets
//! them asks for what lies before.
//! May not: drop what a server cannot learn in any other way: the memberships of its own users.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedRoomId, ServerName, UserId};
use vestibule_protocol::pdu::Pdu;
use vestibule_storage::{
    error::StorageError,
    outbox::{Delivery, OutboxPlace, OutboxRow},
};

use super::{Inner, transactions::load_events};

/// Failures in a row after which a server counts as away: over two hours at the shortest. Ours.
pub(super) const AWAY_AFTER: u32 = 5;

/// Events that may wait for a server that is away before they are thinned. Ours: twenty transactions.
const ROWS_MAX: usize = 1_000;

/// Events of a room that stay, the newest ones. Ours: what a server asks for at a time to fill a gap.
const ROWS_PER_ROOM: usize = 20;

/// Rows read at a time. Ours.
const ROWS_PER_READ: usize = 250;

/// Takes out of the outbox what the server can get by itself later. How many rows went.
pub(super) async fn thin(inner: &Inner, server: &ServerName) -> Result<usize, StorageError> {
    let mut left = count_by_room(inner, server).await?;
    if left.values().sum::<usize>() <= ROWS_MAX {
        return Ok(0);
    }
    let mut dropped = 0_usize;
    let mut after = None;
    loop {
        let page = inner.parts.stores.outbox.pending(server, after, ROWS_PER_READ).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.place);
        let older: Vec<OutboxRow> = page
            .into_iter()
            .filter(|row| row.delivery == Delivery::Transaction)
            .filter(|row| {
                let newer = left.get_mut(&row.room_id).map(|left| {
                    *left = left.saturating_sub(1);
                    *left
                });
                newer.is_some_and(|newer| newer >= ROWS_PER_ROOM)
            })
            .collect();
        let events = load_events(inner, &older).await?;
        let kept: Vec<OwnedEventId> = events
            .iter()
            .filter(|event| is_about_users_of(event, server))
            .map(|event| event.event_id().to_owned())
            .collect();
        let places: Vec<OutboxPlace> =
            older.iter().filter(|row| !kept.contains(&row.event_id)).map(|row| row.place).collect();
        dropped = dropped.saturating_add(places.len());
        inner.note_done(server, places).await;
    }
    Ok(dropped)
}

async fn count_by_room(inner: &Inner, server: &ServerName) -> Result<BTreeMap<OwnedRoomId, usize>, StorageError> {
    let mut counts: BTreeMap<OwnedRoomId, usize> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = inner.parts.stores.outbox.pending(server, after, ROWS_PER_READ).await?;
        let Some(last) = page.last() else { return Ok(counts) };
        after = Some(last.place);
        for row in page.into_iter().filter(|row| row.delivery == Delivery::Transaction) {
            let count = counts.entry(row.room_id).or_default();
            *count = count.saturating_add(1);
        }
    }
}

/// Whether the event says what one of the server's users is to the room. Such an event may be for a server that is not in the
/// room and cannot ask: a denial, a ban, an invite taken back.
fn is_about_users_of(event: &Pdu, server: &ServerName) -> bool {
    let target = event.state_key().filter(|_| event.membership().is_some());
    target.and_then(|target| <&UserId>::try_from(target).ok()).is_some_and(|target| target.server_name() == server)
}
