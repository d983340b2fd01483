//! The bytes of a checkpoint.
//! May not: name, rename or remove a file.
//!
//! All numbers are little-endian. Header: magic (8) · format (u32) · crc32 of those 12 bytes · header length (u32) · position (u64) ·
//! identity length (u16) · identity · crc32 of all before. Block: crc32 of what follows · length (u32) · entries, each key length (u32) ·
//! value length (u32) · key · value. Footer: magic (8) · blocks (u64) · entries (u64) · crc32 of all blocks' crc32s · crc32 of all before.
//! The crc32s of blocks and footer start from the header's, a block's also covers its number.

use std::io;

use crc32fast::Hasher;

use crate::journal::JournalPosition;
use crate::journal::files::{NewFile, offset_of, u32_at, u64_at, write_whole};
use crate::journal::segment::{IDENTITY_BYTES_MAX, RECORD_BYTES_MAX};

/// Bytes after which a block is written. Ours: one large write without holding much.
pub(super) const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes of key and value together. Ours: no entry is larger than the record that put it.
pub const ENTRY_BYTES_MAX: usize = RECORD_BYTES_MAX;
/// The format that is written, and the newest that is read.
pub(super) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"VSTBCKPT";
const FOOTER_MAGIC: [u8; 8] = *b"VSTBCEND";
const PREAMBLE_BYTES: usize = 16;
const FIXED_BYTES: usize = PREAMBLE_BYTES + 4 + 8 + 2;
const CHECKSUM_BYTES: usize = 4;
pub(super) const HEADER_BYTES_MAX: usize = FIXED_BYTES + IDENTITY_BYTES_MAX + CHECKSUM_BYTES;
pub(super) const FOOTER_BYTES: usize = 8 + 8 + 8 + 4 + 4;
pub(super) const BLOCK_HEAD_BYTES: usize = 8;
pub(super) const ENTRY_HEAD_BYTES: usize = 8;
pub(super) struct Header {
    pub(super) position: JournalPosition,
    pub(super) identity: String,
    pub(super) bytes: u64,
    /// What the checksums of this checkpoint's other parts start from.
    pub(super) seed: u32,
}

impl Header {
    fn encode(position: JournalPosition, identity: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend_from_slice(&length_field(FIXED_BYTES + identity.len() + CHECKSUM_BYTES));
        bytes.extend_from_slice(&position.0.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(identity.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(identity.as_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// The error is the format, if that is why.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Option<u32>> {
        let whole = || {
            if bytes.get(..8)? != MAGIC || u32_at(bytes, 12)? != crc32fast::hash(bytes.get(..12)?) {
                return None;
            }
            let format = u32_at(bytes, 8)?;
            if format > FORMAT {
                return Some(Err(Some(format)));
            }
            let length = usize::try_from(u32_at(bytes, PREAMBLE_BYTES)?).ok()?;
            let checked = bytes.get(..length.checked_sub(CHECKSUM_BYTES)?)?;
            let seed = u32_at(bytes, checked.len())?;
            let position = JournalPosition(u64_at(checked, PREAMBLE_BYTES + 4)?);
            let identity = std::str::from_utf8(checked.get(FIXED_BYTES..)?).ok()?.to_owned();
            (seed == crc32fast::hash(checked)).then_some(Ok(Self {
                position,
                identity,
                bytes: offset_of(length),
                seed,
            }))
        };
        whole().unwrap_or(Err(None))
    }
}

pub(super) struct Footer {
    pub(super) blocks: u64,
    pub(super) entries: u64,
    pub(super) all_blocks: u32,
}

impl Footer {
    fn encode(&self, seed: u32) -> Vec<u8> {
        let mut bytes = FOOTER_MAGIC.to_vec();
        bytes.extend_from_slice(&self.blocks.to_le_bytes());
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&self.all_blocks.to_le_bytes());
        bytes.extend_from_slice(&checksum(seed, &bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let checked = bytes.get(..FOOTER_BYTES - CHECKSUM_BYTES)?;
        let is_sound = checked.starts_with(&FOOTER_MAGIC) && u32_at(bytes, checked.len())? == checksum(seed, checked);
        is_sound.then_some(())?;
        Some(Self { blocks: u64_at(checked, 8)?, entries: u64_at(checked, 16)?, all_blocks: u32_at(checked, 24)? })
    }
}

pub(super) struct BlockWriter {
    file: Box<dyn NewFile>,
    seed: u32,
    /// The current block with room for its head.
    block: Vec<u8>,
    blocks: u64,
    pub(super) entries: u64,
    bytes: u64,
    all_blocks: Hasher,
}

impl BlockWriter {
    pub(super) fn begin(mut file: Box<dyn NewFile>, position: JournalPosition, identity: &str) -> io::Result<Self> {
        let header = Header::encode(position, identity);
        write_whole(file.as_mut(), &header)?;
        let seed = u32_at(&header, header.len() - CHECKSUM_BYTES).unwrap_or_default();
        let block = vec![0; BLOCK_HEAD_BYTES];
        Ok(Self { file, seed, block, blocks: 0, entries: 0, bytes: offset_of(header.len()), all_blocks: Hasher::new() })
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let entry_bytes = ENTRY_HEAD_BYTES + key.len() + value.len();
        if self.block.len() > BLOCK_HEAD_BYTES && self.block.len() + entry_bytes > BLOCK_BYTES {
            self.write_block()?;
        }
        self.block.extend_from_slice(&length_field(key.len()));
        self.block.extend_from_slice(&length_field(value.len()));
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.entries += 1;
        Ok(())
    }

    fn write_block(&mut self) -> io::Result<()> {
        let length = length_field(self.block.len() - BLOCK_HEAD_BYTES);
        self.block[4..BLOCK_HEAD_BYTES].copy_from_slice(&length);
        let checksum = block_checksum(self.seed, self.blocks, &self.block[4..]).to_le_bytes();
        self.block[..4].copy_from_slice(&checksum);
        self.all_blocks.update(&checksum);
        write_whole(self.file.as_mut(), &self.block)?;
        self.blocks += 1;
        self.bytes += offset_of(self.block.len());
        self.block.truncate(BLOCK_HEAD_BYTES);
        self.block.shrink_to(BLOCK_BYTES);
        Ok(())
    }

    /// Returns the number of entries and the length of the file.
    pub(super) fn finish(mut self) -> io::Result<(u64, u64)> {
        if self.block.len() > BLOCK_HEAD_BYTES {
            self.write_block()?;
        }
        let footer =
            Footer { blocks: self.blocks, entries: self.entries, all_blocks: self.all_blocks.clone().finalize() };
        let footer = footer.encode(self.seed);
        write_whole(self.file.as_mut(), &footer)?;
        self.file.sync_data()?;
        Ok((self.entries, self.bytes + offset_of(footer.len())))
    }
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

pub(super) fn block_checksum(seed: u32, number: u64, bytes: &[u8]) -> u32 {
    checksum(checksum(seed, &number.to_le_bytes()), bytes)
}

/// A length that [`ENTRY_BYTES_MAX`] or [`IDENTITY_BYTES_MAX`] keeps far below the field's end.
fn length_field(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}
