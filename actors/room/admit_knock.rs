//! Admits a signed knock: `send_knock`.
//! May not: answer before the knock is durable, or store one that any state refuses.

use std::{ops::Deref, sync::Arc};

use ruma::OwnedEventId;
use vestibule_protocol::{
    membership::{
        KnockRefusal,
        handshake::SignedKnock,
        knock::{authorize_knock, check_policy, check_version},
    },
    pdu::Pdu,
};
use vestibule_storage::room::{Decision, DecisionAction};

use super::{
    Lookups, Room, RoomChange, RoomMessage, Turn,
    apply::{Placed, Source},
    gather::Need,
    incoming::IncomingStop,
    memory::ShownState,
};
use crate::limits::{KnockSource, SourceNetwork};

/// Asks for admission.
#[derive(Debug)]
pub struct AdmitKnock {
    /// The knock, structure and signatures judged.
    pub knock: SignedKnock,
    /// The network it came from.
    pub network: SourceNetwork,
}

/// What `send_knock` answers: what the one who knocks is shown of the room.
#[derive(Clone, Debug)]
pub struct AdmittedKnock(Arc<ShownState>);

impl Deref for AdmittedKnock {
    type Target = ShownState;

    fn deref(&self) -> &ShownState {
        &self.0
    }
}

impl RoomMessage for AdmitKnock {
    type Reply = AdmittedKnock;
    type Refusal = KnockRefusal;
    const KIND: &'static str = "admit_knock";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        vec![self.knock.pdu().event_id().to_owned()]
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        match self.admit(room, lookups) {
            Ok(change) => {
                let shown = room.shown();
                Turn::Commit(Box::new(change), AdmittedKnock(shown))
            }
            Err(Stop::AlreadyHere) => Turn::Answer(AdmittedKnock(room.shown())),
            Err(Stop::Need(need)) => Turn::Need(need),
            Err(Stop::Refused(refusal)) => {
                count_refusal(room, &refusal);
                let change = audit(room, self.knock.pdu(), &refusal);
                Turn::Refuse(refusal, Box::new(change))
            }
        }
    }
}

enum Stop {
    /// The very same event was accepted before: answer as then, whatever limits say.
    AlreadyHere,
    Need(Need),
    Refused(KnockRefusal),
}

impl From<KnockRefusal> for Stop {
    fn from(refusal: KnockRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl AdmitKnock {
    fn admit(&self, room: &mut Room, lookups: &Lookups) -> Result<RoomChange, Stop> {
        let event = self.knock.pdu();
        if !room.is_lived_in() {
            return Err(KnockRefusal::ServerNotInRoom.into());
        }
        if !room.allows(self.knock.origin()) {
            return Err(KnockRefusal::ServerDenied.into());
        }
        check_version(room.version())?;
        if room.accepted_before(event.event_id(), lookups).is_some() {
            return Err(Stop::AlreadyHere);
        }
        let version = room.version().clone();
        let before =
            room.judge_incoming(event, lookups, |state| authorize_knock(&version, event, state)).map_err(stop_of)?;
        check_policy(&room.context.policy, &room.pending, event.sender(), room.now())?;
        let source = KnockSource::Federation { origin: self.knock.origin().to_owned(), network: self.network.clone() };
        if let Some(limits) = &room.context.limits {
            // Before another server is asked about it: a flood must not become theirs.
            limits.peek(room.room_id(), event.sender(), &source, room.context.clock.monotonic())?;
        }
        let event = room.pass_incoming(event, lookups).map_err(stop_of)?;
        let event = &event;
        // Before the token is taken: a turn that must run again takes it only in its last run.
        let placement = room.place_at_door(event, &before).map_err(stop_of)?;
        if let Some(limits) = &room.context.limits {
            limits.take(room.room_id(), event.sender(), &source, room.context.clock.monotonic())?;
        }
        let mut change = RoomChange::default();
        let source = Source::HandedBy(self.knock.origin().to_owned());
        room.apply(Placed { source, event: event.clone(), before, placement }, None, &mut change);
        Ok(change)
    }
}

fn stop_of(stop: IncomingStop<KnockRefusal>) -> Stop {
    Stop::Refused(match stop {
        IncomingStop::Need(need) => return Stop::Need(need),
        IncomingStop::Refused(refusal) => refusal,
        IncomingStop::NotAuthorized(refusal) => KnockRefusal::NotAuthorized { reason: refusal.reason },
        IncomingStop::UnknownPrevEvents(event_ids) => KnockRefusal::UnknownPrevEvents { event_ids },
        IncomingStop::UnknownAuthEvents(event_ids) => KnockRefusal::UnknownAuthEvents { event_ids },
    })
}

/// Counts a refusal of a knock from elsewhere. Not of rates: over them a knock is held and asks again, and only who gives up
/// on it knows that it was refused.
pub(super) fn count_refusal(room: &Room, refusal: &KnockRefusal) {
    if !matches!(refusal, KnockRefusal::OverRate { .. }) {
        room.context.gauges.knock_refused(refusal.name());
    }
}

/// The audit row of a refusal. Not of rates: a flood would write as much as it sends.
pub(super) fn audit(room: &Room, knock: &Pdu, refusal: &KnockRefusal) -> RoomChange {
    if matches!(refusal, KnockRefusal::OverRate { .. } | KnockRefusal::AlreadyKnocking { .. }) {
        return RoomChange::default();
    }
    RoomChange::audit(Decision {
        at: room.now(),
        room_id: room.room_id().to_owned(),
        user_id: knock.sender().to_owned(),
        origin: knock.sender_server().to_owned(),
        by: None,
        action: DecisionAction::Refused,
        reason: Some(refusal.name().to_owned()),
        event_id: Some(knock.event_id().to_owned()),
    })
}
