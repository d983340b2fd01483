//! `GET /_matrix/client/v3/devices`, `GET`, `PUT`, `DELETE /devices/{deviceId}`: where a user is logged in.
//! May not: remove a device without the password.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#device-management>

use actix_web::{HttpResponse, web};
use ruma::OwnedDeviceId;
use serde::Deserialize;
use serde_json::{Value, json};
use vestibule_storage::{accounts::AccountChange, accounts::Device, device_keys::KeyChange};

use super::{
    commit::commit,
    json_body::JsonBody,
    paths::each,
    session::DEVICE_NAME_BYTES_MAX,
    user_interactive::{Proof, prove},
};
use crate::{
    device_keys::sharing::devices_gone,
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource(each("/devices")).get(list))
        .service(web::resource(each("/devices/{device_id}")).get(show).put(rename).delete(remove));
}

async fn list(caller: Caller, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    let devices = app.stores.accounts.devices(&caller.user_id).await?;
    let devices: Vec<Value> = devices.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(json!({ "devices": devices })))
}

async fn show(caller: Caller, path: PathArguments, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    let device = app.stores.accounts.device(&caller.user_id, path.get(0).into()).await?;
    let device = device.ok_or_else(|| MatrixError::not_found("no such device"))?;
    Ok(HttpResponse::Ok().json(shown(device)))
}

#[derive(Deserialize)]
struct RenameBody {
    display_name: Option<String>,
}

async fn rename(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(body): JsonBody<RenameBody>,
) -> Result<HttpResponse, MatrixError> {
    if body.display_name.as_ref().is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
        return Err(MatrixError::invalid_param("display_name must have 256 bytes at most"));
    }
    let device_id: OwnedDeviceId = path.get(0).into();
    let change = KeyChange::NameDevice { user_id: caller.user_id, device_id, display_name: body.display_name };
    commit(&app.stores, vec![AccountChange::Keys(change)]).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

#[derive(Deserialize)]
struct RemoveBody {
    auth: Option<Proof>,
}

async fn remove(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(body): JsonBody<RemoveBody>,
) -> Result<HttpResponse, MatrixError> {
    let device_ids = [path.get(0).into()];
    remove_all(&app, &caller, &device_ids, body.auth).await
}

/// Removes devices once the password is proven. Those that are not there are gone already.
///
/// # Errors
/// As [`prove`], and when storage cannot be written.
pub async fn remove_all(
    app: &App,
    caller: &Caller,
    device_ids: &[OwnedDeviceId],
    proof: Option<Proof>,
) -> Result<HttpResponse, MatrixError> {
    if let Some(what_to_do) = prove(app, caller, proof).await? {
        return Ok(what_to_do);
    }
    let mut changes = devices_gone(app, &caller.user_id, device_ids).await?;
    changes.extend(device_ids.iter().map(|device_id| AccountChange::DeleteDevice {
        user_id: caller.user_id.clone(),
        device_id: device_id.clone(),
    }));
    commit(&app.stores, changes).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

fn shown(device: Device) -> Value {
    let mut shown = json!({ "device_id": device.device_id });
    if let Some(name) = device.display_name {
        shown["display_name"] = name.into();
    }
    shown
}
