//! `GET /_matrix/client/v3/sync`: what is new for a user, waiting for it if there is nothing.
//! May not: lose a change. The position is read first, everything else as of it or later; what came later is told again
//! by the next sync rather than skipped.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>

mod account_data;
mod answer;
pub mod device_lists;
mod ephemeral;
mod inbox;
mod out_of_band;
mod room_news;
mod state_delta;
mod stripped_room;
mod summary;
mod unread;

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web, web::Data};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::{
    OwnedRoomId,
    api::client::{
        filter::FilterDefinition,
        sync::sync_events::{self, v3::Filter},
    },
    events::room::member::MembershipState,
    presence::PresenceState,
};
use serde::Deserialize;
use tokio::time::Instant;
use vestibule_protocol::stream::{StreamPosition, SyncToken, TypingSerial};
use vestibule_storage::{error::StorageError, room::UserMembership};

use self::{
    answer::{InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, Rooms, StateForm, SyncAnswer},
    room_news::{Beside, Wants},
    stripped_room::stripped_room,
    unread::unread,
};
use super::{
    event_filter::room_passes,
    keys_upload::{one_time_key_counts, unused_fallback_key_types},
    paths::each,
};
use crate::{
    device_keys::sharing::joined_rooms,
    error::MatrixError,
    extract::{Caller, Ruma},
    state::App,
};

/// How long a sync waits for news at most. Ours: clients ask for 30 s; proxies cut connections at 60 s or later.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Rooms read at once for one sync. Ours: enough to hide the latency of a read, few enough to leave room for others.
const ROOMS_AT_ONCE: usize = 8;

/// Times a sync is begun anew because a membership changed while it read. Ours; after that the change is told twice.
const FRESH_READS_MAX: usize = 3;

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/sync") {
        config.service(web::resource(path).get(sync));
    }
}

/// What clients of before Matrix 1.16 say for `use_state_after`.
#[derive(Deserialize)]
struct UnstableQuery {
    #[serde(rename = "org.matrix.msc4222.use_state_after", default)]
    use_state_after: bool,
}

/// What one sync asks for.
struct Asked {
    since: Option<StreamPosition>,
    /// The token itself, unless this is a fresh start.
    token: Option<SyncToken>,
    /// What the client knows of who is typing.
    typing: Option<TypingSerial>,
    filter: FilterDefinition,
    full_state: bool,
    /// The token names a position that this server has not reached: the client saw a life of it that was lost (a backup was
    /// restored). It gets everything, as if it had no token.
    is_fresh_start: bool,
    state_form: StateForm,
}

async fn sync(
    caller: Caller,
    app: Data<App>,
    head: HttpRequest,
    unstable: web::Query<UnstableQuery>,
    Ruma(request): Ruma<sync_events::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let deadline = Instant::now() + request.timeout.unwrap_or_default().min(TIMEOUT_MAX);
    let asked = asked(&app, &caller, &unstable, request).await?;
    // Who starts, or wants everything, is answered at once.
    let waits = asked.since.is_some() && !asked.full_state;
    if let Some(token) = asked.token {
        inbox::acknowledge(&app, &caller, token).await;
    }
    loop {
        let rooms = joined_rooms(&*app.stores.rooms, &caller.user_id).await?;
        // From here on every change wakes; only then is storage read.
        let mut watch = app.notifier.watch(&caller.user_id, &rooms);
        // Also that the user logged out: whoever has the token is then told nothing more.
        Caller::of_request(&head, &app).await?;
        let answer = collected(&app, &caller, &asked).await?;
        let is_over = !waits || !answer.is_empty() || Instant::now() >= deadline;
        let has_news = !is_over
            && tokio::select! {
                biased;
                woken = tokio::time::timeout_at(deadline, watch.changed()) => woken.is_ok(),
                () = app.vitals.stopping() => false,
            };
        if !has_news {
            return Ok(HttpResponse::Ok().json(answer));
        }
    }
}

async fn asked(
    app: &App,
    caller: &Caller,
    unstable: &UnstableQuery,
    request: sync_events::v3::Request,
) -> Result<Asked, MatrixError> {
    if !matches!(request.set_presence, PresenceState::Offline | PresenceState::Online | PresenceState::Unavailable) {
        return Err(MatrixError::invalid_param("set_presence must be offline, online or unavailable"));
    }
    let token = request.since.as_deref().map(str::parse::<SyncToken>).transpose();
    let token = token.map_err(|error| MatrixError::invalid_param(format!("since: {error}")))?;
    let is_fresh_start = token.is_some_and(|token| token.position > app.stores.stream.position());
    let filter = match request.filter {
        None => FilterDefinition::default(),
        Some(Filter::FilterDefinition(filter)) => filter,
        Some(Filter::FilterId(filter_id)) => stored_filter(app, caller, &filter_id).await?,
        Some(_) => return Err(MatrixError::invalid_param("filter")),
    };
    let state_form = match (request.use_state_after, unstable.use_state_after) {
        (true, _) => StateForm::AfterTimeline,
        (false, true) => StateForm::AfterTimelineUnstable,
        (false, false) => StateForm::BeforeTimeline,
    };
    Ok(Asked {
        since: token.filter(|_| !is_fresh_start).map(|token| token.position),
        token: token.filter(|_| !is_fresh_start),
        typing: token.and_then(|token| token.typing),
        filter,
        full_state: request.full_state,
        is_fresh_start,
        state_form,
    })
}

async fn stored_filter(app: &App, caller: &Caller, filter_id: &str) -> Result<FilterDefinition, MatrixError> {
    let stored = app.stores.accounts.filter(&caller.user_id, filter_id).await?;
    let stored = stored.ok_or_else(|| MatrixError::invalid_param("filter is neither JSON nor the id of a filter"))?;
    serde_json::from_str(&stored).map_err(|error| MatrixError::invalid_param(format!("filter: {error}")))
}

/// Everything that is new, without waiting.
async fn collected(app: &App, caller: &Caller, asked: &Asked) -> Result<SyncAnswer, StorageError> {
    let (until, memberships) = settled_memberships(app, caller).await?;
    let mut data = account_data::since(app, caller, asked.since, until, &asked.filter).await?;
    let mut ephemeral = ephemeral::since(app, caller, asked, until, &memberships).await?;
    let wants = Wants {
        rooms: &*app.stores.rooms,
        caller,
        filter: &asked.filter.room,
        since: asked.since,
        until,
        full_state: asked.full_state,
        is_fresh_start: asked.is_fresh_start,
        state_form: asked.state_form,
        now: app.clock.now(),
    };
    let tasks: Vec<_> = memberships
        .into_iter()
        .filter(|membership| is_wanted(&asked.filter, membership))
        .map(|membership| {
            let account_data = data.of_rooms.remove(&membership.room_id).unwrap_or_default();
            let ephemeral = ephemeral.of_rooms.remove(&membership.room_id).unwrap_or_default();
            news_of(app, &wants, membership, Beside { account_data, ephemeral })
        })
        .collect();
    let news: Vec<(OwnedRoomId, News)> = stream::iter(tasks).buffered(ROOMS_AT_ONCE).try_collect().await?;

    let inbox = inbox::news(app, caller, asked.token, until).await?;
    let token = SyncToken { position: until, typing: ephemeral.typing, inbox: inbox.told_up_to };
    let mut answer = SyncAnswer::nothing_new(token.to_string());
    answer.to_device.events = inbox.events;
    // Who starts over knows devices as they were in the life that was lost, and would encrypt for those.
    if let Some(since) = asked.since.or(asked.is_fresh_start.then_some(StreamPosition::START)) {
        answer.device_lists = device_lists::between(app, &caller.user_id, since, until).await?;
    }
    answer.device_one_time_keys_count = one_time_key_counts(app, caller).await?;
    answer.device_unused_fallback_key_types = unused_fallback_key_types(app, caller).await?;
    answer.account_data = data.global;
    answer.rooms = sorted(news);
    Ok(answer)
}

/// A position, and memberships that are not newer: otherwise a room could be told with a membership that the next sync, by
/// the position, tells again.
async fn settled_memberships(
    app: &App,
    caller: &Caller,
) -> Result<(StreamPosition, Vec<UserMembership>), StorageError> {
    let mut reads = 0;
    loop {
        let until = app.stores.stream.position();
        let memberships = app.stores.rooms.memberships_of(&caller.user_id).await?;
        reads += 1;
        let is_settled = memberships.iter().all(|membership| membership.position <= until);
        if is_settled || reads >= FRESH_READS_MAX {
            return Ok((until, memberships));
        }
    }
}

fn is_wanted(filter: &FilterDefinition, membership: &UserMembership) -> bool {
    // Only what was left can be forgotten; whoever came back has not.
    let is_gone = matches!(membership.membership, MembershipState::Leave | MembershipState::Ban);
    !(membership.forgotten && is_gone)
        && room_passes(filter.room.rooms.as_deref(), &filter.room.not_rooms, &membership.room_id)
}

/// What is told of one room.
enum News {
    None,
    Joined(Box<JoinedRoom>),
    Invited(InvitedRoom),
    Knocked(KnockedRoom),
    Left(Box<LeftRoom>),
}

async fn news_of(
    app: &App,
    wants: &Wants<'_>,
    membership: UserMembership,
    beside: Beside,
) -> Result<(OwnedRoomId, News), StorageError> {
    let is_new = wants.since.is_none_or(|since| wants.full_state || membership.position > since);
    let news = match &membership.membership {
        MembershipState::Join => match wants.joined(&membership, beside).await? {
            None => News::None,
            Some(room) => {
                let unread_notifications = unread(app, &membership.room_id, &wants.caller.user_id).await?;
                News::Joined(Box::new(JoinedRoom { unread_notifications, ..room }))
            }
        },
        MembershipState::Invite if is_new => {
            let invite_state = stripped_room(wants.rooms, &wants.caller.user_id, &membership).await?;
            News::Invited(InvitedRoom { invite_state })
        }
        MembershipState::Knock if is_new => {
            let knock_state = stripped_room(wants.rooms, &wants.caller.user_id, &membership).await?;
            News::Knocked(KnockedRoom { knock_state })
        }
        MembershipState::Leave | MembershipState::Ban if tells_leaving(wants, &membership) => {
            News::Left(Box::new(wants.left(&membership).await?))
        }
        _ => News::None,
    };
    Ok((membership.room_id, news))
}

/// Leaving is told once. Who has no token is told of left rooms on request only, unless the client may think it is in them.
fn tells_leaving(wants: &Wants<'_>, membership: &UserMembership) -> bool {
    match wants.since {
        Some(since) => membership.position > since,
        None => wants.filter.include_leave || wants.is_fresh_start,
    }
}

fn sorted(news: Vec<(OwnedRoomId, News)>) -> Rooms {
    let mut rooms = Rooms::default();
    for (room_id, news) in news {
        match news {
            News::None => {}
            News::Joined(room) => {
                rooms.join.insert(room_id, *room);
            }
            News::Invited(room) => {
                rooms.invite.insert(room_id, room);
            }
            News::Knocked(room) => {
                rooms.knock.insert(room_id, room);
            }
            News::Left(room) => {
                rooms.leave.insert(room_id, *room);
            }
        }
    }
    rooms
}

#[cfg(test)]
mod tests;
