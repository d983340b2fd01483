//! Invites and leaves of the outbox, one request or two for each, and each with its own pauses.
//! May not: let one that fails hold up the others, except when the server does not answer at all.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use vestibule_actors::AskError;
use vestibule_storage::{
    error::StorageError,
    outbox::{Delivery, OutboxPlace, OutboxRow},
};

use super::{
    Inner, LaneKind, STORAGE_PAUSE,
    catch_up::AWAY_AFTER,
    destination::{Failure, Lane, Step, Work},
    invite, leave,
};
use crate::client::RemoteError;

/// Rows held at a time; more are read when some of them are done. Ours.
const ROWS_MAX: usize = 1_000;

/// Rows read at a time. Ours; most of them are of the other lane.
const ROWS_PER_READ: usize = 256;

/// The lane's work.
#[derive(Default)]
pub(super) struct Handshakes {
    rows: BTreeMap<OutboxPlace, Waiting>,
    /// Rows up to here were looked at. Places only grow.
    read_up_to: Option<OutboxPlace>,
}

struct Waiting {
    row: OutboxRow,
    failures: u32,
    /// `None`: now.
    due: Option<Instant>,
    /// A leave that this server has not taken for long: the next one has been asked to.
    is_handed_on: bool,
}

/// What became of an attempt.
pub(super) enum Delivered {
    /// The row is done: taken, refused for good, or without meaning by now.
    Done,
    /// The server did not take it this time.
    Failed(RemoteError),
    /// We could not try or end it; not the server's fault.
    OwnFailure(String),
}

impl From<StorageError> for Delivered {
    fn from(error: StorageError) -> Self {
        Self::OwnFailure(error.to_string())
    }
}

impl Delivered {
    /// What a room's answer to something about a row means for it: a room that refuses has nothing left to be told.
    pub(super) fn of<T, R>(answer: Result<T, AskError<R>>) -> Self
    where
        AskError<R>: std::fmt::Display,
    {
        match answer {
            Ok(_) | Err(AskError::Refused(_) | AskError::RoomNotHere) => Self::Done,
            Err(error @ (AskError::Overloaded | AskError::Storage(_) | AskError::Failed)) => {
                Self::OwnFailure(error.to_string())
            }
        }
    }
}

impl Work for Handshakes {
    async fn step(&mut self, inner: &Arc<Inner>, lane: &Lane) -> Step {
        if let Err(error) = self.read(inner, lane).await {
            log::error!(destination:% = lane.server(), error:%; "the outbox cannot be read");
            return Step::Pause(Instant::now() + STORAGE_PAUSE);
        }
        let now = Instant::now();
        let is_due = |waiting: &Waiting| waiting.due.is_none_or(|due| due <= now);
        let Some(waiting) = self.rows.values_mut().find(|waiting| is_due(waiting)) else {
            let next = self.rows.values().filter_map(|waiting| waiting.due).min();
            return next.map_or(Step::Idle, Step::Wait);
        };
        let place = waiting.row.place;
        let delivered = match &waiting.row.delivery {
            Delivery::Invite => invite::deliver(inner, lane, &waiting.row).await,
            Delivery::Leave { user_id } => leave::deliver(inner, lane, &waiting.row, user_id).await,
            Delivery::Transaction => Delivered::Done,
        };
        match delivered {
            Delivered::Done => {
                self.rows.remove(&place);
                inner.note_done(lane.server(), vec![place]).await;
                Step::Again
            }
            Delivered::OwnFailure(why) => {
                log::error!(destination:% = lane.server(), event_id:% = waiting.row.event_id, error = why; "not delivered");
                waiting.due = Some(Instant::now() + STORAGE_PAUSE);
                Step::Again
            }
            Delivered::Failed(error) => {
                let failure = Failure::of(&error);
                lane.failed(&error);
                waiting.failures = waiting.failures.saturating_add(1);
                let due = inner.due_after(waiting.failures, &failure);
                waiting.due = Some(due);
                let is_away = waiting.failures >= AWAY_AFTER;
                let is_silent = matches!(failure, Failure::NoAnswer);
                if is_away {
                    // What waits behind a server that does not answer is not even tried.
                    self.hand_on_leaves(inner, lane, Some(place).filter(|_| !is_silent)).await;
                }
                if is_silent { Step::Pause(due) } else { Step::Again }
            }
        }
    }

    fn all_is_due(&mut self) {
        self.rows.values_mut().for_each(|waiting| waiting.due = None);
    }
}

impl Handshakes {
    async fn read(&mut self, inner: &Inner, lane: &Lane) -> Result<(), StorageError> {
        while self.rows.len() < ROWS_MAX {
            let page = inner.parts.stores.outbox.pending(lane.server(), self.read_up_to, ROWS_PER_READ).await?;
            let Some(last) = page.last() else { return Ok(()) };
            self.read_up_to = Some(last.place);
            let handshakes = page.into_iter().filter(|row| row.delivery != Delivery::Transaction);
            self.rows.extend(
                handshakes.map(|row| (row.place, Waiting { row, failures: 0, due: None, is_handed_on: false })),
            );
        }
        Ok(())
    }

    /// Leaves that the server has not taken for long, one or all of them, go to other servers of their rooms too. What cannot
    /// be handed on now is after the next failure.
    async fn hand_on_leaves(&mut self, inner: &Inner, lane: &Lane, only: Option<OutboxPlace>) {
        let mut done = Vec::new();
        for (place, waiting) in &mut self.rows {
            let Delivery::Leave { user_id } = &waiting.row.delivery else { continue };
            if waiting.is_handed_on || only.is_some_and(|only| only != *place) {
                continue;
            }
            match leave::waits_on(inner, lane, &waiting.row, user_id).await {
                Ok(true) => waiting.is_handed_on = true,
                Ok(false) => done.push(*place),
                Err(error) => {
                    log::error!(destination:% = lane.server(), event_id:% = waiting.row.event_id, error; "leave not handed on");
                }
            }
        }
        self.rows.retain(|place, _| !done.contains(place));
        inner.note_done(lane.server(), done).await;
    }
}

/// Notes that the server answers after all.
pub(super) fn succeeded(inner: &Inner, lane: &Lane) {
    lane.succeeded();
    inner.end_pause(lane.server(), LaneKind::Transactions);
}
