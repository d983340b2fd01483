//! Work that has no end, or that others have to wait for: graphs, waiting, spaces that hold themselves, many transactions at once.
//! May not: measure a machine. What is bounded is compared with what it should cost.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::ground::{Ground, deliver, next_event};
use crate::support::{Answer, FakePeer, SignedEvent, TestServer, encoded};

/// Events of the wide graph, as many as a transaction holds at a time.
const GRAPH_EVENTS: usize = 500;
const AT_A_TIME: usize = 50;

/// What the last transaction of it may cost, in those of the first: a work that grows with the graph costs ten times as much.
const TIMES_THE_FIRST: u32 = 4;

/// What it may take of the journal, in bytes of its events. Source: SECURITY V63; the look-up store is made of the journal.
const TIMES_THE_INPUT: u64 = 3;

/// Requests that wait, from one address: fewer than an address has connections.
const WAITING: usize = 40;

/// What every other look at another room may take meanwhile. Source: SECURITY V66.
const LOOKED_WITHIN: Duration = Duration::from_millis(200);

/// Longer than anything here takes that comes at all.
const COMES_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of all files in a directory.
fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
            Ok(metadata) => metadata.len(),
            // It was there a moment ago.
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn cve_2024_31208_a_wide_graph_of_what_authorizes_costs_what_its_events_cost() {
    let ground = Ground::new();
    let peer = &ground.peer;
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let users: Vec<String> = (0..5).map(|number| peer.user(&format!("bob{number}"))).collect();
    for user_id in &users {
        peer.join(&ground.server, &room_id, user_id).ok();
    }
    let mut powers: BTreeMap<&str, u64> = users.iter().map(|user_id| (user_id.as_str(), 100)).collect();
    powers.insert(&ground.owner.user_id, 100);
    ground.owner.set_state(&room_id, "m.room.power_levels", "", json!({ "users": powers }));
    let state = ground.state_of(&room_id);
    let id_of = |kind: &str, key: &str| state[&(kind.to_owned(), key.to_owned())].clone();
    let (create, rules) = (id_of("m.room.create", ""), id_of("m.room.join_rules", ""));
    let mut levels = id_of("m.room.power_levels", "");
    let mut members: Vec<String> = users.iter().map(|user_id| id_of("m.room.member", user_id)).collect();
    let first = next_event(&ground, peer, &room_id, &users[0]);
    let depth = first.event["depth"].as_u64().unwrap();
    let mut last = first.event["prev_events"][0].as_str().unwrap().to_owned();
    // By turns everybody says who may do what, and who they are: each event stands upon the one before it and upon the newest of
    // all others.
    let mut events: Vec<SignedEvent> = Vec::new();
    for number in 0..GRAPH_EVENTS {
        let (user, is_levels) = (number % users.len(), number % 2 == 0);
        let (kind, key, content, mut cited) = if is_levels {
            let content = json!({ "users": powers, "events": { "test.turn": number % 100 } });
            ("m.room.power_levels", "", content, vec![&create, &levels, &members[user]])
        } else {
            let content = json!({ "membership": "join", "displayname": format!("Bob, for the {number}th time") });
            ("m.room.member", users[user].as_str(), content, vec![&create, &levels, &members[user], &rules])
        };
        cited.sort();
        let event = first.clone().with("type", json!(kind)).with("state_key", json!(key)).with("content", content);
        let event = event.with("sender", json!(users[user])).with("auth_events", json!(cited));
        let place = depth + u64::try_from(number).unwrap();
        let signed = peer.sign(event.with("prev_events", json!([last])).with("depth", json!(place)));
        last.clone_from(&signed.event_id);
        if is_levels {
            levels.clone_from(&signed.event_id);
        } else {
            members[user].clone_from(&signed.event_id);
        }
        events.push(signed);
    }
    let input: usize = events.iter().map(|event| serde_json::to_string(&event.event).unwrap().len()).sum();
    let before = bytes_in(&ground.server.data_dir().join("journal"));
    let mut took = Vec::new();
    for some in events.chunks(AT_A_TIME) {
        let begun = Instant::now();
        let answer = deliver(&ground, peer, &some.iter().collect::<Vec<_>>());
        took.push(begun.elapsed());
        assert!(answer.as_object().unwrap().values().all(|verdict| *verdict == json!({})), "{answer}");
    }
    assert_eq!(ground.state_event(&room_id, "m.room.power_levels"), levels, "all were taken");
    // The first of all is slower than it need be, and any one may meet a busy machine.
    let (first, last) = (took[1].min(took[2]), took[took.len() - 2].min(took[took.len() - 1]));
    assert!(last < first * TIMES_THE_FIRST, "{took:?}");
    let grown = bytes_in(&ground.server.data_dir().join("journal")).saturating_sub(before);
    assert!(grown < TIMES_THE_INPUT * u64::try_from(input).unwrap(), "{grown} bytes for {input}");
    ground.still_serves();
}

/// Milliseconds for which a process has been at work.
fn worked_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in brackets, is the one field that may hold blanks.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10
}

#[test]
fn cve_2026_45078_who_waits_keeps_nobody_busy_and_holds_nobody_up() {
    let other = FakePeer::new("other.test");
    let server = TestServer::new()
        .set("rate_limit.enabled", "true")
        .set("rate_limit.requests_by_origin", "{ per_second = 0.25, burst = 30 }")
        .set("listener.1.tls", "false");
    let ground = Ground::on(server, &[&other]);
    let (busy, quiet) = (ground.owner.knockable_room("11"), ground.owner.knockable_room("11"));
    let ask = |peer: &FakePeer, room_id: &str| {
        let begun = Instant::now();
        let answer = peer.make_knock(&ground.server, room_id, &peer.user("ann"));
        (answer.status, begun.elapsed())
    };
    // Over its rate; from here on each of its requests is held for seconds.
    let turn = (0..60).find(|_| ask(&ground.peer, &busy).1 > Duration::from_secs(1));
    assert!(turn.is_some(), "nobody is held");
    let (begun, worked) = (Instant::now(), worked_ms(ground.server.pid()));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..WAITING).map(|_| scope.spawn(|| ask(&ground.peer, &busy))).collect();
        let mut looks: Vec<Duration> = Vec::new();
        for _ in 0..20 {
            let (status, took) = ask(&other, &quiet);
            assert_eq!(status, 200);
            looks.push(took);
        }
        looks.sort();
        assert!(looks[looks.len() / 2] < LOOKED_WITHIN, "{looks:?}");
        for one in waiting {
            let (status, took) = one.join().unwrap();
            assert!([200, 429].contains(&status), "{status} after {took:?}");
        }
    });
    let (lasted, worked) = (begun.elapsed(), worked_ms(ground.server.pid()) - worked);
    assert!(lasted > Duration::from_secs(2), "they were held: {lasted:?}");
    assert!(u128::from(worked) * 2 < lasted.as_millis(), "{worked} ms of work in {lasted:?}");
}

#[test]
fn continuwuity_cc1f667c2_a_space_that_holds_itself_is_told_once() {
    let ground = Ground::new();
    let space = || {
        ground.owner.create_room(json!({
            "preset": "public_chat", "room_version": "11", "creation_content": { "type": "m.space" }
        }))
    };
    let spaces = [space(), space(), space()];
    // A ring, of which each also holds itself, and the next one by two events.
    for (number, space) in spaces.iter().enumerate() {
        let next = &spaces[(number + 1) % spaces.len()];
        for child in [space, next] {
            ground.owner.set_state(space, "m.space.child", child, json!({ "via": ["vestibule.test"] }));
        }
        ground.owner.set_state(space, "m.space.child", "no room at all", json!({ "via": ["vestibule.test"] }));
    }
    for (number, space) in spaces.iter().enumerate() {
        let target = format!("/_matrix/federation/v1/hierarchy/{}?suggested_only=false", encoded(space));
        let told = ground.peer.ask(&ground.server, "GET", &target, None).ok();
        assert_eq!(told["room"]["room_id"], json!(space));
        let children: Vec<&Value> = told["children"].as_array().unwrap().iter().map(|room| &room["room_id"]).collect();
        assert_eq!(children, [&json!(spaces[(number + 1) % spaces.len()])]);
    }
    ground.still_serves();
}

/// What holds others up until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(closed, COMES_WITHIN, |is_open| !*is_open).unwrap());
    }
}

#[test]
fn transactions_of_one_server_beyond_its_places_are_put_off_and_those_of_another_are_not() {
    const PLACES: usize = 4;
    let other = FakePeer::new("other.test");
    let ground = Ground::with(&[&other]);
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let bob = ground.peer.user("bob");
    ground.peer.join(&ground.server, &room_id, &bob).ok();
    for endpoint in ["event", "state_ids", "state"] {
        ground.peer.refuse(endpoint, 404, "M_NOT_FOUND");
    }
    // What it sends lies behind what it takes its time to tell.
    let gate = Gate::default();
    let passed = gate.clone();
    ground.peer.before_answering("get_missing_events", move || passed.pass());
    ground.peer.answer_with("get_missing_events", 200, json!({ "events": [] }));
    let events: Vec<Value> = (0..2 * PLACES)
        .map(|number| {
            let event = next_event(&ground, &ground.peer, &room_id, &bob);
            let event = event.with("prev_events", json!([format!("${number:A>43}")])).with("depth", json!(99));
            serde_json::to_value(&ground.peer.sign(event).event).unwrap()
        })
        .collect();
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel::<Answer>();
        for event in &events {
            let tell = tell.clone();
            let ground = &ground;
            scope.spawn(move || tell.send(ground.peer.send(&ground.server, std::slice::from_ref(event))).unwrap());
        }
        for _ in 0..PLACES {
            let answer = told.recv_timeout(COMES_WITHIN).unwrap();
            answer.refused(429, "M_LIMIT_EXCEEDED");
            assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        }
        other.send(&ground.server, &[]).ok();
        gate.open();
        for _ in 0..PLACES {
            told.recv_timeout(COMES_WITHIN).unwrap().ok();
        }
    });
    ground.peer.send(&ground.server, &[]).ok();
    ground.still_serves();
}
