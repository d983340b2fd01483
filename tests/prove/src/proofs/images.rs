//! **images**: the disk as a power loss leaves it, at every kind of moment, opened by the production recovery.
//! May not: call an image good because it opens, or open one twice.
//!
//! A life of the production engine runs on a disk that knows what was synced. Before calls that change the disk, images of it
//! are taken: of what was not synced each sector of 512 or 4,096 bytes and each change of a name is there or not. Some images
//! are taken while an earlier image is being opened, and some get flipped bits on top.

use std::{
    collections::BTreeMap,
    fs, io, mem,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tempfile::TempDir;
use vestibule_storage_sled::{
    OpenError,
    journal::{
        faults::{Draw, Fault, FaultyFiles, Operation},
        files::JournalFiles,
    },
};

use crate::{
    engine::{self, Entry, Fate, Geometry, Ledger, Life, WatchedFiles, Watcher, judge},
    journal_file,
    proof::{Outcome, Plant, Proof, Settings},
    seeds,
};

pub const PROOF: Proof = Proof {
    name: "images",
    shows: "what was acknowledged survives a power loss at any moment, and damage is reported and never served",
    full: 5_000,
    quick: 1_000,
    run,
    plants: &[&ANSWER_BEFORE_SYNC, &UNCHECKED_RECORDS],
};

static ANSWER_BEFORE_SYNC: Plant =
    Plant { name: "answer-before-sync", what: "commits count as acknowledged when they are written", cases: 60 };
static UNCHECKED_RECORDS: Plant =
    Plant { name: "unchecked-records", what: "flipped bits come with checksums that fit them", cases: 400 };

/// Images of one life, about.
const IMAGES_PER_LIFE: u64 = 70;
/// One image in so many gets flipped bits.
const FLIPPED_ONE_IN: u64 = 4;
/// One in so many is taken while an image is being opened.
const NESTED_ONE_IN: u64 = 6;
/// One in so many comes with the look-up store as it is at that moment.
const WITH_INDEX_ONE_IN: u64 = 12;
/// A call in so many that is a moment for images.
const MOMENT_ONE_IN: u64 = 2;

#[derive(Default)]
struct Counts {
    acknowledged: u64,
    torn: u64,
    flipped: u64,
    refused: u64,
    cut: u64,
    nested: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.torn, other.torn),
            (&mut self.flipped, other.flipped),
            (&mut self.refused, other.refused),
            (&mut self.cut, other.cut),
            (&mut self.nested, other.nested),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
    }
}

/// What one life came to.
#[derive(Default)]
struct Found {
    images: u64,
    counts: Counts,
    misses: Vec<String>,
}

fn run(settings: &Settings) -> Outcome {
    let lives = settings.cases.div_ceil(IMAGES_PER_LIFE).max(1);
    let next = AtomicU64::new(0);
    let images = AtomicU64::new(0);
    let found: Mutex<BTreeMap<u64, Found>> = Mutex::default();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    // Lives differ in length, so the last ones are as many as it takes.
                    if number >= lives && images.load(Ordering::SeqCst) >= settings.cases {
                        return;
                    }
                    let mut came_to = Found::default();
                    if let Err(miss) = live(number, settings, &mut came_to) {
                        came_to.misses.push(format!("life {number}: {miss}"));
                        // A life that cannot be lived must not be tried for ever.
                        came_to.images = came_to.images.max(1);
                    }
                    images.fetch_add(came_to.images, Ordering::SeqCst);
                    found.lock().unwrap_or_else(PoisonError::into_inner).insert(number, came_to);
                }
            });
        }
    });
    let mut outcome = Outcome::default();
    let mut counts = Counts::default();
    for came_to in found.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
        (0..came_to.images).for_each(|_| outcome.case());
        counts.add(&came_to.counts);
        came_to.misses.into_iter().for_each(|miss| outcome.miss(miss));
    }
    outcome.count_at_least("acknowledged commits looked for", counts.acknowledged, settings.scaled(100_000));
    outcome.count_at_least("torn tails cut", counts.torn, settings.scaled(250));
    outcome.count_at_least("taken while opening", counts.nested, settings.scaled(200));
    outcome.count_at_least("with flipped bits", counts.flipped, settings.scaled(750));
    outcome.count_at_least("of those refused", counts.refused, settings.scaled(250));
    outcome.count("cut and reported", counts.cut);
    outcome
}

/// The disk at a moment, and what was known then.
struct Image {
    disk: FaultyFiles,
    fates: Vec<Fate>,
    /// The look-up store of that moment; without one it is built anew.
    index: Option<TempDir>,
    is_flipped: bool,
    /// The draw by which another image is taken while this one is opened.
    nested: Option<u64>,
    label: String,
}

fn live(number: u64, settings: &Settings, came_to: &mut Found) -> Result<(), String> {
    let mut draw = seeds::draw_of_case(settings.seed, number);
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let segment_bytes = [2_000, 20_000, 200_000].get(index(draw.below(3))).copied().unwrap_or(20_000);
    let geometry = Geometry { segment_bytes, salt: draw.bits() };
    let disk = FaultyFiles::new();
    let taken: Arc<Mutex<Vec<Image>>> = Arc::default();
    let camera = Camera {
        draw: Draw(draw.bits()),
        disk: disk.clone(),
        index: dir.path().join("sled"),
        taken: Arc::clone(&taken),
        answers_before_sync: settings.has(&ANSWER_BEFORE_SYNC),
        geometry: settings.has(&UNCHECKED_RECORDS).then_some(geometry),
        calls: 0,
    };
    let begun = Life::begin(dir.path(), geometry, camera.at_call(), disk);
    let mut life = begun.map_err(|error| format!("a new engine: {error}"))?;
    let bursts = 8 + draw.below(8);
    for burst in 0..bursts {
        if draw.one_in(10) {
            let operation = if draw.one_in(3) { Operation::Write } else { Operation::SyncData };
            life.disk.fail_next(operation, Fault::ALL[index(draw.below(4)) % Fault::ALL.len()]);
        }
        let size = 1 + draw.below(10);
        life.burst(size, &mut draw).map_err(|error| format!("burst {burst}: {error}"))?;
        life.disk.heal();
        if draw.one_in(8) {
            life.opened.handle.checkpoint().map_err(|error| format!("checkpoint after burst {burst}: {error}"))?;
        }
    }
    let entries = life.settled_entries();
    life.opened.handle.close().map_err(|error| error.to_string())?;
    drop(life);
    let images = mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
    for image in images {
        look_at(image, &entries, (dir.path(), geometry), came_to);
    }
    Ok(())
}

/// Takes images.
struct Camera {
    draw: Draw,
    disk: FaultyFiles,
    index: PathBuf,
    taken: Arc<Mutex<Vec<Image>>>,
    answers_before_sync: bool,
    /// With which checksums are made to fit what was flipped; only when that fault is planted.
    geometry: Option<Geometry>,
    calls: u64,
}

impl Camera {
    fn at_call(mut self) -> engine::AtCall {
        Box::new(move |operation, path, ledger| self.take_some(operation, path, ledger))
    }

    fn take_some(&mut self, operation: Operation, path: &Path, ledger: &mut Ledger) {
        self.calls += 1;
        let mut fates = ledger.look().to_vec();
        if self.answers_before_sync && operation == Operation::SyncData {
            fates.iter_mut().filter(|fate| **fate == Fate::Waits).for_each(|fate| *fate = Fate::Durable);
        }
        if fates.is_empty() || !self.draw.one_in(MOMENT_ONE_IN) {
            return;
        }
        for _ in 0..1 + self.draw.below(2) {
            let crash = self.draw.bits();
            let disk = self.disk.crash(crash);
            let is_flipped = self.draw.one_in(FLIPPED_ONE_IN) && self.flip(&disk);
            let nested = (!is_flipped && self.draw.one_in(NESTED_ONE_IN)).then(|| self.draw.bits());
            let index = if self.draw.one_in(WITH_INDEX_ONE_IN) { copy_of(&self.index) } else { None };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let label =
                format!("call {}, before {operation:?} of {name}, crash {crash}, flipped {is_flipped}", self.calls);
            let image = Image { disk, fates: fates.clone(), index, is_flipped, nested, label };
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(image);
        }
    }

    /// Flips one to three bits of one byte of one file, and says whether the file is another then.
    fn flip(&mut self, disk: &FaultyFiles) -> bool {
        let files: Vec<(PathBuf, Vec<u8>)> = disk
            .paths()
            .into_iter()
            .filter_map(|path| Some((path.clone(), disk.content(&path).filter(|bytes| !bytes.is_empty())?)))
            .collect();
        let Some((path, before)) = files.get(index(self.draw.below(u64::try_from(files.len()).unwrap_or(1).max(1))))
        else {
            return false;
        };
        let mut bytes = before.clone();
        let at = index(self.draw.below(u64::try_from(bytes.len()).unwrap_or(1)));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= [1, 2, 0x80, 0x55, 0x41].get(index(self.draw.below(5))).copied().unwrap_or(1);
        }
        if let Some(geometry) = self.geometry {
            journal_file::fit_checksums(&mut bytes, geometry.salt);
        }
        let is_another = bytes != *before;
        disk.put(path, bytes);
        is_another
    }
}

/// Takes one image of a disk that is being opened.
struct WhileOpening {
    disk: FaultyFiles,
    state: Mutex<(Draw, Option<FaultyFiles>)>,
}

impl Watcher for WhileOpening {
    fn before(&self, _operation: Operation, _path: &Path) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The later calls too, each less often than those before it.
        if state.1.is_none() || state.0.one_in(2) {
            let crash = state.0.bits();
            state.1 = Some(self.disk.crash(crash));
        }
    }
}

fn look_at(image: Image, entries: &[Entry], (dir, geometry): (&Path, Geometry), came_to: &mut Found) {
    let Image { disk, fates, index, is_flipped, nested, label } = image;
    let mut look = |files: Arc<dyn JournalFiles>, label: &str| {
        came_to.images += 1;
        let seen = lay_out(dir, index.as_ref())
            .and_then(|()| open_and_judge(files, dir, entries, &fates, (geometry, is_flipped)));
        match seen {
            Ok(Seen::Whole { is_torn }) => came_to.counts.torn += u64::from(is_torn),
            Ok(Seen::Cut) => came_to.counts.cut += 1,
            Ok(Seen::Refused) => came_to.counts.refused += 1,
            Err(miss) => came_to.misses.push(format!("{label}: {miss}")),
        }
        came_to.counts.flipped += u64::from(is_flipped);
        let acknowledged = fates.iter().filter(|fate| **fate == Fate::Durable).count();
        came_to.counts.acknowledged += u64::try_from(acknowledged).unwrap_or(0);
    };
    let Some(seed) = nested else { return look(Arc::new(disk), &label) };
    let watcher = Arc::new(WhileOpening { disk: disk.clone(), state: Mutex::new((Draw(seed), None)) });
    look(Arc::new(WatchedFiles { disk, watcher: watcher.clone() }), &label);
    let inner = watcher.state.lock().unwrap_or_else(PoisonError::into_inner).1.take();
    if let Some(inner) = inner {
        look(Arc::new(inner), &format!("{label}, and again while opening ({seed})"));
        came_to.counts.nested += 1;
    }
}

enum Seen {
    /// Everything that was acknowledged is there.
    Whole { is_torn: bool },
    /// Damage at the very end looks like a torn tail: the last batch is gone, and the report says so.
    Cut,
    /// The engine does not open, and says why.
    Refused,
}

fn open_and_judge(
    files: Arc<dyn JournalFiles>,
    dir: &Path,
    entries: &[Entry],
    fates: &[Fate],
    (geometry, is_flipped): (Geometry, bool),
) -> Result<Seen, String> {
    let opened = match engine::open(files, dir, geometry) {
        Ok(opened) => opened,
        Err(OpenError::Damaged { .. } | OpenError::OtherServer { .. } | OpenError::NewerFormat { .. })
            if is_flipped =>
        {
            return Ok(Seen::Refused);
        }
        Err(error) => return Err(format!("it does not open: {error}")),
    };
    let is_torn = opened.report.journal.torn.is_some();
    // Bits that flip in the last batch cannot be told from a batch that was never synced, so its loss must be reported, and no other.
    let durable = fates.iter().zip(entries).filter(|(fate, _)| **fate == Fate::Durable);
    let last_batch = durable.map(|(_, entry)| entry.batch).next_back();
    let may_be_cut = |entry: &Entry| is_flipped && is_torn && Some(entry.batch) == last_batch;
    let held = judge(&opened, entries, fates, may_be_cut)?;
    let is_whole = fates.iter().zip(&held.entries).all(|(fate, is_held)| *fate != Fate::Durable || *is_held);
    Ok(if is_whole { Seen::Whole { is_torn } } else { Seen::Cut })
}

/// Puts a look-up store, or none, where the engine of a life had its own: the paths on its disk say where that is.
fn lay_out(dir: &Path, index: Option<&TempDir>) -> Result<(), String> {
    let words = |error: io::Error| format!("{}: {error}", dir.display());
    for entry in fs::read_dir(dir).map_err(words)? {
        let path = entry.map_err(words)?.path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(words)?;
    }
    index.map_or(Ok(()), |index| engine::copy_dir(index.path(), dir).map_err(words))
}

fn copy_of(index: &Path) -> Option<TempDir> {
    let dir = tempfile::tempdir().ok()?;
    engine::copy_dir(index, &dir.path().join("sled")).ok()?;
    Some(dir)
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}
