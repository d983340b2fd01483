//! **drain**: the program is asked to end under full load, and ends in order.
//! May not: ask a server that has nothing to do.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use vestibule_scenery::send_signal;

use crate::{
    load::{Book, Stage, check},
    proof::{Outcome, Plant, Proof, Settings},
    proofs::crash::lose_last_record,
    seeds,
};

pub const PROOF: Proof = Proof {
    name: "drain",
    shows: "after SIGTERM under load the program answers what it made, ends with 0 within 10 s and has lost nothing",
    full: 50,
    quick: 10,
    run: |settings| Outcome::of(settings, end_again_and_again),
    plants: &[&KILLED, &LOST_RECORD],
};

static KILLED: Plant =
    Plant { name: "killed", what: "the program is killed where it should be asked to end", cases: 2 };

static LOST_RECORD: Plant =
    Plant { name: "lost-record", what: "the journal ends before the last acknowledged record", cases: 2 };

/// What the program promises.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Knocks from other servers that are ready: more than are answered before the end.
const THEIRS: usize = 300;
/// Answers before the signal.
const ANSWERS_MIN: u64 = 20;
const ANSWERS_MORE: u64 = 80;
const SIGNAL_WITHIN_US: u64 = 20_000;

fn end_again_and_again(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let mut stage = Stage::usual()?;
    let mut books: Vec<Book> = Vec::new();
    let (mut in_flight, mut slowest) = (0, Duration::ZERO);
    let signal = if settings.has(&KILLED) { "KILL" } else { "TERM" };
    for round in 0..settings.cases {
        let mut draw = seeds::draw_of_case(settings.seed, round);
        let enough = usize::try_from(ANSWERS_MIN + draw.below(ANSWERS_MORE)).unwrap_or(usize::MAX);
        let delay = Duration::from_micros(draw.below(SIGNAL_WITHIN_US));
        let pid = stage.server.pid();
        let (book, begun) = stage.load(round, THEIRS, |_, progress| {
            progress.wait_for(enough);
            // No condition: any moment must do.
            thread::park_timeout(delay);
            in_flight += u64::from(progress.in_flight.load(Ordering::SeqCst) > 0);
            send_signal(signal, pid);
            Instant::now()
        });
        let code = stage.server.ended();
        let took = begun.elapsed();
        slowest = slowest.max(took);
        let mut misses = Vec::new();
        if code != Some(0) {
            misses.push(format!("it ended with {code:?}"));
        }
        if took > ENDS_WITHIN {
            misses.push(format!("it took {took:?} to end"));
        }
        if settings.has(&LOST_RECORD) {
            lose_last_record(&stage, &book)?;
        }
        stage.server.restart();
        let looked = check(&stage.owner, &book, &mut misses);
        if looked.appeared > 0 {
            misses.push(format!("{} requests in flight were made and never answered", looked.appeared));
        }
        books.push(book);
        if round + 1 == settings.cases {
            books.iter().for_each(|book| _ = check(&stage.owner, book, &mut misses));
        }
        outcome.case();
        misses.into_iter().for_each(|miss| outcome.miss(format!("end {round}: {miss}")));
    }
    let (knocks, _) = books.iter().map(Book::acknowledged).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
    outcome.count_at_least("acknowledged knocks", knocks, settings.scaled(2_000));
    outcome.count_at_least("signals with requests in flight", in_flight, settings.scaled(25));
    outcome.count("ms for the slowest end", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
    Ok(())
}
