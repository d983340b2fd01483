//! From what a user types to a room of this server: a room id or an alias.
//! May not: ask other servers; rooms that are not stored here are not found.

use ruma::{OwnedRoomId, RoomAliasId, RoomId, RoomOrAliasId};

use crate::{error::MatrixError, state::App};

/// The stored room that an id or an alias of this server names.
///
/// # Errors
/// 404 `M_NOT_FOUND` when the room is neither stored here nor reachable from here.
pub async fn local_room(app: &App, address: &RoomOrAliasId) -> Result<OwnedRoomId, MatrixError> {
    let room_id = match <&RoomAliasId>::try_from(address) {
        Ok(alias) => {
            let found = app.stores.accounts.alias(alias).await?;
            found.ok_or_else(|| MatrixError::not_found("unknown alias"))?.room_id
        }
        Err(room_id) => room_id.to_owned(),
    };
    require_stored(app, &room_id).await?;
    Ok(room_id)
}

/// Says 404 unless the room is stored.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub async fn require_stored(app: &App, room_id: &RoomId) -> Result<(), MatrixError> {
    app.stores.rooms.room(room_id).await?.map(|_| ()).ok_or_else(MatrixError::room_not_here)
}
