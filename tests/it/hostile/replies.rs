//! Replies that are made to cost memory, time or the process: endless, dripping, nested, compressed.
//! May not: let a reply go on for longer than whoever asked listens.

use std::{
    fs,
    net::TcpListener,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::guest::Guest;
use crate::support::{
    FakePeer, TestServer,
    foul::replies::{ENDLESS, nested, room_of},
    send_signal,
};

/// `federation.request_timeout` here.
const REQUEST_TIMEOUT: &str = "\"3s\"";

/// For one flow with two requests, on a busy machine.
const FLOW_WITHIN: Duration = Duration::from_secs(20);

/// For a well-known answer that does not come, and the way round it. Source: SECURITY V61.
const WELL_KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// What a server may take on for a reply that it does not want. Source: SECURITY V55, and room for the allocator.
const MEMORY_KIB_MAX: u64 = 32 * 1024;

/// The same where the reply may be a whole room. Ours: 64 MiB of it are read.
const ROOM_MEMORY_KIB_MAX: u64 = 64 * 1024 + MEMORY_KIB_MAX;

/// What it answers, and by how many KiB the server's memory grew at the most meanwhile.
fn grown_by<T>(server: &TestServer, act: impl FnOnce() -> T) -> (T, u64) {
    let process = format!("/proc/{}", server.pid());
    let memory_kib = |which: &str| -> u64 {
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(which)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Forgets the peak there was.
    fs::write(format!("{process}/clear_refs"), "5").unwrap();
    let before = memory_kib("VmRSS");
    let done = act();
    (done, memory_kib("VmHWM").saturating_sub(before))
}

#[test]
fn cve_2024_52791_no_reply_costs_more_memory_or_time_than_its_cap() {
    let guest = Guest::on(TestServer::new().set("federation.request_timeout", REQUEST_TIMEOUT), &[]);
    // Once fair, so that what is taken on once for all is not counted.
    guest.knock(&guest.room("11", "knock"));
    for endpoint in ["make_knock", "send_knock", "make_join", "send_join"] {
        let is_join = endpoint.ends_with("join");
        let memory_kib_max = if endpoint == "send_join" { ROOM_MEMORY_KIB_MAX } else { MEMORY_KIB_MAX };
        for (what, write) in ENDLESS {
            if (endpoint, what) == ("send_join", "drip") {
                // A room has three minutes to come; until then nobody can tell.
                continue;
            }
            let room_id = guest.room("11", if is_join { "public" } else { "knock" });
            guest.peer.answer_raw(endpoint, write);
            let begun = Instant::now();
            let (answer, grew) = grown_by(&guest.server, || {
                if is_join {
                    guest.try_join(&room_id, &["peer.test"])
                } else {
                    guest.try_knock(&room_id, &["peer.test"])
                }
            });
            let took = begun.elapsed();
            assert!(took < FLOW_WITHIN, "{endpoint} {what}: {took:?}");
            assert!(grew < memory_kib_max, "{endpoint} {what}: {grew} KiB");
            // A knock that was sent may have been taken: its user hears that nobody said so, or that it was.
            assert!([200, 502, 504].contains(&answer.status), "{endpoint} {what}: {} {}", answer.status, answer.text());
            guest.anna.sync("timeout=0");
            guest.peer.play_fair(endpoint);
        }
    }
    guest.knock(&guest.room("11", "knock"));
}

#[test]
fn cve_2024_52791_nor_does_what_is_read_of_a_room_grow() {
    let guest = Guest::new();
    guest.try_join(&guest.room("11", "public"), &["peer.test"]).ok();
    for value in ["[…1]", "[{\"content\":[…1]}]", "{\"a\":[…1]}"] {
        let room_id = guest.room("11", "public");
        guest.peer.answer_raw("send_join", room_of(value));
        let (answer, grew) = grown_by(&guest.server, || guest.try_join(&room_id, &["peer.test"]));
        assert_eq!(answer.status, 502, "{value}: {}", answer.text());
        assert!(grew < ROOM_MEMORY_KIB_MAX, "{value}: {grew} KiB");
        guest.peer.play_fair("send_join");
    }
}

#[test]
fn cve_2024_52791_nor_does_a_transaction() {
    let guest = Guest::new();
    let room_id = guest.anna.knockable_room("11");
    guest.peer.make_knock(&guest.server, &room_id, &guest.peer.user("ann")).ok();
    let many = "1,".repeat(6 * 1024 * 1024);
    for list in ["pdus", "edus"] {
        let target = format!("/_matrix/federation/v1/send/{list}");
        // Signed by nobody: what is read before that is known costs whoever likes.
        let header = guest.peer.authorization("PUT", &target, None);
        let body = format!("{{\"{list}\":[{many}1]}}");
        let headers = [("Authorization", header.as_str())];
        let (answer, grew) =
            grown_by(&guest.server, || guest.server.federation().ask("PUT", &target, &headers, Some(body.as_bytes())));
        assert!([400, 401].contains(&answer.status), "{}", answer.text());
        assert!(grew < 2 * MEMORY_KIB_MAX, "{list}: {grew} KiB");
    }
    guest.anna.sync("timeout=0");
}

#[test]
fn cve_2021_21274_keys_come_within_their_cap_or_not_at_all() {
    let peers: Vec<FakePeer> = (0..ENDLESS.len()).map(|number| FakePeer::new(&format!("foul{number}.test"))).collect();
    let server = TestServer::new().set("federation.request_timeout", REQUEST_TIMEOUT);
    let guest = Guest::on(server, &peers.iter().collect::<Vec<_>>());
    let room_id = guest.anna.knockable_room("11");
    for (peer, (what, write)) in peers.iter().zip(ENDLESS) {
        peer.answer_raw("server", write);
        let begun = Instant::now();
        let (answer, grew) = grown_by(&guest.server, || peer.make_knock(&guest.server, &room_id, &peer.user("ann")));
        let took = begun.elapsed();
        answer.refused(401, "M_UNAUTHORIZED");
        assert!(took < FLOW_WITHIN, "{what}: {took:?}");
        assert!(grew < MEMORY_KIB_MAX, "{what}: {grew} KiB");
    }
    guest.peer.make_knock(&guest.server, &room_id, &guest.peer.user("ann")).ok();
}

/// Where the port that such an answer comes from is not ours to have, `federation::discovery` alone tells.
#[test]
fn cve_2021_21274_a_well_known_comes_within_its_cap_or_not_at_all() {
    let Ok(listener) = TcpListener::bind("127.0.0.1:443") else { return };
    let peer = FakePeer::listening("localhost", "1", listener);
    let mut guest = Guest::new();
    let room_id = guest.anna.knockable_room("11");
    for (what, write) in ENDLESS {
        // What was found out before is not asked again.
        guest.server.stop();
        guest.server.restart();
        guest.peer.make_knock(&guest.server, &room_id, &guest.peer.user("ann")).ok();
        let (ask, asked) = mpsc::channel();
        let ask = Mutex::new(ask);
        peer.answer_raw("", move |out| {
            // Nobody hears it once the test is over.
            let _ = ask.lock().unwrap().send(());
            write(out)
        });
        let begun = Instant::now();
        let (answer, grew) = grown_by(&guest.server, || peer.make_knock(&guest.server, &room_id, &peer.user("ann")));
        let took = begun.elapsed();
        answer.refused(401, "M_UNAUTHORIZED");
        assert!(asked.try_recv().is_ok(), "{what}: it was asked for");
        assert!(took < WELL_KNOWN_WITHIN, "{what}: {took:?}");
        assert!(grew < MEMORY_KIB_MAX, "{what}: {grew} KiB");
    }
}

#[test]
fn cve_2022_31052_nested_replies_end_no_process() {
    let foul = ["deep1.test", "deep2.test"].map(FakePeer::new);
    let guest = Guest::with(&[&foul[0], &foul[1]]);
    for levels in [127, 129, 100_000] {
        for endpoint in ["make_knock", "send_knock", "make_join", "send_join"] {
            let room_id = guest.room("11", if endpoint.ends_with("join") { "public" } else { "knock" });
            guest.peer.answer_raw(endpoint, nested(levels));
            let answer = match endpoint {
                "make_knock" | "send_knock" => guest.try_knock(&room_id, &["peer.test"]),
                _ => guest.try_join(&room_id, &["peer.test"]),
            };
            // What a knock was answered with may be anything; it was taken.
            let right = if endpoint == "send_knock" { 200 } else { 502 };
            assert_eq!(answer.status, right, "{endpoint} {levels}: {}", answer.text());
            guest.peer.play_fair(endpoint);
        }
    }
    for (peer, levels) in foul.iter().zip([129, 30_000]) {
        peer.answer_raw("server", nested(levels));
        let room_id = guest.anna.knockable_room("11");
        peer.make_knock(&guest.server, &room_id, &peer.user("ann")).refused(401, "M_UNAUTHORIZED");
    }
    // An event with as much, from who may speak.
    let room_id = guest.anna.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    guest.peer.join(&guest.server, &room_id, &guest.peer.user("bob")).ok();
    let deep: Value = serde_json::from_str(&format!("{}{}", "[".repeat(100), "]".repeat(100))).unwrap();
    let pdu = json!({ "type": "m.room.message", "room_id": room_id, "content": { "deep": deep } });
    guest.peer.send(&guest.server, &[pdu]).ok();
    guest.anna.sync("timeout=0");
    send_signal("0", guest.server.pid());
    guest.knock(&guest.room("11", "knock"));
}
