//! One state of a room with its core: what tells at once whether two states differ by plain knocks only.
//! May not: know of extremities or storage.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use ruma::{
    OwnedEventId,
    events::{StateEventType, room::member::MembershipState},
};

use crate::{
    pdu::Pdu,
    room_version::RoomVersion,
    state::{StateChange, StateKey, StateMap, StateVersion},
};

/// A state, its version, and its division into core and plain knocks.
#[derive(Clone, Debug)]
pub struct StateNode {
    version: StateVersion,
    state: StateMap,
    /// A sum of keyed hashes of all entries that are no plain knocks. Equal sums: equal cores.
    core: u128,
    /// The plain knocks by user.
    plain: OrdMap<String, OwnedEventId>,
    /// Entries of the stored differences since the last full copy.
    delta_entries: u64,
    /// The version of the last state in this one's line whose core differed from its parent's. Two states of one epoch that
    /// the graph holds: the older's plain knocks are among the newer's.
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
    pub(super) fn between(parent: &StateNode, version: StateVersion, changes: &[StateChange], state: &StateMap) -> Self {
        let delta_entries = parent.delta_entries.saturating_add(length(changes.len()));
        let is_first = parent.state.is_empty();
        if is_first || delta_entries > length(state.len()).max(DELTA_ENTRIES_MIN) {
            let changes = state
                .iter()
                .map(|(key, event)| StateChange { key: key.clone(), event: Some(event.clone()) })
                .collect();
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
    pub fn empty(_seed: u64) -> Self {
        Self {
            version: StateVersion(0),
            state: StateMap::default(),
            core: 0,
            plain: OrdMap::new(),
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
        let mut node = Self::empty(seed).with_changes(&changes, room_version, seed).named(version, delta_entries);
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

    /// How many plain knocks it holds.
    pub fn plain_knocks(&self) -> usize {
        self.plain.len()
    }

    pub(super) fn core(&self) -> u128 {
        self.core
    }

    pub(super) fn named(mut self, version: StateVersion, delta_entries: u64) -> Self {
        self.version = version;
        self.delta_entries = delta_entries;
        self
    }

    /// This state as the current one after `previous`: of the same epoch if it only added plain knocks.
    pub(super) fn continuing(mut self, previous: &Self) -> Self {
        let only_added = self.core == previous.core
            && previous.plain.diff(&self.plain).all(|item| matches!(item, DiffItem::Add(..)));
        self.epoch = if only_added { previous.epoch } else { self.version };
        self
    }

    /// This state as one beside the current: of its epoch if it has the same core and no plain knock that `current` lacks.
    pub(super) fn in_epoch_of(mut self, current: &Self) -> Self {
        let is_contained = self.core == current.core
            && current.plain.diff(&self.plain).all(|item| matches!(item, DiffItem::Remove(..)));
        self.epoch = if is_contained { current.epoch } else { self.version };
        self
    }

    /// Puts the redacted form of an event in its place.
    pub(super) fn replace(&mut self, redacted: Arc<Pdu>) {
        self.state.insert(redacted);
    }

    /// The state after an event. It has no version of its own: storage keeps the version before and the event.
    pub(super) fn after(&self, event: &Arc<Pdu>, version: &RoomVersion, seed: u64) -> Self {
        match event.state_entry() {
            Some(key) => self.with_changes(&[StateChange { key, event: Some(event.clone()) }], version, seed),
            None => self.clone(),
        }
    }

    /// This state with some entries changed.
    pub(super) fn with_changes(&self, changes: &[StateChange], version: &RoomVersion, seed: u64) -> Self {
        let mut node = self.clone();
        let (authorizing, others): (Vec<&StateChange>, Vec<&StateChange>) =
            changes.iter().partition(|change| authorizes_knocks(&change.key.0));
        if !authorizing.is_empty() {
            // Knocks under other rules are no longer plain: they become part of the core.
            for (user, event_id) in &self.plain {
                node.core = node.core.wrapping_add(entry_hash(seed, &(StateEventType::RoomMember, user.clone()), event_id));
            }
            node.plain = OrdMap::new();
        }
        for change in authorizing {
            node.put(change, &[], seed);
        }
        let plain_auth_events = plain_auth_events(&node.state, version);
        for change in others {
            node.put(change, &plain_auth_events, seed);
        }
        node
    }

    fn put(&mut self, change: &StateChange, plain_auth_events: &[OwnedEventId], seed: u64) {
        let StateChange { key, event } = change;
        let was_plain = key.0 == StateEventType::RoomMember && self.plain.contains_key(&key.1);
        let old = self.state.get(&key.0, &key.1).cloned();
        if was_plain {
            self.plain.remove(&key.1);
        } else if let Some(old) = &old {
            self.core = self.core.wrapping_sub(entry_hash(seed, key, old.event_id()));
        }
        match event {
            Some(event) => {
                if is_plain_knock(event, plain_auth_events) {
                    self.plain.insert(key.1.clone(), event.event_id().to_owned());
                } else {
                    self.core = self.core.wrapping_add(entry_hash(seed, key, event.event_id()));
                }
                self.state.insert(event.clone());
            }
            None => self.state.remove(key),
        }
    }

    /// Whether this state and that after `event` (with the same core, `before` being the state before it) resolve to their
    /// union. Constant time when both are of one epoch.
    pub(super) fn can_unite_with(&self, other: &Self, before: &Self, event: &Pdu) -> bool {
        if before.epoch == self.epoch {
            let key = event.state_key().unwrap_or_default();
            return match other.plain.get(key) {
                Some(event_id) if event_id == event.event_id() => {
                    self.plain.get(key).is_none_or(|own| own == event_id)
                }
                _ => true,
            };
        }
        self.plain_additions(other).is_some()
    }

    /// The union that [`Self::can_unite_with`] allowed.
    pub(super) fn united_with(&self, other: &Self, before: &Self, event: &Arc<Pdu>) -> Self {
        let mut union = self.clone();
        if before.epoch == self.epoch {
            let is_new_plain_knock = event.state_key().is_some_and(|key| {
                other.plain.get(key).is_some_and(|event_id| event_id == event.event_id())
            });
            if is_new_plain_knock {
                union.add_plain(event.clone());
            }
            return union;
        }
        for added in self.plain_additions(other).unwrap_or_default() {
            union.add_plain(added);
        }
        union
    }

    /// The union with another state; `None` unless the cores are equal and no user knocked differently in the two.
    pub(super) fn united_with_all_of(&self, other: &Self) -> Option<Self> {
        if self.core != other.core {
            return None;
        }
        let mut union = self.clone();
        for added in self.plain_additions(other)? {
            union.add_plain(added);
        }
        Some(union)
    }

    fn add_plain(&mut self, event: Arc<Pdu>) {
        if let Some(key) = event.state_key() {
            self.plain.insert(key.to_owned(), event.event_id().to_owned());
            self.state.insert(event);
        }
    }

    /// The plain knocks of `other` that this state does not have; `None` when a user has different ones.
    fn plain_additions(&self, other: &Self) -> Option<Vec<Arc<Pdu>>> {
        let mut additions = Vec::new();
        for item in self.plain.diff(&other.plain) {
            match item {
                DiffItem::Add(user, _) => {
                    additions.push(other.state.get(&StateEventType::RoomMember, user)?.clone());
                }
                DiffItem::Update { .. } => return None,
                DiffItem::Remove(..) => {}
            }
        }
        Some(additions)
    }
}

/// Types that authorize a knock: when one changes, earlier knocks stand on other ground.
fn authorizes_knocks(kind: &StateEventType) -> bool {
    matches!(kind, StateEventType::RoomCreate | StateEventType::RoomPowerLevels | StateEventType::RoomJoinRules)
}

/// The auth events of a knock by somebody without a member event, sorted.
fn plain_auth_events(state: &StateMap, version: &RoomVersion) -> Vec<OwnedEventId> {
    let create = (!version.room_id_is_create_hash()).then_some(StateEventType::RoomCreate);
    let kinds = create.into_iter().chain([StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules]);
    let mut ids: Vec<OwnedEventId> =
        kinds.filter_map(|kind| state.get(&kind, "")).map(|event| event.event_id().to_owned()).collect();
    ids.sort();
    ids
}

fn is_plain_knock(event: &Pdu, plain_auth_events: &[OwnedEventId]) -> bool {
    if plain_auth_events.is_empty()
        || event.auth_events().len() != plain_auth_events.len()
        || event.state_key() != Some(event.sender().as_str())
    {
        return false;
    }
    let mut auth_events = event.auth_events().to_vec();
    auth_events.sort();
    auth_events == plain_auth_events && event.membership() == Some(MembershipState::Knock)
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
