//! The authorization rules, decided by ruma and held to our own tables.
//! May not: know where events or state come from; both arrive as closures.

pub mod selection;

use std::sync::Arc;

use ruma::{
    EventId,
    events::StateEventType,
    state_res::{check_state_dependent_auth_rules, check_state_independent_auth_rules},
};
use thiserror::Error;

use crate::{pdu::Pdu, room_version::RoomVersion, state::StateMap};

/// The rules of the room version refuse the event.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not authorized: {reason}")]
pub struct NotAuthorized {
    /// Which rule refused, in words for a log or an audit row; never sent to a peer.
    pub reason: String,
}

/// Judges an event against the events that it names as its auth events (steps 1 to 3 of the rules).
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules>
///
/// # Errors
/// [`NotAuthorized`]; an auth event that `fetch_event` does not find is one reason.
pub fn authorize_by_shape(
    version: &RoomVersion,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), NotAuthorized> {
    check_state_independent_auth_rules(&version.rules().authorization, event, fetch_event)
        .map_err(|reason| NotAuthorized { reason })
}

/// Judges an event against a state of the room.
///
/// # Errors
/// [`NotAuthorized`].
pub fn authorize_by_state(version: &RoomVersion, event: &Pdu, state: &StateMap) -> Result<(), NotAuthorized> {
    let fetch = |kind: &StateEventType, state_key: &str| state.get(kind, state_key).cloned();
    check_state_dependent_auth_rules::<Arc<Pdu>>(&version.rules().authorization, event, fetch)
        .map_err(|reason| NotAuthorized { reason })
}
