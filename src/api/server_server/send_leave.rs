//! `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}` and its removed first version: a signed leave.
//! May not: spend a signature check before every cheaper check has passed, or sign anything.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_leaveroomideventid>. SPEC 2.9.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::json;
use vestibule_actors::{AdmitLeave, AskError};
use vestibule_protocol::membership::{
    HandshakeRefusal, LeaveRefusal,
    handshake::{Handshake, HandshakeKind, HandshakeShape},
};

use super::handshake::{check_door, keys_of_event, overload_pause};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = |version: &str| format!("/_matrix/federation/{version}/send_leave/{{roomId}}/{{eventId}}");
    config
        .service(web::resource(path("v2")).route(web::put().to(send_leave_v2)))
        .service(web::resource(path("v1")).route(web::put().to(send_leave_v1)));
}

async fn send_leave_v2(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    send_leave(signed, &request, &app).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

async fn send_leave_v1(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    send_leave(signed, &request, &app).await?;
    Ok(HttpResponse::Ok().json(json!([200, {}])))
}

async fn send_leave(signed: Signed, request: &HttpRequest, app: &App) -> Result<(), MatrixError> {
    let path = PathArguments::of_request(request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let event_id: OwnedEventId = path.parse(1, "eventId")?;
    let origin = signed.origin.clone();
    let body = signed.into_body()?;
    let version = check_door(app, &room_id, &origin).await?;
    let expected = Handshake {
        kind: HandshakeKind::Leave,
        version: &version,
        room_id: &room_id,
        event_id: &event_id,
        origin: &origin,
        now: app.clock.now(),
    };
    let shape = HandshakeShape::parse(body.clone(), &expected)?;
    let keys = keys_of_event(app, &shape, &expected).await?;
    let mut shape = Some(shape);
    let attempt = || {
        // Held leaves are asked again; the message before went with the first attempt.
        let shaped = shape.take().map_or_else(|| HandshakeShape::parse(body.clone(), &expected), Ok);
        let leave = shaped
            .and_then(|shape| shape.verify(&keys))
            .and_then(|handshake| handshake.into_leave().ok_or(HandshakeRefusal::WrongMembership));
        let room_id = &room_id;
        async move {
            let message = AdmitLeave { leave: leave.map_err(NotAdmitted::Body)? };
            app.rooms.ask(room_id, message).await.map_err(NotAdmitted::Room)
        }
    };
    app.limits.hold_until(&*app.clock, attempt, NotAdmitted::pause).await.map_err(|not| match not {
        NotAdmitted::Body(refusal) => refusal.into(),
        NotAdmitted::Room(error) => error.into(),
    })
}

/// Who said no.
enum NotAdmitted {
    Body(HandshakeRefusal),
    Room(AskError<LeaveRefusal>),
}

impl NotAdmitted {
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Body(_) => None,
            Self::Room(error) => overload_pause(error),
        }
    }
}
