//! From storage to memory: how an actor starts.
//! May not: judge again what was accepted once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedUserId, RoomId, UserId};
use thiserror::Error;
use vestibule_protocol::{
    room_graph::{Extremity, RoomGraph, StateNode},
    room_version::RoomVersion,
    state::StateMap,
};
use vestibule_storage::{
    error::StorageError,
    room::{Direction, OutOfBand, OutOfBandListing, RoomReader},
};

use super::{RoomContext, apply::count_members, gather::state_at, memory::Room};

/// Why a stored room cannot be loaded.
#[derive(Clone, Debug, Error)]
pub(crate) enum LoadError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The room is of a version that this program does not know.
    #[error("room version {0} is not known")]
    UnknownVersion(ruma::RoomVersionId),
    /// The CPU pool is closed, or loading panicked.
    #[error("loading did not finish")]
    NotDone,
}

impl LoadError {
    /// Whether another attempt would find the same. Storage that cannot be read for now says nothing about a room.
    pub(crate) fn is_about_the_room(&self) -> bool {
        !matches!(self, Self::Storage(StorageError::Unavailable { .. }))
    }
}

/// Out-of-band memberships read at once. Ours.
const OUT_OF_BAND_PER_READ: usize = 1_000;

/// Loads a room. One that is not stored is made out of band if `elsewhere` says of which version it is; else `None`.
pub(crate) async fn load(
    context: Arc<RoomContext>,
    room_id: &RoomId,
    elsewhere: Option<RoomVersion>,
) -> Result<Option<Room>, LoadError> {
    let rooms = context.stores.rooms.clone();
    let out_of_band = of_users(&*rooms, <dyn RoomReader>::out_of_band, room_id).await?;
    let joining = of_users(&*rooms, <dyn RoomReader>::joining, room_id).await?;
    let joining: BTreeSet<OwnedUserId> = joining.into_keys().collect();
    let Some(snapshot) = rooms.snapshot(room_id).await? else {
        return Ok(elsewhere.map(|version| {
            let mut room = Room::out_of_band(room_id.to_owned(), context, version, out_of_band);
            room.joining = joining;
            room
        }));
    };
    let version = RoomVersion::lookup(&snapshot.row.room_version)
        .ok_or_else(|| LoadError::UnknownVersion(snapshot.row.room_version.clone()))?;
    let seed = context.core_seed;
    let (current_version, delta_entries, events) = (snapshot.row.current, snapshot.delta_entries, snapshot.state);
    let node_version = version.clone();
    let current = context
        .cpu
        .run(move || {
            let state: StateMap = events.into_iter().collect();
            Arc::new(StateNode::from_storage(current_version, delta_entries, &state, &node_version, seed))
        })
        .await
        .map_err(|_| LoadError::NotDone)?;
    let mut graph = RoomGraph::resume(
        version,
        seed,
        current.clone(),
        Vec::new(),
        snapshot.next_state_version,
        snapshot.next_arrival,
    );
    for (row, stored) in snapshot.extremities {
        let state = state_at(&context, room_id, stored.state_before, &current).await?.ok_or_else(|| {
            // As an empty one it would say that nobody is in the room.
            StorageError::Corrupt { what: format!("state {} of {room_id} is missing", stored.state_before.0) }
        })?;
        let before = if stored.state_before == current.version() {
            current.clone()
        } else {
            graph.node_from_storage(stored.state_before, 0, &state)
        };
        graph.resume_extremity(Extremity { event: stored.event, before, arrival: row.arrival });
    }
    let mut room = Room::new(room_id.to_owned(), context, graph, snapshot.next_order);
    room.counts = count_members(room.state());
    room.count_joined();
    let oldest = room.context.clone().stores.rooms.timeline(room_id, None, Direction::Forward, 1).await?;
    if let Some(order) = oldest.first().and_then(|event| event.order) {
        room.oldest_order = order;
    }
    (room.out_of_band, room.joining) = (out_of_band, joining);
    for (user_id, knock) in snapshot.knocks {
        room.pending.insert(user_id, knock.since);
    }
    Ok(Some(room))
}

/// What a listing has of a room.
async fn of_users(
    rooms: &(dyn RoomReader + 'static),
    listing: OutOfBandListing,
    room_id: &RoomId,
) -> Result<BTreeMap<OwnedUserId, OutOfBand>, StorageError> {
    let mut found = BTreeMap::new();
    loop {
        let last: Option<&UserId> = found.keys().next_back().map(|user: &OwnedUserId| &**user);
        let after = last.map(|user| (room_id, user));
        let rows = listing(rooms, Some(room_id), after, OUT_OF_BAND_PER_READ).await?;
        let is_last = rows.len() < OUT_OF_BAND_PER_READ;
        found.extend(rows.into_iter().map(|row| (row.user_id, row.out_of_band)));
        if is_last {
            return Ok(found);
        }
    }
}
