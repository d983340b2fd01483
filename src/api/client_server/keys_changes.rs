//! `GET /_matrix/client/v3/keys/changes`: whose devices changed between two syncs.
//! May not: tell of users with whom the caller shares no room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>

use actix_web::{HttpResponse, web};
use ruma::api::client::keys::get_key_changes;
use vestibule_protocol::stream::{StreamPosition, SyncToken};

use super::{
    paths::each,
    sync::device_lists::{self, DeviceLists},
};
use crate::{
    error::MatrixError,
    extract::{Caller, Ruma},
    state::App,
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/keys/changes")).get(changes));
}

async fn changes(
    caller: Caller,
    app: web::Data<App>,
    Ruma(request): Ruma<get_key_changes::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let (from, to) = (position(&request.from, "from")?, position(&request.to, "to")?);
    let lists: DeviceLists = device_lists::between(&app, &caller.user_id, from, to).await?;
    Ok(HttpResponse::Ok().json(lists))
}

fn position(token: &str, name: &str) -> Result<StreamPosition, MatrixError> {
    let token: SyncToken = token.parse().map_err(|error| MatrixError::invalid_param(format!("{name}: {error}")))?;
    Ok(token.position)
}
