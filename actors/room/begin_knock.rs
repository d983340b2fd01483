//! Writes down that a user of ours is about to knock on a room of another server: before the knock is sent, so that a
//! restart sends the same knock and not another one.
//! May not: tell the user anything; nobody has taken the knock yet.

use ruma::{OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::membership::KnockElsewhereRefusal;
use vestibule_storage::room::{OutOfBand, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// A knock that is signed and not sent.
#[derive(Clone, Debug)]
pub struct BeginKnock {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The knock, as it will be kept: `progress` is `Asking`, the first of `via` the server that is asked.
    pub out_of_band: OutOfBand,
}

impl RoomMessage for BeginKnock {
    type Reply = ();
    type Refusal = KnockElsewhereRefusal;
    const KIND: &'static str = "begin_knock";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        if room.is_lived_in() {
            return Turn::Refuse(KnockElsewhereRefusal::LivedIn, Box::default());
        }
        let standing = room.out_of_band.get(&self.user_id);
        match standing.filter(|standing| standing.progress == Progress::Settled).map(|standing| &standing.membership) {
            Some(MembershipState::Invite) => {
                return Turn::Refuse(KnockElsewhereRefusal::AlreadyInvited, Box::default());
            }
            Some(MembershipState::Knock) => {
                // A knock again, perhaps with another reason: if it is refused, the first one still stands.
                if let Some(standing) = standing.cloned() {
                    room.knock_before.insert(self.user_id.clone(), standing);
                }
            }
            _ => {
                room.knock_before.remove(&self.user_id);
            }
        }
        let out_of_band = OutOfBand { progress: Progress::Asking, ..self.out_of_band.clone() };
        let mut change = RoomChange::default();
        room.set_out_of_band(self.user_id.clone(), out_of_band, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
