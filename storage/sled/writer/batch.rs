//! Makes batches of commits, and deals with those that fail.
//! May not: call a commit written or not written unless that is certain.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ruma::OwnedRoomId;
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    commit::{Announcement, Commit, CommitError},
    error::StorageError,
};

use super::{Reply, Taking, Waiting, Writer};
use crate::draft::{Drafted, draft};
use crate::index::{Index, IndexError, Mark};
use crate::journal::error::{AppendError, SyncError};
use crate::opening::catch_up;
use crate::record::{self, Changes};
use crate::views::Subject;

/// Bytes of journal records that are synced together. Source: LIMITS section 4.
const BATCH_RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long readers get to let go of a look-up store that is closed, in steps: together less than a shutdown may take.
const READERS_LEAVE_STEPS: usize = 200;
const READERS_LEAVE_STEP: Duration = Duration::from_millis(10);

/// A commit whose record was handed to the journal.
struct Pending {
    reply: Reply,
    announcement: Announcement,
    subjects: Vec<Subject>,
    /// The room whose actor's life it belongs to.
    life_of: Option<OwnedRoomId>,
}

/// What the commits of a batch change together, and how far the store is with them.
#[derive(Default)]
struct Merged {
    changes: Changes,
    mark: Mark,
}

impl Writer {
    /// Makes commits in their order.
    pub(super) fn make(&mut self, mut waiting: VecDeque<Waiting>) {
        while !waiting.is_empty() {
            if self.pause.is_some() {
                return self.refuse_all(waiting, &|| not_written("the engine recovers from a failure"));
            }
            if self.space.is_full() {
                if self.gate.taking() == Taking::Yes {
                    log::error!("disk nearly full: writes are refused");
                    self.gate.set(Taking::Full);
                }
                return self.refuse_all(waiting, &|| CommitError::Storage(StorageError::DiskFull));
            }
            let Some(index) = self.views.index() else {
                return self.refuse_all(waiting, &|| not_written("the look-up store is not open"));
            };
            self.make_some(index, &mut waiting);
        }
    }

    /// Appends and syncs the first of those that wait, as many as go together.
    fn make_some(&mut self, index: Arc<Index>, waiting: &mut VecDeque<Waiting>) {
        let mut merged = Merged::default();
        let mut pending = VecDeque::new();
        let mut refused = Vec::new();
        let mut bytes = 0;
        while let Some(mut next) = waiting.pop_front() {
            let position = self.journal.next_position();
            let drafted = match self.draft(&index, &merged.changes, &next.commit, StreamPosition(position.0)) {
                Ok(drafted) => drafted,
                Err(error) => {
                    // Heard only when what it was judged by is durable.
                    refused.push((next, error));
                    continue;
                }
            };
            let record = record::encode(&drafted.changes);
            if bytes > 0 && bytes + record.len() > BATCH_RECORD_BYTES_MAX {
                waiting.push_front(next);
                break;
            }
            match self.journal.append(&record) {
                Ok(_) => {}
                Err(error @ (AppendError::TooLarge { .. } | AppendError::BatchFull | AppendError::Refused)) => {
                    next.refuse(not_written(&error.to_string()));
                    continue;
                }
            }
            bytes += record.len();
            let life_of = match &next.commit {
                Commit::Room(commit) => {
                    self.lives.made(commit);
                    Some(commit.room_id.clone())
                }
                Commit::Accounts(_)
                | Commit::ServerKeys(_)
                | Commit::OutboxDone(_)
                | Commit::EdusDone(_)
                | Commit::Receipts(_) => None,
            };
            let Drafted { changes, announcement, subjects } = drafted;
            merged.changes.extend(changes);
            merged.mark = Mark::of(position, &record);
            if let Some(reply) = next.reply.take() {
                pending.push_back(Pending { reply, announcement, subjects, life_of });
            }
        }
        // Whoever opens it again waits until nobody holds it.
        drop(index);
        match self.journal.sync() {
            Ok(_) => {
                self.count_sync(pending.len());
                self.finish(pending, merged);
                let was_unread = refused.iter().any(|(_, error)| matches!(error, CommitError::Storage(_)));
                for (waiting, error) in refused {
                    waiting.refuse(error);
                }
                if was_unread {
                    self.reading_failed();
                }
            }
            Err(error) => {
                for (waiting, error) in refused {
                    // The conflict may have been with something that was not written.
                    let is_conflict = matches!(error, CommitError::Conflict(_));
                    waiting.refuse(if is_conflict { not_written("a write before it failed") } else { error });
                }
                self.sync_failed(&error, pending);
            }
        }
    }

    fn count_sync(&self, commits: usize) {
        if let Some(commits) = u64::try_from(commits).ok().filter(|commits| *commits > 0) {
            self.counts.syncs.fetch_add(1, Ordering::Relaxed);
            self.counts.commits.fetch_add(commits, Ordering::Relaxed);
        }
    }

    fn draft(
        &mut self,
        index: &Index,
        overlay: &Changes,
        commit: &Commit,
        position: StreamPosition,
    ) -> Result<Drafted, CommitError> {
        if let Commit::Room(commit) = commit
            && !self.lives.is_next(commit)
        {
            return Err(CommitError::PredecessorMissing);
        }
        draft(index, overlay, commit, position)
    }

    /// Lets readers find what is durable, publishes it, tells the listener, answers; then sled gets its part, if it is time.
    fn finish(&mut self, pending: VecDeque<Pending>, merged: Merged) {
        let Merged { changes, mark } = merged;
        if pending.is_empty() {
            return;
        }
        let subjects: Vec<Subject> = pending.iter().flat_map(|made| made.subjects.iter().copied()).collect();
        if let Err(error) = self.views.change(&subjects, |index| index.take(changes, mark)) {
            return self.apply_failed(&error, pending);
        }
        for made in pending {
            self.publish(&made.announcement);
            made.reply.send(Ok(made.announcement.position));
        }
        let written = match self.views.index() {
            Some(index) => index.write_down_if_many(),
            None => Err(IndexError::new("not open")),
        };
        if let Err(error) = written {
            self.index_failed(&error);
        }
    }

    fn publish(&self, announcement: &Announcement) {
        self.views.publish(announcement.position);
        // Wake-ups are hints: one that panics must not end all writing.
        let told = catch_unwind(AssertUnwindSafe(|| self.listener.committed(announcement)));
        if told.is_err() {
            log::error!(position = announcement.position.0; "commit listener panicked");
        }
    }

    /// The journal did not take a batch. Only once a new segment says so is it certain that nothing of it is there.
    fn sync_failed(&mut self, error: &SyncError, pending: VecDeque<Pending>) {
        log::error!(error:% = error, commits = pending.len(); "journal write failed");
        for made in &pending {
            self.end_life(made);
        }
        self.in_trouble();
        let is_certain = !self.journal.is_refusing();
        for made in pending {
            let reason = error.to_string();
            made.reply.send(Err(CommitError::Storage(if is_certain {
                StorageError::NotWritten { reason }
            } else {
                StorageError::OutcomeUnknown { reason }
            })));
        }
    }

    /// A journal that failed outside a batch.
    pub(super) fn journal_failed(&mut self, error: &SyncError) {
        self.sync_failed(error, VecDeque::new());
    }

    /// sled did not take what readers have found already.
    pub(super) fn index_failed(&mut self, error: &IndexError) {
        self.apply_failed(error, VecDeque::new());
    }

    /// The look-up store did not take what is durable: it is opened again, or built anew, from the journal.
    fn apply_failed(&mut self, error: &IndexError, pending: VecDeque<Pending>) {
        log::error!(error:% = error, commits = pending.len(); "look-up store failed");
        // It may hold a part of what was to be seen whole.
        self.close_index();
        self.unannounced.extend(pending.iter().map(|made| made.announcement.clone()));
        self.in_trouble();
        let is_readable = self.pause.is_none();
        for made in pending {
            if is_readable {
                made.reply.send(Ok(made.announcement.position));
            } else {
                self.end_life(&made);
                let reason = format!("written, but not readable yet: {error}");
                made.reply.send(Err(CommitError::Storage(StorageError::OutcomeUnknown { reason })));
            }
        }
    }

    /// A reading failed: perhaps because sled's own threads could not write, of which nobody else tells.
    pub(super) fn reading_failed(&mut self) {
        // In trouble nobody hears of more, lest orders keep the writer from its next attempt.
        if self.pause.is_some() {
            return;
        }
        match self.views.index().map(|index| index.touch()) {
            Some(Err(error)) => {
                log::error!(error:% = error; "look-up store failed");
                self.in_trouble();
            }
            Some(Ok(())) | None => self.views.failure_heard(),
        }
    }

    fn in_trouble(&mut self) {
        self.gate.set(Taking::Recovering);
        self.pause = Some(self.pauses.0);
        self.try_again();
    }

    /// Tries to get out of trouble, if there is any. Sets the next pause if that fails.
    pub(super) fn try_again(&mut self) {
        let Some(pause) = self.pause else { return };
        let recovered = self.journal.recover().map_err(|error| error.to_string());
        match recovered.and_then(|_| self.mend_index()) {
            Ok(()) => {
                log::warn!("storage writes again after a failure");
                self.pause = None;
                self.views.failure_heard();
                self.gate.set(Taking::Yes);
                while let Some(announcement) = self.unannounced.pop_front() {
                    self.publish(&announcement);
                }
            }
            Err(reason) => {
                // A disk may be full for days.
                let level = if pause < self.pauses.1 { log::Level::Error } else { log::Level::Debug };
                log::log!(level, reason:%; "storage cannot write yet");
                self.pause = Some(pause.saturating_mul(2).min(self.pauses.1));
            }
        }
    }

    /// Opens the look-up store again unless it is open and takes what it is given.
    fn mend_index(&mut self) -> Result<(), String> {
        if self.views.index().is_some_and(|index| index.touch().is_ok()) {
            return Ok(());
        }
        // What can still be read stays readable until the disk has room for another start of sled.
        self.places.try_disk().map_err(|error| format!("the disk takes nothing: {error}"))?;
        self.close_index();
        let found = self.places.find_index();
        let checkpoint = self.maintenance.checkpoint_position();
        let (index, report) =
            catch_up(&self.places, found, &self.journal, checkpoint).map_err(|error| error.to_string())?;
        log::warn!(report:? = report; "look-up store opened again");
        self.views.give(index);
        Ok(())
    }

    fn close_index(&mut self) {
        if let Some(index) = self.views.take() {
            self.release(index);
        }
    }

    /// Waits until nobody holds the store, because sled gives its lock back only with the last handle.
    pub(super) fn release(&mut self, index: Arc<Index>) {
        self.maintenance.cancel();
        let mut held = index;
        for _ in 0..READERS_LEAVE_STEPS {
            match Arc::try_unwrap(held) {
                Ok(alone) => {
                    if let Err(error) = alone.close() {
                        log::warn!(error:% = error; "look-up store not closed in order");
                    }
                    return;
                }
                Err(still_read) => held = still_read,
            }
            std::thread::park_timeout(READERS_LEAVE_STEP);
        }
    }

    fn end_life(&mut self, made: &Pending) {
        if let Some(room_id) = &made.life_of {
            self.lives.end(room_id);
        }
    }

    fn refuse_all(&mut self, waiting: VecDeque<Waiting>, error: &dyn Fn() -> CommitError) {
        for waiting in waiting {
            let follows = match &waiting.commit {
                Commit::Room(commit) => self.lives.is_next(commit),
                Commit::Accounts(_)
                | Commit::ServerKeys(_)
                | Commit::OutboxDone(_)
                | Commit::EdusDone(_)
                | Commit::Receipts(_) => true,
            };
            waiting.refuse(if follows { error() } else { CommitError::PredecessorMissing });
        }
    }
}

fn not_written(reason: &str) -> CommitError {
    CommitError::Storage(StorageError::NotWritten { reason: reason.to_owned() })
}
