//! Ends a knock elsewhere that has no chance any more, for our user alone: the room's servers do not know the room, or do not
//! let it be knocked on.
//! May not: tell them anything. If they think otherwise after all, an invite of theirs still counts.

use ruma::{CanonicalJsonObject, OwnedEventId, OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::membership::MembershipRefusal;
use vestibule_storage::room::{Decision, DecisionAction, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, settle_knock::Settled};

/// Why a knock is abandoned, as the user reads it.
const ABANDONED: &str = "the room is gone or cannot be knocked on any more";

/// Asks for the end of a knock elsewhere.
#[derive(Clone, Debug)]
pub struct AbandonKnock {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub event_id: OwnedEventId,
}

impl RoomMessage for AbandonKnock {
    type Reply = Settled;
    type Refusal = MembershipRefusal;
    const KIND: &'static str = "abandon_knock";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let standing = room.out_of_band.get(&self.user_id).cloned();
        let Some(standing) = standing.filter(|standing| {
            standing.event.event_id() == self.event_id
                && standing.membership == MembershipState::Knock
                && standing.progress == Progress::Settled
        }) else {
            return Turn::Answer(Settled::Overtaken);
        };
        let content: CanonicalJsonObject = [("reason".to_owned(), ABANDONED.into())].into_iter().collect();
        let left = match room.left_out_of_band(&self.user_id, standing, content, lookups.asked_at()) {
            Ok(left) => left,
            Err(refusal) => return Turn::Refuse(refusal, Box::default()),
        };
        let mut change = RoomChange::default();
        change.push_decision(Decision {
            at: room.now(),
            room_id: room.room_id().to_owned(),
            user_id: self.user_id.clone(),
            origin: self.user_id.server_name().to_owned(),
            by: None,
            action: DecisionAction::Denied,
            reason: Some(ABANDONED.to_owned()),
            event_id: Some(left.event.event_id().to_owned()),
        });
        room.set_out_of_band(self.user_id.clone(), left, &mut change);
        Turn::Commit(Box::new(change), Settled::Gone)
    }
}
