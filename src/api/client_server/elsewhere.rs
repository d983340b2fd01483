//! What our users do in rooms that this server is not in.
//! May not: speak to another server itself, or decide what a membership there becomes; the federation and the room's actor do.

use ruma::{CanonicalJsonObject, OwnedUserId, RoomId};
use vestibule_actors::LeaveOutOfBand;
use vestibule_protocol::room_version::RoomVersion;

use crate::{error::MatrixError, state::App};

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
