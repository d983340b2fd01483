//! Facts about commits: what is refused, in which order they are made, who hears of them.
//! May not: look at more of a room than shows whether a commit was made.

use std::time::{Duration, Instant};

use ruma::events::room::member::MembershipState;
use vestibule_protocol::stream::StreamPosition;

use super::{
    World,
    fixture::{RoomFixture, local, remote},
    survey::{Questions, survey},
};
use crate::{
    commit::{Commit, CommitError, Conflict, NoSlot},
    room::RoomCommit,
};

/// More slots than any engine should offer: beyond it the queue counts as unbounded.
const SLOTS_MAX: usize = 1_000_000;

/// What is a matter of instructions may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn boxed(commit: RoomCommit) -> Commit {
    Commit::Room(Box::new(commit))
}

async fn is_stored(world: &World, fixture: &RoomFixture) -> bool {
    let ids = [fixture.newest().to_owned()];
    world.stores().rooms.events(fixture.room_id(), &ids).await.unwrap()[0].is_some()
}

/// After the ticket of its first commit a room is there.
pub async fn created_room_is_readable_after_its_ticket(world: &mut World) {
    let (fixture, commit) = RoomFixture::create("a");
    let rooms = world.stores().rooms.clone();
    assert_eq!(rooms.room(fixture.room_id()).await.unwrap(), None);
    world.room(commit).await;
    let row = rooms.room(fixture.room_id()).await.unwrap().unwrap();
    assert_eq!(row.room_id, fixture.room_id());
    assert_eq!(row.room_version, *fixture.version().id());
    assert_eq!(row.current, fixture.current());
    assert_eq!(row.counts, fixture.counts());
    assert_eq!(rooms.rooms_stored().await.unwrap(), 1);
}

/// A room id is taken for good.
pub async fn same_room_twice_is_a_conflict_and_changes_nothing(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit.clone()).await;
    world.room(fixture.member(&local("bob"), MembershipState::Join)).await;
    let questions = Questions::of_rooms([&fixture]);
    let before = survey(world.stores(), &questions).await;
    let again = RoomCommit { incarnation: 2, ..commit };
    assert_eq!(world.try_room(again).await, Err(CommitError::Conflict(Conflict::RoomExists)));
    assert_eq!(survey(world.stores(), &questions).await, before);
    assert_eq!(world.stores().rooms.rooms_stored().await.unwrap(), 1);
}

/// Only a commit that says so makes a room.
pub async fn commit_to_a_missing_room_is_a_conflict(world: &mut World) {
    let (mut fixture, _never_made) = RoomFixture::create("a");
    fixture.next_life();
    let commit = fixture.message(&local("creator"), "nobody is here");
    assert_eq!(world.try_room(commit).await, Err(CommitError::Conflict(Conflict::NoSuchRoom)));
    assert_eq!(world.stores().rooms.room(fixture.room_id()).await.unwrap(), None);
    assert!(!is_stored(world, &fixture).await);
}

/// A commit that was built on one that is missing cannot stand, nor can what was built on it.
pub async fn sequence_gap_is_refused_with_all_that_follow(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let creator = fixture.creator().to_owned();
    world.room(commit).await;
    let mut lost_world = fixture.clone();
    let _never_made = lost_world.message(&creator, "lost");
    for body in ["after the gap", "after that", "and that"] {
        let commit = lost_world.message(&creator, body);
        assert_eq!(world.try_room(commit).await, Err(CommitError::PredecessorMissing));
        assert!(!is_stored(world, &lost_world).await);
    }
    fixture.next_life();
    world.room(fixture.message(&creator, "a new life goes on")).await;
    assert!(is_stored(world, &fixture).await);
}

/// A life begins with its first commit.
pub async fn first_sequence_of_a_life_is_one(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let creator = fixture.creator().to_owned();
    world.room(commit).await;
    fixture.next_life();
    let mut without_first = fixture.clone();
    let _never_made = without_first.message(&creator, "one");
    let second = without_first.message(&creator, "two");
    assert_eq!(world.try_room(second).await, Err(CommitError::PredecessorMissing));
    fixture.next_life();
    world.room(fixture.message(&creator, "one")).await;
}

/// An actor that was replaced cannot write any more.
pub async fn older_incarnation_is_refused_once_a_newer_was_seen(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let creator = fixture.creator().to_owned();
    world.room(commit).await;
    let mut old_life = fixture.clone();
    fixture.next_life();
    world.room(fixture.message(&creator, "new")).await;
    for body in ["old", "older"] {
        let commit = old_life.message(&creator, body);
        assert_eq!(world.try_room(commit).await, Err(CommitError::PredecessorMissing));
        assert!(!is_stored(world, &old_life).await);
    }
    world.room(fixture.message(&creator, "still new")).await;
}

/// Rooms fail alone.
pub async fn gap_in_one_room_leaves_other_rooms_alone(world: &mut World) {
    let (mut broken, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let (mut sound, commit) = RoomFixture::create("b");
    world.room(commit).await;
    let creator = broken.creator().to_owned();
    let _never_made = broken.message(&creator, "lost");
    let refused = world.enqueue(boxed(broken.message(&creator, "after the gap"))).await;
    let made = world.enqueue(boxed(sound.message(&creator, "fine"))).await;
    assert_eq!(refused.await, Err(CommitError::PredecessorMissing));
    assert!(made.await.is_ok());
}

/// One sequence for everything, without gaps, told in order.
pub async fn positions_are_consecutive_and_announced_in_order(world: &mut World) {
    let (mut first, commit) = RoomFixture::create("a");
    let mut positions = vec![world.room(commit).await];
    let (second, commit) = RoomFixture::create("b");
    positions.push(world.room(commit).await);
    positions.push(world.accounts(Vec::new()).await);
    for number in 0..20 {
        let commit = first.message(&local("creator"), &number.to_string());
        positions.push(world.room(commit).await);
    }
    let expected: Vec<StreamPosition> =
        std::iter::successors(Some(positions[0]), |position| Some(position.next())).take(positions.len()).collect();
    assert_eq!(positions, expected);
    let heard = world.heard();
    assert_eq!(heard.iter().map(|news| news.position).collect::<Vec<_>>(), expected);
    assert_eq!(heard[1].room_id.as_deref(), Some(second.room_id()));
    assert_eq!(heard[2].room_id, None);
}

/// What was not made leaves no trace in the sequence.
pub async fn refused_commits_take_no_position_and_are_not_announced(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let first = world.room(commit.clone()).await;
    let again = RoomCommit { incarnation: 2, ..commit };
    assert!(world.try_room(again).await.is_err());
    let mut lost_world = fixture.clone();
    lost_world.next_life();
    lost_world.next_life();
    let _never_made = lost_world.message(&local("creator"), "lost");
    assert!(world.try_room(lost_world.message(&local("creator"), "gap")).await.is_err());
    for _ in 0..3 {
        fixture.next_life();
    }
    let next = world.room(fixture.message(&local("creator"), "made")).await;
    assert_eq!(next, first.next());
    assert_eq!(world.heard().iter().map(|news| news.position).collect::<Vec<_>>(), [first, next]);
}

/// Whoever is not joined hears of it by name.
pub async fn announcement_names_the_room_and_whom_it_concerns(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let (bob, carol) = (local("bob"), local("carol"));
    let concerned = [
        (fixture.member(&bob, MembershipState::Invite), Some(&bob)),
        (fixture.knock(&carol, "let me in"), Some(&carol)),
        (fixture.leave(&carol), Some(&carol)),
        (fixture.member(&bob, MembershipState::Ban), Some(&bob)),
        (fixture.knock(&remote("eve"), "me too"), None),
    ];
    for (commit, user_id) in concerned {
        world.room(commit).await;
        let news = world.heard().pop().unwrap();
        assert_eq!(news.room_id.as_deref(), Some(fixture.room_id()));
        match user_id {
            Some(user_id) => assert!(news.users.contains(user_id), "{user_id} is missing in {news:?}"),
            None => assert!(!news.users.contains(&remote("eve")), "remote users are told by federation: {news:?}"),
        }
        let strangers = news.users.iter().filter(|named| Some(*named) != user_id && **named != *fixture.creator());
        assert_eq!(strangers.count(), 0, "{news:?}");
    }
}

/// Whoever got an answer may rely on the news being out.
pub async fn announcement_precedes_the_ticket_s_answer(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    for number in 0..50 {
        let position = world.room(fixture.message(&local("creator"), &number.to_string())).await;
        assert_eq!(world.heard().last().map(|news| news.position), Some(position));
    }
}

/// An actor does not wait between commits.
pub async fn pipelined_commits_are_made_in_order(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let mut tickets = vec![world.enqueue(boxed(commit)).await];
    let mut bodies = Vec::new();
    for number in 0..100 {
        let commit = fixture.message(&local("creator"), &number.to_string());
        bodies.push(fixture.newest().to_owned());
        tickets.push(world.enqueue(boxed(commit)).await);
    }
    let mut positions = Vec::new();
    for ticket in tickets {
        positions.push(ticket.await.unwrap());
    }
    assert!(positions.windows(2).all(|pair| pair[1] == pair[0].next()), "{positions:?}");
    let stored = world.stores().rooms.events(fixture.room_id(), &bodies).await.unwrap();
    let stored_at: Vec<_> = stored.into_iter().map(|stored| stored.unwrap().position).collect();
    assert_eq!(stored_at, positions[1..]);
}

/// A client that hangs up does not undo what it asked for.
pub async fn dropped_ticket_cancels_nothing(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    drop(world.enqueue(boxed(commit)).await);
    drop(world.enqueue(boxed(fixture.message(&local("creator"), "one"))).await);
    let unheard = fixture.newest().to_owned();
    world.room(fixture.message(&local("creator"), "two")).await;
    let stored = world.stores().rooms.events(fixture.room_id(), &[unheard]).await.unwrap();
    assert!(stored[0].is_some());
}

/// The queue has an end; every slot comes back when its commit's outcome is known.
pub async fn slots_are_bounded_and_come_back(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let writer = world.stores().writer.clone();
    let mut slots = Vec::new();
    // The room's own slot may still be on its way back.
    let started = Instant::now();
    let refusal = loop {
        match writer.reserve() {
            Ok(slot) => slots.push(slot),
            Err(no_slot) if started.elapsed() > Duration::from_millis(20) => break no_slot,
            Err(_) => tokio::task::yield_now().await,
        }
        assert!(slots.len() < SLOTS_MAX, "the queue has no end");
    };
    assert_eq!(refusal, NoSlot::Busy);
    let last = slots.pop().unwrap();
    let made = writer.enqueue(last, boxed(fixture.message(&local("creator"), "made")));
    assert!(made.await.is_ok());
    let again = reserve_in_time(world).await;
    let refused = writer.enqueue(again, boxed(RoomFixture::create("a").1));
    assert!(refused.await.is_err());
    let _again = reserve_in_time(world).await;
}

/// A slot that is not used is not lost.
pub async fn unused_slots_come_back(world: &mut World) {
    let writer = world.stores().writer.clone();
    for _ in 0..3 {
        let mut slots = Vec::new();
        while let Ok(slot) = writer.reserve() {
            slots.push(slot);
            assert!(slots.len() < SLOTS_MAX, "the queue has no end");
        }
        assert!(!slots.is_empty());
    }
}

/// The published position never lags behind an answer.
pub async fn position_covers_what_a_ticket_answered(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let mut answered = world.room(commit).await;
    for number in 0..10 {
        assert_eq!(world.stores().stream.position(), answered);
        answered = world.room(fixture.message(&local("creator"), &number.to_string())).await;
    }
    assert_eq!(world.stores().stream.position(), answered);
}

async fn reserve_in_time(world: &World) -> crate::commit::WriterSlot {
    let started = Instant::now();
    loop {
        if let Ok(slot) = world.stores().writer.reserve() {
            return slot;
        }
        assert!(started.elapsed() < PATIENCE, "the slot does not come back");
        tokio::task::yield_now().await;
    }
}
