//! One state of a room, divided into its core and its door: what tells at once whether two states differ only by what
//! happened at the door.
//! May not: know of extremities or storage.

mod door;

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use ruma::events::StateEventType;

pub(super) use self::door::Link;
use self::door::{Authorizing, Door, Side, authorizes_all, is_tangled};
use crate::{
    pdu::{Pdu, Standing},
    room_version::RoomVersion,
    state::{StateChange, StateKey, StateMap, StateVersion},
};

/// A state, its version, and its division into core and door.
#[derive(Clone, Debug)]
pub struct StateNode {
    version: StateVersion,
    state: StateMap,
    /// A sum of keyed hashes of all entries that are not at the door. Equal sums: equal cores.
    core: u128,
    /// Knocks, their answers, and the joins of whoever was let in.
    door: Door,
    /// Entries of the stored differences since the last full copy.
    delta_entries: u64,
    /// The version of the last state in this one's line whose core differed from its parent's. Two states of one epoch that
    /// the graph holds: the newer's door has what the older's has, or what followed.
    epoch: StateVersion,
}

/// A version of the state as storage keeps it.
#[derive(Clone, Debug)]
pub struct StateRow {
    /// Its number.
    pub version: StateVersion,
    /// What it differs from. `None`: a full copy.
    pub parent: Option<StateVersion>,
    /// The differences.
    pub changes: Vec<StateChange>,
    /// Entries of the differences since the last full copy, this row's included; 0 for a full copy.
    pub delta_entries: u64,
}

impl StateRow {
    /// The difference to a parent, or a full copy when the differences since the last one outnumber the entries.
    pub(super) fn between(
        parent: &StateNode,
        version: StateVersion,
        changes: &[StateChange],
        state: &StateMap,
    ) -> Self {
        let delta_entries = parent.delta_entries.saturating_add(length(changes.len()));
        let is_first = parent.state.is_empty();
        if is_first || delta_entries > length(state.len()).max(DELTA_ENTRIES_MIN) {
            let changes =
                state.iter().map(|(key, event)| StateChange { key: key.clone(), event: Some(event.clone()) }).collect();
            return Self { version, parent: None, changes, delta_entries: 0 };
        }
        Self { version, parent: Some(parent.version), changes: changes.to_vec(), delta_entries }
    }
}

/// Differences that are kept before a full copy is worth it, however small the state. Ours: a chain of this length is read
/// in one scan.
const DELTA_ENTRIES_MIN: u64 = 64;

impl StateNode {
    /// The state before a room's create event.
    pub fn empty() -> Self {
        Self {
            version: StateVersion(0),
            state: StateMap::default(),
            core: 0,
            door: Door::default(),
            delta_entries: 0,
            epoch: StateVersion(0),
        }
    }

    /// A state read from storage.
    pub fn from_storage(
        version: StateVersion,
        delta_entries: u64,
        state: &StateMap,
        room_version: &RoomVersion,
        seed: u64,
    ) -> Self {
        let changes = StateMap::default().changes_to(state);
        let mut node = Self::empty().with_changes(&changes, room_version, seed).named(version, delta_entries);
        node.epoch = version;
        node
    }

    /// The state.
    pub fn state(&self) -> &StateMap {
        &self.state
    }

    /// Its version.
    pub fn version(&self) -> StateVersion {
        self.version
    }

    /// How many plain knocks it holds: of users without a member event before, not answered yet. Looks at each.
    pub fn plain_knocks(&self) -> usize {
        self.door.plain_knocks()
    }

    pub(super) fn core(&self) -> u128 {
        self.core
    }

    /// The same state under another version: for one that was prepared before its number was known.
    pub fn with_version(self, version: StateVersion) -> Self {
        let mut named = self.named(version, 0);
        named.epoch = version;
        named
    }

    pub(super) fn named(mut self, version: StateVersion, delta_entries: u64) -> Self {
        self.version = version;
        self.delta_entries = delta_entries;
        self
    }

    /// This state as the current one after `previous`: of the same epoch if only the door went on.
    pub(super) fn continuing(mut self, previous: &Self) -> Self {
        self.epoch = if self.contains(previous) { previous.epoch } else { self.version };
        self
    }

    /// This state as one beside the current: of its epoch if `current` has all that it has, or what followed.
    pub(super) fn in_epoch_of(mut self, current: &Self) -> Self {
        self.epoch = if current.contains(&self) { current.epoch } else { self.version };
        self
    }

    fn side(&self) -> Side<'_> {
        Side { state: &self.state, door: &self.door }
    }

    /// Whether the union with `other` is this state.
    fn contains(&self, other: &Self) -> bool {
        self.core == other.core && self.side().joined(other.side()).is_some_and(|taken| taken.is_empty())
    }

    /// The same state, made from another one by these changes: what has not changed stands in the form that it has there.
    pub(super) fn sharing(mut self, other: &StateMap, changes: &[StateChange]) -> Self {
        let mut state = other.clone();
        state.apply(changes);
        self.state = state;
        self
    }

    /// Puts the redacted form of an event in its place.
    pub(super) fn replace(&mut self, redacted: Arc<Pdu>) {
        self.state.insert(redacted);
    }

    /// The state after an event. It has no version of its own: storage keeps the version before and the event.
    /// What was rejected changes no state.
    pub(super) fn after(&self, event: &Arc<Pdu>, version: &RoomVersion, seed: u64) -> Self {
        match event.state_entry().filter(|_| event.standing() != Standing::Rejected) {
            Some(key) => self.with_changes(&[StateChange { key, event: Some(event.clone()) }], version, seed),
            None => self.clone(),
        }
    }

    /// This state with some entries changed.
    pub(super) fn with_changes(&self, changes: &[StateChange], version: &RoomVersion, seed: u64) -> Self {
        let mut node = self.clone();
        let (authorizing, others): (Vec<&StateChange>, Vec<&StateChange>) =
            changes.iter().partition(|change| authorizes_all(&change.key));
        if !authorizing.is_empty() {
            // What happened under other rules becomes part of the core.
            for (user, link) in std::mem::take(&mut node.door).iter() {
                let key = (StateEventType::RoomMember, user.clone());
                node.core = node.core.wrapping_add(entry_hash(seed, &key, link.event_id()));
            }
        }
        for change in authorizing {
            node.put(change, None, seed);
        }
        let authorizing = Authorizing::of(&node.state, version);
        for change in others {
            node.put(change, Some(&authorizing), seed);
        }
        node
    }

    fn put(&mut self, StateChange { key, event }: &StateChange, authorizing: Option<&Authorizing>, seed: u64) {
        let (kind, state_key) = key;
        let old_link = if *kind == StateEventType::RoomMember { self.door.get(state_key) } else { None };
        let link = event.as_ref().zip(authorizing).and_then(|(event, authorizing)| {
            authorizing.link(event, old_link, self.side()).filter(|_| *kind == StateEventType::RoomMember)
        });
        if old_link.is_some() {
            self.door.remove(state_key);
        } else if let Some(old) = self.state.get(kind, state_key) {
            self.core = self.core.wrapping_sub(entry_hash(seed, key, old.event_id()));
        }
        match event {
            Some(event) => {
                match link {
                    Some(link) => self.door.insert(state_key.clone(), link),
                    None => self.core = self.core.wrapping_add(entry_hash(seed, key, event.event_id())),
                }
                self.state.insert(event.clone());
            }
            None => self.state.remove(key),
        }
    }

    /// The links that the union of this state and `other`, that after `event`, takes over; `None` when they do not resolve to
    /// their union. Both must share a core; `before` is the state before the event. Constant time when all are of one epoch.
    pub(super) fn additions<'a>(
        &self,
        other: &'a Self,
        before: &Self,
        event: &'a Pdu,
    ) -> Option<Vec<(&'a str, &'a Link)>> {
        if before.epoch != self.epoch {
            return self.side().joined(other.side());
        }
        match other.link_of(event) {
            Some((user, link)) => {
                let is_taken = self.side().takes(other.side(), user)?;
                Some(is_taken.then_some((user, link)).into_iter().collect())
            }
            None => Some(Vec::new()),
        }
    }

    /// The union that [`Self::additions`] allowed.
    pub(super) fn united_with(&self, other: &Self, before: &Self, event: &Pdu) -> Self {
        let mut union = self.clone();
        for (user, link) in self.additions(other, before, event).unwrap_or_default() {
            union.take(user, link, other);
        }
        union
    }

    /// The union with another state; `None` unless the cores are equal and the doors can be united.
    pub(super) fn united_with_all_of(&self, other: &Self) -> Option<Self> {
        if self.core != other.core {
            return None;
        }
        let mut union = self.clone();
        for (user, link) in self.side().joined(other.side())? {
            union.take(user, link, other);
        }
        Some(union)
    }

    /// The link that an event made in this state after it, if it made one.
    pub(super) fn link_of<'a>(&'a self, event: &'a Pdu) -> Option<(&'a str, &'a Link)> {
        let user = event.state_key()?;
        let link = self.door.get(user).filter(|link| **link.event_id() == *event.event_id())?;
        Some((user, link))
    }

    /// Whether this state and the one after an event differ by an answer, one's own or the other's.
    pub(super) fn differs_by_answers(&self, before: &Self, made: Option<(&str, &Link)>) -> bool {
        let own = made.and_then(|(user, _)| self.door.get(user));
        let differing = self.door.differing(&before.door).flat_map(|(_, pair)| pair).flatten();
        differing.chain(own).chain(made.map(|(_, link)| link)).any(Link::is_answer)
    }

    /// The link of a user.
    pub(super) fn link_at(&self, user: &str) -> Option<&Link> {
        self.door.get(user)
    }

    /// Takes one link over from another state.
    fn take(&mut self, user: &str, link: &Link, other: &Self) {
        if let Some(event) = other.state.get(&StateEventType::RoomMember, user) {
            self.door.insert(user.to_owned(), link.clone());
            self.state.insert(event.clone());
        }
    }
}

/// Whether the states after some events leave a user [tangled](is_tangled). Given are the states before them, and the links
/// that they made.
pub(super) fn are_tangled<'a>(
    befores: impl Iterator<Item = &'a Arc<StateNode>>,
    made: impl Iterator<Item = (&'a str, &'a Link)>,
) -> bool {
    let mut distinct: BTreeMap<StateVersion, &StateNode> = BTreeMap::new();
    for node in befores {
        distinct.insert(node.version, node);
    }
    let Some((_, first)) = distinct.pop_first() else { return false };
    let mut links: BTreeMap<&str, Vec<&Link>> = BTreeMap::new();
    for node in distinct.values() {
        for (user, pair) in first.door.differing(&node.door) {
            links.entry(user).or_default().extend(pair.into_iter().flatten());
        }
    }
    for (user, link) in made {
        links.entry(user).or_default().extend(first.door.get(user).into_iter().chain([link]));
    }
    links.values().any(|links| is_tangled(links))
}

/// A keyed hash of one entry, in two halves. The key is drawn at random, so nobody outside can aim at a collision.
fn entry_hash(seed: u64, key: &StateKey, event_id: &ruma::EventId) -> u128 {
    let half = |tweak: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, tweak, key.0.to_string(), &key.1, event_id.as_str()).hash(&mut hasher);
        hasher.finish()
    };
    u128::from(half(0)) << 64 | u128::from(half(1))
}

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
