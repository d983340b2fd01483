//! `POST /_matrix/client/v3/keys/signatures/upload`: whom a user trusts, as signatures on keys.
//! May not: keep a signature that does not verify (SECURITY V22), or of which the user could not be the author.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload>

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpResponse, web};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, OwnedUserId};
use serde_json::{Map, Value, json};
use vestibule_federation::{perform::USER_KEYS_DEADLINE, user_keys::UserKeys};
use vestibule_protocol::{
    canonical_json,
    key_signatures::{public_key_of, signatures_by, signed_part, verifies},
};
use vestibule_storage::{
    accounts::AccountChange,
    device_keys::{KeyChange, KeySignature, KeyUsage},
};

use super::{commit::commit, json_body::JsonBody, paths::each};
use crate::{
    device_keys::{remote, shape, sharing::Circle},
    error::MatrixError,
    extract::Caller,
    state::App,
};

/// Signed keys in one request. Ours: a commit holds them all.
const SIGNED_KEYS_MAX: usize = 1_000;

/// Mounts the endpoint, also where it was before Matrix 1.1.
pub fn routes(config: &mut web::ServiceConfig) {
    let unstable = "/_matrix/client/unstable/keys/signatures/upload".to_owned();
    for path in each("/keys/signatures/upload").into_iter().chain([unstable]) {
        config.service(web::resource(path).post(upload));
    }
}

type Failures = BTreeMap<OwnedUserId, BTreeMap<String, Value>>;

async fn upload(
    caller: Caller,
    app: web::Data<App>,
    JsonBody(body): JsonBody<Map<String, Value>>,
) -> Result<HttpResponse, MatrixError> {
    let body = Value::Object(body);
    let users = shape::users(Some(&body), "body")?;
    let keys_of = |keys: &'_ Value| keys.as_object().map_or(0, Map::len);
    if users.iter().map(|(_, keys)| keys_of(keys)).sum::<usize>() > SIGNED_KEYS_MAX {
        return Err(MatrixError::too_large(format!("{SIGNED_KEYS_MAX} keys at most are signed at once")));
    }
    // All servers at once, and each once: asked one after the other, a thousand dead ones would hold the request for hours.
    let targets = users.iter().map(|(target, _)| target);
    let elsewhere = targets.filter(|target| !app.is_ours(target.server_name())).cloned().collect();
    let (elsewhere, _failures) = remote::query(&app, &caller.user_id, elsewhere, USER_KEYS_DEADLINE).await?;
    let signer = Signer::load(&app, &caller, elsewhere).await?;
    let mut accepted = Accepted::default();
    let mut failures = Failures::new();
    for (target, keys) in users {
        let keys = keys.as_object().ok_or_else(|| MatrixError::bad_json("the keys of a user must be an object"))?;
        for (target_key, signed) in keys {
            if let Err(error) = accepted.judge(&app, &signer, &target, target_key, signed).await {
                failures.entry(target.clone()).or_default().insert(target_key.clone(), error.body());
            }
        }
    }
    let changes = accepted.changes(&app, &caller).await?;
    if !changes.is_empty() {
        commit(&app.stores, changes).await?;
    }
    Ok(HttpResponse::Ok().json(json!({ "failures": failures })))
}

/// The caller and the keys that the caller may sign with.
struct Signer<'a> {
    caller: &'a Caller,
    devices: BTreeMap<String, CanonicalJsonObject>,
    cross_signing: BTreeMap<KeyUsage, CanonicalJsonObject>,
    /// Keys of other servers' users, which the caller signs.
    elsewhere: BTreeMap<OwnedUserId, UserKeys>,
}

impl<'a> Signer<'a> {
    async fn load(
        app: &App,
        caller: &'a Caller,
        elsewhere: BTreeMap<OwnedUserId, UserKeys>,
    ) -> Result<Self, MatrixError> {
        let devices = app.stores.device_keys.device_keys(&caller.user_id).await?;
        let cross_signing = app.stores.device_keys.cross_signing_keys(&caller.user_id).await?;
        let object = |text: String| canonical_json::parse_object(text.as_bytes()).ok();
        Ok(Self {
            caller,
            devices: devices.into_iter().filter_map(|(id, text)| Some((id.to_string(), object(text)?))).collect(),
            cross_signing: cross_signing.into_iter().filter_map(|(usage, text)| Some((usage, object(text)?))).collect(),
            elsewhere,
        })
    }

    /// The public half of the cross-signing key for a usage, under its name.
    fn cross_signing_key(&self, usage: KeyUsage) -> Option<(String, String)> {
        let public_key = public_key_of(self.cross_signing.get(&usage)?)?;
        Some((format!("ed25519:{public_key}"), public_key))
    }

    /// The ed25519 keys of the user's devices, under their names.
    fn device_signing_keys(&self) -> BTreeMap<String, String> {
        let key_of = |(device_id, object): (&String, &CanonicalJsonObject)| {
            let name = format!("ed25519:{device_id}");
            let keys = object.get("keys").and_then(CanonicalJsonValue::as_object)?;
            let public_key = keys.get(&name).and_then(CanonicalJsonValue::as_str)?.to_owned();
            Some((name, public_key))
        };
        self.devices.iter().filter_map(key_of).collect()
    }
}

/// What may be kept, and who is to hear of it.
#[derive(Default)]
struct Accepted {
    signatures: Vec<KeySignature>,
    devices: BTreeSet<String>,
    own_master: bool,
    others: BTreeSet<OwnedUserId>,
}

impl Accepted {
    /// A user signs their devices with the self-signing key, their master key with devices, and other users' master keys with
    /// the user-signing key. Nothing else means anything.
    async fn judge(
        &mut self,
        app: &App,
        signer: &Signer<'_>,
        target: &OwnedUserId,
        target_key: &str,
        signed: &Value,
    ) -> Result<(), MatrixError> {
        let signed = shape::canonical(signed, "a signed key")?;
        let is_own = *target == signer.caller.user_id;
        let own_master = signer.cross_signing_key(KeyUsage::Master).filter(|_| is_own);
        let is_own_master = own_master.is_some_and(|(_, public_key)| public_key == target_key);
        let (stored, keys) = if is_own_master {
            (signer.cross_signing.get(&KeyUsage::Master).cloned(), signer.device_signing_keys())
        } else if is_own {
            let keys = signer.cross_signing_key(KeyUsage::SelfSigning).into_iter().collect();
            (signer.devices.get(target_key).cloned(), keys)
        } else {
            let keys = signer.cross_signing_key(KeyUsage::UserSigning).into_iter().collect();
            (master_key(app, signer, target, target_key).await?, keys)
        };
        let stored = stored.ok_or_else(|| MatrixError::not_found("there is no such key"))?;
        if signed_part(&stored) != signed_part(&signed) {
            return Err(MatrixError::invalid_param("the key is not the one that is known here"));
        }
        let signatures: Vec<KeySignature> = new_signatures(signer, target, target_key, &signed, &stored);
        if signatures.is_empty() {
            return Err(MatrixError::invalid_signature("there is no new signature"));
        }
        for signature in &signatures {
            let verified = keys.get(&signature.key_id).is_some_and(|key| verifies(&stored, &signature.signature, key));
            if !verified {
                return Err(MatrixError::invalid_signature("a signature does not verify"));
            }
        }
        self.signatures.extend(signatures);
        if is_own_master {
            self.own_master = true;
        } else if is_own {
            self.devices.insert(target_key.to_owned());
        } else {
            self.others.insert(target.clone());
        }
        Ok(())
    }

    async fn changes(self, app: &App, caller: &Caller) -> Result<Vec<AccountChange>, MatrixError> {
        let signatures = self.signatures.into_iter();
        let mut changes: Vec<AccountChange> =
            signatures.map(|signature| AccountChange::Keys(KeyChange::PutSignature(signature))).collect();
        if changes.is_empty() {
            return Ok(changes);
        }
        let circle = Circle::of(app, &caller.user_id).await?;
        for device_id in &self.devices {
            changes.push(circle.device_changed(&caller.user_id, <&DeviceId>::from(device_id.as_str())));
        }
        if self.own_master {
            changes.push(circle.signing_keys_changed(&caller.user_id));
        }
        // Whom a user trusts is the business of that user's other devices alone.
        let own = Circle { users: BTreeSet::from([caller.user_id.clone()]), servers: BTreeSet::new() };
        changes.extend(self.others.iter().map(|user_id| own.list_changed_here(user_id)));
        Ok(changes)
    }
}

/// The caller's signatures that were not uploaded with the key itself.
fn new_signatures(
    signer: &Signer<'_>,
    target: &OwnedUserId,
    target_key: &str,
    signed: &CanonicalJsonObject,
    stored: &CanonicalJsonObject,
) -> Vec<KeySignature> {
    let author = &signer.caller.user_id;
    let known: BTreeSet<_> = signatures_by(stored, author).collect();
    let new = signatures_by(signed, author).filter(|signature| !known.contains(signature));
    let new = new.map(|(key_id, signature)| KeySignature {
        target: target.clone(),
        target_key: target_key.to_owned(),
        signer: author.clone(),
        key_id: key_id.to_owned(),
        signature: signature.to_owned(),
    });
    new.collect()
}

/// Another user's master key, if it is the one that is meant.
async fn master_key(
    app: &App,
    signer: &Signer<'_>,
    user_id: &OwnedUserId,
    public_key: &str,
) -> Result<Option<CanonicalJsonObject>, MatrixError> {
    let text = if app.is_ours(user_id.server_name()) {
        app.stores.device_keys.cross_signing_keys(user_id).await?.remove(&KeyUsage::Master)
    } else {
        signer.elsewhere.get(user_id).and_then(|keys| keys.master.as_ref()).map(ToString::to_string)
    };
    let master = text.and_then(|text| canonical_json::parse_object(text.as_bytes()).ok());
    Ok(master.filter(|master| public_key_of(master).as_deref() == Some(public_key)))
}
