//! Writes down that a user of ours is about to join a room through another server, before the join is sent: a program that ends
//! before the answer is here goes on with it after the next start.
//! May not: change what the user is to the room. Nobody has taken the join yet, and an invite or a knock stands until one has.

use ruma::{OwnedUserId, events::room::member::MembershipState};
use vestibule_storage::room::OutOfBand;

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// Joins of one user that are remembered beside what the user is to the room. Ours: who asks more often was answered meanwhile.
const JOINS_MAX: usize = 8;

/// A join that is signed and not sent.
#[derive(Clone, Debug)]
pub struct BeginJoin {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The join, as it is kept until it has ended; the first of `via` is the server that is asked.
    pub join: OutOfBand,
}

impl RoomMessage for BeginJoin {
    type Reply = ();
    type Refusal = std::convert::Infallible;
    const KIND: &'static str = "begin_join";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        if room.is_lived_in() && room.state().membership(&self.user_id) == MembershipState::Join {
            return Turn::Answer(());
        }
        let mut change = RoomChange::default();
        if let Some(mut standing) = room.out_of_band.get(&self.user_id).cloned() {
            standing.joins.push(self.join.event.event_id().to_owned());
            let too_many = standing.joins.len().saturating_sub(JOINS_MAX);
            standing.joins.drain(..too_many);
            room.keep_out_of_band(self.user_id.clone(), standing, &mut change);
        }
        room.begin_join(self.user_id.clone(), self.join.clone(), &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
