//! `GET /_vestibule/admin/v1/actors` and `GET …/rooms/{roomId}/actor`: the actor stats.
//! May not: wait for an actor; gauges are copied, never asked for.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{OwnedRoomId, RoomVersionId};
use serde::Serialize;
use vestibule_actors::gauges::{KnockTotals, RoomGaugesSnapshot, Totals};
use vestibule_storage::room::MemberCounts;

use super::{
    access::Operator,
    page::{self, Page},
};
use crate::{error::MatrixError, extract::PathArguments, state::App};

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(web::resource("/_vestibule/admin/v1/actors").route(web::get().to(actors)))
        .service(web::resource("/_vestibule/admin/v1/rooms/{roomId}/actor").route(web::get().to(actor)));
}

#[derive(Serialize)]
struct ActorsAnswer {
    totals: TotalsShown,
    actors: Vec<ActorShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_from: Option<String>,
}

#[derive(Serialize)]
struct TotalsShown {
    rooms_stored: u64,
    actors_live: u64,
    actors_started: u64,
    actors_passivated: u64,
    actors_restarted: u64,
    rooms_quarantined: BTreeMap<OwnedRoomId, u64>,
    knocks: KnocksShown,
    state_decided_by: PathsShown,
}

#[derive(Serialize)]
struct KnocksShown {
    prepared: u64,
    admitted: u64,
    refused: BTreeMap<&'static str, u64>,
    retracted: u64,
    accepted: u64,
    denied: u64,
    pending: u64,
}

/// How current states came about: the share of the short path of DESIGN 3.11.
#[derive(Serialize)]
struct PathsShown {
    linear: u64,
    short_path: u64,
    full_resolution: u64,
}

#[derive(Serialize)]
struct ActorShown {
    room_id: OwnedRoomId,
    room_version: RoomVersionId,
    join_rule: Option<String>,
    members: MembersShown,
    pending_knocks: u64,
    mailbox: MailboxShown,
    messages: BTreeMap<&'static str, u64>,
    handling_p50_us: u64,
    handling_p99_us: u64,
    forward_extremities: u64,
    started_ms: u64,
    last_active_ms: u64,
    restarts: u64,
}

#[derive(Serialize)]
struct MembersShown {
    join: u64,
    invite: u64,
    knock: u64,
    leave: u64,
    ban: u64,
}

#[derive(Serialize)]
struct MailboxShown {
    depth: u64,
    capacity: u64,
}

/// What the list may be ordered by: numbers from the largest down, names from the smallest up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OrderBy {
    RoomId,
    MailboxDepth,
    PendingKnocks,
    HandlingP50,
    HandlingP99,
    ForwardExtremities,
    Messages,
    Started,
    LastActive,
    Restarts,
}

impl OrderBy {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "room_id" => Self::RoomId,
            "mailbox_depth" => Self::MailboxDepth,
            "pending_knocks" => Self::PendingKnocks,
            "handling_p50_us" => Self::HandlingP50,
            "handling_p99_us" => Self::HandlingP99,
            "forward_extremities" => Self::ForwardExtremities,
            "messages" => Self::Messages,
            "started_ms" => Self::Started,
            "last_active_ms" => Self::LastActive,
            "restarts" => Self::Restarts,
            _ => return None,
        })
    }

    fn number_of(self, actor: &ActorShown) -> u64 {
        match self {
            Self::RoomId => 0,
            Self::MailboxDepth => actor.mailbox.depth,
            Self::PendingKnocks => actor.pending_knocks,
            Self::HandlingP50 => actor.handling_p50_us,
            Self::HandlingP99 => actor.handling_p99_us,
            Self::ForwardExtremities => actor.forward_extremities,
            Self::Messages => actor.messages.values().fold(0, |sum, count| sum.saturating_add(*count)),
            Self::Started => actor.started_ms,
            Self::LastActive => actor.last_active_ms,
            Self::Restarts => actor.restarts,
        }
    }
}

async fn actors(_: Operator, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let page = Page::of(&request)?;
    let order_by = page::parameter(request.query_string(), "order_by").unwrap_or("room_id");
    let order_by = OrderBy::parse(order_by).ok_or_else(|| MatrixError::invalid_param("order_by names no column"))?;
    // Numbers move between two answers; a place in the list is the best there is.
    let first = page.from::<usize>()?.unwrap_or(0);
    let gauges = app.rooms.gauges();
    let mut all: Vec<ActorShown> = gauges.rooms().into_iter().map(ActorShown::from).collect();
    all.sort_by_cached_key(|actor| (Reverse(order_by.number_of(actor)), actor.room_id.clone()));
    let after = first.saturating_add(page.limit);
    let next_from = if after < all.len() { page::next_from(&after) } else { None };
    let rooms_stored = app.stores.rooms.rooms_stored().await?;
    let answer = ActorsAnswer {
        totals: TotalsShown::of(gauges.totals(), rooms_stored),
        actors: all.into_iter().skip(first).take(page.limit).collect(),
        next_from,
    };
    Ok(HttpResponse::Ok().json(answer))
}

async fn actor(_: Operator, path: PathArguments, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let room_id: OwnedRoomId = path.parse(0, "roomId")?;
    let gauges = app.rooms.gauges().room(&room_id);
    let actor = gauges.ok_or_else(|| MatrixError::not_found("no actor of this room is live"))?;
    Ok(HttpResponse::Ok().json(ActorShown::from(actor)))
}

impl TotalsShown {
    fn of(totals: Totals, rooms_stored: u64) -> Self {
        Self {
            rooms_stored,
            actors_live: totals.actors_live,
            actors_started: totals.actors_started,
            actors_passivated: totals.actors_passivated,
            actors_restarted: totals.actors_restarted,
            rooms_quarantined: totals.quarantined.into_iter().map(|(room_id, since)| (room_id, since.0)).collect(),
            knocks: totals.knocks.into(),
            state_decided_by: PathsShown {
                linear: totals.paths.linear,
                short_path: totals.paths.short,
                full_resolution: totals.paths.full,
            },
        }
    }
}

impl From<KnockTotals> for KnocksShown {
    fn from(knocks: KnockTotals) -> Self {
        Self {
            prepared: knocks.prepared,
            admitted: knocks.admitted,
            refused: knocks.refused,
            retracted: knocks.retracted,
            accepted: knocks.accepted,
            denied: knocks.denied,
            pending: knocks.pending,
        }
    }
}

impl From<RoomGaugesSnapshot> for ActorShown {
    fn from(room: RoomGaugesSnapshot) -> Self {
        Self {
            room_id: room.room_id,
            room_version: room.facts.room_version,
            join_rule: room.facts.join_rule,
            members: room.facts.members.into(),
            pending_knocks: room.facts.pending_knocks,
            mailbox: MailboxShown { depth: room.mailbox_depth, capacity: room.mailbox_capacity },
            messages: room.messages,
            handling_p50_us: micros(room.handling_p50),
            handling_p99_us: micros(room.handling_p99),
            forward_extremities: room.facts.forward_extremities,
            started_ms: room.started_at.0,
            last_active_ms: room.last_active.0,
            restarts: room.restarts,
        }
    }
}

impl From<MemberCounts> for MembersShown {
    fn from(counts: MemberCounts) -> Self {
        let MemberCounts { join, invite, knock, leave, ban } = counts;
        Self { join, invite, knock, leave, ban }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
