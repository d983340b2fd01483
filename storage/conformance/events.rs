//! Facts about events, the timeline, redactions, transactions and the list of rooms.
//! May not: look at state beyond what an event's row says.

use ruma::{OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::{
    pdu::Standing,
    state::StateVersion,
    stream::{StreamPosition, TimelineOrder},
};

use super::{
    World,
    fixture::{RoomFixture, local, remote, transaction},
    survey::event_text,
};
use crate::room::{ClientTransaction, Direction, RoomCommit, StoredEvent};

const ALL: usize = 10_000;

async fn ids(
    world: &World,
    room_id: &RoomId,
    from: Option<TimelineOrder>,
    direction: Direction,
    limit: usize,
) -> Vec<OwnedEventId> {
    let page = world.stores().rooms.timeline(room_id, from, direction, limit).await.unwrap();
    page.into_iter().map(|stored| stored.event.event_id().to_owned()).collect()
}

async fn one(world: &World, room_id: &RoomId, event_id: &ruma::EventId) -> Option<StoredEvent> {
    world.stores().rooms.events(room_id, &[event_id.to_owned()]).await.unwrap().remove(0)
}

/// A room with `count` messages after its first four events.
async fn room_with_messages(world: &World, label: &str, count: usize) -> RoomFixture {
    let (mut fixture, commit) = RoomFixture::create(label);
    world.room(commit).await;
    for number in 0..count {
        world.room(fixture.message(&local("creator"), &number.to_string())).await;
    }
    fixture
}

fn shown(fixture: &RoomFixture) -> Vec<OwnedEventId> {
    fixture.timeline().values().cloned().collect()
}

/// An event of one room is not found through another, so that who may read one room cannot read another.
pub async fn events_are_found_only_in_their_room(world: &mut World) {
    let here = room_with_messages(world, "a", 1).await;
    let there = room_with_messages(world, "b", 1).await;
    assert!(one(world, here.room_id(), here.newest()).await.is_some());
    assert!(one(world, there.room_id(), here.newest()).await.is_none());
    assert!(one(world, here.room_id(), there.newest()).await.is_none());
}

/// The answer lines up with the question, gaps and repeats included.
pub async fn events_come_in_the_order_asked(world: &mut World) {
    let fixture = room_with_messages(world, "a", 3).await;
    let other = room_with_messages(world, "b", 0).await;
    let mut asked = shown(&fixture);
    asked.reverse();
    asked.insert(2, other.newest().to_owned());
    asked.push(asked[0].clone());
    let stored = world.stores().rooms.events(fixture.room_id(), &asked).await.unwrap();
    let found: Vec<_> =
        stored.iter().map(|stored| stored.as_ref().map(|stored| stored.event.event_id().to_owned())).collect();
    let expected: Vec<_> = asked.iter().map(|id| fixture.events().contains_key(id).then(|| id.clone())).collect();
    assert_eq!(found, expected);
    assert_eq!(world.stores().rooms.events(fixture.room_id(), &[]).await.unwrap().len(), 0);
}

/// All that was said about an event comes back.
pub async fn event_reads_back_as_it_was_committed(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let sent = transaction(&local("creator"), "t1");
    let commit = fixture.message_of_client(&sent, "hello");
    let row = commit.events[0].clone();
    let position = world.room(commit).await;
    let stored = one(world, fixture.room_id(), fixture.newest()).await.unwrap();
    let expected = StoredEvent {
        event: row.event,
        order: row.order,
        position,
        state_before: row.state_before,
        current_after: row.current_after,
        visibility: row.visibility,
        received_at: row.received_at,
        redacted_by: None,
        transaction: Some(sent),
    };
    assert_eq!(event_text(&stored), event_text(&expected));
}

/// An event id leads to its room.
pub async fn room_of_event_is_known(world: &mut World) {
    let first = room_with_messages(world, "a", 1).await;
    let second = room_with_messages(world, "b", 1).await;
    let mut third = second.clone();
    let _never_made = third.message(&local("creator"), "never made");
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.room_of_event(first.newest()).await.unwrap().as_deref(), Some(first.room_id()));
    assert_eq!(rooms.room_of_event(second.newest()).await.unwrap().as_deref(), Some(second.room_id()));
    assert_eq!(rooms.room_of_event(third.newest()).await.unwrap(), None);
}

/// From old to new, page by page, everything once.
pub async fn timeline_pages_forward(world: &mut World) {
    let fixture = room_with_messages(world, "a", 8).await;
    let expected = shown(&fixture);
    let room_id = fixture.room_id();
    assert_eq!(ids(world, room_id, None, Direction::Forward, ALL).await, expected);
    let mut paged = Vec::new();
    let mut from = None;
    loop {
        let page = world.stores().rooms.timeline(room_id, from, Direction::Forward, 5).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 5);
        from = last.order;
        paged.extend(page.iter().map(|stored| stored.event.event_id().to_owned()));
        assert!(paged.len() <= expected.len(), "pages repeat events: {paged:?}");
    }
    assert_eq!(paged, expected);
}

/// From new to old, page by page, everything once.
pub async fn timeline_pages_backward(world: &mut World) {
    let fixture = room_with_messages(world, "a", 8).await;
    let mut expected = shown(&fixture);
    expected.reverse();
    let room_id = fixture.room_id();
    assert_eq!(ids(world, room_id, None, Direction::Backward, ALL).await, expected);
    let mut paged = Vec::new();
    let mut from = None;
    loop {
        let page = world.stores().rooms.timeline(room_id, from, Direction::Backward, 5).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 5);
        from = last.order.map(|order| TimelineOrder(order.0 - 1));
        paged.extend(page.iter().map(|stored| stored.event.event_id().to_owned()));
        assert!(paged.len() <= expected.len(), "pages repeat events: {paged:?}");
    }
    assert_eq!(paged, expected);
}

/// A place is a gap after an event: forward begins behind it, backward before it.
pub async fn timeline_bounds_are_after_and_up_to(world: &mut World) {
    let fixture = room_with_messages(world, "a", 4).await;
    let expected = shown(&fixture);
    let room_id = fixture.room_id();
    let at = |order| Some(TimelineOrder(order));
    assert_eq!(ids(world, room_id, at(3), Direction::Forward, 2).await, expected[3..5]);
    assert_eq!(ids(world, room_id, at(3), Direction::Backward, 2).await, [expected[2].clone(), expected[1].clone()]);
    assert_eq!(ids(world, room_id, at(0), Direction::Forward, 1).await, expected[..1]);
    assert_eq!(ids(world, room_id, at(8), Direction::Forward, ALL).await, expected[8..]);
    assert_eq!(ids(world, room_id, at(0), Direction::Backward, ALL).await, expected[..0]);
    assert_eq!(ids(world, room_id, at(i64::MAX), Direction::Backward, 1).await, expected[7..]);
    assert_eq!(ids(world, room_id, at(i64::MAX), Direction::Forward, 1).await, expected[8..]);
    assert_eq!(ids(world, room_id, at(i64::MIN), Direction::Backward, 1).await, expected[..0]);
    assert_eq!(ids(world, room_id, at(i64::MIN), Direction::Forward, 1).await, expected[..1]);
    assert_eq!(ids(world, room_id, None, Direction::Forward, 0).await, expected[..0]);
    assert_eq!(ids(world, room_id, None, Direction::Backward, 0).await, expected[..0]);
}

/// Each room has a timeline of its own.
pub async fn timeline_of_another_room_does_not_mix_in(world: &mut World) {
    let mut fixtures = Vec::new();
    for label in ["a", "b", "c"] {
        fixtures.push(room_with_messages(world, label, 2).await);
    }
    for fixture in &mut fixtures {
        world.room(fixture.message(&local("creator"), "once more")).await;
    }
    for fixture in &fixtures {
        assert_eq!(ids(world, fixture.room_id(), None, Direction::Forward, ALL).await, shown(fixture));
    }
}

/// Soft-failed events are kept for the graph and never shown.
pub async fn events_that_are_not_shown_are_stored_and_absent_from_the_timeline(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let commit = fixture.soft_failed(&remote("eve"), "nobody sees this");
    let hidden = commit.events[0].event.event_id().to_owned();
    let position = world.room(commit).await;
    let stored = one(world, fixture.room_id(), &hidden).await.unwrap();
    assert_eq!(stored.order, None);
    assert_eq!(stored.position, position);
    assert_eq!(stored.event.standing(), Standing::SoftFailed);
    for direction in [Direction::Forward, Direction::Backward] {
        let page = ids(world, fixture.room_id(), None, direction, ALL).await;
        assert!(!page.contains(&hidden));
        assert_eq!(page.len(), fixture.timeline().len());
    }
    let newest = world.stores().rooms.timeline_at(fixture.room_id(), position).await.unwrap().unwrap();
    assert_eq!(newest.event.event_id(), fixture.newest());
}

/// History that comes late has negative places.
pub async fn backfilled_events_stand_before_all_others(world: &mut World) {
    let mut fixture = room_with_messages(world, "a", 2).await;
    let before = world.stores().stream.position();
    let mut backfilled = Vec::new();
    for body in ["third", "second", "first"] {
        let commit = fixture.backfilled(&remote("eve"), body);
        backfilled.insert(0, commit.events[0].event.event_id().to_owned());
        world.room(commit).await;
    }
    let room_id = fixture.room_id();
    let forward = ids(world, room_id, None, Direction::Forward, ALL).await;
    assert_eq!(forward, shown(&fixture));
    assert_eq!(forward[..3], backfilled);
    let backward = ids(world, room_id, Some(TimelineOrder(0)), Direction::Backward, 2).await;
    assert_eq!(backward, [backfilled[2].clone(), backfilled[1].clone()]);
    let across = ids(world, room_id, Some(TimelineOrder(-1)), Direction::Forward, 2).await;
    assert_eq!(across, forward[2..4]);
    for position in [before, world.stores().stream.position()] {
        let newest = world.stores().rooms.timeline_at(room_id, position).await.unwrap().unwrap();
        assert_eq!(newest.event.event_id(), fixture.newest());
    }
}

/// History of a room that was just joined: many events in one commit, with a state of their own, on the far side of the
/// first live event.
pub async fn history_leaves_what_is_live_alone(world: &mut World) {
    let mut fixture = RoomFixture::elsewhere(&RoomVersionId::V12, "a");
    let (bob, eve) = (local("bob"), remote("eve"));
    let joined_at = world.room(fixture.import(&bob)).await;
    let joined = fixture.newest().to_owned();
    let rooms = world.stores().rooms.clone();
    let before = rooms.snapshot(fixture.room_id()).await.unwrap().unwrap();
    let live = fixture.current();
    let newer = world.room(fixture.history(&eve, &["third", "fourth"])).await;
    let older = world.room(fixture.history(&eve, &["first", "second"])).await;

    let room_id = fixture.room_id().to_owned();
    let forward = ids(world, &room_id, None, Direction::Forward, ALL).await;
    assert_eq!(forward, shown(&fixture));
    assert_eq!((forward.len(), &forward[4]), (5, &joined));
    let orders: Vec<_> = fixture.timeline().keys().map(|order| order.0).collect();
    assert_eq!(orders, [-3, -2, -1, 0, 1]);
    for (from, expected) in [(1, &forward[3..5]), (0, &forward[2..4]), (-1, &forward[1..3]), (-3, &forward[..1])] {
        let mut backward = ids(world, &room_id, Some(TimelineOrder(from)), Direction::Backward, 2).await;
        backward.reverse();
        assert_eq!(backward, expected, "backward from {from}");
    }
    // A sync token of any age stands at the join, or before it where there was nothing.
    let past = StreamPosition(joined_at.0 - 1);
    assert!(rooms.timeline_at(&room_id, past).await.unwrap().is_none());
    for position in [joined_at, newer, older, StreamPosition(u64::MAX)] {
        let newest = rooms.timeline_at(&room_id, position).await.unwrap().unwrap();
        assert_eq!(newest.event.event_id(), joined, "at {position:?}");
    }

    let after = rooms.snapshot(&room_id).await.unwrap().unwrap();
    assert_eq!((after.row, after.next_order), (before.row, before.next_order));
    assert_eq!(after.delta_entries, before.delta_entries);
    for (order, event_id) in fixture.timeline().range(..TimelineOrder(1)) {
        let stored = one(world, &room_id, event_id).await.unwrap();
        assert_eq!((stored.order, stored.current_after), (Some(*order), live));
        let state = rooms.state_at(&room_id, stored.state_before).await.unwrap().unwrap();
        assert_eq!(state.len(), 2, "the state of then, not of now");
        assert!(rooms.state_changes(&room_id, stored.state_before, live).await.unwrap().is_none());
    }

    // The room goes on at its other end.
    world.room(fixture.message(&bob, "hello")).await;
    world.room(fixture.history(&eve, &["zeroth"])).await;
    world.room(fixture.message(&bob, "hello again")).await;
    assert_eq!(ids(world, &room_id, None, Direction::Forward, ALL).await, shown(&fixture));
}

/// An outlier that is needed after all, a soft-failed event that somebody built on: it gets its place when it gets there.
pub async fn event_that_comes_again_is_readable_from_then_on(world: &mut World) {
    for (label, standing) in [("a", Standing::SoftFailed), ("b", Standing::Accepted), ("c", Standing::Rejected)] {
        let (mut fixture, commit) = RoomFixture::create(label);
        world.room(commit).await;
        let room_id = fixture.room_id().to_owned();
        let mut commit = fixture.soft_failed(&remote("eve"), "not shown yet");
        let hidden = commit.events[0].event.event_id().to_owned();
        commit.events[0].event = fixture.as_standing(&hidden, standing);
        let first_seen = world.room(commit).await;
        assert_eq!(one(world, &room_id, &hidden).await.unwrap().event.standing(), standing);
        let seen_before = world.room(fixture.message(&local("creator"), "meanwhile")).await;
        let newest_before = fixture.newest().to_owned();

        let commit = fixture.accept_after_all(&hidden);
        let row = commit.events[0].clone();
        let position = world.room(commit).await;
        let stored = one(world, &room_id, &hidden).await.unwrap();
        assert_eq!((stored.event.standing(), stored.order, stored.position), (Standing::Accepted, row.order, position));
        assert_eq!((stored.state_before, stored.received_at), (row.state_before, row.received_at));
        assert_eq!(ids(world, &room_id, None, Direction::Forward, ALL).await, shown(&fixture));
        assert_eq!(ids(world, &room_id, None, Direction::Backward, 1).await, std::slice::from_ref(&hidden));
        let rooms = &world.stores().rooms;
        for (at, expected) in [(position, &hidden), (seen_before, &newest_before)] {
            let newest = rooms.timeline_at(&room_id, at).await.unwrap().unwrap();
            assert_eq!(newest.event.event_id(), expected, "at {at:?}");
        }
        let newest = rooms.timeline_at(&room_id, first_seen).await.unwrap().unwrap();
        assert_ne!(newest.event.event_id(), hidden, "it was not to be seen when it was first stored");
        // Once more, and it is still one event.
        world.room(fixture.accept_after_all(&hidden)).await;
        assert_eq!(ids(world, &room_id, None, Direction::Forward, ALL).await, shown(&fixture));
    }
}

/// A peer that still has the whole event cannot bring back what was taken out.
pub async fn redacted_event_that_comes_again_stays_redacted(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let commit = fixture.soft_failed(&remote("eve"), "a secret");
    let hidden = commit.events[0].event.event_id().to_owned();
    world.room(commit).await;
    let whole = fixture.clone();
    world.room(fixture.redact(&hidden)).await;
    let because = fixture.newest().to_owned();
    let mut commit = fixture.accept_after_all(&hidden);
    commit.events[0].event = whole.as_standing(&hidden, Standing::Accepted);
    assert!(commit.events[0].event.json().contains("a secret"));
    let position = world.room(commit).await;
    let stored = one(world, fixture.room_id(), &hidden).await.unwrap();
    assert!(!stored.event.json().contains("a secret"));
    assert_eq!(stored.redacted_by, Some(because));
    assert_eq!((stored.event.standing(), stored.position), (Standing::Accepted, position));
    assert_eq!(ids(world, fixture.room_id(), None, Direction::Backward, 1).await, [hidden]);
}

/// A sync token finds its place in every room.
pub async fn timeline_at_a_position_is_the_newest_event_readable_then(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let mut expected = vec![(world.room(commit).await, fixture.newest().to_owned())];
    for number in 0..5 {
        // Other changes come between.
        let elsewhere = world.accounts(Vec::new()).await;
        expected.push((elsewhere, fixture.newest().to_owned()));
        let made = world.room(fixture.message(&local("creator"), &number.to_string())).await;
        expected.push((made, fixture.newest().to_owned()));
    }
    let rooms = &world.stores().rooms;
    assert!(rooms.timeline_at(fixture.room_id(), StreamPosition::START).await.unwrap().is_none());
    expected.push((StreamPosition(u64::MAX), fixture.newest().to_owned()));
    for (position, event_id) in expected {
        let newest = rooms.timeline_at(fixture.room_id(), position).await.unwrap().unwrap();
        assert_eq!(newest.event.event_id(), event_id, "at {position:?}");
    }
}

/// What was redacted is gone wherever it is read.
pub async fn redacted_event_reads_back_redacted_everywhere(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    world.room(fixture.state_event("m.room.topic", "", super::fixture::content(&[("topic", "a secret")]))).await;
    let topic = fixture.newest().to_owned();
    let before = one(world, fixture.room_id(), &topic).await.unwrap();
    assert!(before.event.json().contains("a secret"));
    world.room(fixture.redact(&topic)).await;
    let because = fixture.newest().to_owned();

    let rooms = &world.stores().rooms;
    let room_id = fixture.room_id();
    let kind = "m.room.topic".into();
    let page = rooms.timeline(room_id, None, Direction::Forward, ALL).await.unwrap();
    let in_state = rooms.current_state(room_id).await.unwrap();
    let is_topic = |stored: &StoredEvent| stored.event.event_id() == topic;
    let ways = [
        one(world, room_id, &topic).await,
        page.into_iter().find(is_topic),
        in_state.into_iter().find(is_topic),
        rooms.current_state_of_type(room_id, &kind).await.unwrap().pop(),
        rooms.current_state_event(room_id, &kind, "").await.unwrap(),
    ];
    let expected = StoredEvent { event: fixture.events()[&topic].event.clone(), redacted_by: Some(because), ..before };
    assert!(!expected.event.json().contains("a secret"));
    for stored in ways {
        assert_eq!(event_text(&stored.unwrap()), event_text(&expected));
    }
    let snapshot = rooms.snapshot(room_id).await.unwrap().unwrap();
    let texts: Vec<_> = snapshot.state.iter().map(|event| event.json()).collect();
    assert!(texts.contains(&expected.event.json()));
    assert!(!texts.iter().any(|text| text.contains("a secret")));
}

/// A redaction that came before what it redacts is applied when that comes.
pub async fn event_and_its_redaction_in_one_commit(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let mut both = fixture.message(&local("creator"), "a secret");
    let message = fixture.newest().to_owned();
    let redaction: RoomCommit = fixture.redact(&message);
    fixture.next_life();
    both.events.extend(redaction.events);
    both.extremities_added = redaction.extremities_added;
    both.redactions = redaction.redactions;
    world.room(both).await;
    let stored = one(world, fixture.room_id(), &message).await.unwrap();
    assert!(!stored.event.json().contains("a secret"));
    assert_eq!(stored.redacted_by.as_deref(), Some(fixture.newest()));
}

/// A retried request finds what it made; nobody else's does.
pub async fn transaction_finds_its_event_for_that_device_and_endpoint_only(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let creator = local("creator");
    let first = transaction(&creator, "t1");
    world.room(fixture.message_of_client(&first, "one")).await;
    let first_event = fixture.newest().to_owned();
    let second = transaction(&creator, "t2");
    world.room(fixture.message_of_client(&second, "two")).await;
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.transaction(&first).await.unwrap(), Some(first_event));
    assert_eq!(rooms.transaction(&second).await.unwrap().as_deref(), Some(fixture.newest()));
    let others = [
        ClientTransaction { user_id: local("bob"), ..first.clone() },
        ClientTransaction { device_id: "OTHER".into(), ..first.clone() },
        ClientTransaction { endpoint: "/_matrix/client/v3/rooms/!r/redact".to_owned(), ..first.clone() },
        ClientTransaction { transaction_id: "t3".into(), ..first.clone() },
        // Parts must not run into each other.
        ClientTransaction { endpoint: format!("{}t", first.endpoint), transaction_id: "1".into(), ..first },
    ];
    for other in others {
        assert_eq!(rooms.transaction(&other).await.unwrap(), None, "{other:?}");
    }
}

/// The list of rooms pages by id, whatever the order in which they were made.
pub async fn rooms_are_listed_in_the_order_of_their_ids(world: &mut World) {
    let mut expected: Vec<OwnedRoomId> = Vec::new();
    // Version 11: there the room ids are ours to choose, one a prefix of another among them.
    for label in ["m", "a", "z", "aa", "b", "A"] {
        let (fixture, commit) = RoomFixture::create_in(&RoomVersionId::V11, label);
        world.room(commit).await;
        expected.push(fixture.room_id().to_owned());
    }
    expected.sort();
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.rooms_stored().await.unwrap(), 6);
    let listed = rooms.rooms(None, ALL).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.room_id.clone()).collect::<Vec<_>>(), expected);
    for row in &listed {
        assert_eq!(rooms.room(&row.room_id).await.unwrap().as_ref(), Some(row));
    }
    let mut paged = Vec::new();
    loop {
        let after: Option<&OwnedRoomId> = paged.last();
        let page = rooms.rooms(after.map(|room_id| &**room_id), 4).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|row| row.room_id));
        assert!(paged.len() <= expected.len(), "pages repeat rooms: {paged:?}");
    }
    assert_eq!(paged, expected);
    let between = RoomId::parse("!aaa:here.example").unwrap();
    let page = rooms.rooms(Some(&between), 1).await.unwrap();
    let next = expected.iter().find(|room_id| **room_id > between).unwrap();
    assert_eq!(page[0].room_id, *next);
}

/// A room that is not stored is not an error.
pub async fn unknown_rooms_answer_nothing(world: &mut World) {
    let stored = room_with_messages(world, "a", 1).await;
    let room_id = RoomId::parse("!nowhere:here.example").unwrap();
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.room(&room_id).await.unwrap(), None);
    assert!(rooms.snapshot(&room_id).await.unwrap().is_none());
    assert!(one(world, &room_id, stored.newest()).await.is_none());
    assert!(rooms.current_state(&room_id).await.unwrap().is_empty());
    assert!(rooms.current_state_of_type(&room_id, &"m.room.member".into()).await.unwrap().is_empty());
    assert!(rooms.current_state_event(&room_id, &"m.room.create".into(), "").await.unwrap().is_none());
    assert_eq!(rooms.state_at(&room_id, StateVersion(1)).await.unwrap(), None);
    assert_eq!(rooms.state_changes(&room_id, StateVersion(1), StateVersion(1)).await.unwrap(), None);
    assert!(rooms.timeline(&room_id, None, Direction::Forward, ALL).await.unwrap().is_empty());
    assert!(rooms.timeline(&room_id, None, Direction::Backward, ALL).await.unwrap().is_empty());
    assert!(rooms.timeline_at(&room_id, StreamPosition(u64::MAX)).await.unwrap().is_none());
    assert_eq!(rooms.membership(&local("creator"), &room_id).await.unwrap(), None);
    assert_eq!(rooms.membership_history(&local("creator"), &room_id).await.unwrap(), []);
    assert_eq!(rooms.pending_knocks(Some(&room_id), None, ALL).await.unwrap(), []);
}

/// Events of all hosted versions survive, those whose room id is their hash included.
pub async fn every_room_version_reads_back(world: &mut World) {
    for version in vestibule_protocol::room_version::RoomVersion::hosted() {
        let (mut fixture, commit) = RoomFixture::create_in(&version, &format!("room{version}"));
        world.room(commit).await;
        world.room(fixture.member(&remote("eve"), MembershipState::Invite)).await;
        let row = world.stores().rooms.room(fixture.room_id()).await.unwrap().unwrap();
        assert_eq!(row.room_version, version);
        let page = world.stores().rooms.timeline(fixture.room_id(), None, Direction::Forward, ALL).await.unwrap();
        assert_eq!(page.len(), fixture.timeline().len());
        for stored in page {
            let row = &fixture.events()[stored.event.event_id()];
            assert_eq!(stored.event.json(), row.event.json());
            assert_eq!(stored.event.room_id(), fixture.room_id());
            assert_eq!(stored.event.state_entry(), row.event.state_entry());
        }
    }
}
