//! `POST /_matrix/federation/v1/user/keys/claim`: one-time keys of our users' devices: none yet.
//! May not: answer for users of other servers (SECURITY V45).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim>

use actix_web::{
    HttpResponse,
    web::{self, Data, ServiceConfig},
};
use serde_json::json;

use super::user_keys_query::asked_users;
use crate::{
    error::MatrixError,
    extract::{BodyBytesMax, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let resource = web::resource("/_matrix/federation/v1/user/keys/claim").app_data(BodyBytesMax::JSON);
    config.service(resource.route(web::post().to(user_keys_claim)));
}

async fn user_keys_claim(signed: Signed, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let body = signed.into_body()?;
    // The question is judged all the same. Nobody can upload keys here, so there is none to be had.
    let _users = asked_users(&app, &body, "one_time_keys")?;
    Ok(HttpResponse::Ok().json(json!({ "one_time_keys": {} })))
}
