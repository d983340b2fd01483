//! **oracle**: what rooms decide is what a second reading of the specification, written as plain data, decides.
//! May not: know how production decides; the two meet only in the cases.

mod acl;
pub mod case;
pub mod matrix;
mod production;
mod rooms;
pub mod rules;
mod selection;

use self::case::{Case, Membership, Next};
use crate::proof::{Outcome, Plant, Proof, Settings};

/// Cells of the matrix of rules: always all of them.
const CELLS: u64 = 256_000;
/// Selections of auth events: always all of them.
const SELECTIONS: u64 = 15_000;
/// Rooms that are walked through in a full run.
const ROOMS: u64 = 100_000;

static KNOCK_UNDER_RESTRICTED: Plant =
    Plant { name: "knock-under-restricted", what: "knocks find `knock_restricted` for `restricted`", cases: 100 };
static KNOCK_WHILE_INVITED: Plant =
    Plant { name: "knock-while-invited", what: "the room forgets an invite when its user knocks", cases: 100 };
static BAN_FORGOTTEN: Plant =
    Plant { name: "ban-forgotten", what: "the room takes a banned user for one who left", cases: 100 };
static EQUAL_POWER: Plant =
    Plant { name: "equal-power", what: "the room lets users turn out their equals", cases: 100 };

pub const PROOF: Proof = Proof {
    name: "oracle",
    shows: "membership rules, auth events and server ACLs decide as a second reading of the specification does",
    full: CELLS + SELECTIONS + ROOMS + acl::ACLS,
    quick: CELLS + SELECTIONS + ROOMS / 5 + acl::ACLS / 5,
    run,
    plants: &[
        &KNOCK_UNDER_RESTRICTED,
        &KNOCK_WHILE_INVITED,
        &BAN_FORGOTTEN,
        &EQUAL_POWER,
        &acl::UNANCHORED,
        &selection::ANY_AUTH_EVENT,
    ],
};

fn run(settings: &Settings) -> Outcome {
    let mut outcome = Outcome::default();
    acl::compare(settings, &mut outcome);
    if settings.has(&acl::UNANCHORED) {
        return outcome;
    }
    let selections = selection::compare_all(settings, &mut outcome);
    let cells = matrix::compare_all(settings, &mut outcome);
    let rooms = settings.scaled(ROOMS).max(settings.cases.min(ROOMS / 5));
    let walked = rooms::walk(settings, &mut outcome, rooms);
    outcome.count_at_least("cells", cells, CELLS);
    outcome.count_at_least("selections of auth events", selections, SELECTIONS);
    outcome.count_at_least("rooms", walked.rooms, settings.scaled(ROOMS));
    outcome.count_at_least("decisions in them", walked.decided, rooms * rooms::EVENTS);
    outcome
}

/// Puts one case before both.
fn compare(settings: &Settings, outcome: &mut Outcome, case: &Case, what: &str) {
    let expected = rules::allow(case);
    outcome.case();
    let decided = match production::decide(&as_production_sees_it(settings, case)) {
        Ok(decided) => decided,
        Err(error) => return outcome.miss(format!("{what}: it was not put before the room: {error}: {case:?}")),
    };
    if decided.is_ok() != expected {
        let refusal = decided.err().map_or_else(|| "allowed".to_owned(), |reason| format!("refused: {reason}"));
        outcome.miss(format!("{what}: {refusal}, and the oracle says {expected}: {case:?}"));
    }
}

/// The case itself, unless a fault is planted.
fn as_production_sees_it(settings: &Settings, case: &Case) -> Case {
    let mut seen = case.clone();
    // Only for knocks: versions 8 and 9 know no `knock_restricted`, and refuse joins under it.
    if settings.has(&KNOCK_UNDER_RESTRICTED) && seen.next == Next::Knock && seen.join_rule == Some("restricted") {
        seen.join_rule = Some("knock_restricted");
    }
    if settings.has(&KNOCK_WHILE_INVITED) && seen.next == Next::Knock && seen.prior() == Membership::Invite {
        seen.members[seen.target] = Membership::Leave;
    }
    if settings.has(&BAN_FORGOTTEN) && seen.prior() == Membership::Ban {
        seen.members[seen.target] = Membership::Leave;
    }
    if settings.has(&EQUAL_POWER) && seen.sender != seen.target {
        let (sender, target) = (seen.power(seen.sender), seen.power(seen.target));
        if let Some(levels) = &mut seen.levels
            && sender == target
        {
            levels.users[seen.target] = Some(target.saturating_sub(1));
        }
    }
    seen
}
