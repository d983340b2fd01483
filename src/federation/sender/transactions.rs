//! Transactions: up to fifty events of the outbox in the order of their places, and what cannot wait beside them.
//! May not: send later events before earlier ones were taken, or give a transaction id to two sets of events.
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
    outbox::{Delivery, OutboxPlace, OutboxRow},
};

use super::{
    Inner, LaneKind, STORAGE_PAUSE, Wanted,
    catch_up::{self, AWAY_AFTER},
    destination::{Failure, Lane, Step, Work},
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
    /// How often the server refused the one event that is left.
    refusals: u32,
    /// Numbers transactions without events, which have no places to be named after.
    unnamed: u64,
}

struct Batch {
    transaction_id: String,
    events: Vec<Arc<Pdu>>,
    places: Vec<OutboxPlace>,
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
        Self { current: None, pdus_max: PDUS_MAX, refusals: 0, unnamed: 0 }
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
        let Wanted { edus, is_poke } = lane.take_wanted();
        let batch = match &self.current {
            Some(batch) if batch.events.is_empty() => {
                let places = batch.places.clone();
                self.current = None;
                inner.note_done(lane.server(), places).await;
                return Step::Again;
            }
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
        let edus: Vec<&RawValue> = edus.iter().map(AsRef::as_ref).collect();
        let events = batch.map_or(&[][..], |batch| &batch.events);
        let sent = send(inner, lane, &transaction_id, events, &edus).await;
        match sent {
            Ok(()) => {
                lane.succeeded();
                inner.end_pause(lane.server(), LaneKind::Handshakes);
                self.pdus_max = self.pdus_max.saturating_mul(2).min(PDUS_MAX);
                self.refusals = 0;
                if let Some(batch) = self.current.take() {
                    inner.note_done(lane.server(), batch.places).await;
                }
                Step::Again
            }
            Err(error) => self.failed(inner, lane, &error, !edus.is_empty()).await,
        }
    }

    fn all_is_due(&mut self) {}
}

impl Transactions {
    async fn failed(&mut self, inner: &Arc<Inner>, lane: &Lane, error: &RemoteError, had_edus: bool) -> Step {
        let failure = Failure::of(error);
        match (&failure, self.current.take()) {
            (Failure::NotForThem, batch) => {
                if let Some(batch) = batch {
                    inner.note_done(lane.server(), batch.places).await;
                }
                return Step::Again;
            }
            // Nothing of it was taken. Without the EDUs, then in halves, so that one event that the server cannot stand holds
            // up no other.
            (Failure::Refused(StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE), Some(batch)) => {
                if had_edus {
                    self.current = Some(batch);
                    return Step::Again;
                }
                if batch.events.len() > 1 {
                    self.pdus_max = batch.events.len().div_ceil(2);
                    return Step::Again;
                }
                self.refusals = self.refusals.saturating_add(1);
                if self.refusals < REFUSALS_MAX {
                    self.current = Some(batch);
                } else {
                    log::warn!(destination:% = lane.server(), event_ids:? = batch.event_ids(), error:%; "event given up");
                    self.refusals = 0;
                    inner.note_done(lane.server(), batch.places).await;
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
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(None);
        };
        // The event's id keeps ids apart after a restore from a backup, when places come again.
        let of_event = last.event_id.as_str().chars().filter(char::is_ascii_alphanumeric).take(EVENT_ID_CHARS);
        let transaction_id = format!(
            "{}.{}-{}.{}-{}",
            first.place.position.0,
            first.place.index,
            last.place.position.0,
            last.place.index,
            of_event.collect::<String>()
        );
        let places = rows.iter().map(|row| row.place).collect();
        let events = load_events(inner, &rows).await?;
        Ok(Some(Batch { transaction_id, events, places }))
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
    fn event_ids(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.event_id().as_str()).collect()
    }
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

async fn send(
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
