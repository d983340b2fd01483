//! `GET /_vestibule/admin/v1/knocks` and `GET …/rooms/{roomId}/knocks`: knocks that wait for an answer.
//! May not: answer them.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId};
use serde::Serialize;
use vestibule_storage::room::KnockRow;

use super::{
    access::Operator,
    page::{self, Page},
};
use crate::{error::MatrixError, extract::PathArguments, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/_vestibule/admin/v1/knocks").route(web::get().to(all)))
        .service(web::resource("/_vestibule/admin/v1/rooms/{roomId}/knocks").route(web::get().to(of_room)));
}

#[derive(Serialize)]
struct KnocksAnswer {
    knocks: Vec<KnockShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_from: Option<String>,
}

#[derive(Serialize)]
struct KnockShown {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    origin: OwnedServerName,
    reason: Option<String>,
    since_ms: u64,
    event_id: OwnedEventId,
}

async fn all(_: Operator, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    knocks(&request, &app, None).await
}

async fn of_room(
    _: Operator,
    path: PathArguments,
    request: HttpRequest,
    app: Data<App>,
) -> Result<HttpResponse, MatrixError> {
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    app.stores.rooms.room(&room_id).await?.ok_or_else(MatrixError::room_not_here)?;
    knocks(&request, &app, Some(&room_id)).await
}

async fn knocks(request: &HttpRequest, app: &App, room_id: Option<&RoomId>) -> Result<HttpResponse, MatrixError> {
    let page = Page::of(request)?;
    let after: Option<(OwnedRoomId, OwnedUserId)> = page.from()?;
    let after = after.as_ref().map(|(room_id, user_id)| (&**room_id, &**user_id));
    let mut rows = app.stores.rooms.pending_knocks(room_id, after, page.limit.saturating_add(1)).await?;
    let has_more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let last = rows.last().filter(|_| has_more);
    let next_from = last.and_then(|row| page::next_from(&(&row.room_id, &row.user_id)));
    let knocks = rows.into_iter().map(KnockShown::from).collect();
    Ok(HttpResponse::Ok().json(KnocksAnswer { knocks, next_from }))
}

impl From<KnockRow> for KnockShown {
    fn from(row: KnockRow) -> Self {
        Self {
            room_id: row.room_id,
            user_id: row.user_id,
            origin: row.knock.origin,
            reason: row.knock.reason,
            since_ms: row.knock.since.0,
            event_id: row.knock.event_id,
        }
    }
}
