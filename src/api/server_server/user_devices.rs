//! `GET /_matrix/federation/v1/user/devices/{userId}`: the devices of one of our users that can encrypt.
//! May not: answer for users of other servers (SECURITY V45).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::OwnedUserId;
use serde_json::json;
use vestibule_federation::user_keys::{Asker, user_keys};

use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/user/devices/{userId}").route(web::get().to(user_devices)));
}

async fn user_devices(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let user_id: OwnedUserId = PathArguments::of_request(&request)?.parse(0, "userId")?;
    let user = app.stores.accounts.user(&user_id).await?;
    if user.is_none_or(|user| user.is_deactivated) {
        return Err(MatrixError::not_found("no such user"));
    }
    // Read first, so that the list is at least as new as the id says; a change in between is told once more.
    let stream_id = app.stores.device_keys.list_stream_id(&user_id).await?.unwrap_or(0);
    let keys = user_keys(&app.stores, &user_id, &[], Asker::Server).await?;
    let devices = keys.devices.into_iter().map(|(device_id, keys)| json!({ "device_id": device_id, "keys": keys }));
    let mut answer = json!({ "devices": devices.collect::<Vec<_>>(), "stream_id": stream_id, "user_id": user_id });
    for (name, key) in [("master_key", keys.master), ("self_signing_key", keys.self_signing)] {
        if let Some(key) = key {
            answer[name] = key;
        }
    }
    Ok(HttpResponse::Ok().json(answer))
}
