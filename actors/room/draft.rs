//! Events of our own users: placed, judged, then signed; never signed before the rules agreed.
//! May not: change memory; [`Room::apply`] does.

use std::sync::Arc;

use serde_json::value::to_raw_value;
use vestibule_protocol::{
    auth::{NotAuthorized, authorize_by_shape, authorize_by_state, selection},
    clock::UnixMillis,
    pdu::{
        Pdu,
        event_builder::{BuildRefusal, EventDraft, GraphPlace},
    },
    room_graph::{CurrentAfter, StateBefore, StateNode},
};

use super::{
    apply::{Placed, Source},
    gather::{Lookups, Need},
    memory::Room,
    policy::PolicyStop,
};

/// Why a draft is not an event yet, or never will be.
#[derive(Debug)]
pub(super) enum DraftStop {
    /// Something must be gathered first.
    Need(Need),
    /// The rules refuse.
    NotAuthorized(NotAuthorized),
    /// It cannot be built.
    Build(BuildRefusal),
}

impl From<PolicyStop> for DraftStop {
    fn from(stop: PolicyStop) -> Self {
        match stop {
            PolicyStop::Need(need) => Self::Need(need),
            PolicyStop::Refused(reason) => Self::NotAuthorized(NotAuthorized { reason }),
        }
    }
}

/// A draft with its place in the graph.
pub(super) struct PlacedDraft {
    pub(super) place: GraphPlace,
    pub(super) before: Arc<StateNode>,
    auth_events: Vec<Arc<Pdu>>,
}

impl Room {
    /// Where a draft goes: which events it cites, and by which it is authorized.
    pub(super) fn place_draft(&mut self, draft: &EventDraft, at: UnixMillis) -> Result<PlacedDraft, DraftStop> {
        let version = self.version().clone();
        let content = to_raw_value(&draft.content)
            .map_err(|error| DraftStop::Build(BuildRefusal::BadContent(error.to_string())))?;
        let select = |state: &_| {
            selection::select_auth_events(
                &version,
                &draft.kind,
                &draft.sender,
                draft.state_key.as_deref(),
                &content,
                state,
            )
            .map_err(DraftStop::NotAuthorized)
        };
        let wanted = select(self.state())?;
        let (prev_events, depth) = self.graph.cite(&wanted);
        let before = match self.graph.state_before(&prev_events) {
            StateBefore::Known(node) => node,
            StateBefore::NotInMemory(cited) => {
                return Err(DraftStop::Need(Need::Events { cited, read: std::collections::BTreeSet::new() }));
            }
            StateBefore::Unresolved(unresolved) => return Err(DraftStop::Need(Need::Resolution(unresolved))),
        };
        let auth_events = select(before.state())?;
        let place = GraphPlace {
            room_id: Some(self.room_id.clone()),
            prev_events,
            auth_events: selection::ids(&auth_events),
            depth: depth.saturating_add(1),
            origin_server_ts: at,
        };
        Ok(PlacedDraft { place, before, auth_events })
    }

    /// Judges a draft in its place, in the form that everybody will judge it in.
    pub(super) fn judge_draft(&self, draft: &EventDraft, placed: &PlacedDraft) -> Result<Pdu, DraftStop> {
        let version = self.version();
        let judged = draft.to_judged_form(&placed.place, version).map_err(DraftStop::Build)?;
        let find = |id: &ruma::EventId| placed.auth_events.iter().find(|event| event.event_id() == id).cloned();
        let find_create = |id: &ruma::EventId| {
            find(id).or_else(|| self.state().create().filter(|create| create.event_id() == id).cloned())
        };
        authorize_by_shape(version, &judged, find_create).map_err(DraftStop::NotAuthorized)?;
        authorize_by_state(version, &judged, placed.before.state()).map_err(DraftStop::NotAuthorized)?;
        authorize_by_state(version, &judged, self.state()).map_err(DraftStop::NotAuthorized)?;
        Ok(judged)
    }

    /// Places, judges, signs, and finds out what becomes of the current state.
    pub(super) fn draft(&mut self, draft: EventDraft, lookups: &Lookups) -> Result<Placed, DraftStop> {
        let placed = self.place_draft(&draft, lookups.asked_at())?;
        self.judge_draft(&draft, &placed)?;
        self.sign_draft(draft, placed, lookups)
    }

    /// Signs a draft that was judged, and has it signed by the room's policy server if there is one.
    pub(super) fn sign_draft(
        &mut self,
        draft: EventDraft,
        placed: PlacedDraft,
        lookups: &Lookups,
    ) -> Result<Placed, DraftStop> {
        let version = self.version().clone();
        let event = draft.build(&placed.place, &version, &self.context.identity).map_err(DraftStop::Build)?;
        let event = self.pass_policy(&Arc::new(event), lookups)?;
        match self.graph.place(&event, &placed.before) {
            CurrentAfter::Known(placement) => {
                Ok(Placed { source: Source::Ours, event, before: placed.before, placement })
            }
            CurrentAfter::Unresolved(unresolved) => Err(DraftStop::Need(Need::Resolution(unresolved))),
        }
    }
}
