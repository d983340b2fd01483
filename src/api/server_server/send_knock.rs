//! `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`: a signed knock asks to be admitted.
//! May not: spend a signature check before every cheaper check has passed, or sign anything.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid>.
//! Order of the checks: SPEC 2.6.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Serialize;
use serde_json::value::RawValue;
use vestibule_actors::{AdmitKnock, AskError};
use vestibule_protocol::membership::{
    HandshakeRefusal, KnockRefusal,
    handshake::{Handshake, HandshakeKind, HandshakeShape},
    knock::check_version,
};

use super::handshake::{check_door_for_knock, keys_of_event, knock_pause, refuse_body, refuse_by_room};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = "/_matrix/federation/v1/send_knock/{roomId}/{eventId}";
    config.service(web::resource(path).route(web::put().to(send_knock)));
}

/// Both keys of SPEC D1: the specification's with full events, the requirements document's with the same stripped.
#[derive(Serialize)]
struct Answer<'a> {
    knock_room_state: &'a [Box<RawValue>],
    knock_state_events: &'a [Box<RawValue>],
}

async fn send_knock(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let path = PathArguments::of_request(&request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let event_id: OwnedEventId = path.parse(1, "eventId")?;
    let (origin, network) = (signed.origin.clone(), signed.network.clone());
    let body = signed.into_body()?;
    let version = check_door_for_knock(&app, &room_id, &origin).await?;
    check_version(&version).map_err(|refusal| {
        app.rooms.gauges().knock_refused(refusal.name());
        MatrixError::from(refusal)
    })?;
    let expected = Handshake {
        kind: HandshakeKind::Knock,
        version: &version,
        room_id: &room_id,
        event_id: &event_id,
        origin: &origin,
        now: app.clock.now(),
    };
    let refused = |refusal| refuse_body(&app, refusal);
    let shape = HandshakeShape::parse(body.clone(), &expected).map_err(refused)?;
    let keys = keys_of_event(&app, &shape, &expected).await.map_err(refused)?;
    let mut shape = Some(shape);
    let attempt = || {
        // Held knocks are asked again; the message before went with the first attempt.
        let shaped = shape.take().map_or_else(|| HandshakeShape::parse(body.clone(), &expected), Ok);
        let knock = shaped
            .and_then(|shape| shape.verify(&keys))
            .and_then(|handshake| handshake.into_knock().ok_or(HandshakeRefusal::WrongMembership));
        let (app, room_id, network) = (&app, &room_id, network.clone());
        async move {
            let message = AdmitKnock { knock: knock.map_err(NotAdmitted::Body)?, network };
            app.rooms.ask(room_id, message).await.map_err(NotAdmitted::Room)
        }
    };
    let admitted = app.limits.hold_until(&*app.clock, attempt, NotAdmitted::pause).await.map_err(|not| match not {
        NotAdmitted::Body(refusal) => refuse_body(&app, refusal),
        NotAdmitted::Room(error) => refuse_by_room(&app, error),
    })?;
    let answer = Answer { knock_room_state: &admitted.knock_room_state, knock_state_events: &admitted.stripped };
    Ok(HttpResponse::Ok().json(answer))
}

/// Who said no.
enum NotAdmitted {
    Body(HandshakeRefusal),
    Room(AskError<KnockRefusal>),
}

impl NotAdmitted {
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Body(_) => None,
            Self::Room(error) => knock_pause(error),
        }
    }
}
