//! Makes the template of a join: `make_join`.
//! May not: change anything, sign, or decide whether a restricted join's condition is met; the caller looked into other rooms.

use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    membership::{JoinRefusal, handshake::member_content},
    pdu::event_builder::{BuildRefusal, EventDraft},
};

use super::{Lookups, Room, RoomMessage, Turn, draft::DraftStop};

/// Asks for a template.
#[derive(Clone, Debug)]
pub struct PrepareJoin {
    /// Who wants to join; a user of `origin`, as the caller checked.
    pub user_id: OwnedUserId,
    /// The server that calls.
    pub origin: OwnedServerName,
    /// The room versions it knows.
    pub offered: Vec<RoomVersionId>,
    /// The member of ours who vouches for a restricted join.
    pub authorised_via: Option<OwnedUserId>,
}

/// What `make_join` answers.
#[derive(Clone, Debug)]
pub struct JoinTemplate {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The unsigned event.
    pub event: CanonicalJsonObject,
}

impl RoomMessage for PrepareJoin {
    type Reply = JoinTemplate;
    type Refusal = JoinRefusal;
    const KIND: &'static str = "prepare_join";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        if !room.is_lived_in() {
            return refuse(JoinRefusal::ServerNotInRoom);
        }
        if !room.allows(&self.origin) {
            return refuse(JoinRefusal::ServerDenied);
        }
        let room_version = room.version().id().clone();
        if !self.offered.contains(&room_version) {
            return refuse(JoinRefusal::VersionNotOffered { room_version });
        }
        let vouching = self
            .authorised_via
            .as_ref()
            .map(|user_id| ("join_authorised_via_users_server".to_owned(), user_id.as_str().into()));
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(self.user_id.to_string()),
            sender: self.user_id.clone(),
            content: member_content(vouching.into_iter().collect(), &MembershipState::Join),
            redacts: None,
        };
        let judged = room.place_draft(&draft, lookups.asked_at()).and_then(|placed| {
            room.judge_draft(&draft, &placed)?;
            Ok(placed)
        });
        match judged {
            Ok(placed) => Turn::Answer(JoinTemplate {
                room_version,
                event: draft.to_template(&placed.place, room.version(), room.context.identity.server_name()),
            }),
            Err(DraftStop::Need(need)) => Turn::Need(need),
            Err(DraftStop::NotAuthorized(refusal)) => refuse(JoinRefusal::NotAuthorized { reason: refusal.reason }),
            Err(DraftStop::Build(BuildRefusal::TooLarge)) => refuse(JoinRefusal::TooLarge),
            Err(DraftStop::Build(error)) => refuse(JoinRefusal::BadContent { what: error.to_string() }),
        }
    }
}
