//! Reads users, devices, filters, account data, aliases and the directory.
//! May not: write, or see more of a token than its hash.

use std::ops::Bound;
use std::sync::Arc;

use ruma::{DeviceId, OwnedRoomId, RoomAliasId, RoomId, UserId};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    Read,
    accounts::{AccountData, AccountReader, Alias, Device, TokenHash, User},
    error::StorageError,
};

use crate::account_values::{AccountDataValue, TokenValue};
use crate::draft::{account_data_key, device_key};
use crate::fields::StoredForm;
use crate::index::Index;
use crate::keys::{Key, KeyParts, Table};
use crate::room::beginning;
use crate::values::{TextValue, parsed};
use crate::views::{Subject, Views, point, scan};

/// Reads accounts from the look-up store.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) views: Arc<Views>,
}

impl AccountReader for Accounts {
    fn user<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<User>> {
        point(&self.views, Subject::user(user_id), move |index| {
            index.value(&Key::of(Table::User).last(user_id.as_str()))
        })
    }

    fn users<'a>(&'a self, after: Option<&'a UserId>, limit: usize) -> Read<'a, Vec<User>> {
        let after = after.map(ToOwned::to_owned);
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let table = Key::of(Table::User);
            let users = index.range((beginning(&table, after.as_deref()), Bound::Excluded(table.after())));
            users.take(limit).map(|entry| User::from_bytes(&entry?.1)).collect()
        })
    }

    fn device_by_token<'a>(&'a self, token_hash: &'a TokenHash) -> Read<'a, Option<Device>> {
        point(&self.views, Subject::SINGLE, move |index| {
            let token: Option<TokenValue> = index.value(&Key::of(Table::Token).hash(token_hash))?;
            let Some(token) = token else { return Ok(None) };
            let device = device(index, &token.user_id, &token.device_id)?;
            Ok(device.filter(|device| device.token_hash == *token_hash))
        })
    }

    fn device<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Option<Device>> {
        point(&self.views, Subject::user(user_id), move |index| device(index, user_id, device_id))
    }

    fn devices<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Vec<Device>> {
        let (user_id, subject) = (user_id.to_owned(), Subject::user(user_id));
        scan(&self.views, subject, move |index| {
            let devices = index.under(&Key::of(Table::Device).text(user_id.as_str()));
            devices.map(|entry| Device::from_bytes(&entry?.1)).collect()
        })
    }

    fn filter<'a>(&'a self, user_id: &'a UserId, filter_id: &'a str) -> Read<'a, Option<String>> {
        point(&self.views, Subject::user(user_id), move |index| {
            let filter: Option<TextValue> =
                index.value(&Key::of(Table::Filter).text(user_id.as_str()).last(filter_id))?;
            Ok(filter.map(|filter| filter.0))
        })
    }

    fn account_data<'a>(
        &'a self,
        user_id: &'a UserId,
        room_id: Option<&'a RoomId>,
        kind: &'a str,
    ) -> Read<'a, Option<AccountData>> {
        point(&self.views, Subject::user(user_id), move |index| {
            account_data(index, user_id, room_id.map(ToOwned::to_owned), kind)
        })
    }

    fn account_data_since<'a>(&'a self, user_id: &'a UserId, since: StreamPosition) -> Read<'a, Vec<AccountData>> {
        let (user_id, subject) = (user_id.to_owned(), Subject::user(user_id));
        scan(&self.views, subject, move |index| {
            let Some(first) = since.0.checked_add(1) else { return Ok(Vec::new()) };
            let of_user = Key::of(Table::AccountDataChange).text(user_id.as_str());
            let changes = index.range(of_user.clone().number(first).into_bytes()..of_user.after());
            let mut found = Vec::new();
            for entry in changes {
                let (key, _) = entry?;
                let mut parts = KeyParts::of(&key);
                let named = parts.text().and_then(|_| parts.number()).and_then(|_| parts.text()).zip(parts.last());
                let (room_id, kind) = named.ok_or_else(|| corrupt("key of account data"))?;
                let room_id = match room_id.as_str() {
                    "" => None,
                    room_id => Some(parsed(room_id).ok_or_else(|| corrupt("room id of account data"))?),
                };
                found.extend(account_data(index, &user_id, room_id, kind)?);
            }
            Ok(found)
        })
    }

    fn alias<'a>(&'a self, alias: &'a RoomAliasId) -> Read<'a, Option<Alias>> {
        point(&self.views, Subject::SINGLE, move |index| index.value(&alias_key(alias)))
    }

    fn aliases_of<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Vec<Alias>> {
        let room_id = room_id.to_owned();
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let mut aliases = Vec::new();
            for entry in index.under(&Key::of(Table::AliasOfRoom).text(room_id.as_str())) {
                let (key, _) = entry?;
                let mut parts = KeyParts::of(&key);
                let alias = parts.text().and_then(|_| parts.last()).ok_or_else(|| corrupt("key of an alias"))?;
                let alias: Option<Alias> = index.value(&Key::of(Table::Alias).last(alias))?;
                aliases.push(alias.ok_or_else(|| corrupt("alias of a room"))?);
            }
            Ok(aliases)
        })
    }

    fn is_published<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, bool> {
        point(&self.views, Subject::SINGLE, move |index| {
            Ok(index.get(Key::of(Table::Published).last(room_id.as_str()).as_bytes())?.is_some())
        })
    }

    fn published<'a>(&'a self, after: Option<&'a RoomId>, limit: usize) -> Read<'a, Vec<OwnedRoomId>> {
        let after = after.map(ToOwned::to_owned);
        scan(&self.views, Subject::EVERYTHING, move |index| {
            let table = Key::of(Table::Published);
            let rooms = index.range((beginning(&table, after.as_deref()), Bound::Excluded(table.after())));
            let rooms = rooms.take(limit).map(|entry| {
                let (key, _) = entry?;
                KeyParts::of(&key).last().and_then(parsed).ok_or_else(|| corrupt("room id in the directory"))
            });
            rooms.collect()
        })
    }
}

fn device(index: &Index, user_id: &UserId, device_id: &DeviceId) -> Result<Option<Device>, StorageError> {
    index.value(&device_key(user_id, device_id))
}

fn alias_key(alias: &RoomAliasId) -> Key {
    Key::of(Table::Alias).last(alias.as_str())
}

fn account_data(
    index: &Index,
    user_id: &UserId,
    room_id: Option<OwnedRoomId>,
    kind: &str,
) -> Result<Option<AccountData>, StorageError> {
    let value: Option<AccountDataValue> = index.value(&account_data_key(user_id, room_id.as_deref(), kind))?;
    Ok(value.map(|value| AccountData {
        room_id,
        kind: kind.to_owned(),
        content: value.content,
        position: StreamPosition(value.position),
    }))
}

fn corrupt(what: &str) -> StorageError {
    StorageError::Corrupt { what: what.to_owned() }
}
