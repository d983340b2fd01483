//! `GET /_matrix/federation/v1/state/{roomId}`: the state before an event, and what authorizes it.
//! May not: answer for an event around which the state is not known.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{EventId, OwnedRoomId, ServerName};

use super::{
    auth_chain::Collected,
    pdu_text, raw_query,
    readers::{Reader, Reading, has_state},
};
use crate::{
    error::MatrixError,
    extract::{PathArguments, Signed},
    rate_limit::WholeAnswer,
    state::App,
};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/state/{roomId}").route(web::get().to(state)));
}

async fn state(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let StateAnswer { state, auth_chain, place } = StateAnswer::read(&app, &signed.origin, &request).await?;
    let (pdus, auth_chain) = (pdu_text::array(state.texts()), pdu_text::array(auth_chain.texts()));
    Ok(pdu_text::whole_answer(pdu_text::object(&[("pdus", &pdus), ("auth_chain", &auth_chain)]), place))
}

/// What both forms of the question are answered from.
pub(super) struct StateAnswer {
    /// The state before the event.
    pub(super) state: Collected,
    /// What authorizes the events of the state.
    pub(super) auth_chain: Collected,
    /// The place of the answer among those that the server may be given at once.
    pub(super) place: WholeAnswer,
}

impl StateAnswer {
    /// Reads what the path and `event_id` ask for.
    ///
    /// # Errors
    /// 400, 403, 404 as the specification says; 413 when the state is beyond the bounds of an answer.
    pub(super) async fn read(app: &App, origin: &ServerName, request: &HttpRequest) -> Result<Self, MatrixError> {
        let room_id: OwnedRoomId = PathArguments::of_request(request)?.parse(0, "roomId")?;
        let reader = Reader::admit(app, &room_id, origin, Reading::Events).await?;
        let event_id = raw_query::first(request.query_string(), "event_id")
            .ok_or_else(|| MatrixError::missing_param("missing event_id"))?;
        let event_id = EventId::parse(event_id).map_err(MatrixError::invalid_param)?;
        let event = reader.event(&event_id).await?;
        if !has_state(&event) {
            return Err(MatrixError::not_found("the state at this event is not known here"));
        }
        let place = app.limits.hold_whole_answer(origin).await?;
        let rooms = &*app.stores.rooms;
        let state = Collected::state(rooms, &room_id, event.state_before).await?;
        let auth_chain = state.auth_chain(rooms, &room_id, reader.version()).await?;
        Ok(Self { state, auth_chain, place })
    }
}
