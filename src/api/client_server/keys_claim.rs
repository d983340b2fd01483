//! `POST /_matrix/client/v3/keys/claim`: a key for one use of each device that somebody wants to write to.
//! May not: give a key out twice.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim>

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{json_body::JsonBody, paths::each};
use crate::{
    device_keys::{
        claims::{self, Claimed, Wanted},
        shape,
    },
    error::MatrixError,
    extract::Caller,
    state::App,
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/keys/claim")).post(claim));
}

#[derive(Deserialize)]
struct ClaimBody {
    one_time_keys: Option<Value>,
}

#[derive(Debug, Serialize)]
struct ClaimAnswer {
    failures: BTreeMap<String, Value>,
    one_time_keys: Claimed,
}

async fn claim(
    _caller: Caller,
    app: web::Data<App>,
    JsonBody(body): JsonBody<ClaimBody>,
) -> Result<HttpResponse, MatrixError> {
    let wanted = claims::wanted(shape::users(body.one_time_keys.as_ref(), "one_time_keys")?)?;
    let (ours, _elsewhere): (Wanted, Wanted) =
        wanted.into_iter().partition(|(user_id, _)| app.is_ours(user_id.server_name()));
    let one_time_keys = claims::claim(&app, &ours).await?;
    Ok(HttpResponse::Ok().json(ClaimAnswer { failures: BTreeMap::new(), one_time_keys }))
}
