//! Who is in a room, in short: counts, and members to name a nameless room after.
//! May not: be computed where nothing about members changed; it may read all of them.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync_response-200_roomsummary>

use ruma::{
    OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use vestibule_storage::{
    error::StorageError,
    room::{RoomReader, StoredEvent},
};

use super::answer::Summary;

/// Members that a room is named after at most. Spec: the summary's `m.heroes`.
const HEROES_MAX: usize = 5;

/// The summary as it is now.
///
/// # Errors
/// When the store cannot be read.
pub async fn summary(rooms: &dyn RoomReader, room_id: &RoomId, user_id: &UserId) -> Result<Summary, StorageError> {
    let Some(room) = rooms.room(room_id).await? else { return Ok(Summary::default()) };
    let heroes = if has_name(rooms, room_id).await? {
        None
    } else {
        let members = rooms.current_state_of_type(room_id, &StateEventType::RoomMember).await?;
        Some(heroes(members, user_id))
    };
    Ok(Summary { heroes, invited: Some(room.counts.invite), joined: Some(room.counts.join) })
}

async fn has_name(rooms: &dyn RoomReader, room_id: &RoomId) -> Result<bool, StorageError> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(alias = "alias")]
        name: Option<String>,
    }
    for kind in [StateEventType::RoomName, StateEventType::RoomCanonicalAlias] {
        let event = rooms.current_state_event(room_id, &kind, "").await?;
        let name = event.and_then(|event| event.event.content_as::<Content>()).and_then(|content| content.name);
        if name.is_some_and(|name| !name.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first members besides the user: those who are there or invited, or if there are none, those who were.
fn heroes(mut members: Vec<StoredEvent>, user_id: &UserId) -> Vec<OwnedUserId> {
    members.sort_by_key(|event| event.position);
    let with = |wanted: [MembershipState; 2]| -> Vec<OwnedUserId> {
        members
            .iter()
            .filter(|event| event.event.membership().is_some_and(|membership| wanted.contains(&membership)))
            .filter_map(|event| UserId::parse(event.event.state_key()?).ok())
            .filter(|member| member != user_id)
            .take(HEROES_MAX)
            .collect()
    };
    let there = with([MembershipState::Join, MembershipState::Invite]);
    if there.is_empty() { with([MembershipState::Leave, MembershipState::Ban]) } else { there }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::client_server::testing::member;

    #[test]
    fn a_room_is_named_after_those_who_came_first() {
        let mut members: Vec<StoredEvent> =
            (1..=7).map(|number| member(&format!("@user{number}:x"), MembershipState::Join, 20 - number)).collect();
        members.push(member("@me:x", MembershipState::Join, 1));
        members.push(member("@knocks:x", MembershipState::Knock, 2));
        members.push(member("@invited:x", MembershipState::Invite, 3));
        members.push(member("@left:x", MembershipState::Leave, 4));
        let heroes = heroes(members, user_id!("@me:x"));
        assert_eq!(heroes, ["@invited:x", "@user7:x", "@user6:x", "@user5:x", "@user4:x"]);
    }

    #[test]
    fn an_empty_room_is_named_after_those_who_were_there() {
        let members = vec![
            member("@me:x", MembershipState::Join, 1),
            member("@left:x", MembershipState::Leave, 4),
            member("@banned:x", MembershipState::Ban, 3),
            member("@knocks:x", MembershipState::Knock, 2),
        ];
        assert_eq!(heroes(members, user_id!("@me:x")), ["@banned:x", "@left:x"]);
    }
}
