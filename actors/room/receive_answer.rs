//! Takes the denial of a knock elsewhere, or the rescission of an invite, which reaches us although we are not in the room.
//! May not: believe it from anybody but those who may know, or change more than what our user sees.
//!
//! The specification sends such an event to nobody outside the room; this is how the one who knocked hears of it (SPEC 2.8,
//! SECURITY T8).

use std::sync::Arc;

use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use vestibule_protocol::{
    membership::{
        ReceiveRefusal,
        answer::{AnswerRefusal, Asked, OutOfBandAnswer, out_of_band_answer},
    },
    pdu::{Pdu, checks::VerifiedPdu},
};
use vestibule_storage::room::{Decision, DecisionAction, OutOfBand, Progress};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// A leave or a ban of a user of ours, for a room that we are not in.
#[derive(Debug)]
pub struct ReceiveAnswer {
    /// The event, format and signatures judged.
    pub event: VerifiedPdu,
    /// The server that brought it.
    pub origin: OwnedServerName,
}

/// The sender of a stripped event, all that is asked of it here.
#[derive(Deserialize)]
struct ShownSender {
    sender: OwnedUserId,
}

impl RoomMessage for ReceiveAnswer {
    type Reply = ();
    type Refusal = ReceiveRefusal;
    const KIND: &'static str = "receive_answer";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        let event = self.event.pdu();
        if event.room_id() != room.room_id() {
            return refuse(ReceiveRefusal::NotOfThisRoom);
        }
        let target = event.state_key().filter(|_| *event.kind() == TimelineEventType::RoomMember);
        let Some(user_id) = target.and_then(|target| UserId::parse(target).ok()) else {
            return refuse(ReceiveRefusal::Unsolicited);
        };
        let Some(standing) = room.out_of_band.get(&user_id).cloned() else {
            return refuse(ReceiveRefusal::Unsolicited);
        };
        if standing.event.event_id() == event.event_id() {
            return Turn::Answer(());
        }
        let shown = shown_senders(&standing);
        let asked = Asked {
            user_id: &user_id,
            pending: &standing.event,
            knock: standing.knock_id(),
            joins: &standing.joins,
            via: &standing.via,
            shown_senders: &shown,
        };
        let answer = match out_of_band_answer(event, &asked, &self.origin) {
            Ok(answer) => answer,
            // It says nothing of the knock. But it may end an invite that another server has not delivered yet.
            Err(AnswerRefusal::NotCited) if standing.membership == MembershipState::Knock => {
                let mut change = RoomChange::default();
                let waits = OutOfBand { early: Some(event.clone()), ..standing };
                room.keep_out_of_band(user_id, waits, &mut change);
                return Turn::Refuse(ReceiveRefusal::Unsolicited, Box::new(change));
            }
            Err(refusal) => {
                log::debug!(room_id:% = room.room_id(), origin:% = self.origin, event_id:% = event.event_id(), reason:% = refusal; "answer not believed");
                return refuse(ReceiveRefusal::Unsolicited);
            }
        };
        let mut change = RoomChange::default();
        room.end_by_answer(user_id, standing, event, answer, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}

impl Room {
    /// The knock or invite has ended with the answer of somebody in the room.
    pub(super) fn end_by_answer(
        &mut self,
        user_id: OwnedUserId,
        standing: OutOfBand,
        event: &Arc<Pdu>,
        answer: OutOfBandAnswer,
        change: &mut RoomChange,
    ) {
        let (membership, action) = match answer {
            OutOfBandAnswer::Denied => (MembershipState::Leave, Some(DecisionAction::Denied)),
            OutOfBandAnswer::Banned => (MembershipState::Ban, Some(DecisionAction::Banned)),
            OutOfBandAnswer::Rescinded => (MembershipState::Leave, None),
        };
        if let Some(action) = action {
            change.push_decision(Decision {
                at: self.now(),
                room_id: self.room_id().to_owned(),
                user_id: user_id.clone(),
                origin: user_id.server_name().to_owned(),
                by: Some(event.sender().to_owned()),
                action,
                reason: event.reason(),
                event_id: Some(event.event_id().to_owned()),
            });
        }
        let ended = OutOfBand {
            membership,
            progress: Progress::Settled,
            event: event.clone(),
            since: self.now(),
            knock: standing.knock_id().map(ToOwned::to_owned),
            early: None,
            ..standing
        };
        if ended.joins.iter().any(|join| event.cites_as_auth(join)) {
            self.end_join(&user_id, change);
        }
        self.set_out_of_band(user_id, ended, change);
    }
}

/// The servers of those who made what the user is shown of the room.
pub(super) fn shown_senders(standing: &OutOfBand) -> Vec<OwnedServerName> {
    let events = standing.stripped.iter().filter_map(|event| serde_json::from_str::<ShownSender>(event).ok());
    events.map(|event| event.sender.server_name().to_owned()).collect()
}
