//! From storage to memory: how an actor starts.
//! May not: judge again what was accepted once.

use std::sync::Arc;

use ruma::{RoomId, events::room::member::MembershipState};
use thiserror::Error;
use vestibule_protocol::{
    room_graph::{Extremity, RoomGraph, StateNode},
    room_version::RoomVersion,
    state::StateMap,
};
use vestibule_storage::error::StorageError;

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

/// Loads a room; `None` when it is not stored.
pub(crate) async fn load(context: Arc<RoomContext>, room_id: &RoomId) -> Result<Option<Room>, LoadError> {
    let Some(snapshot) = context.stores.rooms.snapshot(room_id).await? else {
        return Ok(None);
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
        let state = state_at(&context, room_id, stored.state_before, &current).await?.unwrap_or_default();
        let before = if stored.state_before == current.version() {
            current.clone()
        } else {
            graph.node_from_storage(stored.state_before, 0, &state)
        };
        graph.resume_extremity(Extremity { event: stored.event, before, arrival: row.arrival });
    }
    let mut room = Room::new(room_id.to_owned(), context, graph, snapshot.next_order);
    room.counts = count_members(room.state());
    let is_local = |user: &ruma::OwnedUserId| user.server_name() == room.context.identity.server_name();
    let joined = room.state().users_with(&MembershipState::Join);
    room.local_joined = u64::try_from(joined.iter().filter(|user| is_local(user)).count()).unwrap_or(u64::MAX);
    for (user_id, knock) in snapshot.knocks {
        room.pending.insert(user_id, knock.since);
    }
    Ok(Some(room))
}
