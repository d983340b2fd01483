//! `POST /_matrix/federation/v1/user/keys/query`: the keys of our users' devices: none yet.
//! May not: answer for users of other servers (SECURITY V45).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery>

use std::collections::BTreeMap;

use actix_web::{
    HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId};
use serde_json::json;

use crate::{
    error::MatrixError,
    extract::{BodyBytesMax, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let resource = web::resource("/_matrix/federation/v1/user/keys/query").app_data(BodyBytesMax::JSON);
    config.service(resource.route(web::post().to(user_keys_query)));
}

async fn user_keys_query(signed: Signed, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let body = signed.into_body()?;
    let device_keys: BTreeMap<OwnedUserId, BTreeMap<String, ()>> =
        asked_users(&app, &body, "device_keys")?.map(|user_id| (user_id, BTreeMap::new())).collect();
    Ok(HttpResponse::Ok().json(json!({ "device_keys": device_keys, "master_keys": {}, "self_signing_keys": {} })))
}

/// Those users of ours who are keys of an object in the body. Whether they exist is not told.
pub(super) fn asked_users<'a>(
    app: &'a App,
    body: &'a CanonicalJsonObject,
    key: &str,
) -> Result<impl Iterator<Item = OwnedUserId> + 'a, MatrixError> {
    let asked = match body.get(key) {
        None => return Err(MatrixError::missing_param(format!("missing {key}"))),
        Some(CanonicalJsonValue::Object(asked)) => asked,
        Some(_) => return Err(MatrixError::bad_json(format!("{key} must be an object"))),
    };
    let users = asked.keys().filter_map(|user_id| UserId::parse(user_id).ok());
    Ok(users.filter(|user_id| app.is_ours(user_id.server_name())))
}
