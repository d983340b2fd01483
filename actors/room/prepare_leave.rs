//! Makes the template of a leave: `make_leave`, with which another server's user retracts a knock, declines an invite, or goes.
//! May not: change anything, or sign.

use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    membership::{LeaveRefusal, handshake::member_content, leave::check_membership},
    pdu::event_builder::EventDraft,
};

use super::{Lookups, Room, RoomMessage, Turn, draft::DraftStop};

/// Asks for a template.
#[derive(Clone, Debug)]
pub struct PrepareLeave {
    /// Who wants to leave; a user of `origin`, as the caller checked.
    pub user_id: OwnedUserId,
    /// The server that calls.
    pub origin: OwnedServerName,
}

/// What `make_leave` answers.
#[derive(Clone, Debug)]
pub struct LeaveTemplate {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The unsigned event.
    pub event: CanonicalJsonObject,
}

impl RoomMessage for PrepareLeave {
    type Reply = LeaveTemplate;
    type Refusal = LeaveRefusal;
    const KIND: &'static str = "prepare_leave";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        if !room.is_lived_in() {
            return refuse(LeaveRefusal::ServerNotInRoom);
        }
        if !room.allows(&self.origin) {
            return refuse(LeaveRefusal::ServerDenied);
        }
        if let Err(refusal) = check_membership(&self.user_id, room.state()) {
            return refuse(refusal);
        }
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(self.user_id.to_string()),
            sender: self.user_id.clone(),
            content: member_content(CanonicalJsonObject::new(), &MembershipState::Leave),
            redacts: None,
        };
        let judged = room.place_draft(&draft, lookups.asked_at()).and_then(|placed| {
            room.judge_draft(&draft, &placed)?;
            Ok(placed)
        });
        match judged {
            Ok(placed) => Turn::Answer(LeaveTemplate {
                room_version: room.version().id().clone(),
                event: draft.to_template(&placed.place, room.version(), room.context.identity.server_name()),
            }),
            Err(DraftStop::Need(need)) => Turn::Need(need),
            Err(DraftStop::NotAuthorized(refusal)) => refuse(LeaveRefusal::NotAuthorized { reason: refusal.reason }),
            Err(DraftStop::Build(error)) => refuse(LeaveRefusal::NotAuthorized { reason: error.to_string() }),
        }
    }
}
