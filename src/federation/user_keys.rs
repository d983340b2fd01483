//! The keys of a user of ours, as they are told to somebody: with the signatures that this somebody may see.
//! May not: answer for users of other servers (SECURITY V45), or show who a user trusts to anybody else.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, UserId};
use serde_json::{Map, Value, json};
use vestibule_protocol::{canonical_json, key_signatures::public_key_of};
use vestibule_storage::{
    commit::Stores,
    device_keys::{KeySignature, KeyUsage},
    error::StorageError,
};

/// Who asks for keys.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// A user of ours.
    User(&'a UserId),
    /// Another server.
    Server,
}

/// The keys of a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserKeys {
    /// Of devices.
    pub devices: BTreeMap<OwnedDeviceId, Value>,
    /// Stands for the user.
    pub master: Option<Value>,
    /// Signs devices.
    pub self_signing: Option<Value>,
    /// Signs other users; told to the user alone.
    pub user_signing: Option<Value>,
}

/// Reads a user's keys. `device_ids`: which devices; empty stands for all.
///
/// # Errors
/// When the store cannot be read.
pub async fn user_keys(
    stores: &Stores,
    user_id: &UserId,
    device_ids: &[OwnedDeviceId],
    asker: Asker<'_>,
) -> Result<UserKeys, StorageError> {
    let stored = stores.device_keys.device_keys(user_id).await?;
    let mut cross_signing = stores.device_keys.cross_signing_keys(user_id).await?;
    let signatures = stores.device_keys.signatures(user_id).await?;
    let is_seen = |signature: &&KeySignature| {
        signature.signer == *user_id || matches!(asker, Asker::User(asker) if signature.signer == *asker)
    };
    let signatures: Vec<&KeySignature> = signatures.iter().filter(is_seen).collect();
    let names = match asker {
        Asker::User(_) => names(stores, user_id).await?,
        // What devices are called is nobody's business elsewhere.
        Asker::Server => BTreeMap::new(),
    };
    let mut devices = BTreeMap::new();
    for (device_id, keys) in stored {
        if !device_ids.is_empty() && !device_ids.contains(&device_id) {
            continue;
        }
        let Ok(mut keys) = serde_json::from_str(&keys) else { continue };
        add_signatures(&mut keys, &signatures, device_id.as_str());
        if let Some(name) = names.get(&device_id) {
            keys["unsigned"] = json!({ "device_display_name": name });
        }
        devices.insert(device_id, keys);
    }
    let is_own = matches!(asker, Asker::User(asker) if asker == user_id);
    let mut key_of = |usage| {
        let text: String = cross_signing.remove(&usage)?;
        let public_key = public_key_of(&canonical_json::parse_object(text.as_bytes()).ok()?)?;
        let mut key = serde_json::from_str(&text).ok()?;
        add_signatures(&mut key, &signatures, &public_key);
        Some(key)
    };
    Ok(UserKeys {
        devices,
        master: key_of(KeyUsage::Master),
        self_signing: key_of(KeyUsage::SelfSigning),
        user_signing: if is_own { key_of(KeyUsage::UserSigning) } else { None },
    })
}

/// Adds to the keys of another server's user what a user of ours signed of them.
///
/// # Errors
/// When the store cannot be read.
pub async fn add_signatures_of(
    stores: &Stores,
    keys: &mut UserKeys,
    user_id: &UserId,
    signer: &UserId,
) -> Result<(), StorageError> {
    let Some(master) = &mut keys.master else { return Ok(()) };
    let object = canonical_json::parse_object(master.to_string().as_bytes()).ok();
    let Some(public_key) = object.as_ref().and_then(public_key_of) else { return Ok(()) };
    let signatures = stores.device_keys.signatures(user_id).await?;
    let signatures: Vec<&KeySignature> = signatures.iter().filter(|signature| signature.signer == *signer).collect();
    add_signatures(master, &signatures, &public_key);
    Ok(())
}

async fn names(stores: &Stores, user_id: &UserId) -> Result<BTreeMap<OwnedDeviceId, String>, StorageError> {
    let devices = stores.accounts.devices(user_id).await?;
    Ok(devices.into_iter().filter_map(|device| Some((device.device_id, device.display_name?))).collect())
}

fn add_signatures(keys: &mut Value, signatures: &[&KeySignature], target_key: &str) {
    for signature in signatures.iter().filter(|signature| signature.target_key == target_key) {
        let Some(keys) = keys.as_object_mut() else { return };
        let nothing = || Value::Object(Map::new());
        let all = keys.entry("signatures").or_insert_with(nothing);
        let Some(all) = all.as_object_mut() else { return };
        let of_signer = all.entry(signature.signer.as_str()).or_insert_with(nothing);
        if let Some(of_signer) = of_signer.as_object_mut() {
            of_signer.insert(signature.key_id.clone(), signature.signature.clone().into());
        }
    }
}
