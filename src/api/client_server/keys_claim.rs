//! `POST /_matrix/client/v3/keys/claim`: a key for one use of each device that somebody wants to write to.
//! May not: give a key out twice.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim>

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vestibule_federation::perform::USER_KEYS_DEADLINE;

use super::{json_body::JsonBody, paths::each};
use crate::{
    device_keys::{
        claims::{self, Claimed, Wanted},
        remote::{self, Failures},
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
    /// For other servers, in milliseconds.
    timeout: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ClaimAnswer {
    failures: Failures,
    one_time_keys: Claimed,
}

async fn claim(
    _caller: Caller,
    app: web::Data<App>,
    JsonBody(body): JsonBody<ClaimBody>,
) -> Result<HttpResponse, MatrixError> {
    let wanted = claims::wanted(shape::users(body.one_time_keys.as_ref(), "one_time_keys")?)?;
    let deadline = body.timeout.map_or(USER_KEYS_DEADLINE, Duration::from_millis);
    let (ours, elsewhere): (Wanted, Wanted) =
        wanted.into_iter().partition(|(user_id, _)| app.is_ours(user_id.server_name()));
    let mut one_time_keys = claims::claim(&app, &ours).await?;
    let (found, failures) = remote::claim(&app, elsewhere, deadline).await;
    one_time_keys.extend(found);
    Ok(HttpResponse::Ok().json(ClaimAnswer { failures, one_time_keys }))
}
