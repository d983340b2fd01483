//! Copies a data directory while it is used, and puts a copy back.
//! May not: hold the writer up, or call a copy good that was not read back whole.
//!
//! A backup is the newest checkpoint, the journal after it as far as it was durable, and the files that the caller names (signing key,
//! configuration). Its manifest, written last, has the length and checksum of every file. The look-up store is not in it: it is built anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use crc32fast::Hasher;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vestibule_storage::device_keys::NEWS_PER_COMMIT_MAX;
use vestibule_storage::error::StorageError;

use crate::device_values::DeviceListValue;
use crate::draft::NEWS_IDS_AHEAD;
use crate::fields::StoredForm;
use crate::index::{Index, IndexError};
use crate::journal::JournalPosition;
use crate::journal::files::{ChunkReader, JournalFiles, offset_of, write_whole};
use crate::keys::{Key, Table};
use crate::migrations::{self, FORMAT, write_file};
use crate::opening::{Found, JOURNAL_DIR, Places, catch_up, index_error};
use crate::values::CounterValue;
use crate::{Handle, OpenError, Options, Promised, lock, record};

/// The format of backups that is written, and the newest that is read.
const BACKUP_FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const UNFINISHED_MANIFEST: &str = "manifest.json.new";
/// Where in a backup the caller's files are. Checkpoint and journal are where they are in the data directory.
const EXTRA_DIR: &str = "files";
/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Rows that one journal record changes after a restore.
const CHANGED_TOGETHER: usize = 10_000;
/// By how much ids of news of device lists jump with a restore: by those of so many commits after the backup began that none of them
/// can come again. Ours: 2^32 commits are more than a year of 100 each second, and leave room for thousands of restores below the
/// largest number that canonical JSON allows.
const NEWS_IDS_JUMP: u64 = NEWS_PER_COMMIT_MAX << 32;
/// Bytes of a manifest. Ours: a line for each of some thousand files.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A small file that goes into a backup beside the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    /// Its name, without directories.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// Whose data it is.
    pub server_name: OwnedServerName,
    /// The newest commit in it.
    pub position: JournalPosition,
    /// Files, without the manifest.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no backup, or why it was not put back.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The engine is closed.
    #[error("storage is closed")]
    Closed,
    /// The target holds something already. Nothing was changed.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// Which directory.
        path: PathBuf,
    },
    /// The name of an extra file leads somewhere else. Nothing was changed.
    #[error("{name:?} is no plain file name")]
    BadName {
        /// The name.
        name: String,
    },
    /// The backup is not whole: it was cut short, or a file is not what it was.
    #[error("the backup is damaged: {what}")]
    Damaged {
        /// Which file.
        what: String,
    },
    /// The backup was made by a newer Vestibule.
    #[error("the backup has format {found}, newer than {supported}")]
    NewerFormat {
        /// Its format.
        found: u32,
        /// The newest that is understood.
        supported: u32,
    },
    /// The backup is of another server.
    #[error("the backup is of {found}, not of {expected}")]
    OtherServer {
        /// Whose it is.
        found: OwnedServerName,
        /// Who asked.
        expected: OwnedServerName,
    },
    /// The target cannot be locked or prepared.
    #[error("the data directory cannot be used")]
    Target(#[source] OpenError),
    /// The file system refused. What was copied so far has no manifest, so it is no backup.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { operation, path, source }
}

#[derive(Debug, Deserialize, Serialize)]
struct Manifest {
    backup_format: u32,
    data_format: u32,
    server_name: OwnedServerName,
    position: u64,
    /// By path inside the backup.
    files: BTreeMap<String, FileSum>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct FileSum {
    bytes: u64,
    crc32: u32,
}

impl Handle {
    /// Copies everything that is durable now into `target`, which must be empty or absent. The server goes on meanwhile. Blocks.
    ///
    /// # Errors
    /// [`BackupError`]; without a manifest what is in `target` is no backup.
    pub fn backup(&self, target: &Path, extra: &[ExtraFile]) -> Result<BackupReport, BackupError> {
        let (from, files) = (self.places.journal_dir(), self.places.files.as_ref());
        for file in extra {
            refuse_bad_name(&file.name)?;
        }
        refuse_content(files, target)?;
        let (journal_dir, extra_dir) = (target.join(JOURNAL_DIR), target.join(EXTRA_DIR));
        for dir in [target, &journal_dir, &extra_dir] {
            files.ensure_dir(dir).map_err(io_error("make", dir))?;
        }
        // Held until all is copied.
        let (pinned, _kept) = self.pin(None).ok_or(BackupError::Closed)?;
        let server_name = ServerName::parse(&self.places.identity)
            .map_err(|_| BackupError::Damaged { what: "the server's name".to_owned() })?;
        let mut sums = BTreeMap::new();
        let checkpoint = pinned.checkpoint.map(|checkpoint| (checkpoint.file_name, checkpoint.bytes));
        let segments = pinned.extents.into_iter().map(|extent| (extent.file_name, extent.bytes));
        for (name, bytes) in checkpoint.into_iter().chain(segments) {
            let sum = copy(files, &from.join(&name), &journal_dir.join(&name), bytes)?;
            sums.insert(format!("{JOURNAL_DIR}/{name}"), sum);
        }
        for file in extra {
            let path = extra_dir.join(&file.name);
            let written = write_new(files, &path, &file.content);
            written.map_err(io_error("write", &path))?;
            let sum = FileSum { bytes: offset_of(file.content.len()), crc32: crc32fast::hash(&file.content) };
            sums.insert(format!("{EXTRA_DIR}/{}", file.name), sum);
        }
        for dir in [&journal_dir, &extra_dir] {
            files.sync_dir(dir).map_err(io_error("sync", dir))?;
        }
        let manifest = Manifest {
            backup_format: BACKUP_FORMAT,
            data_format: FORMAT,
            server_name,
            position: pinned.durable.0,
            files: sums,
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from);
        let written = text.and_then(|text| write_file(files, target, UNFINISHED_MANIFEST, MANIFEST, &text));
        written.map_err(io_error("write a manifest in", target))?;
        Ok(report(manifest))
    }
}

/// Reads a backup to its last byte.
///
/// # Errors
/// [`BackupError::Damaged`] and others: it cannot be relied on.
pub fn check(files: &dyn JournalFiles, backup: &Path) -> Result<BackupReport, BackupError> {
    let manifest = read_manifest(files, backup)?;
    for (name, sum) in &manifest.files {
        let path = backup.join(inside(name)?);
        if summed(files, &path, sum.bytes, |_| Ok(()))? != *sum {
            return Err(BackupError::Damaged { what: name.clone() });
        }
    }
    Ok(report(manifest))
}

/// Puts a backup into a data directory in which nothing is stored. The caller's files are put beside the data, unless a file of that name
/// is there. Signs nothing. One-time keys do not come back: some were given out after the backup began, and none may be given out twice.
/// For the same reason the ids of news that other servers hear jump ahead.
///
/// # Errors
/// [`BackupError`]; without the format file, which is written last, nothing can be opened there.
pub fn restore(options: &Options, backup: &Path) -> Result<BackupReport, BackupError> {
    let (files, data_dir, server_name) = (options.files.as_ref(), options.dir.as_path(), &options.server_name);
    let manifest = read_manifest(files, backup)?;
    if manifest.server_name != *server_name {
        return Err(BackupError::OtherServer { found: manifest.server_name, expected: server_name.clone() });
    }
    check(files, backup)?;
    let _locked = lock(data_dir, files).map_err(BackupError::Target)?;
    let journal_dir = data_dir.join(JOURNAL_DIR);
    refuse_content(files, &journal_dir)?;
    if migrations::examine(files, data_dir, server_name).map_err(BackupError::Target)? == migrations::Origin::Known {
        return Err(BackupError::NotEmpty { path: data_dir.to_owned() });
    }
    files.ensure_dir(&journal_dir).map_err(io_error("make", &journal_dir))?;
    for (name, sum) in &manifest.files {
        let relative = inside(name)?;
        let from = backup.join(&relative);
        let to = match relative.strip_prefix(EXTRA_DIR) {
            Ok(extra) => data_dir.join(extra),
            Err(_) => data_dir.join(&relative),
        };
        if relative.starts_with(EXTRA_DIR) && files.open(&to).is_ok() {
            continue;
        }
        if copy(files, &from, &to, sum.bytes)? != *sum {
            return Err(BackupError::Damaged { what: name.clone() });
        }
    }
    for dir in [journal_dir.as_path(), data_dir] {
        files.sync_dir(dir).map_err(io_error("sync", dir))?;
    }
    take_back(options)?;
    migrations::establish(files, data_dir, server_name).map_err(BackupError::Target)?;
    Ok(report(manifest))
}

/// Takes back what must not happen twice after the backup began: one-time keys, which were given out since, and the ids of news of
/// device lists, which other servers have seen since. The devices bring new keys once they hear that there are none; and the next news
/// of a list follows upon an id that nobody has seen, so that whoever hears of it asks for the whole list.
fn take_back(options: &Options) -> Result<(), BackupError> {
    let places = Places::of(options);
    let promised = Promised::open(&places, options, JournalPosition(0)).map_err(BackupError::Target)?;
    let (mut journal, checkpoint) = (promised.journal, promised.checkpoint.map(|checkpoint| checkpoint.position));
    let found = Found::Unusable { why: "restored".to_owned() };
    let (index, _) = catch_up(&places, found, &journal, checkpoint).map_err(BackupError::Target)?;
    let rows = changes_that_take_back(&index).map_err(|error| BackupError::Target(index_error(error)))?;
    let journal_dir = places.journal_dir();
    for chunk in rows.chunks(CHANGED_TOGETHER) {
        let written = journal.append(&record::encode(&chunk.iter().cloned().collect())).map_err(io::Error::other);
        let synced = written.and_then(|_| journal.sync().map_err(io::Error::other));
        synced.map_err(io_error("write the journal in", &journal_dir))?;
    }
    let sealed = journal.rotate().map_err(io::Error::other);
    sealed.map(|_| ()).map_err(io_error("seal the journal in", &journal_dir))
}

/// A key and what is put there; `None` deletes it.
type Change = (Vec<u8>, Option<Vec<u8>>);

fn changes_that_take_back(index: &Index) -> Result<Vec<Change>, IndexError> {
    let damaged = |error: StorageError| IndexError::new(error.to_string());
    let ahead = Key::of(Table::Counter).last(NEWS_IDS_AHEAD);
    let so_far: Option<CounterValue> = index.value(&ahead).map_err(damaged)?;
    let jumped = CounterValue(so_far.map_or(0, |so_far| so_far.0).saturating_add(NEWS_IDS_JUMP));
    let mut changes = vec![(ahead.into_bytes(), Some(jumped.to_bytes()))];
    for entry in index.under(&Key::of(Table::DeviceList)) {
        let (key, bytes) = entry?;
        let list = DeviceListValue::from_bytes(&bytes).map_err(damaged)?;
        if let Some(stream_id) = list.stream_id {
            let list = DeviceListValue { stream_id: Some(stream_id.saturating_add(NEWS_IDS_JUMP)), ..list };
            changes.push((key.to_vec(), Some(list.to_bytes())));
        }
    }
    for entry in index.under(&Key::of(Table::OneTimeKey)) {
        changes.push((entry?.0.to_vec(), None));
    }
    Ok(changes)
}

fn report(manifest: Manifest) -> BackupReport {
    BackupReport {
        position: JournalPosition(manifest.position),
        files: manifest.files.len(),
        bytes: manifest.files.values().map(|sum| sum.bytes).sum(),
        server_name: manifest.server_name,
    }
}

fn read_manifest(files: &dyn JournalFiles, backup: &Path) -> Result<Manifest, BackupError> {
    let path = backup.join(MANIFEST);
    let damaged = || BackupError::Damaged { what: MANIFEST.to_owned() };
    let file = match files.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
        opened => opened.map_err(io_error("open", &path))?,
    };
    let mut chunks = ChunkReader::new(file, 0, u64::MAX);
    let bytes = chunks.peek(MANIFEST_BYTES_MAX).map_err(io_error("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|_| damaged())?;
    for (found, supported) in [(manifest.backup_format, BACKUP_FORMAT), (manifest.data_format, FORMAT)] {
        if found > supported {
            return Err(BackupError::NewerFormat { found, supported });
        }
    }
    Ok(manifest)
}

/// A path from a manifest, which must stay inside the backup.
fn inside(name: &str) -> Result<PathBuf, BackupError> {
    let path = PathBuf::from(name);
    let is_plain = path.components().count() == 2
        && path.components().all(|component| matches!(component, Component::Normal(_)))
        && (path.starts_with(JOURNAL_DIR) || path.starts_with(EXTRA_DIR));
    if is_plain { Ok(path) } else { Err(BackupError::Damaged { what: name.to_owned() }) }
}

/// An extra file comes back beside the data, so it must not take the name of anything that is there.
fn refuse_bad_name(name: &str) -> Result<(), BackupError> {
    let mut components = Path::new(name).components();
    let is_plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if is_plain && !name.contains('/') && !Places::is_ours(name) {
        return Ok(());
    }
    Err(BackupError::BadName { name: name.to_owned() })
}

fn refuse_content(files: &dyn JournalFiles, dir: &Path) -> Result<(), BackupError> {
    match files.list(dir) {
        Ok(names) if names.is_empty() => Ok(()),
        Ok(_) => Err(BackupError::NotEmpty { path: dir.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("list", dir)(error)),
    }
}

/// Copies the first bytes of a file into a new one, and syncs it.
fn copy(files: &dyn JournalFiles, from: &Path, to: &Path, bytes: u64) -> Result<FileSum, BackupError> {
    let mut target = files.create_new(to).map_err(io_error("make", to))?;
    let sum = summed(files, from, bytes, |chunk| write_whole(target.as_mut(), chunk).map_err(io_error("write", to)))?;
    target.sync_data().map_err(io_error("sync", to))?;
    if sum.bytes != bytes {
        return Err(BackupError::Damaged { what: from.display().to_string() });
    }
    Ok(sum)
}

/// Reads the first bytes of a file, and hands them on piece by piece.
fn summed(
    files: &dyn JournalFiles,
    path: &Path,
    bytes: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<FileSum, BackupError> {
    let file = match files.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::Damaged { what: path.display().to_string() });
        }
        opened => opened.map_err(io_error("open", path))?,
    };
    let mut chunks = ChunkReader::new(file, 0, bytes);
    let mut hasher = Hasher::new();
    let mut read = 0;
    loop {
        let chunk = chunks.peek(CHUNK_BYTES).map_err(io_error("read", path))?;
        let length = chunk.len();
        if length == 0 {
            return Ok(FileSum { bytes: read, crc32: hasher.finalize() });
        }
        hasher.update(chunk);
        take(chunk)?;
        read += offset_of(length);
        chunks.consume(length);
    }
}

fn write_new(files: &dyn JournalFiles, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = files.create_new(path)?;
    write_whole(file.as_mut(), content)?;
    file.sync_data()
}
