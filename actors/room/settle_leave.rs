//! Notes that the servers of a room elsewhere have the leave of a user of ours.
//! May not: undo what came after that leave. An invite may cross it on the way.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::{
    membership::{MembershipRefusal, crossing::ends_invite},
    pdu::Pdu,
};
use vestibule_storage::room::{OutOfBand, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, leave_out_of_band::is_owed};

/// A leave that a server of the room has taken.
#[derive(Clone, Debug)]
pub struct SettleLeave {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The knock or the invite that it was owed for.
    pub event_id: OwnedEventId,
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
        let shown = &standing.event;
        let mut change = RoomChange::default();
        let has_ended = match standing.membership {
            MembershipState::Leave if is_owed(&standing, &self.event_id) => {
                // The user knows. An invite that crossed the leave and comes later is held against what stands in the room,
                // which may cite that invite in place of the knock.
                let told = OutOfBand { event: self.leave.clone(), ..standing };
                room.keep_out_of_band(self.user_id.clone(), told, &mut change);
                return Turn::Commit(Box::new(change), ());
            }
            MembershipState::Knock => self.leave.cites_as_auth(shown.event_id()),
            MembershipState::Invite => ends_invite(&self.leave, shown, None),
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
            knock: standing.knock_id().map(ToOwned::to_owned),
            early: None,
            ..standing
        };
        room.set_out_of_band(self.user_id.clone(), left, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
