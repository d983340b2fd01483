//! Events that an event cites and we lack: asked for at the server that sent it, verified, and given to the room oldest first.
//! May not: take an event that was not asked for, or ask without end.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>; SECURITY V17, V32, V34.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, RoomId, ServerName, api::error::ErrorCode,
};
use serde_json::json;
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout, timeout_at},
};
use vestibule_actors::AskError;
use vestibule_protocol::{
    membership::ReceiveRefusal,
    pdu::checks::{ShapedPdu, VerifiedPdu},
    room_version::RoomVersion,
    stream::TimelineOrder,
};
use vestibule_storage::{error::StorageError, room::Direction};

use super::{Federation, across_gap::of_storage, receive::Asked};
use crate::{
    client::{Limits, RemoteError, ServerRequest},
    endpoints,
};

/// Events asked for at a time. Ours; peers give some twenty at most.
pub const MISSING_EVENTS_PER_REQUEST: usize = 20;

/// Questions for missing events on behalf of one received event. Ours: with the above a gap of some two hundred events.
pub const MISSING_ROUNDS_MAX: usize = 10;

/// Events fetched one by one to complete auth chains, on behalf of one received event. Ours.
pub const MISSING_AUTH_EVENTS_MAX: usize = 100;

/// All that is done to fill the gap before one received event. Ours: its sender waits for the answer, and gives up after a
/// minute.
pub const MISSING_DEADLINE: Duration = Duration::from_secs(45);

/// How long a gap waits for the other gaps of its room. Ours: with the above it is a minute.
const TURN_WAIT: Duration = Duration::from_secs(15);

/// Time for what waits for an event that was taken across a gap: it cites only what is there by then. Ours.
const CROSSED_TIME: Duration = Duration::from_secs(10);

/// Events of our own timeline named as what we have. Ours.
const EARLIEST_EVENTS: usize = 10;

/// Bytes of an answer with one event. Ours: an event, and what else a server may put around it.
const EVENT_REPLY_BYTES_MAX: usize = 256 * 1024;

/// Bytes of an answer with missing events: [`MISSING_EVENTS_PER_REQUEST`] of full size and what is around them.
const MISSING_REPLY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Locks by room: gaps of one room are filled one after the other, since the first one often fills the next; so is its past.
/// Nothing breaks without.
#[derive(Clone, Default)]
pub(super) struct Gaps {
    rooms: Arc<Mutex<BTreeMap<OwnedRoomId, Weak<AsyncMutex<()>>>>>,
}

impl Gaps {
    pub(super) fn of(&self, room_id: &RoomId) -> Arc<AsyncMutex<()>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = rooms.get(room_id).and_then(Weak::upgrade) {
            return lock;
        }
        rooms.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        rooms.insert(room_id.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// Something that is fetched for a room from one server, and what may still be spent on it.
#[derive(Clone)]
pub(super) struct Gap<'a> {
    pub(super) origin: &'a ServerName,
    pub(super) room_id: &'a RoomId,
    pub(super) version: &'a RoomVersion,
    pub(super) deadline: Instant,
    pub(super) rounds_left: usize,
    pub(super) auth_events_left: usize,
    /// What is less deep was there before we were. It is history, which is not filled in but crossed.
    pub(super) depth_min: u64,
}

impl Federation {
    /// Takes an event that cites unknown ones: first those, oldest first, then it.
    pub(super) async fn receive_with_missing(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        version: &RoomVersion,
        event: VerifiedPdu,
    ) -> Asked {
        let lock = self.under_way.gaps.of(room_id);
        // The turn only saves work. A server that answers slowly must not keep the events of others out of the room.
        let _turn = timeout(TURN_WAIT, lock.lock()).await;
        let gap = Gap {
            origin,
            room_id,
            version,
            deadline: Instant::now() + MISSING_DEADLINE,
            rounds_left: MISSING_ROUNDS_MAX,
            auth_events_left: MISSING_AUTH_EVENTS_MAX,
            depth_min: self.depth_of_beginning(room_id).await.map_err(of_storage)?,
        };
        self.fill(gap, event).await
    }

    /// How deep the event is with which the room began to be lived in here: its create event, or the join of one of ours.
    async fn depth_of_beginning(&self, room_id: &RoomId) -> Result<u64, StorageError> {
        let history_ends = Some(TimelineOrder(0));
        let first = self.inner.stores.rooms.timeline(room_id, history_ends, Direction::Forward, 1).await?;
        Ok(first.first().map_or(0, |stored| stored.event.depth()))
    }

    /// Keeps a pile of events, each of which waits for those above it, and asks the room for the topmost until none is left.
    async fn fill(&self, mut gap: Gap<'_>, event: VerifiedPdu) -> Asked {
        let mut pile = vec![event];
        let mut asked_about: BTreeSet<OwnedEventId> = BTreeSet::new();
        let mut may_cross = true;
        loop {
            let Some(top) = pile.last().cloned() else { return Err(AskError::Failed) };
            let refusal = match self.ask_room(gap.origin, gap.room_id, &top).await {
                Err(AskError::Refused(refusal @ ReceiveRefusal::MissingEvents { .. })) => refusal,
                asked => {
                    pile.pop();
                    if pile.is_empty() || matches!(asked, Err(AskError::Overloaded | AskError::Storage(_))) {
                        return asked;
                    }
                    continue;
                }
            };
            let ReceiveRefusal::MissingEvents { event_ids } = &refusal else { return Err(AskError::Failed) };
            let top_id = top.pdu().event_id().to_owned();
            // What it was sent after comes first: that needs a place in the graph, also where it authorizes besides.
            let (prev, auth): (Vec<_>, Vec<_>) =
                event_ids.iter().cloned().partition(|id| top.pdu().prev_events().contains(id));
            let deadline = gap.deadline;
            let is_closer = if prev.is_empty() {
                timeout_at(deadline, self.fetch_auth_events(&mut gap, auth)).await.unwrap_or(Ok(false))?
            } else {
                // Whoever still lacks its prev_events after they were asked for will not get them from this server.
                asked_about.insert(top_id)
                    && timeout_at(deadline, self.pile_up(&mut gap, &mut pile, &top, &prev)).await.unwrap_or(false)
            };
            if is_closer {
                continue;
            }
            let crosses = may_cross && !prev.is_empty();
            let crossed = if crosses { self.receive_across_gap(&gap, &top).await.map(Some) } else { Ok(None) };
            may_cross = false;
            let received = match crossed {
                Ok(Some(received)) => received,
                Ok(None) | Err(AskError::Refused(_)) => {
                    log::debug!(origin:% = gap.origin, room_id:% = gap.room_id, event_id:% = top.pdu().event_id(); "gap not filled");
                    return Err(AskError::Refused(refusal));
                }
                // Our own side cannot. That says nothing about the event, so its sender is to come again with it.
                Err(error) => return Err(error),
            };
            pile.pop();
            if pile.is_empty() {
                return Ok(received);
            }
            // What lies behind the event that has crossed has time of its own.
            gap.deadline = gap.deadline.max(Instant::now() + CROSSED_TIME);
        }
    }

    /// Puts what lies before `top` onto the pile. `false`: nothing new came.
    async fn pile_up(
        &self,
        gap: &mut Gap<'_>,
        pile: &mut Vec<VerifiedPdu>,
        top: &VerifiedPdu,
        missing: &[OwnedEventId],
    ) -> bool {
        if gap.rounds_left == 0 {
            return false;
        }
        gap.rounds_left = gap.rounds_left.saturating_sub(1);
        let mut fetched = self.missing_before(gap, top).await;
        let in_pile: BTreeSet<OwnedEventId> = pile.iter().map(|event| event.pdu().event_id().to_owned()).collect();
        fetched.retain(|event| !in_pile.contains(event.pdu().event_id()) && event.pdu().depth() >= gap.depth_min);
        if !missing.iter().any(|id| fetched.iter().any(|event| *event.pdu().event_id() == *id)) {
            for event_id in missing {
                let event = self.fetch_event(gap, event_id).await;
                fetched.extend(event.filter(|event| event.pdu().depth() >= gap.depth_min));
            }
        }
        if fetched.is_empty() {
            return false;
        }
        // The newest first, so that the oldest lies on top.
        pile.extend(oldest_first(fetched, |event| event.pdu().prev_events()).into_iter().rev());
        true
    }

    async fn missing_before(&self, gap: &Gap<'_>, event: &VerifiedPdu) -> Vec<VerifiedPdu> {
        let newest = self.inner.stores.rooms.timeline(gap.room_id, None, Direction::Backward, EARLIEST_EVENTS).await;
        let earliest: Vec<OwnedEventId> =
            newest.unwrap_or_default().iter().map(|stored| stored.event.event_id().to_owned()).collect();
        let body = json!({
            "earliest_events": earliest,
            "latest_events": [event.pdu().event_id()],
            "limit": MISSING_EVENTS_PER_REQUEST,
            "min_depth": gap.depth_min,
        });
        let request = endpoints::get_missing_events(gap.room_id, body.to_string());
        let Some(answer) = self.fetch(gap, request, MISSING_REPLY_BYTES_MAX).await else { return Vec::new() };
        let events = answer.get("events").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
        let objects = events.iter().take(MISSING_EVENTS_PER_REQUEST).filter_map(CanonicalJsonValue::as_object);
        let shaped = objects.filter_map(|object| self.shape_of_room(gap, object.clone())).collect();
        self.verify_many(shaped, gap.version).await
    }

    /// Fetches events and all that authorizes them and is not here, and gives them to the room. `false`: some of it is not
    /// to be had, so none was given.
    ///
    /// # Errors
    /// [`AskError`]: it is our own side that cannot.
    pub(super) async fn fetch_auth_events(
        &self,
        gap: &mut Gap<'_>,
        event_ids: Vec<OwnedEventId>,
    ) -> Result<bool, AskError<ReceiveRefusal>> {
        let mut wanted: VecDeque<OwnedEventId> = event_ids.into();
        let mut fetched: BTreeMap<OwnedEventId, VerifiedPdu> = BTreeMap::new();
        while let Some(event_id) = wanted.pop_front() {
            if fetched.contains_key(&event_id) {
                continue;
            }
            if gap.auth_events_left == 0 {
                return Ok(false);
            }
            gap.auth_events_left = gap.auth_events_left.saturating_sub(1);
            let Some(event) = self.fetch_event(gap, &event_id).await else { return Ok(false) };
            let cited = event.pdu().auth_events();
            let known = self.inner.stores.rooms.events(gap.room_id, cited).await.map_err(of_storage)?;
            let unknown = cited.iter().zip(known).filter(|(_, known)| known.is_none()).map(|(id, _)| id.clone());
            wanted.extend(unknown);
            fetched.insert(event_id, event);
        }
        let wanted: Vec<OwnedEventId> = fetched.keys().cloned().collect();
        let mut known = BTreeSet::new();
        self.keep_outliers(gap, fetched.into_values().collect(), &mut known).await?;
        Ok(wanted.iter().all(|event_id| known.contains(event_id)))
    }

    /// One event by its id; nothing else is taken for it.
    pub(super) async fn fetch_event(&self, gap: &Gap<'_>, event_id: &OwnedEventId) -> Option<VerifiedPdu> {
        let answer = self.fetch(gap, endpoints::event(event_id), EVENT_REPLY_BYTES_MAX).await?;
        let events = answer.get("pdus").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
        let object = events.first().and_then(CanonicalJsonValue::as_object)?;
        let shaped = self.shape_of_room(gap, object.clone())?;
        if shaped.pdu().event_id() != event_id {
            return None;
        }
        self.verify_shaped(shaped, gap.version).await.ok()
    }

    pub(super) fn shape_of_room(&self, gap: &Gap<'_>, object: CanonicalJsonObject) -> Option<ShapedPdu> {
        ShapedPdu::parse(object, gap.version).ok().filter(|shaped| shaped.pdu().room_id() == gap.room_id)
    }

    pub(super) async fn fetch(
        &self,
        gap: &Gap<'_>,
        request: ServerRequest,
        reply_bytes_max: usize,
    ) -> Option<CanonicalJsonObject> {
        let left = gap.deadline.saturating_duration_since(Instant::now());
        let limits = Limits { reply_bytes_max, deadline: self.inner.settings.request_timeout.min(left) };
        let reply = self.inner.client.request(gap.origin, request, limits).await;
        match reply.and_then(|reply| reply.canonical_object()) {
            Ok(object) => Some(object),
            Err(error) => {
                let is_absent =
                    matches!(&error, RemoteError::Refused(refusal) if refusal.errcode == Some(ErrorCode::NotFound));
                log::debug!(destination:% = gap.origin, room_id:% = gap.room_id, is_absent, error:%; "missing events not had");
                None
            }
        }
    }
}

/// Events such that each stands behind those of the list that it names. A list in which events name each other in a circle,
/// which no hash allows, keeps some order.
pub(super) fn oldest_first(
    events: Vec<VerifiedPdu>,
    named: impl Fn(&VerifiedPdu) -> &[OwnedEventId],
) -> Vec<VerifiedPdu> {
    let mut left: BTreeMap<OwnedEventId, VerifiedPdu> =
        events.into_iter().map(|event| (event.pdu().event_id().to_owned(), event)).collect();
    let mut ordered = Vec::new();
    let mut path: Vec<OwnedEventId> = Vec::new();
    while let Some(first) = left.keys().next().cloned() {
        path.push(first);
        while let Some(next) = path.last().cloned() {
            let waits_for = left
                .get(&next)
                .and_then(|event| named(event).iter().find(|id| left.contains_key(*id) && !path.contains(id)))
                .cloned();
            match waits_for {
                Some(earlier) => path.push(earlier),
                None => {
                    path.pop();
                    ordered.extend(left.remove(&next));
                }
            }
        }
    }
    ordered
}
