//! Ends a knock that nobody answered in time, as the operator wishes (`knock.expire_after`).
//! May not: end one that is younger, or act for somebody who could not have denied it.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedUserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{membership::handshake::member_content, pdu::event_builder::EventDraft, state::PowerAction};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, draft::DraftStop};

/// What the one who knocked is told, and what the audit says.
const EXPIRED: &str = "expired";

/// Asks for the end of a knock.
#[derive(Clone, Debug)]
pub struct ExpireKnock {
    /// Whose.
    pub user_id: OwnedUserId,
    /// How old it must be.
    pub expire_after: Duration,
}

/// Why a knock stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is gone, or younger.
    NotDue,
    /// Nobody of this server may deny it.
    NobodyMay,
}

impl RoomMessage for ExpireKnock {
    /// The denial.
    type Reply = OwnedEventId;
    type Refusal = Kept;
    const KIND: &'static str = "expire_knock";
    const CHANGES: bool = true;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |kept| Turn::Refuse(kept, Box::default());
        let is_due = room.pending.since(&self.user_id).is_some_and(|since| since.plus(self.expire_after) <= room.now());
        if !is_due {
            return refuse(Kept::NotDue);
        }
        let Some(sender) = room.strongest_of_ours(PowerAction::Kick) else { return refuse(Kept::NobodyMay) };
        let reason = ("reason".to_owned(), EXPIRED.into());
        let content: CanonicalJsonObject = [reason].into_iter().collect();
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(self.user_id.to_string()),
            sender,
            content: member_content(content, &MembershipState::Leave),
            redacts: None,
        };
        match room.draft(draft, lookups) {
            Ok(placed) => {
                let event_id = placed.event.event_id().to_owned();
                let mut change = RoomChange::default();
                room.apply(placed, None, &mut change);
                change.decided_by_a_rule(EXPIRED);
                Turn::Commit(Box::new(change), event_id)
            }
            Err(DraftStop::Need(need)) => Turn::Need(need),
            Err(DraftStop::NotAuthorized(_) | DraftStop::Build(_)) => refuse(Kept::NobodyMay),
        }
    }
}

impl Room {
    /// The local member with the most power, if that is enough.
    fn strongest_of_ours(&self, action: PowerAction) -> Option<OwnedUserId> {
        let (state, version) = (self.state(), self.version());
        let us = self.context.identity.server_name();
        let joined = state.users_with(&MembershipState::Join).into_iter().filter(|user| user.server_name() == us);
        let strongest = joined.max_by_key(|user| state.power_of(user, version))?;
        let needed = state.power_for(action, version);
        (state.power_of(&strongest, version) >= needed).then_some(strongest)
    }
}
