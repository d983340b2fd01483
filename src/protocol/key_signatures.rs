//! Signatures of users' and devices' keys over each other's keys.
//! May not: say whose signature it should be; whoever asks names the key.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#key-and-signature-security>

use ed25519_dalek::{Signature, VerifyingKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UserId,
    serde::{Base64, base64::Standard},
};

/// Whether `signature` is that of the ed25519 key `public_key` over the object, both unpadded base64.
pub fn verifies(object: &CanonicalJsonObject, signature: &str, public_key: &str) -> bool {
    let verified = || {
        let key: [u8; 32] = Base64::<Standard>::parse(public_key).ok()?.as_bytes().try_into().ok()?;
        let signature: [u8; 64] = Base64::<Standard>::parse(signature).ok()?.as_bytes().try_into().ok()?;
        let message = serde_json::to_string(&signed_part(object)).ok()?;
        let key = VerifyingKey::from_bytes(&key).ok()?;
        key.verify_strict(message.as_bytes(), &Signature::from_bytes(&signature)).ok()
    };
    verified().is_some()
}

/// The object without its signatures and what is not signed.
pub fn signed_part(object: &CanonicalJsonObject) -> CanonicalJsonObject {
    let mut signed = object.clone();
    signed.remove("signatures");
    signed.remove("unsigned");
    signed
}

/// The signatures that a user's keys made, by key name.
pub fn signatures_by<'a>(
    object: &'a CanonicalJsonObject,
    signer: &UserId,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let all = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let of_signer = all.and_then(|all| all.get(signer.as_str())).and_then(CanonicalJsonValue::as_object);
    let signatures = of_signer.into_iter().flatten();
    signatures.filter_map(|(key_id, signature)| Some((key_id.as_str(), signature.as_str()?)))
}

/// The public half of a cross-signing key: its one key, which is named after itself.
pub fn public_key_of(object: &CanonicalJsonObject) -> Option<String> {
    let keys = object.get("keys").and_then(CanonicalJsonValue::as_object)?;
    let (key_id, public_key) = keys.iter().next().filter(|_| keys.len() == 1)?;
    let public_key = public_key.as_str()?;
    (key_id.strip_prefix("ed25519:")? == public_key).then(|| public_key.to_owned())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::{canonical_json::parse_object, signing::SigningKey};

    fn object(value: serde_json::Value) -> CanonicalJsonObject {
        parse_object(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn only_the_key_that_signed_verifies_and_only_what_it_signed() {
        let key = |seed| SigningKey::from_seed("x", &[seed; 32]).unwrap();
        let device = object(json!({ "device_id": "PHONE", "keys": { "a": "b" } }));
        let message = serde_json::to_string(&device).unwrap();
        let signature = Base64::<Standard, _>::new(key(1).sign_bytes(message.as_bytes())).encode();
        let public = |seed| key(seed).public_key_base64().encode();
        let signed = object(json!({
            "device_id": "PHONE", "keys": { "a": "b" },
            "unsigned": { "name": "x" }, "signatures": { "@a:x": { "ed25519:x": signature, "other": 1 } },
        }));
        let found: Vec<_> = signatures_by(&signed, user_id!("@a:x")).collect();
        assert_eq!(found, [("ed25519:x", signature.as_str())]);
        assert_eq!(signatures_by(&signed, user_id!("@b:x")).count(), 0);
        assert!(verifies(&signed, &signature, &public(1)));
        assert!(!verifies(&signed, &signature, &public(2)));
        for bad in ["", "x", "AAAA", &signature[1..]] {
            assert!(!verifies(&signed, bad, &public(1)), "{bad}");
            assert!(!verifies(&signed, &signature, bad), "{bad}");
        }
        let forged = object(json!({ "device_id": "LAPTOP", "keys": { "a": "b" } }));
        assert!(!verifies(&forged, &signature, &public(1)));
    }
}
