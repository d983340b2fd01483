//! Transactions: up to fifty events and a hundred EDUs of the outbox in the order of their places, and what cannot wait
//! beside them.
//! May not: send later events or EDUs before earlier ones were taken, or give a transaction id to two sets of them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use ruma::{OwnedEventId, OwnedRoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use vestibule_protocol::pdu::Pdu;
use vestibule_storage::{
    error::StorageError,
    outbox::{Delivery, OutboxPlace, OutboxRow, QueuedEdu},
};

use super::{
    Inner, LaneKind, STORAGE_PAUSE, Wanted,
    catch_up::{self, AWAY_AFTER},
    destination::{Failure, Lane, Step, Work},
    edus::written,
};
use crate::{
    client::{Limits, RemoteError, Reply},
    endpoints,
};

/// Events in a transaction. Spec: transactions.
pub const PDUS_MAX: usize = 50;

/// EDUs in a transaction, and those that may wait for a server. Spec: transactions.
pub const EDUS_MAX: usize = 100;

/// Bytes of the answer to a transaction: at most fifty short texts. Ours.
const SEND_REPLY_BYTES_MAX: usize = 256 * 1024;

/// Refusals of a transaction with one event, each after a pause, before that event is given up. Ours: a proxy may be
/// misconfigured for a while, and an event that its receiver cannot read must not stop the others for good.
const REFUSALS_MAX: u32 = 3;

/// Rows read at a time. Ours: a transaction and some of the other kind.
const ROWS_PER_READ: usize = 64;

/// Characters of an event id in a transaction id. Ours.
const EVENT_ID_CHARS: usize = 12;

/// The lane's work.
pub(super) struct Transactions {
    /// What is on its way; kept until the server has taken it, so that a retry is the same transaction.
    current: Option<Batch>,
    /// Events that the next batch may hold. Shrinks when the server refuses a transaction as a whole, to find the culprit.
    pdus_max: usize,
    /// The same for EDUs.
    edus_max: usize,
    /// How often the server refused the one event or EDU that is left.
    refusals: u32,
    /// Numbers transactions without events, which have no places to be named after.
    unnamed: u64,
}

struct Batch {
    transaction_id: String,
    events: Vec<Arc<Pdu>>,
    places: Vec<OutboxPlace>,
    edus: Vec<Box<RawValue>>,
    edu_places: Vec<OutboxPlace>,
}

#[derive(Serialize)]
struct Body<'a> {
    edus: &'a [&'a RawValue],
    origin: &'a ServerName,
    origin_server_ts: u64,
    pdus: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer {
    pdus: BTreeMap<String, PduAnswer>,
}

#[derive(Deserialize)]
struct PduAnswer {
    error: Option<String>,
}

impl Default for Transactions {
    fn default() -> Self {
        Self { current: None, pdus_max: PDUS_MAX, edus_max: EDUS_MAX, refusals: 0, unnamed: 0 }
    }
}

impl Work for Transactions {
    async fn step(&mut self, inner: &Arc<Inner>, lane: &Lane) -> Step {
        if self.current.is_none() {
            match self.next_batch(inner, lane).await {
                Ok(batch) => self.current = batch,
                Err(error) => {
                    log::error!(destination:% = lane.server(), error:%; "the outbox cannot be read");
                    return Step::Pause(Instant::now() + STORAGE_PAUSE);
                }
            }
        }
        if let Some(empty) = self.current.take_if(|batch| batch.len() == 0) {
            note_done(inner, lane, empty).await;
            return Step::Again;
        }
        let Wanted { edus, is_poke } = lane.take_wanted();
        let batch = match &self.current {
            Some(batch) => Some(batch),
            None if edus.is_empty() && !is_poke => return Step::Idle,
            None => None,
        };
        let transaction_id = match batch {
            Some(batch) => batch.transaction_id.clone(),
            None => {
                self.unnamed = self.unnamed.saturating_add(1);
                format!("{}n{}", inner.parts.clock.now().0, self.unnamed)
            }
        };
        let queued = batch.map_or(&[][..], |batch| &batch.edus);
        // The newest of what cannot wait, as far as there is room beside what must arrive.
        let beside = edus.iter().skip(edus.len().saturating_sub(EDUS_MAX.saturating_sub(queued.len())));
        let has_beside = !edus.is_empty();
        let all: Vec<&RawValue> = queued.iter().chain(beside).map(AsRef::as_ref).collect();
        let events = batch.map_or(&[][..], |batch| &batch.events);
        let sent = send(inner, lane, &transaction_id, events, &all).await;
        match sent {
            Ok(()) => {
                lane.succeeded();
                inner.end_pause(lane.server(), LaneKind::Handshakes);
                self.pdus_max = self.pdus_max.saturating_mul(2).min(PDUS_MAX);
                self.edus_max = self.edus_max.saturating_mul(2).clamp(1, EDUS_MAX);
                self.refusals = 0;
                if let Some(batch) = self.current.take() {
                    note_done(inner, lane, batch).await;
                }
                Step::Again
            }
            Err(error) => self.failed(inner, lane, &error, has_beside).await,
        }
    }

    fn all_is_due(&mut self) {}
}

impl Transactions {
    async fn failed(&mut self, inner: &Arc<Inner>, lane: &Lane, error: &RemoteError, had_beside: bool) -> Step {
        let failure = Failure::of(error);
        match (&failure, self.current.take()) {
            (Failure::NotForThem, batch) => {
                if let Some(batch) = batch {
                    note_done(inner, lane, batch).await;
                }
                return Step::Again;
            }
            // Nothing of it was taken. Without what is beside it, then without EDUs, then in halves, so that one event or EDU that
            // the server cannot stand holds up no other.
            (Failure::Refused(StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE), Some(batch)) => {
                if had_beside {
                    self.current = Some(batch);
                    return Step::Again;
                }
                if batch.len() > 1 {
                    (self.pdus_max, self.edus_max) = match (batch.events.len(), batch.edus.len()) {
                        (0, edus) => (self.pdus_max, edus.div_ceil(2)),
                        (events, 0) => (events.div_ceil(2), self.edus_max),
                        (_, _) => (self.pdus_max, 0),
                    };
                    return Step::Again;
                }
                self.refusals = self.refusals.saturating_add(1);
                if self.refusals < REFUSALS_MAX {
                    self.current = Some(batch);
                } else {
                    log::warn!(destination:% = lane.server(), event_ids:? = batch.event_ids(), error:%; "event or EDU given up");
                    self.refusals = 0;
                    note_done(inner, lane, batch).await;
                }
            }
            (_, batch) => self.current = batch,
        }
        let failures = lane.failed(error);
        let due = inner.due_after(failures, &failure);
        if failures >= AWAY_AFTER {
            match catch_up::thin(inner, lane.server()).await {
                Ok(0) => {}
                Ok(rows) => {
                    log::info!(destination:% = lane.server(), rows; "events that a server can ask for later do not wait for it");
                    self.current = None;
                }
                Err(error) => log::error!(destination:% = lane.server(), error:%; "the outbox cannot be read"),
            }
        }
        Step::Pause(due)
    }

    async fn next_batch(&self, inner: &Arc<Inner>, lane: &Lane) -> Result<Option<Batch>, StorageError> {
        let rows = self.next_rows(inner, lane).await?;
        // Whatever was refused with EDUs is tried without them, but not so that only EDUs are left and none goes.
        let edus_max = if rows.is_empty() { self.edus_max.max(1) } else { self.edus_max };
        let queued = match edus_max {
            0 => Vec::new(),
            limit => inner.parts.stores.outbox.edus(lane.server(), None, limit).await?,
        };
        if rows.is_empty() && queued.is_empty() {
            return Ok(None);
        }
        let mut edus = Vec::new();
        for edu in &queued {
            edus.extend(written(&inner.parts.stores, edu).await?);
        }
        let events = load_events(inner, &rows).await?;
        let transaction_id = transaction_id(&rows, &queued, &edus);
        let places = rows.iter().map(|row| row.place).collect();
        let edu_places = queued.iter().map(|edu| edu.place).collect();
        Ok(Some(Batch { transaction_id, events, places, edus, edu_places }))
    }

    async fn next_rows(&self, inner: &Arc<Inner>, lane: &Lane) -> Result<Vec<OutboxRow>, StorageError> {
        let mut rows = Vec::new();
        let mut after = None;
        let mut has_handshakes = false;
        loop {
            let page = inner.parts.stores.outbox.pending(lane.server(), after, ROWS_PER_READ).await?;
            let is_last = page.len() < ROWS_PER_READ;
            after = page.last().map(|row| row.place);
            for row in page {
                match row.delivery {
                    Delivery::Transaction if rows.len() < self.pdus_max => rows.push(row),
                    Delivery::Transaction => {}
                    Delivery::Invite | Delivery::Leave { .. } => has_handshakes = true,
                }
            }
            if is_last || rows.len() >= self.pdus_max {
                break;
            }
        }
        if has_handshakes {
            inner.wake(lane.server().clone(), LaneKind::Handshakes, Wanted::default());
        }
        Ok(rows)
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.events.len().saturating_add(self.edus.len())
    }

    fn event_ids(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.event_id().as_str()).collect()
    }
}

/// Named after the places of what is in it, so that a retry has the same id. The last event's id and a number made of the
/// EDUs keep ids apart after a restore from a backup, when places come again.
fn transaction_id(rows: &[OutboxRow], queued: &[QueuedEdu], edus: &[Box<RawValue>]) -> String {
    let place = |place: OutboxPlace| format!("{}.{}", place.position.0, place.index);
    let mut id = String::new();
    if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
        let of_event = last.event_id.as_str().chars().filter(char::is_ascii_alphanumeric).take(EVENT_ID_CHARS);
        id = format!("{}-{}-{}", place(first.place), place(last.place), of_event.collect::<String>());
    }
    if let (Some(first), Some(last)) = (queued.first(), queued.last()) {
        id.push_str(&format!("e{}-{}-{:x}", place(first.place), place(last.place), fingerprint(edus)));
    }
    id
}

/// FNV-1a over the texts.
fn fingerprint(edus: &[Box<RawValue>]) -> u64 {
    let bytes = edus.iter().flat_map(|edu| edu.get().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn note_done(inner: &Inner, lane: &Lane, batch: Batch) {
    inner.note_done(lane.server(), batch.places).await;
    inner.note_edus_done(lane.server(), batch.edu_places).await;
}

/// The events of rows, in their order. Those that are gone are left out: their rows are done.
pub(super) async fn load_events(inner: &Inner, rows: &[OutboxRow]) -> Result<Vec<Arc<Pdu>>, StorageError> {
    let mut by_room: BTreeMap<OwnedRoomId, Vec<OwnedEventId>> = BTreeMap::new();
    for row in rows {
        by_room.entry(row.room_id.clone()).or_default().push(row.event_id.clone());
    }
    let mut found: BTreeMap<OwnedEventId, Arc<Pdu>> = BTreeMap::new();
    for (room_id, event_ids) in by_room {
        let stored = inner.parts.stores.rooms.events(&room_id, &event_ids).await?;
        found.extend(stored.into_iter().flatten().map(|stored| (stored.event.event_id().to_owned(), stored.event)));
    }
    Ok(rows.iter().filter_map(|row| found.get(&row.event_id).cloned()).collect())
}

/// One transaction; the server has taken it when it returns.
pub(super) async fn send(
    inner: &Inner,
    lane: &Lane,
    transaction_id: &str,
    events: &[Arc<Pdu>],
    edus: &[&RawValue],
) -> Result<(), RemoteError> {
    let unfit = |error: serde_json::Error| RemoteError::UnfitRequest { detail: error.to_string() };
    let pdus: Result<Vec<&RawValue>, _> = events.iter().map(|event| serde_json::from_str(event.json())).collect();
    let body = Body {
        edus,
        origin: inner.parts.identity.server_name(),
        origin_server_ts: inner.parts.clock.now().0,
        pdus: pdus.map_err(unfit)?,
    };
    let request = endpoints::send(transaction_id, serde_json::to_string(&body).map_err(unfit)?);
    let limits = Limits { reply_bytes_max: SEND_REPLY_BYTES_MAX, deadline: inner.parts.settings.request_timeout };
    let _place = inner.place(lane).await;
    match inner.parts.client.request(lane.server(), request, limits).await {
        Ok(reply) => {
            log_refused_events(lane, &reply);
            Ok(())
        }
        Err(RemoteError::ReplyTooLarge { status, .. }) if status.is_success() => Ok(()),
        Err(error) => Err(error),
    }
}

/// An event that the server refuses by itself is its decision, and final.
fn log_refused_events(lane: &Lane, reply: &Reply) {
    let Ok(answer) = reply.json::<Answer>() else { return };
    for (event_id, answer) in answer.pdus {
        if let Some(error) = answer.error {
            log::debug!(destination:% = lane.server(), event_id, error; "the server refused an event");
        }
    }
}
