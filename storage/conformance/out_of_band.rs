//! Facts about memberships of local users in rooms that this server is not in.
//! May not: talk to the room's servers, or expect anything of a room that is not stored.

use ruma::{RoomVersionId, UserId, events::room::member::MembershipState};

use super::{
    World,
    fixture::{RoomFixture, local, remote},
    survey::out_of_band_text,
};
use crate::{
    accounts::AccountChange,
    commit::{CommitError, Conflict},
    error::StorageError,
    outbox::{Delivery, OutboxPlace, OutboxRow},
    room::{ClientTransaction, Direction, OutOfBand, OutOfBandRow, Progress, RedactedEvent, RoomCommit, RoomOrigin},
};

const ALL: usize = 10_000;

fn elsewhere(label: &str) -> RoomFixture {
    RoomFixture::elsewhere(&RoomVersionId::V12, label)
}

async fn row_of(world: &World, user_id: &UserId, fixture: &RoomFixture) -> Option<OutOfBand> {
    let rooms = &world.stores().rooms;
    let row = rooms.out_of_band_of(user_id, fixture.room_id()).await.unwrap();
    let mut of_room = rooms.out_of_band(Some(fixture.room_id()), None, ALL).await.unwrap();
    of_room.retain(|row| row.user_id == user_id);
    assert_eq!(of_room.pop().map(|row| row.out_of_band), row, "the list and the single row agree");
    assert!(of_room.is_empty(), "each user once");
    row
}

fn made_row(commit: &RoomCommit) -> OutOfBand {
    commit.out_of_band[0].1.clone().unwrap()
}

async fn assert_not_stored(world: &World, fixture: &RoomFixture) {
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.room(fixture.room_id()).await.unwrap(), None);
    assert!(rooms.snapshot(fixture.room_id()).await.unwrap().is_none());
    assert!(rooms.events(fixture.room_id(), &[fixture.newest().to_owned()]).await.unwrap()[0].is_none());
    assert_eq!(rooms.rooms(None, ALL).await.unwrap(), []);
    assert_eq!(rooms.rooms_stored().await.unwrap(), 0);
}

/// All of a row comes back, in every room version, and the room is no room of ours for that.
pub async fn row_reads_back_and_the_room_is_not_stored(world: &mut World) {
    use RoomVersionId::{V3, V7, V10, V11, V12};
    for (number, version) in [V3, V7, V10, V11, V12].into_iter().enumerate() {
        let mut fixture = RoomFixture::elsewhere(&version, &format!("room{number}"));
        let progress = if number % 2 == 0 { Progress::Settled } else { Progress::Asking };
        let bob = local("bob");
        assert_eq!(row_of(world, &bob, &fixture).await, None);
        let commit = fixture.out_of_band(&bob, MembershipState::Knock, progress);
        let expected = made_row(&commit);
        world.room(commit).await;
        let found = row_of(world, &bob, &fixture).await.unwrap();
        assert_eq!(out_of_band_text(&found), out_of_band_text(&expected), "{version}");
        assert_eq!(found, expected);
        assert_eq!(row_of(world, &local("bobby"), &fixture).await, None);
        assert_not_stored(world, &fixture).await;
    }
}

/// A knock is asked for, taken, answered; then the row ends.
pub async fn row_is_replaced_and_ends(world: &mut World) {
    let mut fixture = elsewhere("a");
    let (bob, carol) = (local("bob"), local("carol"));
    let of_carol = fixture.out_of_band(&carol, MembershipState::Invite, Progress::Settled);
    let carols = made_row(&of_carol);
    world.room(of_carol).await;
    for (membership, progress) in [
        (MembershipState::Knock, Progress::Asking),
        (MembershipState::Knock, Progress::Settled),
        (MembershipState::Invite, Progress::Settled),
        (MembershipState::Leave, Progress::Settled),
    ] {
        let commit = fixture.out_of_band(&bob, membership, progress);
        let expected = made_row(&commit);
        world.room(commit).await;
        let found = row_of(world, &bob, &fixture).await.unwrap();
        assert_eq!(out_of_band_text(&found), out_of_band_text(&expected));
    }
    world.room(fixture.end_out_of_band(&bob)).await;
    assert_eq!(row_of(world, &bob, &fixture).await, None);
    world.room(fixture.end_out_of_band(&bob)).await;
    assert_eq!(row_of(world, &carol, &fixture).await, Some(carols));
}

/// Sync finds rooms elsewhere where it finds all others.
pub async fn memberships_out_of_band_are_indexed_by_user(world: &mut World) {
    let bob = local("bob");
    let mut fixture = elsewhere("a");
    let rooms = world.stores().rooms.clone();
    for membership in [MembershipState::Knock, MembershipState::Invite, MembershipState::Leave] {
        let position = world.room(fixture.out_of_band(&bob, membership.clone(), Progress::Settled)).await;
        let found = rooms.membership(&bob, fixture.room_id()).await.unwrap().unwrap();
        assert_eq!(found.room_id, fixture.room_id());
        assert_eq!((&found.membership, found.position, found.forgotten), (&membership, position, false));
        assert_eq!(found.event_id, fixture.newest());
        assert_eq!(rooms.memberships_of(&bob).await.unwrap(), [found]);
        assert_eq!(rooms.membership_history(&bob, fixture.room_id()).await.unwrap(), []);
    }
    world.room(fixture.end_out_of_band(&bob)).await;
    assert_eq!(rooms.memberships_of(&bob).await.unwrap().len(), 1, "the membership outlives the row");
}

/// Nobody is told of a knock that nobody took yet.
pub async fn knock_that_is_being_asked_for_is_no_membership(world: &mut World) {
    let bob = local("bob");
    let mut fixture = elsewhere("a");
    world.room(fixture.out_of_band(&bob, MembershipState::Knock, Progress::Asking)).await;
    assert_eq!(row_of(world, &bob, &fixture).await.unwrap().progress, Progress::Asking);
    assert_eq!(world.stores().rooms.memberships_of(&bob).await.unwrap(), []);
    world.room(fixture.end_out_of_band(&bob)).await;
    assert_eq!(world.stores().rooms.memberships_of(&bob).await.unwrap(), []);
}

/// At a start all rows are read, page by page, everything once; an actor reads those of its room.
pub async fn rows_page_in_order_across_rooms(world: &mut World) {
    let mut expected: Vec<OutOfBandRow> = Vec::new();
    let mut fixtures = Vec::new();
    for label in ["m", "a", "z"] {
        let mut fixture = elsewhere(label);
        for name in ["zoe", "bob", "bobby", "anna"] {
            let commit = fixture.out_of_band(&local(name), MembershipState::Invite, Progress::Settled);
            let (room_id, user_id) = (fixture.room_id().to_owned(), local(name));
            expected.push(OutOfBandRow { room_id, user_id, out_of_band: made_row(&commit) });
            world.room(commit).await;
        }
        fixtures.push(fixture);
    }
    expected.sort_by(|left, right| (&left.room_id, &left.user_id).cmp(&(&right.room_id, &right.user_id)));
    for fixture in [None].into_iter().chain(fixtures.iter().map(Some)) {
        let room_id = fixture.map(RoomFixture::room_id);
        let of_room = expected.iter().filter(|row| room_id.is_none_or(|room_id| row.room_id == room_id));
        let of_room: Vec<_> = of_room.cloned().collect();
        for limit in [1, 3, 4, ALL] {
            let mut paged: Vec<OutOfBandRow> = Vec::new();
            loop {
                let after = paged.last().map(|row| (&*row.room_id, &*row.user_id));
                let page = world.stores().rooms.out_of_band(room_id, after, limit).await.unwrap();
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                paged.extend(page);
                assert!(paged.len() <= of_room.len(), "pages repeat rows");
            }
            assert_eq!(paged, of_room);
        }
    }
}

/// What is out of band in a room that is here is judged by the room.
pub async fn out_of_band_commit_of_a_stored_room_is_a_conflict(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let bob = local("bob");
    fixture.next_life();
    let refused = fixture.clone().out_of_band(&bob, MembershipState::Invite, Progress::Settled);
    assert_eq!(world.try_room(refused).await, Err(CommitError::Conflict(Conflict::RoomExists)));
    assert_eq!(row_of(world, &bob, &fixture).await, None);
    assert_eq!(world.stores().rooms.memberships_of(&bob).await.unwrap(), []);
    fixture.next_life();
    world.room(fixture.message(&local("creator"), "goes on")).await;
}

/// A room does not come to be by halves.
pub async fn out_of_band_commit_with_parts_of_a_room_is_not_written(world: &mut World) {
    let bob = local("bob");
    let before = elsewhere("a");
    let mut after = before.clone();
    let whole = after.clone().import(&bob);
    let sound = after.out_of_band(&bob, MembershipState::Knock, Progress::Settled);
    let mut with_place = sound.memberships.clone();
    with_place[0].order = Some(vestibule_protocol::stream::TimelineOrder(1));
    let mut of_another_server = sound.memberships.clone();
    of_another_server[0].is_local = false;
    of_another_server[0].user_id = remote("eve");
    let transaction: ClientTransaction = super::fixture::transaction(&bob, "t1");
    let (event, because) = (whole.events[0].event.clone(), after.newest().to_owned());
    let unsound = [
        RoomCommit { events: whole.events.clone(), ..sound.clone() },
        RoomCommit { state_versions: whole.state_versions.clone(), ..sound.clone() },
        RoomCommit { current: whole.current.clone(), ..sound.clone() },
        RoomCommit { extremities_added: whole.extremities_added.clone(), ..sound.clone() },
        RoomCommit { extremities_removed: vec![after.newest().to_owned()], ..sound.clone() },
        RoomCommit { memberships: with_place, ..sound.clone() },
        RoomCommit { memberships: of_another_server, ..sound.clone() },
        RoomCommit { knocks: vec![(bob.clone(), None)], ..sound.clone() },
        RoomCommit { redactions: vec![RedactedEvent { event, because }], ..sound.clone() },
        RoomCommit { transaction: Some(transaction.clone()), ..sound.clone() },
    ];
    for (number, commit) in (0..).zip(unsound) {
        // Each in a life of its own, so that it is refused for what it holds.
        let outcome = world.try_room(RoomCommit { incarnation: 10 + number, ..commit }).await;
        let is_not_written = matches!(outcome, Err(CommitError::Storage(StorageError::NotWritten { .. })));
        assert!(is_not_written, "part {number}: {outcome:?}");
    }
    assert_not_stored(world, &after).await;
    assert_eq!(row_of(world, &bob, &after).await, None);
    assert_eq!(world.stores().rooms.memberships_of(&bob).await.unwrap(), []);
    assert_eq!(world.stores().rooms.decisions(None, ALL).await.unwrap(), []);
    assert_eq!(world.stores().rooms.transaction(&transaction).await.unwrap(), None);
    world.room(RoomCommit { incarnation: 100, ..sound }).await;
    assert!(row_of(world, &bob, &after).await.is_some());
}

/// What the audit trail says of a room elsewhere stands with all else.
pub async fn decisions_out_of_band_are_kept(world: &mut World) {
    let mut fixture = elsewhere("a");
    let commit = fixture.out_of_band(&local("bob"), MembershipState::Knock, Progress::Settled);
    let expected = commit.decisions.clone();
    assert_eq!(expected.len(), 1);
    world.room(commit).await;
    let decisions = world.stores().rooms.decisions(None, ALL).await.unwrap();
    assert_eq!(decisions.into_iter().map(|(_, decision)| decision).collect::<Vec<_>>(), expected);
}

/// Taking a knock back is local at once, and reaches the other side when it can.
pub async fn leaving_out_of_band_leaves_a_row_in_the_outbox(world: &mut World) {
    let mut fixture = elsewhere("a");
    let bob = local("bob");
    world.room(fixture.out_of_band(&bob, MembershipState::Knock, Progress::Settled)).await;
    let knock = fixture.newest().to_owned();
    let position = world.room(fixture.leave_out_of_band(&bob)).await;
    let expected = OutboxRow {
        place: OutboxPlace { position, index: 0 },
        room_id: fixture.room_id().to_owned(),
        event_id: knock,
        delivery: Delivery::Leave { user_id: bob.clone() },
    };
    let there = super::fixture::THERE.try_into().unwrap();
    assert_eq!(world.stores().outbox.pending(there, None, ALL).await.unwrap(), [expected]);
    assert_eq!(row_of(world, &bob, &fixture).await.unwrap().membership, MembershipState::Leave);
    assert_eq!(world.heard().pop().unwrap().destinations, [there]);
}

/// A join is noted, noted anew and ended; the invite that it accepts stays, and nobody is told.
pub async fn join_that_has_not_ended_stands_beside_what_the_user_is(world: &mut World) {
    let (mut fixture, bob) = (elsewhere("a"), local("bob"));
    let invite = fixture.out_of_band(&bob, MembershipState::Invite, Progress::Settled);
    let (invited, position) = (made_row(&invite), world.room(invite).await);
    let rooms = world.stores().rooms.clone();
    assert_eq!(rooms.joining_of(&bob, fixture.room_id()).await.unwrap(), None);
    for _ in 0..2 {
        let join = fixture.begin_join(&bob);
        let expected = join.joining[0].1.clone().unwrap();
        world.room(join).await;
        let found = rooms.joining_of(&bob, fixture.room_id()).await.unwrap().unwrap();
        assert_eq!(out_of_band_text(&found), out_of_band_text(&expected));
        assert_eq!(rooms.joining_of(&local("bobby"), fixture.room_id()).await.unwrap(), None);
        assert_eq!(row_of(world, &bob, &fixture).await, Some(invited.clone()));
    }
    world.room(fixture.end_join(&bob)).await;
    world.room(fixture.end_join(&bob)).await;
    assert_eq!(rooms.joining_of(&bob, fixture.room_id()).await.unwrap(), None);
    assert_eq!(row_of(world, &bob, &fixture).await, Some(invited));
    let membership = rooms.membership(&bob, fixture.room_id()).await.unwrap().unwrap();
    assert_eq!((membership.membership, membership.position), (MembershipState::Invite, position));
    assert_not_stored(world, &fixture).await;
}

/// A start reads them page by page; the commit that brings the room here ends the one of the user who joined.
pub async fn joins_page_in_order_across_rooms_and_end_with_the_import(world: &mut World) {
    let mut fixtures = ["b", "a"].map(elsewhere);
    let (ann, bob) = (local("ann"), local("bob"));
    for fixture in &mut fixtures {
        for user_id in [&bob, &ann] {
            world.room(fixture.begin_join(user_id)).await;
        }
    }
    let rooms = world.stores().rooms.clone();
    let all = rooms.joining(None, None, ALL).await.unwrap();
    let mut expected: Vec<_> =
        fixtures.iter().flat_map(|room| [&ann, &bob].map(|user| (room.room_id(), user))).collect();
    expected.sort();
    assert_eq!(all.iter().map(|row| (&*row.room_id, &row.user_id)).collect::<Vec<_>>(), expected);
    let after = Some((&*all[0].room_id, &*all[0].user_id));
    assert_eq!(rooms.joining(None, after, 2).await.unwrap(), all[1..3]);
    let first = fixtures[0].room_id().to_owned();
    assert_eq!(rooms.joining(Some(&first), None, ALL).await.unwrap().len(), 2);
    world.room(fixtures[0].import(&ann)).await;
    let left = rooms.joining(Some(&first), None, ALL).await.unwrap();
    assert_eq!(left.iter().map(|row| &row.user_id).collect::<Vec<_>>(), [&bob]);
}

/// The commit that brings the room here ends the row; the rows of others wait for their own answers.
pub async fn import_of_a_join_makes_the_room_and_ends_the_row(world: &mut World) {
    for (number, version) in (1..).zip([RoomVersionId::V7, RoomVersionId::V12]) {
        let mut fixture = RoomFixture::elsewhere(&version, "a");
        let (bob, carol) = (local("bob"), local("carol"));
        world.room(fixture.out_of_band(&bob, MembershipState::Invite, Progress::Settled)).await;
        let of_carol = fixture.out_of_band(&carol, MembershipState::Knock, Progress::Settled);
        let carols = made_row(&of_carol);
        world.room(of_carol).await;
        let position = world.room(fixture.import(&bob)).await;

        let rooms = world.stores().rooms.clone();
        let room_id = fixture.room_id();
        assert_eq!(row_of(world, &bob, &fixture).await, None);
        assert_eq!(row_of(world, &carol, &fixture).await, Some(carols));
        let row = rooms.room(room_id).await.unwrap().unwrap();
        assert_eq!((row.current, row.counts), (fixture.current(), fixture.counts()));
        assert_eq!(rooms.rooms_stored().await.unwrap(), number);
        let timeline = rooms.timeline(room_id, None, Direction::Forward, ALL).await.unwrap();
        let shown: Vec<_> = timeline.iter().map(|stored| (stored.event.event_id(), stored.position)).collect();
        assert_eq!(shown, [(fixture.newest(), position)]);
        let of_bob = rooms.membership(&bob, room_id).await.unwrap().unwrap();
        assert_eq!((of_bob.membership, of_bob.position), (MembershipState::Join, position));
        let history = rooms.membership_history(&bob, room_id).await.unwrap();
        assert_eq!(history.into_iter().map(|(_, step)| step).collect::<Vec<_>>(), [MembershipState::Join]);
        let of_carol = rooms.membership(&carol, room_id).await.unwrap().unwrap();
        assert_eq!(of_carol.membership, MembershipState::Knock);
        let snapshot = rooms.snapshot(room_id).await.unwrap().unwrap();
        assert_eq!(snapshot.state.len(), fixture.state().len());
        assert_eq!(snapshot.knocks, *fixture.knocks());
        assert_eq!(snapshot.extremities.len(), 1);
        for (version, state) in fixture.states() {
            let stored = rooms.state_at(room_id, *version).await.unwrap().unwrap();
            let expected = state.iter().map(|(key, event)| (key.clone(), event.event_id().to_owned())).collect();
            assert_eq!(stored, expected);
        }
        // The actor's life goes on from the rows to the room.
        world.room(fixture.message(&bob, "hello")).await;
        world.room(fixture.backfilled(&remote("creator"), "before bob came")).await;
    }
}

/// A room that all of ours have left is stored, and still an invite to it may come from elsewhere.
pub async fn stored_room_may_have_rows_too(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let bob = local("bob");
    world.room(fixture.member(&bob, MembershipState::Join)).await;
    world.room(fixture.leave(&bob)).await;
    let invite = fixture.clone().out_of_band(&bob, MembershipState::Invite, Progress::Settled);
    let expected = made_row(&invite);
    let mut commit = fixture.refusal(&remote("eve"), "join_rule_forbids");
    commit.out_of_band = invite.out_of_band;
    commit.memberships = invite.memberships;
    let position = world.room(commit).await;
    assert_eq!(row_of(world, &bob, &fixture).await, Some(expected));
    let membership = world.stores().rooms.membership(&bob, fixture.room_id()).await.unwrap().unwrap();
    assert_eq!((membership.membership, membership.position), (MembershipState::Invite, position));
    let history = world.stores().rooms.membership_history(&bob, fixture.room_id()).await.unwrap();
    assert_eq!(history.len(), 2, "out of band is not in the timeline: {history:?}");
}

/// Who knocks again has not forgotten the room.
pub async fn knock_out_of_band_takes_the_forgotten_mark_away(world: &mut World) {
    let mut fixture = elsewhere("a");
    let (bob, room_id) = (local("bob"), fixture.room_id().to_owned());
    world.room(fixture.out_of_band(&bob, MembershipState::Invite, Progress::Settled)).await;
    world.room(fixture.out_of_band(&bob, MembershipState::Leave, Progress::Settled)).await;
    let forget = AccountChange::SetForgotten { user_id: bob.clone(), room_id: room_id.clone(), is_forgotten: true };
    world.accounts(vec![forget]).await;
    let rooms = world.stores().rooms.clone();
    world.room(fixture.out_of_band(&bob, MembershipState::Knock, Progress::Asking)).await;
    assert!(rooms.membership(&bob, &room_id).await.unwrap().unwrap().forgotten, "nobody took the knock yet");
    world.room(fixture.out_of_band(&bob, MembershipState::Knock, Progress::Settled)).await;
    assert!(!rooms.membership(&bob, &room_id).await.unwrap().unwrap().forgotten);
}

/// The user's clients hear of an invite from elsewhere.
pub async fn announcement_names_whose_row_changed(world: &mut World) {
    let mut fixture = elsewhere("a");
    let bob = local("bob");
    for membership in [MembershipState::Knock, MembershipState::Invite, MembershipState::Leave] {
        let position = world.room(fixture.out_of_band(&bob, membership, Progress::Settled)).await;
        let news = world.heard().pop().unwrap();
        assert_eq!((news.position, news.room_id.as_deref()), (position, Some(fixture.room_id())));
        assert_eq!(news.users, std::slice::from_ref(&bob));
        assert!(news.destinations.is_empty());
    }
}

/// Rooms elsewhere have actors too, and those are replaced as all others are.
pub async fn gap_in_a_life_out_of_band_is_refused(world: &mut World) {
    let mut fixture = elsewhere("a");
    let (bob, carol) = (local("bob"), local("carol"));
    world.room(fixture.out_of_band(&bob, MembershipState::Invite, Progress::Settled)).await;
    let mut lost_world = fixture.clone();
    let _never_made = lost_world.out_of_band(&bob, MembershipState::Leave, Progress::Settled);
    let after_the_gap = lost_world.out_of_band(&carol, MembershipState::Invite, Progress::Settled);
    assert_eq!(world.try_room(after_the_gap).await, Err(CommitError::PredecessorMissing));
    assert_eq!(world.try_room(lost_world.import(&bob)).await, Err(CommitError::PredecessorMissing));
    assert_eq!(row_of(world, &carol, &fixture).await, None);
    assert_not_stored(world, &fixture).await;
    fixture.next_life();
    let commit = fixture.import(&bob);
    assert_eq!(commit.origin, RoomOrigin::Created);
    world.room(commit).await;
}
