//! Admits a signed leave: `send_leave`.
//! May not: answer before the leave is durable.

use ruma::OwnedEventId;
use vestibule_protocol::membership::{LeaveRefusal, handshake::SignedLeave, leave::authorize_leave};

use super::{
    Lookups, Room, RoomChange, RoomMessage, Turn,
    apply::{Placed, Source},
    incoming::IncomingStop,
};

/// Asks for admission.
#[derive(Debug)]
pub struct AdmitLeave {
    /// The leave, structure and signatures judged.
    pub leave: SignedLeave,
}

impl RoomMessage for AdmitLeave {
    type Reply = ();
    type Refusal = LeaveRefusal;
    const KIND: &'static str = "admit_leave";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        vec![self.leave.pdu().event_id().to_owned()]
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let event = self.leave.pdu();
        if !room.is_lived_in() {
            return refuse(LeaveRefusal::ServerNotInRoom);
        }
        if !room.allows(self.leave.origin()) {
            return refuse(LeaveRefusal::ServerDenied);
        }
        if room.accepted_before(event.event_id(), lookups).is_some() {
            return Turn::Answer(());
        }
        let version = room.version().clone();
        let judged = room
            .judge_incoming(event, lookups, |state| authorize_leave(&version, event, state))
            .and_then(|before| Ok((before, room.pass_incoming(event, lookups)?)));
        let (before, event) = match judged {
            Ok(passed) => passed,
            Err(IncomingStop::Need(need)) => return Turn::Need(need),
            Err(IncomingStop::Refused(refusal)) => return refuse(refusal),
            Err(IncomingStop::NotAuthorized(refusal)) => {
                return refuse(LeaveRefusal::NotAuthorized { reason: refusal.reason });
            }
            Err(IncomingStop::UnknownPrevEvents(event_ids)) => {
                return refuse(LeaveRefusal::UnknownPrevEvents { event_ids });
            }
            Err(IncomingStop::UnknownAuthEvents(event_ids)) => {
                return refuse(LeaveRefusal::UnknownAuthEvents { event_ids });
            }
        };
        let placement = match room.place_incoming(&event, &before) {
            Ok(placement) => placement,
            Err(need) => return Turn::Need(need),
        };
        let mut change = RoomChange::default();
        let source = Source::HandedBy(self.leave.origin().to_owned());
        room.apply(Placed { source, event, before, placement }, None, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}
