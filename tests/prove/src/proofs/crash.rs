//! **crash**: the program is killed under load, again and again, and what it acknowledged is there at the next start.
//! May not: kill a server that has nothing to do.
//!
//! Each kill is a SIGKILL 0 to 60 ms after some number of answers, with eight requests in flight; each round has a room of its own.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use vestibule_scenery::send_signal;

use crate::{
    journal_file,
    load::{Book, Stage, check},
    proof::{Outcome, Plant, Proof, Settings},
    seeds,
};

pub const PROOF: Proof = Proof {
    name: "crash",
    shows: "what was acknowledged survives a SIGKILL under load, and what was refused never appears",
    full: 200,
    quick: 40,
    run: |settings| Outcome::of(settings, kill_again_and_again),
    plants: &[&LOST_RECORD],
};

static LOST_RECORD: Plant =
    Plant { name: "lost-record", what: "the journal ends before the last acknowledged record", cases: 2 };

/// Knocks from other servers that are ready in each round: more than the server can take before it is killed.
const THEIRS: usize = 400;
/// Answers after which a kill may come: so that all kills together see as many as are promised.
const ANSWERS_MIN: u64 = 105;
const ANSWERS_MORE: u64 = 60;
/// The kill comes at some moment of these after that.
const KILL_WITHIN_US: u64 = 60_000;
/// Rounds after which every room so far is looked at again.
const AGAIN_EVERY: u64 = 40;

fn kill_again_and_again(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let mut stage = Stage::usual()?;
    let mut books: Vec<Book> = Vec::new();
    let (mut in_flight, mut unsynced, mut appeared, mut slowest) = (0, 0, 0, Duration::ZERO);
    for round in 0..settings.cases {
        let mut draw = seeds::draw_of_case(settings.seed, round);
        let enough = usize::try_from(ANSWERS_MIN + draw.below(ANSWERS_MORE)).unwrap_or(usize::MAX);
        let delay = Duration::from_micros(draw.below(KILL_WITHIN_US));
        let pid = stage.server.pid();
        let (book, ()) = stage.load(round, THEIRS, |_, progress| {
            progress.wait_for(enough);
            // No condition: any moment must do.
            thread::park_timeout(delay);
            in_flight += u64::from(progress.in_flight.load(Ordering::SeqCst) > 0);
            send_signal("KILL", pid);
        });
        stage.server.ended();
        if settings.has(&LOST_RECORD) {
            lose_last_record(&stage, &book)?;
        }
        let begun = Instant::now();
        stage.server.restart();
        slowest = slowest.max(begun.elapsed());
        let mut misses = Vec::new();
        let looked = check(&stage.owner, &book, &mut misses);
        unsynced += u64::from(looked.vanished > 0);
        appeared += looked.appeared;
        books.push(book);
        let is_last = round + 1 == settings.cases;
        if is_last || round % AGAIN_EVERY == AGAIN_EVERY - 1 {
            books.iter().for_each(|book| _ = check(&stage.owner, book, &mut misses));
        }
        outcome.case();
        misses.into_iter().for_each(|miss| outcome.miss(format!("kill {round}: {miss}")));
    }
    let verified = stage.server.run(&["verify"]);
    if verified.code != Some(0) {
        outcome.miss(format!("`vestibule verify`: {verified:?}"));
    }
    let (knocks, all) = books.iter().map(Book::acknowledged).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
    outcome.count_at_least("acknowledged knocks", knocks, settings.scaled(20_000));
    outcome.count("acknowledged changes in all", all);
    outcome.count_at_least("kills with requests in flight", in_flight, settings.scaled(100));
    outcome.count_at_least("kills that a request did not survive", unsynced, settings.scaled(100));
    outcome.count("unanswered and there", appeared);
    outcome.count("ms for the slowest start", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
    Ok(())
}

/// Ends the journal before the record of the last knock that was acknowledged.
pub fn lose_last_record(stage: &Stage, book: &Book) -> Result<(), String> {
    let dir = stage.server.data_dir().join("journal");
    let words = |error: std::io::Error| format!("{}: {error}", dir.display());
    let entries: Result<Vec<PathBuf>, _> =
        fs::read_dir(&dir).map_err(words)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut segments = entries.map_err(words)?;
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
    segments.sort_unstable();
    // The newest may be empty: a program that ends in order begins it to seal the one before.
    for segment in segments.iter().rev() {
        let bytes = fs::read(segment).map_err(words)?;
        for mark in book.heard().iter().rev() {
            let has_mark = |record: &[u8]| record.windows(mark.len()).any(|window| window == mark.as_bytes());
            let found =
                journal_file::records(&bytes).into_iter().find(|range| bytes.get(range.clone()).is_some_and(has_mark));
            if let Some(record) = found {
                return fs::write(segment, bytes.get(..record.start).unwrap_or_default()).map_err(words);
            }
        }
        fs::remove_file(segment).map_err(words)?;
    }
    Err("the journal has no acknowledged knock".to_owned())
}
