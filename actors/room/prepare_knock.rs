//! Makes the template of a knock: `make_knock`.
//! May not: change anything, or sign; the template is the caller's to sign.

use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    membership::{
        KnockRefusal,
        handshake::member_content,
        knock::{authorize_knock, check_policy, check_version},
    },
    pdu::event_builder::EventDraft,
};

use super::{Lookups, Room, RoomMessage, Turn, admit_knock::count_refusal, draft::DraftStop};
use crate::limits::{KnockSource, SourceNetwork};

/// Asks for a template.
#[derive(Clone, Debug)]
pub struct PrepareKnock {
    /// Who wants to knock; a user of `origin`, as the caller checked.
    pub user_id: OwnedUserId,
    /// The server that calls.
    pub origin: OwnedServerName,
    /// The room versions it knows.
    pub offered: Vec<RoomVersionId>,
    /// The network it calls from.
    pub network: SourceNetwork,
}

/// What `make_knock` answers.
#[derive(Clone, Debug)]
pub struct KnockTemplate {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The unsigned event, whole: the caller has no state from which it could add anything.
    pub event: CanonicalJsonObject,
}

impl RoomMessage for PrepareKnock {
    type Reply = KnockTemplate;
    type Refusal = KnockRefusal;
    const KIND: &'static str = "prepare_knock";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        match self.template(room, lookups) {
            Ok(template) => {
                room.context.gauges.knock_prepared();
                Turn::Answer(template)
            }
            Err(Stop::Need(need)) => Turn::Need(need),
            Err(Stop::Refused(refusal)) => {
                count_refusal(room, &refusal);
                Turn::Refuse(refusal, Box::default())
            }
        }
    }
}

enum Stop {
    Need(super::Need),
    Refused(KnockRefusal),
}

impl From<KnockRefusal> for Stop {
    fn from(refusal: KnockRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<DraftStop> for Stop {
    fn from(stop: DraftStop) -> Self {
        match stop {
            DraftStop::Need(need) => Self::Need(need),
            DraftStop::NotAuthorized(refusal) => Self::Refused(KnockRefusal::NotAuthorized { reason: refusal.reason }),
            DraftStop::Build(error) => Self::Refused(KnockRefusal::BadContent { what: error.to_string() }),
        }
    }
}

impl PrepareKnock {
    fn template(&self, room: &mut Room, lookups: &Lookups) -> Result<KnockTemplate, Stop> {
        if !room.is_lived_in() {
            return Err(KnockRefusal::ServerNotInRoom.into());
        }
        if !room.allows(&self.origin) {
            return Err(KnockRefusal::ServerDenied.into());
        }
        let room_version = room.version().id().clone();
        if !self.offered.contains(&room_version) {
            return Err(KnockRefusal::VersionNotOffered { room_version }.into());
        }
        check_version(room.version())?;
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(self.user_id.to_string()),
            sender: self.user_id.clone(),
            content: member_content(CanonicalJsonObject::new(), &MembershipState::Knock),
            redacts: None,
        };
        let placed = room.place_draft(&draft, lookups.asked_at())?;
        let judged = draft.to_judged_form(&placed.place, room.version()).map_err(DraftStop::Build)?;
        authorize_knock(room.version(), &judged, placed.before.state())?;
        authorize_knock(room.version(), &judged, room.state())?;
        check_policy(&room.context.policy, &room.pending, &self.user_id, room.now())?;
        if let Some(limits) = &room.context.limits {
            let source = KnockSource::Federation { origin: self.origin.clone(), network: self.network.clone() };
            limits.peek(room.room_id(), &self.user_id, &source, room.context.clock.monotonic())?;
        }
        let event = draft.to_template(&placed.place, room.version(), room.context.identity.server_name());
        Ok(KnockTemplate { room_version, event })
    }
}
