//! `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`: the template of a knock.
//! May not: change anything, or say anything about the room to a server that its ACL denies.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_knockroomiduserid>.
//! Order of the checks: SPEC 2.5.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::json;
use vestibule_actors::PrepareKnock;

use super::{
    handshake::{DoorRefusal, check_door_for_knock, knock_pause, refuse_at_door, refuse_by_room},
    raw_query,
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = "/_matrix/federation/v1/make_knock/{roomId}/{userId}";
    config.service(web::resource(path).route(web::get().to(make_knock)));
}

async fn make_knock(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let path = PathArguments::of_request(&request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let user_id: OwnedUserId = path.parse(1, "userId")?;
    check_door_for_knock(&app, &room_id, &signed.origin).await?;
    let offered: Vec<String> = raw_query::values(request.query_string(), "ver").collect();
    if offered.is_empty() {
        return Err(refuse_at_door(&app, DoorRefusal::NoVersionsOffered));
    }
    if user_id.server_name() != signed.origin {
        return Err(refuse_at_door(&app, DoorRefusal::UserNotOfOrigin));
    }
    // What is no room version cannot be the room's.
    let offered: Vec<RoomVersionId> =
        offered.iter().filter_map(|version| RoomVersionId::try_from(version.as_str()).ok()).collect();
    let attempt = || {
        let message = PrepareKnock {
            user_id: user_id.clone(),
            origin: signed.origin.clone(),
            offered: offered.clone(),
            network: signed.network.clone(),
        };
        app.rooms.ask(&room_id, message)
    };
    let template = app.limits.hold_until(&*app.clock, attempt, knock_pause).await;
    let template = template.map_err(|error| refuse_by_room(&app, error))?;
    Ok(HttpResponse::Ok().json(json!({ "room_version": template.room_version, "event": template.event })))
}
