//! The operator's end of an open engine: close it, copy it, check it.
//! May not: write anything past the writer.

use std::fs::File;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use thiserror::Error;

use crate::journal::JournalPosition;
use crate::opening::Places;
use crate::views::Views;
use crate::writer::{Order, Pinned, Sink};

/// Why an engine did not close cleanly. What was acknowledged is durable all the same.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("storage not closed cleanly: {reason}")]
pub struct CloseError {
    /// For the log.
    pub reason: String,
}

/// An open engine. Dropping it closes it.
pub struct Handle {
    pub(crate) places: Places,
    pub(crate) views: Arc<Views>,
    sink: Sink,
    running: Mutex<Option<Running>>,
}

struct Running {
    thread: JoinHandle<()>,
    /// Held until the thread has ended.
    lock: File,
}

impl Handle {
    pub(crate) fn new(lock: File, places: Places, views: Arc<Views>, sink: Sink, thread: JoinHandle<()>) -> Self {
        Self { places, views, sink, running: Mutex::new(Some(Running { thread, lock })) }
    }

    /// Refuses new commits, makes those that were enqueued, seals the journal, closes sled and gives the data directory free. Blocks.
    /// Handles to the stores that are still around answer `Unavailable` from then on. Doing it twice is no error.
    ///
    /// # Errors
    /// [`CloseError`]; the engine is closed all the same.
    pub fn close(&self) -> Result<(), CloseError> {
        let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        self.sink.shut();
        let (reply, closed) = channel();
        let ended = || CloseError { reason: "the writer had ended before".to_owned() };
        let outcome = if self.sink.order(Order::Close(reply)) {
            closed.recv().map_err(|_| ended()).and_then(|sealed| sealed.map_err(|reason| CloseError { reason }))
        } else {
            Err(ended())
        };
        let joined = running.thread.join().map_err(|_| CloseError { reason: "the writer panicked".to_owned() });
        drop(running.lock);
        outcome.and(joined)
    }

    /// Takes a checkpoint now, or waits for the one that is under way, and says for which position. Blocks.
    ///
    /// # Errors
    /// Why there is none, in words; the journal stays as it is.
    pub fn checkpoint(&self) -> Result<JournalPosition, String> {
        let (reply, taken) = channel();
        self.sink.order(Order::Checkpoint(reply));
        taken.recv().unwrap_or_else(|_| Err("the writer has ended".to_owned()))
    }

    /// The journal as it is now, none of which goes away while the guard lives, read from a position or from the newest checkpoint.
    /// `None`: the writer has ended.
    pub(crate) fn pin(&self, from: Option<JournalPosition>) -> Option<(Pinned, PinGuard<'_>)> {
        let (reply, pinned) = channel();
        self.sink.order(Order::Pin(from, reply));
        pinned.recv().ok().map(|pinned| (pinned, PinGuard { sink: &self.sink }))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!(error:% = error; "storage closed while dropped");
        }
    }
}

/// Keeps the journal's files.
pub(crate) struct PinGuard<'a> {
    sink: &'a Sink,
}

impl Drop for PinGuard<'_> {
    fn drop(&mut self) {
        // A writer that has ended keeps nothing.
        self.sink.order(Order::Unpin);
    }
}
