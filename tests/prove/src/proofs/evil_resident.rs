//! **evil-resident**: servers of rooms that our users want to enter, leave or are asked into say everything but the truth.
//! May not: believe our server; the hostile servers show what they got from it.
//!
//! Every hostile answer is given by a server of its own, over TLS, once alone and once with an honest server behind it in the
//! same room, to the program with its shipped deadlines. Only the pauses between attempts are shorter. Not asked: how long a
//! room may drip, which has three minutes to come.

mod cases;
mod flows;
mod signed;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use vestibule_scenery::{Canary, FakePeer, User};

use self::{
    cases::{Case, Comes, Flow},
    flows::{Border, Came, Ground, Passage, Wrong, misplaced},
};
use crate::{
    program,
    proof::{Outcome, Plant, Proof, Settings},
    seeds,
};

pub const PROOF: Proof = Proof {
    name: "evil-resident",
    shows: "no hostile answer to our handshakes gets a signature, holds a client up, or is shown; the next server is asked",
    full: 900,
    // As many: it takes as long as its slowest cases.
    quick: 900,
    run: |settings| Outcome::of(settings, all),
    plants: &[&SIGNS_TEMPLATES, &NO_DEADLINE, &BELIEVES, &NO_NEXT, &SHOWS],
};

static SIGNS_TEMPLATES: Plant = Plant {
    name: "signs-templates",
    what: "at the border, each hostile template comes back signed as it came",
    cases: 20,
};
static NO_DEADLINE: Plant =
    Plant { name: "no-deadline", what: "the program waits for other servers for minutes", cases: 2 };
static BELIEVES: Plant = Plant {
    name: "believes",
    what: "where a lie should be told an honest answer is, so that it is taken for what must be refused",
    cases: 20,
};
static NO_NEXT: Plant = Plant { name: "no-next", what: "the honest server is down", cases: 20 };
static SHOWS: Plant = Plant {
    name: "shows",
    what: "a room that was not entered is shown, since the user is invited to it meanwhile",
    cases: 20,
};

/// Cases at once. Most of them wait for one another's servers.
const WORKERS: usize = 24;

/// One case in one of its two ways.
struct Run {
    case: Case,
    evil: FakePeer,
    version: &'static str,
    is_beside: bool,
}

impl Run {
    fn name(&self) -> String {
        let Case { flow, endpoint, what, .. } = &self.case;
        let way = if self.is_beside { "with an honest server behind it" } else { "alone" };
        format!("{flow:?}, {endpoint}, version {}, {way}: {what}", self.version)
    }
}

/// The border, what is wrong then, and which cases show it.
fn planted(settings: &Settings) -> (Border, Option<Wrong>, fn(&Run) -> bool) {
    let is_refused = |run: &Run| matches!(run.case.alone, Comes::Refused(..)) && !run.is_beside && !run.case.is_slow;
    if settings.has(&SIGNS_TEMPLATES) {
        let is_lie = |run: &Run| run.case.endpoint == "make_knock" && !run.case.may_be_signed && !run.case.is_slow;
        return (Border::SignsTemplates, Some(Wrong::Signed), is_lie);
    }
    if settings.has(&NO_DEADLINE) {
        return (Border::Open, Some(Wrong::Unanswered), |run| run.case.is_slow);
    }
    if settings.has(&BELIEVES) {
        return (Border::Honest, Some(Wrong::Answered), is_refused);
    }
    if settings.has(&NO_NEXT) {
        let is_next =
            |run: &Run| run.case.beside == Some(Comes::ThroughNext) && run.is_beside && run.case.flow == Flow::Knock;
        return (Border::NextIsDown, Some(Wrong::NotThroughNext), is_next);
    }
    if settings.has(&SHOWS) {
        return (Border::Invites, Some(Wrong::Shown), is_refused);
    }
    (Border::Open, None, |_| true)
}

fn all(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let (border, wanted, is_chosen) = planted(settings);
    // Where redirects lead. It never answers.
    let canary = Canary::on("127.0.0.1");
    let honest = FakePeer::new("honest.test");
    let mut runs = runs(settings, &honest, canary.port);
    runs.retain(is_chosen);
    if wanted.is_some() {
        runs.truncate(usize::try_from(settings.cases).unwrap_or(usize::MAX));
    }
    let peers: Vec<&FakePeer> = [&honest].into_iter().chain(runs.iter().map(|run| &run.evil)).collect();
    let mut server = program::server()?
        .set("listener.1.tls", "true")
        .set("federation.retry_backoff_min", "\"100ms\"")
        .set("federation.retry_backoff_max", "\"1s\"")
        .knowing(&peers);
    if settings.has(&NO_DEADLINE) {
        server.change("federation.request_timeout", Some("\"5m\""));
    }
    let server = server.start();
    let keys = signed::own_keys(&server.federation().get("/_matrix/key/v2/server").json());
    honest.set_down(border == Border::NextIsDown);
    let mut ground = Ground { server, honest, keys, border };
    let users: Vec<User> =
        (0..WORKERS.min(runs.len())).map(|number| ground.server.register(&format!("anna{number}"))).collect();
    let next = AtomicUsize::new(0);
    let came_to: Mutex<Vec<(usize, usize, Came)>> = Mutex::default();
    thread::scope(|scope| {
        for (number, user) in users.iter().enumerate() {
            let (ground, runs, next, came_to) = (&ground, &runs, &next, &came_to);
            scope.spawn(move || {
                loop {
                    let turn = next.fetch_add(1, Ordering::SeqCst);
                    let Some(Run { case, evil, version, is_beside }) = runs.get(turn) else { return };
                    let passage = Passage { ground, user, case, evil, version, is_beside: *is_beside };
                    let came = passage.go();
                    came_to.lock().unwrap_or_else(PoisonError::into_inner).push((turn, number, came));
                }
            });
        }
    });
    let mut came_to = came_to.into_inner().unwrap_or_else(PoisonError::into_inner);
    if wanted.is_none() {
        hold_after_a_restart(&mut ground, &users, &mut came_to);
    }
    if canary.was_visited() {
        outcome.miss("a redirect was followed");
    }
    if ground.server.log().contains("a thread panicked") {
        outcome.miss("the program panicked");
    }
    let (mut answers, mut compared, mut through_next, mut slowest) = (0, 0, 0, Duration::ZERO);
    for (turn, _, came) in came_to {
        outcome.case();
        (answers, compared) = (answers + came.answers, compared + came.compared);
        (through_next, slowest) = (through_next + came.through_next, slowest.max(came.slowest));
        for (wrong, what) in came.wrong {
            // A planted fault has to be found for what it is.
            if wanted.is_none_or(|wanted| wanted == wrong) {
                let name = runs.get(turn).map(Run::name).unwrap_or_default();
                outcome.miss(format!("{name}: {wrong:?}: {what}"));
            }
        }
    }
    // As many in a quick run, which is as long.
    let floor = |number: u64| if wanted.is_none() { number } else { 0 };
    outcome.count_at_least("hostile answers given", answers, floor(900));
    outcome.count_at_least("events with our signature compared word by word", compared, floor(1_000));
    outcome.count_at_least("through the next server", through_next, floor(380));
    outcome.count("ms for the slowest answer", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
    Ok(())
}

/// Every case in each of its ways, in an order and in versions that the seed draws; those first that last.
fn runs(settings: &Settings, honest: &FakePeer, canary: u16) -> Vec<Run> {
    let mut draw = seeds::of_case(settings.seed, 0);
    let mut runs = Vec::new();
    for case in cases::all(canary) {
        let ways: &[bool] = if case.beside.is_some() && case.flow != Flow::Invite { &[false, true] } else { &[false] };
        for is_beside in ways.iter().copied() {
            let name = format!("evil{}.test", runs.len());
            let evil = if is_beside { honest.beside(&name) } else { FakePeer::new(&name) };
            let version = case.versions.choose(&mut draw).copied().unwrap_or("11");
            runs.push(Run { case: case.clone(), evil, version, is_beside });
        }
    }
    runs.shuffle(&mut draw);
    runs.sort_by_key(|run| !run.case.is_slow);
    runs
}

/// What was shown is what is kept: after a power cut, too. And the server still does what it is asked.
fn hold_after_a_restart(ground: &mut Ground, users: &[User], came_to: &mut [(usize, usize, Came)]) {
    ground.server.kill();
    ground.server.restart();
    for (number, user) in users.iter().enumerate() {
        let sync = user.sync("timeout=0");
        let mut own: Vec<&mut Came> =
            came_to.iter_mut().filter(|(_, worker, _)| *worker == number).map(|(.., came)| came).collect();
        for came in &mut own {
            if let Some((room_id, wanted)) = &came.room {
                let found = misplaced(&sync, room_id, *wanted);
                came.wrong.extend(found.map(|what| (Wrong::Shown, format!("after a restart: {what}"))));
            }
            if let Some((room_id, guest, stands)) = &came.invited
                && user.membership(room_id, guest).as_deref() != Some(stands)
            {
                came.wrong.push((Wrong::Shown, format!("after a restart {guest} is not {stands}")));
            }
        }
        let room_id = ground.honest.host("owner", "12", serde_json::json!({ "join_rule": "knock" }));
        let answer = user.try_knock_via(&room_id, &[ground.honest.name()], "otters");
        if let (true, Some(came)) = (answer.status != 200, own.first_mut()) {
            came.wrong.push((Wrong::Dead, format!("an honest knock: {} {}", answer.status, answer.text())));
        }
    }
}
