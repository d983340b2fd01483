//! What is read of the rooms of the reference model.
//! May not: change anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    state::{StateKey, StateVersion},
    stream::{StreamPosition, TimelineOrder},
};

use super::{
    MemoryStorage,
    kept::{Kept, OutOfBandRows},
};
use crate::{
    Read,
    room::{
        ClientTransaction, Decision, Direction, KnockRow, OutOfBand, OutOfBandRow, PendingKnock, RoomReader, RoomRow,
        RoomSnapshot, StoredEvent, UserMembership,
    },
};

impl RoomReader for MemoryStorage {
    fn room<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Option<RoomRow>> {
        self.read(|kept| Ok(kept.rooms.get(room_id).map(|room| room.row(room_id))))
    }

    fn rooms_stored(&self) -> Read<'_, u64> {
        self.read(|kept| Ok(u64::try_from(kept.rooms.len()).unwrap_or(u64::MAX)))
    }

    fn rooms<'a>(&'a self, after: Option<&'a RoomId>, limit: usize) -> Read<'a, Vec<RoomRow>> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|kept| {
            let rooms = kept.rooms.range::<RoomId, _>((first, Bound::Unbounded));
            Ok(rooms.take(limit).map(|(room_id, room)| room.row(room_id)).collect())
        })
    }

    fn snapshot<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Option<RoomSnapshot>> {
        self.read(|kept| kept.rooms.get(room_id).map(|room| room.snapshot(room_id)).transpose())
    }

    fn events<'a>(&'a self, room_id: &'a RoomId, event_ids: &'a [OwnedEventId]) -> Read<'a, Vec<Option<StoredEvent>>> {
        self.read(|kept| {
            let room = kept.rooms.get(room_id);
            Ok(event_ids.iter().map(|event_id| room.and_then(|room| room.events.get(event_id).cloned())).collect())
        })
    }

    fn room_of_event<'a>(&'a self, event_id: &'a EventId) -> Read<'a, Option<OwnedRoomId>> {
        self.read(|kept| Ok(kept.room_of_event.get(event_id).cloned()))
    }

    fn current_state<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Vec<StoredEvent>> {
        self.read(|kept| {
            let Some(room) = kept.rooms.get(room_id) else { return Ok(Vec::new()) };
            room.current_state.values().map(|event_id| room.stored(event_id)).collect()
        })
    }

    fn current_state_of_type<'a>(
        &'a self,
        room_id: &'a RoomId,
        kind: &'a StateEventType,
    ) -> Read<'a, Vec<StoredEvent>> {
        self.read(|kept| {
            let Some(room) = kept.rooms.get(room_id) else { return Ok(Vec::new()) };
            let of_type = room.current_state.iter().filter(|((entry_kind, _), _)| entry_kind == kind);
            of_type.map(|(_, event_id)| room.stored(event_id)).collect()
        })
    }

    fn current_state_event<'a>(
        &'a self,
        room_id: &'a RoomId,
        kind: &'a StateEventType,
        state_key: &'a str,
    ) -> Read<'a, Option<StoredEvent>> {
        self.read(|kept| {
            let Some(room) = kept.rooms.get(room_id) else { return Ok(None) };
            let event_id = room.current_state.get(&(kind.clone(), state_key.to_owned()));
            event_id.map(|event_id| room.stored(event_id)).transpose()
        })
    }

    fn state_at<'a>(
        &'a self,
        room_id: &'a RoomId,
        version: StateVersion,
    ) -> Read<'a, Option<BTreeMap<StateKey, OwnedEventId>>> {
        self.read(|kept| Ok(kept.rooms.get(room_id).and_then(|room| room.state_at(version))))
    }

    fn state_changes<'a>(
        &'a self,
        room_id: &'a RoomId,
        older: StateVersion,
        newer: StateVersion,
    ) -> Read<'a, Option<BTreeMap<StateKey, Option<OwnedEventId>>>> {
        self.read(|kept| {
            let Some(room) = kept.rooms.get(room_id) else { return Ok(None) };
            if !room.descends_by_deltas(older, newer) {
                return Ok(None);
            }
            let (Some(before), Some(after)) = (room.state_at(older), room.state_at(newer)) else { return Ok(None) };
            let keys: BTreeSet<&StateKey> = before.keys().chain(after.keys()).collect();
            let differing = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
            Ok(Some(differing.map(|key| (key.clone(), after.get(key).cloned())).collect()))
        })
    }

    fn timeline<'a>(
        &'a self,
        room_id: &'a RoomId,
        from: Option<TimelineOrder>,
        direction: Direction,
        limit: usize,
    ) -> Read<'a, Vec<StoredEvent>> {
        self.read(|kept| kept.rooms.get(room_id).map_or(Ok(Vec::new()), |room| room.timeline(from, direction, limit)))
    }

    fn timeline_at<'a>(&'a self, room_id: &'a RoomId, position: StreamPosition) -> Read<'a, Option<StoredEvent>> {
        self.read(|kept| {
            let newest_first = kept.rooms.get(room_id).map(|room| room.timeline(None, Direction::Backward, usize::MAX));
            let newest_first = newest_first.transpose()?.unwrap_or_default();
            Ok(newest_first.into_iter().find(|stored| stored.position <= position))
        })
    }

    fn memberships_of<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Vec<UserMembership>> {
        self.read(|kept| {
            let rooms = kept.memberships.keys().filter(|(member, _)| member == user_id);
            Ok(rooms.filter_map(|(_, room_id)| membership_in(kept, user_id, room_id)).collect())
        })
    }

    fn membership<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<UserMembership>> {
        self.read(|kept| Ok(membership_in(kept, user_id, room_id)))
    }

    fn membership_history<'a>(
        &'a self,
        user_id: &'a UserId,
        room_id: &'a RoomId,
    ) -> Read<'a, Vec<(TimelineOrder, MembershipState)>> {
        self.read(|kept| {
            let rows = kept.memberships.get(&(user_id.to_owned(), room_id.to_owned())).into_iter().flatten();
            let by_order: BTreeMap<TimelineOrder, MembershipState> =
                rows.filter_map(|(_, row)| Some((row.order?, row.membership.clone()))).collect();
            Ok(by_order.into_iter().collect())
        })
    }

    fn pending_knocks<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<KnockRow>> {
        self.read(|kept| {
            let rooms = kept.rooms.iter().filter(|(id, _)| room_id.is_none_or(|room_id| room_id == **id));
            let knocks =
                rooms.flat_map(|(id, room)| room.knocks.iter().map(move |(user_id, knock)| (id, user_id, knock)));
            let asked = knocks.filter(|(id, user_id, _)| after.is_none_or(|after| (&***id, &***user_id) > after));
            let row = |(id, user_id, knock): (&OwnedRoomId, &OwnedUserId, &PendingKnock)| KnockRow {
                room_id: id.clone(),
                user_id: user_id.clone(),
                knock: knock.clone(),
            };
            Ok(asked.take(limit).map(row).collect())
        })
    }

    fn out_of_band<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<OutOfBandRow>> {
        self.read(|kept| Ok(rows_after(&kept.out_of_band, room_id, after, limit)))
    }

    fn out_of_band_of<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<OutOfBand>> {
        self.read(|kept| Ok(kept.out_of_band.get(&(room_id.to_owned(), user_id.to_owned())).cloned()))
    }

    fn joining<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<OutOfBandRow>> {
        self.read(|kept| Ok(rows_after(&kept.joining, room_id, after, limit)))
    }

    fn joining_of<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<OutOfBand>> {
        self.read(|kept| Ok(kept.joining.get(&(room_id.to_owned(), user_id.to_owned())).cloned()))
    }

    fn decisions(&self, before: Option<u64>, limit: usize) -> Read<'_, Vec<(u64, Decision)>> {
        self.read(|kept| {
            let numbered = (1..).zip(&kept.decisions);
            let mut asked: Vec<(u64, Decision)> = numbered
                .take_while(|(number, _)| before.is_none_or(|before| *number < before))
                .map(|(number, decision)| (number, decision.clone()))
                .collect();
            asked.reverse();
            asked.truncate(limit);
            Ok(asked)
        })
    }

    fn transaction<'a>(&'a self, transaction: &'a ClientTransaction) -> Read<'a, Option<OwnedEventId>> {
        self.read(|kept| Ok(kept.transactions.get(transaction).cloned()))
    }
}

fn membership_in(kept: &Kept, user_id: &UserId, room_id: &RoomId) -> Option<UserMembership> {
    let key = (user_id.to_owned(), room_id.to_owned());
    let (position, row) = kept.memberships.get(&key)?.iter().rfind(|(_, row)| !row.is_history())?;
    Some(UserMembership {
        room_id: room_id.to_owned(),
        membership: row.membership.clone(),
        event_id: row.event_id.clone(),
        position: *position,
        forgotten: kept.forgotten.contains(&key),
    })
}

fn rows_after(
    rows: &OutOfBandRows,
    room_id: Option<&RoomId>,
    after: Option<(&RoomId, &UserId)>,
    limit: usize,
) -> Vec<OutOfBandRow> {
    let of_room = rows.iter().filter(|((id, _), _)| room_id.is_none_or(|room_id| *room_id == **id));
    let asked = of_room.filter(|((id, user_id), _)| after.is_none_or(|after| (&**id, &**user_id) > after));
    let rows = asked.take(limit).map(|((room_id, user_id), row)| OutOfBandRow {
        room_id: room_id.clone(),
        user_id: user_id.clone(),
        out_of_band: row.clone(),
    });
    rows.collect()
}
