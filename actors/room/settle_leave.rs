//! Notes that the servers of a room elsewhere have the leave of a user of ours.
//! May not: undo what came after that leave. An invite may cross it on the way; whichever cites the other came last.

use std::sync::Arc;

use ruma::{OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::{membership::MembershipRefusal, pdu::Pdu};
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
        room.told_leaves.insert(self.user_id.clone(), self.leave.clone());
        let is_over = matches!(standing.membership, MembershipState::Leave | MembershipState::Ban);
        let came_before = self.leave.auth_events().iter().any(|id| id == standing.event.event_id());
        if is_over || !came_before {
            return Turn::Answer(());
        }
        let left = OutOfBand {
            membership: MembershipState::Leave,
            progress: Progress::Settled,
            event: self.leave.clone(),
            since: room.now(),
            ..standing
        };
        let mut change = RoomChange::default();
        room.set_out_of_band(self.user_id.clone(), left, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
