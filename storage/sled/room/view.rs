//! One room as the look-up store has it.
//! May not: write, or be used beyond one reading.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    pdu::Pdu,
    room_version::RoomVersion,
    state::{StateKey, StateVersion},
    stream::{StreamPosition, TimelineOrder},
};
use vestibule_storage::{
    error::StorageError,
    room::{Direction, ExtremityRow, RoomRow, RoomSnapshot, StoredEvent},
};

use crate::fields::StoredForm;
use crate::index::{Entry, Index, IndexError};
use crate::keys::{EventHash, IdAlphabet, Key, KeyParts, Table, event_hash};
use crate::values::{CounterValue, EventValue, OrderValue, PointerValue, RoomValue, StatePartValue, TextValue};

pub(super) struct RoomView<'a> {
    index: &'a Index,
    pub(super) room_id: &'a RoomId,
    pub(super) value: RoomValue,
    version: RoomVersion,
    alphabet: IdAlphabet,
}

/// One state version as it is stored.
struct StoredState {
    parent: Option<u64>,
    delta_entries: u64,
    changes: Vec<(StateKey, Option<EventHash>)>,
}

pub(super) fn corrupt(what: impl Into<String>) -> StorageError {
    StorageError::Corrupt { what: what.into() }
}

impl<'a> RoomView<'a> {
    /// The room, if it is stored.
    pub(super) fn of(index: &'a Index, room_id: &'a RoomId) -> Result<Option<Self>, StorageError> {
        let value: Option<RoomValue> = index.value(&Key::of(Table::Room).last(room_id.as_str()))?;
        let Some(value) = value else { return Ok(None) };
        let version = RoomVersion::lookup(&value.room_version);
        let version = version.ok_or_else(|| corrupt(format!("version {} of {room_id}", value.room_version)))?;
        let alphabet = IdAlphabet::of(&value.room_version);
        Ok(Some(Self { index, room_id, value, version, alphabet }))
    }

    pub(super) fn row(&self) -> RoomRow {
        row(self.room_id, &self.value)
    }

    /// An event of this room.
    pub(super) fn event(&self, event_id: &EventId) -> Result<Option<StoredEvent>, StorageError> {
        let Some(hash) = event_hash(event_id) else { return Ok(None) };
        let stored = self.event_of(&hash)?;
        // The same hash in the other alphabet is another id, of which nothing is stored.
        Ok(stored.filter(|stored| stored.event.event_id() == event_id))
    }

    fn event_of(&self, hash: &EventHash) -> Result<Option<StoredEvent>, StorageError> {
        let value: Option<EventValue> = self.index.value(&Key::of(Table::Event).hash(hash))?;
        let value = value.filter(|value| value.room_number == self.value.number);
        value.map(|value| self.stored(value)).transpose()
    }

    /// An event that another row names.
    fn named(&self, hash: &EventHash) -> Result<StoredEvent, StorageError> {
        let missing = || corrupt(format!("event {:?} of {}, which is not there", self.id(hash), self.room_id));
        self.event_of(hash)?.ok_or_else(missing)
    }

    fn stored(&self, value: EventValue) -> Result<StoredEvent, StorageError> {
        let event_id = value.event_id.clone();
        let event = Pdu::from_canonical_text(value.event_id, value.json, &self.version, value.standing)
            .map_err(|error| corrupt(format!("event {event_id}: {error}")))?;
        Ok(StoredEvent {
            event: Arc::new(event),
            order: value.order.map(TimelineOrder),
            position: StreamPosition(value.position),
            state_before: StateVersion(value.state_before),
            current_after: StateVersion(value.current_after),
            visibility: value.visibility,
            received_at: value.received_at,
            redacted_by: value.redacted_by,
            transaction: value.transaction,
        })
    }

    fn id(&self, hash: &EventHash) -> Result<OwnedEventId, StorageError> {
        self.alphabet.event_id(hash).ok_or_else(|| corrupt("event hash"))
    }

    /// The current state, of one type or of all, in the order of types and state keys.
    pub(super) fn current_state(&self, kind: Option<&StateEventType>) -> Result<Vec<StoredEvent>, StorageError> {
        let room = Key::of(Table::CurrentState).number(self.value.number);
        let prefix = match kind {
            Some(kind) => room.text(&kind.to_string()),
            None => room,
        };
        let pointers = self.index.under(&prefix).map(|entry| {
            let (_, value) = entry?;
            StoredForm::from_bytes(&value)
        });
        let pointers: Vec<PointerValue> = pointers.collect::<Result<_, StorageError>>()?;
        pointers.iter().map(|pointer| self.named(&pointer.0)).collect()
    }

    pub(super) fn current_state_event(
        &self,
        kind: &StateEventType,
        state_key: &str,
    ) -> Result<Option<StoredEvent>, StorageError> {
        let key = Key::of(Table::CurrentState).number(self.value.number).text(&kind.to_string()).last(state_key);
        let pointer: Option<PointerValue> = self.index.value(&key)?;
        pointer.map(|pointer| self.named(&pointer.0)).transpose()
    }

    fn state(&self, version: u64) -> Result<Option<StoredState>, StorageError> {
        let prefix = Key::of(Table::StateVersion).number(self.value.number).number(version);
        let mut state: Option<StoredState> = None;
        for entry in self.index.under(&prefix) {
            let (_, bytes) = entry?;
            let part: StatePartValue = StoredForm::from_bytes(&bytes)?;
            match (part.head, &mut state) {
                (Some(head), None) => {
                    let (parent, delta_entries) = (head.parent, head.delta_entries);
                    state = Some(StoredState { parent, delta_entries, changes: part.changes });
                }
                (None, Some(state)) => state.changes.extend(part.changes),
                _ => return Err(corrupt(format!("parts of state version {version} of {}", self.room_id))),
            }
        }
        Ok(state)
    }

    /// A version and its ancestors, newest first, up to the full copy.
    fn descent(&self, version: StateVersion) -> impl Iterator<Item = Result<(u64, StoredState), StorageError>> {
        let mut next = Some(version.0);
        let mut seen = BTreeSet::new();
        std::iter::from_fn(move || {
            let version = next.take()?;
            let broken = |what| Err(corrupt(format!("state version {version} of {}: {what}", self.room_id)));
            if !seen.insert(version) {
                return Some(broken("its own ancestor"));
            }
            match self.state(version) {
                Err(error) => Some(Err(error)),
                Ok(Some(state)) => {
                    next = state.parent;
                    Some(Ok((version, state)))
                }
                // The first may be unknown; a parent is there.
                Ok(None) if seen.len() == 1 => None,
                Ok(None) => Some(broken("not there")),
            }
        })
    }

    pub(super) fn state_at(
        &self,
        version: StateVersion,
    ) -> Result<Option<BTreeMap<StateKey, OwnedEventId>>, StorageError> {
        let mut entries: BTreeMap<StateKey, Option<EventHash>> = BTreeMap::new();
        let mut is_known = false;
        for ancestor in self.descent(version) {
            is_known = true;
            // Within one version a later entry replaces an earlier one.
            for (key, event) in ancestor?.1.changes.into_iter().rev() {
                entries.entry(key).or_insert(event);
            }
        }
        if !is_known {
            return Ok(None);
        }
        let present = entries.into_iter().filter_map(|(key, hash)| Some((key, hash?)));
        present.map(|(key, hash)| Ok((key, self.id(&hash)?))).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn state_changes(
        &self,
        older: StateVersion,
        newer: StateVersion,
    ) -> Result<Option<BTreeMap<StateKey, Option<OwnedEventId>>>, StorageError> {
        let mut changes: BTreeMap<StateKey, Option<EventHash>> = BTreeMap::new();
        let mut descends = false;
        for ancestor in self.descent(newer) {
            let (version, state) = ancestor?;
            if version == older.0 {
                descends = true;
                break;
            }
            // A full copy is no difference to anything.
            if state.parent.is_none() {
                break;
            }
            for (key, event) in state.changes.into_iter().rev() {
                changes.entry(key).or_insert(event);
            }
        }
        if !descends {
            return Ok(None);
        }
        // What changed and changed back is no difference.
        let mut undecided: BTreeSet<StateKey> = changes.keys().cloned().collect();
        for ancestor in self.descent(older) {
            if undecided.is_empty() {
                break;
            }
            for (key, event) in ancestor?.1.changes.into_iter().rev() {
                if undecided.remove(&key) && changes.get(&key) == Some(&event) {
                    changes.remove(&key);
                }
            }
        }
        for key in undecided {
            // The older version has nothing for it.
            if changes.get(&key) == Some(&None) {
                changes.remove(&key);
            }
        }
        let changes = changes.into_iter().map(|(key, hash)| Ok((key, hash.map(|hash| self.id(&hash)).transpose()?)));
        changes.collect::<Result<_, StorageError>>().map(Some)
    }

    fn timeline_key(&self) -> Key {
        Key::of(Table::Timeline).number(self.value.number)
    }

    pub(super) fn timeline(
        &self,
        from: Option<TimelineOrder>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StorageError> {
        let (begin, end) = (self.timeline_key(), self.timeline_key().after());
        let at = |order: TimelineOrder| self.timeline_key().order(order.0).into_bytes();
        let whole = (Bound::Included(begin.into_bytes()), Bound::Excluded(end));
        let events = |pointers: &mut dyn Iterator<Item = Result<Entry, IndexError>>| {
            let pointers = pointers.take(limit).map(|entry| StoredForm::from_bytes(&entry?.1));
            let pointers: Vec<PointerValue> = pointers.collect::<Result<_, StorageError>>()?;
            pointers.iter().map(|pointer| self.named(&pointer.0)).collect()
        };
        match (direction, from) {
            (Direction::Forward, None) => events(&mut self.index.range(whole)),
            (Direction::Forward, Some(from)) => events(&mut self.index.range((Bound::Excluded(at(from)), whole.1))),
            (Direction::Backward, None) => events(&mut self.index.range(whole).rev()),
            (Direction::Backward, Some(from)) => {
                events(&mut self.index.range((whole.0, Bound::Included(at(from)))).rev())
            }
        }
    }

    pub(super) fn timeline_at(&self, position: StreamPosition) -> Result<Option<StoredEvent>, StorageError> {
        let growth = Key::of(Table::TimelineGrowth).number(self.value.number);
        let up_to = growth.clone().number(position.0).into_bytes();
        let Some(entry) = self.index.range(growth.into_bytes()..=up_to).next_back() else { return Ok(None) };
        let newest: OrderValue = StoredForm::from_bytes(&entry?.1)?;
        // No event at or before the position stands after the newest order as of it; those after the position that were put before that
        // order (history, moved events) are passed over.
        let (begin, end) = (self.timeline_key().into_bytes(), self.timeline_key().order(newest.0).into_bytes());
        for entry in self.index.range(begin..=end).rev() {
            let pointer: PointerValue = StoredForm::from_bytes(&entry?.1)?;
            let stored = self.named(&pointer.0)?;
            if stored.position <= position {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// How a local user's membership went, oldest first.
    pub(super) fn membership_history(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<(TimelineOrder, MembershipState)>, StorageError> {
        let prefix = Key::of(Table::MembershipHistory).text(user_id.as_str()).number(self.value.number);
        let rows = self.index.under(&prefix).map(|entry| {
            let (key, value) = entry?;
            let mut parts = KeyParts::of(&key);
            let order = parts.text().and_then(|_| parts.number()).and_then(|_| parts.order());
            let order = order.ok_or_else(|| corrupt("key of a membership history"))?;
            let membership = TextValue::from_bytes(&value)?;
            Ok((TimelineOrder(order), MembershipState::from(membership.0)))
        });
        rows.collect()
    }

    pub(super) fn snapshot(&self) -> Result<RoomSnapshot, StorageError> {
        let state = self.current_state(None)?.into_iter().map(|stored| stored.event).collect();
        let versions = Key::of(Table::StateVersion).number(self.value.number);
        let newest_version = match self.index.under(&versions).next_back() {
            Some(entry) => {
                let (key, _) = entry?;
                let mut parts = KeyParts::of(&key);
                parts.number().and_then(|_| parts.number()).ok_or_else(|| corrupt("key of a state version"))?
            }
            None => 0,
        };
        let newest_order = match self.index.under(&self.timeline_key()).next_back() {
            Some(entry) => {
                let (key, _) = entry?;
                let mut parts = KeyParts::of(&key);
                parts.number().and_then(|_| parts.order()).ok_or_else(|| corrupt("key of a timeline"))?
            }
            None => 0,
        };
        let current = self.state(self.value.current)?;
        Ok(RoomSnapshot {
            row: self.row(),
            state,
            extremities: self.extremities()?,
            delta_entries: current.map_or(0, |current| current.delta_entries),
            next_state_version: StateVersion(newest_version.saturating_add(1)),
            // Live events count from 1, whatever is backfilled.
            next_order: TimelineOrder(newest_order.max(0)).next(),
            next_arrival: self.value.next_arrival,
            knocks: super::knocks_in(self.index, self.room_id)?,
        })
    }

    fn extremities(&self) -> Result<Vec<(ExtremityRow, StoredEvent)>, StorageError> {
        let prefix = Key::of(Table::Extremity).number(self.value.number);
        let mut extremities = Vec::new();
        for entry in self.index.under(&prefix) {
            let (key, value) = entry?;
            let mut parts = KeyParts::of(&key);
            let hash = parts.number().and_then(|_| parts.hash()).ok_or_else(|| corrupt("key of an extremity"))?;
            let arrival: CounterValue = StoredForm::from_bytes(&value)?;
            let row = ExtremityRow { event_id: self.id(&hash)?, arrival: arrival.0 };
            extremities.push((row, self.named(&hash)?));
        }
        extremities.sort_by(|a, b| a.0.event_id.cmp(&b.0.event_id));
        Ok(extremities)
    }
}

pub(super) fn row(room_id: &RoomId, value: &RoomValue) -> RoomRow {
    RoomRow {
        room_id: room_id.to_owned(),
        room_version: value.room_version.clone(),
        current: StateVersion(value.current),
        counts: value.counts,
    }
}
