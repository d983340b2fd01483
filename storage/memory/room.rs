//! One room of the reference model: what a commit changes in it.
//! May not: judge events; it only refuses a commit that does not fit together.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, RoomVersionId};
use vestibule_protocol::{
    pdu::Pdu,
    room_version::RoomVersion,
    state::{StateKey, StateVersion},
    stream::{StreamPosition, TimelineOrder},
};

use crate::{
    error::StorageError,
    outbox::Delivery,
    room::{
        Direction, ExtremityRow, MemberCounts, PendingKnock, RoomCommit, RoomRow, RoomSnapshot, StateVersionRow,
        StoredEvent,
    },
};

#[derive(Clone)]
pub(super) struct Room {
    room_version: RoomVersionId,
    current: StateVersion,
    pub(super) current_state: BTreeMap<StateKey, OwnedEventId>,
    counts: MemberCounts,
    pub(super) events: BTreeMap<OwnedEventId, StoredEvent>,
    timeline: BTreeMap<TimelineOrder, OwnedEventId>,
    states: BTreeMap<StateVersion, StateVersionRow>,
    extremities: BTreeMap<OwnedEventId, u64>,
    next_arrival: u64,
    pub(super) knocks: BTreeMap<OwnedUserId, PendingKnock>,
}

impl Room {
    pub(super) fn new(room_version: RoomVersionId) -> Self {
        Self {
            room_version,
            current: StateVersion::default(),
            current_state: BTreeMap::new(),
            counts: MemberCounts::default(),
            events: BTreeMap::new(),
            timeline: BTreeMap::new(),
            states: BTreeMap::new(),
            extremities: BTreeMap::new(),
            next_arrival: 0,
            knocks: BTreeMap::new(),
        }
    }

    /// Whether a commit fits together and fits what is there. Engines need not look; the model does, so that a test sees
    /// a wrong commit where it is made and not where it is read.
    pub(super) fn check(&self, commit: &RoomCommit) -> Result<(), String> {
        if commit.room_version != self.room_version {
            return Err(format!("room version {} became {}", self.room_version, commit.room_version));
        }
        let new_events: BTreeSet<&EventId> = commit.events.iter().map(|row| row.event.event_id()).collect();
        let is_stored = |event_id: &EventId| new_events.contains(event_id) || self.events.contains_key(event_id);
        for row in &commit.events {
            if row.event.room_id() != commit.room_id {
                return Err(format!("event {} is of another room", row.event.event_id()));
            }
            let takes_a_place = row.order.and_then(|order| self.timeline.get(&order));
            if takes_a_place.is_some_and(|holder| holder != row.event.event_id()) {
                return Err(format!("event {} takes a place that is taken", row.event.event_id()));
            }
        }
        let mut new_versions = BTreeSet::new();
        for row in &commit.state_versions {
            let has_parent =
                row.parent.is_none_or(|parent| new_versions.contains(&parent) || self.states.contains_key(&parent));
            if !has_parent {
                return Err(format!("state version {:?} has no stored parent", row.version));
            }
            let is_new = !self.states.contains_key(&row.version) && new_versions.insert(row.version);
            if !is_new {
                return Err(format!("state version {:?} exists", row.version));
            }
        }
        let known_state = |version| new_versions.contains(&version) || self.states.contains_key(&version);
        let unknown_current = commit.current.as_ref().filter(|current| !known_state(current.version));
        if let Some(current) = unknown_current {
            return Err(format!("current state version {:?} is not stored", current.version));
        }
        let current_changes = commit.current.iter().flat_map(|current| &current.changes);
        let state_changes = commit.state_versions.iter().flat_map(|row| &row.changes);
        let missing_in_state = current_changes
            .chain(state_changes)
            .filter_map(|(_, event_id)| event_id.as_deref())
            .find(|event_id| !is_stored(event_id));
        if let Some(event_id) = missing_in_state {
            return Err(format!("event {event_id} is in a state and not stored"));
        }
        let elsewhere = commit.out_of_band.iter().chain(&commit.joining).filter_map(|(_, row)| row.as_ref());
        let misplaced = elsewhere.map(|row| &row.event).find(|event| event.room_id() != commit.room_id);
        if let Some(event) = misplaced {
            return Err(format!("out-of-band event {} is of another room", event.event_id()));
        }
        // What a user leaves may never have been in a room of ours; everything else is sent as it is stored.
        let sent = commit.outbox.iter().filter(|entry| !matches!(entry.delivery, Delivery::Leave { .. }));
        if let Some(entry) = sent.into_iter().find(|entry| !is_stored(&entry.event_id)) {
            return Err(format!("event {} is to be sent and not stored", entry.event_id));
        }
        let missing_extremity = commit.extremities_added.iter().find(|row| !is_stored(&row.event_id));
        if let Some(row) = missing_extremity {
            return Err(format!("extremity {} is not stored", row.event_id));
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, commit: &RoomCommit, position: StreamPosition) {
        for row in &commit.events {
            let event_id = row.event.event_id().to_owned();
            let before = self.events.remove(&event_id);
            let redacted = before.as_ref().filter(|before| before.redacted_by.is_some());
            let stored = StoredEvent {
                event: redacted.map_or_else(|| row.event.clone(), |before| self.standing_as(&before.event, &row.event)),
                order: row.order,
                position,
                state_before: row.state_before,
                current_after: row.current_after,
                visibility: row.visibility.clone(),
                received_at: row.received_at,
                redacted_by: redacted.and_then(|before| before.redacted_by.clone()),
                transaction: row.transaction.clone(),
            };
            // An event that comes again has moved (an outlier that gets its place): its old place is free.
            self.events.insert(event_id.clone(), stored);
            if let Some(old_order) = before.and_then(|before| before.order) {
                self.timeline.remove(&old_order);
            }
            if let Some(order) = row.order {
                self.timeline.insert(order, event_id);
            }
        }
        for row in &commit.state_versions {
            self.states.insert(row.version, row.clone());
        }
        if let Some(current) = &commit.current {
            self.current = current.version;
            self.counts = current.counts;
            apply_changes(&mut self.current_state, &current.changes);
        }
        for row in &commit.extremities_added {
            self.extremities.insert(row.event_id.clone(), row.arrival);
            self.next_arrival = self.next_arrival.max(row.arrival.saturating_add(1));
        }
        for event_id in &commit.extremities_removed {
            self.extremities.remove(event_id);
        }
        for (user_id, knock) in &commit.knocks {
            match knock {
                Some(knock) => self.knocks.insert(user_id.clone(), knock.clone()),
                None => self.knocks.remove(user_id),
            };
        }
        for redaction in &commit.redactions {
            if let Some(stored) = self.events.get_mut(redaction.event.event_id()) {
                stored.event = redaction.event.clone();
                stored.redacted_by = Some(redaction.because.clone());
            }
        }
    }

    /// What is left of a redacted event, with the standing of the one that came again.
    fn standing_as(&self, redacted: &Arc<Pdu>, again: &Pdu) -> Arc<Pdu> {
        let version = RoomVersion::lookup(&self.room_version);
        let (event_id, json) = (redacted.event_id().to_owned(), redacted.json().into());
        let event =
            version.and_then(|version| Pdu::from_canonical_text(event_id, json, &version, again.standing()).ok());
        event.map_or_else(|| redacted.clone(), Arc::new)
    }

    pub(super) fn row(&self, room_id: &RoomId) -> RoomRow {
        RoomRow {
            room_id: room_id.to_owned(),
            room_version: self.room_version.clone(),
            current: self.current,
            counts: self.counts,
        }
    }

    pub(super) fn stored(&self, event_id: &EventId) -> Result<StoredEvent, StorageError> {
        let missing = || StorageError::Corrupt { what: format!("event {event_id}") };
        self.events.get(event_id).cloned().ok_or_else(missing)
    }

    pub(super) fn state_at(&self, version: StateVersion) -> Option<BTreeMap<StateKey, OwnedEventId>> {
        let mut path = vec![self.states.get(&version)?];
        while let Some(parent) = path.last().and_then(|row| row.parent) {
            path.push(self.states.get(&parent)?);
        }
        let mut state = BTreeMap::new();
        for row in path.into_iter().rev() {
            apply_changes(&mut state, &row.changes);
        }
        Some(state)
    }

    pub(super) fn descends_by_deltas(&self, older: StateVersion, newer: StateVersion) -> bool {
        let mut version = newer;
        while version != older {
            match self.states.get(&version).and_then(|row| row.parent) {
                Some(parent) => version = parent,
                None => return false,
            }
        }
        true
    }

    pub(super) fn snapshot(&self, room_id: &RoomId) -> Result<RoomSnapshot, StorageError> {
        let state =
            self.current_state.values().map(|event_id| Ok(self.stored(event_id)?.event)).collect::<Result<_, _>>()?;
        let extremities = self
            .extremities
            .iter()
            .map(|(event_id, arrival)| {
                let row = ExtremityRow { event_id: event_id.clone(), arrival: *arrival };
                Ok((row, self.stored(event_id)?))
            })
            .collect::<Result<_, _>>()?;
        let newest_order = self.timeline.keys().next_back().copied().unwrap_or_default();
        let newest_version = self.states.keys().next_back().copied().unwrap_or_default();
        Ok(RoomSnapshot {
            row: self.row(room_id),
            state,
            extremities,
            delta_entries: self.states.get(&self.current).map_or(0, |row| row.delta_entries),
            next_state_version: StateVersion(newest_version.0.saturating_add(1)),
            // Live events count from 1, whatever is backfilled.
            next_order: newest_order.max(TimelineOrder(0)).next(),
            next_arrival: self.next_arrival,
            knocks: self.knocks.clone(),
        })
    }

    pub(super) fn timeline(
        &self,
        from: Option<TimelineOrder>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StorageError> {
        let ids: Vec<&OwnedEventId> = match direction {
            Direction::Forward => {
                let after = from.map_or(Bound::Unbounded, Bound::Excluded);
                self.timeline.range((after, Bound::Unbounded)).map(|(_, id)| id).take(limit).collect()
            }
            Direction::Backward => {
                let up_to = from.map_or(Bound::Unbounded, Bound::Included);
                self.timeline.range((Bound::Unbounded, up_to)).rev().map(|(_, id)| id).take(limit).collect()
            }
        };
        ids.into_iter().map(|event_id| self.stored(event_id)).collect()
    }
}

fn apply_changes(state: &mut BTreeMap<StateKey, OwnedEventId>, changes: &[(StateKey, Option<OwnedEventId>)]) {
    for (key, event_id) in changes {
        match event_id {
            Some(event_id) => state.insert(key.clone(), event_id.clone()),
            None => state.remove(key),
        };
    }
}
