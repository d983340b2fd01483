//! What a turn may need from outside its memory, and how the room gets it while its mailbox is shut.
//! May not: reach the network. What storage does not have is absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, events::TimelineEventType};
use vestibule_protocol::{
    clock::UnixMillis,
    pdu::Pdu,
    room_graph::{StateNode, Unresolved},
    room_version::RoomVersion,
    state::{
        StateKey, StateMap, StateVersion,
        resolution::{AuthEvents, resolve},
    },
    stream::TimelineOrder,
};
use vestibule_storage::{error::StorageError, room::StoredEvent};

use super::{RoomContext, policy::Unsigned};
use crate::policy_signer::PolicyVerdict;

/// Memberships of a user that are gone back through to see what a stay follows from. Ours: each costs a read of the store.
pub(super) const STAY_MEMBERSHIPS_MAX: usize = 64;

/// Events loaded in one read while auth chains are walked. Ours.
const AUTH_EVENTS_PER_READ: usize = 256;

/// What a turn needs before it can decide.
#[derive(Debug)]
pub enum Need {
    /// Events that are not in memory.
    Events {
        /// Those whose state before them is needed too.
        cited: BTreeSet<OwnedEventId>,
        /// Those that are only read.
        read: BTreeSet<OwnedEventId>,
    },
    /// All that a membership follows from: the events that authorize it and those of its user behind it.
    Stay(Arc<Pdu>),
    /// A state that must be resolved.
    Resolution(Unresolved),
    /// The signature of the room's policy server.
    PolicySignature(Box<Unsigned>),
}

/// What was looked up in storage for one message.
#[derive(Debug, Default)]
pub struct Lookups {
    events: BTreeMap<OwnedEventId, StoredEvent>,
    absent: BTreeSet<OwnedEventId>,
    transaction: Option<OwnedEventId>,
    policy: BTreeMap<OwnedEventId, PolicyVerdict>,
    asked_at: UnixMillis,
}

impl Lookups {
    /// Nothing looked up yet, for a message asked at this time.
    pub(crate) fn new(asked_at: UnixMillis) -> Self {
        Self { asked_at, ..Self::default() }
    }

    /// When the message was asked, by our wall clock. What a turn builds carries this time, so that a second run of the turn
    /// builds the very same event.
    pub fn asked_at(&self) -> UnixMillis {
        self.asked_at
    }

    /// An event that storage has.
    pub fn event(&self, event_id: &EventId) -> Option<&StoredEvent> {
        self.events.get(event_id)
    }

    /// Storage was asked and does not have it.
    pub fn is_absent(&self, event_id: &EventId) -> bool {
        self.absent.contains(event_id)
    }

    /// The event that the message's client transaction made before.
    pub fn event_of_transaction(&self) -> Option<&OwnedEventId> {
        self.transaction.as_ref()
    }

    /// What the room's policy server said of an event.
    pub(super) fn policy_verdict(&self, event_id: &EventId) -> Option<&PolicyVerdict> {
        self.policy.get(event_id)
    }

    /// Takes over what was found out for an earlier run of the same message, and when it was asked.
    pub(crate) fn carry_on(&mut self, earlier: Self, event_id: OwnedEventId, verdict: PolicyVerdict) {
        self.asked_at = earlier.asked_at;
        self.policy = earlier.policy;
        self.policy.insert(event_id, verdict);
    }

    pub(crate) fn insert(&mut self, stored: StoredEvent) {
        self.events.insert(stored.event.event_id().to_owned(), stored);
    }

    pub(crate) fn insert_absent(&mut self, absent: BTreeSet<OwnedEventId>) {
        self.absent.extend(absent);
    }

    pub(crate) fn set_transaction(&mut self, event_id: Option<OwnedEventId>) {
        self.transaction = event_id;
    }
}

/// A picture of the room that gathering works on; it shares everything with the room's memory.
pub(crate) struct GatheringPlace {
    pub(super) room_id: OwnedRoomId,
    pub(super) version: RoomVersion,
    pub(super) current: Arc<StateNode>,
    pub(super) recent: Vec<Arc<Pdu>>,
}

/// What came of it.
pub(crate) enum Gathered {
    Events { found: Vec<(StoredEvent, Option<(StateVersion, StateMap)>)>, absent: BTreeSet<OwnedEventId> },
    Resolved { after: BTreeSet<OwnedEventId>, state: StateMap },
}

/// Fetches what a turn needs.
///
/// # Errors
/// When storage fails or the states cannot be resolved; the turn is not run again then.
pub(crate) async fn gather(
    place: GatheringPlace,
    context: Arc<RoomContext>,
    need: Need,
) -> Result<Gathered, StorageError> {
    match need {
        Need::Events { cited, read } => gather_events(&place, &context, cited, read).await,
        Need::Stay(membership) => gather_stay(&place, &context, membership).await,
        Need::Resolution(unresolved) => gather_resolution(place, &context, unresolved).await,
        // The door asks for it, so that the room need not wait for another server.
        Need::PolicySignature(_) => Ok(Gathered::Events { found: Vec::new(), absent: BTreeSet::new() }),
    }
}

async fn gather_events(
    place: &GatheringPlace,
    context: &RoomContext,
    cited: BTreeSet<OwnedEventId>,
    read: BTreeSet<OwnedEventId>,
) -> Result<Gathered, StorageError> {
    let ids: Vec<OwnedEventId> = cited.union(&read).cloned().collect();
    let stored = context.stores.rooms.events(&place.room_id, &ids).await?;
    let mut found = Vec::new();
    let mut absent = BTreeSet::new();
    for (event_id, stored) in ids.into_iter().zip(stored) {
        match stored {
            // What has no known state before it may authorize, but nobody can stand on it.
            Some(stored) if has_state(&stored) || !cited.contains(&event_id) => {
                let state = if cited.contains(&event_id) {
                    let version = stored.state_before;
                    state_at(context, &place.room_id, version, &place.current).await?.map(|state| (version, state))
                } else {
                    None
                };
                found.push((stored, state));
            }
            _ => {
                absent.insert(event_id);
            }
        }
    }
    Ok(Gathered::Events { found, absent })
}

async fn gather_stay(
    place: &GatheringPlace,
    context: &RoomContext,
    membership: Arc<Pdu>,
) -> Result<Gathered, StorageError> {
    let (mut found, mut absent) = (Vec::new(), BTreeSet::new());
    let mut next = Some(membership);
    for _ in 0..STAY_MEMBERSHIPS_MAX {
        let Some(membership) = next.take() else { break };
        let stored = context.stores.rooms.events(&place.room_id, membership.auth_events()).await?;
        for (event_id, stored) in membership.auth_events().iter().zip(stored) {
            match stored {
                Some(stored) => {
                    if is_earlier_membership(&stored.event, &membership) {
                        next = Some(stored.event.clone());
                    }
                    found.push((stored, None));
                }
                None => _ = absent.insert(event_id.clone()),
            }
        }
    }
    Ok(Gathered::Events { found, absent })
}

/// Whether an event is a membership of the same user.
pub(super) fn is_earlier_membership(event: &Pdu, membership: &Pdu) -> bool {
    *event.kind() == TimelineEventType::RoomMember && event.state_key() == membership.state_key()
}

async fn gather_resolution(
    place: GatheringPlace,
    context: &RoomContext,
    unresolved: Unresolved,
) -> Result<Gathered, StorageError> {
    let Unresolved { after, states } = unresolved;
    let mut events = AuthEvents::default();
    events.insert_states(&states);
    for event in place.recent {
        events.insert(event);
    }
    loop {
        let unknown: Vec<OwnedEventId> = events.unknown(&states).into_iter().take(AUTH_EVENTS_PER_READ).collect();
        if unknown.is_empty() {
            break;
        }
        let stored = context.stores.rooms.events(&place.room_id, &unknown).await?;
        for (event_id, stored) in unknown.into_iter().zip(stored) {
            match stored {
                Some(stored) => events.insert(stored.event),
                None => events.insert_absent(event_id),
            }
        }
    }
    let version = place.version;
    let unavailable = |reason: String| StorageError::Unavailable { reason };
    let state = context
        .cpu
        .run(move || resolve(&version, &states, &events))
        .await
        .map_err(|error| unavailable(error.to_string()))?
        .map_err(|error| unavailable(error.to_string()))?;
    Ok(Gathered::Resolved { after, state })
}

/// Whether a stored event has no place in the graph: it was fetched to authorize others, or came with a state.
pub(super) fn is_outlier(stored: &StoredEvent) -> bool {
    stored.order.is_none() && stored.state_before == StateVersion::default()
}

/// Whether the state before a stored event is known. Of history that was fetched backwards it is not.
pub(super) fn has_state(stored: &StoredEvent) -> bool {
    !is_outlier(stored) && stored.order.is_none_or(|order| order > TimelineOrder(0))
}

/// Reads a version of the state, sharing with the current one all that is equal.
pub(super) async fn state_at(
    context: &RoomContext,
    room_id: &RoomId,
    version: StateVersion,
    current: &StateNode,
) -> Result<Option<StateMap>, StorageError> {
    if version == current.version() {
        return Ok(Some(current.state().clone()));
    }
    if version == StateVersion::default() {
        // Before the create event there is nothing, and no row that says so.
        return Ok(Some(StateMap::default()));
    }
    let Some(wanted) = context.stores.rooms.state_at(room_id, version).await? else {
        return Ok(None);
    };
    let mut state = current.state().clone();
    let gone: Vec<StateKey> =
        state.iter().map(|(key, _)| key.clone()).filter(|key| !wanted.contains_key(key)).collect();
    for key in &gone {
        state.remove(key);
    }
    let other: Vec<OwnedEventId> = wanted
        .into_iter()
        .filter(|((kind, key), event_id)| state.get(kind, key).is_none_or(|event| event.event_id() != event_id))
        .map(|(_, event_id)| event_id)
        .collect();
    for (event_id, stored) in other.iter().zip(context.stores.rooms.events(room_id, &other).await?) {
        match stored {
            Some(stored) => state.insert(stored.event),
            None => {
                return Err(StorageError::Corrupt {
                    what: format!("state {} of {room_id} lacks {event_id}", version.0),
                });
            }
        }
    }
    Ok(Some(state))
}
