//! Asks a room which users may be heard in it beside its events, and who hears them: for typing and receipts.
//! May not: let a server speak for users of another one, or for users who are not in the room.

use std::collections::BTreeSet;

use ruma::{OwnedServerName, OwnedUserId, events::room::member::MembershipState};
use vestibule_protocol::membership::ReadRefusal;

use super::{Lookups, Room, RoomMessage, Turn};

/// Checks users on behalf of whom a server speaks, or users of ours.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#typing-notifications>
#[derive(Clone, Debug)]
pub struct CheckSpeakers {
    /// The server that speaks; this one for users of ours, to whom the ACL does not apply.
    pub origin: OwnedServerName,
    /// For whom.
    pub users: Vec<OwnedUserId>,
}

/// Who is heard by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speakers {
    /// Those of the users who are of the server and in the room.
    pub joined: BTreeSet<OwnedUserId>,
    /// The other servers in the room: neither this one nor the one that speaks.
    pub servers: Vec<OwnedServerName>,
}

impl RoomMessage for CheckSpeakers {
    type Reply = Speakers;
    type Refusal = ReadRefusal;
    const KIND: &'static str = "check_speakers";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let us = room.context.identity.server_name();
        if !room.is_lived_in() {
            return refuse(ReadRefusal::ServerNotInRoom);
        }
        if !room.has_joined_users_of(&self.origin) {
            return refuse(ReadRefusal::ReaderNotInRoom);
        }
        if self.origin != us && !room.allows(&self.origin) {
            return refuse(ReadRefusal::ServerDenied);
        }
        let is_heard = |user_id: &&OwnedUserId| {
            user_id.server_name() == self.origin && room.state().membership(user_id) == MembershipState::Join
        };
        let others = room.joined_servers().filter(|server| **server != us && **server != self.origin);
        Turn::Answer(Speakers {
            joined: self.users.iter().filter(is_heard).cloned().collect(),
            servers: others.cloned().collect(),
        })
    }
}
