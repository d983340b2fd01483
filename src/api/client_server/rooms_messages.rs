//! `GET /_matrix/client/v3/rooms/{roomId}/messages`, `…/event/{eventId}`, `…/context/{eventId}`: history.
//! May not: show an event that the user may not see; what is hidden reads as what is not there.

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    EventId,
    api::{
        Direction as PagingDirection,
        client::{context::get_context, filter::RoomEventFilter, message::get_message_events, room::get_room_event},
    },
};
use serde::Serialize;
use serde_json::value::RawValue;
use vestibule_protocol::stream::{PageToken, TimelineOrder};
use vestibule_storage::room::{Direction, StoredEvent};

use super::{
    event_filter::{is_lazy, lets_room_through, lets_through, limit_of},
    history::{PastPage, read_backward},
    paths::each,
    room_view::{RoomView, senders_without_member_event},
    timeline::{Page, Scan, before},
};
use crate::{
    error::MatrixError,
    extract::{Caller, Ruma},
    state::App,
};

/// Events in a page of `/messages` when the client does not say.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
const MESSAGES_DEFAULT: usize = 10;

/// Events in a page of `/messages` at most. Ours: as Synapse.
const MESSAGES_MAX: usize = 1_000;

/// Events around one in `/context` when the client does not say.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid>
const CONTEXT_DEFAULT: usize = 10;

/// Events around one in `/context` at most. Ours.
const CONTEXT_MAX: usize = 100;

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for room in each("/rooms/{room_id}") {
        config
            .service(web::resource(format!("{room}/messages")).get(messages))
            .service(web::resource(format!("{room}/event/{{event_id}}")).get(event))
            .service(web::resource(format!("{room}/context/{{event_id}}")).get(context));
    }
}

#[derive(Serialize)]
struct Messages {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    start: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<Box<RawValue>>,
}

async fn messages(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<get_message_events::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let mut view = RoomView::open(&app, &caller, &request.room_id).await?;
    let direction = match request.dir {
        PagingDirection::Backward => Direction::Backward,
        PagingDirection::Forward => Direction::Forward,
    };
    let from = match (&request.from, direction) {
        (Some(token), _) => Some(view.place_of(token).await?.unwrap_or(BEFORE_ALL)),
        (None, Direction::Backward) => view.timeline_end()?,
        (None, Direction::Forward) => None,
    };
    let to = match (&request.to, direction) {
        (Some(token), _) => Some(view.place_of(token).await?.unwrap_or(BEFORE_ALL)),
        (None, Direction::Forward) => view.timeline_end()?,
        (None, Direction::Backward) => None,
    };
    // Also checks access when both tokens are absent.
    let end_of_view = view.timeline_end()?;
    let asked = request.filter.limit.unwrap_or(request.limit).min(request.limit);
    let page = if lets_room_through(&request.filter, &request.room_id) {
        let limit = limit_of(Some(asked), MESSAGES_DEFAULT, MESSAGES_MAX).max(1);
        let filter = &request.filter;
        let room_id = &request.room_id;
        let scan = Scan { room_id, sight: &view.sight, filter, direction, from, to, limit };
        match direction {
            Direction::Forward => scan.read(view.rooms).await?,
            Direction::Backward => {
                let PastPage { page, has_grown } = read_backward(&app, &caller, scan).await?;
                if has_grown {
                    view = RoomView::open(&app, &caller, &request.room_id).await?;
                }
                page
            }
        }
    } else {
        Page { events: Vec::new(), next: None }
    };
    let start = match (&request.from, direction) {
        (Some(token), _) => token.clone(),
        (None, Direction::Forward) => PageToken::Timeline(BEFORE_ALL).to_string(),
        (None, Direction::Backward) => newest_token(&app, &view, end_of_view).await?,
    };
    let end = match (page.next, page.events.last(), direction) {
        (Some(next), ..) => Some(PageToken::Timeline(next).to_string()),
        // Forward there may be more tomorrow: a page that holds something says where to ask then.
        (None, Some(last), Direction::Forward) => last.order.map(|order| PageToken::Timeline(order).to_string()),
        (None, ..) => None,
    };
    let state = lazy_members(&view, &request.filter, &page.events).await?;
    let chunk = view.shown_timeline(&page.events).await?;
    Ok(HttpResponse::Ok().json(Messages { chunk, end, start, state }))
}

/// Before the first event that a room can have.
const BEFORE_ALL: TimelineOrder = TimelineOrder(i64::MIN);

/// The token of the newest end of the timeline that the user reads from.
async fn newest_token(
    app: &App,
    view: &RoomView<'_>,
    end_of_view: Option<TimelineOrder>,
) -> Result<String, MatrixError> {
    let order = match end_of_view {
        Some(left_at) => Some(left_at),
        None => {
            let newest = view.rooms.timeline_at(view.room_id, app.stores.stream.position()).await?;
            newest.and_then(|event| event.order)
        }
    };
    Ok(PageToken::Timeline(order.unwrap_or(BEFORE_ALL)).to_string())
}

/// The member events that a client needs to show `events`, if it loads members lazily.
async fn lazy_members(
    view: &RoomView<'_>,
    filter: &RoomEventFilter,
    events: &[StoredEvent],
) -> Result<Vec<Box<RawValue>>, MatrixError> {
    if !is_lazy(filter) || events.is_empty() {
        return Ok(Vec::new());
    }
    let members = view.members(senders_without_member_event(events)).await?;
    Ok(view.shown_state(&members).await?)
}

/// The event if it is in this room and the user may see it.
async fn visible_event(view: &RoomView<'_>, event_id: &EventId) -> Result<StoredEvent, MatrixError> {
    let found = view.rooms.events(view.room_id, &[event_id.to_owned()]).await?.into_iter().flatten().next();
    found.filter(|event| view.sight.may_see(event)).ok_or_else(|| MatrixError::not_found("no such event"))
}

async fn event(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<get_room_event::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let view = RoomView::open(&app, &caller, &request.room_id).await?;
    let event = visible_event(&view, &request.event_id).await?;
    Ok(HttpResponse::Ok().json(view.shown_one(&event).await?))
}

#[derive(Serialize)]
struct Context {
    end: String,
    event: Box<RawValue>,
    events_after: Vec<Box<RawValue>>,
    events_before: Vec<Box<RawValue>>,
    start: String,
    state: Vec<Box<RawValue>>,
}

async fn context(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<get_context::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let view = RoomView::open(&app, &caller, &request.room_id).await?;
    let event = visible_event(&view, &request.event_id).await?;
    let Some(order) = event.order else { return Err(MatrixError::not_found("no such event")) };
    let limit = limit_of(Some(request.limit), CONTEXT_DEFAULT, CONTEXT_MAX);
    let filter = &request.filter;
    let before_count = limit / 2;
    let scan = Scan {
        room_id: &request.room_id,
        sight: &view.sight,
        filter,
        direction: Direction::Backward,
        from: Some(before(order)),
        to: None,
        limit: before_count,
    };
    let earlier = scan.read(view.rooms).await?;
    let scan =
        Scan { direction: Direction::Forward, from: Some(order), limit: limit.saturating_sub(before_count), ..scan };
    let later = scan.read(view.rooms).await?;

    let first = earlier.events.last().and_then(|event| event.order).unwrap_or(order);
    let last = later.events.last().and_then(|event| event.order).unwrap_or(order);
    let around: Vec<StoredEvent> = earlier.events.iter().chain([&event]).chain(&later.events).cloned().collect();
    Ok(HttpResponse::Ok().json(Context {
        end: PageToken::Timeline(last).to_string(),
        event: view.shown_one(&event).await?,
        events_after: view.shown_timeline(&later.events).await?,
        events_before: view.shown_timeline(&earlier.events).await?,
        start: PageToken::Timeline(before(first)).to_string(),
        state: context_state(&view, filter, last, &around).await?,
    }))
}

/// The state at the last event shown, as far as the user may read state at all.
async fn context_state(
    view: &RoomView<'_>,
    filter: &RoomEventFilter,
    last: TimelineOrder,
    around: &[StoredEvent],
) -> Result<Vec<Box<RawValue>>, MatrixError> {
    let token = PageToken::Timeline(last).to_string();
    // Who may see the event but not the room's state (history that once was world readable) gets the event alone.
    let Ok(state) = view.state(Some(&token)).await else { return Ok(Vec::new()) };
    let senders = senders_of(around);
    let mut events = state.all().await?;
    events.retain(|event| {
        let is_unneeded_member = is_lazy(filter)
            && *event.event.kind() == ruma::events::TimelineEventType::RoomMember
            && !event.event.state_key().is_some_and(|user| senders.contains(user));
        !is_unneeded_member && lets_through(filter, &event.event)
    });
    Ok(view.shown_state(&events).await?)
}

fn senders_of(events: &[StoredEvent]) -> std::collections::BTreeSet<String> {
    events.iter().map(|event| event.event.sender().to_string()).collect()
}
