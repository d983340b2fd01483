//! `POST /_matrix/client/v3/delete_devices`: several devices go at once.
//! May not: remove a device without the password.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3delete_devices>

use actix_web::{HttpResponse, web};
use ruma::OwnedDeviceId;
use serde::Deserialize;

use super::{devices::remove_all, json_body::JsonBody, paths::each, user_interactive::Proof};
use crate::{error::MatrixError, extract::Caller, state::App};

/// Devices in one request. Ours: a commit holds them all.
const DEVICES_MAX: usize = 1_000;

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/delete_devices")).post(delete_devices));
}

#[derive(Deserialize)]
struct DeleteBody {
    devices: Vec<OwnedDeviceId>,
    auth: Option<Proof>,
}

async fn delete_devices(
    caller: Caller,
    app: web::Data<App>,
    JsonBody(body): JsonBody<DeleteBody>,
) -> Result<HttpResponse, MatrixError> {
    if body.devices.len() > DEVICES_MAX {
        return Err(MatrixError::invalid_param(format!("{DEVICES_MAX} devices at most are removed at once")));
    }
    remove_all(&app, &caller, &body.devices, body.auth).await
}
