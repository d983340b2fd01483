//! Takes an event that cites events which nobody would give us, on the word of another server about the state there; or, where
//! nobody tells that either, the one kind of event that can be judged by what we have.
//! May not: believe more than which of the events, each verified and judged by itself, make the state.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedEventId, OwnedServerName, UserId, events::room::member::MembershipState};
use vestibule_protocol::{
    membership::{
        ReceiveRefusal,
        answer::{may_end_stay, puts_out},
    },
    pdu::{Pdu, Standing, checks::VerifiedPdu},
    room_graph::StateBefore,
    state::StateMap,
};

use super::{
    Lookups, Need, Room, RoomMessage, Turn,
    gather::{STAY_MEMBERSHIPS_MAX, is_earlier_membership},
    incoming::{Cited, IncomingStop, NamedEvents},
    receive_pdu::{Never, Received},
};

/// An event behind a gap.
#[derive(Debug)]
pub struct ReceiveAcrossGap {
    /// The event, format and signatures judged.
    pub event: VerifiedPdu,
    /// The server that brought it and told the state.
    pub origin: OwnedServerName,
    /// The state before it.
    pub state: StateAcross,
}

/// What is known of the state behind a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateAcross {
    /// Its events, as the server tells that brought the event. All must be stored, be it as outliers.
    Told(Vec<OwnedEventId>),
    /// Nothing. What puts the last user of ours out of the room is judged by the state that we have; anything else is refused.
    NotTold,
}

impl RoomMessage for ReceiveAcrossGap {
    type Reply = Received;
    type Refusal = ReceiveRefusal;
    const KIND: &'static str = "receive_across_gap";
    const CHANGES: bool = true;

    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        let event = self.event.pdu();
        let own = [Some(event.event_id()), event.redacts()].into_iter().flatten().map(ToOwned::to_owned);
        let told = match &self.state {
            StateAcross::Told(state) => state.as_slice(),
            StateAcross::NotTold => &[],
        };
        own.chain(event.auth_events().iter().cloned()).chain(told.iter().cloned()).collect()
    }

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |refusal| Turn::Refuse(refusal, Box::default());
        if !room.is_lived_in() {
            return refuse(ReceiveRefusal::ServerNotInRoom);
        }
        if !room.allows(&self.origin) {
            return refuse(ReceiveRefusal::ServerDenied);
        }
        let event = self.event.pdu();
        if event.room_id() != room.room_id() {
            return refuse(ReceiveRefusal::NotOfThisRoom);
        }
        if room.has_event(event.event_id(), lookups) {
            return Turn::Answer(Received::Known);
        }
        let cited = match self.cited(room, lookups) {
            Ok(cited) => cited,
            Err(IncomingStop::Need(need)) => return Turn::Need(need),
            Err(IncomingStop::UnknownPrevEvents(event_ids) | IncomingStop::UnknownAuthEvents(event_ids)) => {
                return refuse(ReceiveRefusal::MissingEvents { event_ids });
            }
            Err(IncomingStop::NotAuthorized(refusal)) => {
                return Turn::Answer(Received::Rejected { reason: refusal.reason });
            }
            Err(IncomingStop::Refused(never)) => match never {},
        };
        match room.receive_upon::<Never>(event, lookups, cited) {
            Ok((change, received)) => Turn::Commit(Box::new(change), received),
            Err(IncomingStop::Need(need)) => Turn::Need(need),
            Err(IncomingStop::UnknownPrevEvents(event_ids) | IncomingStop::UnknownAuthEvents(event_ids)) => {
                refuse(ReceiveRefusal::MissingEvents { event_ids })
            }
            Err(IncomingStop::NotAuthorized(refusal)) => Turn::Answer(Received::Rejected { reason: refusal.reason }),
            Err(IncomingStop::Refused(never)) => match never {},
        }
    }
}

impl ReceiveAcrossGap {
    fn cited(&self, room: &mut Room, lookups: &Lookups) -> Result<Cited, IncomingStop<Never>> {
        let event = self.event.pdu();
        let NamedEvents { auth_events, to_read, absent } = room.named_by(event, lookups);
        let absent: Vec<OwnedEventId> = absent.into_iter().chain(to_read).collect();
        if !absent.is_empty() {
            return Err(IncomingStop::UnknownAuthEvents(absent));
        }
        let claimed = match &self.state {
            StateAcross::Told(state) => told_state(state, room, lookups)?,
            StateAcross::NotTold => match puts_out(event, room.context.identity.server_name()) {
                // While others of ours are in the room, there is somebody who is told.
                Some(user_id)
                    if room.is_last_of_ours(&user_id) && may_end_stay(event, &room.stay_of(&user_id, lookups)?) =>
                {
                    room.state().clone()
                }
                _ => return Err(IncomingStop::UnknownPrevEvents(event.prev_events().to_vec())),
            },
        };
        let before = match room.graph.state_across(event.prev_events(), claimed) {
            StateBefore::Known(node) => node,
            StateBefore::NotInMemory(cited) => {
                return Err(IncomingStop::Need(Need::Events { cited, read: BTreeSet::new() }));
            }
            StateBefore::Unresolved(unresolved) => return Err(IncomingStop::Need(Need::Resolution(unresolved))),
        };
        // On our own word about the state it is taken only if it does put the user out. If it does not, somebody will tell.
        if self.state == StateAcross::NotTold
            && !room.place_incoming(event, &before).map_err(IncomingStop::Need)?.keeps(event)
        {
            return Err(IncomingStop::UnknownPrevEvents(event.prev_events().to_vec()));
        }
        Ok(Cited { before, auth_events })
    }
}

impl Room {
    /// Whether nobody else of ours is in the room.
    fn is_last_of_ours(&self, user_id: &UserId) -> bool {
        let joined = self.state().users_with(&MembershipState::Join);
        joined.iter().all(|joined| joined.server_name() != user_id.server_name() || joined == user_id)
    }

    /// The user's membership and those that it follows from, newest first. Empty: not all of them are at hand, or they are too
    /// many.
    fn stay_of<F>(&self, user_id: &UserId, lookups: &Lookups) -> Result<Vec<Arc<Pdu>>, IncomingStop<F>> {
        let mut stay: Vec<Arc<Pdu>> = Vec::new();
        let mut next = self.state().member(user_id).cloned();
        while let Some(membership) = next {
            if stay.len() >= STAY_MEMBERSHIPS_MAX {
                return Ok(Vec::new());
            }
            let NamedEvents { auth_events, to_read, absent } = self.named_by(&membership, lookups);
            if !to_read.is_empty() {
                return Err(IncomingStop::Need(Need::Stay(membership)));
            }
            if !absent.is_empty() {
                return Ok(Vec::new());
            }
            next = auth_events.into_iter().find(|event| is_earlier_membership(event, &membership));
            stay.push(membership);
        }
        Ok(stay)
    }
}

fn told_state(state: &[OwnedEventId], room: &Room, lookups: &Lookups) -> Result<StateMap, IncomingStop<Never>> {
    let missing: BTreeSet<OwnedEventId> = state.iter().filter(|id| lookups.event(id).is_none()).cloned().collect();
    if !missing.is_empty() {
        return Err(IncomingStop::UnknownAuthEvents(missing.into_iter().collect()));
    }
    let told: StateMap = state
        .iter()
        .filter_map(|id| lookups.event(id))
        .map(|stored| &stored.event)
        .filter(|event| event.standing() == Standing::Accepted)
        .map(Arc::clone)
        .collect();
    // Without the create event it would be a state of another room.
    if told.create().is_none_or(|create| Some(create) != room.state().create()) {
        let create = room.state().create().map(|create| create.event_id().to_owned());
        return Err(IncomingStop::UnknownAuthEvents(create.into_iter().collect()));
    }
    Ok(told)
}
