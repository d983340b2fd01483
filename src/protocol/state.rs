//! The state of a room: which event stands for each type and state key, as a persistent map.
//! May not: be copied entry by entry; a clone shares everything with its origin, so a fork costs nothing.

pub mod resolution;
pub mod stripped;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, ordmap::DiffItem};
use ruma::{
    Int, OwnedServerName, OwnedUserId, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState, power_levels::UserPowerLevel},
    },
    room::JoinRuleKind,
    state_res::events::{RoomCreateEvent, RoomJoinRulesEvent, RoomPowerLevelsEvent},
};
use serde::Deserialize;

use crate::{pdu::Pdu, room_version::RoomVersion};

/// Type and state key: what an event of the state stands for.
pub type StateKey = (StateEventType, String);

/// The number of a stored version of a room's state. Versions form a tree: each is a parent and what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateVersion(pub u64);

/// A state of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateMap {
    entries: OrdMap<StateKey, Arc<Pdu>>,
}

/// One difference between two states: what the newer one has for the key, or that it has nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// What changed.
    pub key: StateKey,
    /// The event that stands for it now.
    pub event: Option<Arc<Pdu>>,
}

impl StateMap {
    /// The event that stands for a type and key.
    pub fn get(&self, kind: &StateEventType, state_key: &str) -> Option<&Arc<Pdu>> {
        self.entries.get(&BorrowedKey { kind, state_key })
    }

    /// Puts a state event in its place. Events without a state key change nothing.
    pub fn insert(&mut self, event: Arc<Pdu>) {
        if let Some(key) = event.state_entry() {
            self.entries.insert(key, event);
        }
    }

    /// Leaves nothing for a key.
    pub fn remove(&mut self, key: &StateKey) {
        self.entries.remove(key);
    }

    /// Applies differences in order.
    pub fn apply(&mut self, changes: &[StateChange]) {
        for change in changes {
            match &change.event {
                Some(event) => {
                    self.entries.insert(change.key.clone(), event.clone());
                }
                None => self.remove(&change.key),
            }
        }
    }

    /// How many keys have an event.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key has an event: a room before its create event.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&StateKey, &Arc<Pdu>)> {
        self.entries.iter()
    }

    /// All entries of one type, in the order of their state keys.
    pub fn of_type<'a>(&'a self, kind: &'a StateEventType) -> impl Iterator<Item = (&'a str, &'a Arc<Pdu>)> {
        let first = BorrowedKey { kind, state_key: "" };
        self.entries
            .range((std::ops::Bound::Included((first.kind.clone(), String::new())), std::ops::Bound::Unbounded))
            .take_while(move |((entry_kind, _), _)| entry_kind == kind)
            .map(|((_, state_key), event)| (state_key.as_str(), event))
    }

    /// What must change in `self` to become `newer`. Costs what differs, not what there is, when the two share structure.
    pub fn changes_to(&self, newer: &Self) -> Vec<StateChange> {
        self.entries
            .diff(&newer.entries)
            .map(|item| match item {
                DiffItem::Add(key, event) => StateChange { key: key.clone(), event: Some(event.clone()) },
                DiffItem::Update { new: (key, event), .. } => {
                    StateChange { key: key.clone(), event: Some(event.clone()) }
                }
                DiffItem::Remove(key, _) => StateChange { key: key.clone(), event: None },
            })
            .collect()
    }

    /// The create event.
    pub fn create(&self) -> Option<&Arc<Pdu>> {
        self.get(&StateEventType::RoomCreate, "")
    }

    /// The member event of a user.
    pub fn member(&self, user_id: &UserId) -> Option<&Arc<Pdu>> {
        self.get(&StateEventType::RoomMember, user_id.as_str())
    }

    /// The membership of a user; `leave` when there is no member event or an unreadable one.
    pub fn membership(&self, user_id: &UserId) -> MembershipState {
        self.member(user_id).and_then(|event| event.membership()).unwrap_or(MembershipState::Leave)
    }

    /// All users with that membership.
    pub fn users_with(&self, membership: &MembershipState) -> Vec<OwnedUserId> {
        self.of_type(&StateEventType::RoomMember)
            .filter(|(_, event)| event.membership().as_ref() == Some(membership))
            .filter_map(|(state_key, _)| UserId::parse(state_key).ok())
            .collect()
    }

    /// The servers with at least one joined user.
    pub fn joined_servers(&self) -> BTreeSet<OwnedServerName> {
        self.users_with(&MembershipState::Join).iter().map(|user| user.server_name().to_owned()).collect()
    }

    /// The join rule. `None`: no join rules event, or one that cannot be read; then nobody may knock.
    pub fn join_rule(&self) -> Option<JoinRuleKind> {
        let event = self.get(&StateEventType::RoomJoinRules, "")?;
        RoomJoinRulesEvent::new(event.clone()).join_rule().ok()
    }

    /// Who may read history. Absent or unreadable: `shared`, as the specification says.
    pub fn history_visibility(&self) -> HistoryVisibility {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: HistoryVisibility,
        }
        self.get(&StateEventType::RoomHistoryVisibility, "")
            .and_then(|event| event.content_as::<Content>())
            .map_or(HistoryVisibility::Shared, |content| content.history_visibility)
    }

    /// Servers outside that of the create event's sender may take part (`m.federate`, default true).
    pub fn is_federated(&self) -> bool {
        self.create().is_none_or(|event| RoomCreateEvent::new(event.clone()).federate().unwrap_or(true))
    }

    /// The power level of a user. Unreadable power levels count as none at all.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
    pub fn power_of(&self, user_id: &UserId, version: &RoomVersion) -> UserPowerLevel {
        let rules = &version.rules().authorization;
        let creators = self
            .create()
            .and_then(|event| RoomCreateEvent::new(event.clone()).creators(rules).ok())
            .unwrap_or_default();
        if version.creators_are_privileged() && creators.contains(user_id) {
            return UserPowerLevel::Infinite;
        }
        match self.power_levels() {
            Some(levels) => levels.user_power_level(user_id, rules).map_or(UserPowerLevel::Int(Int::MIN), Into::into),
            None if creators.contains(user_id) => UserPowerLevel::Int(Int::from(100)),
            None => UserPowerLevel::Int(Int::from(0)),
        }
    }

    /// The level that an action needs.
    pub fn power_for(&self, action: PowerAction, version: &RoomVersion) -> Int {
        let content = self
            .get(&StateEventType::RoomPowerLevels, "")
            .and_then(|event| event.content_as::<BTreeMap<String, serde_json::Value>>());
        match content {
            Some(content) => content
                .get(action.field())
                .map_or(action.default_level(), |value| level_of(value, version).unwrap_or(Int::MAX)),
            None => action.default_level(),
        }
    }

    /// The level that sending an event of a type needs.
    pub fn power_to_send(&self, kind: &TimelineEventType, state_key: Option<&str>, version: &RoomVersion) -> Int {
        let rules = &version.rules().authorization;
        let default = if state_key.is_some() { PowerAction::SendState } else { PowerAction::SendMessage };
        match self.power_levels() {
            Some(levels) => levels.event_power_level(kind, state_key, rules).unwrap_or(Int::MAX),
            None => default.default_level(),
        }
    }

    fn power_levels(&self) -> Option<RoomPowerLevelsEvent<Arc<Pdu>>> {
        self.get(&StateEventType::RoomPowerLevels, "").map(|event| RoomPowerLevelsEvent::new(event.clone()))
    }
}

/// What a power level is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Invite, and so accept a knock.
    Invite,
    /// Kick, and so deny a knock.
    Kick,
    /// Ban and unban.
    Ban,
    /// Redact what others sent.
    Redact,
    /// Send state of a type that has no level of its own.
    SendState,
    /// Send messages of a type that has no level of its own.
    SendMessage,
}

impl PowerAction {
    fn field(self) -> &'static str {
        match self {
            Self::Invite => "invite",
            Self::Kick => "kick",
            Self::Ban => "ban",
            Self::Redact => "redact",
            Self::SendState => "state_default",
            Self::SendMessage => "events_default",
        }
    }

    /// The level when the event does not name one. Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
    fn default_level(self) -> Int {
        match self {
            Self::Invite | Self::SendMessage => Int::from(0),
            Self::Kick | Self::Ban | Self::Redact | Self::SendState => Int::from(50),
        }
    }
}

/// A level as the room version allows it to be written: an integer, and up to version 9 also an integer in a string.
fn level_of(value: &serde_json::Value, version: &RoomVersion) -> Option<Int> {
    match value {
        serde_json::Value::Number(number) => number.as_i64().and_then(|number| Int::try_from(number).ok()),
        serde_json::Value::String(text) if !version.rules().authorization.integer_power_levels => {
            text.trim().parse::<i64>().ok().and_then(|number| Int::try_from(number).ok())
        }
        _ => None,
    }
}

impl FromIterator<Arc<Pdu>> for StateMap {
    fn from_iter<I: IntoIterator<Item = Arc<Pdu>>>(events: I) -> Self {
        let mut state = Self::default();
        for event in events {
            state.insert(event);
        }
        state
    }
}

/// A key to look up by, without owning a string.
struct BorrowedKey<'a> {
    kind: &'a StateEventType,
    state_key: &'a str,
}

impl Equivalent<StateKey> for BorrowedKey<'_> {
    fn equivalent(&self, key: &StateKey) -> bool {
        *self.kind == key.0 && self.state_key == key.1
    }
}

impl Comparable<StateKey> for BorrowedKey<'_> {
    fn compare(&self, key: &StateKey) -> Ordering {
        self.kind.cmp(&key.0).then_with(|| self.state_key.cmp(&key.1))
    }
}
