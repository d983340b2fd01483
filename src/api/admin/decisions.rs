//! `GET /_vestibule/admin/v1/decisions`: what was decided about knocks, newest first, and what was refused.
//! May not: show anything that no commit holds.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::Serialize;
use vestibule_storage::room::{Decision, DecisionAction};

use super::{
    access::Operator,
    page::{self, Page},
};
use crate::{error::MatrixError, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_vestibule/admin/v1/decisions").route(web::get().to(decisions)));
}

#[derive(Serialize)]
struct DecisionsAnswer {
    decisions: Vec<DecisionShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_from: Option<String>,
}

#[derive(Serialize)]
struct DecisionShown {
    at_ms: u64,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    origin: OwnedServerName,
    by: Option<OwnedUserId>,
    action: &'static str,
    reason: Option<String>,
    event_id: Option<OwnedEventId>,
}

async fn decisions(_: Operator, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let page = Page::of(&request)?;
    let before = page.from::<u64>()?;
    let mut rows = app.stores.rooms.decisions(before, page.limit.saturating_add(1)).await?;
    let has_more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let next_from = rows.last().filter(|_| has_more).and_then(|(place, _)| page::next_from(place));
    let decisions = rows.into_iter().map(|(_, decision)| DecisionShown::from(decision)).collect();
    Ok(HttpResponse::Ok().json(DecisionsAnswer { decisions, next_from }))
}

impl From<Decision> for DecisionShown {
    fn from(decision: Decision) -> Self {
        let action = match decision.action {
            DecisionAction::Admitted => "admitted",
            DecisionAction::Accepted => "accepted",
            DecisionAction::Denied => "denied",
            DecisionAction::Banned => "banned",
            DecisionAction::Retracted => "retracted",
            DecisionAction::Refused => "refused",
        };
        Self {
            at_ms: decision.at.0,
            room_id: decision.room_id,
            user_id: decision.user_id,
            origin: decision.origin,
            by: decision.by,
            action,
            reason: decision.reason,
            event_id: decision.event_id,
        }
    }
}
