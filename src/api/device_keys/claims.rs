//! Gives out keys for one use, each once; then fallback keys.
//! May not: tell a key before it is durably gone.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use vestibule_storage::{
    accounts::AccountChange,
    commit::{Commit, CommitError, Conflict},
    device_keys::{KeyChange, PublishedKey},
};

use crate::{error::MatrixError, state::App};

/// Times that keys are chosen anew because one of them went meanwhile, with its device. Ours.
const ATTEMPTS_MAX: usize = 5;

/// Devices in one question. Ours: a commit holds a change for each.
const DEVICES_MAX: usize = 2_000;

/// By user and device, an algorithm.
pub type Wanted = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>;

/// By user and device, the one key under its whole name.
pub type Claimed = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>;

/// Claims go one after another: those at the same moment would choose the same keys, and all but one choose again.
#[derive(Debug, Default)]
pub struct Claims {
    turn: Mutex<()>,
}

/// Reads what is wanted from a body's `one_time_keys`.
///
/// # Errors
/// 400 or 413.
pub fn wanted(users: Vec<(OwnedUserId, &Value)>) -> Result<Wanted, MatrixError> {
    let wrong = || MatrixError::bad_json("one_time_keys must name an algorithm for each device");
    let mut wanted = Wanted::new();
    let mut count: usize = 0;
    for (user_id, devices) in users {
        let of_user = wanted.entry(user_id).or_default();
        for (device_id, algorithm) in devices.as_object().ok_or_else(wrong)? {
            count = count.saturating_add(1);
            of_user.insert(device_id.as_str().into(), algorithm.as_str().ok_or_else(wrong)?.to_owned());
        }
    }
    if count > DEVICES_MAX {
        return Err(MatrixError::too_large(format!("keys of {DEVICES_MAX} devices at most are claimed at once")));
    }
    Ok(wanted)
}

/// Takes keys of our users' devices. Who has none is left out.
///
/// # Errors
/// When storage cannot be read or written: no key is told, though some may be gone.
pub async fn claim(app: &App, wanted: &Wanted) -> Result<Claimed, MatrixError> {
    let _turn = app.claims.turn.lock().await;
    for _ in 0..ATTEMPTS_MAX {
        let mut changes = Vec::new();
        let mut claimed = Claimed::new();
        for (user_id, devices) in wanted {
            for (device_id, algorithm) in devices {
                let Some((key, change)) = choose(app, user_id, device_id, algorithm).await? else { continue };
                changes.extend(change.map(AccountChange::Keys));
                claimed.entry(user_id.clone()).or_default().insert(device_id.clone(), named(key));
            }
        }
        if changes.is_empty() {
            return Ok(claimed);
        }
        let slot = app.stores.writer.reserve()?;
        match app.stores.writer.enqueue(slot, Commit::Accounts(changes)).await {
            Ok(_) => return Ok(claimed),
            Err(CommitError::Conflict(Conflict::NoSuchKey)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Claimed::new())
}

/// The oldest key for one use, else the fallback key; with what is to be noted.
async fn choose(
    app: &App,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
) -> Result<Option<(PublishedKey, Option<KeyChange>)>, MatrixError> {
    let keys = &app.stores.device_keys;
    let of_device = || (user_id.to_owned(), device_id.to_owned());
    let one_time = keys.one_time_keys(user_id, device_id).await?;
    if let Some(key) = one_time.into_iter().find(|key| key.algorithm == algorithm) {
        let (user_id, device_id) = of_device();
        let (algorithm, key_id) = (key.algorithm.clone(), key.key_id.clone());
        return Ok(Some((key, Some(KeyChange::ClaimOneTimeKey { user_id, device_id, algorithm, key_id }))));
    }
    let fallback = keys.fallback_keys(user_id, device_id).await?;
    let Some(fallback) = fallback.into_iter().find(|fallback| fallback.key.algorithm == algorithm) else {
        return Ok(None);
    };
    let change = (!fallback.is_used).then(|| {
        let (user_id, device_id) = of_device();
        let (algorithm, key_id) = (fallback.key.algorithm.clone(), fallback.key.key_id.clone());
        KeyChange::UseFallbackKey { user_id, device_id, algorithm, key_id }
    });
    Ok(Some((fallback.key, change)))
}

fn named(key: PublishedKey) -> Value {
    let value = serde_json::from_str(&key.key).unwrap_or(Value::Null);
    Value::Object(Map::from_iter([(format!("{}:{}", key.algorithm, key.key_id), value)]))
}
