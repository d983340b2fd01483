//! Takes an event that another server sent to everybody in the room: a PDU of a transaction, or one fetched to fill a gap.
//! May not: refuse what the rules allow, since all others have it too; what fails them is set aside, never thrown away.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, steps 4 to 6. Format,
//! signatures and hash were judged before.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedServerName,
    events::{
        TimelineEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
};
use vestibule_protocol::{
    auth::authorize_by_state,
    membership::ReceiveRefusal,
    pdu::{Pdu, Standing, checks::VerifiedPdu},
    room_graph::StateNode,
    state::PowerAction,
};
use vestibule_storage::outbox::{Delivery, OutboxEntry};

use super::{
    Lookups, Room, RoomChange, RoomMessage, Turn,
    apply::{Placed, Source},
    incoming::{Cited, IncomingStop},
    policy::PolicyStop,
};

/// An event that is to be taken into the room.
#[derive(Debug)]
pub struct ReceivePdu {
    /// The event, format and signatures judged.
    pub event: VerifiedPdu,
    /// The server that brought it, which need not be its author's.
    pub origin: OwnedServerName,
}

/// What became of a received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is part of the room.
    Accepted,
    /// It was here before.
    Known,
    /// The rules allow it where it was made, and not in the room as it is now: kept, shown to nobody.
    SoftFailed,
    /// The rules do not allow it: kept so that others may cite it, never part of a state.
    Rejected {
        /// Which rule, for the log.
        reason: String,
    },
}

impl RoomMessage for ReceivePdu {
    type Reply = Received;
    type Refusal = ReceiveRefusal;
    const KIND: &'static str = "receive_pdu";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        let event = self.event.pdu();
        [Some(event.event_id()), event.redacts()].into_iter().flatten().map(ToOwned::to_owned).collect()
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        if !room.is_lived_in() {
            return Turn::Refuse(ReceiveRefusal::ServerNotInRoom, Box::default());
        }
        if !room.allows(&self.origin) {
            return Turn::Refuse(ReceiveRefusal::ServerDenied, Box::default());
        }
        let event = self.event.pdu();
        if event.room_id() != room.room_id() {
            return Turn::Refuse(ReceiveRefusal::NotOfThisRoom, Box::default());
        }
        if room.has_event(event.event_id(), lookups) {
            return Turn::Answer(Received::Known);
        }
        match room.receive(event, lookups) {
            Ok((change, received)) => Turn::Commit(Box::new(change), received),
            Err(IncomingStop::Need(need)) => Turn::Need(need),
            Err(IncomingStop::UnknownPrevEvents(event_ids) | IncomingStop::UnknownAuthEvents(event_ids)) => {
                Turn::Refuse(ReceiveRefusal::MissingEvents { event_ids }, Box::default())
            }
            Err(IncomingStop::NotAuthorized(refusal)) => Turn::Answer(Received::Rejected { reason: refusal.reason }),
            Err(IncomingStop::Refused(never)) => match never {},
        }
    }
}

/// Nothing refuses a received event; what is wrong with it is a fact about it.
#[derive(Debug)]
pub(super) enum Never {}

impl Room {
    /// Judges a received event in the order of the specification, and takes or sets it aside.
    fn receive(&mut self, event: &Arc<Pdu>, lookups: &Lookups) -> Result<(RoomChange, Received), IncomingStop<Never>> {
        let cited = self.cited(event, lookups)?;
        self.receive_upon(event, lookups, cited)
    }

    /// The same, with what the event stands on known.
    pub(super) fn receive_upon<F>(
        &mut self,
        event: &Arc<Pdu>,
        lookups: &Lookups,
        cited: Cited,
    ) -> Result<(RoomChange, Received), IncomingStop<F>> {
        let Cited { before, auth_events } = cited;
        let version = self.version().clone();
        let judged_where_made = self
            .authorized_by(event, &auth_events)
            .and_then(|state| authorize_by_state(&version, event, &state))
            .and_then(|()| authorize_by_state(&version, event, before.state()));
        if let Err(refusal) = judged_where_made {
            let change = self.set_aside(event, &before, Standing::Rejected);
            return Ok((change, Received::Rejected { reason: refusal.reason }));
        }
        if authorize_by_state(&version, event, self.state()).is_err() {
            let mut change = self.set_aside(event, &before, Standing::SoftFailed);
            self.tell_of_ban(event, &mut change);
            return Ok((change, Received::SoftFailed));
        }
        let event = match self.pass_policy(event, lookups) {
            Ok(event) => event,
            Err(PolicyStop::Need(need)) => return Err(IncomingStop::Need(need)),
            Err(PolicyStop::Refused(_)) => {
                return Ok((self.set_aside(event, &before, Standing::SoftFailed), Received::SoftFailed));
            }
        };
        let event = &event;
        let placement = self.place_incoming(event, &before).map_err(IncomingStop::Need)?;
        let mut change = RoomChange::default();
        let target = self.target_of_received_redaction(event, lookups);
        // As far back as memory goes.
        let redaction = self.redaction_of(event, self.graph.recent_events());
        self.apply(Placed { source: Source::Received, event: event.clone(), before, placement }, None, &mut change);
        if let Some(target) = target {
            self.redact(&target, event, &mut change);
        }
        if let Some(redaction) = redaction {
            self.redact(event, &redaction, &mut change);
        }
        Ok((change, Received::Accepted))
    }

    /// The ban of somebody who came in elsewhere goes to their server once more: when it was made, that server was outside and may
    /// not have taken it, and the server that let them in does not pass on what it got from us.
    fn tell_of_ban(&self, join: &Pdu, change: &mut RoomChange) {
        let (user_id, us) = (join.sender(), self.context.identity.server_name());
        let is_join = join.membership() == Some(MembershipState::Join) && join.state_key() == Some(user_id.as_str());
        let ban = self
            .state()
            .member(user_id)
            .filter(|member| member.membership() == Some(MembershipState::Ban) && member.sender_server() == us);
        if let Some(ban) = ban.filter(|_| is_join && user_id.server_name() != us) {
            change.push_outbox(OutboxEntry {
                event_id: ban.event_id().to_owned(),
                delivery: Delivery::Transaction,
                destinations: [user_id.server_name().to_owned()].into(),
            });
        }
    }

    /// Keeps an event that is not part of the room.
    pub(super) fn set_aside(&mut self, event: &Arc<Pdu>, before: &Arc<StateNode>, standing: Standing) -> RoomChange {
        let mut change = RoomChange::default();
        self.keep_aside(event, before, standing, &mut change);
        change
    }

    /// What a received redaction empties, if its sender may do that and the event is here. Everybody decides so by the same
    /// rule: the sender's power now, or that both events are of one server's users.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions>
    fn target_of_received_redaction(&self, event: &Pdu, lookups: &Lookups) -> Option<Arc<Pdu>> {
        let redacts = event.redacts()?;
        let in_memory = self.graph.recent_event(redacts).cloned();
        let target = in_memory.or_else(|| lookups.event(redacts).map(|stored| stored.event.clone()))?;
        self.may_empty(event, &target).then_some(target)
    }

    /// Of these events the one that empties an event which comes after them: a redaction on another fork, or one that is newer
    /// than the history in which its target comes.
    pub(super) fn redaction_of<'a>(
        &self,
        target: &Pdu,
        mut events: impl Iterator<Item = &'a Arc<Pdu>>,
    ) -> Option<Arc<Pdu>> {
        let redacts_it =
            |event: &&Arc<Pdu>| event.redacts() == Some(target.event_id()) && event.standing() == Standing::Accepted;
        events.find(|event| redacts_it(event) && self.may_empty(event, target)).cloned()
    }

    fn may_empty(&self, redaction: &Pdu, target: &Pdu) -> bool {
        if target.room_id() != self.room_id() || *target.kind() == TimelineEventType::RoomCreate {
            return false;
        }
        let needed = self.state().power_for(PowerAction::Redact, self.version());
        let has_power = self.state().power_of(redaction.sender(), self.version()) >= UserPowerLevel::Int(needed);
        let is_of_one_server = target.sender_server() == redaction.sender_server();
        has_power || is_of_one_server
    }
}
