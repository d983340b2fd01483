//! `POST /_matrix/federation/v1/user/keys/claim`: keys for one use of our users' devices.
//! May not: answer for users of other servers (SECURITY V45), or give a key out twice.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim>

use actix_web::{
    HttpResponse,
    web::{self, Data, ServiceConfig},
};
use serde_json::json;

use super::user_keys_query::asked_users;
use crate::{
    device_keys::claims,
    error::MatrixError,
    extract::{BodyBytesMax, Signed},
    state::App,
};

/// Users in one question. Ours: as for `/user/keys/query`.
const USERS_MAX: usize = 5_000;

pub(super) fn routes(config: &mut ServiceConfig) {
    let resource = web::resource("/_matrix/federation/v1/user/keys/claim").app_data(BodyBytesMax::JSON);
    config.service(resource.route(web::post().to(user_keys_claim)));
}

async fn user_keys_claim(signed: Signed, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let users = asked_users(&app, signed.into_body()?, "one_time_keys", USERS_MAX)?;
    let wanted = claims::wanted(users.iter().map(|(user_id, devices)| (user_id.clone(), devices)).collect())?;
    let claimed = claims::claim(&app, &wanted).await?;
    Ok(HttpResponse::Ok().json(json!({ "one_time_keys": claimed })))
}
