//! `POST /_matrix/client/v3/keys/query`: the keys of users and their devices, here and elsewhere.
//! May not: pass on keys that another server says are those of a user of a third.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery>

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, web};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vestibule_federation::{
    perform::USER_KEYS_DEADLINE,
    user_keys::{Asker, UserKeys, add_signatures_of, user_keys},
};

use super::{json_body::JsonBody, paths::each};
use crate::{
    device_keys::{
        remote::{self, Failures},
        shape,
    },
    error::MatrixError,
    extract::Caller,
    state::App,
};

/// Users in one question. Ours: clients ask for at most a few hundred at a time.
const USERS_MAX: usize = 5_000;

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/keys/query")).post(query));
}

#[derive(Deserialize)]
struct QueryBody {
    device_keys: Option<Value>,
    /// For other servers, in milliseconds.
    timeout: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
struct QueryAnswer {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>,
    failures: Failures,
    master_keys: BTreeMap<OwnedUserId, Value>,
    self_signing_keys: BTreeMap<OwnedUserId, Value>,
    user_signing_keys: BTreeMap<OwnedUserId, Value>,
}

async fn query(
    caller: Caller,
    app: web::Data<App>,
    JsonBody(body): JsonBody<QueryBody>,
) -> Result<HttpResponse, MatrixError> {
    let asked = shape::users(body.device_keys.as_ref(), "device_keys")?;
    if asked.len() > USERS_MAX {
        return Err(MatrixError::too_large(format!("{USERS_MAX} users at most are asked for at once")));
    }
    let deadline = body.timeout.map_or(USER_KEYS_DEADLINE, Duration::from_millis);
    let mut answer = QueryAnswer::default();
    let mut elsewhere: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>> = BTreeMap::new();
    for (user_id, devices) in asked {
        let device_ids = shape::device_list(devices)?;
        if app.is_ours(user_id.server_name()) {
            let keys = user_keys(&app.stores, &user_id, &device_ids, Asker::User(&caller.user_id)).await?;
            answer.add(user_id, keys);
        } else {
            elsewhere.insert(user_id, device_ids);
        }
    }
    let (found, failures) = remote::query(&app, &caller.user_id, elsewhere.keys().cloned().collect(), deadline).await?;
    answer.failures = failures;
    for (user_id, mut keys) in found {
        let device_ids = elsewhere.remove(&user_id).unwrap_or_default();
        keys.devices.retain(|device_id, _| device_ids.is_empty() || device_ids.contains(device_id));
        // What the caller trusts is known here alone.
        add_signatures_of(&app.stores, &mut keys, &user_id, &caller.user_id).await?;
        answer.add(user_id, keys);
    }
    Ok(HttpResponse::Ok().json(answer))
}

impl QueryAnswer {
    /// Who has no devices is named all the same, so that the client knows that there are none.
    fn add(&mut self, user_id: OwnedUserId, keys: UserKeys) {
        self.master_keys.extend(keys.master.map(|key| (user_id.clone(), key)));
        self.self_signing_keys.extend(keys.self_signing.map(|key| (user_id.clone(), key)));
        self.user_signing_keys.extend(keys.user_signing.map(|key| (user_id.clone(), key)));
        self.device_keys.insert(user_id, keys.devices);
    }
}
