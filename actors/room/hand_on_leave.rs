//! Has another server of a room elsewhere told of a leave of a user of ours, because the one before did not take it.
//! May not: tell anybody of a leave that is over or was taken, or take back what the server before is owed.
//!
//! Who took the knock may lie about the leave, refuse it, or be gone for good, and the room would go on holding the knock.
//! Source: SECURITY T8: whoever took it first, else any that is known from what was shown of the room.

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId};
use vestibule_protocol::membership::MembershipRefusal;
use vestibule_storage::{
    outbox::{Delivery, OutboxEntry},
    room::OutOfBand,
};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, leave_out_of_band::is_owed, receive_answer::shown_senders};

/// Servers told of one leave, one after the other. Source: DESIGN section 5, SECURITY T11, as for knocks.
pub const LEAVE_SERVERS_MAX: usize = 5;

/// A server does not take a leave.
#[derive(Clone, Debug)]
pub struct HandOnLeave {
    /// Whose leave.
    pub user_id: OwnedUserId,
    /// The knock or the invite that it ends.
    pub event_id: OwnedEventId,
    /// The server that does not take it.
    pub from: OwnedServerName,
}

impl RoomMessage for HandOnLeave {
    /// Who is told next. `None`: nobody is left, or nothing is to be told any more.
    type Reply = Option<OwnedServerName>;
    type Refusal = MembershipRefusal;
    const KIND: &'static str = "hand_on_leave";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let Some(standing) = room.out_of_band.get(&self.user_id) else { return Turn::Answer(None) };
        if !is_owed(standing, &self.event_id) {
            return Turn::Answer(None);
        }
        let mut servers = room.servers_to_tell(standing).into_iter();
        let Some(next) = servers.by_ref().find(|server| *server == self.from).and_then(|_| servers.next()) else {
            return Turn::Answer(None);
        };
        let mut change = RoomChange::default();
        change.push_outbox(OutboxEntry {
            event_id: self.event_id.clone(),
            delivery: Delivery::Leave { user_id: self.user_id.clone() },
            destinations: [next.clone()].into(),
        });
        Turn::Commit(Box::new(change), Some(next))
    }
}

impl Room {
    /// Whom to tell of the leave, in this order: the server that took the knock or sent the invite, the others that are known,
    /// the servers of those who made what was shown of the room, and last the one in the room's id.
    fn servers_to_tell(&self, standing: &OutOfBand) -> Vec<OwnedServerName> {
        let of_id = self.room_id().server_name().map(ToOwned::to_owned);
        let known = standing.via.iter().cloned().chain(shown_senders(standing)).chain(of_id);
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for server in known.filter(|server| server != self.context.identity.server_name()) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.truncate(LEAVE_SERVERS_MAX);
        servers
    }
}
