//! `GET /_matrix/federation/v1/query/directory`: which room one of our aliases names, and who is in it.
//! May not: name rooms into which nobody could ask to be let in (SECURITY T19).
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory>

use std::collections::BTreeSet;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{
    OwnedServerName, RoomAliasId, RoomId,
    events::{StateEventType, room::member::MembershipState},
    room::JoinRuleKind,
};
use serde::Deserialize;
use serde_json::json;

use super::raw_query;
use crate::{error::MatrixError, extract::Signed, state::App};

/// Servers named in an answer. Ours: more candidates than anybody tries.
const SERVERS_MAX: usize = 20;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/query/directory").route(web::get().to(query_directory)));
}

async fn query_directory(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let alias = raw_query::first(request.query_string(), "room_alias")
        .ok_or_else(|| MatrixError::missing_param("missing room_alias"))?;
    let alias = RoomAliasId::parse(alias).map_err(MatrixError::invalid_param)?;
    let unknown = || MatrixError::not_found("unknown alias");
    let room_id = app.stores.accounts.alias(&alias).await?.ok_or_else(unknown)?.room_id;
    if !is_open_to_strangers(&app, &room_id).await? {
        return Err(unknown());
    }
    let servers = joined_servers(&app, &room_id).await?;
    Ok(HttpResponse::Ok().json(json!({ "room_id": room_id, "servers": servers })))
}

#[derive(Deserialize)]
struct JoinRule {
    join_rule: JoinRuleKind,
}

/// The room is in the directory, or its join rule lets strangers join or ask.
async fn is_open_to_strangers(app: &App, room_id: &RoomId) -> Result<bool, MatrixError> {
    if app.stores.accounts.is_published(room_id).await? {
        return Ok(true);
    }
    let event = app.stores.rooms.current_state_event(room_id, &StateEventType::RoomJoinRules, "").await?;
    let rule = event.and_then(|event| event.event.content_as::<JoinRule>()).map(|content| content.join_rule);
    Ok(matches!(
        rule,
        Some(JoinRuleKind::Public | JoinRuleKind::Knock | JoinRuleKind::KnockRestricted | JoinRuleKind::Restricted)
    ))
}

/// Ourselves first, if we are in the room, then others in the order of their names.
async fn joined_servers(app: &App, room_id: &RoomId) -> Result<Vec<OwnedServerName>, MatrixError> {
    let members = app.stores.rooms.current_state_of_type(room_id, &StateEventType::RoomMember).await?;
    let servers: BTreeSet<OwnedServerName> = members
        .iter()
        .filter(|member| member.event.membership() == Some(MembershipState::Join))
        .filter_map(|member| ruma::UserId::parse(member.event.state_key()?).ok())
        .map(|user_id| user_id.server_name().to_owned())
        .collect();
    let (ours, others): (Vec<_>, Vec<_>) = servers.into_iter().partition(|server| app.is_ours(server));
    Ok(ours.into_iter().chain(others).take(SERVERS_MAX).collect())
}
