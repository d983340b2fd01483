//! Every cell: versions, join rules, memberships before and after, oneself or another, and what powers and doors there are.
//! May not: leave a cell out, or draw.

use super::{
    case::{
        ALICE, BOB, CAROL, Case, DAVE, EVE, JOIN_RULES, Key, Levels, MEMBERSHIPS, Membership, NEXTS, Next, ThirdParty,
        USERS,
    },
    compare,
};
use crate::proof::{Outcome, Settings};

/// What else is the case, besides the five axes.
type Variant = (&'static str, fn(&mut Case));

/// Powers of whoever acts upon Bob, what that one is to the room, and everything else the rules look at.
const VARIANTS: &[Variant] = &[
    ("no power levels, the creator acts", |case| act_as(case, ALICE)),
    ("no power levels, another acts", |_| {}),
    ("power levels without the creator", |case| {
        act_as(case, ALICE);
        case.levels = Some(Levels::default());
    }),
    ("50 upon 0", |case| powers(case, 50, 0)),
    ("49 upon 0", |case| powers(case, 49, 0)),
    ("50 upon 49", |case| powers(case, 50, 49)),
    ("50 upon 50", |case| powers(case, 50, 50)),
    ("50 upon 51", |case| powers(case, 50, 51)),
    ("0 upon -1", |case| powers(case, 0, -1)),
    ("50, invite 51", |case| levels(case, 50, 0).invite = Some(51)),
    ("-1 upon -2", |case| powers(case, -1, -2)),
    ("50, ban 51", |case| levels(case, 50, 0).ban = Some(51)),
    ("50, kick 51", |case| levels(case, 50, 0).kick = Some(51)),
    ("0, ban 0 and kick 0, upon -1", |case| {
        let levels = levels(case, 0, -1);
        (levels.ban, levels.kick) = (Some(0), Some(0));
    }),
    ("users_default 50 upon 0", |case| {
        let levels = levels(case, 0, 0);
        (levels.users[CAROL], levels.users_default) = (None, Some(50));
    }),
    ("50 as text", |case| levels(case, 50, 49).as_text = true),
    ("100, but knocking", |case| absent(case, Membership::Knock)),
    ("100, but invited", |case| absent(case, Membership::Invite)),
    ("100, but gone", |case| absent(case, Membership::Leave)),
    ("100, but banned", |case| absent(case, Membership::Ban)),
    ("100, but never there", |case| absent(case, Membership::None)),
    ("one creator upon another", |case| {
        act_as(case, ALICE);
        case.creators = vec![BOB, DAVE];
        case.levels = Some(Levels::default());
    }),
    ("an additional creator acts", |case| {
        case.creators = vec![CAROL];
        powers(case, 0, 100);
    }),
    ("another upon a creator", |case| {
        case.creators = vec![BOB];
        powers(case, 100, 0);
    }),
    ("not federated, from elsewhere", |case| {
        case.federate = Some(false);
        powers(case, 100, 0);
    }),
    ("not federated, from its server", |case| {
        case.federate = Some(false);
        act_as(case, DAVE);
        levels(case, 100, 0).users[DAVE] = Some(100);
    }),
    ("federated by name", |case| case.federate = Some(true)),
    ("vouched for by a member", |case| vouch(case, Membership::Join, None)),
    ("vouched for by a member who may not invite", |case| vouch(case, Membership::Join, Some(1))),
    ("vouched for by somebody invited", |case| vouch(case, Membership::Invite, None)),
    ("vouched for by somebody gone", |case| vouch(case, Membership::Leave, None)),
    ("vouched for by nobody known", |case| vouch(case, Membership::None, None)),
    ("vouched for by oneself", |case| case.via = Some(BOB)),
    ("the first event", |case| case.is_first = true),
    ("the first event, of the creator", |case| {
        case.is_first = true;
        become_creator(case);
    }),
    ("the first event, of whom the content calls creator", |case| {
        case.is_first = true;
        case.creator = BOB;
    }),
    ("no power levels, the content calls another creator", |case| {
        act_as(case, ALICE);
        case.creator = CAROL;
    }),
];

fn act_as(case: &mut Case, user: usize) {
    if case.sender != case.target {
        case.sender = user;
    }
}

/// Carol's level and Bob's, and the defaults.
fn powers(case: &mut Case, acting: i64, target: i64) {
    levels(case, acting, target);
}

/// As [`powers`], to be changed further.
fn levels(case: &mut Case, acting: i64, target: i64) -> &mut Levels {
    let mut users = [None; USERS.len()];
    (users[ALICE], users[CAROL], users[BOB]) = (Some(100), Some(acting), Some(target));
    case.levels.insert(Levels { users, ..Levels::default() })
}

fn absent(case: &mut Case, membership: Membership) {
    levels(case, 100, 0);
    if case.sender != case.target {
        case.members[case.sender] = membership;
    }
}

fn vouch(case: &mut Case, membership: Membership, invite: Option<i64>) {
    case.via = Some(EVE);
    case.members[EVE] = membership;
    levels(case, 50, 0).invite = invite;
}

/// Alice is the target, with what Bob was.
fn become_creator(case: &mut Case) {
    case.members[ALICE] = case.members[BOB];
    if case.sender == case.target {
        case.sender = ALICE;
    }
    case.target = ALICE;
}

/// Compares all cells; how many there were.
pub fn compare_all(settings: &Settings, outcome: &mut Outcome) -> u64 {
    let before = outcome.cases;
    for version in 3..=12 {
        for join_rule in JOIN_RULES {
            for prior in MEMBERSHIPS {
                for next in NEXTS {
                    for sender in [BOB, CAROL] {
                        for (what, change) in VARIANTS {
                            let mut case = cell(version, join_rule, prior, next, sender);
                            change(&mut case);
                            // From version 10 a room cannot have such levels: the event is refused.
                            if case.levels.as_ref().is_none_or(|levels| !levels.as_text || version <= 9) {
                                compare(settings, outcome, &case, what);
                            }
                        }
                    }
                }
            }
        }
        third_parties(version, settings, outcome);
    }
    outcome.cases - before
}

/// One cell, in a room of Alice's where Carol and Dave are in and Bob is the target.
pub fn cell(version: u8, join_rule: Option<&'static str>, prior: Membership, next: Next, sender: usize) -> Case {
    let mut members = [Membership::None; USERS.len()];
    (members[ALICE], members[CAROL], members[DAVE], members[BOB]) =
        (Membership::Join, Membership::Join, Membership::Join, prior);
    Case {
        version,
        join_rule,
        members,
        levels: None,
        federate: None,
        creator: ALICE,
        creators: Vec::new(),
        sender,
        target: BOB,
        next,
        via: None,
        third_party: None,
        is_first: false,
    }
}

fn third_parties(version: u8, settings: &Settings, outcome: &mut Outcome) {
    for prior in MEMBERSHIPS {
        for (has_signed, has_token) in [(true, true), (true, false), (false, true)] {
            for mxid in [None, Some(BOB), Some(EVE)] {
                for issued_by in [None, Some(CAROL), Some(ALICE)] {
                    for key in [Key::Named, Key::Listed, Key::Elsewhere] {
                        for sender_is in [Membership::Join, Membership::Leave] {
                            let mut case = cell(version, Some("invite"), prior, Next::Invite, CAROL);
                            case.members[CAROL] = sender_is;
                            case.third_party = Some(ThirdParty { has_signed, mxid, has_token, issued_by, key });
                            compare(settings, outcome, &case, "by a third party");
                        }
                    }
                }
            }
        }
    }
}
