//! Reads one checkpoint from end to end.
//! May not: hold more than one block in memory, or serve a byte that was not checked.

use std::ops::Range;
use std::path::PathBuf;

use crc32fast::Hasher;

use super::error::CheckpointError;
use super::format::{
    BLOCK_HEAD_BYTES, ENTRY_HEAD_BYTES, FOOTER_BYTES, FORMAT, Footer, HEADER_BYTES_MAX, Header, block_checksum,
};
use super::{Checkpoint, Checkpoints};
use crate::journal::JournalPosition;
use crate::journal::files::{ChunkReader, offset_of, u32_at};

/// One key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Reads a checkpoint's entries in ascending order of their keys, checking every byte. Only when it has answered `None` is the whole known
/// to be sound; until then a caller builds beside what it has.
pub struct CheckpointReader {
    checkpoint: Checkpoint,
    path: PathBuf,
    chunks: ChunkReader,
    seed: u32,
    footer: Footer,
    blocks: u64,
    entries: u64,
    all_blocks: Hasher,
    /// Bytes of the current block with its head; 0 before the first.
    block_bytes: usize,
    /// Where in the current block the next entry starts.
    entry_from: usize,
    /// Where in the current block the current entry's key and value are.
    current: (Range<usize>, Range<usize>),
    last_key: Option<Vec<u8>>,
}

impl CheckpointReader {
    pub(super) fn open(
        checkpoints: &Checkpoints<'_>,
        file_name: &str,
        position: JournalPosition,
    ) -> Result<Self, CheckpointError> {
        let path = checkpoints.dir.join(file_name);
        let open = || checkpoints.files.open(&path).map_err(|source| CheckpointError::io("open", &path, source));
        let read_error = |source| CheckpointError::io("read", &path, source);
        let damaged = |offset| CheckpointError::Damaged { position, offset };

        let mut header_chunks = ChunkReader::new(open()?, 0, offset_of(HEADER_BYTES_MAX));
        let header = Header::decode(header_chunks.peek(HEADER_BYTES_MAX).map_err(read_error)?);
        let header = match header {
            Ok(header) => header,
            Err(Some(found)) => return Err(CheckpointError::NewerFormat { position, found, supported: FORMAT }),
            Err(None) => return Err(damaged(0)),
        };
        if header.identity != checkpoints.identity {
            return Err(CheckpointError::WrongIdentity {
                position,
                found: header.identity,
                expected: checkpoints.identity.to_owned(),
            });
        }
        if header.position != position {
            return Err(damaged(0));
        }
        let file = open()?;
        let bytes = file.length().map_err(read_error)?;
        let footer_offset = bytes.checked_sub(offset_of(FOOTER_BYTES)).filter(|offset| *offset >= header.bytes);
        let footer_offset = footer_offset.ok_or_else(|| damaged(bytes))?;
        let mut footer_chunks = ChunkReader::new(open()?, footer_offset, bytes);
        let footer = Footer::decode(footer_chunks.peek(FOOTER_BYTES).map_err(read_error)?, header.seed);
        let footer = footer.ok_or_else(|| damaged(footer_offset))?;
        Ok(Self {
            checkpoint: Checkpoint { position, entries: footer.entries, bytes, file_name: file_name.to_owned() },
            path,
            chunks: ChunkReader::new(file, header.bytes, footer_offset),
            seed: header.seed,
            footer,
            blocks: 0,
            entries: 0,
            all_blocks: Hasher::new(),
            block_bytes: 0,
            entry_from: 0,
            current: (0..0, 0..0),
            last_key: None,
        })
    }

    /// What is being read.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The next entry, `None` after the last.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`], [`CheckpointError::Io`]: nothing that was read may be relied on.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, CheckpointError> {
        if !self.advance()? {
            return Ok(None);
        }
        let block = self.chunks.peeked(self.block_bytes);
        let part = |range: &Range<usize>| block.get(range.clone()).unwrap_or_default();
        Ok(Some(Entry { key: part(&self.current.0), value: part(&self.current.1) }))
    }

    pub(super) fn into_checkpoint(self) -> Checkpoint {
        self.checkpoint
    }

    /// Reads to the end.
    pub(super) fn verify(mut self) -> Result<Checkpoint, CheckpointError> {
        while self.advance()? {}
        Ok(self.checkpoint)
    }

    fn advance(&mut self) -> Result<bool, CheckpointError> {
        if self.entry_from == self.block_bytes {
            self.chunks.consume(std::mem::take(&mut self.block_bytes));
            if self.chunks.remaining() == 0 {
                let is_whole = self.blocks == self.footer.blocks
                    && self.entries == self.footer.entries
                    && self.all_blocks.clone().finalize() == self.footer.all_blocks;
                self.entry_from = 0;
                return if is_whole { Ok(false) } else { Err(self.damaged()) };
            }
            self.load_block()?;
        }
        let block = self.chunks.peeked(self.block_bytes);
        let parse = || {
            let lengths = |at| usize::try_from(u32_at(block, at)?).ok();
            let key_from = self.entry_from.checked_add(ENTRY_HEAD_BYTES)?;
            let value_from = key_from.checked_add(lengths(self.entry_from)?)?;
            let end = value_from.checked_add(lengths(self.entry_from + 4)?)?;
            (end <= block.len()).then_some((key_from..value_from, value_from..end))
        };
        let current = parse().ok_or_else(|| self.damaged())?;
        let key = block.get(current.0.clone()).unwrap_or_default();
        match &mut self.last_key {
            Some(last) if last.as_slice() >= key => return Err(self.damaged()),
            Some(last) => key.clone_into(last),
            None => self.last_key = Some(key.to_vec()),
        }
        self.entry_from = current.1.end;
        self.current = current;
        self.entries += 1;
        Ok(true)
    }

    fn load_block(&mut self) -> Result<(), CheckpointError> {
        let remaining = self.chunks.remaining();
        let read_error = |source| CheckpointError::io("read", &self.path, source);
        let head = self.chunks.peek(BLOCK_HEAD_BYTES).map_err(read_error)?;
        let length = u32_at(head, 4).and_then(|length| usize::try_from(length).ok());
        let block_bytes = length.and_then(|length| length.checked_add(BLOCK_HEAD_BYTES));
        let Some(block_bytes) = block_bytes.filter(|bytes| offset_of(*bytes) <= remaining && *bytes > BLOCK_HEAD_BYTES)
        else {
            return Err(self.damaged());
        };
        let block = self.chunks.peek(block_bytes).map_err(read_error)?;
        let stated = u32_at(block, 0);
        let checksum = block_checksum(self.seed, self.blocks, block.get(4..block_bytes).unwrap_or_default());
        if stated != Some(checksum) {
            return Err(self.damaged());
        }
        self.all_blocks.update(&checksum.to_le_bytes());
        self.blocks += 1;
        self.block_bytes = block_bytes;
        self.entry_from = BLOCK_HEAD_BYTES;
        Ok(())
    }

    fn damaged(&self) -> CheckpointError {
        CheckpointError::Damaged { position: self.checkpoint.position, offset: self.chunks.offset() }
    }
}
