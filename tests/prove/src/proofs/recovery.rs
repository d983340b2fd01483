//! **recovery**: a server that holds a hundred thousand events is ready soon after it was killed.
//! May not: kill a server that has nothing to do.
//!
//! The events are made by the production engine in this process, which takes seconds; the program then lives on that data.

use std::time::{Duration, Instant};

use vestibule_scenery::{TestServer, send_signal};
use vestibule_storage::{
    commit::{Commit, Ticket},
    conformance::{block_on, fixture::RoomFixture},
};
use vestibule_storage_sled::{Options, SledStorage};

use crate::{
    load::{Stage, check},
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

pub const PROOF: Proof = Proof {
    name: "recovery",
    shows: "a server that was killed with 100,000 events in its store is ready within two seconds",
    full: 10,
    quick: 2,
    run: |settings| Outcome::of(settings, kill_and_wait),
    plants: &[&LATE_START],
};

static LATE_START: Plant = Plant { name: "late-start", what: "the program begins three seconds late", cases: 1 };
/// Under which it does. The shell stays, so that it is the parent.
const LATE: [&str; 3] = ["sh", "-c", "sleep 3; \"$0\" \"$@\"; exit $?"];

/// What is promised.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// Events in the store, whatever the scale: fewer show nothing.
const EVENTS: u64 = 100_000;
/// Rooms they are in.
const ROOMS: u64 = 50;
/// Commits handed over before their answers are heard.
const AT_ONCE: usize = 1_000;
/// Knocks from other servers that are ready before each kill, and answers after which it comes.
const THEIRS: usize = 200;
const ANSWERS: usize = 50;

fn kill_and_wait(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let is_planted = settings.has(&LATE_START);
    let mut server = program::server()?;
    if is_planted {
        server = server.under(&LATE);
    }
    let begun = Instant::now();
    let events = if is_planted { 0 } else { fill(&server)? };
    let filling = begun.elapsed();
    let mut stage = Stage::set(server);
    let mut times = Vec::new();
    let mut records = 0;
    for round in 0..settings.cases {
        let pid = stage.server.pid();
        let (book, ()) = stage.load(round, THEIRS, |_, progress| {
            progress.wait_for(ANSWERS);
            send_signal("KILL", pid);
        });
        stage.server.ended();
        let begun = Instant::now();
        stage.server.restart();
        let ready_after = begun.elapsed();
        times.push(ready_after);
        records = records.max(records_read(&stage.server));
        let mut misses = Vec::new();
        check(&stage.owner, &book, &mut misses);
        if ready_after > READY_WITHIN {
            misses.push(format!("it was ready after {} ms", ready_after.as_millis()));
        }
        outcome.case();
        misses.into_iter().for_each(|miss| outcome.miss(format!("kill {round}: {miss}")));
    }
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    outcome.count_at_least("events", events, if is_planted { 0 } else { EVENTS });
    outcome.count("s to make them", filling.as_secs());
    outcome.count("journal records read by a start at most", records);
    outcome.count("ms for the median start", ms(times.get(times.len() / 2)));
    outcome.count("ms for the slowest", ms(times.last()));
    Ok(())
}

/// Fills the data directory of a server that does not run yet.
fn fill(server: &TestServer) -> Result<u64, String> {
    // Data without a key would not be taken for ours.
    let made = server.run(&["generate-signing-key"]);
    if made.code != Some(0) {
        return Err(format!("`vestibule generate-signing-key`: {made:?}"));
    }
    let name = server.name().try_into().map_err(|error| format!("{}: {error}", server.name()))?;
    let opened = SledStorage::open(Options::new(server.data_dir(), name, 0x5eed)).map_err(|error| error.to_string())?;
    let mut waiting: Vec<Ticket> = Vec::new();
    let mut events = 0;
    let hand_over = |commit, waiting: &mut Vec<Ticket>| -> Result<(), String> {
        let slot = opened.stores.writer.reserve().map_err(|error| format!("no slot: {error}"))?;
        waiting.push(opened.stores.writer.enqueue(slot, Commit::Room(Box::new(commit))));
        if waiting.len() >= AT_ONCE {
            hear(waiting)?;
        }
        Ok(())
    };
    for number in 0..ROOMS {
        let (mut room, created) = RoomFixture::create(&format!("full{number}"));
        events += u64::try_from(created.events.len()).unwrap_or(0);
        hand_over(created, &mut waiting)?;
        let creator = room.creator().to_owned();
        for message in 0..EVENTS / ROOMS {
            let words = format!("{message}: what one says of an evening, of the length that such things have");
            let message = room.message(&creator, &words);
            events += u64::try_from(message.events.len()).unwrap_or(0);
            hand_over(message, &mut waiting)?;
        }
    }
    hear(&mut waiting)?;
    opened.handle.close().map_err(|error| error.to_string())?;
    Ok(events)
}

fn hear(waiting: &mut Vec<Ticket>) -> Result<(), String> {
    waiting.drain(..).try_for_each(|ticket| block_on(ticket).map(|_| ()).map_err(|error| error.to_string()))
}

/// What the newest start says that it read.
fn records_read(server: &TestServer) -> u64 {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains("storage open "));
    let field = line.and_then(|line| line.split("records=").nth(1)?.split_whitespace().next()?.parse().ok());
    field.unwrap_or(0)
}
