//! `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}` and its removed first version: a signed join.
//! May not: sign a join in a restricted room before its condition is judged, or leave anything out of the room's state.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, RoomId, signatures::PublicKeyMap};
use serde_json::json;
use vestibule_actors::{AdmitJoin, AdmittedJoin, AskError};
use vestibule_protocol::{
    membership::{
        HandshakeRefusal, JoinRefusal,
        handshake::{Handshake, HandshakeKind, HandshakeShape, SignedJoin},
    },
    room_version::RoomVersion,
};

use super::{
    auth_chain::Collected,
    handshake::{check_door, keys_of_event, overload_pause},
    pdu_text,
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    rate_limit::WholeAnswer,
    restricted_join::{self, Vouching},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = |version: &str| format!("/_matrix/federation/{version}/send_join/{{roomId}}/{{eventId}}");
    config
        .service(web::resource(path("v2")).route(web::put().to(send_join_v2)))
        .service(web::resource(path("v1")).route(web::put().to(send_join_v1)));
}

async fn send_join_v2(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let (answer, place) = send_join(signed, &request, &app).await?;
    Ok(pdu_text::whole_answer(answer, place))
}

async fn send_join_v1(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let (answer, place) = send_join(signed, &request, &app).await?;
    Ok(pdu_text::whole_answer(pdu_text::array(["200", &answer]), place))
}

/// The JSON of the answer, and its place among those that the server may be given at once.
async fn send_join(signed: Signed, request: &HttpRequest, app: &App) -> Result<(String, WholeAnswer), MatrixError> {
    let path = PathArguments::of_request(request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let event_id: OwnedEventId = path.parse(1, "eventId")?;
    let origin = signed.origin.clone();
    let body = signed.into_body()?;
    let version = check_door(app, &room_id, &origin).await?;
    let expected = Handshake {
        kind: HandshakeKind::Join,
        version: &version,
        room_id: &room_id,
        event_id: &event_id,
        origin: &origin,
        now: app.clock.now(),
    };
    check_vouching(app, &HandshakeShape::parse(body.clone(), &expected)?).await?;
    let shape = vouched_shape(app, body.clone(), &expected)?;
    let keys = keys_of_event(app, &shape, &expected).await?;
    // Before the join stands: it is worth nothing to the server without the answer.
    let place = app.limits.hold_whole_answer(&origin).await?;
    let mut shape = Some(shape);
    let attempt = || {
        // Held joins are asked again; the message before went with the first attempt.
        let shaped = shape.take().map_or_else(|| vouched_shape(app, body.clone(), &expected), Ok);
        let join = shaped.and_then(|shape| signed_join(shape, &keys));
        let room_id = &room_id;
        async move { app.rooms.ask(room_id, AdmitJoin { join: join? }).await.map_err(NotAdmitted::Room) }
    };
    let admitted = app.limits.hold_until(&*app.clock, attempt, NotAdmitted::pause).await?;
    Ok((answer(app, &room_id, &version, &admitted).await?, place))
}

/// A join that a user of ours vouches for must meet the room's condition, whatever the template said when it was given out.
async fn check_vouching(app: &App, shape: &HandshakeShape) -> Result<(), MatrixError> {
    if shape.authorised_via().is_none() {
        return Ok(());
    }
    let join = shape.pdu();
    match restricted_join::judge(app, join.room_id(), join.sender()).await? {
        Vouching::NotNeeded | Vouching::By(_) => Ok(()),
        Vouching::NotAMember => {
            let reason = "the user is in none of the rooms whose members may join".to_owned();
            Err(JoinRefusal::NotAuthorized { reason }.into())
        }
        Vouching::CannotJudge => Err(JoinRefusal::UnableToAuthorise.into()),
        Vouching::NobodyMayInvite => Err(JoinRefusal::UnableToGrant.into()),
    }
}

/// The body, with our signature if a user of ours vouches for the join.
fn vouched_shape(
    app: &App,
    body: CanonicalJsonObject,
    expected: &Handshake<'_>,
) -> Result<HandshakeShape, NotAdmitted> {
    let mut shape = HandshakeShape::parse(body, expected).map_err(NotAdmitted::Body)?;
    if shape.authorised_via().is_some() {
        shape.cosign(&app.identity).map_err(NotAdmitted::Cosign)?;
    }
    Ok(shape)
}

fn signed_join(shape: HandshakeShape, keys: &PublicKeyMap) -> Result<SignedJoin, NotAdmitted> {
    let handshake = shape.verify(keys).map_err(NotAdmitted::Body)?;
    handshake.into_join().ok_or(NotAdmitted::Body(HandshakeRefusal::WrongMembership))
}

/// The room as it was before the join, in full: what members there are is never left out.
async fn answer(
    app: &App,
    room_id: &RoomId,
    version: &RoomVersion,
    admitted: &AdmittedJoin,
) -> Result<String, MatrixError> {
    let rooms = &*app.stores.rooms;
    let state = Collected::state(rooms, room_id, admitted.state_before).await?;
    let auth_chain = state.with(admitted.event.clone())?.auth_chain(rooms, room_id, version).await?;
    Ok(pdu_text::object(&[
        ("event", admitted.event.json()),
        ("state", &pdu_text::array(state.texts())),
        ("auth_chain", &pdu_text::array(auth_chain.texts())),
        ("origin", &json!(app.server_name()).to_string()),
        ("members_omitted", "false"),
        ("servers_in_room", &json!(admitted.servers).to_string()),
    ]))
}

/// Who said no.
enum NotAdmitted {
    Body(HandshakeRefusal),
    Cosign(JoinRefusal),
    Room(AskError<JoinRefusal>),
}

impl NotAdmitted {
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Body(_) | Self::Cosign(_) => None,
            Self::Room(error) => overload_pause(error),
        }
    }
}

impl From<NotAdmitted> for MatrixError {
    fn from(not: NotAdmitted) -> Self {
        match not {
            NotAdmitted::Body(refusal) => refusal.into(),
            NotAdmitted::Cosign(refusal) => refusal.into(),
            NotAdmitted::Room(error) => error.into(),
        }
    }
}
