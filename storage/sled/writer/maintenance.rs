//! Checkpoints, and what must not be removed while somebody copies the journal.
//! May not: hold the writer up; a checkpoint is taken on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use super::{Order, Writer};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::error::CheckpointError;
use crate::index::IndexError;
use crate::journal::error::JournalError;
use crate::journal::replay::Replay;
use crate::journal::{JournalPosition, SegmentExtent};

/// What a checkpoint on demand came to.
pub(crate) type CheckpointReply = Result<JournalPosition, String>;

/// The journal as of a moment, none of which is removed until it is unpinned.
pub(crate) struct Pinned {
    /// Its segments and how much of each counts.
    pub(crate) extents: Vec<SegmentExtent>,
    /// The last durable record.
    pub(crate) durable: JournalPosition,
    /// The newest checkpoint.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The records that were asked for.
    pub(crate) replay: Result<Replay, JournalError>,
}

/// Checkpoints taken and under way.
pub(super) struct Maintenance {
    orders: Sender<Order>,
    newest: Option<Checkpoint>,
    /// Bytes of journal that a checkpoint is worth at least.
    journal_bytes_min: u64,
    under_way: Option<UnderWay>,
    started: u64,
    /// Below this many bytes of journal no other is tried, because one failed.
    not_before_bytes: u64,
    asked: Vec<Sender<CheckpointReply>>,
    pins: usize,
    is_prune_due: bool,
}

/// A checkpoint that a thread is taking.
struct UnderWay {
    number: u64,
    cancelled: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Maintenance {
    pub(super) fn new(orders: Sender<Order>, newest: Option<Checkpoint>, journal_bytes_min: u64) -> Self {
        Self {
            orders,
            // What a crash kept from being removed.
            is_prune_due: newest.is_some(),
            newest,
            journal_bytes_min,
            under_way: None,
            started: 0,
            not_before_bytes: 0,
            asked: Vec::new(),
            pins: 0,
        }
    }

    /// Ends a checkpoint that is under way; if it was not nearly done, without result. Returns when its thread has ended.
    pub(super) fn cancel(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            under_way.cancelled.store(true, Ordering::SeqCst);
            // How it ended is told by an order that it has sent.
            let _ = under_way.thread.join();
        }
    }

    pub(super) fn checkpoint_position(&self) -> Option<JournalPosition> {
        self.newest.as_ref().map(|newest| newest.position)
    }

    /// Bytes of journal at which the next checkpoint is due: half the logical data, as the last checkpoint measured them.
    fn due_at_bytes(&self) -> u64 {
        let half_of_data = self.newest.as_ref().map_or(0, |newest| newest.bytes / 2);
        self.journal_bytes_min.max(half_of_data).max(self.not_before_bytes)
    }
}

impl Writer {
    pub(super) fn checkpoint_if_due(&mut self) {
        let is_due = self.journal.bytes() > self.maintenance.due_at_bytes();
        if is_due && self.maintenance.under_way.is_none() && self.pause.is_none() {
            self.start_checkpoint();
        }
        if self.maintenance.is_prune_due && self.maintenance.pins == 0 {
            self.prune();
        }
    }

    pub(super) fn checkpoint_now(&mut self, reply: Sender<CheckpointReply>) {
        if self.pause.is_some() {
            // Whoever asked may have given up, here and below.
            let _ = reply.send(Err("the engine recovers from a failure".to_owned()));
            return;
        }
        self.maintenance.asked.push(reply);
        if self.maintenance.under_way.is_none() {
            self.start_checkpoint();
        }
    }

    fn start_checkpoint(&mut self) {
        // Sealed first, so that all segments up to here can go when the checkpoint is durable.
        if let Err(error) = self.journal.rotate() {
            self.answer_asked(&Err(error.to_string()));
            return self.journal_failed(&error);
        }
        let Some(index) = self.views.index() else { return };
        // The journal up to here goes; what is only in memory would cost the next start a rebuild.
        if let Err(error) = index.write_down() {
            drop(index);
            self.answer_asked(&Err(error.to_string()));
            return self.index_failed(&error);
        }
        let position = self.journal.durable();
        let cancelled = Arc::new(AtomicBool::new(false));
        self.maintenance.started += 1;
        let number = self.maintenance.started;
        let (places, orders, flag) = (self.places.clone(), self.maintenance.orders.clone(), Arc::clone(&cancelled));
        let take = move || {
            let entries = index.all().map(|entry| match entry {
                Ok(_) if flag.load(Ordering::SeqCst) => Err(IndexError::new("cancelled")),
                entry => entry,
            });
            let taken = places.with_checkpoints(|checkpoints| checkpoints.write(position, entries));
            drop(index);
            // A writer that has ended needs no answer.
            let _ = orders.send(Order::Checkpointed(number, taken));
        };
        match std::thread::Builder::new().name("storage-checkpoint".to_owned()).spawn(take) {
            Ok(thread) => self.maintenance.under_way = Some(UnderWay { number, cancelled, thread }),
            Err(error) => {
                log::warn!(error:% = error; "no thread for a checkpoint");
                self.postpone();
                self.answer_asked(&Err(error.to_string()));
            }
        }
    }

    pub(super) fn checkpointed(&mut self, number: u64, outcome: Result<Checkpoint, CheckpointError>) {
        // One that was cancelled is heard of late, perhaps while the next is under way.
        if self.maintenance.under_way.as_ref().is_some_and(|under_way| under_way.number == number) {
            self.maintenance.under_way = None;
        }
        match outcome {
            Ok(checkpoint) => {
                log::info!(position = checkpoint.position.0, bytes = checkpoint.bytes; "checkpoint taken");
                self.maintenance.not_before_bytes = 0;
                self.answer_asked(&Ok(checkpoint.position));
                self.maintenance.newest = Some(checkpoint);
                self.maintenance.is_prune_due = true;
            }
            Err(error) => {
                log::warn!(error:% = error; "checkpoint failed");
                self.postpone();
                self.answer_asked(&Err(error.to_string()));
            }
        }
    }

    pub(super) fn pin(&mut self, from: Option<JournalPosition>, reply: &Sender<Pinned>) {
        let checkpoint = self.maintenance.newest.clone();
        let after_checkpoint = checkpoint.as_ref().map_or(JournalPosition(1), |checkpoint| checkpoint.position.next());
        let first = from.unwrap_or(after_checkpoint);
        let pinned = Pinned {
            extents: self.journal.extents(),
            durable: self.journal.durable(),
            checkpoint,
            replay: self.journal.replay(first),
        };
        if reply.send(pinned).is_ok() {
            self.maintenance.pins += 1;
        }
    }

    pub(super) fn unpin(&mut self) {
        self.maintenance.pins = self.maintenance.pins.saturating_sub(1);
    }

    /// Removes what the newest checkpoint stands in for.
    fn prune(&mut self) {
        self.maintenance.is_prune_due = false;
        let Some(position) = self.maintenance.checkpoint_position() else { return };
        if let Err(error) = self.journal.remove_below(position) {
            log::warn!(error:% = error; "old journal segments not removed");
        }
        if let Err(error) = self.places.with_checkpoints(|checkpoints| checkpoints.remove_older(position)) {
            log::warn!(error:% = error; "old checkpoints not removed");
        }
    }

    fn postpone(&mut self) {
        self.maintenance.not_before_bytes = self.journal.bytes().saturating_add(self.maintenance.journal_bytes_min);
    }

    fn answer_asked(&mut self, answer: &CheckpointReply) {
        for reply in self.maintenance.asked.drain(..) {
            let _ = reply.send(answer.clone());
        }
    }
}
