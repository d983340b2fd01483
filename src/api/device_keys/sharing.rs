//! Who shares a room with whom: they see each other's devices, and hear when those change.
//! May not: count invites or knocks; only who is joined encrypts for the others.

use std::collections::BTreeSet;

use ruma::{
    DeviceId, OwnedDeviceId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use vestibule_storage::{
    accounts::AccountChange,
    device_keys::{KeyChange, ListNews},
    error::StorageError,
    room::RoomReader,
};

use crate::state::App;

/// Rooms read at a time when all are looked through. Ours.
const ROOMS_PER_READ: usize = 200;

/// Those who share a room with a user, and the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circle {
    /// Of ours.
    pub users: BTreeSet<OwnedUserId>,
    /// Other servers.
    pub servers: BTreeSet<OwnedServerName>,
}

impl Circle {
    /// The circle of a user of ours.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of(app: &App, user_id: &UserId) -> Result<Self, StorageError> {
        let mut circle = Self { users: BTreeSet::from([user_id.to_owned()]), servers: BTreeSet::new() };
        for room_id in joined_rooms(&*app.stores.rooms, user_id).await? {
            circle.add(app, &room_id).await?;
        }
        Ok(circle)
    }

    /// The circle of another server's user. All rooms are looked through, since only the memberships of our users have an
    /// index.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of_remote(app: &App, user_id: &UserId) -> Result<Self, StorageError> {
        let rooms = &*app.stores.rooms;
        let mut circle = Self::default();
        let mut last: Option<OwnedRoomId> = None;
        loop {
            let page = rooms.rooms(last.as_deref(), ROOMS_PER_READ).await?;
            let Some(newest) = page.last() else { return Ok(circle) };
            last = Some(newest.room_id.clone());
            for room in page {
                if is_joined(rooms, &room.room_id, user_id).await? {
                    circle.add(app, &room.room_id).await?;
                }
            }
        }
    }

    /// The commit's part that says that a device of the user came, changed or went.
    pub fn device_changed(&self, user_id: &UserId, device_id: &DeviceId) -> AccountChange {
        let news = ListNews::Device { device_id: device_id.to_owned(), destinations: self.servers.clone() };
        self.list_changed(user_id, news)
    }

    /// The commit's part that says that the user's cross-signing keys changed.
    pub fn signing_keys_changed(&self, user_id: &UserId) -> AccountChange {
        self.list_changed(user_id, ListNews::SigningKeys { destinations: self.servers.clone() })
    }

    /// The commit's part that says that the user's list changed, and tells no other server.
    pub fn list_changed_here(&self, user_id: &UserId) -> AccountChange {
        self.list_changed(user_id, ListNews::Untold)
    }

    fn list_changed(&self, user_id: &UserId, news: ListNews) -> AccountChange {
        let (user_id, wakes) = (user_id.to_owned(), self.users.clone());
        AccountChange::Keys(KeyChange::ListChanged { user_id, wakes, news })
    }

    async fn add(&mut self, app: &App, room_id: &RoomId) -> Result<(), StorageError> {
        for user_id in members(&*app.stores.rooms, room_id).await? {
            if app.is_ours(user_id.server_name()) {
                self.users.insert(user_id);
            } else {
                self.servers.insert(user_id.server_name().to_owned());
            }
        }
        Ok(())
    }
}

/// What goes into the commit that removes devices of a user, besides the removal.
///
/// # Errors
/// When the store cannot be read.
pub async fn devices_gone(
    app: &App,
    user_id: &UserId,
    device_ids: &[OwnedDeviceId],
) -> Result<Vec<AccountChange>, StorageError> {
    let with_keys = app.stores.device_keys.device_keys(user_id).await?;
    // Who never could encrypt to a device need not hear that it went.
    let gone: Vec<_> = device_ids.iter().filter(|device_id| with_keys.contains_key(*device_id)).collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let circle = Circle::of(app, user_id).await?;
    Ok(gone.into_iter().map(|device_id| circle.device_changed(user_id, device_id)).collect())
}

/// The rooms that a user of ours is in.
///
/// # Errors
/// When the store cannot be read.
pub async fn joined_rooms(rooms: &dyn RoomReader, user_id: &UserId) -> Result<Vec<OwnedRoomId>, StorageError> {
    let memberships = rooms.memberships_of(user_id).await?;
    let joined = memberships.into_iter().filter(|membership| membership.membership == MembershipState::Join);
    Ok(joined.map(|membership| membership.room_id).collect())
}

/// Who is in a room.
///
/// # Errors
/// When the store cannot be read.
pub async fn members(rooms: &dyn RoomReader, room_id: &RoomId) -> Result<Vec<OwnedUserId>, StorageError> {
    let events = rooms.current_state_of_type(room_id, &StateEventType::RoomMember).await?;
    let joined = events.into_iter().filter(|event| event.event.membership() == Some(MembershipState::Join));
    Ok(joined.filter_map(|event| UserId::parse(event.event.state_key()?).ok()).collect())
}

/// Those of some users, ours or not, who are in none of some rooms.
///
/// A room costs as many reads as it has members, or as there are users left to find, whichever is less: who leaves a large
/// room and is in a thousand others asks about thousands of users.
///
/// # Errors
/// When the store cannot be read.
pub async fn in_none_of(
    rooms: &dyn RoomReader,
    among: &[OwnedRoomId],
    mut users: BTreeSet<OwnedUserId>,
) -> Result<BTreeSet<OwnedUserId>, StorageError> {
    for room_id in among {
        if users.is_empty() {
            break;
        }
        let joined = rooms.room(room_id).await?.map_or(0, |room| room.counts.join);
        let is_small = usize::try_from(joined).is_ok_and(|joined| joined < users.len());
        let mut found = Vec::new();
        if is_small {
            found = members(rooms, room_id).await?;
        } else {
            for user_id in &users {
                if is_joined(rooms, room_id, user_id).await? {
                    found.push(user_id.clone());
                }
            }
        }
        for user_id in found {
            users.remove(&user_id);
        }
    }
    Ok(users)
}

async fn is_joined(rooms: &dyn RoomReader, room_id: &RoomId, user_id: &UserId) -> Result<bool, StorageError> {
    let event = rooms.current_state_event(room_id, &StateEventType::RoomMember, user_id.as_str()).await?;
    Ok(event.is_some_and(|event| event.event.membership() == Some(MembershipState::Join)))
}
