//! Asks a room whether another server may read it, and of which version it is.
//! May not: reveal anything about the room to a server without a joined user.

use ruma::OwnedServerName;
use vestibule_protocol::{membership::ReadRefusal, room_version::RoomVersion};

use super::{Lookups, Room, RoomMessage, Turn};

/// Checks that the server has a joined user and, where the specification says so, that the room's ACL lets it take part.
#[derive(Clone, Debug)]
pub struct CheckReader {
    /// The server that wants to read.
    pub origin: OwnedServerName,
    /// What it wants to read.
    pub reading: Reading,
}

/// What is read of a room.
///
/// Whoever of ours was the last to leave, left by an event that others must take, and those may have to ask for what it stands
/// on. So events are told as far as they were known here, to the servers that were inside as far as that was known. The room as
/// it is now is told by those only who live in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Its events, through an endpoint that its ACL protects.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>
    Events,
    /// One event, through an endpoint that names no room, so that the ACL does not count.
    Event,
    /// What it is now.
    Room,
}

impl RoomMessage for CheckReader {
    type Reply = RoomVersion;
    type Refusal = ReadRefusal;
    const KIND: &'static str = "check_reader";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let is_inside = room.joined_servers().any(|server| *server == self.origin);
        let is_told = room.is_lived_in() || (is_inside && self.reading != Reading::Room);
        // Whether it is denied is told to nobody but those inside.
        match self.reading {
            _ if !is_told => refuse(ReadRefusal::ServerNotInRoom),
            _ if !is_inside => refuse(ReadRefusal::ReaderNotInRoom),
            Reading::Events if !room.allows(&self.origin) => refuse(ReadRefusal::ServerDenied),
            Reading::Events | Reading::Event | Reading::Room => Turn::Answer(room.version().clone()),
        }
    }
}
