//! Events without a place in the graph: judged by the events that they name, kept to authorize others.
//! May not: let one that failed the rules pass for one that did not.

use std::sync::Arc;

use ruma::EventId;
use vestibule_protocol::{
    auth::{NotAuthorized, authorize_by_shape, authorize_by_state},
    pdu::{Pdu, Standing},
    room_graph::StateNode,
    room_version::RoomVersion,
    state::{StateMap, StateVersion},
};
use vestibule_storage::room::EventRow;

use super::{Room, RoomChange};

/// Judges an event by its auth events alone (steps 1 to 4): all that can be judged of an event without a place. The event
/// comes back with its standing.
pub(super) fn judge_outlier(
    event: &Arc<Pdu>,
    version: &RoomVersion,
    create: Option<&Arc<Pdu>>,
    find: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Arc<Pdu> {
    match authorize_outlier(event, version, create, find) {
        Ok(()) => event.clone(),
        Err(refusal) => {
            log::debug!(room_id:% = event.room_id(), event_id:% = event.event_id(), reason = refusal.reason; "outlier rejected");
            Arc::new(event.to_standing(Standing::Rejected))
        }
    }
}

fn authorize_outlier(
    event: &Pdu,
    version: &RoomVersion,
    create: Option<&Arc<Pdu>>,
    find: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), NotAuthorized> {
    let find_any = |id: &EventId| find(id).or_else(|| create.filter(|create| create.event_id() == id).cloned());
    authorize_by_shape(version, event, find_any)?;
    let mut state: StateMap = event.auth_events().iter().filter_map(|id| find_any(id)).collect();
    if version.room_id_is_create_hash()
        && let Some(create) = create
    {
        // Implied by the room id, so never among the auth events.
        state.insert(create.clone());
    }
    authorize_by_state(version, event, &state)
}

impl Room {
    /// Stores an event without a place.
    pub(super) fn keep_outlier(&self, event: Arc<Pdu>, change: &mut RoomChange) {
        let state_before = StateVersion::default();
        change.push_event(EventRow {
            event,
            order: None,
            state_before,
            current_after: self.graph.current().version(),
            visibility: self.state().history_visibility(),
            received_at: self.now(),
            transaction: None,
        });
    }

    /// Stores an event that has its place in the graph and is not part of the room.
    pub(super) fn keep_aside(
        &mut self,
        event: &Arc<Pdu>,
        before: &Arc<StateNode>,
        standing: Standing,
        change: &mut RoomChange,
    ) {
        let event = Arc::new(event.to_standing(standing));
        let rows = self.graph.set_aside(event.clone(), before);
        change.push_state_rows(rows);
        change.push_event(EventRow {
            event,
            order: None,
            state_before: before.version(),
            current_after: self.graph.current().version(),
            visibility: before.state().history_visibility(),
            received_at: self.now(),
            transaction: None,
        });
    }
}
