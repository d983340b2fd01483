//! `GET`, `POST /_matrix/federation/v1/publicRooms`: the rooms that are listed here.
//! May not: list a room that nobody published.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1publicrooms>

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, UInt, directory::Filter};
use serde::Deserialize;
use serde_json::json;

use super::raw_query;
use crate::{client_server::public_rooms::Query, error::MatrixError, extract::Signed, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    let resource = web::resource("/_matrix/federation/v1/publicRooms");
    config.service(resource.route(web::get().to(get)).route(web::post().to(post)));
}

/// What is asked, in either form.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    #[serde(default)]
    limit: Option<UInt>,
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    filter: Option<Filter>,
    #[serde(default)]
    third_party_instance_id: Option<String>,
}

async fn get(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let query = request.query_string();
    let limit = raw_query::first(query, "limit").map(|limit| limit.parse());
    let limit = limit.transpose().map_err(|_| MatrixError::invalid_param("limit must be a number, 0 or more"))?;
    let asked = Asked {
        limit,
        since: raw_query::first(query, "since"),
        filter: None,
        third_party_instance_id: raw_query::first(query, "third_party_instance_id"),
    };
    page(&app, &signed, asked).await
}

async fn post(signed: Signed, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let body: CanonicalJsonObject = signed.clone().into_body()?;
    let asked = serde_json::from_value(CanonicalJsonValue::Object(body).into()).map_err(MatrixError::bad_json)?;
    page(&app, &signed, asked).await
}

async fn page(app: &App, signed: &Signed, asked: Asked) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let query = Query::parse(asked.limit, asked.since, asked.filter.unwrap_or_default())?;
    if asked.third_party_instance_id.is_some_and(|network| !network.is_empty()) {
        // There are no bridges here, so nothing is listed for any of their networks.
        return Ok(HttpResponse::Ok().json(json!({ "chunk": [], "total_room_count_estimate": 0 })));
    }
    Ok(HttpResponse::Ok().json(query.page(&app.stores).await?))
}
