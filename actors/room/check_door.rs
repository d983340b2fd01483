//! Asks a room whether a server may come to its door at all, and of which version it is.
//! May not: reveal anything about members; it comes before every other look at the room.

use ruma::OwnedServerName;
use vestibule_protocol::{membership::KnockRefusal, room_version::RoomVersion};

use super::{Lookups, Room, RoomMessage, Turn};

/// Checks the server against the room's ACL, before anything costly.
#[derive(Clone, Debug)]
pub struct CheckDoor {
    /// The server that calls.
    pub origin: OwnedServerName,
}

impl RoomMessage for CheckDoor {
    type Reply = RoomVersion;
    type Refusal = KnockRefusal;
    const KIND: &'static str = "check_door";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        if !room.is_lived_in() {
            Turn::Refuse(KnockRefusal::ServerNotInRoom, Box::default())
        } else if room.allows(&self.origin) {
            Turn::Answer(room.version().clone())
        } else {
            Turn::Refuse(KnockRefusal::ServerDenied, Box::default())
        }
    }
}
