//! `POST /_matrix/client/v3/logout` and `/logout/all`: access tokens stop working.
//! May not: answer before that is durable.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout>

use actix_web::{HttpResponse, web};
use serde_json::json;
use vestibule_storage::accounts::AccountChange;

use super::{commit::commit, paths::each};
use crate::{device_keys::sharing::devices_gone, error::MatrixError, extract::Caller, state::App};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource(each("/logout")).post(logout))
        .service(web::resource(each("/logout/all")).post(logout_all));
}

async fn logout(caller: Caller, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    let mut changes = devices_gone(&app, &caller.user_id, std::slice::from_ref(&caller.device_id)).await?;
    changes.push(AccountChange::DeleteDevice { user_id: caller.user_id, device_id: caller.device_id });
    commit(&app.stores, changes).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

async fn logout_all(caller: Caller, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    let devices = app.stores.accounts.devices(&caller.user_id).await?;
    let device_ids: Vec<_> = devices.into_iter().map(|device| device.device_id).collect();
    let mut changes = devices_gone(&app, &caller.user_id, &device_ids).await?;
    changes.push(AccountChange::DeleteDevices { user_id: caller.user_id, except: None });
    commit(&app.stores, changes).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}
