//! `POST /_matrix/client/v3/join/{roomIdOrAlias}` and `/rooms/{roomId}/join`.
//! May not: let anybody in; the room applies the rules.

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedUserId, UserId,
    api::client::membership::{join_room_by_id, join_room_by_id_or_alias},
};
use vestibule_actors::MembershipChange;

use super::{
    elsewhere,
    member_content::reason_content,
    paths::each,
    room_address::{RoomAddress, lives_here},
    rooms_membership::{WantedChange, change_membership},
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    restricted_join::{self, Vouching},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/join/{room_id_or_alias}") {
        config.service(web::resource(path).post(join_by_address));
    }
    for path in each("/rooms/{room_id}/join") {
        config.service(web::resource(path).post(join_by_id));
    }
}

async fn join_by_address(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<join_room_by_id_or_alias::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let room = RoomAddress::resolve(&app, address, &request.room_id_or_alias, request.via).await?;
    join(&app, caller.user_id, &room, reason_content(request.reason), address).await?;
    answer(join_room_by_id_or_alias::v3::Response::new(room.room_id))
}

async fn join_by_id(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<join_room_by_id::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    // This form has no `via`; whoever was invited or knocked needs none.
    let room = RoomAddress::of_room(request.room_id, Vec::new());
    join(&app, caller.user_id, &room, reason_content(request.reason), address).await?;
    answer(join_room_by_id::v3::Response::new(room.room_id))
}

async fn join(
    app: &App,
    user_id: OwnedUserId,
    room: &RoomAddress,
    content: CanonicalJsonObject,
    address: ClientAddress,
) -> Result<(), MatrixError> {
    if !lives_here(app, &room.room_id).await? || others_must_vouch(app, &user_id, room).await? {
        return elsewhere::join(app, user_id, room, content).await;
    }
    let (room_id, change) = (&*room.room_id, MembershipChange::Join);
    let wanted = WantedChange { sender: user_id.clone(), room_id, target: user_id, change, content, address };
    change_membership(app, wanted).await?;
    Ok(())
}

/// Whether the room, though somebody of ours is in it, lets the user in only upon the word of another server: because this
/// one cannot say whether the user is in an allowed room, or has nobody in the room who may invite.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
async fn others_must_vouch(app: &App, user_id: &UserId, room: &RoomAddress) -> Result<bool, MatrixError> {
    match restricted_join::judge(app, &room.room_id, user_id).await? {
        Vouching::NotNeeded | Vouching::By(_) | Vouching::NotAMember => Ok(false),
        Vouching::CannotJudge | Vouching::NobodyMayInvite => room.has_others(app).await,
    }
}
