//! **idle**: ten thousand rooms that are stored and touched do not stay in memory, and a hundred thousand that nobody has never get
//! there.
//! May not: make its rooms by way of the program; they are there when it starts.

mod stored;

use std::{
    cell::Cell,
    net::Ipv4Addr,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use tokio::task::spawn_local;
use vestibule_scenery::{FakePeer, TestServer, path_of};

use crate::{
    crowd::{Caller, in_this_thread, memory_kib, number, signed},
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

static NEVER_LEAVE: Plant =
    Plant { name: "never-leave", what: "an idle room stays in memory for an hour", cases: 2_000 };
static KNOWN_ROOMS: Plant =
    Plant { name: "known-rooms", what: "the rooms that nobody has are rooms that are stored", cases: 2_000 };

pub const PROOF: Proof = Proof {
    name: "idle",
    shows: "10,000 rooms that were touched leave memory again, and 100,000 made-up room ids start no actor",
    full: 110_000,
    quick: 22_000,
    run: |settings| Outcome::of(settings, touch),
    plants: &[&NEVER_LEAVE, &KNOWN_ROOMS],
};

/// Of all cases one in so many is a room that is stored.
const STORED_ONE_IN: u64 = 11;
/// `actors.live_max`, the default.
const LIVE_MAX: u64 = 2_000;
/// `actors.idle_timeout`, shortened.
const IDLE_S: u64 = 4;
/// What is promised of the memory that rooms take.
const MEMORY_KIB_MAX: u64 = 400 * 1024;
/// What is promised of the memory that made-up ids take.
const GROWS_KIB_MAX: u64 = 20 * 1024;

/// Requests in flight.
const IN_FLIGHT: usize = 32;
/// Of the made-up ids one in so many comes before memory is measured: what the first of anything takes is no growth.
const BEFORE_ONE_IN: usize = 50;
/// Between two looks at the server.
const LOOK_EVERY: Duration = Duration::from_millis(200);

fn touch(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let peer = FakePeer::new("peer.test");
    let idle_s = if settings.has(&NEVER_LEAVE) { 3_600 } else { IDLE_S };
    let mut server = TestServer::of(program::find()?)
        .set("listener.1.tls", "false")
        .set("actors.idle_timeout", &format!("\"{idle_s}s\""))
        .set("actors.live_max", &LIVE_MAX.to_string())
        .knowing(&[&peer])
        .start();
    let owner = server.register("owner");
    server.stop();
    let count = usize::try_from(settings.cases / STORED_ONE_IN).unwrap_or(usize::MAX);
    let rooms = stored::rooms(&server.data_dir(), &owner.user_id, count)?;
    server.restart();
    let totals = server.totals();
    if totals["rooms_stored"] != number(rooms.len()) {
        return Err(format!("{} rooms were made: {totals}", rooms.len()));
    }

    let begun = Instant::now();
    let touched = knock_at(&server, &peer, &rooms, 200)?;
    let lasted = begun.elapsed();
    (0..touched.answered).for_each(|_| outcome.case());
    touched.misses.into_iter().for_each(|miss| outcome.miss(miss));
    if touched.memory_kib > MEMORY_KIB_MAX {
        outcome.miss(format!("{} rooms take {} KiB", rooms.len(), touched.memory_kib));
    }
    // A room that goes is there until its turn to go; each request may have woken another meanwhile.
    if touched.live > LIVE_MAX + number(IN_FLIGHT) {
        outcome.miss(format!("{} rooms were in memory at once", touched.live));
    }
    let left = live_after(&server, Duration::from_secs(2 * IDLE_S));
    if left > 0 {
        outcome.miss(format!("{left} rooms are in memory after twice the time that an idle room may stay"));
    }
    outcome.count_at_least("rooms touched", touched.answered, settings.scaled(10_000));
    outcome.count("s for that", lasted.as_secs());
    outcome.count_at_least("of them in memory at once", touched.live, settings.scaled(1_000));
    outcome.count("KiB at most", touched.memory_kib);

    let made_up: Vec<String> = if settings.has(&KNOWN_ROOMS) {
        rooms
    } else {
        let count = settings.cases.saturating_sub(number(rooms.len()));
        // Half as rooms of version 12 are named, half as older ones are.
        let name = |number: u64| {
            if number.is_multiple_of(2) { format!("!{number:043}") } else { format!("!n{number}:vestibule.test") }
        };
        (0..count).map(|number| name(number.wrapping_add(settings.seed << 20))).collect()
    };
    let status = if settings.has(&KNOWN_ROOMS) { 200 } else { 404 };
    let (first, rest) = made_up.split_at(made_up.len() / BEFORE_ONE_IN);
    let early = knock_at(&server, &peer, first, status)?;
    let (memory, started) = (memory_kib(server.pid())?, started(&server));
    let asked = knock_at(&server, &peer, rest, status)?;
    let answered = early.answered + asked.answered;
    (0..answered).for_each(|_| outcome.case());
    early.misses.into_iter().chain(asked.misses).for_each(|miss| outcome.miss(miss));
    let (grown, more) = (asked.memory_kib.saturating_sub(memory), self::started(&server).saturating_sub(started));
    if more > 0 {
        outcome.miss(format!("{more} actors were started for rooms that nobody has"));
    }
    if grown > GROWS_KIB_MAX {
        outcome.miss(format!("rooms that nobody has take {grown} KiB"));
    }
    outcome.count_at_least("made-up room ids", answered, settings.scaled(100_000));
    outcome.count("KiB for them", grown);
    let (stayed, woken) = ("rooms are in memory after twice", "actors were started for rooms that nobody has");
    outcome.keep_signs(settings, &[(&NEVER_LEAVE, stayed), (&KNOWN_ROOMS, woken)]);
    Ok(())
}

/// What requests for rooms came to.
struct Knocked {
    answered: u64,
    memory_kib: u64,
    live: u64,
    misses: Vec<String>,
}

/// A `make_knock` for each of these rooms; each must be answered with that.
fn knock_at(server: &TestServer, peer: &FakePeer, rooms: &[String], status: u16) -> Result<Knocked, String> {
    let (door, pid) = (server.federation().address, server.pid());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let is_over = &is_over;
        // Asking for the totals waits, and nobody else should.
        let looking = scope.spawn(move || {
            let (mut live, mut memory) = (0, 0);
            while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
                live = live.max(server.totals()["actors_live"].as_u64().unwrap_or(u64::MAX));
                memory = memory.max(memory_kib(pid).unwrap_or(u64::MAX));
                thread::park_timeout(LOOK_EVERY);
            }
            (live, memory)
        });
        let asked = in_this_thread(async {
            let caller = Rc::new(Caller::new(Ipv4Addr::LOCALHOST, door));
            let (next, rooms, peer) = (Rc::new(Cell::new(0)), Rc::new(rooms.to_vec()), peer.clone());
            let askers: Vec<_> = (0..IN_FLIGHT)
                .map(|_| {
                    let (caller, next, rooms, peer) = (caller.clone(), next.clone(), rooms.clone(), peer.clone());
                    spawn_local(async move {
                        let (mut answered, mut misses) = (0_u64, Vec::new());
                        while let Some(room_id) = rooms.get(next.replace(next.get() + 1)) {
                            let path = path_of("v1/make_knock", room_id, &peer.user("somebody"));
                            let reply = caller.ask(&signed(&peer, "GET", &format!("{path}?ver=12"), None)).await;
                            match reply {
                                Ok(reply) if reply.status == status => answered += 1,
                                other => misses.push(format!("{room_id}: {other:?}")),
                            }
                        }
                        (answered, misses)
                    })
                })
                .collect();
            let (mut answered, mut misses) = (0, Vec::new());
            for asker in askers {
                let (more, missed) = asker.await.map_err(|error| error.to_string())?;
                answered += more;
                misses.extend(missed);
            }
            Ok((answered, misses))
        });
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        let (live, memory) = looking.join().map_err(|_| "who looks panicked".to_owned())?;
        let (answered, misses) = asked?;
        Ok(Knocked { answered, memory_kib: memory.max(memory_kib(pid)?), live, misses })
    })
}

fn started(server: &TestServer) -> u64 {
    server.totals()["actors_started"].as_u64().unwrap_or(u64::MAX)
}

/// Rooms in memory once there are none, or that time is over.
fn live_after(server: &TestServer, within: Duration) -> u64 {
    let deadline = Instant::now() + within;
    loop {
        let live = server.totals()["actors_live"].as_u64().unwrap_or(u64::MAX);
        if live == 0 || Instant::now() >= deadline {
            return live;
        }
        thread::park_timeout(LOOK_EVERY);
    }
}
