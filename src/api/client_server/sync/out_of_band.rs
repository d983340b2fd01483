//! What a user is told of a room that this server is not in: the knock or invite there, and how it ended.
//! May not: tell of a knock that is still being asked for, fail as a whole because of one odd entry (V06), or take anything
//! from a copy of the room in which nobody of ours is any more.

use std::sync::Arc;

use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::to_raw_value};
use vestibule_protocol::{
    pdu::Pdu,
    state::{StateVersion, stripped::strip},
};
use vestibule_storage::{
    error::StorageError,
    room::{OutOfBand, Progress, RoomReader, StoredEvent, UserMembership},
};

use super::answer::Events;

/// Stripped events of one room that a client is shown. Ours: the allow-list has seven types, and the rest are the few members
/// that an invite may bring along.
const SHOWN_MAX: usize = 32;

/// One stripped event. It came from another server: it was judged when it was taken in, and is judged again here, since what
/// is odd in it must not make the whole sync unreadable.
#[derive(Deserialize, Serialize)]
struct Shown {
    content: Map<String, Value>,
    sender: OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

/// A membership in a room elsewhere, with whose it is.
pub struct Elsewhere<'a> {
    user_id: &'a UserId,
    out_of_band: OutOfBand,
}

impl<'a> Elsewhere<'a> {
    /// The out-of-band row that `membership` stands for. `None`: the membership is a stored room's own.
    ///
    /// Which of the two it is, the member event says: a room that is stored may be a dead copy, and a row may be older than
    /// the join that ended it, or so new that the other side does not have it yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of(
        rooms: &dyn RoomReader,
        user_id: &'a UserId,
        membership: &UserMembership,
    ) -> Result<Option<Self>, StorageError> {
        let row = rooms.out_of_band_of(user_id, &membership.room_id).await?;
        let row = row.filter(|row| row.progress == Progress::Settled && row.event.event_id() == membership.event_id);
        Ok(row.map(|out_of_band| Self { user_id, out_of_band }))
    }

    /// What the other server showed of the room, and at its end the user's own member event.
    pub fn stripped(&self) -> Events {
        let shown = self.out_of_band.stripped.iter().filter_map(|text| serde_json::from_str::<Shown>(text).ok());
        // The user's own event is told by this server, which verified it, whatever the entries say.
        let shown = shown.filter(|event| !(event.kind == MEMBER && event.state_key == self.user_id.as_str()));
        let shown = shown.take(SHOWN_MAX).filter_map(|event| to_raw_value(&event).ok());
        let own = self.own().and_then(|event| strip(event));
        Events { events: shown.chain(own).collect() }
    }

    /// The event that ended the knock or the invite, in the form in which events of a timeline are shown. `None` when what
    /// is stored is no such event.
    pub fn ending(&self, membership: &UserMembership) -> Option<StoredEvent> {
        let event = self
            .own()
            .filter(|event| matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban)))?;
        Some(StoredEvent {
            event: event.clone(),
            order: None,
            position: membership.position,
            // There is no state of a room that is not here.
            state_before: StateVersion(0),
            current_after: StateVersion(0),
            visibility: HistoryVisibility::Joined,
            received_at: self.out_of_band.since,
            redacted_by: None,
            transaction: None,
        })
    }

    fn own(&self) -> Option<&Arc<Pdu>> {
        let event = &self.out_of_band.event;
        let key = event.state_entry()?;
        (key == (StateEventType::RoomMember, self.user_id.to_string())).then_some(event)
    }
}

const MEMBER: &str = "m.room.member";

#[cfg(test)]
#[path = "out_of_band/tests.rs"]
mod tests;
