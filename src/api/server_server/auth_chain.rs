//! Auth chains: the events that authorize some events, and those that authorize these, to the room's beginning.
//! May not: give out a part of a chain as if it were all (SECURITY V34), or read without bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, RoomId};
use thiserror::Error;
use vestibule_protocol::{pdu::Pdu, room_version::RoomVersion, state::StateVersion};
use vestibule_storage::{error::StorageError, room::RoomReader};

use crate::error::MatrixError;

/// Events of one answer, state and chain together. Ours: ten times what the largest rooms that people speak of have.
const EVENTS_MAX: usize = 200_000;

/// Bytes of their texts. Ours: what a server can be asked to hold for one answer.
const BYTES_MAX: usize = 128 * 1024 * 1024;

/// Batched reads until the chain must end: the longest path of authorizations. Ours.
const ROUNDS_MAX: usize = 20_000;

/// Events read from the store at once. Ours: others on this thread have their turn in between.
const EVENTS_AT_ONCE: usize = 256;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ChainError {
    /// More events or bytes than one answer may have.
    #[error("more events than one answer may have")]
    TooLarge,
    /// We do not have all of it.
    #[error("the event {event_id} is not here")]
    Incomplete {
        /// What is missing.
        event_id: OwnedEventId,
    },
    /// We do not have that version of the state.
    #[error("the state is not here")]
    UnknownState,
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// SPEC section 6: 404 when we do not know enough "to return anything useful".
impl From<ChainError> for MatrixError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::TooLarge => Self::too_large("there are more events than one answer may have"),
            ChainError::Incomplete { .. } | ChainError::UnknownState => Self::not_found("not all of this is here"),
            ChainError::Storage(error) => error.into(),
        }
    }
}

/// Events by id, whole and within the bounds of one answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Collected {
    events: BTreeMap<OwnedEventId, Arc<Pdu>>,
    bytes: usize,
}

impl Collected {
    /// The events of a version of the room's state.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(super) async fn state(
        rooms: &dyn RoomReader,
        room_id: &RoomId,
        version: StateVersion,
    ) -> Result<Self, ChainError> {
        let state = match rooms.state_at(room_id, version).await? {
            Some(state) => state,
            // Before the create event there is nothing, and no row that says so.
            None if version == StateVersion::default() => BTreeMap::new(),
            None => return Err(ChainError::UnknownState),
        };
        let event_ids: BTreeSet<OwnedEventId> = state.into_values().collect();
        let mut collected = Self::default();
        collected.load(rooms, room_id, event_ids).await?;
        Ok(collected)
    }

    /// The auth chain of these events, without the events themselves unless the chain holds them.
    ///
    /// # Errors
    /// [`ChainError`]; bounds count these events too.
    pub(super) async fn auth_chain(
        &self,
        rooms: &dyn RoomReader,
        room_id: &RoomId,
        version: &RoomVersion,
    ) -> Result<Self, ChainError> {
        let mut chain = Self { events: BTreeMap::new(), bytes: self.bytes };
        let mut front: BTreeSet<OwnedEventId> = self.events.values().flat_map(|event| authorizers(event)).collect();
        if version.room_id_is_create_hash() && !self.events.is_empty() {
            // Never among auth events, since the room's id names it: yet nothing is authorized without it.
            front.extend(create_of(room_id));
        }
        for _ in 0..ROUNDS_MAX {
            if front.is_empty() {
                return Ok(chain);
            }
            let mut next = BTreeSet::new();
            let (known, unknown): (Vec<_>, Vec<_>) =
                front.into_iter().partition(|event_id| self.events.contains_key(event_id));
            for event in known.iter().filter_map(|event_id| self.events.get(event_id)) {
                next.extend(authorizers(event));
                chain.insert(event.clone())?;
            }
            let loaded = chain.load(rooms, room_id, unknown).await?;
            next.extend(loaded.iter().flat_map(|event| authorizers(event)));
            front = next.into_iter().filter(|event_id| !chain.events.contains_key(event_id)).collect();
        }
        Err(ChainError::TooLarge)
    }

    /// The same events and one more, which was read before.
    ///
    /// # Errors
    /// [`ChainError::TooLarge`].
    pub(super) fn with(&self, event: Arc<Pdu>) -> Result<Self, ChainError> {
        let mut collected = self.clone();
        collected.insert(event)?;
        Ok(collected)
    }

    /// The ids, in their order.
    pub(super) fn event_ids(&self) -> impl Iterator<Item = &EventId> {
        self.events.keys().map(|event_id| &**event_id)
    }

    /// The canonical texts, in the order of the ids.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.events.values().map(|event| event.json())
    }

    async fn load(
        &mut self,
        rooms: &dyn RoomReader,
        room_id: &RoomId,
        event_ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<Vec<Arc<Pdu>>, ChainError> {
        let event_ids: Vec<OwnedEventId> = event_ids.into_iter().collect();
        let mut loaded = Vec::new();
        for batch in event_ids.chunks(EVENTS_AT_ONCE) {
            let stored = rooms.events(room_id, batch).await?;
            for (event_id, stored) in batch.iter().zip(stored) {
                let stored = stored.ok_or_else(|| ChainError::Incomplete { event_id: event_id.clone() })?;
                self.insert(stored.event.clone())?;
                loaded.push(stored.event);
            }
            tokio::task::yield_now().await;
        }
        Ok(loaded)
    }

    fn insert(&mut self, event: Arc<Pdu>) -> Result<(), ChainError> {
        self.bytes = self.bytes.saturating_add(event.json().len());
        self.events.insert(event.event_id().to_owned(), event);
        if self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            return Err(ChainError::TooLarge);
        }
        Ok(())
    }
}

fn authorizers(event: &Pdu) -> impl Iterator<Item = OwnedEventId> + '_ {
    event.auth_events().iter().cloned()
}

/// The create event of a room whose id is its hash.
fn create_of(room_id: &RoomId) -> Option<OwnedEventId> {
    EventId::parse(room_id.as_str().replacen('!', "$", 1)).ok()
}
