//! What clients upload, judged field by field before anything of it is kept (SECURITY V21).
//! May not: look at what is stored, or let through what other servers could not read.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::Value;
use vestibule_protocol::{canonical_json, key_signatures::public_key_of};
use vestibule_storage::device_keys::{KeyUsage, PublishedKey};

use crate::error::MatrixError;

/// Bytes of a device's identity keys, or of a cross-signing key. Ours: real ones have about one thousand.
pub const SIGNED_KEYS_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a key for one use. Ours: real ones have about two hundred.
const PUBLISHED_KEY_BYTES_MAX: usize = 4 * 1024;

/// Bytes of an algorithm and of a key's id. Spec: opaque identifiers.
const NAME_BYTES_MAX: usize = 255;

/// Keys of one kind in one request. Ours: clients upload 50 to 100.
const PUBLISHED_KEYS_MAX: usize = 500;

/// A cross-signing key that has the right form.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossSigningKey {
    /// Its public half, unpadded base64.
    pub public_key: String,
    /// The whole object.
    pub object: CanonicalJsonObject,
}

/// The text of a device's identity keys.
///
/// # Errors
/// 400 or 413.
pub fn device_keys(value: &Value, user_id: &UserId, device_id: &DeviceId) -> Result<String, MatrixError> {
    let mut object = canonical(value, "device_keys")?;
    check_text(&object, "user_id", user_id.as_str())?;
    check_text(&object, "device_id", device_id.as_str())?;
    match object.get("algorithms") {
        None => return Err(MatrixError::missing_param("device_keys.algorithms")),
        Some(CanonicalJsonValue::Array(list)) if list.iter().all(|entry| entry.as_str().is_some()) => {}
        Some(_) => return Err(MatrixError::bad_json("device_keys.algorithms must be a list of texts")),
    }
    if texts(object.get("keys")).is_none() {
        return Err(MatrixError::bad_json("device_keys.keys must be an object of texts"));
    }
    check_signatures(&object, "device_keys")?;
    // What is not signed is the server's to say.
    object.remove("unsigned");
    written(&object)
}

/// The keys of an upload, in the order of their names.
///
/// # Errors
/// 400 or 413, which names the field.
pub fn published_keys(value: Option<&Value>, field: &str) -> Result<Vec<PublishedKey>, MatrixError> {
    let keys = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(keys)) => keys,
        Some(_) => return Err(MatrixError::bad_json(format!("{field} must be an object"))),
    };
    if keys.len() > PUBLISHED_KEYS_MAX {
        return Err(MatrixError::too_large(format!("{field} has {PUBLISHED_KEYS_MAX} keys at most")));
    }
    keys.iter().map(|(name, key)| published_key(name, key, field)).collect()
}

/// A cross-signing key of a user.
///
/// # Errors
/// 400 or 413.
pub fn cross_signing_key(value: &Value, usage: KeyUsage, user_id: &UserId) -> Result<CrossSigningKey, MatrixError> {
    let name = usage_field(usage);
    let mut object = canonical(value, name)?;
    check_text(&object, "user_id", user_id.as_str())?;
    let has_usage = object.get("usage").and_then(CanonicalJsonValue::as_array).is_some_and(|list| {
        list.iter().all(|entry| entry.as_str().is_some())
            && list.iter().any(|entry| entry.as_str() == Some(usage_word(usage)))
    });
    if !has_usage {
        return Err(MatrixError::invalid_param(format!("{name}.usage must be a list with {}", usage_word(usage))));
    }
    let public_key = public_key_of(&object);
    let public_key =
        public_key.ok_or_else(|| MatrixError::invalid_param(format!("{name}.keys must hold one ed25519 key")))?;
    check_signatures(&object, name)?;
    object.remove("unsigned");
    written(&object)?;
    Ok(CrossSigningKey { public_key, object })
}

/// What the specification calls a usage in a request's body.
pub fn usage_field(usage: KeyUsage) -> &'static str {
    match usage {
        KeyUsage::Master => "master_key",
        KeyUsage::SelfSigning => "self_signing_key",
        KeyUsage::UserSigning => "user_signing_key",
    }
}

/// Devices of users, as questions and answers about them name them.
///
/// # Errors
/// 400 when a name is no user id.
pub fn users<'a>(value: Option<&'a Value>, field: &str) -> Result<Vec<(OwnedUserId, &'a Value)>, MatrixError> {
    let users = match value {
        None | Some(Value::Null) => return Err(MatrixError::missing_param(format!("missing {field}"))),
        Some(Value::Object(users)) => users,
        Some(_) => return Err(MatrixError::bad_json(format!("{field} must be an object"))),
    };
    let user = |(user_id, value): (&String, &'a Value)| {
        let user_id =
            UserId::parse(user_id).map_err(|error| MatrixError::invalid_param(format!("{field}: {error}")))?;
        Ok((user_id, value))
    };
    users.into_iter().map(user).collect()
}

/// A list of device ids; empty stands for all.
///
/// # Errors
/// 400.
pub fn device_list(value: &Value) -> Result<Vec<OwnedDeviceId>, MatrixError> {
    let wrong = || MatrixError::bad_json("devices must be a list of device ids");
    match value {
        // Some clients send `null` or an empty object for all.
        Value::Null => Ok(Vec::new()),
        Value::Object(nothing) if nothing.is_empty() => Ok(Vec::new()),
        Value::Array(list) => {
            list.iter().map(|entry| entry.as_str().map(OwnedDeviceId::from).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

fn published_key(name: &str, key: &Value, field: &str) -> Result<PublishedKey, MatrixError> {
    let wrong = |what: &str| MatrixError::bad_json(format!("{field}: {what}"));
    let (algorithm, key_id) = name.split_once(':').ok_or_else(|| wrong("a key is named <algorithm>:<id>"))?;
    let is_name = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
    if !is_name(algorithm) || !is_name(key_id) {
        return Err(MatrixError::invalid_param(format!("{field}: algorithm and id have 1 to 255 bytes")));
    }
    let text = match key {
        Value::String(_) => key.to_string(),
        Value::Object(_) => {
            let object = canonical(key, field)?;
            if object.get("key").and_then(CanonicalJsonValue::as_str).is_none() {
                return Err(wrong("a key object must have a text as its key"));
            }
            check_signatures(&object, field)?;
            written(&object)?
        }
        _ => return Err(wrong("a key must be a text or an object")),
    };
    if text.len() > PUBLISHED_KEY_BYTES_MAX {
        return Err(MatrixError::too_large(format!("{field}: a key has {PUBLISHED_KEY_BYTES_MAX} bytes at most")));
    }
    Ok(PublishedKey { algorithm: algorithm.to_owned(), key_id: key_id.to_owned(), key: text })
}

fn usage_word(usage: KeyUsage) -> &'static str {
    match usage {
        KeyUsage::Master => "master",
        KeyUsage::SelfSigning => "self_signing",
        KeyUsage::UserSigning => "user_signing",
    }
}

/// What is signed must have one reading.
pub fn canonical(value: &Value, field: &str) -> Result<CanonicalJsonObject, MatrixError> {
    if !value.is_object() {
        return Err(MatrixError::bad_json(format!("{field} must be an object")));
    }
    let text = value.to_string();
    if text.len() > SIGNED_KEYS_BYTES_MAX {
        return Err(MatrixError::too_large(format!("{field} has {SIGNED_KEYS_BYTES_MAX} bytes at most")));
    }
    canonical_json::parse_object(text.as_bytes()).map_err(|error| MatrixError::bad_json(format!("{field}: {error}")))
}

fn check_text(object: &CanonicalJsonObject, key: &str, expected: &str) -> Result<(), MatrixError> {
    match object.get(key) {
        None => Err(MatrixError::missing_param(format!("missing {key}"))),
        Some(CanonicalJsonValue::String(text)) if text == expected => Ok(()),
        Some(CanonicalJsonValue::String(_)) => Err(MatrixError::invalid_param(format!("{key} is another's"))),
        Some(_) => Err(MatrixError::bad_json(format!("{key} must be a text"))),
    }
}

fn check_signatures(object: &CanonicalJsonObject, field: &str) -> Result<(), MatrixError> {
    let is_good = match object.get("signatures") {
        None => true,
        Some(CanonicalJsonValue::Object(by_user)) => by_user.values().all(|of_user| texts(Some(of_user)).is_some()),
        Some(_) => false,
    };
    if is_good {
        Ok(())
    } else {
        Err(MatrixError::bad_json(format!("{field}.signatures must hold texts by user and key")))
    }
}

fn texts(value: Option<&CanonicalJsonValue>) -> Option<Vec<(&str, &str)>> {
    let object = value?.as_object()?;
    object.iter().map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
}

fn written(object: &CanonicalJsonObject) -> Result<String, MatrixError> {
    serde_json::to_string(object).map_err(MatrixError::bad_json)
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use serde_json::json;

    use super::*;

    fn device(change: impl FnOnce(&mut Value)) -> Result<String, (u16, String)> {
        let mut value = json!({
            "user_id": "@a:x", "device_id": "D", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { "ed25519:D": "k" }, "signatures": { "@a:x": { "ed25519:D": "s" } }, "unsigned": { "a": 1 },
        });
        change(&mut value);
        device_keys(&value, user_id!("@a:x"), device_id!("D"))
            .map_err(|error| (error.status.as_u16(), error.errcode.to_string()))
    }

    #[test]
    fn device_keys_have_their_form_or_are_refused() {
        let text = device(|_| {}).unwrap();
        assert!(!text.contains("unsigned"));
        let odd = [json!(null), json!(1), json!("x"), json!([]), json!({ "a": 1 }), json!({ "a": null }), json!(1.5)];
        for value in odd {
            for key in ["user_id", "device_id", "algorithms", "keys", "signatures"] {
                let is_fine = key == "algorithms" && value == json!([]);
                let outcome = device(|keys| keys[key] = value.clone());
                assert_eq!(outcome.is_ok(), is_fine, "{key}: {value}");
                assert!(outcome.is_ok() || outcome.is_err_and(|(status, _)| status == 400), "{key}: {value}");
            }
        }
        assert_eq!(device(|keys| keys["user_id"] = json!("@b:x")).unwrap_err(), (400, "M_INVALID_PARAM".to_owned()));
        assert_eq!(device(|keys| keys["x"] = json!(0.5)).unwrap_err(), (400, "M_BAD_JSON".to_owned()));
        assert_eq!(device(|keys| keys["x"] = json!("x".repeat(20_000))).unwrap_err().0, 413);
        assert_eq!(device(|keys| *keys = json!([])).unwrap_err().0, 400);
    }

    #[test]
    fn published_keys_are_texts_or_signed_objects() {
        let read = |value: Value| published_keys(Some(&value), "one_time_keys").map_err(|error| error.status.as_u16());
        assert_eq!(published_keys(None, "one_time_keys").unwrap(), []);
        assert_eq!(read(json!(null)).unwrap(), []);
        let good = read(json!({ "curve25519:A": "k", "signed_curve25519:B:C": { "key": "k", "signatures": {} } }));
        let names: Vec<_> = good.unwrap().into_iter().map(|key| (key.algorithm, key.key_id)).collect();
        let expected = [("curve25519", "A"), ("signed_curve25519", "B:C")];
        assert_eq!(names, expected.map(|(algorithm, id)| (algorithm.to_owned(), id.to_owned())));
        for (value, status) in [
            (json!([]), 400),
            (json!({ "nonsense": "k" }), 400),
            (json!({ ":A": "k" }), 400),
            (json!({ "a:": "k" }), 400),
            (json!({ "a:A": null }), 400),
            (json!({ "a:A": 1 }), 400),
            (json!({ "a:A": {} }), 400),
            (json!({ "a:A": { "key": 1 } }), 400),
            (json!({ "a:A": { "key": "k", "signatures": [] } }), 400),
            (json!({ "a:A": "x".repeat(5_000) }), 413),
        ] {
            assert_eq!(read(value.clone()).unwrap_err(), status, "{value}");
        }
    }

    #[test]
    fn cross_signing_keys_are_named_after_themselves() {
        let key = json!({ "user_id": "@a:x", "usage": ["master"], "keys": { "ed25519:abc": "abc" } });
        let read = |value: &Value| cross_signing_key(value, KeyUsage::Master, user_id!("@a:x"));
        assert_eq!(read(&key).unwrap().public_key, "abc");
        for (field, value) in [
            ("usage", json!(["self_signing"])),
            ("usage", json!(null)),
            ("usage", json!(["master", 1])),
            ("keys", json!({})),
            ("keys", json!({ "ed25519:abc": "def" })),
            ("keys", json!({ "ed25519:abc": "abc", "ed25519:def": "def" })),
            ("keys", json!(null)),
            ("user_id", json!("@b:x")),
        ] {
            let mut key = key.clone();
            key[field] = value.clone();
            assert_eq!(read(&key).unwrap_err().status.as_u16(), 400, "{field}: {value}");
        }
    }
}
