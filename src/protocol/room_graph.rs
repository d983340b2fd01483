//! The graph of one room as its actor holds it: forward extremities, the states around them, the resolved current state.
//! May not: load, store, authorize, or resolve; it says what must be resolved and takes the result.
//!
//! Forks are normal here. Every knock made from one template cites the same events, so a popular room has dozens of forward
//! extremities at any moment. Resolving each time would make the cost of a knock grow with their number. But what happens at
//! the *door* is of a kind: a plain knock (of somebody without a member event, authorized by the room's create, power levels
//! and join rules and nothing else), its answer, the join of whoever was invited. Nothing of one user's can unseat anything of
//! another's, and of one user the last stands. So each state carries a hash of everything in it that is not at the door, its
//! *core*. As long as all extremities have the same core, what happens at the door costs one insertion; otherwise the full
//! algorithm decides. A property test holds the two against each other.

mod lacked;
mod node;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Weak},
};

use ruma::{EventId, OwnedEventId};

pub use self::node::{StateNode, StateRow};
use self::{
    lacked::Lacked,
    node::{Link, are_tangled},
};
use crate::{
    pdu::{Pdu, Standing, checks::PREV_EVENTS_MAX},
    room_version::RoomVersion,
    state::{StateChange, StateKey, StateMap, StateVersion},
};

/// Events that the graph remembers with the state before them, beside its forward extremities, so that new events may cite
/// them without a look into storage.
/// Ours: a template older than a thousand events costs a read.
pub const RECENT_EVENTS_MAX: usize = 1_024;

/// Sets of events whose resolved state is remembered. Ours: as above.
pub const RESOLVED_SETS_MAX: usize = 256;

/// A forward extremity to start from.
#[derive(Clone, Debug)]
pub struct Extremity {
    /// The event.
    pub event: Arc<Pdu>,
    /// The state before it, and that state's version.
    pub before: Arc<StateNode>,
    /// Its place in the order of arrival.
    pub arrival: u64,
}

/// An extremity with the core of the state after it, so that nobody computes it twice.
#[derive(Clone, Debug)]
struct HeldExtremity {
    extremity: Extremity,
    core: u128,
    /// What it did at the door.
    link: Option<(String, Link)>,
}

impl HeldExtremity {
    /// What the state after it has at the door for a user.
    fn link_at(&self, user: &str) -> Option<&Link> {
        match &self.link {
            Some((own, link)) if own == user => Some(link),
            _ => self.extremity.before.link_at(user),
        }
    }
}

/// How often which path decided the current state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounts {
    /// The event cited all extremities: its own state is the current one.
    pub linear: u64,
    /// States differed by plain knocks only: their union.
    pub short: u64,
    /// The full algorithm.
    pub full: u64,
}

/// What must be known before an event that cites these events can be judged.
#[derive(Clone, Debug)]
pub enum StateBefore {
    /// The state before the event.
    Known(Arc<StateNode>),
    /// These events are not in memory; storage or a peer may have them. See [`RoomGraph::remember`].
    NotInMemory(BTreeSet<OwnedEventId>),
    /// These states must be resolved; see [`RoomGraph::supply`].
    Unresolved(Unresolved),
}

/// States to be resolved, under the name of the events that they stand behind.
#[derive(Clone, Debug)]
pub struct Unresolved {
    /// The events, and the name of a claim if there is one; [`RoomGraph::supply`] wants them back.
    pub after: BTreeSet<OwnedEventId>,
    /// The distinct states after them.
    pub states: Vec<StateMap>,
}

/// How an event changes the current state.
#[derive(Clone, Debug)]
pub enum CurrentAfter {
    /// Decided.
    Known(Placement),
    /// The full algorithm must run first.
    Unresolved(Unresolved),
}

/// Where an event goes; made by [`RoomGraph::place`], used up by [`RoomGraph::append`].
#[derive(Clone, Debug)]
pub struct Placement {
    state: NewCurrent,
}

impl Placement {
    /// Whether the room's state after it holds the event. A resolution may decide for another in its place: for one that is
    /// newer than an event from an old template.
    pub fn keeps(&self, event: &Pdu) -> bool {
        let (NewCurrent::Resolved(node) | NewCurrent::Same(node), Some((kind, state_key))) =
            (&self.state, event.state_entry())
        else {
            return true;
        };
        node.state().get(&kind, &state_key).is_some_and(|standing| standing.event_id() == event.event_id())
    }
}

#[derive(Clone, Debug)]
enum NewCurrent {
    Linear,
    Union,
    Resolved(Arc<StateNode>),
    /// What it follows, the room has gone beyond.
    Same(Arc<StateNode>),
}

/// What appending an event changed: everything that a commit must hold.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Versions of the state to store, parents first.
    pub rows: Vec<StateRow>,
    /// The version before the event.
    pub before: StateVersion,
    /// The current version now.
    pub current: StateVersion,
    /// Entries of the current state that changed: key, event before, event now.
    pub changes: Vec<EntryChange>,
    /// The arrival number of the event as forward extremity. `None`: events that are here stand on it, so it is none.
    pub arrival: Option<u64>,
    /// Events that are no extremities any more.
    pub no_longer_extremities: Vec<OwnedEventId>,
}

/// One changed entry of the current state.
#[derive(Clone, Debug)]
pub struct EntryChange {
    /// Which.
    pub key: StateKey,
    /// What stood there.
    pub old: Option<Arc<Pdu>>,
    /// What stands there now.
    pub new: Option<Arc<Pdu>>,
}

/// A version that no commit has stored yet: it is stored with the first event that stands on it. Most never are.
#[derive(Clone, Debug)]
struct UnstoredRow {
    row: StateRow,
    node: Weak<StateNode>,
}

/// See the module's text.
#[derive(Debug)]
pub struct RoomGraph {
    version: RoomVersion,
    seed: u64,
    current: Arc<StateNode>,
    extremities: BTreeMap<OwnedEventId, HeldExtremity>,
    cores: BTreeMap<u128, usize>,
    /// Some user may have links outside one chain; then only the full algorithm knows what stands.
    is_tangled: bool,
    recent: BTreeMap<OwnedEventId, (Arc<Pdu>, Arc<StateNode>)>,
    recent_order: VecDeque<OwnedEventId>,
    resolved: BTreeMap<BTreeSet<OwnedEventId>, Arc<StateNode>>,
    resolved_order: VecDeque<BTreeSet<OwnedEventId>>,
    unstored: BTreeMap<StateVersion, UnstoredRow>,
    lacked: Lacked,
    next_version: u64,
    next_arrival: u64,
    counts: PathCounts,
}

impl RoomGraph {
    /// A room before its create event. `seed` keys the hash of cores; draw it at random.
    pub fn empty(version: RoomVersion, seed: u64) -> Self {
        let current = Arc::new(StateNode::empty());
        Self::resume(version, seed, current, Vec::new(), StateVersion(1), 1)
    }

    /// A room as storage has it.
    pub fn resume(
        version: RoomVersion,
        seed: u64,
        current: Arc<StateNode>,
        extremities: Vec<Extremity>,
        next_version: StateVersion,
        next_arrival: u64,
    ) -> Self {
        let mut graph = Self {
            version,
            seed,
            current,
            extremities: BTreeMap::new(),
            cores: BTreeMap::new(),
            is_tangled: false,
            recent: BTreeMap::new(),
            recent_order: VecDeque::new(),
            resolved: BTreeMap::new(),
            resolved_order: VecDeque::new(),
            unstored: BTreeMap::new(),
            lacked: Lacked::default(),
            next_version: next_version.0,
            next_arrival,
            counts: PathCounts::default(),
        };
        for extremity in extremities {
            graph.resume_extremity(extremity);
        }
        graph
    }

    /// The room's version.
    pub fn version(&self) -> &RoomVersion {
        &self.version
    }

    /// The resolved current state.
    pub fn current(&self) -> &Arc<StateNode> {
        &self.current
    }

    /// The key of the core hash.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many forward extremities there are.
    pub fn extremity_count(&self) -> usize {
        self.extremities.len()
    }

    /// The ids of the forward extremities.
    pub fn extremity_ids(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.extremities.keys()
    }

    /// Which paths were taken.
    pub fn path_counts(&self) -> PathCounts {
        self.counts
    }

    /// An event that the graph remembers.
    pub fn recent_event(&self, event_id: &EventId) -> Option<&Arc<Pdu>> {
        self.recent.get(event_id).map(|(event, _)| event)
    }

    /// An event that the graph remembers, and the state before it.
    pub fn recent(&self, event_id: &EventId) -> Option<(&Arc<Pdu>, &Arc<StateNode>)> {
        self.recent.get(event_id).map(|(event, before)| (event, before))
    }

    /// All events that the graph remembers.
    pub fn recent_events(&self) -> impl Iterator<Item = &Arc<Pdu>> {
        self.recent.values().map(|(event, _)| event)
    }

    /// Remembers an accepted event and the state before it, as read from storage.
    pub fn remember(&mut self, event: Arc<Pdu>, before: Arc<StateNode>) {
        let event_id = event.event_id().to_owned();
        if self.recent.insert(event_id.clone(), (event, before)).is_none() {
            self.recent_order.push_back(event_id);
        }
        // Extremities stay: the next event cites them. So they do not count, and any number of them leaves a place for others.
        while self.recent_order.len() > RECENT_EVENTS_MAX.saturating_add(self.extremities.len()) {
            let Some(oldest) = self.recent_order.pop_front() else { break };
            if self.extremities.contains_key(&oldest) {
                self.recent_order.push_back(oldest);
            } else {
                self.recent.remove(&oldest);
            }
        }
    }

    /// The forward extremities that a new event should cite, at most 20: first those that hold its auth events, then the
    /// oldest by arrival, so that the set drains. And the greatest depth among them.
    pub fn cite(&self, auth_events: &[Arc<Pdu>]) -> (Vec<OwnedEventId>, u64) {
        let mut by_arrival: Vec<&Extremity> = self.extremities.values().map(|held| &held.extremity).collect();
        by_arrival.sort_by_key(|extremity| extremity.arrival);
        let mut cited: Vec<&Extremity> = Vec::new();
        if by_arrival.len() > PREV_EVENTS_MAX {
            for auth_event in auth_events {
                let holds = |extremity: &&Extremity| holds(extremity, auth_event);
                if !cited.iter().any(holds)
                    && let Some(holder) = by_arrival.iter().copied().find(|extremity| holds(extremity))
                {
                    cited.push(holder);
                }
            }
        }
        for extremity in by_arrival {
            if cited.len() >= PREV_EVENTS_MAX {
                break;
            }
            let is_cited = cited.iter().any(|other| other.arrival == extremity.arrival);
            if !is_cited {
                cited.push(extremity);
            }
        }
        let depth = cited.iter().map(|extremity| extremity.event.depth()).max().unwrap_or(0);
        (cited.into_iter().map(|extremity| extremity.event.event_id().to_owned()).collect(), depth)
    }

    /// The state before an event that cites `prev_events`.
    pub fn state_before(&mut self, prev_events: &[OwnedEventId]) -> StateBefore {
        if prev_events.is_empty() {
            return StateBefore::Known(Arc::new(StateNode::empty()));
        }
        let after: BTreeSet<OwnedEventId> = prev_events.iter().cloned().collect();
        let is_all_extremities = after.len() == self.extremities.len() && after.iter().eq(self.extremities.keys());
        if is_all_extremities {
            return StateBefore::Known(self.current.clone());
        }
        if let Some(node) = self.resolved.get(&after) {
            return StateBefore::Known(node.clone());
        }
        let not_in_memory: BTreeSet<OwnedEventId> =
            after.iter().filter(|id| !self.recent.contains_key(*id)).cloned().collect();
        if !not_in_memory.is_empty() {
            return StateBefore::NotInMemory(not_in_memory);
        }
        let nodes = self.nodes_after(&after);
        match union_of(&nodes) {
            Some((nearest, node)) => StateBefore::Known(self.supply_node(after, nearest, node)),
            None => StateBefore::Unresolved(Unresolved { after, states: distinct_states(nodes) }),
        }
    }

    /// The state before an event that cites events which nobody here has, given what another server says the state there is.
    /// Of those events that are in memory, our own states count as well. What comes of it is remembered for this claim alone:
    /// the cited events may come yet, and then their own states count; and another server may claim something else.
    pub fn state_across(&mut self, prev_events: &[OwnedEventId], claimed: StateMap) -> StateBefore {
        let name = self.name_of_claim(&claimed);
        let after: BTreeSet<OwnedEventId> = prev_events.iter().cloned().chain(name).collect();
        if let Some(node) = self.resolved.get(&after) {
            return StateBefore::Known(node.clone());
        }
        let mut states = distinct_states(self.nodes_after(&after));
        if !states.contains(&claimed) {
            states.push(claimed.clone());
        }
        if states.len() == 1 {
            return StateBefore::Known(self.supply(after, &claimed));
        }
        StateBefore::Unresolved(Unresolved { after, states })
    }

    /// An id that no event has, to stand among the events behind which a state is claimed. Keyed, so nobody can cite it.
    fn name_of_claim(&self, claimed: &StateMap) -> Option<OwnedEventId> {
        let half = |tweak: u8| {
            let mut hasher = DefaultHasher::new();
            (self.seed, tweak).hash(&mut hasher);
            for (_, event) in claimed.iter() {
                event.event_id().as_str().hash(&mut hasher);
            }
            hasher.finish()
        };
        EventId::parse(format!("$claimed-{:016x}{:016x}", half(0), half(1))).ok()
    }

    /// Takes the result of resolving [`Unresolved::states`].
    pub fn supply(&mut self, after: BTreeSet<OwnedEventId>, state: &StateMap) -> Arc<StateNode> {
        let nodes = self.nodes_after(&after);
        let current = self.current.clone();
        // Stored as a difference to the nearest state that is stored anyway.
        let nearest = nodes
            .iter()
            .map(|(before, _)| before.clone())
            .chain([current.clone()])
            .min_by_key(|candidate| candidate.state().changes_to(state).len())
            .unwrap_or(current);
        let node = nearest.with_changes(&nearest.state().changes_to(state), &self.version, self.seed);
        self.supply_node(after, nearest, node)
    }

    /// How the current state changes with an event that has this state before it.
    pub fn place(&self, event: &Arc<Pdu>, before: &Arc<StateNode>) -> CurrentAfter {
        let followed = self.extremities_before(event);
        if self.is_overtaken(event, &followed) {
            return self.place_in_the_past(&followed);
        }
        if followed.len() == self.extremities.len() {
            return CurrentAfter::Known(Placement { state: NewCurrent::Linear });
        }
        let followed_cores: Vec<u128> =
            followed.iter().filter_map(|id| self.extremities.get(id)).map(|held| held.core).collect();
        let node = before.after(event, &self.version, self.seed);
        let other_cores_remain = self.cores.iter().any(|(core, count)| {
            let leaving = followed_cores.iter().filter(|followed_core| *followed_core == core).count();
            *core != node.core() && *count > leaving
        });
        let core_is_shared = !other_cores_remain && self.current.core() == node.core();
        if core_is_shared && !self.is_tangled && self.can_unite(&node, before, event) {
            return CurrentAfter::Known(Placement { state: NewCurrent::Union });
        }
        let after: BTreeSet<OwnedEventId> =
            self.extremities_beside(&followed).chain([event.event_id().to_owned()]).collect();
        if let Some(resolved) = self.resolved.get(&after) {
            return CurrentAfter::Known(Placement { state: NewCurrent::Resolved(resolved.clone()) });
        }
        let mut nodes = self.nodes_after(&after);
        nodes.push((before.clone(), node));
        CurrentAfter::Unresolved(Unresolved { after, states: distinct_states(nodes) })
    }

    /// An event that comes after others which stand on it: the room is beyond it, and beyond what it follows.
    fn place_in_the_past(&self, followed: &BTreeSet<OwnedEventId>) -> CurrentAfter {
        if followed.is_empty() {
            return CurrentAfter::Known(Placement { state: NewCurrent::Same(self.current.clone()) });
        }
        let after: BTreeSet<OwnedEventId> = self.extremities_beside(followed).collect();
        if let Some(resolved) = self.resolved.get(&after) {
            return CurrentAfter::Known(Placement { state: NewCurrent::Resolved(resolved.clone()) });
        }
        CurrentAfter::Unresolved(Unresolved { states: distinct_states(self.nodes_after(&after)), after })
    }

    /// Appends an accepted event. Everything it returns must be committed together; if the commit fails, throw the graph away.
    pub fn append(&mut self, event: Arc<Pdu>, before: &Arc<StateNode>, placement: Placement) -> Appended {
        let mut rows = Vec::new();
        self.take_unstored(before.version(), &mut rows);
        let old_current = self.current.clone();
        let followed = self.extremities_before(&event);
        let is_overtaken = self.is_overtaken(&event, &followed);
        let is_resolved = matches!(placement.state, NewCurrent::Resolved(_));
        let next = match placement.state {
            NewCurrent::Linear => {
                self.counts.linear = self.counts.linear.saturating_add(1);
                before.after(&event, &self.version, self.seed)
            }
            NewCurrent::Union => {
                self.counts.short = self.counts.short.saturating_add(1);
                old_current.united_with(&before.after(&event, &self.version, self.seed), before, &event)
            }
            NewCurrent::Resolved(node) => {
                self.counts.full = self.counts.full.saturating_add(1);
                (*node).clone()
            }
            NewCurrent::Same(node) => (*node).clone(),
        };
        let changes = old_current.state().changes_to(next.state());
        if !changes.is_empty() {
            let version = self.draw_version();
            let row = StateRow::between(&old_current, version, &changes, next.state());
            let next = next.named(version, row.delta_entries).continuing(&old_current);
            // What comes out of older states holds events whole that were redacted since.
            self.current = Arc::new(next.sharing(old_current.state(), &changes));
            rows.push(row);
        }
        for event_id in &followed {
            self.remove_extremity(event_id);
        }
        let arrival = (!is_overtaken).then(|| {
            let arrival = self.next_arrival;
            self.add_extremity(Extremity { event: event.clone(), before: before.clone(), arrival });
            arrival
        });
        self.note_lacked(&event);
        self.is_tangled = is_resolved && self.has_tangles();
        self.remember(event, before.clone());
        Appended {
            rows,
            before: before.version(),
            current: self.current.version(),
            changes: entry_changes(&old_current, changes),
            arrival,
            no_longer_extremities: followed.into_iter().collect(),
        }
    }

    /// Remembers an event that is in the graph and not in the room: rejected or soft-failed. Events may cite it; it is no
    /// forward extremity and leaves the current state alone. Returns the versions of the state to store with it.
    pub fn set_aside(&mut self, event: Arc<Pdu>, before: &Arc<StateNode>) -> Vec<StateRow> {
        let mut rows = Vec::new();
        self.take_unstored(before.version(), &mut rows);
        self.remember(event, before.clone());
        rows
    }

    /// The number that the next version of the state gets.
    pub fn next_state_version(&self) -> StateVersion {
        StateVersion(self.next_version)
    }

    /// The arrival number that the next forward extremity gets.
    pub fn next_arrival(&self) -> u64 {
        self.next_arrival
    }

    /// A stored state that the graph does not hold, as a node: what an old event that somebody cites stands on.
    pub fn node_from_storage(&self, version: StateVersion, delta_entries: u64, state: &StateMap) -> Arc<StateNode> {
        let changes = self.current.state().changes_to(state);
        let node = self.current.with_changes(&changes, &self.version, self.seed);
        Arc::new(node.named(version, delta_entries).in_epoch_of(&self.current))
    }

    /// Puts a redacted event in the place of the whole one, where it is read: among the events that the graph remembers, and in
    /// the current state. Its id stays, so states stay the same.
    pub fn replace_redacted(&mut self, redacted: &Arc<Pdu>) {
        if let Some((event, _)) = self.recent.get_mut(redacted.event_id()) {
            *event = redacted.clone();
        }
        let held = redacted.state_entry().and_then(|(kind, key)| self.current.state().get(&kind, &key).cloned());
        if held.as_ref() == Some(redacted) {
            let mut current = (*self.current).clone();
            current.replace(redacted.clone());
            self.current = Arc::new(current);
        }
    }

    /// Adds a forward extremity that storage holds, when the room is loaded.
    pub fn resume_extremity(&mut self, extremity: Extremity) {
        let (event, before) = (extremity.event.clone(), extremity.before.clone());
        let event_id = event.event_id().to_owned();
        self.add_extremity(extremity);
        self.note_lacked(&event);
        self.remember(event, before.clone());
        let made = self.extremities.get(&event_id).and_then(|held| held.link.as_ref());
        // Of the others nothing is known yet, so any answer that the current state does not share may be a tangle.
        let may_tangle = self.current.differs_by_answers(&before, made.map(|(user, link)| (user.as_str(), link)));
        self.is_tangled = self.is_tangled || may_tangle;
    }

    /// Whether the current state and that after an event resolve to their union.
    fn can_unite(&self, after: &StateNode, before: &StateNode, event: &Pdu) -> bool {
        self.current.additions(after, before, event).is_some_and(|additions| {
            // Of two plain knocks the current state has one. An answer to it must not meet the other.
            additions.into_iter().filter(|(_, link)| link.is_answer()).all(|(user, link)| {
                self.extremities
                    .values()
                    .all(|held| held.link_at(user).is_none_or(|other| link.is_in_chain_with(other)))
            })
        })
    }

    fn has_tangles(&self) -> bool {
        let befores = self.extremities.values().map(|held| &held.extremity.before);
        let made = self.extremities.values().filter_map(|held| held.link.as_ref());
        are_tangled(befores, made.map(|(user, link)| (user.as_str(), link)))
    }

    /// The forward extremities that an event comes after: those that it cites, and those behind cited events that were set
    /// aside. A set-aside event ends nothing by itself, but what is accepted upon it is after all that it is after.
    fn extremities_before(&self, event: &Pdu) -> BTreeSet<OwnedEventId> {
        let mut found = BTreeSet::new();
        let mut passed: BTreeSet<&OwnedEventId> = BTreeSet::new();
        let mut next: Vec<&OwnedEventId> = event.prev_events().iter().collect();
        while let Some(event_id) = next.pop() {
            if self.extremities.contains_key(event_id) {
                found.insert(event_id.clone());
            } else if let Some((cited, _)) = self.recent.get(event_id)
                && cited.standing() != Standing::Accepted
                && passed.insert(event_id)
            {
                next.extend(cited.prev_events());
            }
        }
        found
    }

    fn extremities_beside(&self, followed: &BTreeSet<OwnedEventId>) -> impl Iterator<Item = OwnedEventId> {
        self.extremities.keys().filter(|id| !followed.contains(*id)).cloned()
    }

    /// Whether accepted events stand on this one, which came after them because nobody gave it to us.
    fn is_overtaken(&self, event: &Pdu, followed: &BTreeSet<OwnedEventId>) -> bool {
        // One at least stays: a room has an end. Hashes do not let an event follow what stands on it.
        self.lacked.contains(event.event_id()) && followed.len() < self.extremities.len()
    }

    fn note_lacked(&mut self, event: &Pdu) {
        for event_id in event.prev_events() {
            if !self.recent.contains_key(event_id) {
                self.lacked.add(event_id);
            }
        }
    }

    /// The nodes after events that are in memory, each with the node before.
    fn nodes_after(&self, event_ids: &BTreeSet<OwnedEventId>) -> Vec<(Arc<StateNode>, StateNode)> {
        event_ids
            .iter()
            .filter_map(|id| self.recent.get(id))
            .map(|(event, before)| (before.clone(), before.after(event, &self.version, self.seed)))
            .collect()
    }

    fn supply_node(
        &mut self,
        after: BTreeSet<OwnedEventId>,
        parent: Arc<StateNode>,
        node: StateNode,
    ) -> Arc<StateNode> {
        let changes = parent.state().changes_to(node.state());
        let named = if changes.is_empty() {
            parent
        } else {
            let version = self.draw_version();
            let row = StateRow::between(&parent, version, &changes, node.state());
            let named = Arc::new(node.named(version, row.delta_entries).in_epoch_of(&self.current));
            self.unstored.insert(version, UnstoredRow { row, node: Arc::downgrade(&named) });
            named
        };
        if self.resolved.insert(after.clone(), named.clone()).is_none() {
            self.resolved_order.push_back(after);
        }
        while self.resolved_order.len() > RESOLVED_SETS_MAX {
            if let Some(oldest) = self.resolved_order.pop_front() {
                self.resolved.remove(&oldest);
            }
        }
        self.forget_unreachable();
        named
    }

    /// The rows of a version that no commit has stored yet, and of its ancestors, parents first.
    fn take_unstored(&mut self, version: StateVersion, rows: &mut Vec<StateRow>) {
        if let Some(UnstoredRow { row, .. }) = self.unstored.remove(&version) {
            if let Some(parent) = row.parent {
                self.take_unstored(parent, rows);
            }
            rows.push(row);
        }
    }

    /// Forgets rows whose states nobody holds any more, so that no event can come to stand on them.
    fn forget_unreachable(&mut self) {
        if self.unstored.len() <= RESOLVED_SETS_MAX.saturating_mul(2) {
            return;
        }
        let mut needed: BTreeSet<StateVersion> = BTreeSet::new();
        // Children have greater numbers than their parents, so one pass downwards finds all that is needed.
        for (version, unstored) in self.unstored.iter().rev() {
            if unstored.node.strong_count() > 0 || needed.contains(version) {
                needed.insert(*version);
                needed.extend(unstored.row.parent);
            }
        }
        self.unstored.retain(|version, _| needed.contains(version));
    }

    fn draw_version(&mut self) -> StateVersion {
        let version = StateVersion(self.next_version);
        self.next_version = self.next_version.saturating_add(1);
        version
    }

    fn add_extremity(&mut self, extremity: Extremity) {
        let after = extremity.before.after(&extremity.event, &self.version, self.seed);
        let link = after.link_of(&extremity.event).map(|(user, link)| (user.to_owned(), link.clone()));
        let core = after.core();
        let count = self.cores.entry(core).or_insert(0);
        *count = count.saturating_add(1);
        self.next_arrival = self.next_arrival.max(extremity.arrival.saturating_add(1));
        self.extremities.insert(extremity.event.event_id().to_owned(), HeldExtremity { extremity, core, link });
    }

    fn remove_extremity(&mut self, event_id: &EventId) {
        if let Some(HeldExtremity { core, .. }) = self.extremities.remove(event_id) {
            let count = self.cores.entry(core).or_insert(0);
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.cores.remove(&core);
            }
        }
    }
}

/// Whether the state after an extremity holds an event.
fn holds(extremity: &Extremity, event: &Arc<Pdu>) -> bool {
    if extremity.event.event_id() == event.event_id() {
        return true;
    }
    event.state_entry().is_some_and(|(kind, key)| extremity.before.state().get(&kind, &key) == Some(event))
}

/// The union of states that share a core, with the node it differs least from; `None` when the full algorithm must decide.
fn union_of(nodes: &[(Arc<StateNode>, StateNode)]) -> Option<(Arc<StateNode>, StateNode)> {
    let (before, first) = nodes.iter().max_by_key(|(_, node)| node.state().len())?;
    let mut union = first.clone();
    for (_, node) in nodes {
        union = union.united_with_all_of(node)?;
    }
    Some((before.clone(), union))
}

fn distinct_states(nodes: Vec<(Arc<StateNode>, StateNode)>) -> Vec<StateMap> {
    let mut states: Vec<StateMap> = Vec::new();
    for (_, node) in nodes {
        if !states.contains(node.state()) {
            states.push(node.state().clone());
        }
    }
    states
}

fn entry_changes(old: &StateNode, changes: Vec<StateChange>) -> Vec<EntryChange> {
    changes
        .into_iter()
        .map(|StateChange { key, event }| {
            let before = old.state().get(&key.0, &key.1).cloned();
            EntryChange { key, old: before, new: event }
        })
        .collect()
}
