//! Knocks, joins and leaves of our users in rooms that this server is not in.
//! May not: speak to another server itself, or decide what a membership there becomes; the federation and the room's actor do.

use ruma::{CanonicalJsonObject, OwnedUserId, RoomId};
use vestibule_actors::LeaveOutOfBand;
use vestibule_federation::perform::{JoinElsewhere, KnockElsewhere, PerformError};
use vestibule_protocol::{membership::KnockElsewhereRefusal, room_version::RoomVersion};

use super::{
    member_content::{filled_up, profile_content},
    room_address::RoomAddress,
};
use crate::{error::MatrixError, state::App};

/// Who has the knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A server of the room.
    Elsewhere,
    /// Nobody: somebody of ours came into the room meanwhile, so the knock is for the room here to judge.
    LivesHere,
}

/// Asks the servers of a room to let a user in.
///
/// # Errors
/// 404 when no server is known that could be asked; 429 over the rates of knocks; what those servers, or the room, say.
pub async fn knock(
    app: &App,
    user_id: OwnedUserId,
    room: &RoomAddress,
    content: CanonicalJsonObject,
) -> Result<Asked, MatrixError> {
    let via = room.servers(app, &user_id).await?;
    app.rooms.count_knock_elsewhere(&room.room_id, &user_id)?;
    let content = filled_up(content, profile_content(&*app.stores.accounts, &user_id).await?);
    let wanted = KnockElsewhere { user_id, room_id: room.room_id.clone(), via, content };
    match app.federation.knock(wanted).await {
        Ok(()) => Ok(Asked::Elsewhere),
        Err(PerformError::NotBegun(KnockElsewhereRefusal::LivedIn)) => Ok(Asked::LivesHere),
        Err(error) => Err(error.into()),
    }
}

/// Enters a room through its servers; the room is here when it returns.
///
/// # Errors
/// As [`knock`]; joins have one rate.
pub async fn join(
    app: &App,
    user_id: OwnedUserId,
    room: &RoomAddress,
    content: CanonicalJsonObject,
) -> Result<(), MatrixError> {
    let via = room.servers(app, &user_id).await?;
    app.limits.joins_by_user.take(&user_id, &*app.clock)?;
    let content = filled_up(content, profile_content(&*app.stores.accounts, &user_id).await?);
    let wanted = JoinElsewhere { user_id, room_id: room.room_id.clone(), via, content };
    Ok(app.federation.join(wanted).await?)
}

/// Takes back a knock, or declines an invite, in a room elsewhere. The user has left when it returns; the server that took the
/// knock or sent the invite is told as soon as it can be reached. `false`: nothing of the kind is or was there.
///
/// # Errors
/// Those of the room.
pub async fn leave(
    app: &App,
    user_id: &OwnedUserId,
    room_id: &RoomId,
    content: &CanonicalJsonObject,
) -> Result<bool, MatrixError> {
    let Some(row) = app.stores.rooms.out_of_band_of(user_id, room_id).await? else { return Ok(false) };
    let version = RoomVersion::lookup(&row.room_version).ok_or_else(MatrixError::internal)?;
    app.limits.messages_by_user.take(user_id, &*app.clock)?;
    let message = LeaveOutOfBand { user_id: user_id.clone(), content: content.clone() };
    app.rooms.ask_out_of_band(room_id, &version, message).await?;
    Ok(true)
}
