//! What of a room waits for the user's notice: knocks that they can accept and have not seen.
//! May not: count what the user cannot act on, or what their push rules keep from them.
//!
//! Messages are not counted yet.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>, and MSC4506

use std::sync::Arc;

use ruma::{OwnedEventId, RoomId, UserId, events::StateEventType};
use serde::Serialize;
use vestibule_protocol::{
    pdu::Pdu,
    room_version::RoomVersion,
    state::{PowerAction, StateMap},
};
use vestibule_storage::{
    error::StorageError,
    receipts::ReceiptThread,
    room::{RoomReader, StoredEvent},
};

use crate::{client_server::pushrules::PushRules, state::App};

/// Knocks that are looked at in one room. Ours: as many as a room has by default, and more than anybody counts.
const KNOCKS_MAX: usize = 1_000;

/// Numbers beside a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// Those of them that name the user.
    pub highlight_count: u64,
    /// All of them.
    pub notification_count: u64,
}

/// Pending knocks that came after what the user has read, if they can accept them.
///
/// # Errors
/// When the store cannot be read.
pub async fn unread(app: &App, room_id: &RoomId, user_id: &UserId) -> Result<Unread, StorageError> {
    let (rooms, receipts) = (&*app.stores.rooms, &*app.stores.receipts);
    let room = rooms.room(room_id).await?.filter(|room| room.counts.knock > 0);
    let Some(version) = room.and_then(|room| RoomVersion::lookup(&room.room_version)) else {
        return Ok(Unread::default());
    };
    let may_be_told = can_accept(rooms, room_id, user_id, &version).await?
        && PushRules::load(&*app.stores.accounts, user_id).await?.tell_of_knocks();
    if !may_be_told {
        return Ok(Unread::default());
    }
    let knocks = rooms.pending_knocks(Some(room_id), None, KNOCKS_MAX).await?;
    let knocks: Vec<OwnedEventId> = knocks.into_iter().map(|row| row.knock.event_id).collect();
    let read: Vec<OwnedEventId> = receipts
        .receipts_of(room_id, user_id)
        .await?
        .into_iter()
        .map(|stored| stored.receipt)
        .filter(|receipt| matches!(receipt.slot.thread, ReceiptThread::Unthreaded | ReceiptThread::Main))
        .map(|receipt| receipt.event_id)
        .collect();
    let orders = |events: Vec<Option<StoredEvent>>| events.into_iter().flatten().filter_map(|event| event.order);
    let read_up_to = orders(rooms.events(room_id, &read).await?).max();
    let unseen = orders(rooms.events(room_id, &knocks).await?).filter(|order| Some(*order) > read_up_to).count();
    Ok(Unread { highlight_count: 0, notification_count: u64::try_from(unseen).unwrap_or(u64::MAX) })
}

/// By the room's current state. Accepting a knock is inviting.
async fn can_accept(
    rooms: &dyn RoomReader,
    room_id: &RoomId,
    user_id: &UserId,
    version: &RoomVersion,
) -> Result<bool, StorageError> {
    let mut events: Vec<Arc<Pdu>> = Vec::new();
    for kind in [StateEventType::RoomCreate, StateEventType::RoomPowerLevels] {
        events.extend(rooms.current_state_event(room_id, &kind, "").await?.map(|stored| stored.event));
    }
    let state: StateMap = events.into_iter().collect();
    Ok(state.power_of(user_id, version) >= state.power_for(PowerAction::Invite, version))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::client_server::testing::server::{Client, TestServer};

    /// What the newest sync of a user says.
    async fn count(client: &Client<'_>, room: &str) -> Value {
        client.get("/sync").await["rooms"]["join"][room]["unread_notifications"].clone()
    }

    #[actix_web::test]
    async fn who_can_accept_is_told_of_knocks_and_nobody_else() {
        let server = TestServer::start().await;
        let (owner, member) = (server.user("owner").await, server.user("member").await);
        let room = owner
            .room(json!({
                "room_version": "11", "preset": "private_chat", "power_level_content_override": { "invite": 50 },
                "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }],
            }))
            .await;
        let of = |count: u64| json!({ "highlight_count": 0, "notification_count": count });
        let id = |client: Value| client["user_id"].as_str().unwrap().to_owned();
        let member_id = id(member.get("/account/whoami").await);
        owner.post(&format!("/rooms/{room}/invite"), json!({ "user_id": member_id })).await;
        member.post(&format!("/rooms/{room}/join"), json!({})).await;
        assert_eq!(count(&owner, &room).await, of(0));

        let since = owner.get("/sync").await["next_batch"].as_str().unwrap().to_owned();
        let (anna, bert) = (server.user("anna").await, server.user("bert").await);
        anna.post(&format!("/knock/{room}"), json!({})).await;
        let news = owner.get(&format!("/sync?since={since}")).await;
        let told = &news["rooms"]["join"][&room];
        assert_eq!(told["unread_notifications"], of(1));
        assert_eq!(count(&member, &room).await, of(0));

        // Read is read; what comes later is new.
        let knock = told["timeline"]["events"][0]["event_id"].as_str().unwrap().to_owned();
        owner.post(&format!("/rooms/{room}/receipt/m.read.private/{knock}"), json!({})).await;
        assert_eq!(count(&owner, &room).await, of(0));
        bert.post(&format!("/knock/{room}"), json!({})).await;
        assert_eq!(count(&owner, &room).await, of(1));

        // An off switch for each.
        let rule = "/pushrules/global/override/.org.matrix.msc4506.rule.knock/enabled";
        owner.put(rule, json!({ "enabled": false })).await;
        assert_eq!(count(&owner, &room).await, of(0));
        owner.put(rule, json!({ "enabled": true })).await;
        assert_eq!(count(&owner, &room).await, of(1));

        // Power that comes makes it the user's business, and an answer ends it.
        let levels = format!("/rooms/{room}/state/m.room.power_levels/");
        let mut content = owner.get(&levels).await;
        content["users"][&member_id] = json!(50);
        owner.put(&levels, content).await;
        assert_eq!(count(&member, &room).await, of(2));
        for knocker in [&anna, &bert] {
            let knocker = id(knocker.get("/account/whoami").await);
            member.post(&format!("/rooms/{room}/kick"), json!({ "user_id": knocker })).await;
        }
        assert_eq!(count(&member, &room).await, of(0));
        assert_eq!(count(&owner, &room).await, of(0));
    }
}
