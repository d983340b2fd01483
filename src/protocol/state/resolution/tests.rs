//! The shortened input resolves as the whole input does.
//! May not: judge by the shortened resolution; the oracle of the graph's tests is the judge.

use ruma::{
    OwnedEventId, RoomVersionId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{AuthEvents, resolve};
use crate::{
    fixture::{ALICE, BOB, CAROL, EVE, EventSpec, RoomFixture, user},
    room_graph::tests::{
        drawn_forks::{Draw, draw_room},
        oracle::{FullState, difference},
    },
    state::StateMap,
};

const VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

fn of_ours(room: &RoomFixture, full: &FullState) -> StateMap {
    full.values().map(|id| room.events()[id].clone()).collect()
}

#[test]
fn any_states_of_a_room_resolve_as_by_the_plain_algorithm() {
    const ROOMS: u64 = 4;
    const DRAWS: usize = 20;
    for version_id in &VERSIONS[1..] {
        for seed in 0..ROOMS {
            let (room, oracle, _) = draw_room(version_id, 0xe000_0000 + seed);
            let ids: Vec<OwnedEventId> = room.events().keys().cloned().collect();
            let mut draw = Draw(seed);
            for _ in 0..DRAWS {
                // States that no graph would ask to resolve together are fair too.
                let count = 1 + draw.below(5);
                let full: Vec<FullState> =
                    (0..count).map(|_| oracle.after(&ids[draw.below(ids.len())]).clone()).collect();
                let states: Vec<StateMap> = full.iter().map(|state| of_ours(&room, state)).collect();
                assert!(room.known().unknown(&states).is_empty());
                let resolved = resolve(room.version(), &states, room.known()).unwrap();
                let difference = difference(&resolved, &oracle.resolve(&full));
                assert_eq!(difference, None, "version {version_id}, seed {seed}");
            }
        }
    }
}

#[test]
fn nothing_resolves_to_nothing_and_one_state_to_itself() {
    for version_id in VERSIONS {
        let room = RoomFixture::with_join_rule(version_id, Some("invite")).join(BOB).build();
        assert_eq!(resolve(room.version(), &[], room.known()), Ok(StateMap::default()));
        let same = vec![room.state().clone(); 3];
        assert_eq!(resolve(room.version(), &same, &AuthEvents::default()), Ok(room.state().clone()));
    }
}

#[test]
fn the_order_of_states_does_not_matter() {
    for version_id in &VERSIONS[1..] {
        let mut room = RoomFixture::knockable(version_id.clone()).power(CAROL, 50).join(BOB).join(CAROL).build();
        let fork = room.cite();
        let mut states = Vec::new();
        for spec in [EventSpec::knock(EVE), EventSpec::ban(CAROL, BOB), EventSpec::join_rule(ALICE, "public")] {
            let event = room.append(spec.citing(&fork));
            let mut state = room.state_before(&fork).unwrap().state().clone();
            state.insert(event);
            states.push(state);
        }
        let first = resolve(room.version(), &states, room.known()).unwrap();
        for order in [[1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            let other: Vec<StateMap> = order.iter().map(|index| states[*index].clone()).collect();
            assert_eq!(resolve(room.version(), &other, room.known()).unwrap(), first, "version {version_id}");
        }
        assert_eq!(&first, room.state(), "version {version_id}");
    }
}

/// Two states of one room, and what must be known to resolve them.
fn forked(version_id: &RoomVersionId) -> (RoomFixture, Vec<StateMap>) {
    let mut room = RoomFixture::knockable(version_id.clone()).power(CAROL, 50).join(BOB).join(CAROL).build();
    let fork = room.cite();
    let before = room.state_before(&fork).unwrap().state().clone();
    let states = [EventSpec::ban(CAROL, BOB), EventSpec::ban(ALICE, CAROL)]
        .into_iter()
        .map(|spec| {
            let event = room.append(spec.citing(&fork));
            let mut state = before.clone();
            state.insert(event);
            state
        })
        .collect();
    (room, states)
}

#[test]
fn what_is_unknown_is_named_until_it_is_brought() {
    for version_id in &VERSIONS[1..] {
        let (room, states) = forked(version_id);
        let mut events = AuthEvents::default();
        events.insert_states(&states);
        let mut rounds = 0;
        loop {
            let unknown = events.unknown(&states);
            if unknown.is_empty() {
                break;
            }
            rounds += 1;
            for event_id in unknown {
                assert!(events.get(&event_id).is_none());
                events.insert(room.events()[&event_id].clone());
            }
        }
        assert!(rounds > 0, "version {version_id}: the invites of the members are in no state, so must be asked for");
        let resolved = resolve(room.version(), &states, &events).unwrap();
        assert_eq!(&resolved, room.state(), "version {version_id}");
    }
}

#[test]
fn a_missing_auth_event_is_asked_for_once_and_then_counts_as_none() {
    for version_id in &VERSIONS[1..] {
        let (room, states) = forked(version_id);
        let mut events = AuthEvents::default();
        events.insert_states(&states);
        let missing = events.unknown(&states);
        assert!(!missing.is_empty());
        for event_id in missing {
            events.insert_absent(event_id);
        }
        assert!(events.unknown(&states).is_empty(), "version {version_id}");
        // Alice's ban of Carol has all that it needs and outdoes Carol's ban of Bob. But Bob's join was authorized by the
        // invite that cannot be had.
        let resolved = resolve(room.version(), &states, &events).unwrap();
        let mut expected = room.state().clone();
        assert_eq!(expected.membership(&user(BOB)), MembershipState::Join, "version {version_id}");
        expected.remove(&(StateEventType::RoomMember, BOB.to_owned()));
        assert_eq!(resolved, expected, "version {version_id}");
    }
}
