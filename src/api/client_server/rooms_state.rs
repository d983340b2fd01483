//! `/_matrix/client/v3/rooms/{roomId}/state` and `/state/{eventType}/{stateKey}`: reading and setting state.
//! May not: set a membership past the room's own message for it, or show state that the user may not see.

use actix_web::{HttpResponse, http::StatusCode, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomAliasId, OwnedUserId, RoomId, UserId,
    api::{
        client::state::{get_state_event_for_key, get_state_events, send_state_event},
        error::ErrorCode,
    },
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use vestibule_actors::{MembershipChange, SendEvent};
use vestibule_protocol::canonical_json;

use super::{
    directory::alias::aliases_in,
    paths::each,
    room_view::RoomView,
    rooms_membership::{WantedChange, change_membership},
    rooms_send::hidden_room,
    state_content,
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for room in each("/rooms/{room_id}") {
        config.service(web::resource(format!("{room}/state")).get(get_all));
        // A state key may hold slashes, and the empty one may be written with or without its slash.
        for path in [format!("{room}/state/{{event_type}}"), format!("{room}/state/{{event_type}}/{{state_key:.*}}")] {
            config.service(web::resource(path).get(get_one).put(put));
        }
    }
}

async fn get_all(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<get_state_events::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let view = RoomView::open(&app, &caller, &request.room_id).await?;
    let events = view.state(None).await?.all().await?;
    Ok(HttpResponse::Ok().json(view.shown_state(&events).await?))
}

async fn get_one(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<get_state_event_for_key::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    use get_state_event_for_key::v3::StateEventFormat;

    let view = RoomView::open(&app, &caller, &request.room_id).await?;
    let found = view.state(None).await?.of_key(&request.event_type, &request.state_key).await?;
    let event = found.ok_or_else(|| MatrixError::not_found("the room has no such state"))?;
    match request.format {
        StateEventFormat::Content => Ok(HttpResponse::Ok().json(event.event.content())),
        StateEventFormat::Event => Ok(HttpResponse::Ok().json(view.shown_one(&event).await?)),
        _ => Err(MatrixError::invalid_param("format must be content or event")),
    }
}

async fn put(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<send_state_event::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let content = canonical_json::parse_object(request.body.json().get().as_bytes())?;
    let room_id = &request.room_id;
    let event_id = if request.event_type == StateEventType::RoomMember {
        put_member(&app, caller, address, room_id, &request.state_key, content).await?
    } else {
        state_content::check(&request.event_type, &content)?;
        if request.event_type == StateEventType::RoomCanonicalAlias && request.state_key.is_empty() {
            require_own_aliases(&app, room_id, &content).await?;
        }
        app.limits.messages_by_user.take(&caller.user_id, &*app.clock)?;
        let message = SendEvent {
            sender: caller.user_id,
            kind: TimelineEventType::from(request.event_type.to_string()),
            state_key: Some(request.state_key),
            content,
            redacts: None,
            transaction: None,
        };
        app.rooms.ask(room_id, message).await.map_err(hidden_room)?
    };
    answer(send_state_event::v3::Response::new(event_id))
}

/// A membership set as state is the same wish as on its own endpoint, and goes the same way.
async fn put_member(
    app: &App,
    caller: Caller,
    address: ClientAddress,
    room_id: &RoomId,
    state_key: &str,
    content: CanonicalJsonObject,
) -> Result<OwnedEventId, MatrixError> {
    let target: OwnedUserId =
        UserId::parse(state_key).map_err(|error| MatrixError::bad_json(format!("state_key: {error}")))?;
    let membership = content.get("membership").and_then(|membership| membership.as_str());
    let Some(membership) = membership.map(MembershipState::from) else {
        return Err(MatrixError::bad_json("content.membership must be a string"));
    };
    let is_own = target == caller.user_id;
    let change = match membership {
        MembershipState::Join if is_own => MembershipChange::Join,
        MembershipState::Knock if is_own => MembershipChange::Knock,
        MembershipState::Join | MembershipState::Knock => {
            return Err(MatrixError::forbidden("nobody joins or knocks for somebody else"));
        }
        MembershipState::Invite => MembershipChange::Invite,
        MembershipState::Ban => MembershipChange::Ban,
        MembershipState::Leave if is_own => MembershipChange::Leave,
        MembershipState::Leave => {
            let now = app.stores.rooms.current_state_event(room_id, &StateEventType::RoomMember, state_key).await?;
            let is_banned = now.and_then(|event| event.event.membership()) == Some(MembershipState::Ban);
            if is_banned { MembershipChange::Unban } else { MembershipChange::Kick }
        }
        _ => return Err(MatrixError::bad_json("content.membership is none of the known ones")),
    };
    let reason_bytes_max = app.settings.knock_reason_bytes_max;
    let reason = content.get("reason").and_then(|reason| reason.as_str());
    if matches!(change, MembershipChange::Knock) && reason.is_some_and(|reason| reason.len() > reason_bytes_max) {
        return Err(MatrixError::too_large(format!("the reason has more than {reason_bytes_max} bytes")));
    }
    let wanted = WantedChange { sender: caller.user_id, room_id, target, change, content, address };
    change_membership(app, wanted).await
}

/// Aliases that a room shows as its own must lead to it.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomcanonical_alias>
async fn require_own_aliases(app: &App, room_id: &RoomId, content: &CanonicalJsonObject) -> Result<(), MatrixError> {
    let bad_alias = |what: String| MatrixError::new(StatusCode::BAD_REQUEST, ErrorCode::BadAlias, what);
    let known = app.stores.rooms.current_state_event(room_id, &StateEventType::RoomCanonicalAlias, "").await?;
    let known = known.and_then(|event| event.event.content_as::<CanonicalJsonObject>()).unwrap_or_default();
    let known = aliases_in(&known);
    for alias in aliases_in(content) {
        // What stood there before is not judged again: others may have changed since.
        if known.contains(&alias) {
            continue;
        }
        let parsed = OwnedRoomAliasId::try_from(alias.as_str())
            .map_err(|error| MatrixError::invalid_param(format!("{alias}: {error}")))?;
        let found = app.stores.accounts.alias(&parsed).await?;
        if found.is_none_or(|found| found.room_id != *room_id) {
            return Err(bad_alias(format!("{alias} does not lead to this room")));
        }
    }
    Ok(())
}
