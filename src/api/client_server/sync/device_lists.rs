//! Whose devices changed since the last sync, and of whom the client need hear no more.
//! May not: tell of users with whom the caller shares no room, or leave out one who may have changed: a client that is told
//! too much asks once more, a client that is told too little encrypts for the wrong devices.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#extensions-to-sync>
//! All shared rooms count, not only encrypted ones, since a room may become encrypted at any time.

use std::collections::BTreeSet;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Serialize;
use vestibule_protocol::{
    state::{StateKey, StateVersion},
    stream::StreamPosition,
};
use vestibule_storage::{
    error::StorageError,
    room::{RoomReader, UserMembership},
};

use super::state_delta::{Entries, differing};
use crate::{
    client_server::room_view::events_of,
    device_keys::sharing::{in_none_of, members},
    state::App,
};

/// The part of a sync.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceLists {
    /// To be asked for again.
    pub changed: BTreeSet<OwnedUserId>,
    /// Not to be followed any more.
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// What changed for a user of ours after a position and not after another.
///
/// # Errors
/// When the store cannot be read.
pub async fn between(
    app: &App,
    user_id: &UserId,
    after: StreamPosition,
    up_to: StreamPosition,
) -> Result<DeviceLists, StorageError> {
    let rooms = &*app.stores.rooms;
    let memberships = rooms.memberships_of(user_id).await?;
    let mut changed: BTreeSet<OwnedUserId> =
        app.stores.device_keys.changed_lists(after, up_to).await?.into_iter().collect();
    // Of the user's own devices all are told, whatever rooms there are.
    let own = changed.take(user_id);
    let mut went = BTreeSet::new();
    let mut joined: Vec<OwnedRoomId> = Vec::new();
    for membership in memberships {
        let is_joined = membership.membership == MembershipState::Join;
        let comes_and_goes = comings_and_goings(rooms, &membership, user_id, after, up_to).await?;
        changed.extend(comes_and_goes.came);
        went.extend(comes_and_goes.went);
        if is_joined {
            joined.push(membership.room_id);
        }
    }
    changed.remove(user_id);
    went.remove(user_id);
    let strangers = in_none_of(rooms, &joined, changed.union(&went).cloned().collect()).await?;
    changed.retain(|other| !strangers.contains(other));
    went.retain(|other| strangers.contains(other));
    changed.extend(own);
    Ok(DeviceLists { changed, left: went })
}

#[derive(Default)]
struct ComingsAndGoings {
    came: BTreeSet<OwnedUserId>,
    went: BTreeSet<OwnedUserId>,
}

/// Who came into one room, or left it, or may have: from the caller's view, who comes or goes sees all others come or go.
async fn comings_and_goings(
    rooms: &dyn RoomReader,
    membership: &UserMembership,
    user_id: &UserId,
    after: StreamPosition,
    up_to: StreamPosition,
) -> Result<ComingsAndGoings, StorageError> {
    let room_id = &membership.room_id;
    let mut found = ComingsAndGoings::default();
    match membership.membership {
        MembershipState::Join if membership.position > after => {
            found.came.extend(members(rooms, room_id).await?);
        }
        MembershipState::Join => {
            let (Some(older), Some(newer)) =
                (rooms.timeline_at(room_id, after).await?, rooms.timeline_at(room_id, up_to).await?)
            else {
                return Ok(found);
            };
            let (older, newer) = (older.current_after, newer.current_after);
            if older != newer {
                for other in changed_members(rooms, room_id, older, newer).await? {
                    // Which of the two it was is seen by who is there now.
                    found.came.insert(other.clone());
                    found.went.insert(other);
                }
            }
        }
        MembershipState::Leave | MembershipState::Ban if membership.position > after => {
            let was_joined = rooms.membership_history(user_id, room_id).await?;
            if was_joined.iter().any(|(_, state)| *state == MembershipState::Join) {
                found.went.extend(members(rooms, room_id).await?);
            }
        }
        _ => {}
    }
    Ok(found)
}

/// Whose membership became `join`, or stopped being it, between two versions of a room's state.
async fn changed_members(
    rooms: &dyn RoomReader,
    room_id: &RoomId,
    older: StateVersion,
    newer: StateVersion,
) -> Result<BTreeSet<OwnedUserId>, StorageError> {
    let is_member = |(kind, _): &StateKey| *kind == StateEventType::RoomMember;
    let changes = rooms.state_changes(room_id, older, newer).await?;
    if changes.as_ref().is_some_and(|changes| !changes.keys().any(is_member)) {
        return Ok(BTreeSet::new());
    }
    let before = rooms.state_at(room_id, older).await?.unwrap_or_default();
    let changed: Entries = match changes {
        Some(changes) => changes.into_iter().filter_map(|(key, event)| Some((key, event?))).collect(),
        None => differing(&before, rooms.state_at(room_id, newer).await?.unwrap_or_default()),
    };
    let changed = changed.into_iter().filter(|(key, _)| is_member(key));
    let mut users = BTreeSet::new();
    for (key, event_id) in changed {
        let ids: Vec<_> = before.get(&key).cloned().into_iter().chain([event_id]).collect();
        let events = events_of(rooms, room_id, &ids).await?;
        let joins = events.iter().filter(|event| event.event.membership() == Some(MembershipState::Join)).count();
        // A new name or avatar is no coming or going.
        let stayed_in = joins == 2;
        if joins > 0 && !stayed_in {
            users.extend(UserId::parse(&key.1).ok());
        }
    }
    Ok(users)
}
