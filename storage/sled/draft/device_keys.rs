//! Changes of keys, lists of devices and inboxes as puts and deletes.
//! May not: know whether a key or a signature is good.

use std::collections::BTreeSet;

use ruma::{DeviceId, OwnedServerName, OwnedUserId, UserId};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    accounts::Device,
    commit::{CommitError, Conflict},
    device_keys::{
        FallbackKey, KeyChange, KeyUsage, ListNews, MessageSource, PublishedKey, SEEN_PER_SOURCE, news_stream_id,
    },
    outbox::{EduContent, OutboxPlace},
};

use super::{Draft, NEWS_IDS_AHEAD, device_key, outbox_key};
use crate::device_values::DeviceListValue;
use crate::fields::StoredForm;
use crate::keys::{Key, Table};
use crate::values::{CounterValue, TextValue};

/// What changes do beyond the rows of accounts.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Whom they concern.
    pub(super) users: BTreeSet<OwnedUserId>,
    /// For whom EDUs are queued.
    pub(super) destinations: BTreeSet<OwnedServerName>,
    edus_queued: u32,
    one_time_keys_added: u32,
    messages_sent: u32,
}

impl Draft<'_> {
    pub(super) fn key_change(&mut self, change: &KeyChange, effects: &mut Effects) -> Result<(), CommitError> {
        let concerned = match change {
            KeyChange::NameDevice { user_id, device_id, display_name } => {
                let key = device_key(user_id, device_id);
                let device: Option<Device> = self.value(&key)?;
                let mut device = device.ok_or(CommitError::Conflict(Conflict::NoSuchDevice))?;
                device.display_name.clone_from(display_name);
                self.put(key, &device);
                Some(user_id)
            }
            KeyChange::PutDeviceKeys { user_id, device_id, keys } => {
                self.device_must_exist(user_id, device_id)?;
                self.delete_signatures(user_id, device_id.as_str())?;
                self.put(of_user(Table::DeviceKeys, user_id).last(device_id.as_str()), &TextValue(keys.clone()));
                Some(user_id)
            }
            KeyChange::AddOneTimeKeys { user_id, device_id, keys } => {
                self.device_must_exist(user_id, device_id)?;
                self.add_one_time_keys(user_id, device_id, keys, effects)?;
                Some(user_id)
            }
            KeyChange::ClaimOneTimeKey { user_id, device_id, algorithm, key_id } => {
                let row = self.one_time_key(user_id, device_id, algorithm, key_id)?;
                let row = row.ok_or(CommitError::Conflict(Conflict::NoSuchKey))?;
                self.changes.insert(row, None);
                Some(user_id)
            }
            KeyChange::PutFallbackKey { user_id, device_id, key } => {
                self.device_must_exist(user_id, device_id)?;
                let row = of_device(Table::FallbackKey, user_id, device_id).last(&key.algorithm);
                self.put(row, &FallbackKey { key: key.clone(), is_used: false });
                Some(user_id)
            }
            KeyChange::UseFallbackKey { user_id, device_id, algorithm, key_id } => {
                let row = of_device(Table::FallbackKey, user_id, device_id).last(algorithm);
                let stored: Option<FallbackKey> = self.value(&row)?;
                let stored = stored.filter(|stored| stored.key.key_id == *key_id);
                let stored = stored.ok_or(CommitError::Conflict(Conflict::NoSuchKey))?;
                self.put(row, &FallbackKey { is_used: true, ..stored });
                Some(user_id)
            }
            KeyChange::PutCrossSigningKey { user_id, usage, key } => {
                let row = of_user(Table::CrossSigningKey, user_id).part(usage_number(*usage));
                self.put(row, &TextValue(key.clone()));
                Some(user_id)
            }
            KeyChange::PutSignature(signature) => {
                let row = signatures_of(&signature.target, &signature.target_key);
                let row = row.text(signature.signer.as_str()).last(&signature.key_id);
                self.put(row, &TextValue(signature.signature.clone()));
                Some(&signature.signer)
            }
            KeyChange::ListChanged { user_id, wakes, news } => {
                self.list_changed(user_id, news, effects)?;
                effects.users.extend(wakes.iter().cloned());
                None
            }
            KeyChange::PutRemoteKeys { user_id, keys } => {
                let list: Option<DeviceListValue> = self.value(&list_key(user_id))?;
                if list.is_none_or(|list| list.changed_at <= keys.as_of.0) {
                    self.put(remote_keys_key(user_id), keys);
                }
                None
            }
            KeyChange::SendToDevice { user_id, device_id, event } => {
                if !self.contains(&device_key(user_id, device_id))? {
                    return Ok(());
                }
                let row = inbox(user_id, device_id).number(self.position.0).part(effects.messages_sent);
                effects.messages_sent = effects.messages_sent.saturating_add(1);
                self.put(row, &TextValue(event.clone()));
                self.count_inbox(user_id, device_id, |waiting| waiting.saturating_add(1))?;
                Some(user_id)
            }
            KeyChange::AcknowledgeToDevice { user_id, device_id, up_to } => {
                self.acknowledge(user_id, device_id, *up_to)?;
                None
            }
            KeyChange::SeeMessage { source, message_id } => {
                self.see_message(source, message_id)?;
                None
            }
            KeyChange::SendEdu { destinations, edu } => {
                self.queue_edu(destinations, &EduContent::Whole(edu.clone()), effects);
                None
            }
        };
        effects.users.extend(concerned.cloned());
        Ok(())
    }

    /// The device goes, and all that belongs to it.
    pub(super) fn delete_keys_of_device(&mut self, user_id: &UserId, device_id: &DeviceId) -> Result<(), CommitError> {
        self.delete(of_user(Table::DeviceKeys, user_id).last(device_id.as_str()));
        self.delete(inbox_size_key(user_id, device_id));
        for table in [Table::OneTimeKey, Table::FallbackKey, Table::Inbox] {
            self.delete_under(&of_device(table, user_id, device_id))?;
        }
        let source = source_text(&MessageSource::Device(user_id.to_owned(), device_id.to_owned()));
        for table in [Table::SeenMessage, Table::SeenMessageOrder] {
            self.delete_under(&Key::of(table).text(&source))?;
        }
        self.delete_signatures(user_id, device_id.as_str())
    }

    fn device_must_exist(&self, user_id: &UserId, device_id: &DeviceId) -> Result<(), CommitError> {
        let exists = self.contains(&device_key(user_id, device_id))?;
        if exists { Ok(()) } else { Err(CommitError::Conflict(Conflict::NoSuchDevice)) }
    }

    /// Reads the keys that are there once, not for each that comes: the thread that writes for everybody does it.
    fn add_one_time_keys(
        &mut self,
        user_id: &UserId,
        device_id: &DeviceId,
        keys: &[PublishedKey],
        effects: &mut Effects,
    ) -> Result<(), CommitError> {
        let rows = of_device(Table::OneTimeKey, user_id, device_id);
        let mut known = BTreeSet::new();
        for stored in self.under(&rows)?.into_values() {
            let stored = PublishedKey::from_bytes(&stored).map_err(super::not_written)?;
            known.insert((stored.algorithm, stored.key_id));
        }
        for key in keys {
            if known.insert((key.algorithm.clone(), key.key_id.clone())) {
                let row = rows.clone().text(&key.algorithm).number(self.position.0).part(effects.one_time_keys_added);
                effects.one_time_keys_added = effects.one_time_keys_added.saturating_add(1);
                self.put(row, key);
            }
        }
        Ok(())
    }

    /// Where a key for one use is kept. A device has few of them, so that no index by id is needed.
    fn one_time_key(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        algorithm: &str,
        key_id: &str,
    ) -> Result<Option<Vec<u8>>, CommitError> {
        let rows = self.under(&of_device(Table::OneTimeKey, user_id, device_id).text(algorithm))?;
        for (row, value) in rows {
            if PublishedKey::from_bytes(&value).map_err(super::not_written)?.key_id == key_id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn delete_signatures(&mut self, target: &UserId, target_key: &str) -> Result<(), CommitError> {
        self.delete_under(&signatures_of(target, target_key))
    }

    fn delete_under(&mut self, prefix: &Key) -> Result<(), CommitError> {
        self.delete_between(prefix.as_bytes().to_vec()..prefix.clone().after()).map(|_| ())
    }

    fn list_changed(&mut self, user_id: &UserId, news: &ListNews, effects: &mut Effects) -> Result<(), CommitError> {
        let key = list_key(user_id);
        let old: Option<DeviceListValue> = self.value(&key)?;
        if let Some(old) = &old {
            self.delete(list_change_key(old.changed_at, user_id));
        }
        let previous = old.and_then(|old| old.stream_id);
        let mut stream_id = previous;
        let user_id = user_id.to_owned();
        match news {
            ListNews::Untold => {}
            ListNews::Device { device_id, destinations } => {
                let ahead = self.counter(NEWS_IDS_AHEAD, 0)?;
                let id = news_stream_id(self.position, effects.edus_queued).saturating_add(ahead);
                stream_id = Some(id);
                let (user_id, device_id) = (user_id.clone(), device_id.clone());
                let content = EduContent::DeviceList { user_id, device_id, stream_id: id, previous };
                self.queue_edu(destinations, &content, effects);
            }
            ListNews::SigningKeys { destinations } => {
                self.queue_edu(destinations, &EduContent::SigningKeys { user_id: user_id.clone() }, effects);
            }
        }
        let outdated = remote_keys_key(&user_id);
        if self.contains(&outdated)? {
            self.delete(outdated);
        }
        let changed_at = self.position.0;
        self.put_key(list_change_key(changed_at, &user_id));
        self.put(key, &DeviceListValue { changed_at, stream_id });
        Ok(())
    }

    fn queue_edu(&mut self, destinations: &BTreeSet<OwnedServerName>, content: &EduContent, effects: &mut Effects) {
        let place = OutboxPlace { position: self.position, index: effects.edus_queued };
        effects.edus_queued = effects.edus_queued.saturating_add(1);
        for destination in destinations {
            self.put(outbox_key(Table::EduOutbox, destination, place), content);
        }
        effects.destinations.extend(destinations.iter().cloned());
    }

    fn acknowledge(
        &mut self,
        user_id: &UserId,
        device_id: &DeviceId,
        up_to: StreamPosition,
    ) -> Result<(), CommitError> {
        let rows = inbox(user_id, device_id);
        let gone = self.delete_between(rows.as_bytes().to_vec()..rows.number(up_to.0).after())?;
        self.count_inbox(user_id, device_id, |waiting| waiting.saturating_sub(gone))
    }

    fn count_inbox(
        &mut self,
        user_id: &UserId,
        device_id: &DeviceId,
        count: impl FnOnce(u64) -> u64,
    ) -> Result<(), CommitError> {
        let key = inbox_size_key(user_id, device_id);
        let waiting: Option<CounterValue> = self.value(&key)?;
        match count(waiting.map_or(0, |waiting| waiting.0)) {
            0 => self.delete(key),
            waiting => self.put(key, &CounterValue(waiting)),
        }
        Ok(())
    }

    /// Ids of a source are numbered; with a new one the id so many numbers before it goes.
    fn see_message(&mut self, source: &MessageSource, message_id: &str) -> Result<(), CommitError> {
        let source = source_text(source);
        let seen = |id: &str| Key::of(Table::SeenMessage).text(&source).last(id);
        let nth = |number: u64| Key::of(Table::SeenMessageOrder).text(&source).number(number);
        if self.contains(&seen(message_id))? {
            return Err(CommitError::Conflict(Conflict::AlreadySeen));
        }
        // No message id is kept without a number, so the empty one in the other table holds the newest number.
        let newest_key = Key::of(Table::SeenMessageOrder).text(&source);
        let newest: Option<CounterValue> = self.value(&newest_key)?;
        let number = newest.map_or(0, |newest| newest.0).saturating_add(1);
        if let Some(forgotten) = number.checked_sub(SEEN_PER_SOURCE)
            && let Some(TextValue(id)) = self.value(&nth(forgotten))?
        {
            self.delete(seen(&id));
            self.delete(nth(forgotten));
        }
        self.put_key(seen(message_id));
        self.put(nth(number), &TextValue(message_id.to_owned()));
        self.put(newest_key, &CounterValue(number));
        Ok(())
    }
}

fn of_user(table: Table, user_id: &UserId) -> Key {
    Key::of(table).text(user_id.as_str())
}

/// Where what a device has many of begins.
fn of_device(table: Table, user_id: &UserId, device_id: &DeviceId) -> Key {
    of_user(table, user_id).text(device_id.as_str())
}

fn signatures_of(target: &UserId, target_key: &str) -> Key {
    Key::of(Table::KeySignature).text(target.as_str()).text(target_key)
}

fn list_change_key(changed_at: u64, user_id: &UserId) -> Key {
    Key::of(Table::DeviceListChange).number(changed_at).last(user_id.as_str())
}

/// A user id holds no blank, and no server name an at sign, so that no two sources share a text.
fn source_text(source: &MessageSource) -> String {
    match source {
        MessageSource::Device(user_id, device_id) => format!("{user_id} {device_id}"),
        MessageSource::Server(server) => server.to_string(),
    }
}

/// Where a user's list stands.
pub(crate) fn list_key(user_id: &UserId) -> Key {
    Key::of(Table::DeviceList).last(user_id.as_str())
}

/// A device's inbox.
pub(crate) fn inbox(user_id: &UserId, device_id: &DeviceId) -> Key {
    of_device(Table::Inbox, user_id, device_id)
}

/// Where the number of messages in an inbox is kept.
pub(crate) fn inbox_size_key(user_id: &UserId, device_id: &DeviceId) -> Key {
    of_user(Table::InboxSize, user_id).last(device_id.as_str())
}

/// How a cross-signing key's usage stands in keys.
pub(crate) fn usage_number(usage: KeyUsage) -> u32 {
    match usage {
        KeyUsage::Master => 0,
        KeyUsage::SelfSigning => 1,
        KeyUsage::UserSigning => 2,
    }
}

/// The usage that a number stands for.
pub(crate) fn usage_of(number: u32) -> Option<KeyUsage> {
    [KeyUsage::Master, KeyUsage::SelfSigning, KeyUsage::UserSigning]
        .into_iter()
        .find(|usage| usage_number(*usage) == number)
}

/// Where another server's keys of a user are kept, until the user's list changes.
pub(crate) fn remote_keys_key(user_id: &UserId) -> Key {
    Key::of(Table::RemoteKeys).last(user_id.as_str())
}
