//! `GET /_matrix/federation/v1/user/devices/{userId}`: the devices of one of our users that can encrypt: none yet.
//! May not: answer for users of other servers (SECURITY V45).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::OwnedUserId;
use serde_json::json;

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
    // Nobody can upload device keys here, so no list ever changed: it is still the first.
    Ok(HttpResponse::Ok().json(json!({ "user_id": user_id, "stream_id": 0, "devices": [] })))
}
