//! Key documents: read, and verified to be signed by the keys that they publish.
//! May not: fetch, or trust a document that its own keys did not sign.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#publishing-keys>

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::to_canonical_json_string_for_signing,
};
use thiserror::Error;
use vestibule_protocol::clock::UnixMillis;

use super::key_set::{Key, OldKey, ServerKeys};

/// Keys, old ones included, that one document may hold and that we keep of one server. Ours; real servers have few.
pub const KEYS_IN_DOCUMENT_MAX: usize = 64;

/// Why a key document proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// It lacks a required key or has one of the wrong type.
    #[error("{field} is missing or malformed")]
    Malformed {
        /// The offending key of the document.
        field: &'static str,
    },
    /// It speaks of another server than the one asked about.
    #[error("it names another server")]
    WrongServer,
    /// More keys than [`KEYS_IN_DOCUMENT_MAX`].
    #[error("more than {KEYS_IN_DOCUMENT_MAX} keys")]
    TooManyKeys,
    /// None of its own verify keys, banned ones left out, signed it.
    #[error("none of its own keys signed it")]
    NotSelfSigned,
    /// One of its own verify keys has a signature on it that is wrong.
    #[error("a signature of its own does not verify")]
    BadSignature,
    /// It came through a notary that did not sign it.
    #[error("the notary did not sign it")]
    NotSignedByNotary,
    /// A notary's answer holds no document of the server.
    #[error("the notary has none of that server")]
    NotAtNotary,
}

impl ServerKeys {
    /// Reads a key document about `asked` and verifies that its own keys signed it.
    ///
    /// Keys of other algorithms, malformed, weak and banned ones are left out, so they cannot vouch for the document.
    pub(crate) fn read(
        document: &CanonicalJsonObject,
        asked: &ServerName,
        banned: &BTreeSet<[u8; 32]>,
        now: UnixMillis,
    ) -> Result<Self, DocumentError> {
        let names_asked = document.get("server_name").and_then(CanonicalJsonValue::as_str);
        match names_asked {
            Some(name) if name == asked.as_str() => {}
            Some(_) => return Err(DocumentError::WrongServer),
            None => {
                return Err(DocumentError::Malformed { field: "server_name" });
            }
        }
        let valid_until_ts = timestamp(document, "valid_until_ts")?;
        let empty = CanonicalJsonObject::new();
        let verify = object(document, "verify_keys")?.ok_or(DocumentError::Malformed { field: "verify_keys" })?;
        let old = object(document, "old_verify_keys")?.unwrap_or(&empty);
        if verify.len().saturating_add(old.len()) > KEYS_IN_DOCUMENT_MAX {
            return Err(DocumentError::TooManyKeys);
        }
        let verify_keys: BTreeMap<_, _> =
            verify.iter().filter_map(|(id, entry)| Some((key_id(id)?, key_in(entry, banned)?))).collect();
        let old_verify_keys = old
            .iter()
            .filter_map(|(id, entry)| {
                let key = key_in(entry, banned)?;
                let expired_ts = timestamp(entry.as_object()?, "expired_ts").ok()?;
                Some((key_id(id)?, OldKey { key, expired_ts }))
            })
            .collect();
        let keys = Self {
            server_name: asked.to_owned(),
            verify_keys,
            old_verify_keys,
            valid_until_ts,
            fetched_at: now,
            signed_json: serde_json::to_string(document).map_err(|_| DocumentError::Malformed { field: "document" })?,
        };
        keys.check_signed_by_own(document)?;
        Ok(keys)
    }

    /// Whether one of these keys signed `document`; a wrong signature by one of them spoils it.
    pub(super) fn signed(&self, document: &CanonicalJsonObject) -> Result<bool, DocumentError> {
        let message = to_canonical_json_string_for_signing(document)
            .map_err(|_| DocumentError::Malformed { field: "document" })?;
        let signatures = object(document, "signatures")?
            .and_then(|signatures| signatures.get(self.server_name.as_str()))
            .and_then(CanonicalJsonValue::as_object);
        let mut is_signed = false;
        for (id, key) in &self.verify_keys {
            let Some(signature) = signatures.and_then(|of_server| of_server.get(id.as_str())) else {
                continue;
            };
            let verifies = signature
                .as_str()
                .and_then(|text| Base64::<Standard>::parse(text).ok())
                .is_some_and(|bytes| key.verifies(message.as_bytes(), bytes.as_bytes()));
            if !verifies {
                return Err(DocumentError::BadSignature);
            }
            is_signed = true;
        }
        Ok(is_signed)
    }

    fn check_signed_by_own(&self, document: &CanonicalJsonObject) -> Result<(), DocumentError> {
        if self.signed(document)? { Ok(()) } else { Err(DocumentError::NotSelfSigned) }
    }
}

fn key_id(text: &str) -> Option<OwnedServerSigningKeyId> {
    ServerSigningKeyId::parse(text).ok().filter(|id| id.algorithm() == SigningKeyAlgorithm::Ed25519)
}

fn key_in(entry: &CanonicalJsonValue, banned: &BTreeSet<[u8; 32]>) -> Option<Key> {
    Key::decode_base64(entry.as_object()?.get("key")?.as_str()?, banned)
}

fn object<'a>(
    document: &'a CanonicalJsonObject,
    field: &'static str,
) -> Result<Option<&'a CanonicalJsonObject>, DocumentError> {
    match document.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::Object(object)) => Ok(Some(object)),
        Some(_) => Err(DocumentError::Malformed { field }),
    }
}

fn timestamp(document: &CanonicalJsonObject, field: &'static str) -> Result<UnixMillis, DocumentError> {
    let value = document.get(field).and_then(CanonicalJsonValue::as_integer);
    value
        .and_then(|integer| u64::try_from(i64::from(integer)).ok())
        .map(UnixMillis)
        .ok_or(DocumentError::Malformed { field })
}
