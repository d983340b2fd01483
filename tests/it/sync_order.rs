//! What the operating system sees: the journal is synced before a knock is answered.
//! May not: pass on a machine of ours without looking; only where there is no tracer and nobody claims to be thorough it is told
//! loudly that nothing was looked at.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
    process::Command,
    thread,
};

use crate::support::{FakePeer, TestServer, send_knock_target};

const CONNECTIONS: usize = 5;
const KNOCKS_PER_CONNECTION: usize = 10;

/// One line of the trace about a call that began or ended.
struct Step<'a> {
    thread: &'a str,
    what: &'a str,
}

/// A write into the journal, a sync of it, and the writing of an answer, by their lines in the trace.
#[derive(Default)]
struct Trace {
    /// Line on which the write of a knock's record had ended, by the knock's mark.
    recorded: BTreeMap<String, usize>,
    /// First and last line of each sync of the journal.
    synced: Vec<(usize, usize)>,
    /// Lines on which the writing of a 200 began, by the client's port.
    answered: BTreeMap<u16, Vec<usize>>,
}

impl Trace {
    fn read(text: &str, marks: &[String]) -> Self {
        let mut trace = Self::default();
        // What a thread began and did not end yet: the marks it writes, or that it syncs, and since when.
        let mut writing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut syncing: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some((thread, what)) = line.split_once(' ') else { continue };
            let step = Step { thread, what: what.trim_start() };
            let is_unfinished = step.what.ends_with("<unfinished ...>");
            if step.what.starts_with("<... ") {
                if let Some(begun) = syncing.remove(step.thread) {
                    trace.synced.push((begun, number));
                }
                for mark in writing.remove(step.thread).unwrap_or_default() {
                    trace.recorded.insert(mark, number);
                }
                continue;
            }
            let call = step.what.split('(').next().unwrap_or("");
            let is_on_journal = step.what.contains(".journal>");
            if ["fsync", "fdatasync"].contains(&call) && is_on_journal {
                if is_unfinished {
                    syncing.insert(step.thread, number);
                } else {
                    trace.synced.push((number, number));
                }
            } else if call.contains("write") && is_on_journal {
                let written: Vec<String> = marks.iter().filter(|mark| step.what.contains(*mark)).cloned().collect();
                if is_unfinished {
                    writing.insert(step.thread, written);
                } else {
                    trace.recorded.extend(written.into_iter().map(|mark| (mark, number)));
                }
            } else if step.what.contains("HTTP/1.1 200 OK") {
                let port = step
                    .what
                    .split("->")
                    .nth(1)
                    .and_then(|rest| rest.split(']').next()?.rsplit(':').next()?.parse().ok());
                if let Some(port) = port {
                    trace.answered.entry(port).or_default().push(number);
                }
            }
        }
        trace
    }

    /// Whether a sync began after the knock was written and ended before the line.
    fn was_synced(&self, mark: &str, answered: usize) -> bool {
        let recorded = self.recorded.get(mark);
        recorded.is_some_and(|recorded| self.synced.iter().any(|(begun, ended)| recorded < begun && *ended < answered))
    }
}

#[test]
fn every_admission_is_synced_before_its_answer() {
    if Command::new("strace").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed, and CI must look");
        // Past the capture of tests that pass: this must not go unread.
        let _ =
            io::stderr().write_all(b"\nNOT LOOKED AT: without strace nobody saw whether answers wait for the sync\n");
        return;
    }
    let calls = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,sendto,sendmsg";
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new()
        .knowing(&[&peer])
        // What goes over the wire has to be readable in the trace.
        .set("listener.1.tls", "false")
        .under(&["strace", "-f", "-yy", "-s", "65536", "-e", calls, "-e", "signal=none", "-o", "trace"])
        .start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("12");
    let template = peer.knock_template(&server, &room_id, &peer.user("template"));
    let marks: Vec<Vec<String>> = (0..CONNECTIONS)
        .map(|connection| (0..KNOCKS_PER_CONNECTION).map(|number| format!("mark-{connection}-{number}-")).collect())
        .collect();
    let mut ports = Vec::new();
    thread::scope(|scope| {
        for marks in &marks {
            let mut connection = server.federation().connect().unwrap();
            ports.push(connection.local.port());
            let (peer, template, room_id) = (&peer, &template, &room_id);
            scope.spawn(move || {
                for mark in marks {
                    let knock = peer.sign(template.clone().for_user(&peer.user(mark)).with_reason(mark));
                    let target = send_knock_target(room_id, &knock.event_id);
                    peer.ask_on(&mut connection, "PUT", &target, Some(&knock.event)).unwrap().ok();
                }
            });
        }
    });
    assert_eq!(server.knock_totals()["admitted"], CONNECTIONS * KNOCKS_PER_CONNECTION);
    let home = server.home().to_owned();
    let mut server = server;
    assert_eq!(server.stop().0, Some(0));
    judge(&home.join("trace"), &marks, &ports);
}

fn judge(file: &Path, marks: &[Vec<String>], ports: &[u16]) {
    // Bytes of other calls need not be text.
    let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    let trace = Trace::read(&text, &marks.concat());
    let mut in_order = 0;
    for (marks, port) in marks.iter().zip(ports) {
        assert_eq!(trace.answered[port].len(), marks.len(), "answers on port {port}");
        in_order += marks.iter().zip(&trace.answered[port]).filter(|(mark, at)| trace.was_synced(mark, **at)).count();
    }
    assert_eq!(in_order, CONNECTIONS * KNOCKS_PER_CONNECTION, "a sync between record and answer");
}

#[test]
fn a_trace_without_the_sync_in_its_place_is_told_apart() {
    let record = r#"7 write(9</d/journal/1.journal>, "..mark-a..", 10) = 10"#;
    let [begun, ended] = ["7 fdatasync(9</d/journal/1.journal> <unfinished ...>", "7 <... fdatasync resumed>) = 0"];
    let answer = r#"8 sendto(5<TCP:[127.0.0.1:80->127.0.0.1:4000]>, "HTTP/1.1 200 OK\r\n", 17, 0, NULL, 0) = 17"#;
    let other = "7 fdatasync(9</d/sled/db>) = 0";
    for (lines, expected) in [
        (&[record, begun, ended, answer][..], true),
        (&[record, answer, begun, ended], false),
        (&[record, begun, answer, ended], false),
        (&[begun, record, ended, answer], false),
        (&[record, other, answer], false),
        (&[begun, ended, answer], false),
    ] {
        let trace = Trace::read(&lines.join("\n"), &["mark-a".to_owned()]);
        assert_eq!(trace.was_synced("mark-a", trace.answered[&4000][0]), expected, "{lines:#?}");
    }
}
