//! `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`: the template of a leave, by which a knock is retracted too.
//! May not: change anything.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_leaveroomiduserid>. SPEC 2.9.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::json;
use vestibule_actors::PrepareLeave;

use super::handshake::overload_pause;
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = "/_matrix/federation/v1/make_leave/{roomId}/{userId}";
    config.service(web::resource(path).route(web::get().to(make_leave)));
}

async fn make_leave(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let path = PathArguments::of_request(&request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let user_id: OwnedUserId = path.parse(1, "userId")?;
    if user_id.server_name() != signed.origin {
        // SECURITY T10, V09.
        return Err(MatrixError::forbidden("the user is no user of the calling server"));
    }
    let attempt = || {
        let message = PrepareLeave { user_id: user_id.clone(), origin: signed.origin.clone() };
        app.rooms.ask(&room_id, message)
    };
    let template = app.limits.hold_until(&*app.clock, attempt, overload_pause).await?;
    Ok(HttpResponse::Ok().json(json!({ "room_version": template.room_version, "event": template.event })))
}
