//! Takes an invite from another server for a user of ours, after it was co-signed.
//! May not: answer before the invite is durable: its sender counts on it from then on.

use ruma::{OwnedEventId, OwnedUserId, RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::{
    membership::{InviteRefusal, answer::OutOfBandAnswer, crossing::ends_invite, invite::CosignedInvite},
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

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        vec![self.invite.pdu().event_id().to_owned()]
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let event = self.invite.pdu();
        let user_id: OwnedUserId = self.invite.target().to_owned();
        if room.is_lived_in() {
            if !room.allows(self.invite.origin()) {
                return Turn::Refuse(InviteRefusal::ServerDenied, Box::default());
            }
            // Its sender has not heard our answer. The user may have followed it since.
            if lookups.event(event.event_id()).is_some() {
                return Turn::Answer(());
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
                && ends_invite(&standing.event, event, standing.knock_id())
        });
        if has_ended {
            // It is older than what ended it, and came late: on another way, or once more after its server was killed.
            return Turn::Answer(());
        }
        if let Some((end, ended)) = standing.and_then(|standing| Some((standing.early.clone()?, standing.clone())))
            && end.cites_as_auth(event.event_id())
        {
            // It has ended before it came.
            let is_ban = end.membership() == Some(MembershipState::Ban);
            let answer = if is_ban { OutOfBandAnswer::Banned } else { OutOfBandAnswer::Denied };
            let mut change = RoomChange::default();
            room.end_by_answer(user_id, ended, &end, answer, &mut change);
            return Turn::Commit(Box::new(change), ());
        }
        let mut via = vec![self.invite.origin().to_owned()];
        let asked = standing.into_iter().flat_map(|standing| &standing.via);
        via.extend(asked.filter(|server| *server != self.invite.origin()).take(LEAVE_SERVERS_MAX).cloned());
        let knock = standing.and_then(OutOfBand::knock_id).filter(|knock| event.cites_as_auth(knock));
        let out_of_band = OutOfBand {
            room_version: self.room_version.clone(),
            membership: MembershipState::Invite,
            progress: Progress::Settled,
            event: event.clone(),
            stripped: self.stripped.iter().map(StrippedEvent::to_json).collect(),
            via,
            since: room.now(),
            knock: knock.map(ToOwned::to_owned),
            joins: Vec::new(),
            early: None,
        };
        let mut change = RoomChange::default();
        room.set_out_of_band(user_id, out_of_band, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
