//! `GET /_matrix/federation/v1/version`
//! May not: say more than name and version.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version>

use actix_web::{
    HttpResponse,
    web::{self, ServiceConfig},
};
use serde_json::json;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/version").route(web::get().to(version)));
}

async fn version() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "server": { "name": "Vestibule", "version": env!("CARGO_PKG_VERSION") } }))
}
