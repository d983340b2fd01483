//! Ends the handshake of a knock elsewhere: the other server has taken it, or has refused it for good.
//! May not: undo what came meanwhile. An invite may arrive before the answer to the knock that it accepts.

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::{membership::KnockElsewhereRefusal, state::stripped::StrippedEvent};
use vestibule_storage::room::{OutOfBand, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// What became of a knock that was sent.
#[derive(Clone, Debug)]
pub struct SettleKnock {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub event_id: OwnedEventId,
    /// How it ended.
    pub outcome: KnockOutcome,
}

/// How the handshake of a knock ended.
#[derive(Clone, Debug)]
pub enum KnockOutcome {
    /// A server took it.
    Taken {
        /// What the user is shown of the room.
        stripped: Vec<StrippedEvent>,
        /// Servers that are in the room; the first took the knock.
        via: Vec<OwnedServerName>,
    },
    /// Nobody took it, and nobody will.
    Refused,
}

/// What the user is to the room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The knock waits for its answer.
    Knocking,
    /// The knock is gone as if it had never been sent.
    Gone,
    /// Something that came later stands: an invite, a denial, a retraction.
    Overtaken,
}

impl RoomMessage for SettleKnock {
    type Reply = Settled;
    type Refusal = KnockElsewhereRefusal;
    const KIND: &'static str = "settle_knock";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let before = room.knock_before.remove(&self.user_id);
        let standing = room.out_of_band.get(&self.user_id).cloned();
        let Some(standing) = standing.filter(|standing| {
            standing.event.event_id() == self.event_id && standing.membership == MembershipState::Knock
        }) else {
            return Turn::Answer(Settled::Overtaken);
        };
        if standing.progress == Progress::Settled {
            return Turn::Answer(Settled::Knocking);
        }
        let mut change = RoomChange::default();
        match (&self.outcome, before) {
            (KnockOutcome::Taken { stripped, via }, _) => {
                let stripped = stripped.iter().map(StrippedEvent::to_json).collect();
                let settled = OutOfBand { progress: Progress::Settled, stripped, via: via.clone(), ..standing };
                room.set_out_of_band(self.user_id.clone(), settled, &mut change);
                Turn::Commit(Box::new(change), Settled::Knocking)
            }
            (KnockOutcome::Refused, Some(before)) => {
                room.set_out_of_band(self.user_id.clone(), before, &mut change);
                Turn::Commit(Box::new(change), Settled::Gone)
            }
            (KnockOutcome::Refused, None) => {
                room.end_out_of_band(&self.user_id, &mut change);
                Turn::Commit(Box::new(change), Settled::Gone)
            }
        }
    }
}
