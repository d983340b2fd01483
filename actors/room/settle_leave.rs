//! Notes that the servers of a room elsewhere have the leave of a user of ours.
//! May not: undo what came after that leave. An invite may cross it on the way.

use std::sync::Arc;

use ruma::{OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::{
    membership::{MembershipRefusal, crossing::ends_invite},
    pdu::Pdu,
};
use vestibule_storage::room::{OutOfBand, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// A leave that a server of the room has taken.
#[derive(Clone, Debug)]
pub struct SettleLeave {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The leave, as it stands in the room.
    pub leave: Arc<Pdu>,
}

impl RoomMessage for SettleLeave {
    type Reply = ();
    type Refusal = MembershipRefusal;
    const KIND: &'static str = "settle_leave";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let Some(standing) = room.out_of_band.get(&self.user_id).cloned() else { return Turn::Answer(()) };
        if standing.event.event_id() == self.leave.event_id() {
            return Turn::Answer(());
        }
        let cites = |event_id| self.leave.auth_events().contains(event_id);
        let shown = &standing.event;
        let mut change = RoomChange::default();
        let has_ended = match standing.membership {
            MembershipState::Leave if *shown.sender() == self.user_id && shown.auth_events().iter().all(cites) => {
                // The user knows. An invite that crossed the leave and comes later is held against what stands in the room.
                let told = OutOfBand { event: self.leave.clone(), ..standing };
                room.keep_out_of_band(self.user_id.clone(), told, &mut change);
                return Turn::Commit(Box::new(change), ());
            }
            MembershipState::Knock => cites(&shown.event_id().to_owned()),
            MembershipState::Invite => ends_invite(&self.leave, shown),
            _ => false,
        };
        if !has_ended {
            return Turn::Answer(());
        }
        let left = OutOfBand {
            membership: MembershipState::Leave,
            progress: Progress::Settled,
            event: self.leave.clone(),
            since: room.now(),
            ..standing
        };
        room.set_out_of_band(self.user_id.clone(), left, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
