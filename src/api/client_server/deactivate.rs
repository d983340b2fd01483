//! `POST /_matrix/client/v3/account/deactivate`: a user goes for good, and is out of every room first.
//! May not: deactivate who is still in a room, knocks or is invited: nobody could let go of that any more.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>

use actix_web::{HttpResponse, web, web::Data};
use ruma::{CanonicalJsonObject, OwnedUserId, RoomId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::json;
use vestibule_actors::{AskError, ChangeMembership, LeaveOutOfBand, MembershipChange, SourceNetwork};
use vestibule_protocol::{membership::MembershipRefusal, room_version::RoomVersion};
use vestibule_storage::accounts::AccountChange;

use super::{
    commit::commit,
    json_body::JsonBody,
    paths::each,
    room_address::lives_here,
    user_interactive::{Proof, prove},
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress},
    state::App,
};

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/account/deactivate")).post(deactivate));
}

#[derive(Deserialize)]
struct Body {
    auth: Option<Proof>,
    #[serde(default)]
    erase: bool,
}

async fn deactivate(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    JsonBody(body): JsonBody<Body>,
) -> Result<HttpResponse, MatrixError> {
    if let Some(left_to_do) = prove(&app, &caller, body.auth).await? {
        return Ok(left_to_do);
    }
    leave_everything(&app, &caller, address).await?;
    let user = app.stores.accounts.user(&caller.user_id).await?;
    let mut user = user.ok_or_else(|| MatrixError::not_found("no such user"))?;
    user.is_deactivated = true;
    user.password_hash = None;
    if body.erase {
        user.profile.clear();
    }
    let user_id = caller.user_id;
    let devices = AccountChange::DeleteDevices { user_id, except: None };
    commit(&app.stores, vec![AccountChange::UpdateUser(user), devices]).await?;
    // Third-party identifiers are not bound here, so there is nothing to unbind.
    Ok(HttpResponse::Ok().json(json!({ "id_server_unbind_result": "no-support" })))
}

/// Leaves rooms, declines invites and takes knocks back, here and elsewhere. What fails fails the request: it is asked again,
/// and goes on where it stopped.
async fn leave_everything(app: &App, caller: &Caller, address: ClientAddress) -> Result<(), MatrixError> {
    for membership in app.stores.rooms.memberships_of(&caller.user_id).await? {
        let has_something =
            matches!(membership.membership, MembershipState::Join | MembershipState::Invite | MembershipState::Knock);
        if has_something {
            leave(app, &caller.user_id, &membership.room_id, address).await?;
        }
    }
    Ok(())
}

/// No rate binds this: there is no way back for the user, and no other way out.
async fn leave(app: &App, user_id: &OwnedUserId, room_id: &RoomId, address: ClientAddress) -> Result<(), MatrixError> {
    if !lives_here(app, room_id).await?
        && let Some(row) = app.stores.rooms.out_of_band_of(user_id, room_id).await?
    {
        let version = RoomVersion::lookup(&row.room_version).ok_or_else(MatrixError::internal)?;
        let message = LeaveOutOfBand { user_id: user_id.clone(), content: CanonicalJsonObject::new() };
        return Ok(app.rooms.ask_out_of_band(room_id, &version, message).await?);
    }
    let message = ChangeMembership {
        sender: user_id.clone(),
        target: user_id.clone(),
        change: MembershipChange::Leave,
        content: CanonicalJsonObject::new(),
        network: SourceNetwork::of(address.0),
    };
    match app.rooms.ask(room_id, message).await {
        // Nobody of ours is in the room any more, and nothing of this user is known there.
        Ok(_)
        | Err(
            AskError::RoomNotHere | AskError::Refused(MembershipRefusal::NotInRoom | MembershipRefusal::NotResident),
        ) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
