//! What a user may see of a room: the one place that every read asks.
//! May not: be bypassed. Timeline, single events, context, state and members all go through [`Sight`].

use ruma::{
    OwnedUserId, RoomId, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;
use vestibule_protocol::{pdu::Pdu, state::StateVersion, stream::TimelineOrder};
use vestibule_storage::{
    error::StorageError,
    room::{Direction, RoomReader, StoredEvent},
};

/// A user's view of one room, judged by how that user's membership went.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
#[derive(Clone, Debug)]
pub struct Sight {
    user_id: OwnedUserId,
    /// Oldest first.
    history: Vec<(TimelineOrder, MembershipState)>,
    current: Option<MembershipState>,
    is_forgotten: bool,
    is_world_readable: bool,
}

/// Which state of a room a user may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All of it, as it is now.
    Current,
    /// As it was when the user was last in the room: after the event at this place.
    UntilLeft(TimelineOrder),
    /// Nothing.
    Nothing,
}

#[derive(Deserialize)]
struct VisibilityContent {
    history_visibility: HistoryVisibility,
}

impl Sight {
    /// Reads what is needed to judge.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(rooms: &dyn RoomReader, room_id: &RoomId, user_id: &UserId) -> Result<Self, StorageError> {
        let membership = rooms.membership(user_id, room_id).await?;
        let mut history = rooms.membership_history(user_id, room_id).await?;
        if let Some(membership) = membership.as_ref().filter(|now| tells_more(&history, &now.membership)) {
            let newest = rooms.timeline_at(room_id, membership.position).await?;
            history.extend(newest.and_then(|event| event.order).map(|order| (order, membership.membership.clone())));
        }
        let visibility = rooms.current_state_event(room_id, &StateEventType::RoomHistoryVisibility, "").await?;
        Ok(Self {
            user_id: user_id.to_owned(),
            history,
            // A forgotten room is one that was left: whoever is back in it has not forgotten it.
            is_forgotten: membership.as_ref().is_some_and(|membership| {
                let is_gone = matches!(membership.membership, MembershipState::Leave | MembershipState::Ban);
                membership.forgotten && is_gone
            }),
            current: membership.map(|membership| membership.membership),
            is_world_readable: visibility
                .is_some_and(|event| visibility_of(&event.event) == Some(HistoryVisibility::WorldReadable)),
        })
    }

    /// For tests: a user whose membership went so, in a room that is not world readable.
    #[cfg(test)]
    pub fn of_history(user_id: &UserId, history: &[(i64, MembershipState)]) -> Self {
        Self {
            user_id: user_id.to_owned(),
            history: history.iter().map(|(order, membership)| (TimelineOrder(*order), membership.clone())).collect(),
            current: history.last().map(|(_, membership)| membership.clone()),
            is_forgotten: false,
            is_world_readable: false,
        }
    }

    /// Whether the user was inside at some moment after the event at `order`, or right after it; `None`: ever.
    pub fn was_inside_since(&self, order: Option<TimelineOrder>) -> bool {
        match order {
            None => self.history.iter().any(|(_, membership)| *membership == MembershipState::Join),
            Some(order) => self.membership_after(order) == Some(&MembershipState::Join) || self.was_joined_after(order),
        }
    }

    /// The user is in the room.
    pub fn is_joined(&self) -> bool {
        self.current == Some(MembershipState::Join)
    }

    /// Which state of the room the user may read.
    ///
    /// Those inside read what is there now, and so does everybody where history is world readable. Who was inside reads what
    /// was there at leaving, until the room is forgotten. Who asks to be let in reads nothing, whatever was before.
    pub fn access(&self) -> Access {
        if self.is_joined() || self.is_world_readable {
            return Access::Current;
        }
        if self.is_forgotten || self.current == Some(MembershipState::Knock) {
            return Access::Nothing;
        }
        self.left_at().map_or(Access::Nothing, Access::UntilLeft)
    }

    /// Where the user last left the room, in the timeline. `None`: never was inside, or is.
    pub fn left_at(&self) -> Option<TimelineOrder> {
        let last_join = self.history.iter().rposition(|(_, membership)| *membership == MembershipState::Join)?;
        self.history.get(last_join.saturating_add(1)).map(|(left_at, _)| *left_at)
    }

    /// The version of the state that the user may read. `None`: none, or nothing is stored there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn state_version(
        &self,
        rooms: &dyn RoomReader,
        room_id: &RoomId,
    ) -> Result<Option<StateVersion>, StorageError> {
        match self.access() {
            Access::Nothing => Ok(None),
            Access::Current => Ok(rooms.room(room_id).await?.map(|room| room.current)),
            Access::UntilLeft(left_at) => version_after(rooms, room_id, left_at).await,
        }
    }

    /// Whether the user may see an event of the timeline. Events that are not in the timeline (rejected, soft-failed,
    /// outliers) are seen by nobody.
    pub fn may_see(&self, event: &StoredEvent) -> bool {
        let Some(order) = event.order else { return false };
        let pdu = &event.event;
        // One's own membership is always shown: whoever was turned away must learn of it.
        if is_member_event_of(pdu, &self.user_id) {
            return true;
        }
        // A change of the visibility itself is judged by the wider of before and after.
        let after = (*pdu.kind() == TimelineEventType::RoomHistoryVisibility && pdu.state_key() == Some(""))
            .then(|| visibility_of(pdu))
            .flatten();
        self.allows(&event.visibility, order) || after.is_some_and(|after| self.allows(&after, order))
    }

    /// The user's membership when an event was sent; for the user's own member event the one that it makes.
    pub fn membership_at(&self, event: &StoredEvent) -> Option<MembershipState> {
        if is_member_event_of(&event.event, &self.user_id) {
            return event.event.membership();
        }
        event.order.map(|order| self.membership_before(order).cloned().unwrap_or(MembershipState::Leave))
    }

    /// The user's membership after the event at `order`. `None`: none until then.
    pub fn membership_after(&self, order: TimelineOrder) -> Option<&MembershipState> {
        let later = self.history.partition_point(|(at, _)| *at <= order);
        later.checked_sub(1).and_then(|index| self.history.get(index)).map(|(_, membership)| membership)
    }

    fn membership_before(&self, order: TimelineOrder) -> Option<&MembershipState> {
        let later = self.history.partition_point(|(at, _)| *at < order);
        later.checked_sub(1).and_then(|index| self.history.get(index)).map(|(_, membership)| membership)
    }

    fn allows(&self, visibility: &HistoryVisibility, order: TimelineOrder) -> bool {
        if *visibility == HistoryVisibility::WorldReadable {
            return true;
        }
        if self.is_forgotten || self.current == Some(MembershipState::Knock) {
            return false;
        }
        let then = self.membership_before(order);
        if then == Some(&MembershipState::Join) {
            return true;
        }
        match visibility {
            HistoryVisibility::Joined => false,
            HistoryVisibility::Invited => then == Some(&MembershipState::Invite),
            // `shared`, and whatever we do not know, which the specification tells us to treat as `shared`.
            _ => self.was_joined_after(order),
        }
    }

    fn was_joined_after(&self, order: TimelineOrder) -> bool {
        self.history.iter().any(|(at, membership)| *at > order && *membership == MembershipState::Join)
    }
}

/// The version of the room's state after the timeline event at `order`, or after the nearest one before it.
///
/// # Errors
/// When the store cannot be read.
pub async fn version_after(
    rooms: &dyn RoomReader,
    room_id: &RoomId,
    order: TimelineOrder,
) -> Result<Option<StateVersion>, StorageError> {
    let newest = rooms.timeline(room_id, Some(order), Direction::Backward, 1).await?;
    Ok(newest.first().map(|event| event.current_after))
}

/// Whether the membership now is another than the last one with a place in the timeline. State resolution can change a
/// membership without a new event of it: then the event that made it resolve so is its place.
fn tells_more(history: &[(TimelineOrder, MembershipState)], now: &MembershipState) -> bool {
    history.last().is_none_or(|(_, last)| last != now)
}

fn is_member_event_of(pdu: &Pdu, user_id: &UserId) -> bool {
    *pdu.kind() == TimelineEventType::RoomMember && pdu.state_key() == Some(user_id.as_str())
}

fn visibility_of(pdu: &Pdu) -> Option<HistoryVisibility> {
    pdu.content_as::<VisibilityContent>().map(|content| content.history_visibility)
}

#[cfg(test)]
#[path = "visibility/tests.rs"]
mod tests;
