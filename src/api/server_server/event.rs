//! `GET /_matrix/federation/v1/event/{eventId}`: one event.
//! May not: show an event to a server that is not in its room, or that could not see it there.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::OwnedEventId;
use vestibule_protocol::server_reads::Seen;

use super::{
    pdu_text,
    readers::{Reader, Reading},
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/event/{eventId}").route(web::get().to(event)));
}

async fn event(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let event_id: OwnedEventId = PathArguments::of_request(&request)?.parse(0, "eventId")?;
    let unknown = || MatrixError::not_found("unknown event");
    let room_id = app.stores.rooms.room_of_event(&event_id).await?.ok_or_else(unknown)?;
    let mut reader = Reader::admit(&app, &room_id, &signed.origin, Reading::Event).await?;
    let event = reader.event(&event_id).await?;
    match reader.seen(&event).await? {
        Seen::Whole => Ok(pdu_text::transaction(&app, [event.event.json()])),
        Seen::Redacted | Seen::Nothing => Err(MatrixError::forbidden("this server may not see the event")),
    }
}
