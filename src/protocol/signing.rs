//! Our signing key, and the signing of what we built ourselves.
//! May not: sign an event that a remote server built; that takes a type that says which checks it passed.

use std::fmt;

use ed25519_dalek::SigningKey as DalekKey;
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, JsonError, hash_and_sign_event, sign_event, sign_json},
};
use thiserror::Error;

/// The fixed head of a PKCS#8 document that holds an ed25519 seed (RFC 8410, section 7).
const PKCS8_ED25519_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a seed and a version do not make a signing key.
#[derive(Debug, Error)]
pub enum SigningKeyError {
    /// The version holds other characters than `a-z A-Z 0-9 _`, or none.
    #[error("key version {version:?} must be one or more of a-z, A-Z, 0-9 and _")]
    BadVersion {
        /// What was given.
        version: String,
    },
    /// The seed was refused by the key library.
    #[error("the seed does not make an ed25519 key")]
    BadSeed,
}

/// An ed25519 key that speaks for this server.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#publishing-keys>
pub struct SigningKey {
    key_id: OwnedServerSigningKeyId,
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl SigningKey {
    /// Makes the key `ed25519:<version>` from its secret seed.
    ///
    /// # Errors
    /// [`SigningKeyError`] says which of the two is unfit.
    pub fn from_seed(version: &str, seed: &[u8; 32]) -> Result<Self, SigningKeyError> {
        let is_word = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let bad_version = || SigningKeyError::BadVersion { version: version.to_owned() };
        if !is_word {
            return Err(bad_version());
        }
        let key_id = ServerSigningKeyId::parse(format!("ed25519:{version}")).map_err(|_| bad_version())?;
        let document: Vec<u8> = PKCS8_ED25519_HEAD.iter().chain(seed).copied().collect();
        let pair = Ed25519KeyPair::from_der(&document, version.to_owned()).map_err(|_| SigningKeyError::BadSeed)?;
        Ok(Self { key_id, pair, seed: *seed })
    }

    /// `ed25519:<version>`.
    pub fn key_id(&self) -> &ServerSigningKeyId {
        &self.key_id
    }

    /// The pair in the form that ruma signs with.
    pub fn key_pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    /// The public half, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key()
    }

    /// The public half as keys documents carry it.
    pub fn public_key_base64(&self) -> Base64<Standard> {
        Base64::new(self.public_key().to_vec())
    }

    /// The secret half. Only the key file writes it.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Signs bytes as they are; 64 bytes come back.
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer;
        DalekKey::from_bytes(&self.seed).sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Who we are to other servers: our name and the key that proves it.
#[derive(Debug)]
pub struct Identity {
    server_name: OwnedServerName,
    key: SigningKey,
}

impl Identity {
    /// Binds a key to the server name it speaks for.
    pub fn new(server_name: OwnedServerName, key: SigningKey) -> Self {
        Self { server_name, key }
    }

    /// Our server name.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// Our current key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Adds the content hash and our signature to an event that we built.
    ///
    /// # Errors
    /// When the object is no event or grows past the size limit.
    pub fn hash_and_sign(&self, event: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), JsonError> {
        hash_and_sign_event(self.server_name.as_str(), &self.key.pair, event, &rules.redaction)
    }

    /// Adds our signature to an event that another server built, and changes nothing else: hashes and id stay. Only for the
    /// types of this crate that say which checks the event passed.
    ///
    /// # Errors
    /// When the object is no event.
    pub(crate) fn cosign(&self, event: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), JsonError> {
        sign_event(self.server_name.as_str(), &self.key.pair, event, &rules.redaction)
    }

    /// Adds our signature to a JSON object that is not an event (a keys document, a notary answer).
    ///
    /// # Errors
    /// When the object has a `signatures` key of the wrong shape.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), JsonError> {
        sign_json(self.server_name.as_str(), &self.key.pair, object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_matches_the_specs_test_vector() {
        // The seed and the signature of `{}` are those of the appendices' cryptographic test vectors.
        let seed = Base64::<Standard>::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
        let seed: [u8; 32] = seed.as_bytes().try_into().unwrap();
        let key = SigningKey::from_seed("1", &seed).unwrap();
        let identity = Identity::new("domain".try_into().unwrap(), key);
        let mut object = CanonicalJsonObject::new();
        identity.sign_json(&mut object).unwrap();
        let json = serde_json::to_string(&object).unwrap();
        assert!(
            json.contains("K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ")
        );
        assert_eq!(identity.key().sign_bytes(b"{}").len(), 64);
    }

    #[test]
    fn versions_that_are_no_words_are_refused() {
        for version in ["", "a b", "ä", "a:b", "a-b"] {
            assert!(SigningKey::from_seed(version, &[7; 32]).is_err(), "{version:?}");
        }
    }

    #[test]
    fn debug_shows_no_seed() {
        let key = SigningKey::from_seed("x", &[7; 32]).unwrap();
        assert!(!format!("{key:?}").contains("7, 7"));
    }
}
