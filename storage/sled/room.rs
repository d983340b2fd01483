//! Reads rooms.
//! May not: write. Every answer is of one moment for the room or the user that is asked about; listings over all rooms are of one
//! moment too, unless writers disturb them for good, in which case the writer waits.

mod view;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    state::{StateKey, StateVersion},
    stream::{StreamPosition, TimelineOrder},
};
use vestibule_storage::{
    Read,
    error::StorageError,
    room::{
        ClientTransaction, Decision, Direction, KnockRow, OutOfBand, OutOfBandRow, PendingKnock, RoomReader, RoomRow,
        RoomSnapshot, StoredEvent, UserMembership,
    },
};

use self::view::{RoomView, corrupt};
use crate::draft::transaction_key;
use crate::fields::StoredForm;
use crate::index::{Entry, Index};
use crate::keys::{Key, KeyParts, ROOMS_STORED, Table, event_hash, out_of_band_key};
use crate::values::{CounterValue, EventValue, MembershipValue, RoomValue, TextValue, parsed};
use crate::views::{Subject, Views, point, scan};

/// Keys that are read where they are asked for (DESIGN section 4).
const POINT_READS_MAX: usize = 32;

/// Reads rooms from the look-up store.
#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) views: Arc<Views>,
}

impl Rooms {
    /// Asks one room on a thread that may take its time; a room that is not stored has nothing to say.
    fn ask<'a, T: Default + Send + 'static>(
        &self,
        room_id: &RoomId,
        question: impl Fn(&RoomView<'_>) -> Result<T, StorageError> + Send + 'static,
    ) -> Read<'a, T> {
        let (room_id, subject) = (room_id.to_owned(), Subject::room(room_id));
        scan(&self.views, subject, move |index| {
            RoomView::of(index, &room_id)?.map_or_else(|| Ok(T::default()), |room| question(&room))
        })
    }

    /// A page of a table whose keys are room and user, of one room or of all.
    fn rows_of_users<'a, T: Send + 'static>(
        &self,
        table: Table,
        row: fn(Entry) -> Result<T, StorageError>,
        (room_id, after, limit): (Option<&RoomId>, Option<(&RoomId, &UserId)>, usize),
    ) -> Read<'a, Vec<T>> {
        let subject = room_id.map_or(Subject::EVERYTHING, Subject::room);
        let table = Key::of(table);
        let asked = room_id.map_or(table.clone(), |room_id| table.clone().text(room_id.as_str()));
        let (first, end) = (asked.as_bytes().to_vec(), asked.after());
        let after = after.map(|(room_id, user_id)| table.text(room_id.as_str()).last(user_id.as_str()).into_bytes());
        scan(&self.views, subject, move |index| {
            let begin = match &after {
                Some(after) if *after >= end => return Ok(Vec::new()),
                Some(after) if *after >= first => Bound::Excluded(after.clone()),
                _ => Bound::Included(first.clone()),
            };
            let entries = index.range((begin, Bound::Excluded(end.clone())));
            entries.take(limit).map(|entry| entry.map_err(StorageError::from).and_then(row)).collect()
        })
    }
}

impl RoomReader for Rooms {
    fn room<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Option<RoomRow>> {
        point(
            &self.views,
            Subject::room(room_id),
            move |index| Ok(RoomView::of(index, room_id)?.map(|room| room.row())),
        )
    }

    fn rooms_stored(&self) -> Read<'_, u64> {
        point(&self.views, Subject::SINGLE, |index| {
            let counter: Option<CounterValue> = index.value(&Key::of(Table::Counter).last(ROOMS_STORED))?;
            Ok(counter.map_or(0, |counter| counter.0))
        })
    }

    fn rooms<'a>(&'a self, after: Option<&'a RoomId>, limit: usize) -> Read<'a, Vec<RoomRow>> {
        let after = after.map(ToOwned::to_owned);
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let table = Key::of(Table::Room);
            let rooms = index.range((beginning(&table, after.as_deref()), Bound::Excluded(table.after())));
            let rows = rooms.take(limit).map(|entry| {
                let (key, value) = entry?;
                let room_id = room_id(KeyParts::of(&key).last())?;
                Ok(view::row(&room_id, &RoomValue::from_bytes(&value)?))
            });
            rows.collect()
        })
    }

    fn snapshot<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Option<RoomSnapshot>> {
        self.ask(room_id, |room| room.snapshot().map(Some))
    }

    fn events<'a>(&'a self, room_id: &'a RoomId, event_ids: &'a [OwnedEventId]) -> Read<'a, Vec<Option<StoredEvent>>> {
        let read = |index: &Index, room_id: &RoomId, event_ids: &[OwnedEventId]| match RoomView::of(index, room_id)? {
            Some(room) => event_ids.iter().map(|event_id| room.event(event_id)).collect(),
            None => Ok(event_ids.iter().map(|_| None).collect()),
        };
        // One event is one row, and the row of its room says only which room that is, for ever: no need of one moment.
        let subject = if event_ids.len() == 1 { Subject::SINGLE } else { Subject::room(room_id) };
        if event_ids.len() <= POINT_READS_MAX {
            return point(&self.views, subject, move |index| read(index, room_id, event_ids));
        }
        let (room_id, event_ids) = (room_id.to_owned(), event_ids.to_vec());
        scan(&self.views, subject, move |index| read(index, &room_id, &event_ids))
    }

    fn room_of_event<'a>(&'a self, event_id: &'a EventId) -> Read<'a, Option<OwnedRoomId>> {
        // Where an event is never changes, so no other key has to be of the same moment.
        point(&self.views, Subject::SINGLE, move |index| {
            let Some(hash) = event_hash(event_id) else { return Ok(None) };
            let value: Option<EventValue> = index.value(&Key::of(Table::Event).hash(&hash))?;
            let Some(value) = value.filter(|value| value.event_id == event_id) else { return Ok(None) };
            room_of_number(index, value.room_number).map(Some)
        })
    }

    fn current_state<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Vec<StoredEvent>> {
        self.ask(room_id, |room| room.current_state(None))
    }

    fn current_state_of_type<'a>(
        &'a self,
        room_id: &'a RoomId,
        kind: &'a StateEventType,
    ) -> Read<'a, Vec<StoredEvent>> {
        let kind = kind.clone();
        self.ask(room_id, move |room| room.current_state(Some(&kind)))
    }

    fn current_state_event<'a>(
        &'a self,
        room_id: &'a RoomId,
        kind: &'a StateEventType,
        state_key: &'a str,
    ) -> Read<'a, Option<StoredEvent>> {
        point(&self.views, Subject::room(room_id), move |index| {
            let Some(room) = RoomView::of(index, room_id)? else { return Ok(None) };
            room.current_state_event(kind, state_key)
        })
    }

    fn state_at<'a>(
        &'a self,
        room_id: &'a RoomId,
        version: StateVersion,
    ) -> Read<'a, Option<BTreeMap<StateKey, OwnedEventId>>> {
        self.ask(room_id, move |room| room.state_at(version))
    }

    fn state_changes<'a>(
        &'a self,
        room_id: &'a RoomId,
        older: StateVersion,
        newer: StateVersion,
    ) -> Read<'a, Option<BTreeMap<StateKey, Option<OwnedEventId>>>> {
        self.ask(room_id, move |room| room.state_changes(older, newer))
    }

    fn timeline<'a>(
        &'a self,
        room_id: &'a RoomId,
        from: Option<TimelineOrder>,
        direction: Direction,
        limit: usize,
    ) -> Read<'a, Vec<StoredEvent>> {
        self.ask(room_id, move |room| room.timeline(from, direction, limit))
    }

    fn timeline_at<'a>(&'a self, room_id: &'a RoomId, position: StreamPosition) -> Read<'a, Option<StoredEvent>> {
        self.ask(room_id, move |room| room.timeline_at(position))
    }

    fn memberships_of<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Vec<UserMembership>> {
        let (user_id, subject) = (user_id.to_owned(), Subject::user(user_id));
        scan(&self.views, subject, move |index| {
            let entries = index.under(&Key::of(Table::Membership).text(user_id.as_str()));
            let memberships = entries.map(|entry| {
                let (key, value) = entry?;
                let mut parts = KeyParts::of(&key);
                let room_id = room_id(parts.text().and_then(|_| parts.last()))?;
                membership(index, &user_id, &room_id, MembershipValue::from_bytes(&value)?)
            });
            memberships.collect()
        })
    }

    fn membership<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<UserMembership>> {
        point(&self.views, Subject::user(user_id), move |index| {
            let key = Key::of(Table::Membership).text(user_id.as_str()).last(room_id.as_str());
            let value: Option<MembershipValue> = index.value(&key)?;
            value.map(|value| membership(index, user_id, room_id, value)).transpose()
        })
    }

    fn membership_history<'a>(
        &'a self,
        user_id: &'a UserId,
        room_id: &'a RoomId,
    ) -> Read<'a, Vec<(TimelineOrder, MembershipState)>> {
        let user_id = user_id.to_owned();
        self.ask(room_id, move |room| room.membership_history(&user_id))
    }

    fn pending_knocks<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<KnockRow>> {
        self.rows_of_users(Table::Knock, knock_row, (room_id, after, limit))
    }

    fn out_of_band<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<OutOfBandRow>> {
        self.rows_of_users(Table::OutOfBand, out_of_band_row, (room_id, after, limit))
    }

    fn out_of_band_of<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<OutOfBand>> {
        point(&self.views, Subject::room(room_id), move |index| {
            index.value(&out_of_band_key(Table::OutOfBand, room_id, user_id))
        })
    }

    fn joining<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<OutOfBandRow>> {
        self.rows_of_users(Table::Joining, out_of_band_row, (room_id, after, limit))
    }

    fn joining_of<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<OutOfBand>> {
        point(&self.views, Subject::room(room_id), move |index| {
            index.value(&out_of_band_key(Table::Joining, room_id, user_id))
        })
    }

    fn decisions(&self, before: Option<u64>, limit: usize) -> Read<'_, Vec<(u64, Decision)>> {
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let table = Key::of(Table::Decision);
            let end = before.map_or_else(|| table.clone().after(), |before| table.clone().number(before).into_bytes());
            let entries = index.range(table.into_bytes()..end).rev();
            let decisions = entries.take(limit).map(|entry| {
                let (key, value) = entry?;
                let number = KeyParts::of(&key).number().ok_or_else(|| corrupt("key of a decision"))?;
                Ok((number, Decision::from_bytes(&value)?))
            });
            decisions.collect()
        })
    }

    fn transaction<'a>(&'a self, transaction: &'a ClientTransaction) -> Read<'a, Option<OwnedEventId>> {
        point(&self.views, Subject::SINGLE, move |index| {
            let value: Option<TextValue> = index.value(&transaction_key(transaction))?;
            value.map(|value| parsed(&value.0).ok_or_else(|| corrupt("event id of a transaction"))).transpose()
        })
    }
}

fn room_of_number(index: &Index, number: u64) -> Result<OwnedRoomId, StorageError> {
    let value: Option<TextValue> = index.value(&Key::of(Table::RoomNumber).number(number))?;
    room_id(value.as_ref().map(|value| value.0.as_str()))
}

fn membership(
    index: &Index,
    user_id: &UserId,
    room_id: &RoomId,
    value: MembershipValue,
) -> Result<UserMembership, StorageError> {
    let forgotten = Key::of(Table::Forgotten).text(user_id.as_str()).last(room_id.as_str());
    Ok(UserMembership {
        room_id: room_id.to_owned(),
        membership: value.membership,
        event_id: value.event_id,
        position: StreamPosition(value.position),
        forgotten: index.get(forgotten.as_bytes())?.is_some(),
    })
}

fn knocks_in(index: &Index, room_id: &RoomId) -> Result<BTreeMap<OwnedUserId, PendingKnock>, StorageError> {
    let entries = index.under(&Key::of(Table::Knock).text(room_id.as_str()));
    let rows = entries.map(|entry| entry.map_err(StorageError::from).and_then(knock_row));
    rows.map(|row| row.map(|row| (row.user_id, row.knock))).collect()
}

fn knock_row((key, value): Entry) -> Result<KnockRow, StorageError> {
    let (room_id, user_id) = room_and_user(&key)?;
    Ok(KnockRow { room_id, user_id, knock: PendingKnock::from_bytes(&value)? })
}

fn out_of_band_row((key, value): Entry) -> Result<OutOfBandRow, StorageError> {
    let (room_id, user_id) = room_and_user(&key)?;
    Ok(OutOfBandRow { room_id, user_id, out_of_band: OutOfBand::from_bytes(&value)? })
}

fn room_and_user(key: &[u8]) -> Result<(OwnedRoomId, OwnedUserId), StorageError> {
    let mut parts = KeyParts::of(key);
    let room_id = room_id(parts.text().as_deref())?;
    let user_id = parts.last().and_then(parsed).ok_or_else(|| corrupt("user id in a key"))?;
    Ok((room_id, user_id))
}

fn room_id(text: Option<&str>) -> Result<OwnedRoomId, StorageError> {
    text.and_then(parsed).ok_or_else(|| corrupt("room id in a key"))
}

/// The bound of a listing that goes on after an id.
pub(crate) fn beginning(table: &Key, after: Option<impl AsRef<str>>) -> Bound<Vec<u8>> {
    match after {
        Some(after) => Bound::Excluded(table.clone().last(after.as_ref()).into_bytes()),
        None => Bound::Included(table.as_bytes().to_vec()),
    }
}
