//! Opens a journal: walks the chain of segments, checks every record, decides what a crash tore and what is damage.
//! May not: change any file before the whole journal was found sound.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::JournalError;
use super::files::JournalFiles;
use super::segment::{
    self, FORMAT, Frame, Header, HeaderFault, IDENTITY_BYTES_MAX, Named, ReadRange, SegmentReader, Step,
};
use super::{Batch, Health, Journal, JournalOptions, JournalPosition, Recovery, Span, TornTail, make_segment, span};

pub(super) fn open(
    files: Arc<dyn JournalFiles>,
    dir: &Path,
    options: JournalOptions,
) -> Result<(Journal, Recovery), JournalError> {
    let names = Names::find(files.as_ref(), dir, &options)?;
    let first_needed = options.first_needed.max(JournalPosition(1));
    let known_durable = options.known_durable;
    let Some(newest) = names.segments.last() else {
        let nothing = JournalPosition(0);
        let needed = known_durable.max(if first_needed.0 > 1 { first_needed } else { nothing });
        if needed > nothing {
            return Err(JournalError::Missing { needed, first: nothing.next(), last: nothing });
        }
        let journal = begin(files, dir, options, &names)?;
        let leftovers_removed =
            remove_leftovers(&journal, names.unfinished.iter().map(|number| segment::unfinished_file_name(*number)));
        let recovery =
            Recovery { first: first_needed, last: nothing, records: 0, segments: 0, torn: None, leftovers_removed };
        return Ok((journal, recovery));
    };

    let scan = Scan { files: files.as_ref(), dir, options: &options };
    let chain = scan.chain(*newest, &names.segments)?;
    let checked = scan.check(&chain)?;
    let first = JournalPosition(checked.first_position);
    let last = JournalPosition(checked.next_position - 1);
    if first > first_needed || last.next() < first_needed {
        return Err(JournalError::Missing { needed: first_needed, first, last });
    }
    if last < known_durable {
        return Err(JournalError::Missing { needed: known_durable, first, last });
    }

    let number = names.highest() + 1;
    let carried = scan.carry(&checked, number)?;
    let header = Header {
        number,
        first_position: checked.carry_from.first_position,
        predecessor: checked.predecessor,
        predecessor_bytes: checked.predecessor_bytes,
        born_bytes: 0,
        salt: options.salt,
        identity: options.identity.clone(),
    };
    let active = make_segment(files.as_ref(), dir, header, &carried)
        .map_err(|source| JournalError::io("start a journal segment in", dir, source))?;

    let counted: BTreeSet<u64> = checked.closed.iter().map(|span| span.number).collect();
    let oldest = chain.first().map_or(0, |header| header.number);
    let retired = names.segments.range(..oldest).copied().collect();
    let outside = names
        .segments
        .range(oldest..)
        .filter(|number| !counted.contains(number))
        .map(|number| segment::file_name(*number));
    let leftovers: Vec<String> =
        outside.chain(names.unfinished.iter().map(|number| segment::unfinished_file_name(*number))).collect();
    let journal = Journal {
        files,
        dir: dir.to_owned(),
        options,
        retired,
        closed: checked.closed,
        active,
        highest_number: number,
        durable: last,
        batch: Batch::default(),
        health: Health::Writable,
    };
    let leftovers_removed = remove_leftovers(&journal, leftovers.into_iter());
    let recovery = Recovery {
        first,
        last,
        records: checked.records,
        segments: chain.len(),
        torn: checked.torn,
        leftovers_removed,
    };
    Ok((journal, recovery))
}

pub(super) fn create(
    files: Arc<dyn JournalFiles>,
    dir: &Path,
    options: JournalOptions,
) -> Result<Journal, JournalError> {
    let names = Names::find(files.as_ref(), dir, &options)?;
    if !names.segments.is_empty() {
        return Err(JournalError::io("start a journal in", dir, io::ErrorKind::AlreadyExists.into()));
    }
    begin(files, dir, options, &names)
}

/// Makes the first segment.
fn begin(
    files: Arc<dyn JournalFiles>,
    dir: &Path,
    options: JournalOptions,
    names: &Names,
) -> Result<Journal, JournalError> {
    let first = options.first_needed.max(JournalPosition(1));
    let number = names.highest() + 1;
    let header = Header {
        number,
        first_position: first.0,
        predecessor: 0,
        predecessor_bytes: 0,
        born_bytes: 0,
        salt: options.salt,
        identity: options.identity.clone(),
    };
    let active = make_segment(files.as_ref(), dir, header, &[])
        .map_err(|source| JournalError::io("start a journal segment in", dir, source))?;
    Ok(Journal {
        files,
        dir: dir.to_owned(),
        options,
        retired: Vec::new(),
        closed: Vec::new(),
        active,
        highest_number: number,
        durable: JournalPosition(first.0 - 1),
        batch: Batch::default(),
        health: Health::Writable,
    })
}

/// Tidying only, so its errors do not matter: no chain names these files, and the next start removes what is left.
fn remove_leftovers(journal: &Journal, names: impl Iterator<Item = String>) -> usize {
    names.filter(|name| journal.files.remove(&journal.dir.join(name)).is_ok()).count()
}

/// The files of a journal's directory.
struct Names {
    segments: BTreeSet<u64>,
    unfinished: BTreeSet<u64>,
}

impl Names {
    fn find(files: &dyn JournalFiles, dir: &Path, options: &JournalOptions) -> Result<Self, JournalError> {
        if options.identity.len() > IDENTITY_BYTES_MAX {
            return Err(JournalError::IdentityTooLong { bytes: options.identity.len() });
        }
        files.ensure_dir(dir).map_err(|source| JournalError::io("make directory", dir, source))?;
        let listed = files.list(dir).map_err(|source| JournalError::io("list", dir, source))?;
        let mut names = Self { segments: BTreeSet::new(), unfinished: BTreeSet::new() };
        for name in &listed {
            match segment::parse_file_name(name) {
                Some(Named::Segment(number)) => names.segments.insert(number),
                Some(Named::Unfinished(number)) => names.unfinished.insert(number),
                None => false,
            };
        }
        Ok(names)
    }

    fn highest(&self) -> u64 {
        self.segments.last().copied().max(self.unfinished.last().copied()).unwrap_or(0)
    }
}

struct Scan<'a> {
    files: &'a dyn JournalFiles,
    dir: &'a Path,
    options: &'a JournalOptions,
}

/// A journal that was read and found sound.
struct Checked {
    /// What stays as it is, oldest first.
    closed: Vec<Span>,
    /// The newest segment's unproven end, which goes to the new segment.
    carry_number: u64,
    carry_from: ReadRange,
    /// What the new segment's header says.
    predecessor: u64,
    predecessor_bytes: u64,
    first_position: u64,
    next_position: u64,
    records: u64,
    torn: Option<TornTail>,
}

impl Scan<'_> {
    /// The headers from the oldest segment that is needed to the newest.
    fn chain(&self, newest: u64, present: &BTreeSet<u64>) -> Result<Vec<Header>, JournalError> {
        let mut chain = Vec::new();
        let mut number = newest;
        loop {
            let header = self.header(number)?;
            let (predecessor, first_position) = (header.predecessor, header.first_position);
            chain.push(header);
            // What a checkpoint holds is not read again; a predecessor that is gone was removed after a checkpoint, and if not, the caller
            // hears that positions are missing.
            if first_position <= self.options.first_needed.0.max(1) || !present.contains(&predecessor) {
                break;
            }
            number = predecessor;
        }
        chain.reverse();
        Ok(chain)
    }

    fn header(&self, number: u64) -> Result<Header, JournalError> {
        let path = self.dir.join(segment::file_name(number));
        let file = self.files.open(&path).map_err(|source| JournalError::io("open", &path, source))?;
        let header = Header::read(file).map_err(|source| JournalError::io("read", &path, source))?;
        let header = header.map_err(|fault| match fault {
            HeaderFault::Damaged => JournalError::Damaged { segment: number, offset: 0 },
            HeaderFault::NewerFormat { found } => {
                JournalError::NewerFormat { segment: number, found, supported: FORMAT }
            }
        })?;
        if header.identity != self.options.identity {
            return Err(JournalError::WrongIdentity {
                segment: number,
                found: header.identity,
                expected: self.options.identity.clone(),
            });
        }
        if header.number != number {
            return Err(JournalError::Damaged { segment: number, offset: 0 });
        }
        Ok(header)
    }

    fn check(&self, chain: &[Header]) -> Result<Checked, JournalError> {
        let mut closed = Vec::new();
        let mut records = 0;
        for pair in chain.windows(2) {
            if let [header, after] = pair {
                closed.push(self.check_closed(header, after)?);
                records += after.first_position - header.first_position;
            }
        }
        let Some(newest) = chain.last() else {
            return Err(JournalError::io("read", self.dir, io::ErrorKind::NotFound.into()));
        };
        let mut checked = self.check_newest(newest)?;
        checked.records = records + (checked.next_position - newest.first_position);
        checked.first_position = chain.first().map_or(newest.first_position, |header| header.first_position);
        if checked.predecessor == newest.number {
            let kept = span(newest, checked.carry_from.from, checked.carry_from.first_position);
            closed.push(kept);
        }
        checked.closed = closed;
        Ok(checked)
    }

    /// A segment before the newest is whole up to exactly where its successor says.
    fn check_closed(&self, header: &Header, after: &Header) -> Result<Span, JournalError> {
        let expected = span(header, after.predecessor_bytes, after.first_position);
        let damaged = |offset| JournalError::Damaged { segment: header.number, offset };
        if after.predecessor_bytes < header.bytes() {
            return Err(JournalError::Damaged { segment: after.number, offset: 0 });
        }
        let mut reader = self.reader(header.number, expected.range)?;
        loop {
            match self.advance(header.number, &mut reader)? {
                Step::Record { .. } => {}
                Step::Bad { offset } => return Err(damaged(offset)),
                Step::End if reader.next_position() == expected.next_position => return Ok(expected),
                Step::End => return Err(damaged(expected.range.end)),
            }
        }
    }

    fn check_newest(&self, header: &Header) -> Result<Checked, JournalError> {
        let damaged = |offset| JournalError::Damaged { segment: header.number, offset };
        let path = self.dir.join(segment::file_name(header.number));
        let length = self
            .files
            .open(&path)
            .and_then(|file| file.length())
            .map_err(|source| JournalError::io("open", &path, source))?;
        let range = span(header, length, header.first_position).range;
        let mut reader = self.reader(header.number, range)?;
        // The name was synced before the first write after the birth, so until there is one not even the name is proven.
        let mut carry_from = range;
        let mut torn = None;
        let end = loop {
            match self.advance(header.number, &mut reader)? {
                Step::Record { position, offset, batch_index } => {
                    if batch_index == 0 && offset >= header.born_bytes {
                        carry_from = ReadRange { from: offset, first_position: position, ..range };
                    }
                }
                Step::End => break length,
                Step::Bad { offset } => {
                    let was_synced = offset < header.born_bytes
                        || reader.next_position() <= self.options.known_durable.0
                        || reader
                            .later_batch_follows(offset)
                            .map_err(|source| JournalError::io("read", &path, source))?;
                    if was_synced {
                        return Err(damaged(offset));
                    }
                    torn = Some(TornTail { segment: header.number, offset, bytes: length - offset });
                    break offset;
                }
            }
        };
        if end < header.born_bytes {
            return Err(damaged(end));
        }
        let keeps_records = carry_from.from > header.bytes();
        let (predecessor, predecessor_bytes) = if keeps_records {
            (header.number, carry_from.from)
        } else {
            (header.predecessor, header.predecessor_bytes)
        };
        Ok(Checked {
            closed: Vec::new(),
            carry_number: header.number,
            carry_from: ReadRange { end, ..carry_from },
            predecessor,
            predecessor_bytes,
            first_position: header.first_position,
            next_position: reader.next_position(),
            records: 0,
            torn,
        })
    }

    /// The unproven records, encoded as one batch of a new segment.
    fn carry(&self, checked: &Checked, number: u64) -> Result<Vec<u8>, JournalError> {
        let seed = segment::seed(self.options.salt, number);
        let mut reader = self.reader(checked.carry_number, checked.carry_from)?;
        let mut batch = Vec::new();
        let mut batch_index = 0;
        loop {
            match self.advance(checked.carry_number, &mut reader)? {
                Step::Record { position, .. } => {
                    Frame { position, batch_index, payload: reader.payload() }.encode(seed, &mut batch);
                    batch_index += 1;
                }
                Step::End => return Ok(batch),
                // It was good a moment ago.
                Step::Bad { offset } => return Err(JournalError::Damaged { segment: checked.carry_number, offset }),
            }
        }
    }

    fn reader(&self, number: u64, range: ReadRange) -> Result<SegmentReader, JournalError> {
        let path = self.dir.join(segment::file_name(number));
        let file = self.files.open(&path).map_err(|source| JournalError::io("open", &path, source))?;
        Ok(SegmentReader::new(file, range))
    }

    fn advance(&self, number: u64, reader: &mut SegmentReader) -> Result<Step, JournalError> {
        reader.advance().map_err(|source| JournalError::io("read", &self.dir.join(segment::file_name(number)), source))
    }
}
