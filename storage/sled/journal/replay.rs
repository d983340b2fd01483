//! Reads a journal's durable records in order.
//! May not: hold more than one record and one read buffer in memory, or read past what was durable when it was made.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::JournalError;
use super::files::JournalFiles;
use super::segment::{self, SegmentReader, Step};
use super::{JournalPosition, Span};

/// A pass over a part of the journal. Ends at the first error.
pub struct Replay {
    files: Arc<dyn JournalFiles>,
    dir: PathBuf,
    spans: VecDeque<Span>,
    current: Option<(Span, SegmentReader)>,
    from: JournalPosition,
}

/// One record of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub position: JournalPosition,
    pub payload: &'a [u8],
}

impl Replay {
    pub(super) fn new(files: Arc<dyn JournalFiles>, dir: PathBuf, spans: Vec<Span>, from: JournalPosition) -> Self {
        Self { files, dir, spans: spans.into(), current: None, from }
    }

    /// The next record, `None` after the last.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if a record changed since it was checked; [`JournalError::Io`], also when the segment was removed meanwhile.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, JournalError> {
        let Some(position) = self.advance()? else { return Ok(None) };
        let payload = self.current.as_ref().map_or(&[][..], |(_, reader)| reader.payload());
        Ok(Some(Record { position, payload }))
    }

    fn advance(&mut self) -> Result<Option<JournalPosition>, JournalError> {
        loop {
            let (span, reader) = match &mut self.current {
                Some(current) => current,
                None => {
                    let Some(span) = self.spans.pop_front() else { return Ok(None) };
                    let path = self.dir.join(segment::file_name(span.number));
                    let file = self.files.open(&path).map_err(|source| JournalError::io("open", &path, source))?;
                    let reader = SegmentReader::new(file, span.range);
                    self.current.insert((span, reader))
                }
            };
            let step = reader.advance();
            let step = step
                .map_err(|source| JournalError::io("read", &self.dir.join(segment::file_name(span.number)), source))?;
            match step {
                Step::Record { position, .. } if position >= self.from.0 => return Ok(Some(JournalPosition(position))),
                Step::Record { .. } => {}
                Step::End if reader.next_position() == span.next_position => self.current = None,
                Step::End => return Err(JournalError::Damaged { segment: span.number, offset: span.range.end }),
                Step::Bad { offset } => return Err(JournalError::Damaged { segment: span.number, offset }),
            }
        }
    }
}
