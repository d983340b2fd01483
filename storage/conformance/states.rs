//! Facts about the state of rooms: current, past, and what an actor starts from.
//! May not: ask for timelines or memberships.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId,
    events::{StateEventType, room::member::MembershipState},
};
use vestibule_protocol::state::{StateKey, StateMap, StateVersion};

use super::{
    World,
    fixture::{RoomFixture, content, local, remote},
    survey::event_text,
};
use crate::{
    error::StorageError,
    room::{MemberCounts, RoomSnapshot, StateVersionRow},
};

type State = BTreeMap<StateKey, OwnedEventId>;
type Changes = BTreeMap<StateKey, Option<OwnedEventId>>;

fn ids_of(state: &StateMap) -> State {
    state.iter().map(|(key, event)| (key.clone(), event.event_id().to_owned())).collect()
}

fn difference(older: &StateMap, newer: &StateMap) -> Changes {
    let changes = older.changes_to(newer).into_iter();
    changes.map(|change| (change.key, change.event.map(|event| event.event_id().to_owned()))).collect()
}

async fn current_ids(world: &World, fixture: &RoomFixture) -> State {
    let stored = world.stores().rooms.current_state(fixture.room_id()).await.unwrap();
    let count = stored.len();
    let state: State = stored
        .into_iter()
        .map(|stored| (stored.event.state_entry().unwrap(), stored.event.event_id().to_owned()))
        .collect();
    assert_eq!(state.len(), count, "each key once");
    state
}

async fn snapshot(world: &World, fixture: &RoomFixture) -> RoomSnapshot {
    world.stores().rooms.snapshot(fixture.room_id()).await.unwrap().unwrap()
}

async fn changes(
    world: &World,
    fixture: &RoomFixture,
    older: StateVersion,
    newer: StateVersion,
) -> Result<Option<Changes>, StorageError> {
    world.stores().rooms.state_changes(fixture.room_id(), older, newer).await
}

fn topic(text: &str) -> ruma::CanonicalJsonObject {
    content(&[("topic", text)])
}

/// A room whose state went through joins, replacements, removals, full copies and forks.
async fn room_with_a_past(world: &World) -> RoomFixture {
    let (mut fixture, commit) = RoomFixture::create("past");
    world.room(commit).await;
    for round in 0..4 {
        let name = format!("user{round}");
        world.room(fixture.state_event("m.room.topic", "", topic(&name))).await;
        world.room(fixture.member(&local(&name), MembershipState::Invite)).await;
        world.room(fixture.member(&local(&name), MembershipState::Join)).await;
        world.room(fixture.knock(&remote(&name), "hello")).await;
        world.room(fixture.knock_beside_newest(&remote(&format!("twin{round}")), "hello")).await;
        if round == 1 {
            fixture.copy_state_fully_next();
        }
        world.room(fixture.message(&local(&name), "hello")).await;
        world.room(fixture.message_that_removes("m.room.member", remote(&name).as_str())).await;
        if round == 2 {
            fixture.copy_state_fully_next();
            world.room(fixture.state_event("org.example.kind", &name, topic(&name))).await;
        }
    }
    fixture
}

/// Each commit moves the current state; messages leave it.
pub async fn current_state_is_that_of_the_last_commit(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
    world.room(fixture.member(&local("bob"), MembershipState::Join)).await;
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
    world.room(fixture.message(&local("bob"), "hello")).await;
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
    world.room(fixture.state_event("m.room.topic", "", topic("one"))).await;
    world.room(fixture.state_event("m.room.topic", "", topic("two"))).await;
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
    let stored = world.stores().rooms.current_state(fixture.room_id()).await.unwrap();
    for stored in stored {
        let row = &fixture.events()[stored.event.event_id()];
        assert_eq!(stored.event.json(), row.event.json());
        assert_eq!(stored.order, row.order);
    }
}

/// Members can be listed in an order that stays.
pub async fn current_state_of_a_type_is_in_the_order_of_state_keys(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    for name in ["zoe", "bob", "bobby", "anna", "B-ob"] {
        world.room(fixture.member(&local(name), MembershipState::Invite)).await;
        world.room(fixture.member(&remote(name), MembershipState::Invite)).await;
    }
    let stored = world.stores().rooms.current_state_of_type(fixture.room_id(), &"m.room.member".into()).await.unwrap();
    let found: Vec<_> = stored.iter().map(|stored| stored.event.state_key().unwrap().to_owned()).collect();
    let kind = StateEventType::RoomMember;
    let expected: Vec<_> = fixture.state().of_type(&kind).map(|(key, _)| key.to_owned()).collect();
    assert_eq!(found.len(), 11);
    assert_eq!(found, expected);
}

/// Type and state key are two things, also when one begins like the other or is empty.
pub async fn state_types_that_begin_alike_are_not_mixed(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let keys = [
        ("org.a", ""),
        ("org.a", "b"),
        ("org.ab", ""),
        ("org.ab", "c"),
        ("org.a", "\u{0}"),
        ("org.a.b", "c"),
        ("org.a", "bc"),
    ];
    for (kind, state_key) in keys {
        world.room(fixture.state_event(kind, state_key, topic(&format!("{kind} {state_key}")))).await;
    }
    let rooms = &world.stores().rooms;
    for (kind, state_key) in keys {
        let stored = rooms.current_state_event(fixture.room_id(), &kind.into(), state_key).await.unwrap().unwrap();
        assert_eq!(stored.event.state_entry().unwrap(), (kind.into(), state_key.to_owned()));
    }
    let of_type = rooms.current_state_of_type(fixture.room_id(), &"org.a".into()).await.unwrap();
    let found: Vec<_> = of_type.iter().map(|stored| stored.event.state_key().unwrap()).collect();
    assert_eq!(found, ["", "\u{0}", "b", "bc"]);
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
}

/// One key, one event.
pub async fn current_state_event_is_found_by_type_and_key(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.member(&local("bob"), MembershipState::Join)).await;
    let joined = fixture.newest().to_owned();
    let rooms = &world.stores().rooms;
    let kind = StateEventType::RoomMember;
    let bob = rooms.current_state_event(fixture.room_id(), &kind, local("bob").as_str()).await.unwrap().unwrap();
    assert_eq!(bob.event.event_id(), joined);
    assert!(rooms.current_state_event(fixture.room_id(), &kind, "").await.unwrap().is_none());
    assert!(rooms.current_state_event(fixture.room_id(), &"m.room.topic".into(), "").await.unwrap().is_none());
}

/// What resolution takes away is not in the current state any more.
pub async fn removed_state_is_gone(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.state_event("m.room.topic", "", topic("one"))).await;
    world.room(fixture.message_that_removes("m.room.topic", "")).await;
    let rooms = &world.stores().rooms;
    assert!(rooms.current_state_event(fixture.room_id(), &"m.room.topic".into(), "").await.unwrap().is_none());
    assert!(rooms.current_state_of_type(fixture.room_id(), &"m.room.topic".into()).await.unwrap().is_empty());
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
}

/// Old versions stay readable: history is judged by them.
pub async fn every_state_version_reads_back(world: &mut World) {
    let fixture = room_with_a_past(world).await;
    let rooms = &world.stores().rooms;
    for (version, state) in fixture.states() {
        let stored = rooms.state_at(fixture.room_id(), *version).await.unwrap();
        assert_eq!(stored.as_ref(), Some(&ids_of(state)), "{version:?}");
    }
    assert_eq!(current_ids(world, &fixture).await, ids_of(fixture.state()));
    assert_eq!(rooms.state_at(fixture.room_id(), StateVersion(9999)).await.unwrap(), None);
}

/// Two versions may have one parent, and a list may hold child after parent.
pub async fn state_versions_branch(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let trunk = ids_of(fixture.state());
    let (parent, first) = (fixture.current(), StateVersion(100));
    let mut commit = fixture.message(&local("creator"), "brings branches");
    let event_id = fixture.newest().to_owned();
    let key = |state_key: &str| (StateEventType::from("org.example"), state_key.to_owned());
    let branch = |number: u64, parent, state_key: &str, delta_entries| StateVersionRow {
        version: StateVersion(number),
        parent: Some(parent),
        changes: vec![(key(state_key), Some(event_id.clone()))],
        delta_entries,
    };
    commit.state_versions =
        vec![branch(100, parent, "left", 5), branch(101, parent, "right", 5), branch(102, first, "left child", 6)];
    world.room(commit).await;
    let with = |state_keys: &[&str]| {
        let added = state_keys.iter().map(|state_key| (key(state_key), event_id.clone()));
        trunk.clone().into_iter().chain(added).collect::<State>()
    };
    let rooms = &world.stores().rooms;
    for (number, expected) in [(100, with(&["left"])), (101, with(&["right"])), (102, with(&["left", "left child"]))] {
        let stored = rooms.state_at(fixture.room_id(), StateVersion(number)).await.unwrap();
        assert_eq!(stored, Some(expected), "{number}");
    }
    assert_eq!(rooms.room(fixture.room_id()).await.unwrap().unwrap().current, parent, "nothing became current");
    assert_eq!(changes(world, &fixture, first, StateVersion(101)).await, Ok(None));
    assert_eq!(changes(world, &fixture, StateVersion(101), StateVersion(102)).await, Ok(None));
    let grown = changes(world, &fixture, first, StateVersion(102)).await.unwrap();
    assert_eq!(grown, Some(Changes::from([(key("left child"), Some(event_id.clone()))])));
}

/// A full copy does not look at what was before it.
pub async fn full_copy_starts_from_nothing(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.state_event("m.room.topic", "", topic("one"))).await;
    fixture.copy_state_fully_next();
    world.room(fixture.message_that_removes("m.room.topic", "")).await;
    let copied = fixture.current();
    let stored = world.stores().rooms.state_at(fixture.room_id(), copied).await.unwrap();
    assert_eq!(stored, Some(ids_of(fixture.state())));
    assert_eq!(snapshot(world, &fixture).await.delta_entries, 0);
    world.room(fixture.state_event("m.room.topic", "", topic("two"))).await;
    let stored = world.stores().rooms.state_at(fixture.room_id(), fixture.current()).await.unwrap();
    assert_eq!(stored, Some(ids_of(fixture.state())));
    assert_eq!(snapshot(world, &fixture).await.delta_entries, 1);
    let changed = changes(world, &fixture, copied, fixture.current()).await.unwrap();
    assert_eq!(changed, Some(difference(&fixture.states()[&copied], fixture.state())));
}

/// Where it answers, the answer is exactly what differs.
pub async fn state_changes_are_the_difference_of_two_states(world: &mut World) {
    let fixture = room_with_a_past(world).await;
    let mut answered = 0;
    for (older, older_state) in fixture.states() {
        for (newer, newer_state) in fixture.states().range(older..) {
            if let Some(changed) = changes(world, &fixture, *older, *newer).await.unwrap() {
                assert_eq!(changed, difference(older_state, newer_state), "{older:?} to {newer:?}");
                answered += 1;
            }
        }
    }
    // Each version at least to itself, and all but the two full copies to the one before.
    let versions = fixture.states().len();
    assert!(answered > 2 * versions - 4, "answered {answered} for {versions} versions");
}

/// It says so when it cannot know.
pub async fn state_changes_do_not_answer_across_a_full_copy_or_branches(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let before = fixture.current();
    world.room(fixture.state_event("m.room.topic", "", topic("one"))).await;
    let newer = fixture.current();
    fixture.copy_state_fully_next();
    world.room(fixture.state_event("m.room.topic", "", topic("two"))).await;
    let copy = fixture.current();
    world.room(fixture.state_event("m.room.topic", "", topic("three"))).await;
    let after = fixture.current();
    for (older, newer) in [(before, copy), (newer, copy), (before, after), (newer, before), (after, copy)] {
        assert_eq!(changes(world, &fixture, older, newer).await, Ok(None), "{older:?} to {newer:?}");
    }
    for version in [before, copy, after] {
        assert_eq!(changes(world, &fixture, version, version).await, Ok(Some(Changes::new())), "{version:?}");
    }
    assert_eq!(changes(world, &fixture, before, StateVersion(9999)).await, Ok(None));
    assert_eq!(changes(world, &fixture, StateVersion(9999), after).await, Ok(None));
}

/// Only what differs at the ends counts.
pub async fn key_that_went_and_came_back_is_no_change(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let before = fixture.current();
    world.room(fixture.state_event("m.room.topic", "", topic("one"))).await;
    world.room(fixture.message_that_removes("m.room.topic", "")).await;
    world.room(fixture.state_event("m.room.name", "", content(&[("name", "stays")]))).await;
    let changed = changes(world, &fixture, before, fixture.current()).await.unwrap();
    let name = (StateEventType::RoomName, String::new());
    assert_eq!(changed, Some(Changes::from([(name, Some(fixture.newest().to_owned()))])));
}

/// Listings need no count of members.
pub async fn member_counts_are_those_of_the_last_commit(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.member(&local("bob"), MembershipState::Join)).await;
    world.room(fixture.member(&local("carol"), MembershipState::Invite)).await;
    world.room(fixture.knock(&remote("dora"), "hello")).await;
    world.room(fixture.knock(&remote("emil"), "hello")).await;
    world.room(fixture.member(&remote("emil"), MembershipState::Ban)).await;
    world.room(fixture.leave(&local("bob"))).await;
    let counts = MemberCounts { join: 1, invite: 1, knock: 1, leave: 1, ban: 1 };
    assert_eq!(fixture.counts(), counts);
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.room(fixture.room_id()).await.unwrap().unwrap().counts, counts);
    assert_eq!(rooms.rooms(None, 1).await.unwrap()[0].counts, counts);
    assert_eq!(snapshot(world, &fixture).await.row.counts, counts);
}

/// Forks grow the set, the next event closes it.
pub async fn extremities_are_those_of_the_fork(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.message(&local("creator"), "trunk")).await;
    for (open, name) in [(2, "bob"), (3, "carol"), (4, "dora")] {
        world.room(fixture.knock_beside_newest(&remote(name), "from the same template")).await;
        assert_eq!(fixture.extremities().len(), open);
        assert_extremities(world, &fixture).await;
    }
    world.room(fixture.message(&local("creator"), "merges all")).await;
    assert_eq!(fixture.extremities().len(), 1);
    assert_extremities(world, &fixture).await;
}

async fn assert_extremities(world: &World, fixture: &RoomFixture) {
    let snapshot = snapshot(world, fixture).await;
    let found: BTreeMap<_, _> =
        snapshot.extremities.iter().map(|(row, _)| (row.event_id.clone(), row.arrival)).collect();
    assert_eq!(found.len(), snapshot.extremities.len(), "each once");
    assert_eq!(found, *fixture.extremities());
    for (row, stored) in &snapshot.extremities {
        assert_eq!(stored.event.event_id(), row.event_id);
        let committed = &fixture.events()[&row.event_id];
        assert_eq!(stored.event.json(), committed.event.json());
        assert_eq!(stored.state_before, committed.state_before);
        assert_eq!(stored.current_after, committed.current_after);
    }
}

/// An actor that starts again knows what the one before it knew.
pub async fn snapshot_is_what_was_committed(world: &mut World) {
    let fixture = room_with_a_past(world).await;
    let snapshot = snapshot(world, &fixture).await;
    assert_eq!(snapshot.row.room_id, fixture.room_id());
    assert_eq!(snapshot.row.room_version, *fixture.version().id());
    assert_eq!(snapshot.row.current, fixture.current());
    assert_eq!(snapshot.row.counts, fixture.counts());
    assert_eq!(snapshot.delta_entries, fixture.delta_entries());
    assert_eq!(snapshot.knocks, *fixture.knocks());
    let state: StateMap = snapshot.state.iter().cloned().collect();
    assert_eq!(snapshot.state.len(), state.len(), "each key once");
    assert_eq!(ids_of(&state), ids_of(fixture.state()));
    for event in &snapshot.state {
        let row = &fixture.events()[event.event_id()];
        assert_eq!(event.json(), row.event.json());
        assert_eq!(event.standing(), row.event.standing());
    }
    for (row, stored) in &snapshot.extremities {
        let ids = [row.event_id.clone()];
        let read = world.stores().rooms.events(fixture.room_id(), &ids).await.unwrap().remove(0).unwrap();
        assert_eq!(event_text(stored), event_text(&read));
    }
    assert_extremities(world, &fixture).await;
}

/// Numbers that an actor gives next were never given before.
pub async fn snapshot_counters_are_beyond_what_is_in_use(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.backfilled(&remote("eve"), "long ago")).await;
    for round in 0..5 {
        let name = format!("user{round}");
        world.room(fixture.knock_beside_newest(&remote(&name), "hello")).await;
        if round == 3 {
            fixture.copy_state_fully_next();
        }
        world.room(fixture.message(&local("creator"), "hello")).await;
        let snapshot = snapshot(world, &fixture).await;
        let newest = fixture.timeline().keys().next_back().copied().unwrap();
        assert!(snapshot.next_order > newest);
        assert!(snapshot.next_state_version > fixture.states().keys().next_back().copied().unwrap());
        let arrivals = fixture.extremities().values().copied();
        assert!(snapshot.next_arrival > arrivals.max().unwrap());
    }
}
