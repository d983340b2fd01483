//! The files of the journal and the checkpoints, behind one small trait.
//! May not: buffer writes, retry a failed write or sync, or know what a segment is.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes read from a file at once while scanning.
const READ_CHUNK_BYTES: usize = 256 * 1024;

/// Everything the journal asks of a file system.
///
/// Files are only ever made new, appended to by their maker, renamed, read and removed: nothing is opened for writing a second time,
/// because a file whose write or sync failed in an earlier life may hold pages that the kernel shows and the disk lacks.
pub trait JournalFiles: fmt::Debug + Send + Sync {
    /// Makes the directory and its parents if absent, durably.
    fn ensure_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes an empty file that did not exist. Its name is durable only after [`sync_dir`](Self::sync_dir).
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Opens an existing file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;
    /// Gives a file another name, replacing what had it. Durable only after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable only after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order. Names that are not UTF-8 are none of ours and left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file that its maker still writes.
pub trait NewFile: Send {
    /// Appends some bytes and says how many, which may be fewer than asked.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Makes content and length durable. After an error the state of the un-synced bytes is unknown for ever.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// A file that is read.
pub trait StoredFile: Send {
    /// Reads some bytes from an offset; 0 is the end of the file.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl JournalFiles for RealFiles {
    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.ensure_dir(parent)?;
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_dir(parent),
        }
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        // Commits hold private messages and token hashes.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

struct RealFile(File);

impl NewFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl StoredFile for RealFile {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.read(into)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Writes all bytes with as few calls as the file takes. An interrupted call wrote nothing and is made again; any other error is final.
pub(crate) fn write_whole(file: &mut dyn NewFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A length as a file offset. Lossless: no platform of ours has a `usize` wider than 64 bits.
pub(crate) fn offset_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The little-endian number at an offset, if it is there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// The little-endian number at an offset, if it is there.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// A forward reader over part of a file that lets the caller look ahead.
pub(crate) struct ChunkReader {
    file: Box<dyn StoredFile>,
    /// File offset of `buffer[0]`.
    base: u64,
    /// Nothing at or after this file offset is read.
    end: u64,
    buffer: Vec<u8>,
    consumed: usize,
}

impl ChunkReader {
    pub(crate) fn new(file: Box<dyn StoredFile>, from: u64, end: u64) -> Self {
        Self { file, base: from, end, buffer: Vec::new(), consumed: 0 }
    }

    /// File offset of the next byte that was not consumed.
    pub(crate) fn offset(&self) -> u64 {
        self.base + offset_of(self.consumed)
    }

    /// Bytes from [`offset`](Self::offset) to the end.
    pub(crate) fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.offset())
    }

    /// Goes to another offset.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.base = offset;
        self.consumed = 0;
        self.buffer.clear();
    }

    /// The next `want` bytes; fewer only where the range or the file ends.
    pub(crate) fn peek(&mut self, want: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.consumed < want {
            self.fill(want)?;
        }
        Ok(self.peeked(want))
    }

    /// What an earlier [`peek`](Self::peek) of as much brought, without reading.
    pub(crate) fn peeked(&self, want: usize) -> &[u8] {
        let available = self.buffer.get(self.consumed..).unwrap_or_default();
        available.get(..want).unwrap_or(available)
    }

    /// Steps over bytes that were peeked.
    pub(crate) fn consume(&mut self, count: usize) {
        self.consumed = self.buffer.len().min(self.consumed.saturating_add(count));
    }

    fn fill(&mut self, want: usize) -> io::Result<()> {
        self.base = self.offset();
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let room = usize::try_from(self.end.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let target = want.max(READ_CHUNK_BYTES).min(room);
        let mut filled = self.buffer.len();
        if target <= filled {
            return Ok(());
        }
        self.buffer.resize(target, 0);
        let mut result = Ok(());
        while filled < want.min(target) {
            let into = self.buffer.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(self.base + offset_of(filled), into) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.buffer.truncate(filled);
        result
    }
}
