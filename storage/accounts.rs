//! Users, devices, access tokens, filters, account data, aliases and the room directory.
//! May not: see a password or an access token; only their hashes come here.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedDeviceId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use vestibule_protocol::{clock::UnixMillis, stream::StreamPosition};

use crate::{Read, device_keys::KeyChange};

/// A user of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub user_id: OwnedUserId,
    /// The argon2 hash in PHC form. `None`: nobody can log in with a password.
    pub password_hash: Option<String>,
    /// May use the admin listener.
    pub is_admin: bool,
    /// Gone for good.
    pub is_deactivated: bool,
    /// When the account was made.
    pub created_at: UnixMillis,
    /// Profile fields (`displayname`, `avatar_url`, others), each value as JSON text.
    pub profile: BTreeMap<String, String>,
}

/// SHA-256 of an access token: all that is kept of it.
pub type TokenHash = [u8; 32];

/// A device of a user, with the hash of its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_id: OwnedDeviceId,
    /// What the user calls it.
    pub display_name: Option<String>,
    /// The hash of its access token.
    pub token_hash: TokenHash,
    /// When it logged in.
    pub created_at: UnixMillis,
}

/// One row of account data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountData {
    /// In which room; `None`: global.
    pub room_id: Option<OwnedRoomId>,
    /// Its type.
    pub kind: String,
    /// The content as JSON text.
    pub content: String,
    /// When it was set.
    pub position: StreamPosition,
}

/// An alias of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The alias.
    pub alias: OwnedRoomAliasId,
    /// Where it points.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}

/// One change. Preconditions that do not hold fail the whole commit with a [`Conflict`](crate::commit::Conflict).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountChange {
    /// Makes a user. `UserExists` if the id is taken.
    CreateUser(User),
    /// Replaces a user. `NoSuchUser` if there is none.
    UpdateUser(User),
    /// Sets one profile field, or removes it. `NoSuchUser` if there is no such user.
    SetProfileField {
        /// Whose.
        user_id: OwnedUserId,
        /// Which.
        field: String,
        /// JSON text; `None` removes it.
        value: Option<String>,
    },
    /// Makes or replaces a device; the token that it had stops working.
    PutDevice(Device),
    /// Removes a device with its token, its keys and its inbox. Nothing to remove is no conflict.
    DeleteDevice {
        /// Whose.
        user_id: OwnedUserId,
        /// Which.
        device_id: OwnedDeviceId,
    },
    /// Removes all devices of a user, as `DeleteDevice` does, but `except` one.
    DeleteDevices {
        /// Whose.
        user_id: OwnedUserId,
        /// The one that stays.
        except: Option<OwnedDeviceId>,
    },
    /// Keeps a filter.
    PutFilter {
        /// Whose.
        user_id: OwnedUserId,
        /// Its id.
        filter_id: String,
        /// JSON text.
        filter: String,
    },
    /// Sets account data.
    PutAccountData {
        /// Whose.
        user_id: OwnedUserId,
        /// In which room; `None`: global.
        room_id: Option<OwnedRoomId>,
        /// Its type.
        kind: String,
        /// JSON text.
        content: String,
    },
    /// Makes an alias. `AliasExists` if it is taken.
    CreateAlias(Alias),
    /// Removes an alias. `NoSuchAlias` if it is not there.
    DeleteAlias(OwnedRoomAliasId),
    /// Puts a room into the public directory, or takes it out.
    SetPublished {
        /// Which room.
        room_id: OwnedRoomId,
        /// In the directory or not.
        is_published: bool,
    },
    /// A local user forgets a room that they left, or (`false`) has it back. A commit in which the user joins, is invited or
    /// knocks takes the mark back by itself.
    SetForgotten {
        /// Who.
        user_id: OwnedUserId,
        /// Which room.
        room_id: OwnedRoomId,
        /// Forgotten or not.
        is_forgotten: bool,
    },
    /// A change of what devices need to encrypt.
    Keys(KeyChange),
}

/// Reads accounts.
pub trait AccountReader: Send + Sync {
    /// A user.
    fn user<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<User>>;

    /// Users in the order of their ids, after one.
    fn users<'a>(&'a self, after: Option<&'a UserId>, limit: usize) -> Read<'a, Vec<User>>;

    /// The device that an access token belongs to.
    fn device_by_token<'a>(&'a self, token_hash: &'a TokenHash) -> Read<'a, Option<Device>>;

    /// One device of a user.
    fn device<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Option<Device>>;

    /// All devices of a user.
    fn devices<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Vec<Device>>;

    /// A filter as JSON text.
    fn filter<'a>(&'a self, user_id: &'a UserId, filter_id: &'a str) -> Read<'a, Option<String>>;

    /// One row of account data.
    fn account_data<'a>(
        &'a self,
        user_id: &'a UserId,
        room_id: Option<&'a RoomId>,
        kind: &'a str,
    ) -> Read<'a, Option<AccountData>>;

    /// All account data set after a position, global and of rooms.
    fn account_data_since<'a>(&'a self, user_id: &'a UserId, since: StreamPosition) -> Read<'a, Vec<AccountData>>;

    /// An alias.
    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> Read<'a, Option<Alias>>;

    /// All aliases of a room.
    fn aliases_of<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Vec<Alias>>;

    /// Whether a room is in the public directory.
    fn is_published<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, bool>;

    /// The rooms in the public directory, in the order of their ids, after one.
    fn published<'a>(&'a self, after: Option<&'a RoomId>, limit: usize) -> Read<'a, Vec<OwnedRoomId>>;
}
