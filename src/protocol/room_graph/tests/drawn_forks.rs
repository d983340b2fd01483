//! Drawn rooms full of forks: after every event the graph's states equal those of the plain algorithm.
//! May not: draw from anything but the seed that it prints.

use std::collections::BTreeSet;

use ruma::{OwnedEventId, OwnedUserId, RoomVersionId, events::room::member::MembershipState};
use serde_json::json;

use super::oracle::{Oracle, difference};
use crate::{
    clock::UnixMillis,
    fixture::{ALICE, BOB, CAROL, EPOCH, EventSpec, RoomFixture},
    room_graph::PathCounts,
    state::StateMap,
};

/// Drawn forks of each of the six versions: events that do not cite all forward extremities. Together more than 10,000.
const FORKS_PER_VERSION: u64 = 1_700;

/// Events of one drawn room.
const EVENTS_PER_ROOM: usize = 30;

const MODERATOR: &str = "@moderator:resident.test";

const STRANGERS: [&str; 7] = [
    "@dora:peer.test",
    "@emil:peer.test",
    "@finn:third.test",
    "@gerd:third.test",
    "@hans:fourth.test",
    "@ines:fourth.test",
    "@jola:resident.test",
];

/// Pseudo-random numbers (splitmix64) from a seed.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Says which room a failed test was drawing.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of the room was {:#x}", self.0);
        }
    }
}

/// What a drawn room is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Everybody does anything.
    Turbulent,
    /// Few knock, all are answered, and who was let in comes.
    Tended,
    /// Many knock at once.
    Rush,
}

/// What somebody in a drawn room tries, legal or not.
fn attempt(draw: &mut Draw, mood: Mood, room: &RoomFixture) -> EventSpec {
    let (knocks, answers) = match mood {
        Mood::Turbulent => (0, 0),
        Mood::Tended => (50, 95),
        Mood::Rush => (90, 97),
    };
    let (knockers, chance) = (if mood == Mood::Rush { 200 } else { 40 }, draw.below(100));
    if chance < knocks {
        return EventSpec::knock(&format!("@knocker{}:server{}.test", draw.below(knockers), draw.below(2)));
    }
    let waiting: Vec<OwnedUserId> = [MembershipState::Knock, MembershipState::Invite]
        .iter()
        .flat_map(|membership| room.state().users_with(membership))
        .collect();
    if chance >= answers || waiting.is_empty() {
        return anything(draw);
    }
    let user_id = waiting[draw.below(waiting.len())].as_str();
    let answerer = draw.of(&[ALICE, MODERATOR]);
    match draw.below(20) {
        0..6 => EventSpec::invite(answerer, user_id),
        6..9 => EventSpec::kick(answerer, user_id),
        9..11 => EventSpec::ban(answerer, user_id),
        11..16 => EventSpec::join(user_id),
        16 => EventSpec::leave(user_id),
        17 => EventSpec::message(answerer, "next, please"),
        // Another member event of those who answer.
        18 => EventSpec::join(answerer).with("displayname", json!(draw.below(100).to_string())),
        _ if draw.percent(50) => EventSpec::kick(ALICE, MODERATOR),
        _ => EventSpec::join(MODERATOR),
    }
}

/// What everybody may try in a turbulent room.
fn anything(draw: &mut Draw) -> EventSpec {
    let stranger = draw.of(&STRANGERS);
    let anybody = if draw.percent(25) { draw.of(&[BOB, CAROL, MODERATOR]) } else { stranger };
    let actor = draw.of(&[ALICE, ALICE, ALICE, MODERATOR, MODERATOR, BOB]);
    match draw.below(100) {
        0..36 => EventSpec::knock(stranger).with("reason", json!(draw.below(1_000).to_string())),
        36..44 => EventSpec::join(anybody),
        44..52 => EventSpec::invite(actor, anybody),
        52..64 => EventSpec::kick(actor, anybody),
        64..72 => EventSpec::ban(actor, anybody),
        72..77 => EventSpec::leave(anybody),
        77..84 => {
            let rules = ["knock", "knock", "knock", "public", "invite", "restricted", "knock_restricted", "x.custom"];
            EventSpec::join_rule(actor, draw.of(&rules))
        }
        84..91 => power_levels(draw, actor),
        91..95 => EventSpec::state(actor, "m.room.topic", json!({ "topic": draw.below(1_000).to_string() })),
        _ => EventSpec::message(actor, "hello"),
    }
}

fn power_levels(draw: &mut Draw, sender: &str) -> EventSpec {
    let mut levels = vec![(MODERATOR.to_owned(), draw.of(&[0, 50, 50, 75])), (BOB.to_owned(), draw.of(&[0, 0, 50]))];
    // Version 12 refuses to name creators; the draw decides, the rules judge.
    if sender == ALICE || draw.percent(50) {
        levels.push((ALICE.to_owned(), 100));
    }
    EventSpec::power_levels(sender, &levels)
        .with("kick", json!(draw.of(&[50, 50, 0])))
        .with("invite", json!(draw.of(&[0, 50])))
}

/// Which events a drawn one cites: all extremities, those of a template made a while ago, or any recent ones.
fn draw_prev_events(
    draw: &mut Draw,
    room: &RoomFixture,
    template: &[OwnedEventId],
    history: &[OwnedEventId],
) -> Vec<OwnedEventId> {
    let recent = &history[history.len().saturating_sub(14)..];
    match draw.below(100) {
        0..40 => room.cite(),
        40..70 => template.to_vec(),
        70..90 => vec![recent[draw.below(recent.len())].clone()],
        _ => {
            let count = 2 + draw.below(2);
            let ids: BTreeSet<OwnedEventId> = (0..count).map(|_| recent[draw.below(recent.len())].clone()).collect();
            ids.into_iter().collect()
        }
    }
}

/// A clock that is mostly right, sometimes an hour off, sometimes the same as another's.
fn draw_clock(draw: &mut Draw, right: UnixMillis) -> UnixMillis {
    match draw.below(10) {
        0 => UnixMillis(right.0 - 3_600_000),
        1 => UnixMillis(right.0 + 3_600_000),
        2 => EPOCH,
        _ => right,
    }
}

fn new_room(version_id: &RoomVersionId) -> RoomFixture {
    RoomFixture::knockable(version_id.clone()).power(MODERATOR, 50).join(MODERATOR).join(BOB).join(CAROL).build()
}

/// The oracle of a room, with all that the room has so far in it.
fn oracle_of(room: &RoomFixture) -> (Oracle, Vec<OwnedEventId>) {
    let mut oracle = Oracle::new(room.version().clone());
    let mut history: Vec<OwnedEventId> = room.events().keys().cloned().collect();
    history.sort_by_key(|id| room.events()[id].depth());
    for event_id in &history {
        oracle.append(&room.events()[event_id]);
    }
    (oracle, history)
}

fn assert_same(what: &str, ours: &StateMap, oracle: &Oracle, after: &BTreeSet<OwnedEventId>) {
    if let Some(difference) = difference(ours, &oracle.state_after(after)) {
        panic!("{what} differs:\n{difference}");
    }
}

/// Draws one room and judges every step. Returns it, its oracle, and how its events were placed.
pub(crate) fn draw_room(version_id: &RoomVersionId, seed: u64) -> (RoomFixture, Oracle, PathCounts) {
    let _seed = Seed(seed);
    let mut draw = Draw(seed);
    let mood = draw.of(&[Mood::Turbulent, Mood::Tended, Mood::Tended, Mood::Rush]);
    let mut room = new_room(version_id);
    let (mut oracle, mut history) = oracle_of(&room);
    let mut template = room.cite();
    let mut counts = PathCounts::default();
    for _ in 0..EVENTS_PER_ROOM {
        if draw.percent(20) {
            template = room.cite();
        }
        if draw.percent(3) {
            counts = sum(counts, room.graph().path_counts());
            room.restart();
            assert_same("the restarted state", room.state(), &oracle, &oracle.extremities);
        }
        let prev_events = draw_prev_events(&mut draw, &room, &template, &history);
        let cited: BTreeSet<OwnedEventId> = prev_events.iter().cloned().collect();
        let before = room.state_before(&prev_events).unwrap();
        assert_same("the state before", before.state(), &oracle, &cited);
        let at = draw_clock(&mut draw, room.now());
        let spec = attempt(&mut draw, mood, &room).citing(&prev_events).at(at);
        // Some servers select auth events from another state than that before the event.
        let authorizing = if draw.percent(5) { room.state().clone() } else { before.state().clone() };
        let event = room.make_upon(spec, &authorizing);
        let Ok(appended) = room.admit(event.clone()) else { continue };
        oracle.append(&event);
        history.push(event.event_id().to_owned());
        assert!(room.graph().extremity_ids().eq(oracle.extremities.iter()), "the extremities differ");
        assert_same("the current state", room.state(), &oracle, &oracle.extremities);
        if appended.rows.is_empty() {
            continue;
        }
        assert_eq!(&room.stored_state(appended.current), room.state(), "the stored current state differs");
        assert_eq!(&room.stored_state(appended.before), before.state(), "the stored state before differs");
    }
    let counts = sum(counts, room.graph().path_counts());
    (room, oracle, counts)
}

fn sum(left: PathCounts, right: PathCounts) -> PathCounts {
    PathCounts { linear: left.linear + right.linear, short: left.short + right.short, full: left.full + right.full }
}

/// Draws rooms of a version until there were enough forks.
fn draw_forks(version_id: &RoomVersionId, first_seed: u64) {
    let mut counts = PathCounts::default();
    let mut seed = first_seed;
    while counts.short + counts.full < FORKS_PER_VERSION {
        counts = sum(counts, draw_room(version_id, seed).2);
        seed += 1;
    }
    println!("version {version_id}: {} rooms from seed {first_seed:#x}, {counts:?}", seed - first_seed);
    assert!(counts.short > FORKS_PER_VERSION / 10, "too few forks took the short path to test it: {counts:?}");
    assert!(counts.full > FORKS_PER_VERSION / 10, "too few forks took the full path to test it: {counts:?}");
}

macro_rules! drawn_forks_resolve_as_the_plain_algorithm {
    ($($name:ident: $version:ident, $seed:literal;)*) => {$(
        #[test]
        fn $name() {
            draw_forks(&RoomVersionId::$version, $seed);
        }
    )*};
}

drawn_forks_resolve_as_the_plain_algorithm! {
    drawn_forks_of_version_7_resolve_as_the_plain_algorithm: V7, 0x7000_0000;
    drawn_forks_of_version_8_resolve_as_the_plain_algorithm: V8, 0x8000_0000;
    drawn_forks_of_version_9_resolve_as_the_plain_algorithm: V9, 0x9000_0000;
    drawn_forks_of_version_10_resolve_as_the_plain_algorithm: V10, 0xa000_0000;
    drawn_forks_of_version_11_resolve_as_the_plain_algorithm: V11, 0xb000_0000;
    drawn_forks_of_version_12_resolve_as_the_plain_algorithm: V12, 0xc000_0000;
}

/// How often knocks met forks, and how many of them took the short path.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    forks: u64,
    short: u64,
}

/// A busy door: nine of ten events are knocks, made from templates that several knockers got and that may be stale by now.
/// The others are what a moderator does: accept, deny, ban, talk; whoever was accepted comes in. In each hundred events
/// `unrest` change the room itself: its topic, its levels, its join rules, or a knock is repeated.
fn draw_busy_door(version_id: &RoomVersionId, seed: u64, unrest: usize) -> Met {
    const KNOCKS: usize = 160;
    let _seed = Seed(seed);
    let mut draw = Draw(seed);
    let mut room = new_room(version_id);
    let (mut oracle, _) = oracle_of(&room);
    let mut templates = vec![room.cite()];
    let mut met = Met::default();
    let mut knockers = 0;
    while knockers < KNOCKS {
        if draw.percent(25) {
            templates.push(room.cite());
        }
        // Some are slow and come with a template from before the newest two.
        let newest = templates.len() - 1;
        let template = templates[newest.saturating_sub(draw.of(&[0, 0, 0, 1, 1, 2]))].clone();
        let is_knock = draw.percent(90);
        let waiting = |membership| room.state().users_with(&membership);
        let spec = if draw.percent(unrest) {
            match (draw.below(4), waiting(MembershipState::Knock).first()) {
                (0, _) => EventSpec::state(ALICE, "m.room.topic", json!({ "topic": knockers.to_string() })),
                (1, _) => power_levels(&mut draw, ALICE),
                (2, Some(knocker)) => EventSpec::knock(knocker.as_str()).citing(&template),
                _ => EventSpec::join_rule(ALICE, "knock"),
            }
        } else if is_knock {
            knockers += 1;
            EventSpec::knock(&format!("@knocker{knockers}:server{}.test", knockers % 20)).citing(&template)
        } else {
            match (
                draw.below(5),
                waiting(MembershipState::Knock).as_slice(),
                waiting(MembershipState::Invite).as_slice(),
            ) {
                (0, [.., last], _) => EventSpec::kick(MODERATOR, last.as_str()),
                (1, [first, ..], _) => EventSpec::invite(ALICE, first.as_str()),
                (2, [first, ..], _) => EventSpec::ban(MODERATOR, first.as_str()),
                (3, _, [accepted, ..]) => EventSpec::join(accepted.as_str()),
                _ => EventSpec::message(ALICE, "one moment, please"),
            }
        };
        let is_plain_knock = is_knock && room.membership(spec.sender().as_str()) == MembershipState::Leave;
        let at = draw_clock(&mut draw, room.now());
        let event = room.make(spec.at(at));
        let before = room.graph().path_counts();
        if room.admit(event.clone()).is_err() {
            continue;
        }
        oracle.append(&event);
        let after = room.graph().path_counts();
        if is_plain_knock && event.membership() == Some(MembershipState::Knock) && after.linear == before.linear {
            met.forks += 1;
            met.short += after.short - before.short;
        }
        if knockers % 8 == 0 {
            assert_same("the current state", room.state(), &oracle, &oracle.extremities);
        }
    }
    assert_same("the last state", room.state(), &oracle, &oracle.extremities);
    met
}

#[test]
fn nine_of_ten_plain_knocks_on_a_busy_door_take_the_short_path() {
    use RoomVersionId::{V7, V8, V9, V10, V11, V12};
    for (version_id, seed) in [(V7, 0x71), (V8, 0x81), (V9, 0x91), (V10, 0xa1), (V11, 0xb1), (V12, 0xc1)] {
        let calm = draw_busy_door(&version_id, seed, 0);
        let unruly = draw_busy_door(&version_id, seed, 2);
        println!("version {version_id}: {calm:?}, with unrest {unruly:?}");
        assert!(calm.forks >= 100, "version {version_id}: {calm:?}");
        assert!(calm.short * 10 >= calm.forks * 9, "version {version_id}: {calm:?}");
    }
}
