//! **flood**: ten thousand users of two hundred servers knock on one room, five hundred knocks a second: the room takes as many as
//! its rate allows, the others are told when to come again, and a room beside it does not feel it.
//! May not: sign while it sends; every knock is written before the first is sent.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::Ipv4Addr,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use ruma::CanonicalJsonObject;
use serde_json::json;
use tokio::{task::spawn_local, time::sleep_until};
use vestibule_scenery::{FakePeer, TestServer, User, encoded, path_of, send_knock_target};

use crate::{
    crowd::{Caller, Reply, in_this_thread, memory_kib, ms, number, percentile, signed, written},
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

static NO_RATES: Plant = Plant { name: "no-rates", what: "the server has its rates switched off", cases: 2_000 };
static STALLS: Plant =
    Plant { name: "stalls", what: "what the other room is asked waits half a second in between", cases: 1_000 };

pub const PROOF: Proof = Proof {
    name: "flood",
    shows: "a room takes no more knocks than its rate allows, the rest get 429 and when to come, and another room stays quick",
    full: 30_000,
    quick: 6_000,
    run: |settings| Outcome::of(settings, flood),
    plants: &[&NO_RATES, &STALLS],
};

const SERVERS: usize = 200;
const USERS_OF_EACH: usize = 50;
/// Between two knocks.
const KNOCK_EVERY: Duration = Duration::from_millis(2);
/// Between two looks at the other room.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `rate_limit.knocks_in_room`, the default: so many at once, and so many in a second.
const BURST: u64 = 10;
const PER_SECOND: u64 = 1;
/// What the others are told: a room's next place is a second away.
const RETRY_AFTER_S: u64 = 1;

/// What is promised of 99 in 100 answers of the other room.
const OTHER_ROOM_WITHIN: Duration = Duration::from_millis(250);
/// What is promised of the memory that it all takes.
const GROWS_KIB_MAX: u64 = 64 * 1024;

/// What came of it all.
#[derive(Default)]
struct Seen {
    /// Knocks that were taken, by server and user: the same one, sent again, is answered as before.
    admitted: BTreeSet<(usize, usize)>,
    put_off: u64,
    /// Answers of the other room.
    looks: Vec<Duration>,
    memory_kib: u64,
    /// Answers that should not have been.
    odd: Vec<String>,
}

fn flood(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let peers: Vec<FakePeer> = (0..SERVERS).map(|number| FakePeer::new(&format!("p{number}.test"))).collect();
    let mut server = TestServer::of(program::find()?)
        .set("listener.1.tls", "false")
        .set("rate_limit.enabled", if settings.has(&NO_RATES) { "false" } else { "true" });
    if settings.has(&NO_RATES) {
        // That a room has enough of them is another limit.
        server =
            server.set("knock.max_pending_per_room", "1000000").set("knock.max_pending_per_origin_in_room", "1000000");
    }
    let server = server
        // Who makes ready is no part of the flood.
        .set("rate_limit.new_origins_by_network", "{ per_second = 1000.0, burst = 1000 }")
        .set("rate_limit.messages_by_user", "{ per_second = 1000.0, burst = 1000 }")
        .knowing(&peers.iter().collect::<Vec<_>>())
        .start();
    let owner = server.register("owner");
    let (flooded, other) = (owner.knockable_room("12"), owner.knockable_room("12"));
    // From here on all keys are known.
    let knocks = knocks(&server, &peers, &flooded)?;
    let looker = Looker::at(&server, &owner, peers.first().ok_or("nobody knocks")?, &other);
    let before = memory_kib(server.pid())?;
    let stall = if settings.has(&STALLS) { 2 * OTHER_ROOM_WITHIN } else { Duration::ZERO };
    let seen: Rc<RefCell<Seen>> = Rc::default();
    let lasted = in_this_thread(async {
        let looking = spawn_local(looker.look_again_and_again(server.pid(), stall, seen.clone()));
        let begun = Instant::now();
        knock_all(&server, &knocks, settings.cases, &seen).await;
        looking.abort();
        Ok(begun.elapsed())
    })?;
    let mut seen = seen.take();
    seen.memory_kib = seen.memory_kib.max(memory_kib(server.pid())?);
    (0..settings.cases).for_each(|_| outcome.case());
    let admitted = number(seen.admitted.len());
    let allowed = BURST + PER_SECOND * lasted.as_secs() + 1;
    if admitted > allowed {
        outcome.miss(format!("{admitted} knocks were admitted, {allowed} may be"));
    }
    let there = number(owner.members(&flooded, "?membership=knock").len());
    if there != admitted {
        outcome.miss(format!("{there} knocks are there, {admitted} were admitted"));
    }
    seen.odd.iter().for_each(|odd| outcome.miss(odd.clone()));
    let (looks, p99) = (number(seen.looks.len()), percentile(seen.looks, 99));
    if p99 > OTHER_ROOM_WITHIN {
        outcome.miss(format!("99 of 100 answers of the other room took up to {p99:?}"));
    }
    let grown = seen.memory_kib.saturating_sub(before);
    if grown > GROWS_KIB_MAX {
        outcome.miss(format!("the server has {grown} KiB more than before"));
    }
    outcome.count_at_least("admitted", admitted, settings.scaled(50));
    outcome.count("that the room may take", allowed);
    outcome.count_at_least("told when to come again", seen.put_off, settings.scaled(29_000));
    outcome.count_at_least("answers of the other room", looks, settings.scaled(1_000));
    outcome.count("ms for 99 of 100 of them", ms(p99));
    outcome.count("KiB more memory", grown);
    outcome.count("ms in all", ms(lasted));
    let stalled = "answers of the other room took";
    outcome.keep_signs(settings, &[(&NO_RATES, "knocks were admitted"), (&STALLS, stalled)]);
    Ok(())
}

/// Each server has an address, and a network, of its own.
fn address_of(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(127, 2 + high, low, 1)
}

/// The knocks of each server's users, as they go over the line.
fn knocks(server: &TestServer, peers: &[FakePeer], room_id: &str) -> Result<Vec<Vec<Vec<u8>>>, String> {
    let (first, second) = peers.split_at(peers.len() / 2);
    let write = |peers: &[FakePeer]| -> Vec<Vec<Vec<u8>>> {
        let of_one = |peer: &FakePeer| {
            let template = peer.knock_template(server, room_id, &peer.user("template"));
            let knock = |user| {
                let knock = peer.sign(template.clone().for_user(&peer.user(&format!("u{user}"))));
                signed(peer, "PUT", &send_knock_target(room_id, &knock.event_id), Some(&knock.event))
            };
            (0..USERS_OF_EACH).map(knock).collect()
        };
        peers.iter().map(of_one).collect()
    };
    thread::scope(|scope| {
        let beside = scope.spawn(|| write(first));
        let rest = write(second);
        let mut all = beside.join().map_err(|_| "who writes panicked")?;
        all.extend(rest);
        Ok(all)
    })
}

/// So many knocks, one server after the other, at their pace whatever is answered; ends with the last answer.
async fn knock_all(server: &TestServer, knocks: &[Vec<Vec<u8>>], count: u64, seen: &Rc<RefCell<Seen>>) {
    let door = server.federation().address;
    let callers: Vec<Rc<Caller>> =
        (0..knocks.len()).map(|number| Rc::new(Caller::new(address_of(number), door))).collect();
    let begun = Instant::now();
    let mut answers = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or(usize::MAX) {
        let (place, user) = (at % SERVERS, at / SERVERS % USERS_OF_EACH);
        let (Some(caller), Some(knock)) = (callers.get(place), knocks.get(place).and_then(|all| all.get(user))) else {
            continue;
        };
        sleep_until((begun + KNOCK_EVERY * u32::try_from(at).unwrap_or(u32::MAX)).into()).await;
        let (caller, knock, seen) = (caller.clone(), knock.clone(), seen.clone());
        answers.push(spawn_local(async move {
            let reply = caller.ask(&knock).await;
            seen.borrow_mut().note((place, user), reply);
        }));
    }
    for answer in answers {
        if answer.await.is_err() {
            seen.borrow_mut().odd.push("who waits for an answer panicked".to_owned());
        }
    }
}

impl Seen {
    fn note_look(&mut self, reply: Result<Reply, String>, took: Duration, memory_kib: u64) {
        self.memory_kib = self.memory_kib.max(memory_kib);
        match reply {
            Ok(Reply { status: 200, .. }) => self.looks.push(took),
            other => self.odd.push(format!("the other room answered with {other:?}")),
        }
    }

    fn note(&mut self, who: (usize, usize), reply: Result<Reply, String>) {
        match reply {
            Ok(Reply { status: 200, .. }) => _ = self.admitted.insert(who),
            Ok(Reply { status: 429, retry_after: Some(seconds) }) if seconds <= RETRY_AFTER_S => self.put_off += 1,
            other => self.odd.push(format!("a knock was answered with {other:?}")),
        }
    }
}

/// Looks at another room: a template for a knock, and a message of its owner.
struct Looker {
    peer: Caller,
    template: Vec<u8>,
    owner: Caller,
    /// Path of a message without its transaction, and the header for it.
    message: (String, String),
}

impl Looker {
    fn at(server: &TestServer, owner: &User, peer: &FakePeer, room_id: &str) -> Self {
        let target = format!("{}?ver=12", path_of("v1/make_knock", room_id, &peer.user("looker")));
        let message = format!("/_matrix/client/v3/rooms/{}/send/m.room.message", encoded(room_id));
        let from = Ipv4Addr::new(127, 250, 0, 1);
        Self {
            peer: Caller::new(from, server.federation().address),
            template: signed(peer, "GET", &target, None),
            owner: Caller::new(from, server.client().address),
            message: (message, format!("Bearer {}", owner.token)),
        }
    }

    async fn look_again_and_again(self, pid: u32, stall: Duration, seen: Rc<RefCell<Seen>>) {
        let text = json!({ "msgtype": "m.text", "body": "still there" });
        let text: CanonicalJsonObject = serde_json::from_value(text).unwrap_or_default();
        let mut next = Instant::now();
        for turn in 0_u64.. {
            let begun = Instant::now();
            let reply = if turn.is_multiple_of(2) {
                self.peer.ask(&self.template).await
            } else {
                let (path, bearer) = &self.message;
                self.owner.ask(&written("PUT", &format!("{path}/{turn}"), bearer, Some(&text))).await
            };
            sleep_until((Instant::now() + stall).into()).await;
            let took = begun.elapsed();
            let memory = memory_kib(pid).unwrap_or_default();
            seen.borrow_mut().note_look(reply, took, memory);
            next = (next + LOOK_EVERY).max(Instant::now());
            sleep_until(next.into()).await;
        }
    }
}
