//! What the current state must be: ruma's algorithm over whole states and whole auth chains, of all forward extremities,
//! after every event. Slow and plain.
//! May not: share code with the graph or with the shortened resolution; its agreement with them would mean nothing.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    state_res::{self, utils::event_id_set::EventIdSet},
};

use crate::{pdu::Pdu, room_version::RoomVersion, state::StateMap};

pub(crate) type FullState = state_res::StateMap<OwnedEventId>;

pub(crate) struct Oracle {
    version: RoomVersion,
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    after: HashMap<OwnedEventId, Rc<FullState>>,
    chains: HashMap<OwnedEventId, Rc<HashSet<OwnedEventId>>>,
    resolved: RefCell<HashMap<BTreeSet<OwnedEventId>, Rc<FullState>>>,
    pub(crate) extremities: BTreeSet<OwnedEventId>,
}

impl Oracle {
    pub(crate) fn new(version: RoomVersion) -> Self {
        Self {
            version,
            events: HashMap::new(),
            after: HashMap::new(),
            chains: HashMap::new(),
            resolved: RefCell::default(),
            extremities: BTreeSet::new(),
        }
    }

    /// Takes an event that the room admitted.
    pub(crate) fn append(&mut self, event: &Arc<Pdu>) {
        let event_id = event.event_id().to_owned();
        let mut chain = HashSet::new();
        for auth_id in event.auth_events() {
            chain.insert(auth_id.clone());
            chain.extend(self.chains[auth_id].iter().cloned());
        }
        self.chains.insert(event_id.clone(), Rc::new(chain));
        self.events.insert(event_id.clone(), event.clone());
        let cited: BTreeSet<OwnedEventId> = event.prev_events().iter().cloned().collect();
        let mut state = self.state_after(&cited).as_ref().clone();
        if let Some(key) = event.state_entry() {
            state.insert(key, event_id.clone());
        }
        self.after.insert(event_id.clone(), Rc::new(state));
        self.extremities.retain(|id| !cited.contains(id));
        self.extremities.insert(event_id);
    }

    /// The state after one event.
    pub(crate) fn after(&self, event_id: &EventId) -> &FullState {
        &self.after[event_id]
    }

    /// The plain algorithm over any states made of events that the oracle knows.
    pub(crate) fn resolve(&self, maps: &[FullState]) -> FullState {
        plain_resolve(&self.version, maps, &self.events, &self.chains)
    }

    /// The state after some events.
    pub(crate) fn state_after(&self, event_ids: &BTreeSet<OwnedEventId>) -> Rc<FullState> {
        if let Some(state) = self.resolved.borrow().get(event_ids) {
            return state.clone();
        }
        let states: Vec<Rc<FullState>> = event_ids.iter().map(|id| self.after[id].clone()).collect();
        if let [only] = states.as_slice() {
            return only.clone();
        }
        let maps: Vec<FullState> = states.iter().map(|state| state.as_ref().clone()).collect();
        let state = Rc::new(plain_resolve(&self.version, &maps, &self.events, &self.chains));
        self.resolved.borrow_mut().insert(event_ids.clone(), state.clone());
        state
    }
}

/// ruma's algorithm over everything there is.
fn plain_resolve(
    version: &RoomVersion,
    maps: &[FullState],
    events: &HashMap<OwnedEventId, Arc<Pdu>>,
    chains: &HashMap<OwnedEventId, Rc<HashSet<OwnedEventId>>>,
) -> FullState {
    let full_chain = |map: &FullState| -> EventIdSet<OwnedEventId> {
        let ids: HashSet<&OwnedEventId> = map.values().flat_map(|id| chains[id].iter()).collect();
        ids.into_iter().cloned().collect()
    };
    let subgraph = |conflict: &state_res::StateMap<Vec<OwnedEventId>>| {
        let conflicted: HashSet<&OwnedEventId> = conflict.values().flatten().collect();
        let below: HashSet<&OwnedEventId> = conflicted.iter().flat_map(|id| chains[*id].iter().chain([*id])).collect();
        let is_between =
            |id: &OwnedEventId| conflicted.contains(id) || chains[id].iter().any(|lower| conflicted.contains(lower));
        Some(below.into_iter().filter(|id| is_between(id)).cloned().collect())
    };
    state_res::resolve(
        &version.rules().authorization,
        version.state_resolution(),
        maps,
        maps.iter().map(full_chain).collect(),
        |id: &EventId| events.get(id).cloned(),
        subgraph,
    )
    .unwrap()
}

/// Whether a state of ours is that state.
pub(crate) fn difference(ours: &StateMap, full: &FullState) -> Option<String> {
    let mut keys: BTreeSet<(String, String)> = full.keys().map(|(kind, key)| (kind.to_string(), key.clone())).collect();
    keys.extend(ours.iter().map(|((kind, key), _)| (kind.to_string(), key.clone())));
    let lines: Vec<String> = keys
        .into_iter()
        .filter_map(|(kind, key)| {
            let own = ours.get(&kind.clone().into(), &key).map(|event| event.event_id().to_owned());
            let other = full.get(&(kind.clone().into(), key.clone())).cloned();
            (own != other).then(|| format!("({kind}, {key}): ours {own:?}, ruma's {other:?}"))
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
