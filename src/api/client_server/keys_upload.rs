//! `POST /_matrix/client/v3/keys/upload`: a device's identity keys, keys for one use, and fallback keys.
//! May not: take keys for another device, or give a name that is taken to another key.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload>

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use vestibule_storage::{
    accounts::AccountChange,
    device_keys::{KeyChange, PublishedKey},
    error::StorageError,
};

use super::{commit::commit, json_body::JsonBody, paths::each};
use crate::{
    device_keys::{shape, sharing::Circle},
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// Keys for one use that a device may have here. Ours: clients keep 50 to 100, and each claim looks through them.
const ONE_TIME_KEYS_MAX: usize = 1_000;

/// The algorithm that clients take for granted in counts. Source: Synapse.
const USUAL_ALGORITHM: &str = "signed_curve25519";

/// Mounts the endpoint. Clients of before r0.6 name their device in the path.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource(each("/keys/upload")).post(upload))
        .service(web::resource(each("/keys/upload/{device_id}")).post(upload));
}

#[derive(Deserialize)]
struct UploadBody {
    device_keys: Option<Value>,
    one_time_keys: Option<Value>,
    fallback_keys: Option<Value>,
}

async fn upload(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(body): JsonBody<UploadBody>,
) -> Result<HttpResponse, MatrixError> {
    if !path.get(0).is_empty() && path.get(0) != caller.device_id.as_str() {
        return Err(MatrixError::invalid_param("keys are uploaded for one's own device"));
    }
    let device_keys = body.device_keys.filter(|keys| !keys.is_null());
    let device_keys = device_keys.map(|keys| shape::device_keys(&keys, &caller.user_id, &caller.device_id));
    let device_keys = device_keys.transpose()?;
    let one_time_keys = shape::published_keys(body.one_time_keys.as_ref(), "one_time_keys")?;
    let fallback_keys = shape::published_keys(body.fallback_keys.as_ref(), "fallback_keys")?;
    check_fallback_keys(&fallback_keys)?;
    let stored = app.stores.device_keys.one_time_keys(&caller.user_id, &caller.device_id).await?;
    let one_time_keys = new_keys(&stored, one_time_keys)?;

    let mut changes = Vec::new();
    if let Some(keys) = device_keys {
        changes.extend(device_key_changes(&app, &caller, keys).await?);
    }
    let of_caller = || (caller.user_id.clone(), caller.device_id.clone());
    if !one_time_keys.is_empty() {
        let (user_id, device_id) = of_caller();
        changes.push(AccountChange::Keys(KeyChange::AddOneTimeKeys { user_id, device_id, keys: one_time_keys }));
    }
    for key in fallback_keys {
        let (user_id, device_id) = of_caller();
        changes.push(AccountChange::Keys(KeyChange::PutFallbackKey { user_id, device_id, key }));
    }
    if !changes.is_empty() {
        commit(&app.stores, changes).await?;
    }
    let counts = one_time_key_counts(&app, &caller).await?;
    Ok(HttpResponse::Ok().json(json!({ "one_time_key_counts": counts })))
}

/// How many keys for one use a device has, by algorithm.
///
/// # Errors
/// When the store cannot be read.
pub async fn one_time_key_counts(app: &App, caller: &Caller) -> Result<BTreeMap<String, u64>, StorageError> {
    let mut counts = BTreeMap::from([(USUAL_ALGORITHM.to_owned(), 0_u64)]);
    for key in app.stores.device_keys.one_time_keys(&caller.user_id, &caller.device_id).await? {
        let count = counts.entry(key.algorithm).or_default();
        *count = count.saturating_add(1);
    }
    Ok(counts)
}

/// The algorithms of a device's fallback keys that were not given out yet.
///
/// # Errors
/// When the store cannot be read.
pub async fn unused_fallback_key_types(app: &App, caller: &Caller) -> Result<Vec<String>, StorageError> {
    let keys = app.stores.device_keys.fallback_keys(&caller.user_id, &caller.device_id).await?;
    Ok(keys.into_iter().filter(|key| !key.is_used).map(|key| key.key.algorithm).collect())
}

/// Keys that are new for the server wake nobody when they are the same as before.
async fn device_key_changes(app: &App, caller: &Caller, keys: String) -> Result<Vec<AccountChange>, MatrixError> {
    let stored = app.stores.device_keys.device_keys(&caller.user_id).await?;
    if stored.get(&caller.device_id) == Some(&keys) {
        return Ok(Vec::new());
    }
    let circle = Circle::of(app, &caller.user_id).await?;
    let (user_id, device_id) = (caller.user_id.clone(), caller.device_id.clone());
    Ok(vec![
        AccountChange::Keys(KeyChange::PutDeviceKeys { user_id, device_id, keys }),
        circle.device_changed(&caller.user_id, &caller.device_id),
    ])
}

/// Those that are not there yet.
fn new_keys(stored: &[PublishedKey], uploaded: Vec<PublishedKey>) -> Result<Vec<PublishedKey>, MatrixError> {
    let mut new = Vec::new();
    for key in uploaded {
        let of_that_name = |known: &&PublishedKey| (&known.algorithm, &known.key_id) == (&key.algorithm, &key.key_id);
        match stored.iter().find(of_that_name) {
            None => new.push(key),
            // The client did not hear that it was taken, and says it again.
            Some(known) if known.key == key.key => {}
            Some(_) => {
                let words = format!("one-time key {}:{} already exists and is another", key.algorithm, key.key_id);
                return Err(MatrixError::invalid_param(words));
            }
        }
    }
    if stored.len().saturating_add(new.len()) > ONE_TIME_KEYS_MAX {
        return Err(MatrixError::invalid_param(format!("a device has {ONE_TIME_KEYS_MAX} one-time keys at most")));
    }
    Ok(new)
}

fn check_fallback_keys(keys: &[PublishedKey]) -> Result<(), MatrixError> {
    let mut algorithms: Vec<&str> = keys.iter().map(|key| key.algorithm.as_str()).collect();
    algorithms.dedup();
    let is_unique = algorithms.len() == keys.len();
    if is_unique { Ok(()) } else { Err(MatrixError::invalid_param("fallback_keys has one key for an algorithm")) }
}
