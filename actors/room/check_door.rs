//! Whether a server may come to a room's door at all, and of which version the room is.
//! May not: reveal anything about members; it comes before every other look at the room.
//!
//! A live room shows its door: everybody reads it without a turn, because a way into another thread and back costs more than
//! half a signature check. A room that does not live is asked, which starts it.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use vestibule_protocol::{membership::KnockRefusal, room_version::RoomVersion, server_acl::ServerAcl};

use super::{Lookups, Room, RoomMessage, Turn};

/// What a room's door looked like after the last change that is durable.
#[derive(Debug)]
pub(crate) struct Door {
    version: RoomVersion,
    is_lived_in: bool,
    acl: Arc<ServerAcl>,
}

impl Door {
    /// The door of a room as it is in memory; the one before if nothing changed.
    pub(super) fn of(
        version: &RoomVersion,
        is_lived_in: bool,
        acl: &Arc<ServerAcl>,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        match before {
            Some(before) if before.is_lived_in == is_lived_in && Arc::ptr_eq(&before.acl, acl) => Arc::clone(before),
            _ => Arc::new(Self { version: version.clone(), is_lived_in, acl: Arc::clone(acl) }),
        }
    }

    /// The room's version, for a server that may come to it.
    pub(crate) fn check(&self, server: &ServerName) -> Result<RoomVersion, KnockRefusal> {
        if !self.is_lived_in {
            Err(KnockRefusal::ServerNotInRoom)
        } else if self.acl.allows(server) {
            Ok(self.version.clone())
        } else {
            Err(KnockRefusal::ServerDenied)
        }
    }
}

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
        match room.door_now().check(&self.origin) {
            Ok(version) => Turn::Answer(version),
            Err(refusal) => Turn::Refuse(refusal, Box::default()),
        }
    }
}
