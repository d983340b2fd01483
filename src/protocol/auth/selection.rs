//! Which events of a state authorize an event: the selection that goes into `auth_events`.
//! May not: judge; only select.

use std::sync::Arc;

use ruma::{OwnedEventId, UserId, events::TimelineEventType, state_res::auth_types_for_event};
use serde_json::value::RawValue;

use super::NotAuthorized;
use crate::{pdu::Pdu, room_version::RoomVersion, state::StateMap};

/// Selects the auth events for an event that is not built yet, from the state before it.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>
///
/// # Errors
/// [`NotAuthorized`] when the content of a member event is unreadable, so no selection exists.
pub fn select_auth_events(
    version: &RoomVersion,
    kind: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    state: &StateMap,
) -> Result<Vec<Arc<Pdu>>, NotAuthorized> {
    let types = auth_types_for_event(kind, sender, state_key, content, &version.rules().authorization)
        .map_err(|reason| NotAuthorized { reason })?;
    let mut selected: Vec<Arc<Pdu>> = types.iter().filter_map(|(kind, key)| state.get(kind, key).cloned()).collect();
    selected.sort_by(|left, right| left.event_id().cmp(right.event_id()));
    selected.dedup_by(|left, right| left.event_id() == right.event_id());
    Ok(selected)
}

/// The ids of a selection.
pub fn ids(selection: &[Arc<Pdu>]) -> Vec<OwnedEventId> {
    selection.iter().map(|event| event.event_id().to_owned()).collect()
}
