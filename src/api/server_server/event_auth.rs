//! `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`: what authorizes an event, to the room's beginning.
//! May not: give out a part of the chain as if it were all.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedEventId, OwnedRoomId};

use super::{
    auth_chain::Collected,
    pdu_text,
    readers::{Reader, Reading},
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    let path = "/_matrix/federation/v1/event_auth/{roomId}/{eventId}";
    config.service(web::resource(path).route(web::get().to(event_auth)));
}

async fn event_auth(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let path = PathArguments::of_request(&request)?;
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let event_id: OwnedEventId = path.parse(1, "eventId")?;
    let reader = Reader::admit(&app, &room_id, &signed.origin, Reading::Events).await?;
    let place = app.limits.hold_whole_answer(&signed.origin).await?;
    let event = Collected::default().with(reader.event(&event_id).await?.event)?;
    let chain = event.auth_chain(&*app.stores.rooms, &room_id, reader.version()).await?;
    let body = pdu_text::object(&[("auth_chain", &pdu_text::array(chain.texts()))]);
    Ok(pdu_text::whole_answer(body, place))
}
