//! **linear**: whatever clients do to a room at the same time, what they are told fits one order of single steps.
//! May not: know how a room orders anything.
//!
//! Sixteen clients act in four rooms at once: on the production room actors, over a store whose commits become durable late
//! and in bursts, and fail in every fifth history. Another fifth is over the production engine, on a disk that is late and, in
//! every second of these, fails. Memberships of different users are independent, so each user of each
//! room has a history of its own that is judged on its own.

mod checker;
mod clients;
mod model;
mod on_disk;

use self::checker::Verdict;
use crate::{
    proof::{Outcome, Plant, Proof, Settings},
    seeds,
};

/// Operations that the full run sees at least.
const OPERATIONS: u64 = 500 * 16 * 50;

static STALE_READ: Plant = Plant { name: "stale-read", what: "some reads show what an earlier read showed", cases: 3 };
static LOST_UPDATE: Plant = Plant { name: "lost-update", what: "some bans are answered and never made", cases: 3 };
static DONE_THOUGH_NOT_WRITTEN: Plant =
    Plant { name: "done-though-not-written", what: "some changes are made and answered as not written", cases: 3 };

pub const PROOF: Proof = Proof {
    name: "linear",
    shows: "concurrent knocks, joins, invites, kicks, bans and reads of a room fit one order of single steps",
    full: 500,
    quick: 100,
    run,
    plants: &[&STALE_READ, &LOST_UPDATE, &DONE_THOUGH_NOT_WRITTEN],
};

fn run(settings: &Settings) -> Outcome {
    let mut outcome = Outcome::default();
    let mut counts = Counts::default();
    actix_rt::System::new().block_on(async {
        for case in 0..settings.cases {
            let mut random = seeds::of_case(settings.seed, case);
            let history = match clients::record(settings, case, &mut random).await {
                Ok(history) => history,
                Err(error) => {
                    outcome.miss(format!("history {case}: {error}"));
                    continue;
                }
            };
            counts.on_disk += u64::from(history.is_on_disk);
            if !history.came_to_its_end {
                outcome.miss(format!("history {case}: clients waited for ever"));
            }
            for (place, operations) in history.by_user {
                counts.add(&operations);
                match checker::check(place.room, &operations) {
                    Verdict::Fits => {}
                    Verdict::Misfits { shortest } => outcome.miss(format!(
                        "history {case}, {} in the room with {:?}: no order fits\n{}",
                        place.user,
                        place.room.join_rule,
                        checker::tell(&shortest)
                    )),
                    Verdict::TooLong => outcome.miss(format!("history {case}: too many operations upon one user")),
                }
            }
            outcome.case();
        }
    });
    outcome.count_at_least("histories over the engine", counts.on_disk, settings.scaled(100));
    outcome.count_at_least("operations", counts.operations, settings.scaled(OPERATIONS));
    outcome.count_at_least("changes", counts.changes, settings.scaled(OPERATIONS / 10));
    outcome.count_at_least("refusals", counts.refusals, settings.scaled(OPERATIONS / 10));
    outcome.count("overtaken", counts.overtaken);
    outcome.count_at_least("not written", counts.not_written, settings.scaled(100));
    outcome.count_at_least("unknown outcomes", counts.unknown, settings.scaled(100));
    outcome.count_at_least("that overlapped another", counts.overlapping, settings.scaled(OPERATIONS / 10));
    outcome
}

#[derive(Default)]
struct Counts {
    on_disk: u64,
    operations: u64,
    changes: u64,
    refusals: u64,
    overtaken: u64,
    not_written: u64,
    unknown: u64,
    overlapping: u64,
}

impl Counts {
    fn add(&mut self, operations: &[model::Operation]) {
        use model::Answer::{Done, NotWritten, Overtaken, Refused, Seen, Unknown};
        let mut latest_return = 0;
        for operation in operations {
            self.operations += 1;
            match operation.answer {
                Done => self.changes += 1,
                Refused => self.refusals += 1,
                Overtaken => self.overtaken += 1,
                NotWritten => self.not_written += 1,
                Unknown => self.unknown += 1,
                Seen(_) => {}
            }
            if operation.called < latest_return {
                self.overlapping += 1;
            }
            latest_return = latest_return.max(operation.returned.unwrap_or(latest_return));
        }
    }
}
