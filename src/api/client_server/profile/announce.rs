//! Tells the rooms of a user about a new display name or avatar.
//! May not: fail a request because a room did not want to hear it.

use actix_web::web;
use futures_util::{StreamExt, stream};
use ruma::{CanonicalJsonObject, OwnedRoomId, OwnedUserId, UserId, events::room::member::MembershipState};
use vestibule_actors::MembershipChange;
use vestibule_storage::error::StorageError;

use crate::{
    client_server::{
        member_content::profile_content,
        rooms_membership::{WantedChange, change_counted},
    },
    device_keys::sharing::joined_rooms,
    extract::ClientAddress,
    state::App,
};

/// Rooms told at once: one user's new name must not fill the writer's slots.
const ROOMS_AT_ONCE: usize = 4;

/// Rounds through the rooms. A profile that changes faster than that is told by the request that changed it last.
const ROUNDS_MAX: usize = 3;

/// Sends the member events, and returns when all rooms have answered. Goes on when the caller hangs up.
pub async fn announce(app: web::Data<App>, user_id: OwnedUserId, address: ClientAddress) {
    let telling = actix_web::rt::spawn(async move {
        if let Err(error) = tell_all(&app, &user_id, address).await {
            log::error!(user_id:%, error:%; "a profile change was not told to all rooms");
        }
    });
    if telling.await.is_err() {
        log::error!("telling rooms of a profile change broke off");
    }
}

/// Two requests may tell the same rooms side by side, and the older name arrive last. So whoever finishes looks again, and
/// starts over when the profile is not what it told.
async fn tell_all(app: &App, user_id: &UserId, address: ClientAddress) -> Result<(), StorageError> {
    let mut told: Option<CanonicalJsonObject> = None;
    for _ in 0..ROUNDS_MAX {
        let profile = profile_content(&*app.stores.accounts, user_id).await?;
        if told.as_ref() == Some(&profile) {
            break;
        }
        let rooms = joined_rooms(&*app.stores.rooms, user_id).await?;
        stream::iter(rooms)
            .for_each_concurrent(ROOMS_AT_ONCE, |room_id| tell_one(app, user_id, room_id, address))
            .await;
        told = Some(profile);
    }
    Ok(())
}

async fn tell_one(app: &App, user_id: &UserId, room_id: OwnedRoomId, address: ClientAddress) {
    // Whoever left since the list was made must not be joined again by a new name.
    let membership = app.stores.rooms.membership(user_id, &room_id).await;
    let is_still_joined = matches!(membership, Ok(Some(membership)) if membership.membership == MembershipState::Join);
    if !is_still_joined {
        return;
    }
    let wanted = WantedChange {
        sender: user_id.to_owned(),
        room_id: &room_id,
        target: user_id.to_owned(),
        change: MembershipChange::Join,
        // Filled with the profile as it is by then.
        content: CanonicalJsonObject::new(),
        address,
    };
    if let Err(error) = change_counted(app, wanted).await {
        log::debug!(room_id:%, error:%; "a room did not take a new profile");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vestibule_actors::limits::Rate;

    use crate::{client_server::testing::server::TestServer, rate_limit::Rates, testing::rates};

    #[actix_web::test]
    async fn a_new_name_counts_once_however_many_rooms_show_it() {
        let once = Rate { per_second: 0.001, burst: 1.0 };
        let rates = Rates { joins_by_user: once, messages_by_user: once, ..rates(true) };
        let server = TestServer::with(rates).await;
        let (ann, bob) = (server.user("ann").await, server.user("bob").await);
        let rooms = [ann.room(json!({})).await, ann.room(json!({})).await, ann.room(json!({})).await];
        let path = "/profile/@ann:us.test/displayname";
        ann.put(path, json!({ "displayname": "Ann Otter" })).await;
        for room in &rooms {
            let member = ann.get(&format!("/rooms/{room}/state/m.room.member/@ann:us.test")).await;
            assert_eq!(member["displayname"], "Ann Otter");
        }
        let again = ann.put_refused(path, json!({ "displayname": "Ann" })).await;
        assert_eq!(again, (429, "M_LIMIT_EXCEEDED".to_owned()));
        // Joins are still free.
        let open = bob.room(json!({ "preset": "public_chat" })).await;
        ann.post(&format!("/join/{open}"), json!({})).await;
    }
}
