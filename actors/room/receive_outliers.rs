//! Takes events that only authorize others: fetched from a peer because an event names them.
//! May not: give them a place in the timeline or in a state, or believe one that its own auth events do not allow.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{EventId, OwnedEventId};
use vestibule_protocol::{membership::ReceiveRefusal, pdu::Pdu, pdu::checks::VerifiedPdu};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, outliers::judge_outlier};

/// Events fetched to fill a gap in an auth chain.
#[derive(Debug)]
pub struct ReceiveOutliers {
    /// The events, format and signatures judged, each after those that authorize it.
    pub events: Vec<VerifiedPdu>,
}

impl RoomMessage for ReceiveOutliers {
    type Reply = ();
    type Refusal = ReceiveRefusal;
    const KIND: &'static str = "receive_outliers";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        let own = self.events.iter().map(|event| event.pdu().event_id());
        let cited = self.events.iter().flat_map(|event| event.pdu().auth_events()).map(|id| &**id);
        let mut ids: Vec<OwnedEventId> = own.chain(cited).map(ToOwned::to_owned).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        if !room.is_lived_in() {
            return Turn::Refuse(ReceiveRefusal::ServerNotInRoom, Box::default());
        }
        let mut change = RoomChange::default();
        let mut taken: BTreeMap<OwnedEventId, Arc<Pdu>> = BTreeMap::new();
        for event in &self.events {
            let event = event.pdu();
            let is_here = lookups.event(event.event_id()).is_some() || room.has_event(event.event_id(), lookups);
            if is_here {
                continue;
            }
            if event.room_id() != room.room_id() {
                return Turn::Refuse(ReceiveRefusal::NotOfThisRoom, Box::default());
            }
            let find = |id: &EventId| -> Option<Arc<Pdu>> {
                let just_taken = taken.get(id).cloned();
                just_taken
                    .or_else(|| room.event_in_memory(id, event))
                    .or_else(|| lookups.event(id).map(|stored| stored.event.clone()))
            };
            let missing: Vec<OwnedEventId> =
                event.auth_events().iter().filter(|id| find(id).is_none()).cloned().collect();
            if !missing.is_empty() {
                return Turn::Refuse(ReceiveRefusal::MissingEvents { event_ids: missing }, Box::default());
            }
            let judged = judge_outlier(event, room.version(), room.state().create(), find);
            taken.insert(event.event_id().to_owned(), judged.clone());
            room.keep_outlier(judged, &mut change);
        }
        Turn::Commit(Box::new(change), ())
    }
}
