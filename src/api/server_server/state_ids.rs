//! `GET /_matrix/federation/v1/state_ids/{roomId}`: the ids of the state before an event, and of what authorizes it.
//! May not: answer for an event around which the state is not known.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use serde_json::json;

use super::state::StateAnswer;
use crate::{error::MatrixError, extract::Signed, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/state_ids/{roomId}").route(web::get().to(state_ids)));
}

async fn state_ids(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let StateAnswer { state, auth_chain, .. } = StateAnswer::read(&app, &signed.origin, &request).await?;
    let (pdu_ids, auth_chain_ids): (Vec<_>, Vec<_>) = (state.event_ids().collect(), auth_chain.event_ids().collect());
    Ok(HttpResponse::Ok().json(json!({ "pdu_ids": pdu_ids, "auth_chain_ids": auth_chain_ids })))
}
