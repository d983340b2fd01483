//! State resolution v2 and v2.1 behind one function.
//! May not: load events; the caller collects what [`AuthEvents`] names as unknown.
//!
//! ruma resolves. What is ours is to hand it only what can matter: the keys on which the states differ, the state that
//! authorizes their events, and the auth chains less what all states have in common. In a room of a hundred thousand
//! members with two forks that differ by one knock it then looks at a handful of entries. A property test holds the
//! shortened input against the whole.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    state_res::{self, utils::event_id_set::EventIdSet},
};
use thiserror::Error;

use super::{StateKey, StateMap};
use crate::{pdu::Pdu, room_version::RoomVersion};

/// The algorithm could not run: an event that it needs is missing or unreadable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("state resolution failed: {reason}")]
pub struct ResolutionFailed {
    /// In words, for the log.
    pub reason: String,
}

/// Events by id, as far as the auth chains were collected.
#[derive(Clone, Debug, Default)]
pub struct AuthEvents {
    known: BTreeMap<OwnedEventId, Arc<Pdu>>,
    absent: BTreeSet<OwnedEventId>,
}

impl AuthEvents {
    /// Adds an event.
    pub fn insert(&mut self, event: Arc<Pdu>) {
        self.known.insert(event.event_id().to_owned(), event);
    }

    /// Remembers that an event cannot be had, so that it is not asked for again. It counts as no event.
    pub fn insert_absent(&mut self, event_id: OwnedEventId) {
        self.absent.insert(event_id);
    }

    /// An event, if it is known.
    pub fn get(&self, event_id: &EventId) -> Option<&Arc<Pdu>> {
        self.known.get(event_id)
    }

    /// The ids in the auth chains of the states that must still be loaded. Empty: [`resolve`] can run.
    pub fn unknown(&self, states: &[StateMap]) -> BTreeSet<OwnedEventId> {
        let mut unknown = BTreeSet::new();
        let mut seen: HashSet<&EventId> = HashSet::new();
        let mut queue: Vec<&Arc<Pdu>> = states.iter().flat_map(|state| state.iter().map(|(_, event)| event)).collect();
        while let Some(event) = queue.pop() {
            for auth_id in event.auth_events() {
                if !seen.insert(auth_id) {
                    continue;
                }
                match self.known.get(auth_id) {
                    Some(auth_event) => queue.push(auth_event),
                    None if self.absent.contains(auth_id) => {}
                    None => {
                        unknown.insert(auth_id.clone());
                    }
                }
            }
        }
        unknown
    }

    /// Adds all events of the states, which are members of each other's chains.
    pub fn insert_states(&mut self, states: &[StateMap]) {
        for (_, event) in states.iter().flat_map(StateMap::iter) {
            self.known.entry(event.event_id().to_owned()).or_insert_with(|| event.clone());
        }
    }

    /// The auth chain of events: their auth events, those of these, and so on.
    fn chain<'a>(&'a self, of: impl Iterator<Item = &'a Arc<Pdu>>) -> HashSet<&'a EventId> {
        let mut chain: HashSet<&EventId> = HashSet::new();
        let mut queue: Vec<&Arc<Pdu>> = of.collect();
        while let Some(event) = queue.pop() {
            for auth_id in event.auth_events() {
                if let Some(auth_event) = self.known.get(auth_id)
                    && chain.insert(auth_id)
                {
                    queue.push(auth_event);
                }
            }
        }
        chain
    }
}

/// Resolves the states of forks into one.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>, and version 12 for v2.1.
///
/// # Errors
/// [`ResolutionFailed`]; nothing changed.
pub fn resolve(version: &RoomVersion, states: &[StateMap], events: &AuthEvents) -> Result<StateMap, ResolutionFailed> {
    let Some((first, others)) = states.split_first() else {
        return Ok(StateMap::default());
    };
    let differing: BTreeSet<StateKey> =
        others.iter().flat_map(|other| first.changes_to(other)).map(|change| change.key).collect();
    if differing.is_empty() {
        return Ok(first.clone());
    }
    let mut common = first.clone();
    for key in &differing {
        common.remove(key);
    }
    let conflicted: Vec<Vec<&Arc<Pdu>>> =
        states.iter().map(|state| differing.iter().filter_map(|(kind, key)| state.get(kind, key)).collect()).collect();

    let common_chain = events.chain(common.iter().map(|(_, event)| event));
    let chains: Vec<HashSet<&EventId>> =
        conflicted.iter().map(|events_of_fork| events.chain(events_of_fork.iter().copied())).collect();
    let auth_chains = chains
        .iter()
        .map(|chain| chain.difference(&common_chain).map(|id| (*id).to_owned()).collect::<EventIdSet<OwnedEventId>>())
        .collect();

    let context = authorizing_state(&common, &chains, &conflicted, events);
    let maps: Vec<state_res::StateMap<OwnedEventId>> = conflicted
        .iter()
        .map(|events_of_fork| {
            let own =
                events_of_fork.iter().filter_map(|event| Some((event.state_entry()?, event.event_id().to_owned())));
            context.iter().map(|(key, id)| (key.clone(), id.clone())).chain(own).collect()
        })
        .collect();

    let fetch = |event_id: &EventId| events.get(event_id).cloned();
    let subgraph = |conflict: &state_res::StateMap<Vec<OwnedEventId>>| Some(conflicted_subgraph(conflict, events));
    let resolved = state_res::resolve(
        &version.rules().authorization,
        version.state_resolution(),
        &maps,
        auth_chains,
        fetch,
        subgraph,
    )
    .map_err(|error| ResolutionFailed { reason: error.to_string() })?;

    let mut state = common.clone();
    for ((kind, key), event_id) in resolved {
        if common.get(&kind, &key).is_none()
            && let Some(event) = events.get(&event_id)
        {
            state.insert(event.clone());
        }
    }
    Ok(state)
}

/// The part of the common state that any event under judgement may be authorized by: all of it but the members and
/// third-party invites that none of these events names.
fn authorizing_state(
    common: &StateMap,
    chains: &[HashSet<&EventId>],
    conflicted: &[Vec<&Arc<Pdu>>],
    events: &AuthEvents,
) -> HashMap<StateKey, OwnedEventId> {
    let in_chains = chains.iter().flatten().filter_map(|id| events.get(id));
    let mut named: BTreeSet<String> = BTreeSet::new();
    for event in in_chains.chain(conflicted.iter().flatten().copied()) {
        named.insert(event.sender().to_string());
        named.extend(event.state_key().map(ToOwned::to_owned));
        named.extend(names_in_content(event));
    }
    common
        .iter()
        .filter(|((kind, key), _)| match kind {
            StateEventType::RoomMember | StateEventType::RoomThirdPartyInvite => named.contains(key),
            _ => true,
        })
        .map(|(key, event)| (key.clone(), event.event_id().to_owned()))
        .collect()
}

/// The authorizing user of a restricted join and the token of a third-party invite.
fn names_in_content(event: &Pdu) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Content {
        join_authorised_via_users_server: Option<String>,
        third_party_invite: Option<ThirdParty>,
    }
    #[derive(serde::Deserialize)]
    struct ThirdParty {
        signed: Signed,
    }
    #[derive(serde::Deserialize)]
    struct Signed {
        token: String,
    }
    let Some(content) = event.content_as::<Content>() else {
        return Vec::new();
    };
    let token = content.third_party_invite.map(|invite| invite.signed.token);
    content.join_authorised_via_users_server.into_iter().chain(token).collect()
}

/// All events on auth paths between conflicted events, these included (v2.1).
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>
fn conflicted_subgraph(
    conflict: &state_res::StateMap<Vec<OwnedEventId>>,
    events: &AuthEvents,
) -> EventIdSet<OwnedEventId> {
    let conflicted: BTreeSet<&OwnedEventId> = conflict.values().flatten().collect();
    // Post-order walk: an event leads to a conflicted one if it is conflicted or one of its auth events leads to one.
    let mut leads: HashMap<OwnedEventId, bool> = HashMap::new();
    let mut reached: BTreeSet<OwnedEventId> = BTreeSet::new();
    for start in &conflicted {
        let mut stack = vec![((*start).clone(), false)];
        while let Some((event_id, children_are_done)) = stack.pop() {
            reached.insert(event_id.clone());
            let auth_ids = events.get(&event_id).map(|event| event.auth_events().to_vec()).unwrap_or_default();
            if children_are_done {
                let leads_on =
                    conflicted.contains(&event_id) || auth_ids.iter().any(|id| leads.get(id).copied().unwrap_or(false));
                leads.insert(event_id, leads_on);
            } else if !leads.contains_key(&event_id) {
                stack.push((event_id, true));
                stack.extend(auth_ids.into_iter().filter(|id| !leads.contains_key(id)).map(|id| (id, false)));
            }
        }
    }
    reached.into_iter().filter(|id| leads.get(id).copied().unwrap_or(false)).collect()
}
