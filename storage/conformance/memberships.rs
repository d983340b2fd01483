//! Facts about the memberships of local users.
//! May not: look at state; the index is what sync reads.

use ruma::{UserId, events::room::member::MembershipState};
use vestibule_protocol::stream::{StreamPosition, TimelineOrder};

use super::{
    World,
    fixture::{RoomFixture, local, remote},
};
use crate::{
    accounts::AccountChange,
    room::{MembershipRow, UserMembership},
};

async fn room(world: &World, label: &str) -> RoomFixture {
    let (fixture, commit) = RoomFixture::create(label);
    world.room(commit).await;
    fixture
}

async fn membership(world: &World, user_id: &UserId, fixture: &RoomFixture) -> Option<UserMembership> {
    let membership = world.stores().rooms.membership(user_id, fixture.room_id()).await.unwrap();
    let mut of_user = world.stores().rooms.memberships_of(user_id).await.unwrap();
    of_user.retain(|row| row.room_id == fixture.room_id());
    assert_eq!(of_user.pop(), membership, "the list and the single row agree");
    assert!(of_user.is_empty(), "each room once");
    membership
}

fn as_of_newest(fixture: &RoomFixture, membership: MembershipState, position: StreamPosition) -> UserMembership {
    UserMembership {
        room_id: fixture.room_id().to_owned(),
        membership,
        event_id: fixture.newest().to_owned(),
        position,
        forgotten: false,
    }
}

fn forget(user_id: &UserId, fixture: &RoomFixture, is_forgotten: bool) -> AccountChange {
    let (user_id, room_id) = (user_id.to_owned(), fixture.room_id().to_owned());
    AccountChange::SetForgotten { user_id, room_id, is_forgotten }
}

/// All rooms of a user, whatever the membership, and nobody else's.
pub async fn local_memberships_are_indexed_by_user(world: &mut World) {
    let bob = local("bob");
    let mut expected = Vec::new();
    for (label, memberships) in [
        ("a", vec![MembershipState::Join]),
        ("b", vec![MembershipState::Invite]),
        ("c", vec![MembershipState::Knock, MembershipState::Ban]),
        ("d", vec![MembershipState::Join, MembershipState::Leave]),
    ] {
        let mut fixture = room(world, label).await;
        for membership in memberships {
            let position = world.room(fixture.member(&bob, membership.clone())).await;
            expected.retain(|row: &UserMembership| row.room_id != fixture.room_id());
            expected.push(as_of_newest(&fixture, membership, position));
        }
        world.room(fixture.member(&local("bobby"), MembershipState::Join)).await;
    }
    room(world, "without bob").await;
    let mut found = world.stores().rooms.memberships_of(&bob).await.unwrap();
    found.sort_by(|left, right| left.room_id.cmp(&right.room_id));
    expected.sort_by(|left, right| left.room_id.cmp(&right.room_id));
    assert_eq!(found, expected);
    assert_eq!(world.stores().rooms.memberships_of(&local("creator")).await.unwrap().len(), 5);
    assert_eq!(world.stores().rooms.memberships_of(&local("bo")).await.unwrap(), []);
}

/// Users of other servers do not sync here.
pub async fn remote_memberships_are_not_indexed(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let eve = remote("eve");
    world.room(fixture.member(&eve, MembershipState::Join)).await;
    assert_eq!(membership(world, &eve, &fixture).await, None);
    assert_eq!(world.stores().rooms.membership_history(&eve, fixture.room_id()).await.unwrap(), []);
}

/// The latest event counts, from the position that brought it.
pub async fn membership_is_the_newest_with_its_position(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let bob = local("bob");
    assert_eq!(membership(world, &bob, &fixture).await, None);
    let steps = [
        MembershipState::Knock,
        MembershipState::Knock,
        MembershipState::Invite,
        MembershipState::Join,
        MembershipState::Leave,
        MembershipState::Ban,
    ];
    for step in steps {
        let position = world.room(fixture.member(&bob, step.clone())).await;
        let expected = as_of_newest(&fixture, step, position);
        world.room(fixture.message(&local("creator"), "changes nothing")).await;
        assert_eq!(membership(world, &bob, &fixture).await, Some(expected));
    }
}

/// History visibility is judged by who was in when.
pub async fn membership_history_is_oldest_first(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let mut other_room = room(world, "b").await;
    let bob = local("bob");
    let mut expected = Vec::new();
    for step in [MembershipState::Join, MembershipState::Leave, MembershipState::Invite, MembershipState::Join] {
        world.room(fixture.member(&bob, step.clone())).await;
        let order = fixture.events()[fixture.newest()].order.unwrap();
        expected.push((order, step));
        world.room(fixture.member(&local("carol"), MembershipState::Invite)).await;
        world.room(other_room.member(&bob, MembershipState::Invite)).await;
    }
    let history = world.stores().rooms.membership_history(&bob, fixture.room_id()).await.unwrap();
    assert_eq!(history, expected);
    let creators = world.stores().rooms.membership_history(&local("creator"), fixture.room_id()).await.unwrap();
    assert_eq!(creators, [(TimelineOrder(2), MembershipState::Join)]);
}

/// A membership that came out of band has no place in the timeline.
pub async fn membership_without_a_place_is_not_in_the_history(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let bob = local("bob");
    let mut commit = fixture.soft_failed(&remote("eve"), "an invite from elsewhere");
    let event_id = commit.events[0].event.event_id().to_owned();
    commit.memberships.push(MembershipRow {
        user_id: bob.clone(),
        membership: MembershipState::Invite,
        event_id: event_id.clone(),
        order: None,
        is_local: true,
    });
    let position = world.room(commit).await;
    let found = membership(world, &bob, &fixture).await.unwrap();
    assert_eq!((found.membership, found.event_id, found.position), (MembershipState::Invite, event_id, position));
    assert_eq!(world.stores().rooms.membership_history(&bob, fixture.room_id()).await.unwrap(), []);
    world.room(fixture.member(&bob, MembershipState::Join)).await;
    let order = fixture.events()[fixture.newest()].order.unwrap();
    let history = world.stores().rooms.membership_history(&bob, fixture.room_id()).await.unwrap();
    assert_eq!(history, [(order, MembershipState::Join)]);
}

/// Backfilled member events tell who was in when, and change nothing of what is.
pub async fn membership_of_the_past_is_in_the_history_alone(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let (bob, carol) = (local("bob"), local("carol"));
    world.room(fixture.member(&bob, MembershipState::Join)).await;
    let position = world.room(fixture.leave(&bob)).await;
    let expected = UserMembership { forgotten: true, ..as_of_newest(&fixture, MembershipState::Leave, position) };
    world.accounts(vec![forget(&bob, &fixture, true)]).await;
    let mut commit = fixture.history(&remote("eve"), &["an invite", "a join"]);
    for (row, membership) in commit.events.clone().iter().zip([MembershipState::Invite, MembershipState::Join]) {
        for user_id in [&bob, &carol] {
            commit.memberships.push(MembershipRow {
                user_id: user_id.clone(),
                membership: membership.clone(),
                event_id: row.event.event_id().to_owned(),
                order: row.order,
                is_local: true,
            });
        }
    }
    world.room(commit).await;
    assert!(world.heard().pop().unwrap().users.is_empty(), "nobody's membership changed");
    assert_eq!(membership(world, &bob, &fixture).await, Some(expected));
    assert_eq!(membership(world, &carol, &fixture).await, None);
    let steps = |history: Vec<(TimelineOrder, MembershipState)>| {
        history.into_iter().map(|(order, step)| (order.0, step)).collect::<Vec<_>>()
    };
    let history = world.stores().rooms.membership_history(&bob, fixture.room_id()).await.unwrap();
    let before = [(-1, MembershipState::Invite), (0, MembershipState::Join)];
    assert_eq!(steps(history)[..2], before);
    let history = world.stores().rooms.membership_history(&carol, fixture.room_id()).await.unwrap();
    assert_eq!(steps(history), before);
}

/// Forgetting is a mark that its user can have removed.
pub async fn forgotten_mark_is_set_and_taken_back(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let bob = local("bob");
    world.room(fixture.member(&bob, MembershipState::Join)).await;
    let position = world.room(fixture.leave(&bob)).await;
    let left = as_of_newest(&fixture, MembershipState::Leave, position);
    assert_eq!(membership(world, &bob, &fixture).await, Some(left.clone()));
    world.accounts(vec![forget(&bob, &fixture, true)]).await;
    let forgotten = UserMembership { forgotten: true, ..left.clone() };
    assert_eq!(membership(world, &bob, &fixture).await, Some(forgotten));
    world.accounts(vec![forget(&bob, &fixture, false)]).await;
    assert_eq!(membership(world, &bob, &fixture).await, Some(left));
}

/// Who is in a room, or asks to be, has not forgotten it; and who leaves it again did not forget it again.
pub async fn coming_back_takes_the_forgotten_mark_away(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let (bob, carol) = (local("bob"), local("carol"));
    for user_id in [&bob, &carol] {
        world.room(fixture.member(user_id, MembershipState::Join)).await;
        world.room(fixture.leave(user_id)).await;
        world.accounts(vec![forget(user_id, &fixture, true)]).await;
    }
    for step in [MembershipState::Invite, MembershipState::Join, MembershipState::Knock] {
        assert!(membership(world, &bob, &fixture).await.unwrap().forgotten);
        world.room(fixture.member(&bob, step.clone())).await;
        let found = membership(world, &bob, &fixture).await.unwrap();
        assert_eq!((found.membership, found.forgotten), (step, false));
        world.room(fixture.leave(&bob)).await;
        assert!(!membership(world, &bob, &fixture).await.unwrap().forgotten);
        world.accounts(vec![forget(&bob, &fixture, true)]).await;
    }
    assert!(membership(world, &carol, &fixture).await.unwrap().forgotten, "it was another user who came back");
}

/// Banning whoever forgot a room does not bring it back before their eyes.
pub async fn leaving_for_good_leaves_the_forgotten_mark(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let bob = local("bob");
    world.room(fixture.member(&bob, MembershipState::Join)).await;
    world.room(fixture.leave(&bob)).await;
    world.accounts(vec![forget(&bob, &fixture, true)]).await;
    for step in [MembershipState::Ban, MembershipState::Leave] {
        world.room(fixture.member(&bob, step.clone())).await;
        let found = membership(world, &bob, &fixture).await.unwrap();
        assert_eq!((found.membership, found.forgotten), (step, true));
    }
    world.accounts(vec![forget(&bob, &fixture, false)]).await;
    assert!(!membership(world, &bob, &fixture).await.unwrap().forgotten);
}

/// The mark is of one user in one room.
pub async fn forgetting_concerns_one_room_and_one_user(world: &mut World) {
    let mut first = room(world, "a").await;
    let mut second = room(world, "b").await;
    let (bob, carol) = (local("bob"), local("carol"));
    for fixture in [&mut first, &mut second] {
        for user_id in [&bob, &carol] {
            world.room(fixture.member(user_id, MembershipState::Join)).await;
            world.room(fixture.leave(user_id)).await;
        }
    }
    world.accounts(vec![forget(&bob, &first, true)]).await;
    assert!(membership(world, &bob, &first).await.unwrap().forgotten);
    assert!(!membership(world, &bob, &second).await.unwrap().forgotten);
    assert!(!membership(world, &carol, &first).await.unwrap().forgotten);
}
