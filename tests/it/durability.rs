//! What was acknowledged is there after the process was killed or asked to end, once, and nothing else is.
//! May not: ask the server what it acknowledged; the ledger is kept by those who sent.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    FakePeer, LIMITABLE, SignedEvent, TestServer, User, encoded, limit_files, send_knock_target, send_signal, until,
};

const ROUNDS: usize = 10;
const CONNECTIONS: usize = 5;
const KNOCKS_PER_CONNECTION: usize = 4;

/// What the program promises after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Event id by user: what was sent, and which of it was answered with 200.
#[derive(Default)]
struct Ledger {
    sent: BTreeMap<String, String>,
    acknowledged: BTreeMap<String, String>,
}

impl Ledger {
    /// Every acknowledged knock waits, each once, and nobody else does.
    #[track_caller]
    fn is_kept(&self, server: &TestServer, owner: &User, room_id: &str) {
        let waiting = owner.members(room_id, "?membership=knock");
        let mut kept: BTreeMap<String, String> = BTreeMap::new();
        for event in &waiting {
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            let earlier = kept.insert(text("state_key"), text("event_id"));
            assert_eq!(earlier, None, "twice: {event}");
        }
        for (user_id, event_id) in &self.acknowledged {
            assert_eq!(kept.get(user_id), Some(event_id), "{user_id} was acknowledged");
        }
        for (user_id, event_id) in &kept {
            assert_eq!(self.sent.get(user_id), Some(event_id), "{user_id} was sent");
        }
        assert_eq!(server.knock_totals()["pending"], json!(kept.len()));
        // In the timeline, too, each stands once.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut from = String::new();
        loop {
            let path = format!("/rooms/{}/messages?dir=b&limit=100{from}", encoded(room_id));
            let page = owner.get(&path);
            for event in page["chunk"].as_array().unwrap() {
                *seen.entry(event["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        for (user_id, event_id) in &kept {
            assert_eq!(seen.get(event_id), Some(&1), "{user_id} in the timeline");
        }
    }
}

/// Sends knocks over several connections until all are answered or the server is gone, and `meanwhile` in this thread.
fn send_all<T>(
    server: &TestServer,
    peers: &[FakePeer],
    room_id: &str,
    knocks: &[(usize, String, SignedEvent)],
    ledger: &mut Ledger,
    meanwhile: impl FnOnce(&AtomicUsize) -> T,
) -> T {
    let answered = AtomicUsize::new(0);
    let acknowledged = Mutex::new(BTreeMap::new());
    ledger.sent.extend(knocks.iter().map(|(_, user_id, knock)| (user_id.clone(), knock.event_id.clone())));
    let federation = server.federation();
    let done = thread::scope(|scope| {
        for share in knocks.chunks(knocks.len().div_ceil(CONNECTIONS)) {
            let mut connection = federation.connect().unwrap();
            let (answered, acknowledged) = (&answered, &acknowledged);
            scope.spawn(move || {
                for (peer, user_id, knock) in share {
                    let target = send_knock_target(room_id, &knock.event_id);
                    match peers[*peer].ask_on(&mut connection, "PUT", &target, Some(&knock.event)) {
                        Ok(answer) if answer.status == 200 => {
                            acknowledged.lock().unwrap().insert(user_id.clone(), knock.event_id.clone());
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(answer) => {
                            // Only a server that is about to end may say no, and then it says so.
                            assert_eq!(answer.status, 503, "{}", answer.text());
                            return;
                        }
                        Err(_) => return,
                    }
                }
            });
        }
        meanwhile(&answered)
    });
    ledger.acknowledged.extend(acknowledged.into_inner().unwrap());
    done
}

/// Signed knocks by users who never knocked before, all from one template.
fn fresh_knocks(
    server: &TestServer,
    peers: &[FakePeer],
    room_id: &str,
    round: usize,
    count: usize,
) -> Vec<(usize, String, SignedEvent)> {
    let template = peers[0].knock_template(server, room_id, &peers[0].user("template"));
    let knocks = (0..count).map(|number| {
        let peer = number % peers.len();
        let user_id = peers[peer].user(&format!("user{round}x{number}"));
        let knock = peers[peer].sign(template.clone().for_user(&user_id).with_reason(&format!("round {round}")));
        (peer, user_id, knock)
    });
    knocks.collect()
}

fn stage() -> (TestServer, Vec<FakePeer>, User, String) {
    let peers = vec![FakePeer::new("one.test"), FakePeer::new("two.test")];
    let server =
        TestServer::new().knowing(&[&peers[0], &peers[1]]).set("knock.max_pending_per_origin_in_room", "1000").start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("11");
    (server, peers, owner, room_id)
}

#[test]
fn kill_loses_no_acknowledged_knock_and_doubles_none() {
    let (mut server, peers, owner, room_id) = stage();
    let mut ledger = Ledger::default();
    for round in 0..ROUNDS {
        let all = CONNECTIONS * KNOCKS_PER_CONNECTION;
        let knocks = fresh_knocks(&server, &peers, &room_id, round, all);
        // From the first answer to the last, so that every part of the work is hit.
        let enough = (all * (round + 1)).div_ceil(ROUNDS);
        let pid = server.pid();
        send_all(&server, &peers, &room_id, &knocks, &mut ledger, |answered| {
            until("answers", || (answered.load(Ordering::SeqCst) >= enough).then_some(()));
            send_signal("KILL", pid);
        });
        server.ended();
        server.restart();
        ledger.is_kept(&server, &owner, &room_id);
    }
    assert!(ledger.acknowledged.len() >= 110, "{} of 200", ledger.acknowledged.len());
    assert!(server.run(&["verify"]).ok().contains("sound"));
    // Who is unsure whether it arrived sends the same again, and it stays one knock.
    let knocks = fresh_knocks(&server, &peers, &room_id, ROUNDS, 1);
    let (_, user_id, knock) = &knocks[0];
    ledger.sent.insert(user_id.clone(), knock.event_id.clone());
    ledger.acknowledged.insert(user_id.clone(), knock.event_id.clone());
    for _ in 0..2 {
        peers[0].send_knock(&server, &room_id, knock).ok();
        server.kill();
        server.restart();
    }
    ledger.is_kept(&server, &owner, &room_id);
}

#[test]
fn termination_under_load_is_orderly_and_loses_nothing() {
    let (mut server, peers, owner, room_id) = stage();
    let mut ledger = Ledger::default();
    for round in 0..3 {
        let knocks = fresh_knocks(&server, &peers, &room_id, round, 100);
        let pid = server.pid();
        let begun = send_all(&server, &peers, &room_id, &knocks, &mut ledger, |answered| {
            until("answers", || (answered.load(Ordering::SeqCst) >= 15).then_some(()));
            send_signal("TERM", pid);
            Instant::now()
        });
        assert_eq!(server.ended(), Some(0));
        assert!(begun.elapsed() < STOP_WITHIN, "{:?}", begun.elapsed());
        server.restart();
        ledger.is_kept(&server, &owner, &room_id);
    }
}

#[test]
fn termination_ends_a_long_poll_and_does_not_wait_for_it() {
    let (mut server, _, owner, _) = stage();
    let since = owner.now();
    let polling = {
        let owner = owner.clone();
        thread::spawn(move || owner.ask("GET", &format!("/sync?since={since}&timeout=30000"), None))
    };
    let waiting = || {
        let metrics = server.ask_admin("/metrics").text();
        metrics.lines().any(|line| line == "vestibule_sync_waiting 1").then_some(())
    };
    until("the client waits", waiting);
    let (code, took) = server.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let answer = polling.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Requests on a full disk, until the look-up store should have met it.
const ASKED_MEANWHILE: usize = 2_000;

#[test]
fn disk_that_was_full_is_written_again_without_a_restart() {
    let server = TestServer::new().under(&LIMITABLE).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("12");
    let tell = |transaction: &str, body: &str| {
        let target = format!("/rooms/{}/send/m.room.message/{transaction}", encoded(&room_id));
        owner.try_put(&target, json!({ "msgtype": "m.text", "body": body })).status
    };
    let say = |words: &str| tell(words, words);
    // The look-up store fails on a thread of its own, which writes twice a second if there is something to write, and then for
    // good until it is opened again. Changes reach it by the 256 KiB.
    let long = "long ".repeat(10_000);
    let fails = |attempt: usize| {
        for number in 0..8 {
            until("it writes", || (tell(&format!("long{attempt}n{number}"), &long) == 200).then_some(()));
        }
        limit_files(server.pid(), "0");
        // Whoever was heard last may hear that nobody knows; whoever comes then is refused.
        say("unknown");
        let has_failed = (0..ASKED_MEANWHILE).any(|_| {
            // Who meets the room as it goes gets 500.
            assert!([500, 503].contains(&say("refused")));
            server.log().contains("ERROR sled::")
        });
        if !has_failed {
            limit_files(server.pid(), "unlimited");
        }
        has_failed
    };
    // It may have written just before the limit came.
    assert!((0..3).any(fails), "the look-up store has failed");
    let read = owner.try_get(&format!("/rooms/{}/members", encoded(&room_id))).status;
    assert!([200, 503].contains(&read), "{read}");
    assert_eq!(say("refused"), 503);
    limit_files(server.pid(), "unlimited");
    until("it writes again", || (say("again") == 200).then_some(()));
    let bodies = |owner: &User| -> Vec<String> {
        let page = owner.get(&format!("/rooms/{}/messages?dir=b&limit=10", encoded(&room_id)));
        let events = page["chunk"].as_array().unwrap().iter();
        events.filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
    };
    let said = bodies(&owner);
    assert!(said.contains(&"again".to_owned()) && !said.contains(&"refused".to_owned()), "{said:?}");
    assert_eq!(server.totals()["rooms_quarantined"], json!({}));
    assert_eq!(server.run(&["verify"]).code, Some(0));
}
