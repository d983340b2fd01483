//! One user's view of one room: what of its state may be read, and how it is shown.
//! May not: be asked for anything that [`Sight`] does not allow; every read of state goes through here.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedEventId, OwnedUserId, RoomId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::value::RawValue;
use vestibule_protocol::{
    clock::UnixMillis,
    state::{StateKey, StateVersion},
    stream::{PageToken, TimelineOrder},
};
use vestibule_storage::{
    error::StorageError,
    room::{Direction, RoomReader, StoredEvent},
};

use super::{
    client_event::{RoomIdForm, Surroundings, Viewer, client_event, client_events},
    rooms_send::not_in_room,
    visibility::{Access, Sight},
};
use crate::{error::MatrixError, extract::Caller, state::App};

/// Whose view of what.
pub struct RoomView<'a> {
    /// The store.
    pub rooms: &'a dyn RoomReader,
    /// The room.
    pub room_id: &'a RoomId,
    /// What the user may see of it.
    pub sight: Sight,
    caller: &'a Caller,
    now: UnixMillis,
}

impl<'a> RoomView<'a> {
    /// Reads what is needed to judge what the user may see. Rooms that are not stored show nothing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(app: &'a App, caller: &'a Caller, room_id: &'a RoomId) -> Result<Self, StorageError> {
        let rooms = &*app.stores.rooms;
        let sight = Sight::load(rooms, room_id, &caller.user_id).await?;
        Ok(Self { rooms, room_id, sight, caller, now: app.clock.now() })
    }

    /// Whom events are shown to.
    pub fn viewer(&self) -> Viewer<'_> {
        Viewer { user_id: &self.caller.user_id, device_id: &self.caller.device_id, sight: &self.sight, now: self.now }
    }

    /// Events of the timeline as the client sees them, in their order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn shown_timeline(&self, events: &[StoredEvent]) -> Result<Vec<Box<RawValue>>, StorageError> {
        let around = Surroundings::of_timeline(self.rooms, self.room_id, events).await?;
        Ok(client_events(events, self.viewer(), &around, RoomIdForm::Named))
    }

    /// Events of the state as the client sees them, in their order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn shown_state(&self, events: &[StoredEvent]) -> Result<Vec<Box<RawValue>>, StorageError> {
        let around = Surroundings::of_state(self.rooms, self.room_id, events).await?;
        Ok(client_events(events, self.viewer(), &around, RoomIdForm::Named))
    }

    /// One event as the client sees it.
    ///
    /// # Errors
    /// When the store cannot be read, or the stored event cannot be shown.
    pub async fn shown_one(&self, event: &StoredEvent) -> Result<Box<RawValue>, MatrixError> {
        let around = Surroundings::of_timeline(self.rooms, self.room_id, std::slice::from_ref(event)).await?;
        client_event(event, self.viewer(), &around, RoomIdForm::Named).ok_or_else(MatrixError::internal)
    }

    /// Where the timeline ends for the user. `None`: where it ends for all.
    ///
    /// # Errors
    /// 403 when the user may read nothing.
    pub fn timeline_end(&self) -> Result<Option<TimelineOrder>, MatrixError> {
        match self.sight.access() {
            Access::Nothing => Err(not_in_room()),
            Access::Current => Ok(None),
            Access::UntilLeft(left_at) => Ok(Some(left_at)),
        }
    }

    /// The place in the timeline that a token stands for, no later than the user's end of it. `None`: before everything.
    ///
    /// # Errors
    /// 403 when the user may read nothing; 400 for text that is no token.
    pub async fn place_of(&self, token: &str) -> Result<Option<TimelineOrder>, MatrixError> {
        let end = self.timeline_end()?;
        let token = token.parse::<PageToken>().map_err(|error| MatrixError::invalid_param(error.to_string()))?;
        let place = match token {
            PageToken::Timeline(order) => Some(order),
            PageToken::Sync(sync) => {
                self.rooms.timeline_at(self.room_id, sync.position).await?.and_then(|event| event.order)
            }
        };
        Ok(match (place, end) {
            (Some(place), Some(end)) => Some(place.min(end)),
            (place, _) => place,
        })
    }

    /// The state that the user may read: now, or (`at` a token of a timeline) as it was then.
    ///
    /// # Errors
    /// 403 when the user may read none, or none there; 400 for text that is no token.
    pub async fn state(&self, at: Option<&str>) -> Result<ReadableState<'_>, MatrixError> {
        let version = match at {
            Some(token) => self.version_at(token).await?,
            None if self.sight.access() == Access::Current => return Ok(ReadableState { view: self, version: None }),
            None => self.sight.state_version(self.rooms, self.room_id).await?,
        };
        let version = version.ok_or_else(not_in_room)?;
        Ok(ReadableState { view: self, version: Some(version) })
    }

    /// The state where a token stands, if the user may see the event there: whoever came later does not read it.
    async fn version_at(&self, token: &str) -> Result<Option<StateVersion>, MatrixError> {
        let Some(place) = self.place_of(token).await? else { return Ok(None) };
        let newest = self.rooms.timeline(self.room_id, Some(place), Direction::Backward, 1).await?;
        Ok(newest.first().filter(|event| self.sight.may_see(event)).map(|event| event.current_after))
    }

    /// The member events of users as they are in a state, for clients that load members lazily.
    ///
    /// # Errors
    /// As [`RoomView::state`].
    pub async fn members(&self, users: BTreeSet<OwnedUserId>) -> Result<Vec<StoredEvent>, MatrixError> {
        let state = self.state(None).await?;
        let keys = users.into_iter().map(|user| (StateEventType::RoomMember, user.to_string())).collect();
        Ok(state.of_keys(keys).await?)
    }
}

/// A state that the user may read.
pub struct ReadableState<'a> {
    view: &'a RoomView<'a>,
    /// `None`: the current one.
    version: Option<StateVersion>,
}

impl ReadableState<'_> {
    /// All of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn all(&self) -> Result<Vec<StoredEvent>, StorageError> {
        match self.version {
            None => self.view.rooms.current_state(self.view.room_id).await,
            Some(version) => self.picked(version, |_| true).await,
        }
    }

    /// All events of a type.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of_type(&self, kind: &StateEventType) -> Result<Vec<StoredEvent>, StorageError> {
        match self.version {
            None => self.view.rooms.current_state_of_type(self.view.room_id, kind).await,
            Some(version) => self.picked(version, |key| key.0 == *kind).await,
        }
    }

    /// The event of one key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of_key(&self, kind: &StateEventType, state_key: &str) -> Result<Option<StoredEvent>, StorageError> {
        match self.version {
            None => self.view.rooms.current_state_event(self.view.room_id, kind, state_key).await,
            Some(version) => {
                let found = self.picked(version, |key| key.0 == *kind && key.1 == state_key).await?;
                Ok(found.into_iter().next())
            }
        }
    }

    /// The events of some keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of_keys(&self, keys: BTreeSet<StateKey>) -> Result<Vec<StoredEvent>, StorageError> {
        match self.version {
            None => {
                let mut found = Vec::new();
                for (kind, state_key) in &keys {
                    found.extend(self.view.rooms.current_state_event(self.view.room_id, kind, state_key).await?);
                }
                Ok(found)
            }
            Some(version) => self.picked(version, |key| keys.contains(key)).await,
        }
    }

    async fn picked(
        &self,
        version: StateVersion,
        is_wanted: impl Fn(&StateKey) -> bool,
    ) -> Result<Vec<StoredEvent>, StorageError> {
        let state: BTreeMap<StateKey, OwnedEventId> =
            self.view.rooms.state_at(self.view.room_id, version).await?.unwrap_or_default();
        let ids: Vec<OwnedEventId> = state.into_iter().filter(|(key, _)| is_wanted(key)).map(|(_, id)| id).collect();
        events_of(self.view.rooms, self.view.room_id, &ids).await
    }
}

/// Events by id, in the order asked; those not stored are left out.
///
/// # Errors
/// When the store cannot be read.
pub async fn events_of(
    rooms: &dyn RoomReader,
    room_id: &RoomId,
    ids: &[OwnedEventId],
) -> Result<Vec<StoredEvent>, StorageError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(rooms.events(room_id, ids).await?.into_iter().flatten().collect())
}

/// The senders of events, whose member events a lazy client needs. Senders whose own member event is among them are left
/// out: the client learns of those from there.
pub fn senders_without_member_event(events: &[StoredEvent]) -> BTreeSet<OwnedUserId> {
    let told: BTreeSet<&str> = events
        .iter()
        .filter(|event| *event.event.kind() == TimelineEventType::RoomMember)
        .filter_map(|event| event.event.state_key())
        .collect();
    let senders = events.iter().map(|event| event.event.sender());
    senders.filter(|sender| !told.contains(sender.as_str())).map(ToOwned::to_owned).collect()
}
