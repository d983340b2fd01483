//! What a user is shown of a room that invited them or on which they knock.
//! May not: show more than the allow-list of stripped state and the user's own member event, or fail as a whole because of
//! one odd event (V06).

use ruma::{UserId, events::StateEventType};
use vestibule_protocol::state::{
    StateMap,
    stripped::{STRIPPED_TYPES, shown_to_strangers, strip},
};
use vestibule_storage::{
    error::StorageError,
    room::{RoomReader, UserMembership},
};

use super::{answer::Events, out_of_band::Elsewhere};

/// Stripped state, and at its end the member event that made the membership: of a room that this server is in as the state
/// is now, of others as their servers told it.
///
/// # Errors
/// When the store cannot be read.
pub async fn stripped_room(
    rooms: &dyn RoomReader,
    user_id: &UserId,
    membership: &UserMembership,
) -> Result<Events, StorageError> {
    if let Some(elsewhere) = Elsewhere::of(rooms, user_id, membership).await? {
        return Ok(elsewhere.stripped());
    }
    let room_id = &membership.room_id;
    let mut state = StateMap::default();
    for kind in &STRIPPED_TYPES {
        if let Some(event) = rooms.current_state_event(room_id, kind, "").await? {
            state.insert(event.event);
        }
    }
    let own = rooms.events(room_id, std::slice::from_ref(&membership.event_id)).await?;
    let own = own.into_iter().flatten().map(|event| event.event);
    let own = own.filter(|event| event.state_entry().is_some_and(|(kind, _)| kind == StateEventType::RoomMember));
    let events = shown_to_strangers(&state).into_iter().chain(own).filter_map(|event| strip(&event)).collect();
    Ok(Events { events })
}
