//! `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`: the template of a join.
//! May not: change anything, or say anything about the room to a server that its ACL denies.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::json;
use vestibule_actors::{AskError, PrepareJoin};
use vestibule_protocol::membership::JoinRefusal;

use super::{
    handshake::{check_door, overload_pause},
    raw_query,
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    restricted_join::{self, Vouching},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = "/_matrix/federation/v1/make_join/{roomId}/{userId}";
    config.service(web::resource(path).route(web::get().to(make_join)));
}

async fn make_join(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let path = PathArguments::of_request(&request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let user_id: OwnedUserId = path.parse(1, "userId")?;
    check_door(&app, &room_id, &signed.origin).await?;
    if user_id.server_name() != signed.origin {
        // SECURITY T10, V09.
        return Err(MatrixError::forbidden("the user is no user of the calling server"));
    }
    let offered = offered(request.query_string());
    let vouching = restricted_join::judge(&app, &room_id, &user_id).await?;
    let (authorised_via, instead) = match vouching {
        Vouching::By(member) => (Some(member), None),
        Vouching::NotNeeded | Vouching::NotAMember => (None, None),
        Vouching::CannotJudge => (None, Some(JoinRefusal::UnableToAuthorise)),
        Vouching::NobodyMayInvite => (None, Some(JoinRefusal::UnableToGrant)),
    };
    let attempt = || {
        let message = PrepareJoin {
            user_id: user_id.clone(),
            origin: signed.origin.clone(),
            offered: offered.clone(),
            authorised_via: authorised_via.clone(),
        };
        app.rooms.ask(&room_id, message)
    };
    let template = app.limits.hold_until(&*app.clock, attempt, overload_pause).await;
    let template = template.map_err(|error| match (error, instead) {
        // The rules miss somebody who vouches; why there is nobody tells more, and sends the caller to another server.
        (AskError::Refused(JoinRefusal::NotAuthorized { .. }), Some(refusal)) => AskError::Refused(refusal),
        (error, _) => error,
    })?;
    Ok(HttpResponse::Ok().json(json!({ "room_version": template.room_version, "event": template.event })))
}

/// The versions in `ver`; none is version 1, as the specification says. What is no room version cannot be the room's.
fn offered(query: &str) -> Vec<RoomVersionId> {
    let mut values = raw_query::values(query, "ver").peekable();
    if values.peek().is_none() {
        return vec![RoomVersionId::V1];
    }
    values.filter_map(|version| RoomVersionId::try_from(version.as_str()).ok()).collect()
}
