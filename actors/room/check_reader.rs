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
    /// Whether the ACL counts.
    pub protection: Protection,
}

/// Whether an endpoint is among those that a room's ACL protects.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// It is.
    ByAcl,
    /// It names no room, so the ACL does not count.
    Open,
}

impl RoomMessage for CheckReader {
    type Reply = RoomVersion;
    type Refusal = ReadRefusal;
    const KIND: &'static str = "check_reader";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let is_inside = room.joined_servers().any(|server| *server == self.origin);
        // Whether it is denied is told to nobody but those inside.
        match self.protection {
            _ if !room.is_lived_in() => refuse(ReadRefusal::ServerNotInRoom),
            _ if !is_inside => refuse(ReadRefusal::ReaderNotInRoom),
            Protection::ByAcl if !room.allows(&self.origin) => refuse(ReadRefusal::ServerDenied),
            Protection::ByAcl | Protection::Open => Turn::Answer(room.version().clone()),
        }
    }
}
