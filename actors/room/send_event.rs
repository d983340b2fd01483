//! Sends an event of a local user: messages, state, redactions. Memberships have a message of their own.
//! May not: sign what the rules refuse, or send a client's transaction twice.

use ruma::{
    CanonicalJsonObject, Int, OwnedEventId, OwnedUserId,
    events::{
        TimelineEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
};
use vestibule_protocol::{
    membership::SendRefusal,
    pdu::{
        Pdu,
        event_builder::{BuildRefusal, EventDraft},
    },
    state::PowerAction,
};
use vestibule_storage::room::ClientTransaction;

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, draft::DraftStop};

/// What a client wants to send.
#[derive(Clone, Debug)]
pub struct SendEvent {
    /// Who.
    pub sender: OwnedUserId,
    /// The type.
    pub kind: TimelineEventType,
    /// Present on state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: CanonicalJsonObject,
    /// What a redaction redacts.
    pub redacts: Option<OwnedEventId>,
    /// The client's transaction: a repeat answers the event it made the first time.
    pub transaction: Option<ClientTransaction>,
}

impl RoomMessage for SendEvent {
    type Reply = OwnedEventId;
    type Refusal = SendRefusal;
    const KIND: &'static str = "send_event";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        self.redacts.iter().cloned().collect()
    }

    fn transaction(&self) -> Option<&ClientTransaction> {
        self.transaction.as_ref()
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let sent_before = self.transaction.as_ref().and_then(|transaction| room.event_of_transaction(transaction));
        if let Some(event_id) = sent_before.or(lookups.event_of_transaction()) {
            return Turn::Answer(event_id.clone());
        }
        if room.state().membership(&self.sender) != MembershipState::Join {
            return refuse(SendRefusal::NotAuthorized { reason: "the sender is not in the room".to_owned() });
        }
        let target = match self.redaction_target(room, lookups) {
            Ok(target) => target,
            Err(refusal) => return refuse(refusal),
        };
        let draft = EventDraft {
            kind: self.kind.clone(),
            state_key: self.state_key.clone(),
            sender: self.sender.clone(),
            content: self.content.clone(),
            redacts: self.redacts.clone(),
        };
        match room.draft(draft, lookups) {
            Ok(placed) => {
                let event = placed.event.clone();
                let mut change = RoomChange::default();
                room.apply(placed, self.transaction.clone(), &mut change);
                if let Some(target) = target {
                    room.redact(&target, &event, &mut change);
                }
                Turn::Commit(Box::new(change), event.event_id().to_owned())
            }
            Err(DraftStop::Need(need)) => Turn::Need(need),
            Err(DraftStop::NotAuthorized(refusal)) => refuse(SendRefusal::NotAuthorized { reason: refusal.reason }),
            Err(DraftStop::Build(BuildRefusal::TooLarge)) => refuse(SendRefusal::TooLarge),
            Err(DraftStop::Build(BuildRefusal::FieldTooLong)) => refuse(SendRefusal::FieldTooLong),
            Err(DraftStop::Build(BuildRefusal::BadContent(what))) => refuse(SendRefusal::BadContent { what }),
        }
    }
}

impl SendEvent {
    /// The event to be redacted, if this is a redaction that its sender may make.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
    fn redaction_target(&self, room: &Room, lookups: &Lookups) -> Result<Option<std::sync::Arc<Pdu>>, SendRefusal> {
        let Some(redacts) = &self.redacts else { return Ok(None) };
        let in_memory = room.graph.recent_event(redacts).cloned();
        let target = in_memory
            .or_else(|| lookups.event(redacts).map(|stored| stored.event.clone()))
            .ok_or(SendRefusal::UnknownRedactionTarget)?;
        let is_protected = matches!(target.kind(), TimelineEventType::RoomCreate | TimelineEventType::RoomServerAcl);
        if is_protected {
            // Redacting these would take the room's ground or its walls away.
            let reason = format!("events of type {} are not redacted", target.kind());
            return Err(SendRefusal::NotAuthorized { reason });
        }
        let needed: Int = room.state().power_for(PowerAction::Redact, room.version());
        let has_power = room.state().power_of(&self.sender, room.version()) >= UserPowerLevel::Int(needed);
        if target.sender() != self.sender && !has_power {
            let reason = "redacting what others sent needs more power".to_owned();
            return Err(SendRefusal::NotAuthorized { reason });
        }
        Ok(Some(target))
    }
}
