//! `POST /_matrix/client/v3/keys/device_signing/upload`: a user's cross-signing keys.
//! May not: replace keys without the password, or take keys that the master key did not sign (SECURITY V22).
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload>

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};
use vestibule_protocol::{
    canonical_json,
    key_signatures::{public_key_of, signatures_by, verifies},
};
use vestibule_storage::{
    accounts::AccountChange,
    device_keys::{KeyChange, KeyUsage},
};

use super::{
    commit::commit,
    json_body::JsonBody,
    paths::each,
    user_interactive::{Proof, prove},
};
use crate::{
    device_keys::{
        shape::{self, CrossSigningKey, usage_field},
        sharing::Circle,
    },
    error::MatrixError,
    extract::Caller,
    state::App,
};

/// Mounts the endpoint, also where it was before Matrix 1.1: some clients still look for it there.
pub fn routes(config: &mut web::ServiceConfig) {
    let unstable = "/_matrix/client/unstable/keys/device_signing/upload".to_owned();
    for path in each("/keys/device_signing/upload").into_iter().chain([unstable]) {
        config.service(web::resource(path).post(upload));
    }
}

#[derive(Deserialize)]
struct UploadBody {
    master_key: Option<Value>,
    self_signing_key: Option<Value>,
    user_signing_key: Option<Value>,
    auth: Option<Proof>,
}

async fn upload(
    caller: Caller,
    app: web::Data<App>,
    JsonBody(body): JsonBody<UploadBody>,
) -> Result<HttpResponse, MatrixError> {
    let user_id = &caller.user_id;
    let uploaded = [
        (KeyUsage::Master, body.master_key),
        (KeyUsage::SelfSigning, body.self_signing_key),
        (KeyUsage::UserSigning, body.user_signing_key),
    ];
    let mut keys: BTreeMap<KeyUsage, CrossSigningKey> = BTreeMap::new();
    for (usage, key) in uploaded {
        if let Some(key) = key.filter(|key| !key.is_null()) {
            keys.insert(usage, shape::cross_signing_key(&key, usage, user_id)?);
        }
    }
    let stored = stored_keys(&app, &caller).await?;
    let master = keys.get(&KeyUsage::Master).or_else(|| stored.get(&KeyUsage::Master));
    check_signed_by_master(&keys, master, &caller)?;

    // Uploaded keys that are the same as before change nothing, so a client may say them again.
    keys.retain(|usage, key| stored.get(usage).is_none_or(|stored| stored.object != key.object));
    if keys.is_empty() {
        return Ok(HttpResponse::Ok().json(json!({})));
    }
    // The first keys need no password: there is nothing yet that they could take over.
    if stored.contains_key(&KeyUsage::Master)
        && let Some(what_to_do) = prove(&app, &caller, body.auth).await?
    {
        return Ok(what_to_do);
    }
    let mut changes = Vec::new();
    for (usage, key) in keys {
        let key = serde_json::to_string(&key.object).map_err(MatrixError::bad_json)?;
        changes.push(AccountChange::Keys(KeyChange::PutCrossSigningKey { user_id: user_id.clone(), usage, key }));
    }
    changes.push(Circle::of(&app, user_id).await?.signing_keys_changed(user_id));
    commit(&app.stores, changes).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

async fn stored_keys(app: &App, caller: &Caller) -> Result<BTreeMap<KeyUsage, CrossSigningKey>, MatrixError> {
    let stored = app.stores.device_keys.cross_signing_keys(&caller.user_id).await?;
    let read = |(usage, text): (KeyUsage, String)| {
        let object = canonical_json::parse_object(text.as_bytes()).ok()?;
        Some((usage, CrossSigningKey { public_key: public_key_of(&object)?, object }))
    };
    Ok(stored.into_iter().filter_map(read).collect())
}

fn check_signed_by_master(
    keys: &BTreeMap<KeyUsage, CrossSigningKey>,
    master: Option<&CrossSigningKey>,
    caller: &Caller,
) -> Result<(), MatrixError> {
    for (usage, key) in keys.iter().filter(|(usage, _)| **usage != KeyUsage::Master) {
        let master = master.ok_or_else(|| MatrixError::invalid_param("there is no master key"))?;
        let key_id = format!("ed25519:{}", master.public_key);
        let mut signatures = signatures_by(&key.object, &caller.user_id);
        let is_signed =
            signatures.any(|(id, signature)| id == key_id && verifies(&key.object, signature, &master.public_key));
        if !is_signed {
            return Err(MatrixError::invalid_signature(format!(
                "{} is not signed by the master key",
                usage_field(*usage)
            )));
        }
    }
    Ok(())
}
