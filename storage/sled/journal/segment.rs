//! The bytes of one segment: its header and its records.
//! May not: decide what damage means for the journal, or write a file.
//!
//! All numbers are little-endian.
//!
//! Header: magic (8) · format (u32) · crc32 of those 12 bytes · header length (u32) · number · first position · predecessor's number
//! (0: none) · bytes of the predecessor that are valid · bytes of this segment that were synced before it got its name · salt
//! (u64 each) · identity length (u16) · identity · crc32 of all before. The first 16 bytes stay the same in every format.
//!
//! Record: crc32 of what follows · payload length (u32) · position (u64) · index within its batch (u32) · payload. The checksum starts
//! from a seed made of the segment's salt and number, so a record counts nowhere but in its own segment.

use std::io;

use crc32fast::Hasher;

use super::files::{ChunkReader, StoredFile, offset_of, u32_at, u64_at};

/// Bytes of one record's payload. Ours: the largest commit is the import of a room, which the room splits well below this.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the identity string. Ours: a server name has at most 255.
pub const IDENTITY_BYTES_MAX: usize = 1024;
/// The format that is written, and the newest that is read.
pub(super) const FORMAT: u32 = 1;
/// Bytes before a record's payload.
pub(super) const FRAME_BYTES: usize = 20;

const MAGIC: [u8; 8] = *b"VSTBJRNL";
const PREAMBLE_BYTES: usize = 16;
const FIXED_BYTES: usize = PREAMBLE_BYTES + 4 + 6 * 8 + 2;
const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES_MAX: usize = FIXED_BYTES + IDENTITY_BYTES_MAX + CHECKSUM_BYTES;
/// Bytes looked through at once for a later record.
const SEARCH_BYTES: usize = 64 * 1024;
const EXTENSION: &str = ".journal";
const UNFINISHED_EXTENSION: &str = ".journal.new";

/// What a segment says about itself and the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) first_position: u64,
    /// The segment that holds the records before `first_position`; 0 if there is none.
    pub(super) predecessor: u64,
    /// Its length up to and with the record before `first_position`. What lies beyond was reported as not written, or is sealed off.
    pub(super) predecessor_bytes: u64,
    /// Header and records that were synced before the segment got its name.
    pub(super) born_bytes: u64,
    pub(super) salt: u64,
    pub(super) identity: String,
}

/// Why a header is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Damaged,
    NewerFormat { found: u32 },
}

impl Header {
    /// Length of the encoded header.
    pub(super) fn bytes(&self) -> u64 {
        offset_of(FIXED_BYTES + self.identity.len() + CHECKSUM_BYTES)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.bytes()).unwrap_or(u32::MAX);
        let identity_length = u16::try_from(self.identity.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        for number in
            [self.number, self.first_position, self.predecessor, self.predecessor_bytes, self.born_bytes, self.salt]
        {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&identity_length.to_le_bytes());
        bytes.extend_from_slice(self.identity.as_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the header of a segment's file.
    pub(super) fn read(file: Box<dyn StoredFile>) -> io::Result<Result<Self, HeaderFault>> {
        let mut chunks = ChunkReader::new(file, 0, offset_of(HEADER_BYTES_MAX));
        chunks.peek(HEADER_BYTES_MAX).map(Self::decode)
    }

    fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let whole = || -> Option<Result<Self, HeaderFault>> {
            if bytes.get(..8)? != MAGIC || u32_at(bytes, 12)? != crc32fast::hash(bytes.get(..12)?) {
                return None;
            }
            let format = u32_at(bytes, 8)?;
            if format > FORMAT {
                return Some(Err(HeaderFault::NewerFormat { found: format }));
            }
            let length = usize::try_from(u32_at(bytes, PREAMBLE_BYTES)?).ok()?;
            let checked = bytes.get(..length.checked_sub(CHECKSUM_BYTES)?)?;
            if u32_at(bytes, checked.len())? != crc32fast::hash(checked) {
                return None;
            }
            let field = |index: usize| u64_at(checked, PREAMBLE_BYTES + 4 + index * 8);
            let header = Self {
                number: field(0)?,
                first_position: field(1)?,
                predecessor: field(2)?,
                predecessor_bytes: field(3)?,
                born_bytes: field(4)?,
                salt: field(5)?,
                identity: std::str::from_utf8(checked.get(FIXED_BYTES..)?).ok()?.to_owned(),
            };
            let is_consistent = header.bytes() == offset_of(length)
                && header.born_bytes >= header.bytes()
                && header.predecessor < header.number
                && header.first_position > 0;
            is_consistent.then_some(Ok(header))
        };
        whole().unwrap_or(Err(HeaderFault::Damaged))
    }
}

/// The file name of a segment.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:020}{EXTENSION}")
}

/// The file name of a segment that is still being made.
pub(super) fn unfinished_file_name(number: u64) -> String {
    format!("{number:020}{UNFINISHED_EXTENSION}")
}

/// What a file in the journal's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Segment(u64),
    Unfinished(u64),
}

/// Reads a file name; `None` for files that are none of ours.
pub(super) fn parse_file_name(name: &str) -> Option<Named> {
    let number = |extension: &str| -> Option<u64> {
        let digits = name.strip_suffix(extension)?;
        let is_canonical = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_canonical { digits.parse().ok() } else { None }
    };
    number(EXTENSION).map(Named::Segment).or_else(|| number(UNFINISHED_EXTENSION).map(Named::Unfinished))
}

/// What the checksums of a segment's records start from.
pub(super) fn seed(salt: u64, number: u64) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.finalize()
}

/// One record as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) position: u64,
    pub(super) batch_index: u32,
    /// At most [`RECORD_BYTES_MAX`].
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    pub(super) fn encode(&self, seed: u32, into: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut head = [0; FRAME_BYTES];
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..16].copy_from_slice(&self.position.to_le_bytes());
        head[16..20].copy_from_slice(&self.batch_index.to_le_bytes());
        let mut hasher = Hasher::new_with_initial(seed);
        hasher.update(&head[4..]);
        hasher.update(self.payload);
        head[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        into.extend_from_slice(&head);
        into.extend_from_slice(self.payload);
    }
}

/// What a reader found at its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A good record; [`SegmentReader::payload`] has its bytes.
    Record { position: u64, offset: u64, batch_index: u32 },
    /// The range ended exactly after a record.
    End,
    /// No good record starts at this offset.
    Bad { offset: u64 },
}

/// Where and what a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadRange {
    /// Offset of the first record.
    pub(super) from: u64,
    /// Offset after the last record.
    pub(super) end: u64,
    pub(super) first_position: u64,
    pub(super) seed: u32,
}

/// Reads the records of one segment in order, checking each.
pub(super) struct SegmentReader {
    chunks: ChunkReader,
    seed: u32,
    next_position: u64,
    next_batch_index: u32,
    /// Bytes of the record that was served last; stepped over at the next call.
    served: usize,
}

#[derive(Clone, Copy)]
struct FrameHead {
    length: usize,
    position: u64,
    batch_index: u32,
}

impl SegmentReader {
    pub(super) fn new(file: Box<dyn StoredFile>, range: ReadRange) -> Self {
        let chunks = ChunkReader::new(file, range.from, range.end);
        Self { chunks, seed: range.seed, next_position: range.first_position, next_batch_index: 0, served: 0 }
    }

    pub(super) fn next_position(&self) -> u64 {
        self.next_position
    }

    /// Goes to the next record.
    pub(super) fn advance(&mut self) -> io::Result<Step> {
        self.chunks.consume(std::mem::take(&mut self.served));
        let offset = self.chunks.offset();
        if self.chunks.remaining() == 0 {
            return Ok(Step::End);
        }
        let Some(head) = self.good_frame()? else { return Ok(Step::Bad { offset }) };
        let follows =
            head.position == self.next_position && (head.batch_index == 0 || head.batch_index == self.next_batch_index);
        if !follows {
            return Ok(Step::Bad { offset });
        }
        self.served = FRAME_BYTES + head.length;
        self.next_position += 1;
        self.next_batch_index = head.batch_index.saturating_add(1);
        Ok(Step::Record { position: head.position, offset, batch_index: head.batch_index })
    }

    /// The payload of the record that [`advance`](Self::advance) came to.
    pub(super) fn payload(&self) -> &[u8] {
        self.chunks.peeked(self.served).get(FRAME_BYTES..).unwrap_or_default()
    }

    /// After [`Step::Bad`]: whether a good record of a later batch lies behind. A batch is written only after the one before it was
    /// synced, so such a record proves that the bad one was once durable.
    pub(super) fn later_batch_follows(&mut self, bad_offset: u64) -> io::Result<bool> {
        let bad_position = self.next_position;
        self.chunks.seek(bad_offset + 1);
        while self.chunks.remaining() >= offset_of(FRAME_BYTES) {
            let most = bad_position.saturating_add(self.chunks.remaining() / offset_of(FRAME_BYTES) + 1);
            let window = self.chunks.peek(SEARCH_BYTES)?;
            let candidate = (0..window.len().saturating_sub(FRAME_BYTES - 1))
                .find(|&at| u64_at(window, at + 8).is_some_and(|position| position > bad_position && position <= most));
            let Some(at) = candidate else {
                let searched = window.len().saturating_sub(FRAME_BYTES - 1);
                if searched == 0 {
                    return Ok(false);
                }
                self.chunks.consume(searched);
                continue;
            };
            self.chunks.consume(at);
            if let Some(head) = self.good_frame()? {
                if head.position.saturating_sub(u64::from(head.batch_index)) > bad_position {
                    return Ok(true);
                }
                self.chunks.consume(FRAME_BYTES + head.length);
            } else {
                self.chunks.consume(1);
            }
        }
        Ok(false)
    }

    /// The head of the record at the current offset, if that is whole and its checksum right.
    fn good_frame(&mut self) -> io::Result<Option<FrameHead>> {
        let remaining = self.chunks.remaining();
        let Some(head) = FrameHead::decode(self.chunks.peek(FRAME_BYTES)?) else { return Ok(None) };
        let total = FRAME_BYTES + head.length;
        if offset_of(total) > remaining {
            return Ok(None);
        }
        let seed = self.seed;
        let frame = self.chunks.peek(total)?;
        let (Some(stated), Some(checked)) = (u32_at(frame, 0), frame.get(4..total)) else { return Ok(None) };
        let mut hasher = Hasher::new_with_initial(seed);
        hasher.update(checked);
        Ok((hasher.finalize() == stated).then_some(head))
    }
}

impl FrameHead {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let length = usize::try_from(u32_at(bytes, 4)?).ok()?;
        let head = Self { length, position: u64_at(bytes, 8)?, batch_index: u32_at(bytes, 16)? };
        (length <= RECORD_BYTES_MAX).then_some(head)
    }
}
