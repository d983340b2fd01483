//! Users, devices, filters, account data, aliases and the directory of the reference model.
//! May not: know rooms beyond their ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use ruma::{DeviceId, OwnedDeviceId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use vestibule_protocol::stream::StreamPosition;

use super::{
    MemoryStorage,
    device_keys::{DeviceKeys, Effects},
};
use crate::{
    Read,
    accounts::{AccountChange, AccountData, AccountReader, Alias, Device, TokenHash, User},
    commit::Conflict,
    device_keys::KeyChange,
};

/// Global data (`None`) stands before that of rooms.
type DataKey = (Option<OwnedRoomId>, String);

#[derive(Clone, Default)]
pub(super) struct Accounts {
    users: BTreeMap<OwnedUserId, User>,
    devices: BTreeMap<(OwnedUserId, OwnedDeviceId), Device>,
    filters: BTreeMap<(OwnedUserId, String), String>,
    data: BTreeMap<OwnedUserId, BTreeMap<DataKey, AccountData>>,
    aliases: BTreeMap<OwnedRoomAliasId, Alias>,
    published: BTreeSet<OwnedRoomId>,
    pub(super) keys: DeviceKeys,
}

impl Accounts {
    /// Makes one change; tells whom it concerns. A conflict changes nothing.
    pub(super) fn apply(
        &mut self,
        change: &AccountChange,
        position: StreamPosition,
    ) -> Result<Option<OwnedUserId>, Conflict> {
        let concerned = match change {
            AccountChange::CreateUser(user) => {
                if self.users.contains_key(&user.user_id) {
                    return Err(Conflict::UserExists);
                }
                self.users.insert(user.user_id.clone(), user.clone());
                Some(&user.user_id)
            }
            AccountChange::UpdateUser(user) => {
                *self.user_mut(&user.user_id)? = user.clone();
                Some(&user.user_id)
            }
            AccountChange::SetProfileField { user_id, field, value } => {
                let profile = &mut self.user_mut(user_id)?.profile;
                match value {
                    Some(value) => profile.insert(field.clone(), value.clone()),
                    None => profile.remove(field),
                };
                Some(user_id)
            }
            AccountChange::PutDevice(device) => {
                self.devices.insert((device.user_id.clone(), device.device_id.clone()), device.clone());
                Some(&device.user_id)
            }
            AccountChange::DeleteDevice { user_id, device_id } => {
                if self.devices.remove(&(user_id.clone(), device_id.clone())).is_some() {
                    self.keys.remove_device(user_id, device_id);
                }
                Some(user_id)
            }
            AccountChange::DeleteDevices { user_id, except } => {
                let of_user = self.devices.keys().filter(|(owner, _)| owner == user_id).cloned();
                let gone: Vec<_> = of_user.filter(|(_, device_id)| except.as_ref() != Some(device_id)).collect();
                for key in gone {
                    self.devices.remove(&key);
                    self.keys.remove_device(&key.0, &key.1);
                }
                Some(user_id)
            }
            AccountChange::PutFilter { user_id, filter_id, filter } => {
                self.filters.insert((user_id.clone(), filter_id.clone()), filter.clone());
                Some(user_id)
            }
            AccountChange::PutAccountData { user_id, room_id, kind, content } => {
                let (room_id, kind, content) = (room_id.clone(), kind.clone(), content.clone());
                let row = AccountData { room_id: room_id.clone(), kind: kind.clone(), content, position };
                self.data.entry(user_id.clone()).or_default().insert((room_id, kind), row);
                Some(user_id)
            }
            AccountChange::CreateAlias(alias) => {
                if self.aliases.contains_key(&alias.alias) {
                    return Err(Conflict::AliasExists);
                }
                self.aliases.insert(alias.alias.clone(), alias.clone());
                None
            }
            AccountChange::DeleteAlias(alias) => {
                self.aliases.remove(alias).ok_or(Conflict::NoSuchAlias)?;
                None
            }
            AccountChange::SetPublished { room_id, is_published } => {
                if *is_published {
                    self.published.insert(room_id.clone());
                } else {
                    self.published.remove(room_id);
                }
                None
            }
            // Kept beside the memberships, so the caller takes it; keys have effects beyond accounts.
            AccountChange::SetForgotten { .. } | AccountChange::Keys(_) => None,
        };
        Ok(concerned.cloned())
    }

    /// Makes one change of keys. A conflict changes nothing.
    pub(super) fn apply_keys(
        &mut self,
        change: &KeyChange,
        position: StreamPosition,
        effects: &mut Effects,
    ) -> Result<(), Conflict> {
        if let KeyChange::NameDevice { user_id, device_id, display_name } = change {
            let device = self.devices.get_mut(&(user_id.clone(), device_id.clone())).ok_or(Conflict::NoSuchDevice)?;
            device.display_name.clone_from(display_name);
        }
        let devices = &self.devices;
        let exists =
            |user_id: &UserId, device_id: &DeviceId| devices.contains_key(&(user_id.to_owned(), device_id.to_owned()));
        self.keys.apply(change, position, exists, effects)
    }

    fn user_mut(&mut self, user_id: &UserId) -> Result<&mut User, Conflict> {
        self.users.get_mut(user_id).ok_or(Conflict::NoSuchUser)
    }
}

impl AccountReader for MemoryStorage {
    fn user<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<User>> {
        self.read(|kept| Ok(kept.accounts.users.get(user_id).cloned()))
    }

    fn users<'a>(&'a self, after: Option<&'a UserId>, limit: usize) -> Read<'a, Vec<User>> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|kept| {
            let users = kept.accounts.users.range::<UserId, _>((first, Bound::Unbounded));
            Ok(users.take(limit).map(|(_, user)| user.clone()).collect())
        })
    }

    fn device_by_token<'a>(&'a self, token_hash: &'a TokenHash) -> Read<'a, Option<Device>> {
        self.read(|kept| Ok(kept.accounts.devices.values().find(|device| device.token_hash == *token_hash).cloned()))
    }

    fn device<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Option<Device>> {
        self.read(|kept| Ok(kept.accounts.devices.get(&(user_id.to_owned(), device_id.to_owned())).cloned()))
    }

    fn devices<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Vec<Device>> {
        self.read(|kept| {
            let devices = kept.accounts.devices.values();
            Ok(devices.filter(|device| device.user_id == user_id).cloned().collect())
        })
    }

    fn filter<'a>(&'a self, user_id: &'a UserId, filter_id: &'a str) -> Read<'a, Option<String>> {
        self.read(|kept| Ok(kept.accounts.filters.get(&(user_id.to_owned(), filter_id.to_owned())).cloned()))
    }

    fn account_data<'a>(
        &'a self,
        user_id: &'a UserId,
        room_id: Option<&'a RoomId>,
        kind: &'a str,
    ) -> Read<'a, Option<AccountData>> {
        self.read(|kept| {
            let key = (room_id.map(ToOwned::to_owned), kind.to_owned());
            Ok(kept.accounts.data.get(user_id).and_then(|data| data.get(&key)).cloned())
        })
    }

    fn account_data_since<'a>(&'a self, user_id: &'a UserId, since: StreamPosition) -> Read<'a, Vec<AccountData>> {
        self.read(|kept| {
            let data = kept.accounts.data.get(user_id).into_iter().flat_map(BTreeMap::values);
            Ok(data.filter(|row| row.position > since).cloned().collect())
        })
    }

    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> Read<'a, Option<Alias>> {
        self.read(|kept| Ok(kept.accounts.aliases.get(alias).cloned()))
    }

    fn aliases_of<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Vec<Alias>> {
        self.read(|kept| {
            let aliases = kept.accounts.aliases.values();
            Ok(aliases.filter(|alias| alias.room_id == room_id).cloned().collect())
        })
    }

    fn is_published<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, bool> {
        self.read(|kept| Ok(kept.accounts.published.contains(room_id)))
    }

    fn published<'a>(&'a self, after: Option<&'a RoomId>, limit: usize) -> Read<'a, Vec<OwnedRoomId>> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|kept| {
            let rooms = kept.accounts.published.range::<RoomId, _>((first, Bound::Unbounded));
            Ok(rooms.take(limit).cloned().collect())
        })
    }
}
