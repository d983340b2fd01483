//! Takes an invite from another server for a user of ours, after it was co-signed.
//! May not: answer before the invite is durable: its sender counts on it from then on.

use ruma::{OwnedUserId, RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::{
    membership::{InviteRefusal, crossing::ends_invite, invite::CosignedInvite},
    state::stripped::StrippedEvent,
};
use vestibule_storage::room::{OutOfBand, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, hand_on_leave::LEAVE_SERVERS_MAX};

/// An invite that passed every check.
#[derive(Clone, Debug)]
pub struct ReceiveInvite {
    /// The invite, with both signatures.
    pub invite: CosignedInvite,
    /// The version that its sender says the room has.
    pub room_version: RoomVersionId,
    /// What the user is shown of the room.
    pub stripped: Vec<StrippedEvent>,
}

impl RoomMessage for ReceiveInvite {
    type Reply = ();
    type Refusal = InviteRefusal;
    const KIND: &'static str = "receive_invite";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let event = self.invite.pdu();
        let user_id: OwnedUserId = self.invite.target().to_owned();
        if room.is_lived_in() {
            if !room.allows(self.invite.origin()) {
                return Turn::Refuse(InviteRefusal::ServerDenied, Box::default());
            }
            match room.state().membership(&user_id) {
                MembershipState::Join => return Turn::Refuse(InviteRefusal::AlreadyJoined, Box::default()),
                MembershipState::Ban => return Turn::Refuse(InviteRefusal::Banned, Box::default()),
                // The very event may have come as a part of the room already.
                MembershipState::Invite => return Turn::Answer(()),
                _ => {}
            }
        }
        let standing = room.out_of_band.get(&user_id);
        if standing.is_some_and(|standing| standing.event.event_id() == event.event_id()) {
            return Turn::Answer(());
        }
        let has_ended = standing.is_some_and(|standing| {
            matches!(standing.membership, MembershipState::Leave | MembershipState::Ban)
                && ends_invite(&standing.event, event)
        });
        if has_ended {
            // It is older than what ended it, and came late: on another way, or once more after its server was killed.
            return Turn::Answer(());
        }
        let mut via = vec![self.invite.origin().to_owned()];
        let asked = standing.into_iter().flat_map(|standing| &standing.via);
        via.extend(asked.filter(|server| *server != self.invite.origin()).take(LEAVE_SERVERS_MAX).cloned());
        let out_of_band = OutOfBand {
            room_version: self.room_version.clone(),
            membership: MembershipState::Invite,
            progress: Progress::Settled,
            event: event.clone(),
            stripped: self.stripped.iter().map(StrippedEvent::to_json).collect(),
            via,
            since: room.now(),
        };
        let mut change = RoomChange::default();
        room.set_out_of_band(user_id, out_of_band, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
