//! Notes that a join through another server came to nothing: the room refuses it, or nobody says anything for long.
//! May not: change what the user is to the room. A join that came to something ends with the commit that brings it.

use ruma::OwnedUserId;

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// The end of a join that was begun.
#[derive(Clone, Debug)]
pub struct EndJoin {
    /// Whose.
    pub user_id: OwnedUserId,
}

impl RoomMessage for EndJoin {
    type Reply = ();
    type Refusal = std::convert::Infallible;
    const KIND: &'static str = "end_join";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let mut change = RoomChange::default();
        room.end_join(&self.user_id, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
