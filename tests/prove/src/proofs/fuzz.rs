//! **fuzz**: what strangers and disks can hand us, put before its reader a million times: no panic, no second reading, no
//! input that takes long or much memory.
//! May not: be guided by what earlier inputs did, so that each case can be had again alone.
//!
//! A target is a reader of ours with a rule for what it may take. A case is one 64-bit number, from which an input is drawn:
//! a valid one, changed in its structure or in its bytes or not at all. Wherever the rule can be told a second time, it is told
//! in the target, from the specification, and the two must agree; what is taken must be the same when it is written and read
//! again. `cargo xtask fuzz TARGET CASE` puts one case before its target again.
//!
//! *Time and memory.* Each input is judged within [`JUDGED_WITHIN`], the second reading and the writing included, on a stack
//! of 2 MiB. What it allocates is counted on its thread by the allocator of the crate `allocation-counter`; more than
//! [`BYTES_MAX`] at one time is a miss. Inputs have up to [`drawing::BYTES_MAX`] bytes: the caps of larger bodies stand before
//! these readers, and are not theirs.
//!
//! *Why our own driver.* Inputs come from the seed of the run, on the stable toolchain, tens of thousands a second, and a case
//! is had again by its number. proptest, which unit tests here use, keeps for each value what it takes to shrink it; bolero and
//! cargo-fuzz add guidance by coverage, for which they need commands and a compiler that CI does not have. Whoever wants that
//! puts their bytes and a number into a target's `judge`.

mod drawing;
mod json;
mod targets;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use self::{drawing::Input, targets::TARGETS};
use crate::{
    proof::{Outcome, Plant, Proof, Scale, Settings},
    seeds,
};

/// Source: SECURITY G10.
const JUDGED_WITHIN: Duration = Duration::from_secs(1);

/// Bytes that judging one input may allocate at one time. Source: SECURITY G10.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Times that a slow input is judged again before it counts as slow: other programs run on the machine too.
const JUDGED_AGAIN: u32 = 2;

/// Misses after which a thread gives a target up.
const MISSES_MAX: usize = 20;

/// Cases that a thread takes at once.
const CASES_AT_ONCE: u64 = 256;

/// A target in which not one input in so many is taken, or is refused, shows little.
const EITHER_ONE_IN: u64 = 25;

/// Characters of an input that a miss shows.
const SHOWN_MAX: usize = 600;

pub const PROOF: Proof = Proof {
    name: "fuzz",
    shows: "what strangers and disks hand us is refused or has one reading, without a panic, in little time and memory",
    full: targets::CASES,
    quick: targets::CASES.div_ceil(5),
    run,
    plants: targets::PLANTS,
};

/// A reader of ours, and what it may do with an input.
trait Target: Sync {
    /// An input that may be valid.
    fn draw(&self, random: &mut StdRng) -> Input;

    /// Puts an input before the reader.
    ///
    /// # Errors
    /// What is not as promised.
    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String>;
}

/// What a reader did with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
}

impl From<bool> for Verdict {
    fn from(is_taken: bool) -> Self {
        if is_taken { Self::Taken } else { Self::Refused }
    }
}

/// A target as the list has it.
struct Entry {
    name: &'static str,
    /// Cases of a full run.
    cases: u64,
    /// Makes its seeds.
    make: fn() -> Result<Box<dyn Target>, String>,
    /// Faults that can be planted at its border.
    plants: &'static [&'static Plant],
}

fn run(settings: &Settings) -> Outcome {
    Outcome::of(settings, |settings, outcome| {
        let (mut slowest, mut bytes_max, mut both_ways) = (Duration::ZERO, 0, 0);
        for (number, entry) in (0_u64..).zip(TARGETS) {
            let is_planted = entry.plants.iter().any(|plant| settings.has(plant));
            let wanted = if is_planted { settings.cases } else { settings.scaled(entry.cases) };
            // One is enough to find what was planted.
            let cases = Cases {
                seed: seeds::mixed(settings.seed, number),
                wanted,
                misses_max: if is_planted { 1 } else { MISSES_MAX },
            };
            let target = (entry.make)().map_err(|error| format!("{}: no target: {error}", entry.name))?;
            let begun = Instant::now();
            let came_to = put_before(entry, &*target, settings, &cases);
            if wanted > 0 {
                let (taken, refused, seconds) = (came_to.taken, came_to.refused, begun.elapsed().as_secs_f64());
                eprintln!("    {}: {taken} taken, {refused} refused, {seconds:.1} s", entry.name);
            }
            (0..came_to.taken.saturating_add(came_to.refused)).for_each(|_| outcome.case());
            outcome.count_at_least(entry.name, came_to.taken.saturating_add(came_to.refused), wanted);
            let few = wanted / EITHER_ONE_IN;
            both_ways += u64::from(came_to.taken >= few && came_to.refused >= few);
            slowest = slowest.max(came_to.slowest);
            bytes_max = bytes_max.max(came_to.bytes_max);
            came_to.misses.into_iter().for_each(|miss| outcome.miss(miss));
        }
        let targets = u64::try_from(TARGETS.len()).unwrap_or(u64::MAX);
        // All of them in every run but those with a planted fault.
        let floor = targets * settings.scaled(1);
        outcome.count_at_least("targets that took and refused one input in 25", both_ways, floor);
        outcome.count("µs for the slowest input", u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX));
        outcome.count("KiB allocated at most", bytes_max / 1024);
        Ok(())
    })
}

/// Which cases a target is put before.
struct Cases {
    seed: u64,
    wanted: u64,
    /// Misses after which a thread gives up.
    misses_max: usize,
}

/// What the cases of one target came to.
#[derive(Default)]
struct CameTo {
    taken: u64,
    refused: u64,
    slowest: Duration,
    bytes_max: u64,
    misses: Vec<String>,
}

fn put_before(entry: &Entry, target: &dyn Target, settings: &Settings, cases: &Cases) -> CameTo {
    let next = AtomicU64::new(0);
    let all: Mutex<CameTo> = Mutex::default();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut own = CameTo::default();
                loop {
                    let from = next.fetch_add(CASES_AT_ONCE, Ordering::Relaxed);
                    if from >= cases.wanted || own.misses.len() >= cases.misses_max {
                        break;
                    }
                    for number in from..cases.wanted.min(from.saturating_add(CASES_AT_ONCE)) {
                        own.add(entry, seeds::mixed(cases.seed, number), target, settings);
                        if own.misses.len() >= cases.misses_max {
                            break;
                        }
                    }
                }
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.taken = all.taken.saturating_add(own.taken);
                all.refused = all.refused.saturating_add(own.refused);
                all.slowest = all.slowest.max(own.slowest);
                all.bytes_max = all.bytes_max.max(own.bytes_max);
                all.misses.append(&mut own.misses);
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl CameTo {
    fn add(&mut self, entry: &Entry, case: u64, target: &dyn Target, settings: &Settings) {
        let input = target.draw(&mut StdRng::seed_from_u64(case));
        let judged = judge(target, &input, settings);
        match &judged.verdict {
            Ok(Verdict::Taken) => self.taken = self.taken.saturating_add(1),
            Ok(Verdict::Refused) => self.refused = self.refused.saturating_add(1),
            Err(what) => {
                let name = entry.name;
                self.misses.push(format!("{name}: {what}; cargo xtask fuzz {name} {case}: {}", shown(&input)));
            }
        }
        self.slowest = self.slowest.max(judged.elapsed);
        self.bytes_max = self.bytes_max.max(judged.bytes_max);
    }
}

/// What came of one input.
struct Judged {
    verdict: Result<Verdict, String>,
    elapsed: Duration,
    bytes_max: u64,
}

fn judge(target: &dyn Target, input: &Input, settings: &Settings) -> Judged {
    let mut judged = judge_once(target, input, settings);
    for _ in 0..JUDGED_AGAIN {
        if judged.elapsed > JUDGED_WITHIN {
            judged = judge_once(target, input, settings);
        }
    }
    if judged.verdict.is_ok() && judged.elapsed > JUDGED_WITHIN {
        judged.verdict = Err(format!("it took {} ms", judged.elapsed.as_millis()));
    }
    if judged.verdict.is_ok() && judged.bytes_max > BYTES_MAX {
        judged.verdict = Err(format!("it took {} bytes of memory", judged.bytes_max));
    }
    judged
}

fn judge_once(target: &dyn Target, input: &Input, settings: &Settings) -> Judged {
    let mut verdict = Ok(Verdict::Refused);
    let started = Instant::now();
    let counted = allocation_counter::measure(|| {
        verdict = catch_unwind(AssertUnwindSafe(|| target.judge(input, settings)))
            .unwrap_or_else(|panic| Err(format!("it panicked: {}", words_of(&*panic))));
    });
    Judged { verdict, elapsed: started.elapsed(), bytes_max: counted.bytes_max }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

fn shown(input: &Input) -> String {
    let text: String = input.bytes.escape_ascii().map(char::from).take(SHOWN_MAX).collect();
    format!("choice {}, {} bytes: {text}", input.choice, input.bytes.len())
}

/// Puts one case before its target, and tells what came of it.
///
/// # Errors
/// There is no such target, or the case is a miss.
pub fn again(name: &str, case: u64) -> Result<String, String> {
    let names = || TARGETS.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    let entry = TARGETS.iter().find(|entry| entry.name == name);
    let entry = entry.ok_or_else(|| format!("there is no target `{name}`, only {}", names()))?;
    let target = (entry.make)()?;
    let input = target.draw(&mut StdRng::seed_from_u64(case));
    let judged = judge(&*target, &input, &Settings::new(0, Scale::Full, 1, None));
    let figures = format!("{} µs, {} bytes of memory", judged.elapsed.as_micros(), judged.bytes_max);
    let whole = input.bytes.escape_ascii();
    match judged.verdict {
        Ok(verdict) => Ok(format!("{whole}\n{verdict:?}, choice {}, {figures}", input.choice)),
        Err(what) => Err(format!("{whole}\n{what}; choice {}, {figures}", input.choice)),
    }
}
