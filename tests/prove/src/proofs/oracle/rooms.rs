//! Rooms as they come: everything drawn, and a walk through each in which an allowed event changes the room.
//! May not: end a walk at the first no.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

use super::{
    case::{ALICE, Case, JOIN_RULES, Levels, MEMBERSHIPS, Membership, NEXTS, Next, USERS},
    compare, rules,
};
use crate::{
    proof::{Outcome, Settings},
    seeds,
};

/// Events in a room.
pub const EVENTS: u64 = 6;
/// Levels that matter: the defaults, and what lies beside them.
const LEVELS: [i64; 10] = [-1, 0, 1, 25, 49, 50, 51, 99, 100, 101];

/// Rooms that were walked through, and events that were decided in them.
#[derive(Default)]
pub struct Walked {
    pub rooms: u64,
    pub decided: u64,
}

/// Walks through so many rooms.
pub fn walk(settings: &Settings, outcome: &mut Outcome, rooms: u64) -> Walked {
    let mut walked = Walked::default();
    for room in 0..rooms {
        let mut random = seeds::of_case(settings.seed, room);
        let mut case = draw_room(&mut random);
        let misses = outcome.misses.len();
        let cases = outcome.cases;
        for _ in 0..EVENTS {
            draw_event(&mut random, &mut case);
            compare(settings, outcome, &case, &format!("room {room}"));
            if let Some(membership) = case.next.becomes()
                && rules::allow(&case)
            {
                case.members[case.target] = membership;
            }
            if outcome.misses.len() > misses {
                break;
            }
        }
        walked.decided += outcome.cases - cases;
        walked.rooms += 1;
        // A room is one case, however many events it saw.
        outcome.cases = cases + 1;
    }
    walked
}

fn draw_room(random: &mut StdRng) -> Case {
    let version = random.random_range(3..=12);
    let creators = if random.random_ratio(1, 3) { vec![random.random_range(0..USERS.len())] } else { Vec::new() };
    Case {
        version,
        join_rule: JOIN_RULES.choose(random).copied().flatten(),
        members: std::array::from_fn(|_| {
            if random.random_bool(0.4) {
                Membership::Join
            } else {
                *MEMBERSHIPS.choose(random).unwrap_or(&Membership::None)
            }
        }),
        levels: random.random_bool(0.8).then(|| draw_levels(random, version)),
        federate: random.random_ratio(1, 6).then(|| random.random()),
        creator: if random.random_ratio(1, 10) { random.random_range(0..USERS.len()) } else { ALICE },
        creators,
        sender: ALICE,
        target: ALICE,
        next: Next::Join,
        via: None,
        third_party: None,
        is_first: false,
    }
}

fn draw_levels(random: &mut StdRng, version: u8) -> Levels {
    let mut level = |one_in: u32| random.random_ratio(1, one_in).then(|| *LEVELS.choose(random).unwrap_or(&0));
    Levels {
        users: std::array::from_fn(|_| level(2)),
        users_default: level(3),
        ban: level(3),
        kick: level(3),
        invite: level(3),
        as_text: version <= 9 && random.random_ratio(1, 5),
    }
}

fn draw_event(random: &mut StdRng, case: &mut Case) {
    case.sender = random.random_range(0..USERS.len());
    case.target = if random.random() { case.sender } else { random.random_range(0..USERS.len()) };
    case.next = *NEXTS.choose(random).unwrap_or(&Next::Join);
    case.via = random.random_ratio(1, 3).then(|| random.random_range(0..USERS.len()));
    case.is_first = random.random_ratio(1, 20);
}
