//! `POST /_matrix/client/v3/rooms/{roomId}/upgrade`: replaces a room by one of another version.
//! May not: close the old room before the new one is durable, or leave a repeated request with two new rooms.
//!
//! The order: new room (one commit) → tombstone → aliases and directory (one commit) → the old room's own aliases and power
//! levels. A program that ends before the tombstone leaves a room in which only its maker is, and the old room as it was;
//! one that ends later leaves a room that is replaced, and the same request, made again, does what is missing and answers the
//! same room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

mod old_room;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedUserId, RoomId,
    api::client::room::upgrade_room,
    events::{StateEventType, TimelineEventType},
};
use tokio::sync::OwnedMutexGuard;
use vestibule_actors::{AskError, CreateRoom, InitialEvent, MembershipChange, PrepareUpgrade, SendEvent};
use vestibule_protocol::{
    room_upgrade::{TakenState, Upgrade},
    room_version::{Hosting, RoomVersion},
};
use vestibule_storage::room::Direction;

use self::old_room::OldRoom;
use super::{
    create_room::drawn_room_id,
    member_content::profile_content,
    paths::each,
    rooms_membership::{WantedChange, change_counted},
    rooms_send::hidden_room,
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    state::App,
};

/// What the tombstone says to people.
const TOMBSTONE_WORDS: &str = "This room has been replaced";

/// Upgrades go one after another in each room; start with the default.
#[derive(Debug, Default)]
pub struct Upgrades {
    turns: Mutex<BTreeMap<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Upgrades {
    async fn turn(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(room_id.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for room in each("/rooms/{room_id}") {
        config.service(web::resource(format!("{room}/upgrade")).post(upgrade));
    }
}

async fn upgrade(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<upgrade_room::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let new_version = RoomVersion::lookup(&request.new_version)
        .filter(|version| version.hosting() == Hosting::Hosted)
        .ok_or_else(MatrixError::unsupported_room_version)?;
    let wish = Wish {
        user_id: caller.user_id,
        old_room: request.room_id,
        new_version,
        additional_creators: request.additional_creators,
        address,
    };
    // On a task of its own: who hangs up must not leave two rooms side by side.
    let task = actix_web::rt::spawn(async move { wish.fulfil(&app).await });
    let new_room = task.await.map_err(|_| MatrixError::internal())??;
    answer(upgrade_room::v3::Response::new(new_room))
}

struct Wish {
    user_id: OwnedUserId,
    old_room: OwnedRoomId,
    new_version: RoomVersion,
    additional_creators: Vec<OwnedUserId>,
    address: ClientAddress,
}

impl Wish {
    async fn fulfil(self, app: &App) -> Result<OwnedRoomId, MatrixError> {
        let old_room = OldRoom { app, room_id: &self.old_room, user_id: &self.user_id };
        let tombstone_before = old_room.tombstone().await?;
        let _turn = app.upgrades.turn(&self.old_room).await;
        let replaceable = PrepareUpgrade { sender: self.user_id.clone() };
        let replaceable = app.rooms.ask(&self.old_room, replaceable).await.map_err(hidden_room)?;
        let tombstone = replaceable.state.get(&StateEventType::RoomTombstone, "").cloned();
        let newest = app.stores.rooms.timeline(&self.old_room, None, Direction::Backward, 1).await?;
        let upgrade = Upgrade {
            old: replaceable.state,
            old_version: replaceable.version,
            new_version: self.new_version.clone(),
            user_id: self.user_id.clone(),
            additional_creators: self.additional_creators.clone(),
            last_event: newest.first().map(|event| event.event.event_id().to_owned()),
            aliases: old_room.movable_aliases().await?.into_iter().map(|alias| alias.alias).collect(),
        };
        if let Some(tombstone) = tombstone {
            if let Some(new_room) = old_room.replaced_by(&upgrade, &tombstone).await? {
                old_room.settle(&new_room).await?;
                return Ok(new_room);
            }
            if tombstone_before.as_deref() != Some(tombstone.event_id()) {
                return Err(MatrixError::bad_state("somebody else has just replaced this room"));
            }
        }
        app.limits.rooms_by_user.take(&self.user_id, &*app.clock)?;
        let new_room = self.create(app, upgrade).await?;
        self.bury(app, &new_room).await?;
        old_room.settle(&new_room).await?;
        Ok(new_room)
    }

    async fn create(&self, app: &App, upgrade: Upgrade) -> Result<OwnedRoomId, MatrixError> {
        let create_content = upgrade.create_content();
        // Bans are looked for among all members there ever were.
        let taken = app.cpu.run(move || upgrade.state()).await??;
        let initial = taken.into_iter().map(|taken| self.initial_event(taken)).collect();
        let is_named_by_hash = self.new_version.room_id_is_create_hash();
        let message = CreateRoom {
            creator: self.user_id.clone(),
            room_version: self.new_version.id().clone(),
            room_id: if is_named_by_hash { None } else { Some(drawn_room_id(app)?) },
            create_content,
            creator_content: profile_content(&*app.stores.accounts, &self.user_id).await?,
            initial,
        };
        Ok(app.rooms.create(message).await?)
    }

    fn initial_event(&self, taken: TakenState) -> InitialEvent {
        InitialEvent {
            sender: self.user_id.clone(),
            kind: TimelineEventType::from(taken.kind.to_string()),
            state_key: Some(taken.state_key),
            content: taken.content,
        }
    }

    /// Sends the tombstone. If the room surely does not take it, since its rules have changed, its policy server does not want it
    /// or its mailbox is full, the new room is nobody's: its maker leaves it.
    async fn bury(&self, app: &App, new_room: &RoomId) -> Result<(), MatrixError> {
        let message = SendEvent {
            sender: self.user_id.clone(),
            kind: TimelineEventType::RoomTombstone,
            state_key: Some(String::new()),
            content: CanonicalJsonObject::from([
                ("body".to_owned(), TOMBSTONE_WORDS.into()),
                ("replacement_room".to_owned(), new_room.as_str().into()),
            ]),
            redacts: None,
            transaction: None,
        };
        let Err(error) = app.rooms.ask(&self.old_room, message).await else { return Ok(()) };
        if matches!(error, AskError::Refused(_) | AskError::RoomNotHere | AskError::Overloaded) {
            let leave = WantedChange {
                sender: self.user_id.clone(),
                room_id: new_room,
                target: self.user_id.clone(),
                change: MembershipChange::Leave,
                content: CanonicalJsonObject::new(),
                address: self.address,
            };
            if let Err(error) = change_counted(app, leave).await {
                log::warn!(room_id:% = new_room, error:%; "a room that replaces none was not left");
            }
        }
        Err(hidden_room(error))
    }
}
