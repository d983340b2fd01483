//! A change of a room as puts and deletes.
//! May not: judge events or memberships; the room's actor did.

use ruma::EventId;
use vestibule_storage::{
    commit::{CommitError, Conflict},
    room::{ClientTransaction, EventRow, MembershipRow, RedactedEvent, RoomCommit, RoomOrigin, StateVersionRow},
};

use super::{Draft, refused};
use crate::keys::{
    EventHash, IdAlphabet, Key, NEXT_DECISION, NEXT_ROOM_NUMBER, ROOMS_STORED, Table, event_hash, out_of_band_key,
};
use crate::values::{
    CounterValue, EventValue, MembershipValue, OrderValue, PointerValue, RoomValue, StateHead, StatePartValue,
    TextValue,
};

/// Bytes of one part of a state version, about. Ours: so that a large room's full copy is many values and no giant.
const STATE_PART_BYTES: usize = 48 * 1024;
/// What an entry of a state version takes beside its texts.
const STATE_ENTRY_BYTES: usize = 41;
/// The number of the first decision.
const FIRST_DECISION: u64 = 1;

impl Draft<'_> {
    pub(super) fn room(&mut self, commit: &RoomCommit) -> Result<(), CommitError> {
        let key = Key::of(Table::Room).last(commit.room_id.as_str());
        let before: Option<RoomValue> = self.value(&key)?;
        let room = match (commit.origin, &before) {
            (RoomOrigin::Created, None) => Some(self.new_room(commit)?),
            (RoomOrigin::Existing, Some(room)) => Some(room.clone()),
            (RoomOrigin::OutOfBand, None) => None,
            (RoomOrigin::Created | RoomOrigin::OutOfBand, Some(_)) => {
                return Err(CommitError::Conflict(Conflict::RoomExists));
            }
            (RoomOrigin::Existing, None) => return Err(CommitError::Conflict(Conflict::NoSuchRoom)),
        };
        let room_number = room.as_ref().map(|room| room.number);
        match (room, commit.needs_stored_room()) {
            (Some(room), _) => {
                let after = self.in_room(commit, room)?;
                if before.as_ref() != Some(&after) {
                    self.put(key, &after);
                }
            }
            (None, Some(part)) => return Err(refused(format!("{part} in a room that is not stored"))),
            (None, None) => {}
        }
        for row in commit.memberships.iter().filter(|row| row.is_local) {
            self.membership(row, commit, room_number)?;
        }
        for (table, rows) in [(Table::OutOfBand, &commit.out_of_band), (Table::Joining, &commit.joining)] {
            for (user_id, row) in rows {
                let key = out_of_band_key(table, &commit.room_id, user_id);
                match row {
                    Some(row) => self.put(key, row),
                    None => self.delete(key),
                }
            }
        }
        self.decisions(commit)?;
        self.outbox(commit);
        Ok(())
    }

    /// What only a stored room has. Returns the room as it is afterwards.
    fn in_room(&mut self, commit: &RoomCommit, mut room: RoomValue) -> Result<RoomValue, CommitError> {
        if room.room_version != commit.room_version {
            return Err(refused("a room's version never changes"));
        }
        let alphabet = IdAlphabet::of(&room.room_version);

        let newest_before = room.newest_order;
        for row in &commit.events {
            self.event(row, &mut room, alphabet)?;
        }
        if let Some(newest) = room.newest_order.filter(|_| room.newest_order != newest_before) {
            let key = Key::of(Table::TimelineGrowth).number(room.number).number(self.position.0);
            self.put(key, &OrderValue(newest));
        }
        for row in &commit.state_versions {
            self.state_version(row, room.number, alphabet)?;
        }
        if let Some(current) = &commit.current {
            room.current = current.version.0;
            room.counts = current.counts;
            for ((kind, state_key), event_id) in &current.changes {
                let key = Key::of(Table::CurrentState).number(room.number).text(&kind.to_string()).last(state_key);
                match event_id {
                    Some(event_id) => self.put(key, &PointerValue(hash_of(event_id, alphabet)?)),
                    None => self.delete(key),
                }
            }
        }
        for row in &commit.extremities_added {
            let key = Key::of(Table::Extremity).number(room.number).hash(&hash_of(&row.event_id, alphabet)?);
            self.put(key, &CounterValue(row.arrival));
            room.next_arrival = room.next_arrival.max(row.arrival.saturating_add(1));
        }
        for event_id in &commit.extremities_removed {
            self.delete(Key::of(Table::Extremity).number(room.number).hash(&hash_of(event_id, alphabet)?));
        }
        for (user_id, knock) in &commit.knocks {
            let key = Key::of(Table::Knock).text(commit.room_id.as_str()).last(user_id.as_str());
            match knock {
                Some(knock) => self.put(key, knock),
                None => self.delete(key),
            }
        }
        for redaction in &commit.redactions {
            self.redaction(redaction)?;
        }
        self.transactions(commit)?;
        Ok(room)
    }

    fn new_room(&mut self, commit: &RoomCommit) -> Result<RoomValue, CommitError> {
        let number = self.counter(NEXT_ROOM_NUMBER, 1)?;
        let rooms_stored = self.counter(ROOMS_STORED, 0)?;
        self.set_counter(NEXT_ROOM_NUMBER, number.saturating_add(1));
        self.set_counter(ROOMS_STORED, rooms_stored.saturating_add(1));
        let room_id = TextValue(commit.room_id.to_string());
        self.put(Key::of(Table::RoomNumber).number(number), &room_id);
        Ok(RoomValue {
            number,
            room_version: commit.room_version.clone(),
            current: 0,
            counts: Default::default(),
            next_arrival: 0,
            newest_order: None,
        })
    }

    fn event(&mut self, row: &EventRow, room: &mut RoomValue, alphabet: IdAlphabet) -> Result<(), CommitError> {
        let event_id = row.event.event_id();
        let hash = hash_of(event_id, alphabet)?;
        let key = Key::of(Table::Event).hash(&hash);
        let order = row.order.map(|order| order.0);
        let mut value = EventValue {
            event_id: event_id.to_owned(),
            room_number: room.number,
            standing: row.event.standing(),
            order,
            position: self.position.0,
            state_before: row.state_before.0,
            current_after: row.current_after.0,
            visibility: row.visibility.clone(),
            received_at: row.received_at,
            redacted_by: None,
            transaction: row.transaction.clone(),
            json: row.event.json().into(),
        };
        if let Some(old) = self.value::<EventValue>(&key)? {
            if old.room_number != room.number {
                return Err(refused(format!("event {event_id} is stored in another room")));
            }
            // An event that comes again has moved: an outlier that gets its place.
            if let Some(old_order) = old.order.filter(|old_order| Some(*old_order) != order) {
                self.delete(Key::of(Table::Timeline).number(room.number).order(old_order));
            }
            if old.redacted_by.is_some() {
                value.redacted_by = old.redacted_by;
                value.json = old.json;
            }
        }
        if let Some(order) = order {
            self.put(Key::of(Table::Timeline).number(room.number).order(order), &PointerValue(hash));
            room.newest_order = room.newest_order.max(Some(order));
        }
        self.put(key, &value);
        Ok(())
    }

    fn state_version(
        &mut self,
        row: &StateVersionRow,
        room_number: u64,
        alphabet: IdAlphabet,
    ) -> Result<(), CommitError> {
        let version = Key::of(Table::StateVersion).number(room_number).number(row.version.0);
        let head = StateHead { parent: row.parent.map(|parent| parent.0), delta_entries: row.delta_entries };
        let mut part = StatePartValue { head: Some(head), changes: Vec::new() };
        let mut part_number = 0_u32;
        let mut bytes = 0;
        for ((kind, state_key), event_id) in &row.changes {
            let hash = event_id.as_ref().map(|event_id| hash_of(event_id, alphabet)).transpose()?;
            let entry_bytes = kind.to_string().len() + state_key.len() + STATE_ENTRY_BYTES;
            if bytes > 0 && bytes + entry_bytes > STATE_PART_BYTES {
                self.put(version.clone().part(part_number), &part);
                part = StatePartValue { head: None, changes: Vec::new() };
                part_number = part_number.saturating_add(1);
                bytes = 0;
            }
            bytes += entry_bytes;
            part.changes.push(((kind.clone(), state_key.clone()), hash));
        }
        self.put(version.part(part_number), &part);
        Ok(())
    }

    fn membership(
        &mut self,
        row: &MembershipRow,
        commit: &RoomCommit,
        room_number: Option<u64>,
    ) -> Result<(), CommitError> {
        if !row.is_history() {
            let key = Key::of(Table::Membership).text(row.user_id.as_str()).last(commit.room_id.as_str());
            let value = MembershipValue {
                membership: row.membership.clone(),
                event_id: row.event_id.clone(),
                position: self.position.0,
            };
            self.put(key, &value);
        }
        if let (Some(room_number), Some(order)) = (room_number, row.order) {
            let key = Key::of(Table::MembershipHistory).text(row.user_id.as_str()).number(room_number).order(order.0);
            self.put(key, &TextValue(row.membership.to_string()));
        }
        let forgotten = Key::of(Table::Forgotten).text(row.user_id.as_str()).last(commit.room_id.as_str());
        if row.ends_forgetting() && self.contains(&forgotten)? {
            self.delete(forgotten);
        }
        Ok(())
    }

    fn redaction(&mut self, redaction: &RedactedEvent) -> Result<(), CommitError> {
        let Some(hash) = event_hash(redaction.event.event_id()) else { return Ok(()) };
        let key = Key::of(Table::Event).hash(&hash);
        if let Some(mut value) = self.value::<EventValue>(&key)? {
            value.standing = redaction.event.standing();
            value.json = redaction.event.json().into();
            value.redacted_by = Some(redaction.because.clone());
            self.put(key, &value);
        }
        Ok(())
    }

    fn decisions(&mut self, commit: &RoomCommit) -> Result<(), CommitError> {
        if commit.decisions.is_empty() {
            return Ok(());
        }
        let mut number = self.counter(NEXT_DECISION, FIRST_DECISION)?;
        for decision in &commit.decisions {
            self.put(Key::of(Table::Decision).number(number), decision);
            number = number.saturating_add(1);
        }
        self.set_counter(NEXT_DECISION, number);
        Ok(())
    }

    fn transactions(&mut self, commit: &RoomCommit) -> Result<(), CommitError> {
        for row in &commit.events {
            if let Some(transaction) = &row.transaction {
                self.put(transaction_key(transaction), &TextValue(row.event.event_id().to_string()));
            }
        }
        if let (Some(transaction), Some(last)) = (&commit.transaction, commit.events.last()) {
            let key = transaction_key(transaction);
            if !self.contains(&key)? {
                self.put(key, &TextValue(last.event.event_id().to_string()));
            }
        }
        Ok(())
    }
}

/// Where the answer to a client's transaction is kept.
pub(crate) fn transaction_key(transaction: &ClientTransaction) -> Key {
    Key::of(Table::Transaction)
        .text(transaction.user_id.as_str())
        .text(transaction.device_id.as_str())
        .text(&transaction.endpoint)
        .last(transaction.transaction_id.as_str())
}

fn hash_of(event_id: &EventId, alphabet: IdAlphabet) -> Result<EventHash, CommitError> {
    alphabet.hash(event_id).ok_or_else(|| refused(format!("{event_id} is no event id of the room's version")))
}
