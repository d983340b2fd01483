//! **faults**: every call of the storage engine to its disk fails in turn, in every way a disk has.
//! May not: skip a call because it is unlikely to fail.
//!
//! One errand, always the same, of an engine: opened, given bursts, checkpointed, backed up, closed, opened again. It is run once in
//! health to count the calls, and then once for each call and each fault. A stall is no error: while one lasts nothing may be
//! answered and everything must be readable; how long it lasts makes no difference, since the engine has no clock.

use std::{
    collections::BTreeMap,
    panic,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use vestibule_storage::{commit::Stores, conformance::block_on};
use vestibule_storage_sled::{
    OpenError, backup,
    journal::faults::{Draw, Fault, FaultyFiles, Operation},
};

use crate::{
    engine::{self, AtCall, Fate, Geometry, Ledger, Life, judge},
    proof::{Outcome, Plant, Proof, Settings},
};

pub const PROOF: Proof = Proof {
    name: "faults",
    shows: "no failing, short, torn or stalled call to the disk makes a false answer or ends the service",
    full: 600,
    quick: 120,
    run,
    plants: &[&ANSWERED_ANYWAY],
};

static ANSWERED_ANYWAY: Plant =
    Plant { name: "answered-anyway", what: "commits whose write failed count as acknowledged", cases: 120 };

/// Every way but the stall.
const FAULTS: [Fault; 4] = Fault::ALL;
/// How long a stall lasts, so that others could go wrong meanwhile.
const STALL: Duration = Duration::from_millis(10);
/// The engine may fail to open so often when one call fails once.
const OPENINGS_MAX: u32 = 3;
/// Power losses after each errand.
const IMAGES: u64 = 2;
const GEOMETRY: Geometry = Geometry { segment_bytes: 12_000, salt: 0x5eed };

/// What happens to one call.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// The call with this number, of all.
    Fails(u64, Fault),
    /// The call with this number, of those that change something.
    Stalls(u64),
}

fn run(settings: &Settings) -> Outcome {
    let panics = Arc::new(AtomicU64::new(0));
    let before = panic::take_hook();
    let counting = Arc::clone(&panics);
    panic::set_hook(Box::new(move |_| _ = counting.fetch_add(1, Ordering::SeqCst)));
    let outcome = fail_each(settings, &panics);
    panic::set_hook(before);
    outcome
}

fn fail_each(settings: &Settings, panics: &AtomicU64) -> Outcome {
    let mut outcome = Outcome::default();
    let healthy = match errand(Trouble::None, settings) {
        Ok(done) => done,
        Err(miss) => {
            outcome.miss(format!("in health: {miss}"));
            return outcome;
        }
    };
    let mut all: Vec<Trouble> = Vec::new();
    for call in 0..healthy.calls {
        all.extend(FAULTS.map(|fault| Trouble::Fails(call, fault)));
    }
    all.extend((0..healthy.changes).map(Trouble::Stalls));
    // Fewer than all are spread over all, and begin elsewhere with each seed.
    let number = u64::try_from(all.len()).unwrap_or(u64::MAX);
    let step = if settings.cases >= PROOF.full { 1 } else { (number / settings.cases.max(1)).max(1) };
    let first = usize::try_from(settings.seed % step).unwrap_or(0);
    let chosen: Vec<Trouble> = all.into_iter().skip(first).step_by(usize::try_from(step).unwrap_or(1)).collect();
    let next = AtomicU64::new(0);
    let came_to: Mutex<BTreeMap<u64, Result<Done, String>>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(trouble) = chosen.get(usize::try_from(number).unwrap_or(usize::MAX)) else { return };
                    let seen = errand(*trouble, settings).map_err(|miss| format!("{trouble:?}: {miss}"));
                    came_to.lock().unwrap_or_else(PoisonError::into_inner).insert(number, seen);
                }
            });
        }
    });
    let (mut acknowledged, mut failed) = (0, 0);
    for seen in came_to.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
        outcome.case();
        match seen {
            Ok(done) => {
                acknowledged += done.acknowledged;
                failed += done.failed;
            }
            Err(miss) => outcome.miss(miss),
        }
    }
    let panics = panics.load(Ordering::SeqCst);
    if panics > 0 {
        outcome.miss(format!("{panics} panics"));
    }
    outcome.count("calls to the disk", healthy.calls);
    outcome.count_at_least("acknowledged commits looked for", acknowledged, settings.scaled(10_000));
    outcome.count_at_least("commits reported as failed", failed, settings.scaled(100));
    outcome
}

/// What an errand came to.
struct Done {
    calls: u64,
    changes: u64,
    acknowledged: u64,
    failed: u64,
}

fn errand(trouble: Trouble, settings: &Settings) -> Result<Done, String> {
    let place = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = place.path().join("data");
    let disk = FaultyFiles::new();
    if let Trouble::Fails(call, fault) = trouble {
        disk.fail_call(call, fault);
    }
    let changes = Arc::new(AtomicU64::new(0));
    let stores: Arc<Mutex<Option<Stores>>> = Arc::default();
    let readable = |now: Option<Stores>| *stores.lock().unwrap_or_else(PoisonError::into_inner) = now;
    let stalled_wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let stall = Stall { trouble, changes: changes.clone(), stores: stores.clone(), wrong: stalled_wrong.clone() };
    let mut life = opened_in_the_end(|| Life::begin(&dir, GEOMETRY, stall.clone().at_call(), disk.clone()))?;
    readable(Some(life.opened.stores.clone()));
    let mut draw = Draw(settings.seed);
    for round in 0..2 {
        for burst in 0..4 {
            let size = 1 + draw.below(4);
            life.burst(size, &mut draw).map_err(|error| format!("round {round}, burst {burst}: {error}"))?;
        }
        // Either may fail; what matters is what is there in the end.
        let _ = life.opened.handle.checkpoint();
        let target = PathBuf::from(format!("/backup{round}"));
        let backed_up = life.opened.handle.backup(&target, &[]);
        life.burst(2, &mut draw).map_err(|error| format!("round {round}, after the checkpoint: {error}"))?;
        if let Ok(report) = backed_up {
            let found = opened_in_the_end(|| match backup::check(&disk, &target) {
                Err(backup::BackupError::Io { source, .. }) => Err(Opening::Again(source.to_string())),
                Err(error) => Err(Opening::Never(error.to_string())),
                Ok(found) => Ok(found),
            });
            if found.map_err(|error| format!("a backup that was called good: {error}"))? != report {
                return Err("a backup is not what was said of it".to_owned());
            }
        }
        if round == 0 {
            readable(None);
            opened_in_the_end(|| life.reopen())?;
            readable(Some(life.opened.stores.clone()));
        }
    }
    // The one fault is over at the latest when this is.
    disk.heal();
    if !life.burst(2, &mut draw)? {
        return Err("it does not write again on a disk that is well".to_owned());
    }
    let calls = disk.calls();
    let mut fates = life.watch.ledger().look().to_vec();
    let entries = life.settled_entries();
    readable(None);
    life.opened.handle.close().map_err(|error| error.to_string())?;
    if let Some(wrong) = stalled_wrong.lock().unwrap_or_else(PoisonError::into_inner).first() {
        return Err(wrong.clone());
    }
    let count = |wanted: Fate| u64::try_from(fates.iter().filter(|fate| **fate == wanted).count()).unwrap_or(0);
    let done = Done {
        calls,
        changes: changes.load(Ordering::SeqCst),
        acknowledged: count(Fate::Durable),
        failed: count(Fate::NotWritten),
    };
    if settings.has(&ANSWERED_ANYWAY) {
        fates.iter_mut().filter(|fate| **fate == Fate::NotWritten).for_each(|fate| *fate = Fate::Durable);
    }
    for seed in 0..IMAGES {
        let image = disk.crash(seed);
        std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
        let opened =
            engine::open(Arc::new(image), &dir, GEOMETRY).map_err(|error| format!("after a crash: {error}"))?;
        judge(&opened, &entries, &fates, |_| false).map_err(|error| format!("after a crash: {error}"))?;
    }
    Ok(done)
}

/// Why something did not open.
pub enum Opening {
    /// The disk refused; it may be tried again.
    Again(String),
    /// It says that it never will.
    Never(String),
}

impl From<OpenError> for Opening {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io { .. } => Self::Again(error.to_string()),
            _ => Self::Never(error.to_string()),
        }
    }
}

fn opened_in_the_end<T, E: Into<Opening>>(mut open: impl FnMut() -> Result<T, E>) -> Result<T, String> {
    let mut last = String::new();
    for _ in 0..OPENINGS_MAX {
        match open().map_err(Into::into) {
            Ok(opened) => return Ok(opened),
            Err(Opening::Again(error)) => last = error,
            Err(Opening::Never(error)) => return Err(format!("it does not open for good: {error}")),
        }
    }
    Err(format!("it does not open: {last}"))
}

/// Holds one call up.
#[derive(Clone)]
struct Stall {
    trouble: Trouble,
    changes: Arc<AtomicU64>,
    stores: Arc<Mutex<Option<Stores>>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Stall {
    fn at_call(self) -> AtCall {
        Box::new(move |operation, path, ledger| {
            let number = self.changes.fetch_add(1, Ordering::SeqCst);
            if matches!(self.trouble, Trouble::Stalls(call) if call == number) {
                self.hold(operation, path, ledger);
            }
        })
    }

    fn hold(&self, operation: Operation, path: &Path, ledger: &mut Ledger) {
        let before = ledger.look().to_vec();
        thread::park_timeout(STALL);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        // While the disk stands still under the journal nothing can have become durable.
        let is_journal = path.extension().is_some_and(|extension| extension == "journal" || extension == "new");
        if is_journal && ledger.look() != before {
            wrong.push(format!("answered while {operation:?} stood still"));
        }
        // `None` while the engine is closed or being opened.
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Err(error)) = stores.map(|stores| block_on(stores.rooms.pending_knocks(None, None, 1))) {
            wrong.push(format!("not readable while {operation:?} stood still: {error}"));
        }
    }
}
