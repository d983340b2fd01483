//! **badinput**: malformed requests over all routes of all listeners are refused at once, each in the words of the
//! specification, and change nothing that may be seen.
//! May not: pass over a route. What the router has and the table has not is a miss before anything is sent.

mod exceptions;
mod malformed;
mod routes;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    time::{Duration, Instant},
};

use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use vestibule_scenery::{Answer, Connection, encoded, request};

use self::{
    exceptions::{EXCEPTIONS, Verdict},
    malformed::{Malformed, Right},
    routes::{Caller, Route, routes},
    world::{Door, World},
};
use crate::{
    proof::{Outcome, Plant, Proof, Settings},
    seeds,
};

/// Within which a malformed request is refused. Source: SECURITY G9.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Requests between two looks at the server.
const BATCH: usize = 250;

/// Methods of routes, below which the table is not all of them.
const METHODS_MIN: u64 = 212;

/// All are sent each time, since that takes seconds.
pub const PROOF: Proof = Proof {
    name: "badinput",
    shows: "malformed requests over all routes are refused within 1 s and change nothing",
    full: 9_000,
    quick: 9_000,
    run: |settings| Outcome::of(settings, all),
    plants: &[&FORGOTTEN, &TAKEN, &KEPT, &ACCEPTED, &FAILED, &LATE, &OTHER_WORDS],
};

static FORGOTTEN: Plant = Plant { name: "forgotten", what: "a route that is not in the table", cases: 0 };
static TAKEN: Plant = Plant { name: "taken", what: "a route that changes a name and says it refused to", cases: 100 };
static KEPT: Plant =
    Plant { name: "kept", what: "a route that keeps something nobody is shown and says it refused to", cases: 100 };
static ACCEPTED: Plant = Plant { name: "accepted", what: "a route that says 200 to what is malformed", cases: 100 };
static FAILED: Plant = Plant { name: "failed", what: "a route that answers 500", cases: 100 };
static LATE: Plant = Plant { name: "late", what: "a route that answers after 2 s", cases: 100 };
static OTHER_WORDS: Plant = Plant { name: "other-words", what: "a route whose 400 says no errcode", cases: 100 };

/// What a miss says that is about the planted fault and about nothing else.
fn signs() -> [(&'static Plant, &'static str); 7] {
    [
        (&FORGOTTEN, "/_vestibule/admin/v1/rooms/{roomId}/knocks is not in the table"),
        (&TAKEN, "/displayname changed"),
        (&KEPT, "journal changed"),
        (&ACCEPTED, ": 200 {}"),
        (&FAILED, ": 500 "),
        (&LATE, "answered after"),
        (&OTHER_WORDS, ": 400 {\"error"),
    ]
}

fn all(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let routes = routes();
    let router: BTreeSet<String> = vestibule_api::route_map::route_patterns().into_iter().collect();
    compare_with_router(settings, outcome, &routes, &router);
    throw_all(settings, outcome, &routes, &router)?;
    outcome.count_at_least("methods of routes", count(routes.len()), METHODS_MIN);
    outcome.keep_signs(settings, &signs());
    Ok(())
}

/// The table against the router, both ways.
fn compare_with_router(settings: &Settings, outcome: &mut Outcome, routes: &[Route], router: &BTreeSet<String>) {
    let mut table: BTreeSet<String> = routes.iter().map(|route| route.pattern.clone()).collect();
    if settings.has(&FORGOTTEN) {
        table.retain(|pattern| !pattern.ends_with("/rooms/{roomId}/knocks"));
    }
    for forgotten in router.difference(&table) {
        outcome.miss(format!("the route {forgotten} is not in the table"));
    }
    for gone in table.difference(router) {
        outcome.miss(format!("{gone} is in the table and not routed"));
    }
}

fn throw_all(
    settings: &Settings,
    outcome: &mut Outcome,
    routes: &[Route],
    router: &BTreeSet<String>,
) -> Result<(), String> {
    let world = World::new()?;
    let mut used = BTreeSet::new();
    let mut requests = Vec::new();
    for (case, route) in (0..).zip(routes) {
        let rng = &mut seeds::of_case(settings.seed, case);
        requests.extend(malformed::requests(&world, routes, route, rng, &mut used)?);
    }
    requests.shuffle(&mut seeds::of_case(settings.seed, u64::MAX));
    let is_all = settings.cases >= PROOF.quick;
    if !is_all {
        requests.truncate(usize::try_from(settings.cases).unwrap_or(usize::MAX));
    }
    let mut thrower = Thrower { settings, world: &world, doors: BTreeMap::new(), used, refused: 0, passed_over: 0 };
    thrower.throw(&requests, outcome);
    let asked: BTreeSet<String> = requests.into_iter().map(|malformed| malformed.pattern).collect();
    if is_all {
        router.difference(&asked).for_each(|missed| outcome.miss(format!("nothing was thrown at {missed}")));
        exceptions::unused(&thrower.used).for_each(|unused| outcome.miss(unused));
    }
    world.harm().into_iter().for_each(|harm| outcome.miss(harm));
    outcome.count_at_least("refused as they must be", thrower.refused, settings.scaled(2_500));
    outcome.count("with parts passed over, as may be", thrower.passed_over);
    outcome.count_at_least("routes", count(asked.len()), if is_all { count(router.len()) } else { 0 });
    Ok(())
}

struct Thrower<'a> {
    settings: &'a Settings,
    world: &'a World,
    /// Connections that stay as long as the server lets them.
    doors: BTreeMap<Door, Connection>,
    used: BTreeSet<usize>,
    refused: u64,
    passed_over: u64,
}

impl Thrower<'_> {
    fn throw(&mut self, requests: &[Malformed], outcome: &mut Outcome) {
        let mut state = self.world.state();
        let (mut looks, mut slowest) = (0_u64, Duration::ZERO);
        for batch in requests.chunks(BATCH) {
            let mut accepted = Vec::new();
            for (place, malformed) in batch.iter().enumerate() {
                let begun = Instant::now();
                let answer =
                    if place == 0 { self.planted(malformed) } else { self.ask(malformed.door, &malformed.bytes) };
                let elapsed = begun.elapsed();
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => {
                        outcome.miss(format!("{}: no answer: {error}", malformed.name));
                        continue;
                    }
                };
                outcome.case();
                slowest = slowest.max(elapsed);
                if elapsed > ANSWERED_WITHIN {
                    outcome.miss(format!("{}: answered after {elapsed:?}", malformed.name));
                }
                if answer.status < 400 {
                    accepted.push(malformed.name.as_str());
                }
                self.judge(malformed, &answer, outcome);
            }
            let now = self.world.state();
            looks = looks.saturating_add(1);
            if hash(&now) != hash(&state) {
                tell_changes(&state, &now, &accepted, outcome);
                state = now;
            }
        }
        outcome.count_at_least("looks at the state", looks, self.settings.scaled(10));
        outcome.count("ms for the slowest", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
    }

    /// An answer, if no fault stands between us and it.
    fn planted(&mut self, malformed: &Malformed) -> io::Result<Answer> {
        let settings = self.settings;
        let well_formed = if settings.has(&TAKEN) {
            Some((
                "PUT",
                format!("/profile/{}/displayname", encoded(self.world.word("owner"))),
                r#"{"displayname":"x"}"#,
            ))
        } else if settings.has(&KEPT) {
            Some(("POST", format!("/user/{}/filter", encoded(self.world.word("owner"))), r#"{"event_fields":["x"]}"#))
        } else {
            None
        };
        if let Some((method, path, body)) = well_formed {
            let target = format!("/_matrix/client/v3{path}");
            let token = self.world.authorization(Caller::User, method, &target, None).unwrap_or_default();
            self.ask(Door::Client, &request(method, &target, &[("Authorization", &token)], Some(body.as_bytes())))?;
            return Ok(made_up(400, json!({ "errcode": "M_BAD_JSON", "error": "planted" })));
        }
        let answer = self.ask(malformed.door, &malformed.bytes)?;
        if settings.has(&LATE) {
            std::thread::park_timeout(Duration::from_secs(2));
        }
        Ok(if settings.has(&ACCEPTED) {
            made_up(200, json!({}))
        } else if settings.has(&FAILED) {
            made_up(500, json!({ "errcode": "M_UNKNOWN", "error": "planted" }))
        } else if settings.has(&OTHER_WORDS) {
            made_up(400, json!({ "error": "planted" }))
        } else {
            answer
        })
    }

    fn judge(&mut self, malformed: &Malformed, answer: &Answer, outcome: &mut Outcome) {
        if is_right(malformed.right, answer) {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        if let Some(place) = malformed.exception
            && let Verdict::Also(right) = EXCEPTIONS[place].verdict
            && is_right(right, answer)
        {
            self.used.insert(place);
            let counter = if answer.status < 400 { &mut self.passed_over } else { &mut self.refused };
            *counter = counter.saturating_add(1);
            return;
        }
        let Malformed { name, right, .. } = malformed;
        outcome.miss(format!("{name}: {} {}, right are {right:?}", answer.status, short(&answer.text())));
    }

    fn ask(&mut self, door: Door, bytes: &[u8]) -> io::Result<Answer> {
        if let Some(mut connection) = self.doors.remove(&door) {
            // It may have been closed since; then the request was never read.
            if let Ok(answer) = connection.exchange(bytes) {
                self.keep(door, connection, &answer);
                return Ok(answer);
            }
        }
        let mut connection = self.world.door(door).connect()?;
        let answer = connection.exchange(bytes)?;
        self.keep(door, connection, &answer);
        Ok(answer)
    }

    fn keep(&mut self, door: Door, connection: Connection, answer: &Answer) {
        // Behind a body that was not read the rest of it may still be on its way.
        if ![413, 415].contains(&answer.status) && answer.header("connection") != Some("close") {
            self.doors.insert(door, connection);
        }
    }
}

/// Status and errcode are among these, and a refusal has words.
fn is_right(right: Right, answer: &Answer) -> bool {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let errcode = body["errcode"].as_str().unwrap_or_default();
    let says_why = body["error"].as_str().is_some_and(|words| !words.is_empty());
    right.iter().any(|(status, errcodes)| *status == answer.status && errcodes.contains(&errcode))
        && (says_why || answer.status < 400)
}

fn tell_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    accepted: &[&str],
    outcome: &mut Outcome,
) {
    for (part, was) in before {
        let is = after.get(part).map(String::as_str).unwrap_or_default();
        if is != was {
            outcome.miss(format!("{part} changed from {} to {}; accepted: {accepted:?}", short(was), short(is)));
        }
    }
}

fn made_up(status: u16, body: Value) -> Answer {
    Answer { status, headers: Vec::new(), body: body.to_string().into_bytes() }
}

fn hash(state: &BTreeMap<String, String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
