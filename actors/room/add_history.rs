//! Puts events from before our time at the beginning of the timeline: what another server gave us of the room's past.
//! May not: take an event that nothing which we have leads to, or let the past change the present state.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId};
use vestibule_protocol::{
    membership::ReceiveRefusal,
    pdu::{Pdu, Standing, checks::VerifiedPdu},
    stream::TimelineOrder,
};
use vestibule_storage::room::{EventRow, MembershipRow};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn, gather::is_outlier, outliers::judge_outlier};

/// History, as a server that is in the room gave it.
#[derive(Debug)]
pub struct AddHistory {
    /// The oldest event of the timeline when the history was asked for.
    pub before: OwnedEventId,
    /// The events, format and signatures judged, in any order. Those that authorize them are stored.
    pub events: Vec<VerifiedPdu>,
}

impl RoomMessage for AddHistory {
    /// How many events of the timeline are new.
    type Reply = usize;
    type Refusal = ReceiveRefusal;
    const KIND: &'static str = "add_history";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        let own = self.events.iter().map(|event| event.pdu().event_id().to_owned());
        let cited = self.events.iter().flat_map(|event| event.pdu().auth_events().iter().cloned());
        let ids: BTreeSet<OwnedEventId> = own.chain(cited).chain([self.before.clone()]).collect();
        ids.into_iter().collect()
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        if !room.is_lived_in() {
            return Turn::Refuse(ReceiveRefusal::ServerNotInRoom, Box::default());
        }
        let Some(before) = lookups.event(&self.before) else {
            return Turn::Refuse(
                ReceiveRefusal::MissingEvents { event_ids: vec![self.before.clone()] },
                Box::default(),
            );
        };
        if before.order != Some(room.oldest_order) {
            // Somebody else fetched it meanwhile.
            return Turn::Answer(0);
        }
        let mut change = RoomChange::default();
        let leading_here = self.leading_to(&before.event, room, lookups);
        let count = leading_here.len();
        let mut rows: Vec<EventRow> = Vec::new();
        for event in leading_here {
            let find = |id: &EventId| -> Option<Arc<Pdu>> {
                room.event_in_memory(id, &event).or_else(|| lookups.event(id).map(|stored| stored.event.clone()))
            };
            let judged = judge_outlier(&event, room.version(), room.state().create(), find);
            rows.push(room.keep_history(judged, &mut change));
        }
        // Found from the newest back; a commit has them oldest first.
        rows.reverse();
        let redactions: Vec<(Arc<Pdu>, Arc<Pdu>)> = rows
            .iter()
            .filter_map(|row| {
                let among_them = rows.iter().map(|other| &other.event);
                let redaction = room.redaction_of(&row.event, among_them.chain(room.graph.recent_events()))?;
                Some((row.event.clone(), redaction))
            })
            .collect();
        rows.into_iter().for_each(|row| change.push_event(row));
        for (target, redaction) in redactions {
            room.redact(&target, &redaction, &mut change);
        }
        Turn::Commit(Box::new(change), count)
    }
}

impl AddHistory {
    /// Those of the events that what we have cites, and what those cite: newest first. So nobody can slip in a past of
    /// their own.
    fn leading_to(&self, first: &Pdu, room: &Room, lookups: &Lookups) -> Vec<Arc<Pdu>> {
        let given: BTreeMap<&EventId, &Arc<Pdu>> =
            self.events.iter().map(|event| (event.pdu().event_id(), event.pdu())).collect();
        let mut wanted: Vec<OwnedEventId> = first.prev_events().to_vec();
        let mut seen: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut found: Vec<Arc<Pdu>> = Vec::new();
        while let Some(id) = wanted.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let Some(event) = given.get(&*id).filter(|event| event.room_id() == room.room_id()) else { continue };
            wanted.extend(event.prev_events().iter().cloned());
            let is_here = lookups.event(&id).is_some_and(|stored| !is_outlier(stored));
            if !is_here {
                found.push(Arc::clone(event));
            }
        }
        // Depth is the sender's word; here it only orders what is shown, and what cites comes after what is cited.
        found.sort_by_key(|event| Reverse((event.depth(), event.origin_server_ts().0)));
        found
    }
}

impl Room {
    /// An event before all others, and what it says of a user of ours back then. What the rules do not allow gets no place.
    fn keep_history(&mut self, event: Arc<Pdu>, change: &mut RoomChange) -> EventRow {
        let is_accepted = event.standing() == Standing::Accepted;
        let order = is_accepted.then(|| {
            self.oldest_order = TimelineOrder(self.oldest_order.0.saturating_sub(1));
            self.oldest_order
        });
        let current = self.graph.current().version();
        let member = event.state_key().and_then(|user_id| UserId::parse(user_id).ok());
        let is_ours = |user: &OwnedUserId| user.server_name() == self.context.identity.server_name();
        if let (Some(user_id), Some(membership)) = (member.filter(is_ours), event.membership().filter(|_| is_accepted))
        {
            let event_id = event.event_id().to_owned();
            change.push_membership(MembershipRow { user_id, membership, event_id, order, is_local: true });
        }
        EventRow {
            event,
            order,
            // The state there is not known; where one is shown with the event, the present one stands in for it. Nothing is
            // judged by it: see `has_state`.
            state_before: if is_accepted { current } else { Default::default() },
            current_after: current,
            visibility: self.state().history_visibility(),
            received_at: self.now(),
            transaction: None,
        }
    }
}
