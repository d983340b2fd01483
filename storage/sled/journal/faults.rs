//! A file system in memory that knows what is on the disk and what only in the page cache, and fails on demand.
//! May not: be kinder than a disk. What was not synced may be gone, and after a failed sync it is never known to be there again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{JournalFiles, NewFile, StoredFile, offset_of};

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    CreateNew,
    Open,
    Read,
    Write,
    SyncData,
    Rename,
    Remove,
    List,
    SyncDir,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error and nothing was done.
    Io,
    /// The device is full and nothing was done.
    NoSpace,
    /// A read or write does half and says so; any other call reports a device error.
    Short,
    /// A write does half and reports a device error, as does any other call.
    Torn,
}

impl Fault {
    /// Every kind, for tests that try them all.
    pub const ALL: [Self; 4] = [Self::Io, Self::NoSpace, Self::Short, Self::Torn];

    fn error(self) -> io::Error {
        match self {
            Self::NoSpace => io::Error::new(io::ErrorKind::StorageFull, "injected: no space left on device"),
            Self::Io | Self::Short | Self::Torn => io::Error::other("injected: input/output error"),
        }
    }
}

/// The file system. Clones share it, so a journal that is dropped and opened again on a clone is a process that was killed; a power loss is
/// [`crash`](Self::crash).
#[derive(Clone, Debug, Default)]
pub struct FaultyFiles {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Vec<Content>,
    /// The names as the kernel shows them.
    names: BTreeMap<PathBuf, usize>,
    /// Every change of names since the beginning, in order.
    name_changes: Vec<(NameChange, Certainty)>,
    calls: u64,
    trace: Vec<(Operation, PathBuf)>,
    planned: BTreeMap<u64, Fault>,
    planned_for_operation: BTreeMap<Operation, Fault>,
    lasting: Option<Fault>,
}

/// Whether something survives a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    Synced,
    /// A later sync will make it certain.
    Cached,
    /// Its sync failed: it may be there or not, and no later sync tells.
    Doubtful,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NameChange {
    Linked { path: PathBuf, file: usize },
    Moved { from: PathBuf, to: PathBuf, file: usize },
    Removed { path: PathBuf },
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// What readers see.
    shown: Vec<u8>,
    /// What is certainly on the disk.
    base: Vec<u8>,
    /// Writes on top of `base`, in order.
    writes: Vec<(Write, Certainty)>,
}

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

impl FaultyFiles {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls made so far; the next one has this number.
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Calls made so far, in order.
    pub fn trace(&self) -> Vec<(Operation, PathBuf)> {
        self.disk().trace.clone()
    }

    /// Lets the call with this number fail.
    pub fn fail_call(&self, number: u64, fault: Fault) {
        self.disk().planned.insert(number, fault);
    }

    /// Lets the next call of a kind fail, once.
    pub fn fail_next(&self, operation: Operation, fault: Fault) {
        self.disk().planned_for_operation.insert(operation, fault);
    }

    /// Lets every call that changes something fail from now on; `None` ends it.
    pub fn fail_changes(&self, fault: Option<Fault>) {
        self.disk().lasting = fault;
    }

    /// Takes back every planned fault.
    pub fn heal(&self) {
        let mut disk = self.disk();
        disk.planned.clear();
        disk.planned_for_operation.clear();
        disk.lasting = None;
    }

    /// The disk after a power loss: what was synced is there; of the rest, the seed decides for each name and each sector of 512 or 4,096
    /// bytes whether it is. The image has no faults and no page cache.
    pub fn crash(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut draw = Draw(seed);
        let files: Vec<Content> =
            disk.files.iter().map(|content| Content::on_disk(content.after_crash(&mut draw))).collect();
        let mut names = BTreeMap::new();
        let survival = Survival::draw(&mut draw);
        for (change, certainty) in &disk.name_changes {
            if *certainty == Certainty::Synced || survival.keeps(&mut draw) {
                change.apply(&mut names);
            }
        }
        let name_changes = names
            .iter()
            .map(|(path, file)| (NameChange::Linked { path: path.clone(), file: *file }, Certainty::Synced))
            .collect();
        Self { disk: Arc::new(Mutex::new(Disk { files, names, name_changes, ..Disk::default() })) }
    }

    /// A copy of the disk as the kernel shows it, all of it durable.
    pub fn copy(&self) -> Self {
        let disk = self.disk();
        let files = disk.files.iter().map(|content| Content::on_disk(content.shown.clone())).collect();
        let name_changes = disk.name_changes.iter().map(|(change, _)| (change.clone(), Certainty::Synced)).collect();
        Self { disk: Arc::new(Mutex::new(Disk { files, names: disk.names.clone(), name_changes, ..Disk::default() })) }
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    /// What readers of a file see; `None` if there is none.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names.get(path).and_then(|file| disk.files.get(*file)).map(|content| content.shown.clone())
    }

    /// Puts a file on the disk, durably, in place of what had the name.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let file = disk.files.len();
        disk.files.push(Content::on_disk(bytes));
        disk.change_name(NameChange::Linked { path: path.to_owned(), file }, Certainty::Synced);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalFiles for FaultyFiles {
    // Directories are as durable as a server's data directory is when the journal gets it.
    fn ensure_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut disk = self.disk();
        disk.call(Operation::CreateNew, path)?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = disk.files.len();
        disk.files.push(Content::default());
        disk.change_name(NameChange::Linked { path: path.to_owned(), file }, Certainty::Cached);
        Ok(Box::new(FaultyFile { disk: Arc::clone(&self.disk), path: path.to_owned(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        let mut disk = self.disk();
        disk.call(Operation::Open, path)?;
        let file = disk.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FaultyFile { disk: Arc::clone(&self.disk), path: path.to_owned(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Operation::Rename, from)?;
        let file = disk.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        disk.change_name(NameChange::Moved { from: from.to_owned(), to: to.to_owned(), file }, Certainty::Cached);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Operation::Remove, path)?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Removed { path: path.to_owned() }, Certainty::Cached);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.call(Operation::List, dir)?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let outcome = disk.call(Operation::SyncDir, dir);
        let certainty = if outcome.is_ok() { Certainty::Synced } else { Certainty::Doubtful };
        for (change, known) in &mut disk.name_changes {
            if *known == Certainty::Cached && change.directory() == Some(dir) {
                *known = certainty;
            }
        }
        outcome.map(|_| ())
    }
}

/// An open file; it stays usable when its name changes or goes, as on Unix.
struct FaultyFile {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    file: usize,
}

impl FaultyFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NewFile for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
        let (written, answer) = match disk.take_fault(Operation::Write, &self.path) {
            None => (bytes, Ok(bytes.len())),
            // One byte at least: a write of nothing is another thing than a short write.
            Some(Fault::Short) if half.is_empty() => (bytes, Ok(bytes.len())),
            Some(Fault::Short) => (half, Ok(half.len())),
            Some(Fault::Torn) => (half, Err(Fault::Torn.error())),
            Some(fault) => (&[][..], Err(fault.error())),
        };
        if let Some(content) = disk.files.get_mut(self.file) {
            content.append(written);
        }
        answer
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        let outcome = disk.call(Operation::SyncData, &self.path);
        if let Some(content) = disk.files.get_mut(self.file) {
            content.sync(if outcome.is_ok() { Certainty::Synced } else { Certainty::Doubtful });
        }
        outcome
    }
}

impl StoredFile for FaultyFile {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        let fault = disk.take_fault(Operation::Read, &self.path);
        let shown = disk.files.get(self.file).map(|content| content.shown.as_slice()).unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(shown.len());
        let available = shown.get(start..).unwrap_or_default();
        let count = available.len().min(into.len());
        let count = match fault {
            None => count,
            Some(Fault::Short) => count.div_ceil(2),
            Some(fault) => return Err(fault.error()),
        };
        if let (Some(into), Some(from)) = (into.get_mut(..count), available.get(..count)) {
            into.copy_from_slice(from);
        }
        Ok(count)
    }

    fn length(&self) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.files.get(self.file).map_or(0, |content| offset_of(content.shown.len())))
    }
}

impl Disk {
    fn call(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.take_fault(operation, path).map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn take_fault(&mut self, operation: Operation, path: &Path) -> Option<Fault> {
        let number = self.calls;
        self.calls += 1;
        self.trace.push((operation, path.to_owned()));
        let changes = !matches!(operation, Operation::Open | Operation::Read | Operation::List);
        let planned = self.planned.remove(&number).or_else(|| self.planned_for_operation.remove(&operation));
        planned.or(self.lasting.filter(|_| changes))
    }

    fn change_name(&mut self, change: NameChange, certainty: Certainty) {
        change.apply(&mut self.names);
        self.name_changes.push((change, certainty));
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Linked { path, file } => {
                names.insert(path.clone(), *file);
            }
            Self::Moved { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Removed { path } => {
                names.remove(path);
            }
        }
    }

    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Linked { path, .. } | Self::Removed { path } => path.parent(),
            Self::Moved { to, .. } => to.parent(),
        }
    }
}

impl Content {
    fn on_disk(bytes: Vec<u8>) -> Self {
        Self { shown: bytes.clone(), base: bytes, writes: Vec::new() }
    }

    fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.writes.push((Write { offset: self.shown.len(), bytes: bytes.to_vec() }, Certainty::Cached));
            self.shown.extend_from_slice(bytes);
        }
    }

    fn sync(&mut self, certainty: Certainty) {
        for (_, known) in &mut self.writes {
            if *known == Certainty::Cached {
                *known = certainty;
            }
        }
        let synced = self.writes.iter().take_while(|(_, known)| *known == Certainty::Synced).count();
        for (write, _) in self.writes.drain(..synced) {
            put(&mut self.base, write.offset, &write.bytes);
        }
    }

    fn after_crash(&self, draw: &mut Draw) -> Vec<u8> {
        let mut image = self.base.clone();
        let survival = Survival::draw(draw);
        let sector_bytes = if draw.one_in(2) { 512 } else { 4096 };
        // The length is metadata and may reach the disk before the data does; the gap reads as zeros.
        let length_survives = draw.one_in(4);
        for (write, certainty) in &self.writes {
            let whole = *certainty == Certainty::Synced;
            for (offset, bytes) in sectors(write, sector_bytes) {
                if whole || survival.keeps(draw) {
                    put(&mut image, offset, bytes);
                } else if length_survives && image.len() < offset + bytes.len() {
                    image.resize(offset + bytes.len(), 0);
                }
            }
        }
        image
    }
}

/// The parts of a write that reach the disk whole or not at all.
fn sectors(write: &Write, sector_bytes: usize) -> Vec<(usize, &[u8])> {
    let end = write.offset + write.bytes.len();
    let boundaries = (write.offset.next_multiple_of(sector_bytes)..end).step_by(sector_bytes);
    let starts: BTreeSet<usize> = boundaries.chain([write.offset]).collect();
    let ends = starts.iter().copied().skip(1).chain([end]);
    let ranges = starts.iter().copied().zip(ends);
    ranges.filter_map(|(from, to)| Some((from, write.bytes.get(from - write.offset..to - write.offset)?))).collect()
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(place) = image.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

/// How much of what was not synced survives: a whole image tends to one side, so that the extremes are common.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    Everything,
    Some { one_in: u64 },
    Most { all_but_one_in: u64 },
}

impl Survival {
    fn draw(draw: &mut Draw) -> Self {
        match draw.below(6) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Some { one_in: 2 + draw.below(4) },
            _ => Self::Most { all_but_one_in: 2 + draw.below(6) },
        }
    }

    fn keeps(self, draw: &mut Draw) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some { one_in } => draw.one_in(one_in),
            Self::Most { all_but_one_in } => !draw.one_in(all_but_one_in),
        }
    }
}

/// Numbers drawn from a seed (splitmix64), the same on every machine.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits().checked_rem(bound).unwrap_or(0)
    }

    /// True once in so many draws.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}
