//! Keys of devices and users, lists of devices, and inboxes of the reference model.
//! May not: know whether a key or a signature is good.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use vestibule_protocol::stream::StreamPosition;

use super::MemoryStorage;
use crate::{
    Read,
    commit::Conflict,
    device_keys::{
        DeviceKeyReader, FallbackKey, KeyChange, KeySignature, KeyUsage, ListNews, MessageSource, PublishedKey,
        RemoteKeys, SEEN_PER_SOURCE, news_stream_id,
    },
    outbox::EduContent,
    to_device::{InboxReader, ToDeviceMessage},
};

type DeviceKey = (OwnedUserId, OwnedDeviceId);
type SignatureKey = (OwnedUserId, String, OwnedUserId, String);

#[derive(Clone, Default)]
pub(super) struct DeviceKeys {
    identity: BTreeMap<DeviceKey, String>,
    /// In the order in which they were uploaded.
    one_time: BTreeMap<DeviceKey, Vec<PublishedKey>>,
    fallback: BTreeMap<DeviceKey, BTreeMap<String, FallbackKey>>,
    cross_signing: BTreeMap<(OwnedUserId, KeyUsage), String>,
    signatures: BTreeMap<SignatureKey, String>,
    lists: BTreeMap<OwnedUserId, ListState>,
    remote: BTreeMap<OwnedUserId, RemoteKeys>,
    inboxes: BTreeMap<DeviceKey, Vec<ToDeviceMessage>>,
    seen: BTreeMap<MessageSource, VecDeque<String>>,
}

/// Where a user's list stands.
#[derive(Clone, Copy)]
struct ListState {
    changed_at: StreamPosition,
    stream_id: Option<u64>,
}

/// What a change does beyond the keys.
#[derive(Default)]
pub(super) struct Effects {
    /// Whom it concerns.
    pub(super) users: BTreeSet<OwnedUserId>,
    /// EDUs in their order, with their destinations.
    pub(super) edus: Vec<(BTreeSet<OwnedServerName>, EduContent)>,
}

impl DeviceKeys {
    /// Makes one change. A conflict changes nothing. `device_exists` says whether a device of ours is there.
    pub(super) fn apply(
        &mut self,
        change: &KeyChange,
        position: StreamPosition,
        device_exists: impl Fn(&UserId, &DeviceId) -> bool,
        effects: &mut Effects,
    ) -> Result<(), Conflict> {
        let must_exist = |user_id: &OwnedUserId, device_id: &OwnedDeviceId| {
            let key = (user_id.clone(), device_id.clone());
            if device_exists(user_id, device_id) { Ok(key) } else { Err(Conflict::NoSuchDevice) }
        };
        match change {
            // Part of the device's row, so the caller takes it.
            KeyChange::NameDevice { user_id, .. } => {
                effects.users.insert(user_id.clone());
            }
            KeyChange::PutDeviceKeys { user_id, device_id, keys } => {
                let key = must_exist(user_id, device_id)?;
                self.remove_signatures(user_id, device_id.as_str());
                self.identity.insert(key, keys.clone());
                effects.users.insert(user_id.clone());
            }
            KeyChange::AddOneTimeKeys { user_id, device_id, keys } => {
                let list = self.one_time.entry(must_exist(user_id, device_id)?).or_default();
                for key in keys {
                    if !list.iter().any(|known| (&known.algorithm, &known.key_id) == (&key.algorithm, &key.key_id)) {
                        list.push(key.clone());
                    }
                }
                effects.users.insert(user_id.clone());
            }
            KeyChange::ClaimOneTimeKey { user_id, device_id, algorithm, key_id } => {
                let list = self.one_time.get_mut(&(user_id.clone(), device_id.clone())).ok_or(Conflict::NoSuchKey)?;
                let place = list.iter().position(|key| (&key.algorithm, &key.key_id) == (algorithm, key_id));
                list.remove(place.ok_or(Conflict::NoSuchKey)?);
                effects.users.insert(user_id.clone());
            }
            KeyChange::PutFallbackKey { user_id, device_id, key } => {
                let keys = self.fallback.entry(must_exist(user_id, device_id)?).or_default();
                keys.insert(key.algorithm.clone(), FallbackKey { key: key.clone(), is_used: false });
                effects.users.insert(user_id.clone());
            }
            KeyChange::UseFallbackKey { user_id, device_id, algorithm, key_id } => {
                let keys = self.fallback.get_mut(&(user_id.clone(), device_id.clone()));
                let key = keys.and_then(|keys| keys.get_mut(algorithm)).filter(|key| key.key.key_id == *key_id);
                key.ok_or(Conflict::NoSuchKey)?.is_used = true;
                effects.users.insert(user_id.clone());
            }
            KeyChange::PutCrossSigningKey { user_id, usage, key } => {
                self.cross_signing.insert((user_id.clone(), *usage), key.clone());
                effects.users.insert(user_id.clone());
            }
            KeyChange::PutSignature(signature) => {
                let KeySignature { target, target_key, signer, key_id, signature } = signature.clone();
                effects.users.insert(signer.clone());
                self.signatures.insert((target, target_key, signer, key_id), signature);
            }
            KeyChange::ListChanged { user_id, wakes, news } => {
                self.list_changed(user_id, position, news, effects);
                effects.users.extend(wakes.iter().cloned());
            }
            KeyChange::PutRemoteKeys { user_id, keys } => {
                let changed_since = self.lists.get(user_id).is_some_and(|list| list.changed_at > keys.as_of);
                if !changed_since {
                    self.remote.insert(user_id.clone(), keys.clone());
                }
            }
            KeyChange::SendToDevice { user_id, device_id, event } => {
                if let Ok(key) = must_exist(user_id, device_id) {
                    let message = ToDeviceMessage { position, event: event.clone() };
                    self.inboxes.entry(key).or_default().push(message);
                    effects.users.insert(user_id.clone());
                }
            }
            KeyChange::AcknowledgeToDevice { user_id, device_id, up_to } => {
                let inbox = self.inboxes.entry((user_id.clone(), device_id.clone())).or_default();
                inbox.retain(|message| message.position > *up_to);
            }
            KeyChange::SeeMessage { source, message_id } => {
                let seen = self.seen.entry(source.clone()).or_default();
                if seen.contains(message_id) {
                    return Err(Conflict::AlreadySeen);
                }
                seen.push_back(message_id.clone());
                let too_many = seen.len().saturating_sub(usize::try_from(SEEN_PER_SOURCE).unwrap_or(usize::MAX));
                seen.drain(..too_many);
            }
            KeyChange::SendEdu { destinations, edu } => {
                effects.edus.push((destinations.clone(), EduContent::Whole(edu.clone())));
            }
        }
        Ok(())
    }

    /// The device goes, and all that belongs to it.
    pub(super) fn remove_device(&mut self, user_id: &OwnedUserId, device_id: &OwnedDeviceId) {
        let key = (user_id.clone(), device_id.clone());
        self.identity.remove(&key);
        self.one_time.remove(&key);
        self.fallback.remove(&key);
        self.inboxes.remove(&key);
        self.seen.remove(&MessageSource::Device(key.0, key.1));
        self.remove_signatures(user_id, device_id.as_str());
    }

    fn remove_signatures(&mut self, target: &UserId, target_key: &str) {
        self.signatures.retain(|(user_id, key, _, _), _| (&**user_id, key.as_str()) != (target, target_key));
    }

    fn list_changed(
        &mut self,
        user_id: &OwnedUserId,
        position: StreamPosition,
        news: &ListNews,
        effects: &mut Effects,
    ) {
        let previous = self.lists.get(user_id).and_then(|list| list.stream_id);
        let mut stream_id = previous;
        match news {
            ListNews::Untold => {}
            ListNews::Device { device_id, destinations } => {
                let id = news_stream_id(position, u32::try_from(effects.edus.len()).unwrap_or(u32::MAX));
                let (user_id, device_id) = (user_id.clone(), device_id.clone());
                let content = EduContent::DeviceList { user_id, device_id, stream_id: id, previous };
                effects.edus.push((destinations.clone(), content));
                stream_id = Some(id);
            }
            ListNews::SigningKeys { destinations } => {
                effects.edus.push((destinations.clone(), EduContent::SigningKeys { user_id: user_id.clone() }));
            }
        }
        self.remote.remove(user_id);
        self.lists.insert(user_id.clone(), ListState { changed_at: position, stream_id });
    }
}

impl DeviceKeyReader for MemoryStorage {
    fn device_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, BTreeMap<OwnedDeviceId, String>> {
        self.read(|kept| {
            let keys = kept.accounts.keys.identity.iter().filter(|((owner, _), _)| owner == user_id);
            Ok(keys.map(|((_, device_id), keys)| (device_id.clone(), keys.clone())).collect())
        })
    }

    fn one_time_keys<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Vec<PublishedKey>> {
        self.read(|kept| {
            let keys = kept.accounts.keys.one_time.get(&(user_id.to_owned(), device_id.to_owned()));
            let mut keys = keys.cloned().unwrap_or_default();
            // Stable, so that each algorithm keeps the order of the uploads.
            keys.sort_by(|left, right| left.algorithm.cmp(&right.algorithm));
            Ok(keys)
        })
    }

    fn fallback_keys<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Vec<FallbackKey>> {
        self.read(|kept| {
            let keys = kept.accounts.keys.fallback.get(&(user_id.to_owned(), device_id.to_owned()));
            Ok(keys.into_iter().flat_map(BTreeMap::values).cloned().collect())
        })
    }

    fn cross_signing_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, BTreeMap<KeyUsage, String>> {
        self.read(|kept| {
            let keys = kept.accounts.keys.cross_signing.iter().filter(|((owner, _), _)| owner == user_id);
            Ok(keys.map(|((_, usage), key)| (*usage, key.clone())).collect())
        })
    }

    fn signatures<'a>(&'a self, target: &'a UserId) -> Read<'a, Vec<KeySignature>> {
        self.read(|kept| {
            let signatures = kept.accounts.keys.signatures.iter().filter(|((user_id, ..), _)| user_id == target);
            let signatures = signatures.map(|((target, target_key, signer, key_id), signature)| KeySignature {
                target: target.clone(),
                target_key: target_key.clone(),
                signer: signer.clone(),
                key_id: key_id.clone(),
                signature: signature.clone(),
            });
            Ok(signatures.collect())
        })
    }

    fn changed_lists(&self, after: StreamPosition, up_to: StreamPosition) -> Read<'_, Vec<OwnedUserId>> {
        self.read(|kept| {
            let is_asked = |list: &ListState| list.changed_at > after && list.changed_at <= up_to;
            let lists = kept.accounts.keys.lists.iter().filter(|(_, list)| is_asked(list));
            let mut lists: Vec<_> = lists.collect();
            // Stable: those of one commit stay in the order of their ids.
            lists.sort_by_key(|(_, list)| list.changed_at);
            Ok(lists.into_iter().map(|(user_id, _)| user_id.clone()).collect())
        })
    }

    fn list_stream_id<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<u64>> {
        self.read(|kept| Ok(kept.accounts.keys.lists.get(user_id).and_then(|list| list.stream_id)))
    }

    fn remote_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<RemoteKeys>> {
        self.read(|kept| Ok(kept.accounts.keys.remote.get(user_id).cloned()))
    }
}

impl InboxReader for MemoryStorage {
    fn messages<'a>(
        &'a self,
        user_id: &'a UserId,
        device_id: &'a DeviceId,
        after: StreamPosition,
        up_to: StreamPosition,
        limit: usize,
    ) -> Read<'a, Vec<ToDeviceMessage>> {
        self.read(|kept| {
            let inbox = kept.accounts.keys.inboxes.get(&(user_id.to_owned(), device_id.to_owned()));
            let messages = inbox.into_iter().flatten();
            let asked = messages.filter(|message| message.position > after && message.position <= up_to);
            Ok(asked.take(limit).cloned().collect())
        })
    }

    fn waiting<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, u64> {
        self.read(|kept| {
            let inbox = kept.accounts.keys.inboxes.get(&(user_id.to_owned(), device_id.to_owned()));
            Ok(inbox.map_or(0, |inbox| u64::try_from(inbox.len()).unwrap_or(u64::MAX)))
        })
    }
}
