//! Events that another server signed, at our door: everything they cite must be known, every state must allow them.
//! May not: sign anything, or store an event that a state refuses; at the door we refuse where others soft-fail.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{EventId, OwnedEventId};
use vestibule_protocol::{
    auth::{NotAuthorized, authorize_by_shape},
    membership::{OVERTAKEN, crossing::is_overtaken},
    pdu::{Pdu, Standing},
    room_graph::{CurrentAfter, Placement, StateBefore, StateNode},
    state::{StateMap, StateVersion},
};

use super::{
    gather::{Lookups, Need, is_outlier},
    memory::Room,
    policy::PolicyStop,
};

/// What an incoming event stands on.
pub(super) struct Cited {
    /// The state before it.
    pub(super) before: Arc<StateNode>,
    /// The events that it names as authorizing it.
    pub(super) auth_events: Vec<Arc<Pdu>>,
}

/// The auth events that an event names.
pub(super) struct NamedEvents {
    /// Those at hand.
    pub(super) auth_events: Vec<Arc<Pdu>>,
    /// Those that storage was not asked for yet.
    pub(super) to_read: BTreeSet<OwnedEventId>,
    /// Those that storage does not have.
    pub(super) absent: Vec<OwnedEventId>,
}

/// Why an incoming event is not in the room yet, or never will be.
#[derive(Debug)]
pub(super) enum IncomingStop<F> {
    /// Something must be gathered first.
    Need(Need),
    /// It cites events that we do not have.
    UnknownPrevEvents(Vec<OwnedEventId>),
    /// It is authorized by events that we do not have.
    UnknownAuthEvents(Vec<OwnedEventId>),
    /// It names auth events that it may not name.
    NotAuthorized(NotAuthorized),
    /// A state refuses it.
    Refused(F),
}

impl Room {
    /// Whether the event is here already, also as one that was set aside.
    pub(super) fn has_event(&self, event_id: &EventId, lookups: &Lookups) -> bool {
        self.graph.recent_event(event_id).is_some() || lookups.event(event_id).is_some_and(|stored| !is_outlier(stored))
    }

    /// An event that is in the room already, with the version of the state before it.
    pub(super) fn accepted_before(&self, event_id: &EventId, lookups: &Lookups) -> Option<(Arc<Pdu>, StateVersion)> {
        let in_memory = self.graph.recent(event_id).map(|(event, before)| (event.clone(), before.version()));
        let stored = || lookups.event(event_id).map(|stored| (stored.event.clone(), stored.state_before));
        in_memory.or_else(stored).filter(|(event, state_before)| {
            event.standing() == Standing::Accepted && *state_before != StateVersion::default()
        })
    }

    /// Judges an incoming event against its auth events, the state before it and the current state, in that order.
    pub(super) fn judge_incoming<F>(
        &mut self,
        event: &Arc<Pdu>,
        lookups: &Lookups,
        authorize: impl Fn(&StateMap) -> Result<(), F>,
    ) -> Result<Arc<StateNode>, IncomingStop<F>> {
        let Cited { before, auth_events } = self.cited(event, lookups)?;
        let state_of_auth_events = self.authorized_by(event, &auth_events).map_err(IncomingStop::NotAuthorized)?;
        authorize(&state_of_auth_events).map_err(IncomingStop::Refused)?;
        authorize(before.state()).map_err(IncomingStop::Refused)?;
        authorize(self.state()).map_err(IncomingStop::Refused)?;
        Ok(before)
    }

    /// What an incoming event stands on: the state after the events that it cites, and the events that authorize it.
    pub(super) fn cited<F>(&mut self, event: &Arc<Pdu>, lookups: &Lookups) -> Result<Cited, IncomingStop<F>> {
        let NamedEvents { auth_events, to_read, absent } = self.named_by(event, lookups);
        let before = match self.graph.state_before(event.prev_events()) {
            StateBefore::Known(node) => node,
            StateBefore::NotInMemory(ids) => {
                let unknown: Vec<OwnedEventId> = ids.iter().filter(|id| lookups.is_absent(id)).cloned().collect();
                if !unknown.is_empty() {
                    return Err(IncomingStop::UnknownPrevEvents(unknown));
                }
                return Err(IncomingStop::Need(Need::Events { cited: ids, read: to_read }));
            }
            StateBefore::Unresolved(unresolved) if to_read.is_empty() => {
                return Err(IncomingStop::Need(Need::Resolution(unresolved)));
            }
            StateBefore::Unresolved(_) => {
                return Err(IncomingStop::Need(Need::Events { cited: BTreeSet::new(), read: to_read }));
            }
        };
        if !to_read.is_empty() {
            return Err(IncomingStop::Need(Need::Events { cited: BTreeSet::new(), read: to_read }));
        }
        if !absent.is_empty() {
            return Err(IncomingStop::UnknownAuthEvents(absent));
        }
        Ok(Cited { before, auth_events })
    }

    /// The auth events that an event names, as far as they are at hand.
    pub(super) fn named_by(&self, event: &Pdu, lookups: &Lookups) -> NamedEvents {
        let mut auth_events: Vec<Arc<Pdu>> = Vec::new();
        let mut to_read: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut absent: Vec<OwnedEventId> = Vec::new();
        for auth_id in event.auth_events() {
            let known = self
                .event_in_memory(auth_id, event)
                .or_else(|| lookups.event(auth_id).map(|stored| stored.event.clone()));
            match known {
                Some(auth_event) => auth_events.push(auth_event),
                None if lookups.is_absent(auth_id) => absent.push(auth_id.clone()),
                None => {
                    to_read.insert(auth_id.clone());
                }
            }
        }
        NamedEvents { auth_events, to_read, absent }
    }

    /// Judges which auth events an event names, and gives the state that they make.
    pub(super) fn authorized_by(&self, event: &Pdu, auth_events: &[Arc<Pdu>]) -> Result<StateMap, NotAuthorized> {
        let version = self.version();
        let find = |id: &EventId| {
            auth_events.iter().chain(self.state().create()).find(|auth_event| auth_event.event_id() == id).cloned()
        };
        authorize_by_shape(version, event, find)?;
        let mut state_of_auth_events: StateMap = auth_events.iter().cloned().collect();
        if version.room_id_is_create_hash()
            && let Some(create) = self.state().create()
        {
            // Implied by the room id, so never among the auth events.
            state_of_auth_events.insert(create.clone());
        }
        Ok(state_of_auth_events)
    }

    /// A judged event as it may go on: with the signature of the room's policy server, if it has one.
    pub(super) fn pass_incoming<F>(&self, event: &Arc<Pdu>, lookups: &Lookups) -> Result<Arc<Pdu>, IncomingStop<F>> {
        self.pass_policy(event, lookups).map_err(|stop| match stop {
            PolicyStop::Need(need) => IncomingStop::Need(need),
            PolicyStop::Refused(reason) => IncomingStop::NotAuthorized(NotAuthorized { reason }),
        })
    }

    /// As [`Self::place_incoming`], for a knock or a join: an answer of 200 says that the user now knocks or is in. Whoever is
    /// refused because the event came too late can ask for a new template. A leave is taken all the same: it may cross an
    /// invite, and every server knows which of the two stands.
    pub(super) fn place_at_door<F>(
        &self,
        event: &Arc<Pdu>,
        before: &Arc<StateNode>,
    ) -> Result<Placement, IncomingStop<F>> {
        let overtaken = || IncomingStop::NotAuthorized(NotAuthorized { reason: OVERTAKEN.to_owned() });
        if is_overtaken(event, self.state().member(event.sender()).map(|standing| &**standing)) {
            return Err(overtaken());
        }
        let placement = self.place_incoming(event, before).map_err(IncomingStop::Need)?;
        if placement.keeps(event) { Ok(placement) } else { Err(overtaken()) }
    }

    /// What becomes of the current state with a judged event.
    pub(super) fn place_incoming(&self, event: &Arc<Pdu>, before: &Arc<StateNode>) -> Result<Placement, Need> {
        match self.graph.place(event, before) {
            CurrentAfter::Known(placement) => Ok(placement),
            CurrentAfter::Unresolved(unresolved) => Err(Need::Resolution(unresolved)),
        }
    }
}
