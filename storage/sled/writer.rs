//! The one thread that writes: it takes what waits, makes it durable with one sync, applies it, and tells.
//! May not: answer before durability, write after a failed sync before the journal has recovered, or read a clock.

mod batch;
mod lives;
mod maintenance;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    commit::{Announcement, Commit, CommitError, CommitListener, CommitSink, NoSlot, Synced, Ticket, WriterSlot},
    error::StorageError,
};

use self::lives::Lives;
use self::maintenance::Maintenance;
pub(crate) use self::maintenance::{CheckpointReply, Pinned};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::error::CheckpointError;
use crate::journal::{Journal, JournalPosition};
use crate::opening::Places;
use crate::space::SpaceGuard;
use crate::views::Views;

/// Commits that are made together. Source: LIMITS section 4.
const BATCH_COMMITS_MAX: usize = 1024;

/// What the writer is started with.
pub(crate) struct WriterOptions {
    pub(crate) listener: Arc<dyn CommitListener>,
    pub(crate) space: SpaceGuard,
    pub(crate) queue_capacity: usize,
    pub(crate) checkpoint_journal_bytes: u64,
    pub(crate) recovery_pauses: (Duration, Duration),
}

/// What the writer is asked to do, in order.
pub(crate) enum Order {
    Commit(Waiting),
    /// Keeps everything that is in the journal now until [`Order::Unpin`], and reads it from a position or from the newest checkpoint.
    Pin(Option<JournalPosition>, Sender<Pinned>),
    Unpin,
    /// Takes a checkpoint now.
    Checkpoint(Sender<CheckpointReply>),
    /// From the thread that took one: which it was, and how it ended.
    Checkpointed(u64, Result<Checkpoint, CheckpointError>),
    /// A reader could not read the look-up store.
    ReadingFailed,
    /// Makes what waits, seals the journal, and ends.
    Close(Sender<Result<(), String>>),
}

/// A commit that nobody has begun to write. Dropped, it tells so.
pub(crate) struct Waiting {
    commit: Commit,
    reply: Option<Reply>,
}

/// Whoever waits for a commit.
struct Reply {
    ticket: oneshot::Sender<Result<StreamPosition, CommitError>>,
    permit: OwnedSemaphorePermit,
}

impl Reply {
    fn send(self, outcome: Result<StreamPosition, CommitError>) {
        // The slot first: whoever hears the answer may come back at once.
        drop(self.permit);
        // Whoever dropped the ticket does not want to know.
        let _ = self.ticket.send(outcome);
    }
}

impl Waiting {
    fn refuse(mut self, error: CommitError) {
        if let Some(reply) = self.reply.take() {
            reply.send(Err(error));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let reason = "the writer has ended".to_owned();
            reply.send(Err(CommitError::Storage(StorageError::NotWritten { reason })));
        }
    }
}

/// Whether commits are taken.
#[derive(Debug)]
struct Gate(AtomicU8);

/// What [`Gate`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    Yes,
    /// The engine recovers from a failure.
    Recovering,
    /// The disk was full; whoever asks looks again.
    Full,
    /// For good.
    Closed,
}

impl Gate {
    fn taking(&self) -> Taking {
        match self.0.load(Ordering::SeqCst) {
            0 => Taking::Yes,
            1 => Taking::Recovering,
            2 => Taking::Full,
            _ => Taking::Closed,
        }
    }

    /// A gate that is closed stays so.
    fn set(&self, taking: Taking) {
        let number = match taking {
            Taking::Yes => 0,
            Taking::Recovering => 1,
            Taking::Full => 2,
            Taking::Closed => 3,
        };
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now != 3).then_some(number));
    }
}

/// [`Synced`], as the writer counts it.
#[derive(Debug, Default)]
struct SyncCounts {
    syncs: AtomicU64,
    commits: AtomicU64,
}

/// Where commits come in.
#[derive(Clone)]
pub(crate) struct Sink {
    orders: Sender<Order>,
    slots: Arc<Semaphore>,
    gate: Arc<Gate>,
    counts: Arc<SyncCounts>,
    space: SpaceGuard,
}

impl Sink {
    /// Hands the writer an order; `false` if it has ended.
    pub(crate) fn order(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }

    /// No slots from now on.
    pub(crate) fn shut(&self) {
        self.gate.set(Taking::Closed);
    }
}

impl CommitSink for Sink {
    fn reserve(&self) -> Result<WriterSlot, NoSlot> {
        match self.gate.taking() {
            Taking::Yes => {}
            Taking::Full if !self.space.is_full() => {
                // Whoever sees the disk empty again opens for all, unless the writer has other reasons meanwhile.
                let _ = self.gate.0.compare_exchange(2, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
            Taking::Full | Taking::Recovering | Taking::Closed => return Err(NoSlot::Refused),
        }
        Arc::clone(&self.slots).try_acquire_owned().map(WriterSlot::new).map_err(|_| NoSlot::Busy)
    }

    fn enqueue(&self, slot: WriterSlot, commit: Commit) -> Ticket {
        let (ticket, outcome) = oneshot::channel();
        let reply = Some(Reply { ticket, permit: slot.into_permit() });
        // A commit that is not taken is dropped here, and tells so.
        drop(self.orders.send(Order::Commit(Waiting { commit, reply })));
        Ticket::new(outcome)
    }

    fn synced(&self) -> Synced {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Synced { syncs: of(&self.counts.syncs), commits: of(&self.counts.commits) }
    }
}

/// Starts the thread.
pub(crate) fn start(
    options: WriterOptions,
    places: Places,
    journal: Journal,
    checkpoint: Option<Checkpoint>,
    views: Arc<Views>,
) -> io::Result<(Sink, JoinHandle<()>)> {
    let (sender, orders) = channel();
    views.tell_failures(sender.clone());
    let gate = Arc::new(Gate(AtomicU8::new(0)));
    let counts = Arc::new(SyncCounts::default());
    let sink = Sink {
        orders: sender.clone(),
        slots: Arc::new(Semaphore::new(options.queue_capacity)),
        gate: Arc::clone(&gate),
        counts: Arc::clone(&counts),
        space: options.space.clone(),
    };
    let writer = Writer {
        orders,
        gate: Arc::clone(&gate),
        counts,
        places,
        journal,
        views,
        listener: options.listener,
        space: options.space,
        lives: Lives::default(),
        pause: None,
        pauses: options.recovery_pauses,
        unannounced: VecDeque::new(),
        maintenance: Maintenance::new(sender, checkpoint, options.checkpoint_journal_bytes),
    };
    let thread = std::thread::Builder::new().name("storage-writer".to_owned()).spawn(move || {
        // Also when the thread panics: nobody may wait for a slot that leads nowhere.
        let _closed = CloseOnDrop(gate);
        writer.run();
    })?;
    Ok((sink, thread))
}

struct CloseOnDrop(Arc<Gate>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.set(Taking::Closed);
    }
}

struct Writer {
    orders: Receiver<Order>,
    gate: Arc<Gate>,
    counts: Arc<SyncCounts>,
    places: Places,
    journal: Journal,
    views: Arc<Views>,
    listener: Arc<dyn CommitListener>,
    space: SpaceGuard,
    lives: Lives,
    /// In trouble: the journal has not recovered from a failed write or sync, or the look-up store takes nothing. How long to wait
    /// before the next attempt.
    pause: Option<Duration>,
    pauses: (Duration, Duration),
    /// Durable and not yet readable.
    unannounced: VecDeque<Announcement>,
    maintenance: Maintenance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    GoesOn,
    Ends,
}

impl Writer {
    fn run(mut self) {
        loop {
            let course = match self.next_order() {
                Some(Order::Commit(first)) => {
                    let (batch, after) = self.gather(first);
                    self.make(batch);
                    after.map_or(Course::GoesOn, |order| self.attend(order))
                }
                Some(order) => self.attend(order),
                None => {
                    self.try_again();
                    Course::GoesOn
                }
            };
            if course == Course::Ends {
                return;
            }
            self.checkpoint_if_due();
        }
    }

    /// The next order; `None` when a pause in trouble is over.
    fn next_order(&self) -> Option<Order> {
        match self.pause {
            // The writer itself holds a sender, so there is always one.
            None => self.orders.recv().ok(),
            Some(pause) => self.orders.recv_timeout(pause).ok(),
        }
    }

    /// All commits that wait, and the order after them.
    fn gather(&self, first: Waiting) -> (VecDeque<Waiting>, Option<Order>) {
        let mut batch = VecDeque::from([first]);
        while batch.len() < BATCH_COMMITS_MAX {
            match self.orders.try_recv() {
                Ok(Order::Commit(waiting)) => batch.push_back(waiting),
                Ok(order) => return (batch, Some(order)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    fn attend(&mut self, order: Order) -> Course {
        match order {
            Order::Commit(waiting) => self.make(VecDeque::from([waiting])),
            Order::Pin(from, reply) => self.pin(from, &reply),
            Order::Unpin => self.unpin(),
            Order::Checkpoint(reply) => self.checkpoint_now(reply),
            Order::Checkpointed(number, outcome) => self.checkpointed(number, outcome),
            Order::ReadingFailed => self.reading_failed(),
            Order::Close(reply) => {
                let sealed = self.close();
                // Whoever asked may have given up.
                let _ = reply.send(sealed);
                return Course::Ends;
            }
        }
        Course::GoesOn
    }

    fn close(&mut self) -> Result<(), String> {
        self.gate.set(Taking::Closed);
        // Slots that were given before may still bring commits.
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Commit(waiting) => self.make(VecDeque::from([waiting])),
                Order::Checkpointed(number, outcome) => self.checkpointed(number, outcome),
                Order::Pin(..) | Order::Unpin | Order::Checkpoint(_) | Order::ReadingFailed | Order::Close(_) => {}
            }
        }
        self.try_again();
        let sealed = self.journal.rotate().map(|_| ()).map_err(|error| error.to_string());
        let flushed = match self.views.take() {
            Some(index) => {
                let flushed = index.flush().map_err(|error| error.to_string());
                self.release(index);
                flushed
            }
            None => Err("the look-up store is not open".to_owned()),
        };
        // The look-up store is built anew if need be, so only the journal decides.
        if let Err(reason) = flushed {
            log::warn!(reason:%; "look-up store not flushed at the end");
        }
        sealed
    }
}
