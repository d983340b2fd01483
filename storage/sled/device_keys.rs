//! Reads keys of devices and users, lists of devices, and inboxes.
//! May not: write, or know whether a key is good.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    Read,
    device_keys::{DeviceKeyReader, FallbackKey, KeySignature, KeyUsage, PublishedKey, RemoteKeys},
    error::StorageError,
    to_device::{InboxReader, ToDeviceMessage},
};

use crate::device_values::DeviceListValue;
use crate::draft::{inbox, inbox_size_key, list_key, remote_keys_key, usage_of};
use crate::fields::StoredForm;
use crate::index::Entry;
use crate::keys::{Key, KeyParts, Table};
use crate::values::{CounterValue, TextValue, parsed};
use crate::views::{Subject, Views, point, scan};

/// Reads keys and inboxes from the look-up store.
#[derive(Debug)]
pub(crate) struct DeviceKeys {
    pub(crate) views: Arc<Views>,
}

impl DeviceKeyReader for DeviceKeys {
    fn device_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, BTreeMap<OwnedDeviceId, String>> {
        let rows = Key::of(Table::DeviceKeys).text(user_id.as_str());
        scan(&self.views, Subject::user(user_id), move |index| {
            let rows = index.under(&rows).map(|entry| {
                let (key, value) = entry?;
                let mut parts = KeyParts::of(&key);
                let device_id = parts.text().and_then(|_| parts.last()).ok_or_else(|| damaged("device keys"))?;
                Ok((OwnedDeviceId::from(device_id), TextValue::from_bytes(&value)?.0))
            });
            rows.collect()
        })
    }

    fn one_time_keys<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Vec<PublishedKey>> {
        let rows = Key::of(Table::OneTimeKey).text(user_id.as_str()).text(device_id.as_str());
        scan(&self.views, Subject::user(user_id), move |index| {
            index.under(&rows).map(|entry| PublishedKey::from_bytes(&entry?.1)).collect()
        })
    }

    fn fallback_keys<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Vec<FallbackKey>> {
        let rows = Key::of(Table::FallbackKey).text(user_id.as_str()).text(device_id.as_str());
        scan(&self.views, Subject::user(user_id), move |index| {
            index.under(&rows).map(|entry| FallbackKey::from_bytes(&entry?.1)).collect()
        })
    }

    fn cross_signing_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, BTreeMap<KeyUsage, String>> {
        let rows = Key::of(Table::CrossSigningKey).text(user_id.as_str());
        point(&self.views, Subject::user(user_id), move |index| {
            let rows = index.under(&rows).map(|entry| {
                let (key, value) = entry?;
                let mut parts = KeyParts::of(&key);
                let usage = parts.text().and_then(|_| parts.part()).and_then(usage_of);
                Ok((usage.ok_or_else(|| damaged("cross-signing key"))?, TextValue::from_bytes(&value)?.0))
            });
            rows.collect()
        })
    }

    fn signatures<'a>(&'a self, target: &'a UserId) -> Read<'a, Vec<KeySignature>> {
        let rows = Key::of(Table::KeySignature).text(target.as_str());
        scan(&self.views, Subject::EVERYTHING, move |index| index.under(&rows).map(|entry| signature(entry?)).collect())
    }

    fn changed_lists(&self, after: StreamPosition, up_to: StreamPosition) -> Read<'_, Vec<OwnedUserId>> {
        scan(&self.views, Subject::EVERYTHING, move |index| {
            if after >= up_to {
                return Ok(Vec::new());
            }
            let table = Key::of(Table::DeviceListChange);
            let users = index.range(positions(&table, after, up_to)).map(|entry| {
                let (key, _) = entry?;
                let mut parts = KeyParts::of(&key);
                let user_id = parts.number().and_then(|_| parts.last()).and_then(parsed);
                user_id.ok_or_else(|| damaged("change of a device list"))
            });
            users.collect()
        })
    }

    fn list_stream_id<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<u64>> {
        point(&self.views, Subject::SINGLE, move |index| {
            let list: Option<DeviceListValue> = index.value(&list_key(user_id))?;
            Ok(list.and_then(|list| list.stream_id))
        })
    }

    fn remote_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<RemoteKeys>> {
        point(&self.views, Subject::SINGLE, move |index| index.value(&remote_keys_key(user_id)))
    }
}

impl InboxReader for DeviceKeys {
    fn messages<'a>(
        &'a self,
        user_id: &'a UserId,
        device_id: &'a DeviceId,
        after: StreamPosition,
        up_to: StreamPosition,
        limit: usize,
    ) -> Read<'a, Vec<ToDeviceMessage>> {
        let rows = inbox(user_id, device_id);
        scan(&self.views, Subject::user(user_id), move |index| {
            if after >= up_to {
                return Ok(Vec::new());
            }
            let messages = index.range(positions(&rows, after, up_to)).take(limit).map(|entry| {
                let (key, value) = entry?;
                let mut parts = KeyParts::of(&key);
                let position = parts.text().and_then(|_| parts.text()).and_then(|_| parts.number());
                let position = StreamPosition(position.ok_or_else(|| damaged("inbox"))?);
                Ok(ToDeviceMessage { position, event: TextValue::from_bytes(&value)?.0 })
            });
            messages.collect()
        })
    }

    fn waiting<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, u64> {
        point(&self.views, Subject::SINGLE, move |index| {
            let waiting: Option<CounterValue> = index.value(&inbox_size_key(user_id, device_id))?;
            Ok(waiting.map_or(0, |waiting| waiting.0))
        })
    }
}

/// The keys below a beginning that go on with a position after one and not after another.
fn positions(begin: &Key, after: StreamPosition, up_to: StreamPosition) -> Range<Vec<u8>> {
    begin.clone().number(after.next().0).into_bytes()..begin.clone().number(up_to.0).after()
}

fn signature((key, value): Entry) -> Result<KeySignature, StorageError> {
    let read = || {
        let mut parts = KeyParts::of(&key);
        let target = parsed(&parts.text()?)?;
        let target_key = parts.text()?;
        let signer = parsed(&parts.text()?)?;
        Some((target, target_key, signer, parts.last()?.to_owned()))
    };
    let (target, target_key, signer, key_id) = read().ok_or_else(|| damaged("signature of a key"))?;
    Ok(KeySignature { target, target_key, signer, key_id, signature: TextValue::from_bytes(&value)?.0 })
}

fn damaged(what: &str) -> StorageError {
    StorageError::Corrupt { what: format!("key of {what}") }
}
