//! `GET /_matrix/federation/v1/query/profile`: names and avatars of our users.
//! May not: answer for users of other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile>

use std::collections::BTreeMap;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::UserId;
use serde_json::value::RawValue;

use super::raw_query;
use crate::{error::MatrixError, extract::Signed, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/query/profile").route(web::get().to(query_profile)));
}

async fn query_profile(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let query = request.query_string();
    let user_id = raw_query::first(query, "user_id").ok_or_else(|| MatrixError::missing_param("missing user_id"))?;
    let user_id = UserId::parse(user_id).map_err(MatrixError::invalid_param)?;
    let wanted = raw_query::first(query, "field");
    let user = app.stores.accounts.user(&user_id).await?;
    let user = user.filter(|user| !user.is_deactivated).ok_or_else(|| MatrixError::not_found("no such user"))?;
    let fields: BTreeMap<String, Box<RawValue>> = user
        .profile
        .into_iter()
        .filter(|(field, _)| wanted.as_ref().is_none_or(|wanted| wanted == field))
        .filter_map(|(field, json)| Some((field, RawValue::from_string(json).ok()?)))
        .collect();
    Ok(HttpResponse::Ok().json(fields))
}
