//! Changes a membership for a local user: join, invite, knock, leave, kick, ban, unban.
//! May not: sign what the rules refuse.

use ruma::{CanonicalJsonObject, OwnedEventId, OwnedUserId, events::TimelineEventType};
use vestibule_protocol::{
    membership::{
        KnockRefusal, MembershipRefusal,
        change::{Intent, MembershipChange, intent},
        handshake::member_content,
        knock::{authorize_knock, check_policy, check_version},
    },
    pdu::event_builder::{BuildRefusal, EventDraft},
};

use super::{Lookups, Need, Room, RoomChange, RoomMessage, Turn, admit_knock::audit, apply::Placed, draft::DraftStop};
use crate::limits::{KnockSource, SourceNetwork};

/// What a client wants to change.
#[derive(Clone, Debug)]
pub struct ChangeMembership {
    /// Who acts.
    pub sender: OwnedUserId,
    /// Upon whom.
    pub target: OwnedUserId,
    /// What.
    pub change: MembershipChange,
    /// `reason`, `displayname`, `avatar_url` and the like; a `membership` in it does not count.
    pub content: CanonicalJsonObject,
    /// The network the client calls from.
    pub network: SourceNetwork,
}

impl RoomMessage for ChangeMembership {
    /// The member event, also when it stood before.
    type Reply = OwnedEventId;
    type Refusal = MembershipRefusal;
    const KIND: &'static str = "change_membership";
    const CHANGES: bool = true;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        match self.change(room, lookups) {
            Ok(Change::Made(change, event_id)) => Turn::Commit(change, event_id),
            Ok(Change::None(event_id)) => Turn::Answer(event_id),
            Err(Stop::Need(need)) => Turn::Need(need),
            Err(Stop::Refused(refusal, change)) => {
                if let MembershipRefusal::Knock(refusal) = &refusal {
                    room.context.gauges.knock_refused(refusal.name());
                }
                Turn::Refuse(refusal, change)
            }
        }
    }
}

enum Change {
    Made(Box<RoomChange>, OwnedEventId),
    None(OwnedEventId),
}

enum Stop {
    Need(Need),
    Refused(MembershipRefusal, Box<RoomChange>),
}

impl From<MembershipRefusal> for Stop {
    fn from(refusal: MembershipRefusal) -> Self {
        Self::Refused(refusal, Box::default())
    }
}

impl From<KnockRefusal> for Stop {
    fn from(refusal: KnockRefusal) -> Self {
        MembershipRefusal::Knock(refusal).into()
    }
}

impl From<DraftStop> for Stop {
    fn from(stop: DraftStop) -> Self {
        match stop {
            DraftStop::Need(need) => Self::Need(need),
            DraftStop::NotAuthorized(refusal) => MembershipRefusal::NotAuthorized { reason: refusal.reason }.into(),
            DraftStop::Build(BuildRefusal::TooLarge) => MembershipRefusal::TooLarge.into(),
            DraftStop::Build(error) => MembershipRefusal::BadContent { what: error.to_string() }.into(),
        }
    }
}

impl ChangeMembership {
    fn change(&self, room: &mut Room, lookups: &Lookups) -> Result<Change, Stop> {
        if room.is_lived_in_elsewhere() {
            return Err(MembershipRefusal::NotResident.into());
        }
        let membership = self.change.membership();
        let content = member_content(self.content.clone(), &membership);
        if let Some(event_id) = self.stands_already(room, &content)? {
            return Ok(Change::None(event_id));
        }
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(self.target.to_string()),
            sender: self.sender.clone(),
            content,
            redacts: None,
        };
        let placed = match self.change {
            MembershipChange::Knock => self.knock(room, lookups, draft)?,
            _ => room.draft(draft, lookups)?,
        };
        let event_id = placed.event.event_id().to_owned();
        let mut change = RoomChange::default();
        room.apply(placed, None, &mut change);
        Ok(Change::Made(Box::new(change), event_id))
    }

    /// The member event that already says what is asked for: then nothing happens, so repeats do no harm.
    fn stands_already(&self, room: &Room, content: &CanonicalJsonObject) -> Result<Option<OwnedEventId>, Stop> {
        let state = room.state();
        let standing = state.member(&self.target).map(|event| event.event_id().to_owned());
        if intent(self.change, &self.sender, &self.target, state)? == Intent::Nothing {
            return Ok(standing);
        }
        let repeats_itself = match self.change {
            MembershipChange::Join | MembershipChange::Ban => true,
            // With a waiting time, a repeat is the policy's to judge; without one, the same words make no second event.
            MembershipChange::Knock => room.context.policy.repeat_after.is_zero(),
            _ => false,
        };
        let is_same = state.member(&self.target).is_some_and(|event| {
            event.sender() == self.sender
                && serde_json::to_string(content).is_ok_and(|content| content == event.content().get())
        });
        Ok(standing.filter(|_| repeats_itself && is_same))
    }

    /// A local user's knock passes the same decisions as one that comes through federation.
    fn knock(&self, room: &mut Room, lookups: &Lookups, draft: EventDraft) -> Result<Placed, Stop> {
        check_version(room.version())?;
        let placed = room.place_draft(&draft, lookups.asked_at())?;
        let judged = draft.to_judged_form(&placed.place, room.version()).map_err(DraftStop::Build)?;
        let authorized = authorize_knock(room.version(), &judged, placed.before.state())
            .and_then(|()| authorize_knock(room.version(), &judged, room.state()))
            .and_then(|()| check_policy(&room.context.policy, &room.pending, &self.target, room.now()));
        if let Err(refusal) = authorized {
            let change = audit(room, &judged, &refusal);
            return Err(Stop::Refused(MembershipRefusal::Knock(refusal), Box::new(change)));
        }
        let placed = room.sign_draft(draft, placed, lookups)?;
        if let Some(limits) = &room.context.limits {
            limits.take(room.room_id(), &self.target, &KnockSource::Client, room.context.clock.monotonic())?;
        }
        Ok(placed)
    }
}
