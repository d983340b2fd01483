//! Changes of accounts, aliases and the directory as puts and deletes.
//! May not: see a password or a token; only their hashes come here.

use ruma::{DeviceId, RoomId, UserId};
use vestibule_storage::{
    accounts::{AccountChange, Alias, Device, User},
    commit::{CommitError, Conflict},
};

use super::{Draft, device_keys::Effects, not_written};
use crate::account_values::{AccountDataValue, TokenValue};
use crate::fields::StoredForm;
use crate::keys::{Key, Table};
use crate::values::TextValue;

impl Draft<'_> {
    /// Returns whom it concerns.
    pub(super) fn accounts(&mut self, changes: &[AccountChange]) -> Result<Effects, CommitError> {
        let mut effects = Effects::default();
        for change in changes {
            let concerned = self.account(change, &mut effects)?.map(ToOwned::to_owned);
            effects.users.extend(concerned);
        }
        Ok(effects)
    }

    fn account<'c>(
        &mut self,
        change: &'c AccountChange,
        effects: &mut Effects,
    ) -> Result<Option<&'c UserId>, CommitError> {
        match change {
            AccountChange::CreateUser(user) => {
                let key = user_key(&user.user_id);
                if self.contains(&key)? {
                    return Err(CommitError::Conflict(Conflict::UserExists));
                }
                self.put(key, user);
                Ok(Some(&user.user_id))
            }
            AccountChange::UpdateUser(user) => {
                self.user(&user.user_id)?;
                self.put(user_key(&user.user_id), user);
                Ok(Some(&user.user_id))
            }
            AccountChange::SetProfileField { user_id, field, value } => {
                let mut user = self.user(user_id)?;
                match value {
                    Some(value) => user.profile.insert(field.clone(), value.clone()),
                    None => user.profile.remove(field),
                };
                self.put(user_key(user_id), &user);
                Ok(Some(user_id))
            }
            AccountChange::PutDevice(device) => {
                let key = device_key(&device.user_id, &device.device_id);
                if let Some(old) = self.value::<Device>(&key)? {
                    self.delete(Key::of(Table::Token).hash(&old.token_hash));
                }
                let token = TokenValue { user_id: device.user_id.clone(), device_id: device.device_id.clone() };
                self.put(Key::of(Table::Token).hash(&device.token_hash), &token);
                self.put(key, device);
                Ok(Some(&device.user_id))
            }
            AccountChange::DeleteDevice { user_id, device_id } => {
                let key = device_key(user_id, device_id);
                if let Some(device) = self.value::<Device>(&key)? {
                    self.delete_device(&device)?;
                }
                Ok(Some(user_id))
            }
            AccountChange::DeleteDevices { user_id, except } => {
                for bytes in self.under(&Key::of(Table::Device).text(user_id.as_str()))?.into_values() {
                    let device = Device::from_bytes(&bytes).map_err(not_written)?;
                    if except.as_ref() != Some(&device.device_id) {
                        self.delete_device(&device)?;
                    }
                }
                Ok(Some(user_id))
            }
            AccountChange::PutFilter { user_id, filter_id, filter } => {
                self.put(Key::of(Table::Filter).text(user_id.as_str()).last(filter_id), &TextValue(filter.clone()));
                Ok(Some(user_id))
            }
            AccountChange::PutAccountData { user_id, room_id, kind, content } => {
                self.account_data(user_id, room_id.as_deref(), kind, content)?;
                Ok(Some(user_id))
            }
            AccountChange::CreateAlias(alias) => {
                let key = Key::of(Table::Alias).last(alias.alias.as_str());
                if self.contains(&key)? {
                    return Err(CommitError::Conflict(Conflict::AliasExists));
                }
                self.put_key(Key::of(Table::AliasOfRoom).text(alias.room_id.as_str()).last(alias.alias.as_str()));
                self.put(key, alias);
                Ok(None)
            }
            AccountChange::DeleteAlias(alias) => {
                let key = Key::of(Table::Alias).last(alias.as_str());
                let stored: Alias = self.value(&key)?.ok_or(CommitError::Conflict(Conflict::NoSuchAlias))?;
                self.delete(Key::of(Table::AliasOfRoom).text(stored.room_id.as_str()).last(alias.as_str()));
                self.delete(key);
                Ok(None)
            }
            AccountChange::SetPublished { room_id, is_published } => {
                self.set_key(Key::of(Table::Published).last(room_id.as_str()), *is_published);
                Ok(None)
            }
            AccountChange::SetForgotten { user_id, room_id, is_forgotten } => {
                let key = Key::of(Table::Forgotten).text(user_id.as_str()).last(room_id.as_str());
                self.set_key(key, *is_forgotten);
                Ok(Some(user_id))
            }
            AccountChange::Keys(change) => {
                self.key_change(change, effects)?;
                Ok(None)
            }
        }
    }

    fn user(&self, user_id: &UserId) -> Result<User, CommitError> {
        self.value(&user_key(user_id))?.ok_or(CommitError::Conflict(Conflict::NoSuchUser))
    }

    fn delete_device(&mut self, device: &Device) -> Result<(), CommitError> {
        self.delete(Key::of(Table::Token).hash(&device.token_hash));
        self.delete(device_key(&device.user_id, &device.device_id));
        self.delete_keys_of_device(&device.user_id, &device.device_id)
    }

    fn account_data(
        &mut self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        content: &str,
    ) -> Result<(), CommitError> {
        let key = account_data_key(user_id, room_id, kind);
        if let Some(old) = self.value::<AccountDataValue>(&key)? {
            self.delete(account_data_change_key(user_id, old.position, room_id, kind));
        }
        let value = AccountDataValue { position: self.position.0, content: content.to_owned() };
        self.put_key(account_data_change_key(user_id, value.position, room_id, kind));
        self.put(key, &value);
        Ok(())
    }

    fn set_key(&mut self, key: Key, is_set: bool) {
        if is_set { self.put_key(key) } else { self.delete(key) }
    }
}

fn user_key(user_id: &UserId) -> Key {
    Key::of(Table::User).last(user_id.as_str())
}

/// Where a device is kept.
pub(crate) fn device_key(user_id: &UserId, device_id: &DeviceId) -> Key {
    Key::of(Table::Device).text(user_id.as_str()).last(device_id.as_str())
}

/// Where account data is kept. No room id is empty, so an empty text stands for none.
pub(crate) fn account_data_key(user_id: &UserId, room_id: Option<&RoomId>, kind: &str) -> Key {
    Key::of(Table::AccountData).text(user_id.as_str()).text(room_id.map_or("", RoomId::as_str)).last(kind)
}

fn account_data_change_key(user_id: &UserId, position: u64, room_id: Option<&RoomId>, kind: &str) -> Key {
    let begin = Key::of(Table::AccountDataChange).text(user_id.as_str()).number(position);
    begin.text(room_id.map_or("", RoomId::as_str)).last(kind)
}
