//! The journal: what was synced here is what the server promised.
//! May not: know what a record means, read a clock, log, or write to a file whose write or sync once failed.
//!
//! A journal is a directory of segments. Each segment's header names the segment before it and states up to which byte that one is
//! valid; the chain of these statements from the newest segment back *is* the journal, and whatever lies outside it does not count: the
//! rest of a segment whose sync failed, a segment whose making failed half-way. So what was reported as not written never appears later.
//!
//! **Batches.** What is appended between two syncs is one batch: one write and one sync. Each record carries its index in its batch. A
//! batch is written only after the one before it was synced, hence only the last batch of the newest segment can be torn by a crash.
//!
//! **Torn tail or damage.** A bad record is a torn tail, and is cut with all that follows, if and only if it lies in the newest segment,
//! after the bytes that were synced before the segment got its name, no good record of a later batch lies behind it, and the
//! caller does not know its position to have been durable. Everything else is [`JournalError::Damaged`]. A torn batch keeps the records
//! before the first bad one. Damage to the very last batch of a journal that was not closed looks like a torn tail; a caller that
//! remembers how far it had applied the journal tells the two apart by [`JournalOptions::known_durable`].
//!
//! **Opening** always starts a new segment and copies the last batch into it: nothing proves that this batch ever reached the disk (an
//! earlier process may have seen its sync fail, after which the kernel still shows the bytes), and the old file is not to be synced again.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod error;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
pub mod files;
mod recovery;
pub mod replay;
pub mod segment;
#[cfg(test)]
mod tests;

use self::error::{AppendError, JournalError, SyncError};
use self::files::{JournalFiles, NewFile, offset_of, write_whole};
use self::replay::Replay;
use self::segment::{Frame, Header, RECORD_BYTES_MAX, ReadRange};

/// Bytes after which the next batch goes to a new segment. Ours: the checkpoint's threshold (DESIGN section 4), in steps of which space is
/// given back.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of one batch that holds more than one record. Ours: opening copies the last batch and a failed sync loses one.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of the batch buffer that are kept after a sync.
const BATCH_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// Where a record stands. The first is 1 and each following is one more; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPosition(pub u64);

impl JournalPosition {
    /// The position after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What a journal is opened with.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Names the server and the data directory; a journal with another identity is refused. At most [`IDENTITY_BYTES_MAX`](segment::IDENTITY_BYTES_MAX) bytes.
    pub identity: String,
    /// Random. Keeps content that a peer chose from passing as a record.
    pub salt: u64,
    /// The first record that no checkpoint holds: the position after the newest checkpoint's, else 1.
    pub first_needed: JournalPosition,
    /// A record that the caller knows to have been durable, because it was applied elsewhere; else 0. A journal that ends before it was damaged.
    pub known_durable: JournalPosition,
    /// Bytes after which the next batch goes to a new segment, [`SEGMENT_BYTES`] except in tests.
    pub segment_bytes: u64,
}

impl JournalOptions {
    /// Options for a data directory without a checkpoint.
    pub fn new(identity: impl Into<String>, salt: u64) -> Self {
        Self {
            identity: identity.into(),
            salt,
            first_needed: JournalPosition(1),
            known_durable: JournalPosition(0),
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

/// What opening found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The first record that can be replayed, if there is any.
    pub first: JournalPosition,
    /// The last record; the position before `first` if there is none.
    pub last: JournalPosition,
    /// Records that were read and checked.
    pub records: u64,
    /// Segments that were read and checked.
    pub segments: usize,
    /// What was cut from the newest segment.
    pub torn: Option<TornTail>,
    /// Files left by a crash or by a failure, and removed.
    pub leftovers_removed: usize,
}

/// The end of the newest segment that a crash left incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Number of the segment.
    pub segment: u64,
    /// Where its last good record ends.
    pub offset: u64,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
}

/// A segment's file and how much of it counts, for backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    /// Name of the file in the journal's directory.
    pub file_name: String,
    /// Bytes from its start that are durable. A copy must not hold more.
    pub bytes: u64,
}

/// The writing end. One thread owns it.
pub struct Journal {
    files: Arc<dyn JournalFiles>,
    dir: PathBuf,
    options: JournalOptions,
    /// Segments that no reader needs, oldest first.
    retired: Vec<u64>,
    /// Segments that are written no more, oldest first.
    closed: Vec<Span>,
    active: Active,
    /// The highest number that any segment's file, even a failed one, ever had.
    highest_number: u64,
    /// The last durable record.
    durable: JournalPosition,
    batch: Batch,
    health: Health,
}

/// The valid part of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    number: u64,
    range: ReadRange,
    /// Position after the last record.
    next_position: u64,
}

struct Active {
    header: Header,
    file: Box<dyn NewFile>,
    /// Bytes that are durable.
    bytes: u64,
}

#[derive(Default)]
struct Batch {
    encoded: Vec<u8>,
    records: u32,
    target: Target,
}

/// Where the current batch goes; decided by its first record.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Target {
    #[default]
    Active,
    NewSegment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Health {
    Writable,
    /// The active segment is never touched again.
    Failed {
        unknown: Option<RangeInclusive<JournalPosition>>,
    },
}

impl Journal {
    /// Finds the journal in a directory, checks it, cuts its torn tail and makes it ready for writing. Makes a new one, with `first_needed`
    /// as its first position, only if that is 1. Every record that can then be replayed is durable.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Missing`], [`JournalError::NewerFormat`], [`JournalError::WrongIdentity`]: nothing was
    /// changed. [`JournalError::Io`]: opening again is safe.
    pub fn open(
        files: Arc<dyn JournalFiles>,
        dir: &Path,
        options: JournalOptions,
    ) -> Result<(Self, Recovery), JournalError> {
        recovery::open(files, dir, options)
    }

    /// Starts a journal at `first_needed` in a directory that holds none: what a restore from a checkpoint alone needs.
    ///
    /// # Errors
    /// [`JournalError::Io`] with `AlreadyExists` if there are segments.
    pub fn create(files: Arc<dyn JournalFiles>, dir: &Path, options: JournalOptions) -> Result<Self, JournalError> {
        recovery::create(files, dir, options)
    }

    /// Takes a record into the current batch. Nothing is durable before [`sync`](Self::sync).
    pub fn append(&mut self, payload: &[u8]) -> Result<JournalPosition, AppendError> {
        if self.health != Health::Writable {
            return Err(AppendError::Refused);
        }
        if payload.len() > RECORD_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: payload.len() });
        }
        if self.batch.records == 0 {
            let is_full = self.active.bytes >= self.options.segment_bytes;
            self.batch.target = if is_full { Target::NewSegment } else { Target::Active };
        } else if self.batch.encoded.len() + payload.len() > BATCH_BYTES_MAX {
            return Err(AppendError::BatchFull);
        }
        let number = match self.batch.target {
            Target::Active => self.active.header.number,
            Target::NewSegment => self.highest_number + 1,
        };
        let salt = match self.batch.target {
            Target::Active => self.active.header.salt,
            Target::NewSegment => self.options.salt,
        };
        let position = self.next_position();
        let frame = Frame { position: position.0, batch_index: self.batch.records, payload };
        frame.encode(segment::seed(salt, number), &mut self.batch.encoded);
        self.batch.records += 1;
        Ok(position)
    }

    /// The position that the next record gets.
    pub fn next_position(&self) -> JournalPosition {
        JournalPosition(self.durable.0 + u64::from(self.batch.records)).next()
    }

    /// The last durable record; the position before the first if there is none.
    pub fn durable(&self) -> JournalPosition {
        self.durable
    }

    /// Whether a write or sync failed and [`recover`](Self::recover) is due.
    pub fn is_refusing(&self) -> bool {
        self.health != Health::Writable
    }

    /// Makes the batch durable with one write and one sync (and a new segment, if the last one is full), and says up to where the
    /// journal is durable. Without a batch nothing is done.
    pub fn sync(&mut self) -> Result<JournalPosition, SyncError> {
        if self.health != Health::Writable {
            return Err(SyncError::Refused);
        }
        let mut batch = std::mem::take(&mut self.batch);
        if batch.records == 0 {
            self.batch = batch;
            return Ok(self.durable);
        }
        let last = JournalPosition(self.durable.0 + u64::from(batch.records));
        let result = match batch.target {
            Target::Active => {
                let file = self.active.file.as_mut();
                write_whole(file, &batch.encoded).and_then(|()| file.sync_data())
            }
            Target::NewSegment => self.start_segment(&batch.encoded),
        };
        if let Err(source) = result {
            let unknown = self.durable.next()..=last;
            self.health = Health::Failed { unknown: Some(unknown.clone()) };
            return Err(SyncError::OutcomeUnknown { unknown, source });
        }
        if batch.target == Target::Active {
            self.active.bytes += offset_of(batch.encoded.len());
        }
        self.durable = last;
        batch.encoded.clear();
        batch.encoded.shrink_to(BATCH_BYTES_KEPT);
        batch.records = 0;
        self.batch = batch;
        Ok(last)
    }

    /// After a failure: opens a new segment whose synced header states how far the old one is valid. When it returns, the records of the
    /// failed batch, which it names, are not written and never will be, and records are taken again. Does nothing on a healthy journal.
    ///
    /// # Errors
    /// The file system still refuses. The journal goes on refusing; try again later.
    pub fn recover(&mut self) -> Result<Option<RangeInclusive<JournalPosition>>, JournalError> {
        let Health::Failed { unknown } = self.health.clone() else { return Ok(None) };
        self.start_segment(&[]).map_err(|source| JournalError::io("start a journal segment in", &self.dir, source))?;
        self.health = Health::Writable;
        Ok(unknown)
    }

    /// Syncs the batch and starts a new, empty segment. Before a checkpoint it lets [`remove_below`](Self::remove_below) free all that the
    /// checkpoint holds; before the process ends it seals the last batch, so that later damage to it is found.
    pub fn rotate(&mut self) -> Result<JournalPosition, SyncError> {
        let durable = self.sync()?;
        if self.active.bytes > self.active.header.bytes() {
            self.start_segment(&[]).map_err(|source| {
                self.health = Health::Failed { unknown: None };
                SyncError::SegmentNotStarted { source }
            })?;
        }
        Ok(durable)
    }

    /// Reads the durable records from a position on, in order. The reader is independent of this journal and can go to another thread; it
    /// ends where the journal is durable now.
    ///
    /// # Errors
    /// [`JournalError::Missing`] if the position was removed, or lies after the next one.
    pub fn replay(&self, from: JournalPosition) -> Result<Replay, JournalError> {
        let (first, last) = (self.first(), self.durable);
        if from < first || from > last.next() {
            return Err(JournalError::Missing { needed: from, first, last });
        }
        let mut spans = self.closed.clone();
        spans.push(self.active_span());
        spans.retain(|span| span.next_position > from.0);
        Ok(Replay::new(Arc::clone(&self.files), self.dir.clone(), spans, from))
    }

    /// The first record that can be replayed, or the next one if there is none.
    pub fn first(&self) -> JournalPosition {
        JournalPosition(self.closed.first().map_or(self.active.header.first_position, |span| span.range.first_position))
    }

    /// Bytes that the journal's valid parts take on disk.
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|span| span.range.end).sum::<u64>() + self.active.bytes
    }

    /// The files of the journal and how much of each counts, oldest first. Copied in this order they are a journal up to
    /// [`durable`](Self::durable); nothing may be removed meanwhile.
    pub fn extents(&self) -> Vec<SegmentExtent> {
        let closed = self.closed.iter().map(|span| (span.number, span.range.end));
        let active = (self.active.header.number, self.active.bytes);
        closed
            .chain([active])
            .map(|(number, bytes)| SegmentExtent { file_name: segment::file_name(number), bytes })
            .collect()
    }

    /// Removes the segments that hold nothing after a position. Only for a position whose checkpoint is durable. Returns how many.
    ///
    /// # Errors
    /// [`JournalError::Io`]: some may be left; the next call removes them.
    pub fn remove_below(&mut self, checkpoint: JournalPosition) -> Result<usize, JournalError> {
        let wholly_below = self.closed.iter().take_while(|span| span.next_position <= checkpoint.next().0).count();
        self.retired.extend(self.closed.drain(..wholly_below).map(|span| span.number));
        let mut removed = 0;
        // Oldest first and one name at a time, so that a crash leaves a gapless end of the chain in the common case.
        while let Some(number) = self.retired.first() {
            let path = self.dir.join(segment::file_name(*number));
            match self.files.remove(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(JournalError::io("remove", &path, source));
                }
                _ => removed += 1,
            }
            self.retired.remove(0);
        }
        if removed > 0 {
            self.files.sync_dir(&self.dir).map_err(|source| JournalError::io("sync directory", &self.dir, source))?;
        }
        Ok(removed)
    }

    fn active_span(&self) -> Span {
        span(&self.active.header, self.active.bytes, self.durable.next().0)
    }

    /// Makes a segment after the durable part of the active one, with a batch in it, and makes it the active one.
    fn start_segment(&mut self, batch: &[u8]) -> io::Result<()> {
        let active = self.active_span();
        // A segment without records is passed over, so that the chain does not grow with every start.
        let is_empty = active.range.first_position == active.next_position;
        let old = &self.active.header;
        let (predecessor, predecessor_bytes) =
            if is_empty { (old.predecessor, old.predecessor_bytes) } else { (active.number, active.range.end) };
        // Never a number that was tried before: the file of a failed attempt may come back in a crash.
        self.highest_number += 1;
        let header = Header {
            number: self.highest_number,
            first_position: active.next_position,
            predecessor,
            predecessor_bytes,
            born_bytes: 0,
            salt: self.options.salt,
            identity: self.options.identity.clone(),
        };
        let number = active.number;
        self.active = make_segment(self.files.as_ref(), &self.dir, header, batch)?;
        if !is_empty {
            self.closed.push(active);
        } else if self.files.remove(&self.dir.join(segment::file_name(number))).is_err() {
            self.retired.push(number);
        }
        Ok(())
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut described = formatter.debug_struct("Journal");
        described.field("dir", &self.dir).field("first", &self.first()).field("durable", &self.durable);
        described.field("health", &self.health).finish_non_exhaustive()
    }
}

/// Writes a segment under another name, syncs it, names it, and syncs the name: a segment's file is whole from the moment it has its name.
fn make_segment(files: &dyn JournalFiles, dir: &Path, mut header: Header, batch: &[u8]) -> io::Result<Active> {
    header.born_bytes = header.bytes() + offset_of(batch.len());
    let unfinished = dir.join(segment::unfinished_file_name(header.number));
    let finished = dir.join(segment::file_name(header.number));
    let mut bytes = header.encode();
    bytes.extend_from_slice(batch);
    let make = || -> io::Result<Box<dyn NewFile>> {
        let mut file = files.create_new(&unfinished)?;
        write_whole(file.as_mut(), &bytes)?;
        file.sync_data()?;
        files.rename(&unfinished, &finished)?;
        files.sync_dir(dir)?;
        Ok(file)
    };
    match make() {
        Ok(file) => Ok(Active { bytes: header.born_bytes, header, file }),
        Err(error) => {
            // Tidying only: no chain names this segment, so it does not count even if a crash brings it back.
            let _ = files.remove(&unfinished);
            let _ = files.remove(&finished);
            Err(error)
        }
    }
}

fn span(header: &Header, end: u64, next_position: u64) -> Span {
    let seed = segment::seed(header.salt, header.number);
    let range = ReadRange { from: header.bytes(), end, first_position: header.first_position, seed };
    Span { number: header.number, range, next_position }
}
