//! **syncorder**: what the operating system sees: the journal is synced before a knock is answered.
//! May not: pass without a tracer; a machine that has none shows nothing.

use std::{fs, thread};

use vestibule_scenery::{FakePeer, Trace, send_knock_target, tracer};

use crate::{
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

pub const PROOF: Proof = Proof {
    name: "syncorder",
    shows: "under strace, a sync of the journal begins after the record and returns before the 200 leaves",
    full: 50,
    // As many: most of the time goes into starting a traced program.
    quick: 50,
    run: |settings| Outcome::of(settings, watch),
    plants: &[&SWAPPED],
};

static SWAPPED: Plant = Plant { name: "swapped", what: "in the trace, one answer stands before its sync", cases: 50 };

const CONNECTIONS: usize = 5;
/// Name of the trace in the server's working directory.
const TRACE: &str = "trace";

fn watch(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let peer = FakePeer::new("peer.test");
    let mut server = program::server()?.knowing(&[&peer]).under(&tracer(TRACE)).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("12");
    let template = peer.knock_template(&server, &room_id, &peer.user("template"));
    let each = usize::try_from(settings.cases).unwrap_or(usize::MAX).div_ceil(CONNECTIONS);
    let marks: Vec<Vec<String>> = (0..CONNECTIONS)
        .map(|connection| (0..each).map(|number| format!("mark-{connection}-{number}-")).collect())
        .collect();
    let ports = thread::scope(|scope| {
        let knocking: Vec<_> = marks
            .iter()
            .map(|marks| {
                let (peer, template, room_id, door) = (&peer, &template, &room_id, server.federation());
                scope.spawn(move || -> Result<u16, String> {
                    let mut connection = door.connect().map_err(|error| error.to_string())?;
                    for mark in marks {
                        let knock = peer.sign(template.clone().for_user(&peer.user(mark)).with_reason(mark));
                        let target = send_knock_target(room_id, &knock.event_id);
                        let answer = peer.ask_on(&mut connection, "PUT", &target, Some(&knock.event));
                        let status = answer.map_err(|error| error.to_string())?.status;
                        if status != 200 {
                            return Err(format!("{mark} was answered with {status}"));
                        }
                    }
                    Ok(connection.local.port())
                })
            })
            .collect();
        let ended = knocking.into_iter().map(|thread| thread.join().map_err(|_| "a knocker panicked".to_owned())?);
        ended.collect::<Result<Vec<u16>, String>>()
    })?;
    let (code, _) = server.stop();
    if code != Some(0) {
        outcome.miss(format!("it ended with {code:?}"));
    }
    let bytes = fs::read(server.home().join(TRACE)).map_err(|error| format!("{TRACE}: {error}"))?;
    // Bytes of other calls need not be text.
    let text = String::from_utf8_lossy(&bytes);
    let all = marks.concat();
    let mut trace = Trace::read(&text, &all);
    if settings.has(&SWAPPED) {
        trace = Trace::read(&swapped(&text, &trace, &marks, &ports).ok_or("there is nothing to swap")?, &all);
    }
    for (marks, port) in marks.iter().zip(&ports) {
        let answers = trace.answered.get(port).cloned().unwrap_or_default();
        if answers.len() != marks.len() {
            outcome.miss(format!("{} answers of {} on port {port}", answers.len(), marks.len()));
        }
        for (mark, answered) in marks.iter().zip(answers) {
            outcome.case();
            if trace.sync_of(mark, answered).is_none() {
                outcome.miss(format!("{mark}: no sync between its record and its answer, line {answered}"));
            }
        }
    }
    Ok(())
}

/// The trace with the first answer and the end of its sync in each other's places.
fn swapped(text: &str, trace: &Trace, marks: &[Vec<String>], ports: &[u16]) -> Option<String> {
    let answered = *trace.answered.get(ports.first()?)?.first()?;
    let (_, ended) = trace.sync_of(marks.first()?.first()?, answered)?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(answered, ended);
    Some(lines.join("\n"))
}
