//! One server's keys: what is held of them, and which of them count for a purpose.
//! May not: fetch, or hold keys of a document that was not verified.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ed25519_dalek::{PUBLIC_KEY_LENGTH, Signature, VerifyingKey};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    serde::{Base64, base64::Standard},
};
use vestibule_protocol::{clock::UnixMillis, signing::Identity};
use vestibule_storage::server_keys::{StoredOldKey, StoredServerKeys};

use super::document::KEYS_IN_DOCUMENT_MAX;

/// A key is valid for at most this long after we saw it, whatever its server says. Spec: publishing keys.
const VALIDITY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a key is wanted for, and when.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// An X-Matrix request that arrives now.
    Request { now: UnixMillis },
    /// An event that claims a time.
    Event { origin_server_ts: UnixMillis, enforce_validity: bool, now: UnixMillis },
}

/// How a document reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// From the server itself, which proved its name by certificate.
    Direct,
    /// From a notary, which may be out of date.
    Notary,
}

/// A public key, decoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    decoded: VerifyingKey,
}

#[derive(Clone, Debug)]
pub(super) struct OldKey {
    pub(super) key: Key,
    pub(super) expired_ts: UnixMillis,
}

/// What we hold of one server.
#[derive(Clone, Debug)]
pub(crate) struct ServerKeys {
    pub(super) server_name: OwnedServerName,
    pub(super) verify_keys: BTreeMap<OwnedServerSigningKeyId, Key>,
    pub(super) old_verify_keys: BTreeMap<OwnedServerSigningKeyId, OldKey>,
    pub(super) valid_until_ts: UnixMillis,
    pub(super) fetched_at: UnixMillis,
    pub(super) signed_json: String,
}

impl Purpose {
    pub(super) fn now(self) -> UnixMillis {
        match self {
            Self::Request { now } | Self::Event { now, .. } => now,
        }
    }

    /// The validity that a key must have, for asking a notary.
    pub(super) fn minimum_valid_until(self) -> UnixMillis {
        match self {
            Self::Request { now } => now,
            Self::Event { origin_server_ts, enforce_validity: true, .. } => origin_server_ts,
            Self::Event { enforce_validity: false, .. } => UnixMillis(0),
        }
    }
}

impl Key {
    /// `None` for what is no point of the curve, and for the weak points that verify anything.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PUBLIC_KEY_LENGTH] = bytes.try_into().ok()?;
        let decoded = VerifyingKey::from_bytes(bytes).ok()?;
        (!decoded.is_weak()).then_some(Self { decoded })
    }

    /// Strict: refuses malleable and small-order signatures.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.decoded.verify_strict(message, &signature).is_ok())
    }

    pub(super) fn decoded(&self) -> &VerifyingKey {
        &self.decoded
    }

    pub(super) fn base64(&self) -> Base64 {
        Base64::new(self.decoded.to_bytes().to_vec())
    }

    pub(super) fn decode_base64(text: &str, banned: &BTreeSet<[u8; 32]>) -> Option<Self> {
        let bytes = Base64::<Standard>::parse(text).ok()?;
        Self::decode(bytes.as_bytes()).filter(|key| !banned.contains(key.decoded.as_bytes()))
    }
}

impl ServerKeys {
    /// Our own keys, which no document and no time limit.
    pub(super) fn own(identity: &Identity, old: &BTreeMap<OwnedServerSigningKeyId, ([u8; 32], UnixMillis)>) -> Self {
        let current = Key::decode(&identity.key().public_key());
        let old = old.iter().filter_map(|(id, (bytes, expired_ts))| {
            Some((id.clone(), OldKey { key: Key::decode(bytes)?, expired_ts: *expired_ts }))
        });
        Self {
            server_name: identity.server_name().to_owned(),
            verify_keys: current.map(|key| (identity.key().key_id().to_owned(), key)).into_iter().collect(),
            old_verify_keys: old.collect(),
            valid_until_ts: UnixMillis(u64::MAX),
            fetched_at: UnixMillis(u64::MAX),
            signed_json: String::new(),
        }
    }

    /// What we hold after seeing `newer`, when we held `self`; `None` when nothing changes.
    ///
    /// The server itself may replace its keys by any that are valid now. All else must be valid for longer than what it
    /// replaces; a document that is not only adds keys we never saw, as old ones. Keys that vanish stay as old ones.
    pub(super) fn updated_by(&self, newer: &Self, provenance: Provenance, now: UnixMillis) -> Option<Self> {
        let is_valid_now = newer.valid_until_ts >= now;
        let replaces = newer.valid_until_ts > self.valid_until_ts || (provenance == Provenance::Direct && is_valid_now);
        let (mut kept, other) = if replaces { (newer.clone(), self) } else { (self.clone(), newer) };
        let known_before = kept.old_verify_keys.len();
        let last_seen_valid = other.valid_until_ts.min(now);
        let vanished = other
            .verify_keys
            .iter()
            .map(|(id, key)| (id, OldKey { key: key.clone(), expired_ts: last_seen_valid }))
            .chain(other.old_verify_keys.iter().map(|(id, old)| (id, old.clone())));
        for (id, old) in vanished {
            if !kept.verify_keys.contains_key(id) {
                kept.old_verify_keys.entry(id.clone()).or_insert(old);
            }
        }
        kept.drop_oldest();
        (replaces || kept.old_verify_keys.len() != known_before).then_some(kept)
    }

    fn drop_oldest(&mut self) {
        while self.old_verify_keys.len() > KEYS_IN_DOCUMENT_MAX {
            let oldest = self.old_verify_keys.iter().min_by_key(|(_, old)| old.expired_ts);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            self.old_verify_keys.remove(&id);
        }
    }

    /// The key, if it counts for the purpose.
    pub(super) fn usable(&self, id: &ServerSigningKeyId, purpose: Purpose) -> Option<&Key> {
        match purpose {
            Purpose::Request { now } => self.verify_keys.get(id).filter(|_| self.trusted_until() >= now),
            Purpose::Event { origin_server_ts, enforce_validity, now } => {
                // v5+: the lesser of the published validity and a week from now must reach the event's time.
                let valid_until = self.valid_until_ts.min(now.plus(VALIDITY_MAX));
                let current = self.verify_keys.get(id).filter(|_| !enforce_validity || valid_until >= origin_server_ts);
                let old = self.old_verify_keys.get(id);
                current.or(old.filter(|old| origin_server_ts <= old.expired_ts).map(|old| &old.key))
            }
        }
    }

    /// Whether a new document could make `id` usable. The past does not change, and no key is valid a week ahead.
    pub(super) fn may_gain(&self, id: &ServerSigningKeyId, purpose: Purpose) -> bool {
        let is_retired = self.old_verify_keys.contains_key(id) && !self.verify_keys.contains_key(id);
        match purpose {
            Purpose::Request { .. } => !is_retired,
            Purpose::Event { origin_server_ts, enforce_validity, now } => {
                let is_impossible = enforce_validity && origin_server_ts > now.plus(VALIDITY_MAX);
                !is_retired && !is_impossible
            }
        }
    }

    pub(super) fn is_past_half_life(&self, now: UnixMillis) -> bool {
        let lifetime = self.trusted_until().since(self.fetched_at);
        now >= self.fetched_at.plus(lifetime / 2)
    }

    pub(super) fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// Any current key id, to stand for the whole in the spacing of refreshes.
    pub(super) fn first_key_id(&self) -> Option<&ServerSigningKeyId> {
        self.verify_keys.keys().next().map(|id| &**id)
    }

    fn trusted_until(&self) -> UnixMillis {
        self.valid_until_ts.min(self.fetched_at.plus(VALIDITY_MAX))
    }

    /// What the store held; keys that are banned by now are left out.
    pub(super) fn from_stored(stored: StoredServerKeys, banned: &BTreeSet<[u8; 32]>) -> Self {
        let decode = |text: &str| Key::decode_base64(text, banned);
        Self {
            server_name: stored.server_name,
            verify_keys: stored.verify_keys.into_iter().filter_map(|(id, key)| Some((id, decode(&key)?))).collect(),
            old_verify_keys: stored
                .old_verify_keys
                .into_iter()
                .filter_map(|(id, old)| {
                    let expired_ts = UnixMillis(old.expired_ts);
                    Some((id, OldKey { key: decode(&old.key)?, expired_ts }))
                })
                .collect(),
            valid_until_ts: UnixMillis(stored.valid_until_ts),
            fetched_at: UnixMillis(stored.fetched_at_ms),
            signed_json: stored.signed_json,
        }
    }

    pub(crate) fn to_stored(&self) -> StoredServerKeys {
        let verify_keys = self.verify_keys.iter().map(|(id, key)| (id.clone(), key.base64().encode())).collect();
        let old_verify_keys = self
            .old_verify_keys
            .iter()
            .map(|(id, old)| {
                let stored = StoredOldKey { key: old.key.base64().encode(), expired_ts: old.expired_ts.0 };
                (id.clone(), stored)
            })
            .collect();
        StoredServerKeys {
            server_name: self.server_name.clone(),
            verify_keys,
            old_verify_keys,
            valid_until_ts: self.valid_until_ts.0,
            fetched_at_ms: self.fetched_at.0,
            signed_json: self.signed_json.clone(),
        }
    }
}
