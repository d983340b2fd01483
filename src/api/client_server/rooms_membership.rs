//! `POST /_matrix/client/v3/rooms/{roomId}/invite`, `kick`, `ban`, `unban`, `leave`, `forget`: the answers to a knock.
//! May not: decide who may do what; the room does.

use actix_web::{HttpResponse, http::StatusCode, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedUserId, RoomId, UserId,
    api::{
        client::membership::{ban_user, forget_room, invite_user, kick_user, leave_room, unban_user},
        error::ErrorCode,
    },
    events::room::member::MembershipState,
};
use vestibule_actors::{ChangeMembership, MembershipChange, SourceNetwork};
use vestibule_storage::accounts::AccountChange;

use super::{
    commit::commit,
    elsewhere,
    member_content::{filled_up, profile_content, reason_content},
    paths::each,
    room_address::lives_here,
    rooms_send::hidden_room,
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    restricted_join::{self, Vouching},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for room in each("/rooms/{room_id}") {
        config
            .service(web::resource(format!("{room}/invite")).post(invite))
            .service(web::resource(format!("{room}/kick")).post(kick))
            .service(web::resource(format!("{room}/ban")).post(ban))
            .service(web::resource(format!("{room}/unban")).post(unban))
            .service(web::resource(format!("{room}/leave")).post(leave))
            .service(web::resource(format!("{room}/forget")).post(forget));
    }
}

/// A change of a membership that a local user asks for.
pub struct WantedChange<'a> {
    /// Who asks.
    pub sender: OwnedUserId,
    /// Where.
    pub room_id: &'a RoomId,
    /// Whose membership.
    pub target: OwnedUserId,
    /// What it is to be.
    pub change: MembershipChange,
    /// What the event says besides. Profiles are filled in here.
    pub content: CanonicalJsonObject,
    /// Where the request came from.
    pub address: ClientAddress,
}

/// Asks the room for a change of a membership: the one way for every endpoint.
///
/// # Errors
/// Those of the room; 404 for local users who do not exist; 429.
pub async fn change_membership(app: &App, wanted: WantedChange<'_>) -> Result<OwnedEventId, MatrixError> {
    let (sender, clock) = (&wanted.sender, &*app.clock);
    match wanted.change {
        MembershipChange::Invite => {
            require_invitable(app, &wanted.target).await?;
            app.limits.invites_by_user.take(sender, clock)?;
        }
        MembershipChange::Join => app.limits.joins_by_user.take(sender, clock)?,
        // Knocks have rates of their own, which the room keeps.
        MembershipChange::Knock => {}
        MembershipChange::Leave | MembershipChange::Kick | MembershipChange::Ban | MembershipChange::Unban => {
            app.limits.messages_by_user.take(sender, clock)?;
        }
    }
    change_counted(app, wanted).await
}

/// The same for what was counted where it began: one new name changes a membership in every room.
///
/// # Errors
/// Those of the room.
pub async fn change_counted(app: &App, wanted: WantedChange<'_>) -> Result<OwnedEventId, MatrixError> {
    let WantedChange { sender, room_id, target, change, mut content, address } = wanted;
    // These two are the server's to say, never a client's.
    content.remove("membership");
    content.remove("join_authorised_via_users_server");
    if matches!(change, MembershipChange::Join | MembershipChange::Invite | MembershipChange::Knock) {
        content = filled_up(content, profile_content(&*app.stores.accounts, &target).await?);
    }
    if matches!(change, MembershipChange::Join)
        && let Vouching::By(authorizing) = restricted_join::judge(app, room_id, &target).await?
    {
        content.insert("join_authorised_via_users_server".to_owned(), authorizing.as_str().into());
    }
    let network = SourceNetwork::of(address.0);
    let message = ChangeMembership { sender, target, change, content, network };
    app.rooms.ask(room_id, message).await.map_err(hidden_room)
}

async fn set_forgotten(app: &App, user_id: &UserId, room_id: &RoomId, is_forgotten: bool) -> Result<(), MatrixError> {
    let (user_id, room_id) = (user_id.to_owned(), room_id.to_owned());
    let change = AccountChange::SetForgotten { user_id, room_id, is_forgotten };
    commit(&app.stores, vec![change]).await?;
    Ok(())
}

/// Says whether a user can be handed an invite from here.
///
/// # Errors
/// 404 for a local user who does not exist. Users of other servers are their servers' to know: the invite stands in the room
/// at once and is brought to them when they can be reached, so that a knock is answered while its server is down.
pub async fn require_invitable(app: &App, target: &OwnedUserId) -> Result<(), MatrixError> {
    if !app.is_ours(target.server_name()) {
        return Ok(());
    }
    let user = app.stores.accounts.user(target).await?;
    match user {
        Some(user) if !user.is_deactivated => Ok(()),
        _ => Err(MatrixError::not_found("no such user")),
    }
}

async fn invite(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<invite_user::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let invite_user::v3::InvitationRecipient::UserId(recipient) = request.recipient else {
        let words = "invites by third-party identifier are not possible here";
        return Err(MatrixError::new(StatusCode::FORBIDDEN, ErrorCode::ThreepidDenied, words));
    };
    let wanted = WantedChange {
        sender: caller.user_id,
        room_id: &request.room_id,
        target: recipient.user_id,
        change: MembershipChange::Invite,
        content: reason_content(recipient.reason),
        address,
    };
    change_membership(&app, wanted).await?;
    answer(invite_user::v3::Response::new())
}

async fn kick(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<kick_user::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let wanted = WantedChange {
        sender: caller.user_id,
        room_id: &request.room_id,
        target: request.user_id,
        change: MembershipChange::Kick,
        content: reason_content(request.reason),
        address,
    };
    change_membership(&app, wanted).await?;
    answer(kick_user::v3::Response::new())
}

async fn ban(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<ban_user::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let wanted = WantedChange {
        sender: caller.user_id,
        room_id: &request.room_id,
        target: request.user_id,
        change: MembershipChange::Ban,
        content: reason_content(request.reason),
        address,
    };
    change_membership(&app, wanted).await?;
    answer(ban_user::v3::Response::new())
}

async fn unban(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<unban_user::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let wanted = WantedChange {
        sender: caller.user_id,
        room_id: &request.room_id,
        target: request.user_id,
        change: MembershipChange::Unban,
        content: reason_content(request.reason),
        address,
    };
    change_membership(&app, wanted).await?;
    answer(unban_user::v3::Response::new())
}

async fn leave(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<leave_room::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let content = reason_content(request.reason);
    if !lives_here(&app, &request.room_id).await?
        && elsewhere::leave(&app, &caller.user_id, &request.room_id, &content).await?
    {
        return answer(leave_room::v3::Response::new());
    }
    let wanted = WantedChange {
        sender: caller.user_id.clone(),
        room_id: &request.room_id,
        target: caller.user_id,
        change: MembershipChange::Leave,
        content,
        address,
    };
    change_membership(&app, wanted).await?;
    answer(leave_room::v3::Response::new())
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget>
async fn forget(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<forget_room::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let room_id = request.room_id;
    let membership = app.stores.rooms.membership(&caller.user_id, &room_id).await?;
    match membership.map(|membership| (membership.membership, membership.forgotten)) {
        None => return Err(MatrixError::room_not_here()),
        Some((MembershipState::Leave | MembershipState::Ban, true)) => {}
        Some((MembershipState::Leave | MembershipState::Ban, false)) => {
            set_forgotten(&app, &caller.user_id, &room_id, true).await?;
        }
        Some(_) => {
            let words = "only rooms that were left can be forgotten";
            return Err(MatrixError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, words));
        }
    }
    answer(forget_room::v3::Response::new())
}
