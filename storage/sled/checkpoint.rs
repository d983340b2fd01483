//! Checkpoints: a sorted dump of all keys and values, and the journal position it stands for.
//! May not: read the journal, remove segments, or hold more than one block in memory.
//!
//! A checkpoint is written under another name, synced, named, and the name synced; what has the final name was once whole on disk.
//!
//! The dump need not be taken at one instant. Records are physical puts and deletes, so a dump that starts when everything up to its
//! position is applied, and that catches some effects of later records, becomes right by replaying from its position to at least where
//! the journal was durable when the dump ended.

pub mod error;
pub mod format;
pub mod reader;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::path::Path;

use self::error::CheckpointError;
use self::format::{BlockWriter, ENTRY_BYTES_MAX};
use self::reader::CheckpointReader;
use crate::journal::JournalPosition;
use crate::journal::files::JournalFiles;
use crate::journal::segment::IDENTITY_BYTES_MAX;

const EXTENSION: &str = ".checkpoint";
const UNFINISHED_EXTENSION: &str = ".checkpoint.new";

/// A checkpoint on disk whose ends were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// All records up to and with this one are in it.
    pub position: JournalPosition,
    /// Keys in it.
    pub entries: u64,
    /// Length of its file.
    pub bytes: u64,
    /// Name of its file in the checkpoints' directory.
    pub file_name: String,
}

/// How thoroughly a checkpoint is looked at before it counts as valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// Header, footer and length. Enough at an ordinary start: a checkpoint was whole when it got its name.
    Ends,
    /// Every byte.
    Whole,
}

/// What the checkpoints' directory holds.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest valid one.
    pub newest: Option<Checkpoint>,
    /// Newer ones that are damaged, newest first, with what is wrong.
    pub damaged: Vec<(JournalPosition, CheckpointError)>,
    /// Half-written files that were removed.
    pub unfinished_removed: usize,
}

/// The directory of checkpoints of one server. Checkpoints and journal segments may share a directory.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints<'a> {
    pub files: &'a dyn JournalFiles,
    pub dir: &'a Path,
    /// Names the server and the data directory, as in the journal.
    pub identity: &'a str,
}

impl Checkpoints<'_> {
    /// Writes a checkpoint. `entries` come in ascending order of their keys. Durable when it returns; segments wholly below `position` may
    /// then be removed. After an error, or a crash at any moment, what was the newest checkpoint still is.
    pub fn write<K, V, E>(
        &self,
        position: JournalPosition,
        entries: impl IntoIterator<Item = Result<(K, V), E>>,
    ) -> Result<Checkpoint, CheckpointError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if self.identity.len() > IDENTITY_BYTES_MAX {
            return Err(CheckpointError::IdentityTooLong { bytes: self.identity.len() });
        }
        let unfinished = self.dir.join(file_name(position, UNFINISHED_EXTENSION));
        self.files.ensure_dir(self.dir).map_err(|source| CheckpointError::io("make directory", self.dir, source))?;
        self.remove_if_present(&unfinished)?;
        let replaces = self.list()?.0.contains(&position);
        let written = self.write_unfinished(&unfinished, position, entries).and_then(|checkpoint| {
            let finished = self.dir.join(&checkpoint.file_name);
            self.files
                .rename(&unfinished, &finished)
                .map_err(|source| CheckpointError::io("rename", &unfinished, source))?;
            self.files.sync_dir(self.dir).map_err(|source| CheckpointError::io("sync directory", self.dir, source))?;
            Ok(checkpoint)
        });
        if written.is_err() {
            // Tidying only: what a crash brings back is a half-written file, or a checkpoint that is whole and true. But a name whose sync
            // failed must not be taken for a durable one later, unless it was there before.
            let _ = self.files.remove(&unfinished);
            if !replaces {
                let _ = self.files.remove(&self.dir.join(file_name(position, EXTENSION)));
            }
        }
        written
    }

    /// Finds the newest valid checkpoint and removes half-written ones. A damaged one is passed over and reported: the journal then must
    /// reach back to an older one, which opening it tests.
    ///
    /// # Errors
    /// [`CheckpointError::NewerFormat`], [`CheckpointError::WrongIdentity`]: the directory is not ours to use. [`CheckpointError::Io`].
    pub fn find(&self, inspection: Inspection) -> Result<Found, CheckpointError> {
        self.files.ensure_dir(self.dir).map_err(|source| CheckpointError::io("make directory", self.dir, source))?;
        let mut found = Found::default();
        let (mut positions, unfinished) = self.list()?;
        for position in unfinished {
            if self.files.remove(&self.dir.join(file_name(position, UNFINISHED_EXTENSION))).is_ok() {
                found.unfinished_removed += 1;
            }
        }
        positions.sort_unstable();
        for position in positions.into_iter().rev() {
            let inspected = self.read(position).and_then(|reader| match inspection {
                Inspection::Ends => Ok(reader.into_checkpoint()),
                Inspection::Whole => reader.verify(),
            });
            match inspected {
                Ok(checkpoint) => {
                    // A process may have been killed between naming it and syncing the name.
                    self.files
                        .sync_dir(self.dir)
                        .map_err(|source| CheckpointError::io("sync directory", self.dir, source))?;
                    found.newest = Some(checkpoint);
                    break;
                }
                Err(error @ CheckpointError::Damaged { .. }) => found.damaged.push((position, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Opens a checkpoint and checks its ends.
    pub fn read(&self, position: JournalPosition) -> Result<CheckpointReader, CheckpointError> {
        CheckpointReader::open(self, &file_name(position, EXTENSION), position)
    }

    /// Removes the checkpoints older than a position, of which there is a durable checkpoint. Returns how many.
    pub fn remove_older(&self, position: JournalPosition) -> Result<usize, CheckpointError> {
        let mut removed = 0;
        for older in self.list()?.0.into_iter().filter(|older| *older < position) {
            self.remove_if_present(&self.dir.join(file_name(older, EXTENSION)))?;
            removed += 1;
        }
        if removed > 0 {
            self.files.sync_dir(self.dir).map_err(|source| CheckpointError::io("sync directory", self.dir, source))?;
        }
        Ok(removed)
    }

    fn write_unfinished<K, V, E>(
        &self,
        path: &Path,
        position: JournalPosition,
        entries: impl IntoIterator<Item = Result<(K, V), E>>,
    ) -> Result<Checkpoint, CheckpointError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let write_error = |source| CheckpointError::io("write", path, source);
        let file = self.files.create_new(path).map_err(|source| CheckpointError::io("make", path, source))?;
        let mut writer = BlockWriter::begin(file, position, self.identity).map_err(write_error)?;
        let mut last_key: Option<Vec<u8>> = None;
        for entry in entries {
            let (key, value) = entry.map_err(|source| CheckpointError::Entries { source: source.into() })?;
            let (key, value) = (key.as_ref(), value.as_ref());
            let number = writer.entries + 1;
            let bytes = key.len().saturating_add(value.len());
            if bytes > ENTRY_BYTES_MAX {
                return Err(CheckpointError::EntryTooLarge { entry: number, bytes });
            }
            match &mut last_key {
                Some(last) if last.as_slice() >= key => return Err(CheckpointError::NotSorted { entry: number }),
                Some(last) => key.clone_into(last),
                None => last_key = Some(key.to_vec()),
            }
            writer.put(key, value).map_err(write_error)?;
        }
        let (entries, bytes) = writer.finish().map_err(write_error)?;
        Ok(Checkpoint { position, entries, bytes, file_name: file_name(position, EXTENSION) })
    }

    /// The positions of the checkpoints, and of the half-written ones.
    fn list(&self) -> Result<(Vec<JournalPosition>, Vec<JournalPosition>), CheckpointError> {
        let names = self.files.list(self.dir).map_err(|source| CheckpointError::io("list", self.dir, source))?;
        let with = |extension| names.iter().filter_map(|name| parse_file_name(name, extension)).collect();
        Ok((with(EXTENSION), with(UNFINISHED_EXTENSION)))
    }

    fn remove_if_present(&self, path: &Path) -> Result<(), CheckpointError> {
        match self.files.remove(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CheckpointError::io("remove", path, source)),
            _ => Ok(()),
        }
    }
}

fn file_name(position: JournalPosition, extension: &str) -> String {
    format!("{:020}{extension}", position.0)
}

fn parse_file_name(name: &str, extension: &str) -> Option<JournalPosition> {
    let digits = name.strip_suffix(extension)?;
    let is_canonical = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_canonical { digits.parse().ok().map(JournalPosition) } else { None }
}
