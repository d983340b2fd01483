//! `GET /.well-known/matrix/client` and `GET /.well-known/matrix/server`: where we are, for those who know our name only.
//! May not: guess; what is not configured is not there.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#well-known-uris>,
//! <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>

use actix_web::{
    HttpResponse,
    web::{self, Data},
};
use serde_json::json;

use crate::{error::MatrixError, state::App};

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/.well-known/matrix/client").route(web::get().to(client)))
        .service(web::resource("/.well-known/matrix/server").route(web::get().to(server)));
}

async fn client(app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let base_url = app.settings.well_known_client.as_deref().ok_or_else(not_configured)?;
    Ok(HttpResponse::Ok().json(json!({ "m.homeserver": { "base_url": base_url } })))
}

async fn server(app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let delegate = app.settings.well_known_server.as_deref().ok_or_else(not_configured)?;
    Ok(HttpResponse::Ok().json(json!({ "m.server": delegate })))
}

fn not_configured() -> MatrixError {
    MatrixError::not_found("nothing is delegated here")
}
