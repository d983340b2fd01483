//! The room that is replaced: what points at it, and what is done to it once its tombstone stands.
//! May not: do anything that cannot be done twice; after a crash it is all done again.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, RoomId, UserId,
    events::{StateEventType, TimelineEventType, room::tombstone::RoomTombstoneEventContent},
};
use vestibule_actors::SendEvent;
use vestibule_protocol::{
    pdu::Pdu,
    room_upgrade::{Upgrade, closed_power_levels},
};
use vestibule_storage::{
    accounts::{AccountChange, Alias},
    commit::{Commit, CommitError, Conflict},
    error::StorageError,
};

use crate::{
    client_server::directory::{alias::aliases_in, forget_in_room, standing::Standing},
    error::MatrixError,
    state::App,
};

/// Times that aliases are read anew because one of them went meanwhile. Ours.
const ATTEMPTS_MAX: usize = 5;

/// A room and who replaces it.
pub struct OldRoom<'a> {
    pub app: &'a App,
    pub room_id: &'a RoomId,
    pub user_id: &'a UserId,
}

impl OldRoom<'_> {
    /// The tombstone that stands.
    pub async fn tombstone(&self) -> Result<Option<OwnedEventId>, StorageError> {
        let stored =
            self.app.stores.rooms.current_state_event(self.room_id, &StateEventType::RoomTombstone, "").await?;
        Ok(stored.map(|stored| stored.event.event_id().to_owned()))
    }

    /// The room that a tombstone leads to, if it is the one that this very upgrade makes.
    pub async fn replaced_by(
        &self,
        upgrade: &Upgrade,
        tombstone: &Arc<Pdu>,
    ) -> Result<Option<OwnedRoomId>, StorageError> {
        let content = tombstone.content_as::<RoomTombstoneEventContent>();
        let Some(new_room) = content.map(|content| content.replacement_room) else { return Ok(None) };
        let create = self.app.stores.rooms.current_state_event(&new_room, &StateEventType::RoomCreate, "").await?;
        Ok(create.is_some_and(|create| upgrade.has_made(&create.event)).then_some(new_room))
    }

    /// The aliases of this server that the user may move: all of them for who may name the room, else the user's own.
    /// Source: SECURITY V47.
    pub async fn movable_aliases(&self) -> Result<Vec<Alias>, StorageError> {
        let may_move_all = self.may_name_room().await?;
        let mut aliases = self.app.stores.accounts.aliases_of(self.room_id).await?;
        aliases.retain(|alias| may_move_all || alias.creator == self.user_id);
        Ok(aliases)
    }

    async fn may_name_room(&self) -> Result<bool, StorageError> {
        Ok(Standing::load(&*self.app.stores.rooms, self.room_id, self.user_id).await?.may_name_room())
    }

    /// Leads everybody to the new room who asks for the old one, and quiets the old one as far as the user may.
    ///
    /// # Errors
    /// When aliases or directory could not be written. What the room itself refuses is its right.
    pub async fn settle(&self, new_room: &RoomId) -> Result<(), MatrixError> {
        self.move_directory(new_room).await?;
        self.forget_aliases(new_room).await?;
        self.close().await
    }

    /// Aliases and the entry in the room directory, in one commit.
    async fn move_directory(&self, new_room: &RoomId) -> Result<(), MatrixError> {
        let stores = &self.app.stores;
        for _ in 0..ATTEMPTS_MAX {
            let moving = self.movable_aliases().await?.into_iter().flat_map(|alias| {
                let moved = Alias { room_id: new_room.to_owned(), ..alias.clone() };
                [AccountChange::DeleteAlias(alias.alias), AccountChange::CreateAlias(moved)]
            });
            let mut changes: Vec<AccountChange> = moving.collect();
            if self.may_name_room().await? && stores.accounts.is_published(self.room_id).await? {
                let listed = |room_id: &RoomId, is_published| AccountChange::SetPublished {
                    room_id: room_id.to_owned(),
                    is_published,
                };
                changes.extend([listed(self.room_id, false), listed(new_room, true)]);
            }
            if changes.is_empty() {
                return Ok(());
            }
            let slot = stores.writer.reserve()?;
            match stores.writer.enqueue(slot, Commit::Accounts(changes)).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict(Conflict::NoSuchAlias)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        log::error!(room_id:% = self.room_id; "aliases of a replaced room did not stay for long enough to be moved");
        Err(MatrixError::internal())
    }

    /// Takes the aliases that lead to the new room now out of the old one's list.
    async fn forget_aliases(&self, new_room: &RoomId) -> Result<(), MatrixError> {
        let listed = self.content(&StateEventType::RoomCanonicalAlias).await?.unwrap_or_default();
        let mut moved: Vec<OwnedRoomAliasId> = Vec::new();
        for alias in aliases_in(&listed) {
            let Ok(alias) = OwnedRoomAliasId::try_from(alias) else { continue };
            let found = self.app.stores.accounts.alias(&alias).await?;
            if found.is_some_and(|found| found.room_id == new_room) {
                moved.push(alias);
            }
        }
        if !moved.is_empty() {
            forget_in_room(self.app, self.user_id, self.room_id, &moved).await;
        }
        Ok(())
    }

    /// Power levels with which the room falls silent.
    async fn close(&self) -> Result<(), MatrixError> {
        let levels = self.content(&StateEventType::RoomPowerLevels).await?;
        let Some(content) = levels.and_then(closed_power_levels) else { return Ok(()) };
        let message = SendEvent {
            sender: self.user_id.to_owned(),
            kind: TimelineEventType::RoomPowerLevels,
            state_key: Some(String::new()),
            content,
            redacts: None,
            transaction: None,
        };
        if let Err(error) = self.app.rooms.ask(self.room_id, message).await.map_err(MatrixError::from) {
            log::debug!(room_id:% = self.room_id, error:%; "a replaced room was not closed");
        }
        Ok(())
    }

    async fn content(&self, kind: &StateEventType) -> Result<Option<CanonicalJsonObject>, StorageError> {
        let stored = self.app.stores.rooms.current_state_event(self.room_id, kind, "").await?;
        Ok(stored.and_then(|stored| stored.event.content_object()))
    }
}
