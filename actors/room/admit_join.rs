//! Admits a signed join: `send_join`.
//! May not: answer before the join is durable, or decide whether a restricted join's condition is met.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedServerName};
use vestibule_protocol::{
    auth::authorize_by_state,
    membership::{JoinRefusal, handshake::SignedJoin},
    pdu::Pdu,
    state::StateVersion,
};

use super::{
    Lookups, Room, RoomChange, RoomMessage, Turn,
    apply::{Placed, Source},
    incoming::IncomingStop,
};

/// Asks for admission.
#[derive(Debug)]
pub struct AdmitJoin {
    /// The join, structure and signatures judged.
    pub join: SignedJoin,
}

/// What `send_join` answers; the state and its auth chain are read from storage.
#[derive(Clone, Debug)]
pub struct AdmittedJoin {
    /// The join as it now is, with our signature if a restricted join needed it.
    pub event: Arc<Pdu>,
    /// The state before it.
    pub state_before: StateVersion,
    /// Servers with joined users.
    pub servers: Vec<OwnedServerName>,
}

impl RoomMessage for AdmitJoin {
    type Reply = AdmittedJoin;
    type Refusal = JoinRefusal;
    const KIND: &'static str = "admit_join";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        vec![self.join.pdu().event_id().to_owned()]
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let event = self.join.pdu();
        if !room.is_lived_in() {
            return refuse(JoinRefusal::ServerNotInRoom);
        }
        if !room.allows(self.join.origin()) {
            return refuse(JoinRefusal::ServerDenied);
        }
        if let Some((event, state_before)) = room.accepted_before(event.event_id(), lookups) {
            let servers = room.joined_servers().cloned().collect();
            return Turn::Answer(AdmittedJoin { event, state_before, servers });
        }
        let version = room.version().clone();
        let judged = room.judge_incoming(event, lookups, |state| {
            authorize_by_state(&version, event, state)
                .map_err(|refusal| JoinRefusal::NotAuthorized { reason: refusal.reason })
        });
        let judged = judged.and_then(|before| {
            let event = room.pass_incoming(event, lookups)?;
            let placement = room.place_at_door(&event, &before)?;
            Ok((before, event, placement))
        });
        let (before, event, placement) = match judged {
            Ok(passed) => passed,
            Err(IncomingStop::Need(need)) => return Turn::Need(need),
            Err(IncomingStop::Refused(refusal)) => return refuse(refusal),
            Err(IncomingStop::NotAuthorized(refusal)) => {
                return refuse(JoinRefusal::NotAuthorized { reason: refusal.reason });
            }
            Err(IncomingStop::UnknownPrevEvents(event_ids)) => {
                return refuse(JoinRefusal::UnknownPrevEvents { event_ids });
            }
            Err(IncomingStop::UnknownAuthEvents(event_ids)) => {
                return refuse(JoinRefusal::UnknownAuthEvents { event_ids });
            }
        };
        let mut change = RoomChange::default();
        let state_before = before.version();
        let source = Source::HandedBy(self.join.origin().to_owned());
        room.apply(Placed { source, event: event.clone(), before, placement }, None, &mut change);
        let servers = room.joined_servers().cloned().collect();
        Turn::Commit(Box::new(change), AdmittedJoin { event, state_before, servers })
    }
}
