//! `GET /health` and `GET /ready`: whether the program lives, and whether it takes requests.
//! May not: ask for a token, or say more than that.

use actix_web::{
    HttpResponse,
    http::StatusCode,
    web::{self, Data, ServiceConfig},
};
use ruma::api::error::ErrorCode;
use serde_json::json;

use crate::{error::MatrixError, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/health").route(web::get().to(health)))
        .service(web::resource("/ready").route(web::get().to(ready)));
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Not ready while starting and while stopping.
async fn ready(app: Data<App>) -> Result<HttpResponse, MatrixError> {
    if app.vitals.is_ready() {
        Ok(HttpResponse::Ok().json(json!({ "status": "ready" })))
    } else {
        Err(MatrixError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unknown, "starting or stopping"))
    }
}
