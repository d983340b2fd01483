//! Knocks that nobody answered in time.
//! May not: wait for real time.

use std::time::Duration;

use ruma::{RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::{
    fixture::{ALICE, BOB, CAROL},
    membership::change::MembershipChange::{Invite, Join, Leave},
};
use vestibule_storage::room::DecisionAction;

use super::support::DAVE;
use crate::{expiry::expire_once, testing::World};

const HOUR: Duration = Duration::from_hours(1);

async fn expire(world: &World, after: Duration) -> u64 {
    expire_once(&world.rooms, &*world.stores().rooms, &*world.clock, after).await.unwrap()
}

#[actix::test]
async fn only_knocks_that_are_old_enough_end_and_their_servers_hear_of_it() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    world.knock(&room, BOB).await;
    world.clock.advance(HOUR / 2);
    world.knock(&room, CAROL).await;
    assert_eq!(expire(&world, HOUR).await, 0);
    world.clock.advance(HOUR / 2);
    assert_eq!(expire(&world, HOUR).await, 1);
    assert_eq!(expire(&world, HOUR).await, 0);
    assert_eq!(world.membership(&room, BOB), MembershipState::Leave);
    assert_eq!(world.membership(&room, CAROL), MembershipState::Knock);
    assert_eq!(world.owed_to("peer.test").len(), 1);
    let decision = world.decisions().into_iter().next_back().unwrap();
    assert_eq!(
        (decision.action, decision.by, decision.reason.as_deref()),
        (DecisionAction::Denied, None, Some("expired"))
    );
    // Who was left without an answer may ask again.
    world.knock(&room, BOB).await;
}

#[actix::test]
async fn age_counts_from_receipt_also_after_a_restart() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    world.knock(&room, BOB).await;
    world.clock.advance(HOUR);
    let restarted = world.restarted();
    assert_eq!(expire(&restarted, HOUR).await, 1);
    assert_eq!(restarted.membership(&room, BOB), MembershipState::Leave);
}

#[actix::test]
async fn knock_stays_where_nobody_of_ours_may_deny_it() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    world.change(&room, ALICE, Invite, DAVE).await.unwrap();
    world.change(&room, DAVE, Join, DAVE).await.unwrap();
    world.knock(&room, BOB).await;
    // Dave is left, and he may kick nobody.
    world.change(&room, ALICE, Leave, ALICE).await.unwrap();
    world.clock.advance(HOUR);
    assert_eq!(expire(&world, HOUR).await, 0);
    assert_eq!(world.membership(&room, BOB), MembershipState::Knock);
}
