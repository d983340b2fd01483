//! `POST /_matrix/federation/v1/user/keys/query`: the keys of our users and their devices.
//! May not: answer for users of other servers (SECURITY V45).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery>

use std::collections::BTreeMap;

use actix_web::{
    HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId};
use serde::Serialize;
use serde_json::Value;
use vestibule_federation::user_keys::{Asker, user_keys};

use crate::{
    device_keys::shape,
    error::MatrixError,
    extract::{BodyBytesMax, Signed},
    state::App,
};

/// Users in one question. Ours: servers ask for those of one room at a time.
const USERS_MAX: usize = 5_000;

pub(super) fn routes(config: &mut ServiceConfig) {
    let resource = web::resource("/_matrix/federation/v1/user/keys/query").app_data(BodyBytesMax::JSON);
    config.service(resource.route(web::post().to(user_keys_query)));
}

#[derive(Default, Serialize)]
struct Answer {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>,
    master_keys: BTreeMap<OwnedUserId, Value>,
    self_signing_keys: BTreeMap<OwnedUserId, Value>,
}

async fn user_keys_query(signed: Signed, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let mut answer = Answer::default();
    for (user_id, devices) in asked_users(&app, signed.into_body()?, "device_keys", USERS_MAX)? {
        let keys = user_keys(&app.stores, &user_id, &shape::device_list(&devices)?, Asker::Server).await?;
        answer.master_keys.extend(keys.master.map(|key| (user_id.clone(), key)));
        answer.self_signing_keys.extend(keys.self_signing.map(|key| (user_id.clone(), key)));
        answer.device_keys.insert(user_id, keys.devices);
    }
    Ok(HttpResponse::Ok().json(answer))
}

/// Those users of ours who are keys of an object in the body, with what stands there. Whether they exist is not told.
pub(super) fn asked_users(
    app: &App,
    mut body: CanonicalJsonObject,
    key: &str,
    users_max: usize,
) -> Result<Vec<(OwnedUserId, Value)>, MatrixError> {
    let asked = match body.remove(key) {
        None => return Err(MatrixError::missing_param(format!("missing {key}"))),
        Some(CanonicalJsonValue::Object(asked)) => asked,
        Some(_) => return Err(MatrixError::bad_json(format!("{key} must be an object"))),
    };
    if asked.len() > users_max {
        return Err(MatrixError::too_large(format!("{key} has {users_max} users at most")));
    }
    let users =
        asked.into_iter().filter_map(|(user_id, value)| Some((OwnedUserId::try_from(user_id).ok()?, value.into())));
    Ok(users.filter(|(user_id, _)| app.is_ours(user_id.server_name())).collect())
}
