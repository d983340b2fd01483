//! **recovery**: a server that holds a hundred thousand events is ready soon after it was killed.
//! May not: kill a server that has nothing to do.
//!
//! The events are made by the production engine in this process, which takes seconds; the program then lives on that data.

use std::time::{Duration, Instant};

use vestibule_scenery::{TestServer, send_signal};
use vestibule_storage::{
    commit::{Commit, Ticket},
    conformance::{block_on, fixture::RoomFixture},
    room::RoomCommit,
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
    let (mut records, mut rooms) = (0, 0);
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
        rooms = stage.server.totals()["rooms_stored"].as_u64().unwrap_or(0);
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
    let floor = |number: u64| if is_planted { 0 } else { number };
    outcome.count_at_least("events", events, floor(EVENTS));
    outcome.count_at_least("rooms found in the store", rooms, floor(ROOMS));
    outcome.count("s to make them", filling.as_secs());
    outcome.count_at_least("journal records read by a start at most", records, floor(1));
    outcome.count("ms for the median start", ms(times.get(times.len() / 2)));
    outcome.count("ms for the slowest", ms(times.last()));
    Ok(())
}

/// Fills the data directory of a server that does not run yet. How many events were said to be durable.
fn fill(server: &TestServer) -> Result<u64, String> {
    // Data without a key would not be taken for ours.
    let made = server.run(&["generate-signing-key"]);
    if made.code != Some(0) {
        return Err(format!("`vestibule generate-signing-key`: {made:?}"));
    }
    let name = server.name().try_into().map_err(|error| format!("{}: {error}", server.name()))?;
    let opened = SledStorage::open(Options::new(server.data_dir(), name, 0x5eed)).map_err(|error| error.to_string())?;
    let mut waiting: Vec<(Ticket, u64)> = Vec::new();
    let mut durable = 0;
    let mut hand_over = |commit: RoomCommit| -> Result<(), String> {
        let slot = opened.stores.writer.reserve().map_err(|error| format!("no slot: {error}"))?;
        let events = u64::try_from(commit.events.len()).unwrap_or(0);
        waiting.push((opened.stores.writer.enqueue(slot, Commit::Room(Box::new(commit))), events));
        if waiting.len() >= AT_ONCE {
            durable += hear(&mut waiting)?;
        }
        Ok(())
    };
    for number in 0..ROOMS {
        let (mut room, created) = RoomFixture::create(&format!("full{number}"));
        hand_over(created)?;
        let creator = room.creator().to_owned();
        for message in 0..EVENTS / ROOMS {
            let words = format!("{message}: what one says of an evening, of the length that such things have");
            hand_over(room.message(&creator, &words))?;
        }
    }
    durable += hear(&mut waiting)?;
    opened.handle.close().map_err(|error| error.to_string())?;
    Ok(durable)
}

/// Hears all answers; how many events they speak of.
fn hear(waiting: &mut Vec<(Ticket, u64)>) -> Result<u64, String> {
    waiting.drain(..).try_fold(0, |sum, (ticket, events)| match block_on(ticket) {
        Ok(_) => Ok(sum + events),
        Err(error) => Err(error.to_string()),
    })
}

/// What the newest start says that it read.
fn records_read(server: &TestServer) -> u64 {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains("storage open "));
    let field = line.and_then(|line| line.split("records=").nth(1)?.split_whitespace().next()?.parse().ok());
    field.unwrap_or(0)
}
