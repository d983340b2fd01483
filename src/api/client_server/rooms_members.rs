//! `GET /_matrix/client/v3/rooms/{roomId}/members`, `…/joined_members`, `GET /_matrix/client/v3/joined_rooms`.
//! May not: show members to who is not inside; those who left see who was there then.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    api::client::membership::{get_member_events, joined_members, joined_rooms},
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use vestibule_storage::room::StoredEvent;

use super::{paths::each, room_view::RoomView, rooms_send::not_in_room};
use crate::{
    device_keys::sharing,
    error::MatrixError,
    extract::{Caller, Ruma},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for room in each("/rooms/{room_id}") {
        config
            .service(web::resource(format!("{room}/members")).get(members))
            .service(web::resource(format!("{room}/joined_members")).get(joined));
    }
    for path in each("/joined_rooms") {
        config.service(web::resource(path).get(rooms_of_caller));
    }
}

async fn members(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<get_member_events::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    check_known(request.membership.as_ref(), "membership")?;
    check_known(request.not_membership.as_ref(), "not_membership")?;
    let view = RoomView::open(&app, &caller, &request.room_id).await?;
    let mut events = view.state(request.at.as_deref()).await?.of_type(&StateEventType::RoomMember).await?;
    events.retain(|event| is_wanted(event, request.membership.as_ref(), request.not_membership.as_ref()));
    Ok(HttpResponse::Ok().json(json!({ "chunk": view.shown_state(&events).await? })))
}

/// A membership that there is not would pass for one that nobody has.
fn check_known(membership: Option<&MembershipState>, parameter: &str) -> Result<(), MatrixError> {
    match membership {
        None
        | Some(
            MembershipState::Ban
            | MembershipState::Invite
            | MembershipState::Join
            | MembershipState::Knock
            | MembershipState::Leave,
        ) => Ok(()),
        Some(_) => Err(MatrixError::invalid_param(format!("{parameter} is none of the known memberships"))),
    }
}

fn is_wanted(event: &StoredEvent, wanted: Option<&MembershipState>, unwanted: Option<&MembershipState>) -> bool {
    let membership = event.event.membership();
    wanted.is_none_or(|wanted| membership.as_ref() == Some(wanted))
        && unwanted.is_none_or(|unwanted| membership.as_ref() != Some(unwanted))
}

/// What is told of a joined member. Fields of another type than text are left out.
#[derive(Serialize)]
struct JoinedMember {
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
}

#[derive(Deserialize)]
struct MemberContent {
    avatar_url: Option<serde_json::Value>,
    displayname: Option<serde_json::Value>,
}

async fn joined(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<joined_members::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let view = RoomView::open(&app, &caller, &request.room_id).await?;
    if !view.sight.is_joined() {
        return Err(not_in_room());
    }
    let events = view.state(None).await?.of_type(&StateEventType::RoomMember).await?;
    let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(ToOwned::to_owned));
    let joined: BTreeMap<&str, JoinedMember> = events
        .iter()
        .filter(|event| event.event.membership() == Some(MembershipState::Join))
        .filter_map(|event| {
            let content: MemberContent = event.event.content_as()?;
            let member = JoinedMember { avatar_url: text(content.avatar_url), display_name: text(content.displayname) };
            Some((event.event.state_key()?, member))
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "joined": joined })))
}

async fn rooms_of_caller(
    caller: Caller,
    app: Data<App>,
    Ruma(joined_rooms::v3::Request { .. }): Ruma<joined_rooms::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let joined_rooms = sharing::joined_rooms(&*app.stores.rooms, &caller.user_id).await?;
    Ok(HttpResponse::Ok().json(json!({ "joined_rooms": joined_rooms })))
}

#[cfg(test)]
mod tests {
    use crate::client_server::testing::server::TestServer;

    #[actix_web::test]
    async fn nobody_is_asked_for_by_a_membership_that_there_is_not() {
        let server = TestServer::start().await;
        let ann = server.user("ann").await;
        let room = ann.room(serde_json::json!({})).await;
        for (query, count) in [("", 1), ("?membership=join", 1), ("?membership=knock", 0), ("?not_membership=join", 0)]
        {
            let members = ann.get(&format!("/rooms/{room}/members{query}")).await;
            assert_eq!(members["chunk"].as_array().unwrap().len(), count, "{query}");
        }
        for query in ["membership=sideways", "not_membership=sideways", "membership=", "not_membership=%ff"] {
            let refused = ann.get_refused(&format!("/rooms/{room}/members?{query}")).await;
            assert_eq!(refused, (400, "M_INVALID_PARAM".to_owned()), "{query}");
        }
    }
}
