//! A gap that nobody fills: the state before the event behind it, as the server that sent the event tells it.
//! May not: take an event that was not announced, or one that does not verify, for a part of that state.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>; SECURITY V32.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ruma::{OwnedEventId, OwnedServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use vestibule_actors::{AskError, ReceiveAcrossGap, ReceiveOutliers, StateAcross};
use vestibule_protocol::{
    membership::ReceiveRefusal,
    pdu::checks::{ShapedPdu, VerifiedPdu},
    room_version::RoomVersion,
};
use vestibule_storage::error::StorageError;

use super::{
    Federation,
    event_lists::{EventList, STATE_EVENTS_MAX, read_event},
    missing_events::{Gap, oldest_first},
    receive::{Asked, PATIENCE},
};
use crate::{client::Limits, endpoints};

/// Bytes of an answer with such ids.
const STATE_IDS_REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of an answer with a whole state. As for a join.
const STATE_REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for a whole state and all its keys. Ours: the event that needs it waits so long.
const ACROSS_DEADLINE: Duration = Duration::from_mins(3);

/// Events that are fetched one by one; if more are missing, the whole state is. Ours.
const ONE_BY_ONE_MAX: usize = 50;

/// Events fetched one by one at once. Ours.
const AT_ONCE_MAX: usize = 8;

/// Events looked for in storage, or given to the room, at a time. Ours.
const EVENTS_AT_A_TIME: usize = 500;

#[derive(Deserialize)]
struct StateIds {
    pdu_ids: EventList<OwnedEventId>,
    auth_chain_ids: EventList<OwnedEventId>,
}

#[derive(Deserialize)]
struct State<'a> {
    #[serde(borrow)]
    pdus: EventList<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: EventList<&'a RawValue>,
}

impl Federation {
    /// Takes an event upon the state that its sender tells, if it tells any.
    pub(super) async fn receive_across_gap(&self, gap: &Gap<'_>, event: &VerifiedPdu) -> Asked {
        let gap = Gap { deadline: Instant::now() + ACROSS_DEADLINE, ..gap.clone() };
        let told = timeout_at(gap.deadline, self.fetch_state(&gap, event)).await.unwrap_or(Ok(None))?;
        let state = told.map_or(StateAcross::NotTold, |state| StateAcross::Told(state.into_iter().collect()));
        let message = || ReceiveAcrossGap {
            event: event.clone(),
            origin: OwnedServerName::from(gap.origin),
            state: state.clone(),
        };
        let asked = PATIENCE.ask(|| self.inner.rooms.ask(gap.room_id, message())).await;
        if asked.is_ok() {
            log::info!(origin:% = gap.origin, room_id:% = gap.room_id, event_id:% = event.pdu().event_id(); "event taken across a gap");
        }
        asked
    }

    /// Brings every event of the state before `event` into storage, as far as they are to be had, and says which they are.
    /// `None`: the server does not tell.
    async fn fetch_state(
        &self,
        gap: &Gap<'_>,
        event: &VerifiedPdu,
    ) -> Result<Option<BTreeSet<OwnedEventId>>, AskError<ReceiveRefusal>> {
        let request = endpoints::state_ids(gap.room_id, event.pdu().event_id());
        let limits = Limits {
            reply_bytes_max: STATE_IDS_REPLY_BYTES_MAX,
            deadline: gap.deadline.saturating_duration_since(Instant::now()),
        };
        let reply = self.inner.client.request(gap.origin, request, limits).await;
        let told = reply.and_then(|reply| reply.json::<StateIds>()).map_err(|error| {
            log::debug!(destination:% = gap.origin, room_id:% = gap.room_id, error:%; "state not told");
        });
        let Ok(StateIds { pdu_ids: EventList(pdu_ids), auth_chain_ids: EventList(auth_chain_ids) }) = told else {
            return Ok(None);
        };
        if pdu_ids.len().saturating_add(auth_chain_ids.len()) > STATE_EVENTS_MAX {
            return Ok(None);
        }
        let announced: BTreeSet<OwnedEventId> =
            pdu_ids.iter().chain(&auth_chain_ids).chain(event.pdu().auth_events()).cloned().collect();
        let mut known = self.stored(gap, &announced).await.map_err(of_storage)?;
        let missing: BTreeSet<OwnedEventId> = announced.difference(&known).cloned().collect();
        let fetched = if missing.len() > ONE_BY_ONE_MAX {
            self.fetch_whole_state(gap, event, &missing).await
        } else {
            let fetching = stream::iter(missing).map(|event_id| async move { self.fetch_event(gap, &event_id).await });
            Some(fetching.buffer_unordered(AT_ONCE_MAX).filter_map(std::future::ready).collect().await)
        };
        let Some(fetched) = fetched else { return Ok(None) };
        self.keep_outliers(gap, fetched, &mut known).await?;
        Ok(Some(pdu_ids.into_iter().filter(|event_id| known.contains(event_id)).collect()))
    }

    /// Those of the events that are stored.
    pub(super) async fn stored(
        &self,
        gap: &Gap<'_>,
        event_ids: &BTreeSet<OwnedEventId>,
    ) -> Result<BTreeSet<OwnedEventId>, StorageError> {
        let event_ids: Vec<OwnedEventId> = event_ids.iter().cloned().collect();
        let mut known = BTreeSet::new();
        for some in event_ids.chunks(EVENTS_AT_A_TIME) {
            let stored = self.inner.stores.rooms.events(gap.room_id, some).await?;
            known.extend(stored.into_iter().flatten().map(|stored| stored.event.event_id().to_owned()));
        }
        Ok(known)
    }

    async fn fetch_whole_state(
        &self,
        gap: &Gap<'_>,
        event: &VerifiedPdu,
        wanted: &BTreeSet<OwnedEventId>,
    ) -> Option<Vec<VerifiedPdu>> {
        let limits = Limits {
            reply_bytes_max: STATE_REPLY_BYTES_MAX,
            deadline: gap.deadline.saturating_duration_since(Instant::now()),
        };
        let request = endpoints::state(gap.room_id, event.pdu().event_id());
        let reply = self.inner.client.request(gap.origin, request, limits).await.ok()?;
        let (version, wanted) = (gap.version.clone(), wanted.clone());
        let shaped = self.inner.cpu.run(move || shape(&reply.body, &version, wanted)).await.ok().flatten()?;
        let of_room = shaped.into_iter().filter(|event| event.pdu().room_id() == gap.room_id).collect();
        Some(self.verify_many(of_room, gap.version).await)
    }

    /// Gives fetched events to the room, each after those that authorize it; adds them to `known`. An event that names one
    /// which is neither known nor fetched is left out.
    ///
    /// # Errors
    /// [`AskError`]: the room did not take them.
    pub(super) async fn keep_outliers(
        &self,
        gap: &Gap<'_>,
        fetched: Vec<VerifiedPdu>,
        known: &mut BTreeSet<OwnedEventId>,
    ) -> Result<(), AskError<ReceiveRefusal>> {
        let ordered = oldest_first(fetched, |event| event.pdu().auth_events());
        let named: BTreeSet<OwnedEventId> =
            ordered.iter().flat_map(|event| event.pdu().auth_events()).cloned().collect();
        let unknown: BTreeSet<OwnedEventId> = named.difference(known).cloned().collect();
        known.extend(self.stored(gap, &unknown).await.map_err(of_storage)?);
        let mut complete: Vec<VerifiedPdu> = Vec::new();
        for event in ordered {
            if event.pdu().auth_events().iter().all(|event_id| known.contains(event_id)) {
                known.insert(event.pdu().event_id().to_owned());
                complete.push(event);
            }
        }
        for some in complete.chunks(EVENTS_AT_A_TIME) {
            let message = || ReceiveOutliers { events: some.to_vec() };
            PATIENCE.ask(|| self.inner.rooms.ask(gap.room_id, message())).await?;
        }
        Ok(())
    }
}

/// That the store cannot be read is no fact about what was asked for.
pub(super) fn of_storage(error: StorageError) -> AskError<ReceiveRefusal> {
    AskError::Storage(error.into())
}

/// The wanted events of an answer whose format is right. `None`: it is no such answer.
fn shape(body: &Bytes, version: &RoomVersion, mut wanted: BTreeSet<OwnedEventId>) -> Option<Vec<ShapedPdu>> {
    let answer: State<'_> = serde_json::from_slice(body).ok()?;
    let mut events = Vec::new();
    for text in answer.auth_chain.0.into_iter().chain(answer.pdus.0) {
        let Some(shaped) = read_event(text, version) else { continue };
        if wanted.remove(shaped.pdu().event_id()) {
            events.push(shaped);
        }
    }
    Some(events)
}
