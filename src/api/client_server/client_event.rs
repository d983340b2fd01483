//! Turns a stored event into what a client is shown, and into the four keys of stripped state.
//! May not: let a key of the federation format through (hashes, signatures, auth events, depth), or read storage for the
//! event itself; the caller did, and judged that the user may see it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use ruma::{DeviceId, EventId, OwnedEventId, RoomId, TransactionId, UserId, events::room::member::MembershipState};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use vestibule_protocol::{clock::UnixMillis, state::StateKey, stream::TimelineOrder};
use vestibule_storage::{
    Read,
    error::StorageError,
    room::{RoomReader, StoredEvent},
};

use super::visibility::Sight;

/// Whom an event is shown to, and when.
#[derive(Clone, Copy)]
pub struct Viewer<'a> {
    /// Who asks.
    pub user_id: &'a UserId,
    /// From which device: only the sending device is told its transaction id.
    pub device_id: &'a DeviceId,
    /// What the user may see in the room.
    pub sight: &'a Sight,
    /// Our wall clock.
    pub now: UnixMillis,
}

/// Whether the event stands below its room (`/sync`) or alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomIdForm {
    /// `room_id` is part of the event.
    Named,
    /// The room is known from where the event stands.
    Implied,
}

/// What must be known beside some events to show them: what they replaced and what redacted them.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// By the id of the event that replaced it.
    replaced: BTreeMap<OwnedEventId, StoredEvent>,
    /// By its own id.
    redactions: BTreeMap<OwnedEventId, StoredEvent>,
}

impl Surroundings {
    /// Reads what stands around events of one room's timeline.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of_timeline(
        rooms: &dyn RoomReader,
        room_id: &RoomId,
        events: &[StoredEvent],
    ) -> Result<Self, StorageError> {
        let Self { redactions, .. } = Self::of_state(rooms, room_id, events).await?;
        Ok(Self { replaced: replaced_by(rooms, room_id, events).await?, redactions })
    }

    /// Reads what stands around events of one room's state. What each of them replaced is left out: it matters where a
    /// change is shown, and would cost a look at an old state for every member of a room.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of_state(
        rooms: &dyn RoomReader,
        room_id: &RoomId,
        events: &[StoredEvent],
    ) -> Result<Self, StorageError> {
        let because: Vec<OwnedEventId> = events.iter().filter_map(|event| event.redacted_by.clone()).collect();
        let redactions =
            if because.is_empty() { BTreeMap::new() } else { by_id(rooms.events(room_id, &because)).await? };
        Ok(Self { replaced: BTreeMap::new(), redactions })
    }
}

/// Reads events and sorts them by id; those not stored are left out.
async fn by_id(read: Read<'_, Vec<Option<StoredEvent>>>) -> Result<BTreeMap<OwnedEventId, StoredEvent>, StorageError> {
    let found = read.await?.into_iter().flatten();
    Ok(found.map(|event| (event.event.event_id().to_owned(), event)).collect())
}

/// For each state event, the event that stood for its key in the state before it.
///
/// Reads one whole state for the oldest of the events and only differences for the others.
async fn replaced_by(
    rooms: &dyn RoomReader,
    room_id: &RoomId,
    events: &[StoredEvent],
) -> Result<BTreeMap<OwnedEventId, StoredEvent>, StorageError> {
    let with_state = events.iter().filter(|event| has_known_state(event));
    let state_events: Vec<(&StoredEvent, StateKey)> =
        with_state.filter_map(|event| event.event.state_entry().map(|key| (event, key))).collect();
    let Some(base) = state_events.iter().map(|(event, _)| event.state_before).min() else {
        return Ok(BTreeMap::new());
    };
    let base_state = rooms.state_at(room_id, base).await?.unwrap_or_default();
    let versions: BTreeSet<_> = state_events.iter().map(|(event, _)| event.state_before).collect();
    let changes = try_join_all(versions.into_iter().filter(|version| *version != base).map(|version| async move {
        Ok::<_, StorageError>((version, rooms.state_changes(room_id, base, version).await?))
    }))
    .await?;
    let changes: BTreeMap<_, _> = changes.into_iter().collect();

    let mut pairs: Vec<(OwnedEventId, OwnedEventId)> = Vec::new();
    for (event, key) in state_events {
        let before = match changes.get(&event.state_before) {
            None => base_state.get(&key).cloned(),
            Some(Some(changed)) => match changed.get(&key) {
                Some(entry) => entry.clone(),
                None => base_state.get(&key).cloned(),
            },
            // The version does not descend from the base: a fork.
            Some(None) => rooms.state_at(room_id, event.state_before).await?.and_then(|state| state.get(&key).cloned()),
        };
        if let Some(before) = before {
            pairs.push((event.event.event_id().to_owned(), before));
        }
    }
    let ids: Vec<OwnedEventId> = pairs.iter().map(|(_, before)| before.clone()).collect();
    let found = by_id(rooms.events(room_id, &ids)).await?;
    Ok(pairs.into_iter().filter_map(|(event, before)| found.get(&before).map(|found| (event, found.clone()))).collect())
}

/// Whether the state before an event is stored. Of history that was fetched backward, which stands before the first place of
/// live events, it is not.
fn has_known_state(event: &StoredEvent) -> bool {
    event.order.is_none_or(|order| order > TimelineOrder(0))
}

/// An event as the client-server API has it.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-event-format>
#[derive(Serialize)]
struct ClientEvent<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: String,
    unsigned: Unsigned<'a>,
}

/// What the server adds on its own word.
#[derive(Serialize)]
struct Unsigned<'a> {
    /// Milliseconds since we got or made the event.
    age: u64,
    /// The viewer's membership when the event was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<MembershipState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_sender: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a TransactionId>,
}

/// The event as `viewer` is shown it. `None` only if its stored content were no JSON.
pub fn client_event(
    event: &StoredEvent,
    viewer: Viewer<'_>,
    around: &Surroundings,
    form: RoomIdForm,
) -> Option<Box<RawValue>> {
    let redacted_because = event
        .redacted_by
        .as_ref()
        .and_then(|id| around.redactions.get(id))
        .and_then(|redaction| client_event(redaction, viewer, &Surroundings::default(), form));
    let pdu = &event.event;
    let replaced = around.replaced.get(pdu.event_id()).filter(|_| pdu.state_key().is_some());
    let transaction =
        event.transaction.as_ref().filter(|made| made.user_id == viewer.user_id && made.device_id == viewer.device_id);
    let with_redacts = content_with_redacts(event);
    to_raw_value(&ClientEvent {
        content: with_redacts.as_deref().unwrap_or_else(|| pdu.content()),
        event_id: pdu.event_id(),
        origin_server_ts: pdu.origin_server_ts().0,
        redacts: pdu.redacts(),
        room_id: (form == RoomIdForm::Named).then(|| pdu.room_id()),
        sender: pdu.sender(),
        state_key: pdu.state_key(),
        kind: pdu.kind().to_string(),
        unsigned: Unsigned {
            age: viewer.now.0.saturating_sub(event.received_at.0),
            membership: viewer.sight.membership_at(event),
            prev_content: replaced.map(|replaced| replaced.event.content()),
            prev_sender: replaced.map(|replaced| replaced.event.sender()),
            redacted_because,
            replaces_state: replaced.map(|replaced| replaced.event.event_id()),
            transaction_id: transaction.map(|made| &*made.transaction_id),
        },
    })
    .ok()
}

/// All of `events` that can be shown, in their order.
pub fn client_events<'a>(
    events: impl IntoIterator<Item = &'a StoredEvent>,
    viewer: Viewer<'_>,
    around: &Surroundings,
    form: RoomIdForm,
) -> Vec<Box<RawValue>> {
    events.into_iter().filter_map(|event| client_event(event, viewer, around, form)).collect()
}

/// The content of a redaction with `redacts` in it: up to version 10 that key stands outside the content, and clients are
/// to find it in both places. `None`: the content is right as it is.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomredaction>
fn content_with_redacts(event: &StoredEvent) -> Option<Box<RawValue>> {
    let redacts = event.event.redacts()?;
    let mut content: BTreeMap<String, Box<RawValue>> = event.event.content_as()?;
    if content.contains_key("redacts") {
        return None;
    }
    content.insert("redacts".to_owned(), to_raw_value(redacts).ok()?);
    to_raw_value(&content).ok()
}

#[cfg(test)]
#[path = "client_event/tests.rs"]
mod tests;
