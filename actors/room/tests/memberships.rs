//! Memberships changed by our own users, and leaves of others: every change, every repeat, and the fate of knocks.
//! May not: let a repeat make an event.

use std::time::Duration;

use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::json;
use vestibule_protocol::{
    fixture::{ALICE, BOB, CAROL, EVE, user},
    membership::{
        KnockRefusal, LeaveRefusal, MembershipRefusal,
        change::MembershipChange::{self, Ban, Invite, Join, Kick, Knock, Leave, Unban},
        knock::KnockPolicy,
    },
};
use vestibule_storage::{
    memory::Failure,
    room::{DecisionAction, MemberCounts},
};

use super::support::{DAVE, invite_rule};
use crate::{
    AskError,
    testing::{Settings, TestRoom, World, membership_change, message},
};

/// A change that must be refused and must leave nothing.
async fn refusal_of(
    world: &World,
    room: &TestRoom,
    sender: &str,
    change: MembershipChange,
    target: &str,
) -> MembershipRefusal {
    let before = (world.timeline(room).len(), world.memory(room).await);
    let answer = world.change(room, sender, change, target).await;
    assert_eq!((world.timeline(room).len(), world.memory(room).await), before, "{change:?}");
    match answer {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn repeats_make_no_event(world: &World, room: &TestRoom, sender: &str, change: MembershipChange, target: &str) {
    let first = world.change(room, sender, change, target).await.unwrap();
    let events = world.timeline(room).len();
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.change(room, sender, change, target).await, Ok(first.clone()), "{change:?}");
    assert_eq!(world.restarted().change(room, sender, change, target).await, Ok(first), "{change:?} after a restart");
    assert_eq!(world.timeline(room).len(), events, "{change:?}");
}

#[actix::test]
async fn whoever_leaves_or_is_put_out_types_no_more() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V12, "typing", vec![invite_rule()]).await;
    let typing = world.rooms.typing();
    let who_types = || typing.news(&[(room.room_id.clone(), None)]).rooms.remove(&room.room_id).unwrap_or_default();
    typing.start(&room.room_id, &user(ALICE), Duration::from_secs(30));
    for (change, sender) in [(Leave, DAVE), (Kick, ALICE), (Ban, ALICE)] {
        world.change(&room, ALICE, Invite, DAVE).await.unwrap();
        world.change(&room, DAVE, Join, DAVE).await.unwrap();
        typing.start(&room.room_id, &user(DAVE), Duration::from_secs(30));
        assert_eq!(who_types(), [user(ALICE), user(DAVE)]);
        // A change that fails ends nothing.
        world.storage.fail_only(1, Failure::DiskFull);
        world.change(&room, sender, change, DAVE).await.unwrap_err();
        assert_eq!(who_types(), [user(ALICE), user(DAVE)], "{change:?}");
        world.change(&room, sender, change, DAVE).await.unwrap();
        assert_eq!(who_types(), [user(ALICE)], "{change:?}");
    }
}

#[actix::test]
async fn changes_that_stand_already_make_no_event() {
    let world = World::new();
    for version_id in [RoomVersionId::V7, RoomVersionId::V11, RoomVersionId::V12] {
        let room = world.room_with(version_id.clone(), &format!("repeat{version_id}"), vec![invite_rule()]).await;
        repeats_make_no_event(&world, &room, ALICE, Invite, DAVE).await;
        repeats_make_no_event(&world, &room, DAVE, Join, DAVE).await;
        repeats_make_no_event(&world, &room, DAVE, Leave, DAVE).await;
        repeats_make_no_event(&world, &room, ALICE, Ban, DAVE).await;
        assert_eq!(world.membership(&room, DAVE), MembershipState::Ban);
        world.change(&room, ALICE, Unban, DAVE).await.unwrap();
        assert_eq!(world.membership(&room, DAVE), MembershipState::Leave);
    }
}

#[actix::test]
async fn join_with_another_name_is_an_event() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V11, "names", vec![invite_rule()]).await;
    let join = |name: &str| membership_change(ALICE, Join, ALICE, json!({ "displayname": name }));
    let first = world.rooms.ask(&room.room_id, join("A")).await.unwrap();
    let second = world.rooms.ask(&room.room_id, join("B")).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(world.rooms.ask(&room.room_id, join("B")).await.unwrap(), second);
    let stored = world.stored(&room, &second).unwrap();
    assert!(stored.event.content().get().contains("\"displayname\":\"B\""));
    assert_eq!(world.memory(&room).await.counts.join, 1);
}

#[actix::test]
async fn changes_without_ground_are_refused_by_their_fact() {
    let world = World::new();
    let room = world.room_with(RoomVersionId::V11, "ground", vec![invite_rule()]).await;
    assert_eq!(refusal_of(&world, &room, ALICE, Kick, BOB).await, MembershipRefusal::NotInRoom);
    assert_eq!(refusal_of(&world, &room, DAVE, Leave, DAVE).await, MembershipRefusal::NotInRoom);
    assert!(matches!(refusal_of(&world, &room, ALICE, Unban, BOB).await, MembershipRefusal::NotAuthorized { .. }));
    assert!(matches!(refusal_of(&world, &room, DAVE, Join, DAVE).await, MembershipRefusal::NotAuthorized { .. }));
    assert!(matches!(refusal_of(&world, &room, DAVE, Invite, BOB).await, MembershipRefusal::NotAuthorized { .. }));
    assert!(matches!(refusal_of(&world, &room, DAVE, Ban, BOB).await, MembershipRefusal::NotAuthorized { .. }));
    world.change(&room, ALICE, Ban, BOB).await.unwrap();
    assert_eq!(refusal_of(&world, &room, ALICE, Invite, BOB).await, MembershipRefusal::Banned);
    world.change(&room, ALICE, Invite, DAVE).await.unwrap();
    world.change(&room, DAVE, Join, DAVE).await.unwrap();
    for (change, target) in [(Kick, ALICE), (Ban, ALICE), (Unban, BOB), (Ban, CAROL)] {
        let refusal = refusal_of(&world, &room, DAVE, change, target).await;
        assert!(matches!(refusal, MembershipRefusal::NotAuthorized { .. }), "{change:?} {refusal:?}");
    }
    assert!(matches!(refusal_of(&world, &room, ALICE, Invite, DAVE).await, MembershipRefusal::NotAuthorized { .. }));
}

#[actix::test]
async fn knock_has_one_fate_and_its_row() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let [denied, banned, invited, gone] =
        ["@denied:peer.test", "@banned:peer.test", "@invited:peer.test", "@gone:peer.test"];
    for user_id in [denied, banned, invited, gone] {
        world.knock(&room, user_id).await;
    }
    let reason = membership_change(ALICE, Kick, denied, json!({ "reason": "not today" }));
    let denial = world.rooms.ask(&room.room_id, reason).await.unwrap();
    world.change(&room, ALICE, Ban, banned).await.unwrap();
    world.change(&room, ALICE, Invite, invited).await.unwrap();
    world.leave(&room, gone).await;
    assert!(world.pending(&room).is_empty());
    use DecisionAction::{Accepted, Admitted, Banned, Denied, Retracted};
    let fates = [(denied, Denied, ALICE), (banned, Banned, ALICE), (invited, Accepted, ALICE), (gone, Retracted, gone)];
    for (user_id, action, by) in fates {
        assert_eq!(world.actions(user_id), [Admitted, action], "{user_id}");
        let rows = world.decisions();
        let row = rows.iter().rfind(|row| row.user_id == user(user_id)).unwrap();
        assert_eq!(row.by, Some(user(by)), "{user_id}");
        if action == Denied {
            assert_eq!((row.reason.as_deref(), row.event_id.clone()), (Some("not today"), Some(denial.clone())));
        }
    }
    let knocks = world.totals().knocks;
    assert_eq!((knocks.admitted, knocks.denied, knocks.accepted, knocks.retracted, knocks.pending), (4, 2, 1, 1, 0));
    let counts = MemberCounts { join: 1, invite: 1, knock: 0, leave: 2, ban: 1 };
    assert_eq!(world.memory(&room).await.counts, counts);
    assert_eq!(world.restarted().memory(&room).await.counts, counts);
    assert_eq!(counts_in_storage(&world, &room), counts);
}

fn counts_in_storage(world: &World, room: &TestRoom) -> MemberCounts {
    crate::testing::read(world.stores().rooms.room(&room.room_id)).unwrap().counts
}

#[actix::test]
async fn local_knock_passes_the_same_door() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let knock = membership_change(DAVE, Knock, DAVE, json!({ "reason": "hello" }));
    let event_id = world.rooms.ask(&room.room_id, knock).await.unwrap();
    let pending = world.pending(&room);
    assert_eq!((pending[0].knock.event_id.clone(), pending[0].knock.reason.as_deref()), (event_id, Some("hello")));
    let refusal = refusal_of(&world, &room, DAVE, Knock, DAVE).await;
    assert!(matches!(refusal, MembershipRefusal::Knock(KnockRefusal::AlreadyKnocking { .. })), "{refusal:?}");
    world.change(&room, DAVE, Leave, DAVE).await.unwrap();
    assert_eq!(world.actions(DAVE), [DecisionAction::Admitted, DecisionAction::Retracted]);
    world.change(&room, ALICE, Ban, DAVE).await.unwrap();
    let refusal = refusal_of(&world, &room, DAVE, Knock, DAVE).await;
    assert_eq!(refusal, MembershipRefusal::Knock(KnockRefusal::Banned));
    assert_eq!(world.actions(DAVE).last(), Some(&DecisionAction::Refused));
    let refused = world.totals().knocks.refused;
    assert_eq!((refused.get("banned"), refused.get("already_knocking")), (Some(&1), Some(&1)));
    let closed = world.room_with(RoomVersionId::V11, "closed", vec![]).await;
    let refusal = refusal_of(&world, &closed, DAVE, Knock, DAVE).await;
    assert_eq!(refusal, MembershipRefusal::Knock(KnockRefusal::JoinRuleForbids { rule: None }));
}

#[actix::test]
async fn nobody_knocks_for_another() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    for sender in [ALICE, DAVE] {
        let refusal = refusal_of(&world, &room, sender, Knock, "@other:resident.test").await;
        assert!(
            matches!(refusal, MembershipRefusal::Knock(_) | MembershipRefusal::NotAuthorized { .. }),
            "{refusal:?}"
        );
    }
}

#[actix::test]
async fn same_knock_without_waiting_time_is_one_event() {
    let policy = KnockPolicy { repeat_after: std::time::Duration::ZERO, ..Settings::default().policy };
    let world = World::with(Settings { policy, ..Settings::default() });
    let room = world.knockable(RoomVersionId::V11).await;
    repeats_make_no_event(&world, &room, DAVE, Knock, DAVE).await;
    let other_words = membership_change(DAVE, Knock, DAVE, json!({ "reason": "please!" }));
    let first = world.pending(&room)[0].knock.event_id.clone();
    assert_ne!(world.rooms.ask(&room.room_id, other_words).await.unwrap(), first);
    assert_eq!(world.pending(&room).len(), 1);
}

#[actix::test]
async fn accepted_user_comes_in_and_speaks() {
    let world = World::new();
    for version_id in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V12] {
        let knockable = vec![("m.room.join_rules", json!({ "join_rule": "knock" }))];
        let room = world.room_with(version_id.clone(), &format!("accept{version_id}"), knockable).await;
        world.change(&room, DAVE, Knock, DAVE).await.unwrap();
        let refused = world.send(&room, message(DAVE, "too early")).await;
        assert!(matches!(refused, Err(AskError::Refused(_))));
        world.change(&room, ALICE, Invite, DAVE).await.unwrap();
        world.change(&room, DAVE, Join, DAVE).await.unwrap();
        world.send(&room, message(DAVE, "thanks")).await.unwrap();
        assert_eq!(world.memory(&room).await.counts.join, 2);
    }
}

#[actix::test]
async fn key_of_restricted_joins_stays_out_of_other_memberships() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let content = json!({ "join_authorised_via_users_server": ALICE, "membership": "join" });
    let event_id = world.rooms.ask(&room.room_id, membership_change(DAVE, Knock, DAVE, content)).await.unwrap();
    let stored = world.stored(&room, &event_id).unwrap();
    assert_eq!(stored.event.content().get(), r#"{"membership":"knock"}"#);
}

#[actix::test]
async fn remote_leave_retracts_a_knock_and_declines_an_invite() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    world.knock(&room, BOB).await;
    world.change(&room, ALICE, Invite, CAROL).await.unwrap();
    for user_id in [BOB, CAROL] {
        let template = world.prepare_leave(&room, user_id).await.unwrap();
        assert_eq!(template.room_version, RoomVersionId::V11);
        let template = template.event;
        world.admit_leave(&room, room.signed_leave(&template, user_id)).await.unwrap();
        assert_eq!(world.membership(&room, user_id), MembershipState::Leave);
        let events = world.timeline(&room).len();
        for world in [&world, &world.restarted()] {
            world.admit_leave(&room, room.signed_leave(&template, user_id)).await.unwrap();
            assert_eq!(world.timeline(&room).len(), events, "a replay makes no event");
        }
        let again = world.prepare_leave(&room, user_id).await.unwrap_err();
        assert_eq!(again, AskError::Refused(LeaveRefusal::NotAMember));
    }
    assert_eq!(world.totals().knocks.retracted, 1);
    assert_eq!(world.actions(CAROL), []);
}

#[actix::test]
async fn leave_from_an_old_template_does_not_lift_a_ban() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    world.knock(&room, EVE).await;
    let template = world.prepare_leave(&room, EVE).await.unwrap().event;
    world.change(&room, ALICE, Ban, EVE).await.unwrap();
    for world in [&world, &world.restarted()] {
        let refused = world.admit_leave(&room, room.signed_leave(&template, EVE)).await;
        assert!(matches!(refused, Err(AskError::Refused(LeaveRefusal::NotAuthorized { .. }))), "{refused:?}");
        assert_eq!(world.membership(&room, EVE), MembershipState::Ban);
    }
}

#[actix::test]
async fn leave_waits_for_the_disk_and_cites_what_is_known() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    world.knock(&room, BOB).await;
    let mut template = world.prepare_leave(&room, BOB).await.unwrap().event;
    let good = room.signed_leave(&template, BOB);
    crate::testing::put(&mut template, "prev_events", json!(["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]));
    let refused = world.admit_leave(&room, room.signed_leave(&template, BOB)).await;
    assert!(matches!(refused, Err(AskError::Refused(LeaveRefusal::UnknownPrevEvents { .. }))), "{refused:?}");
    world.storage.hold();
    let mut leave = Box::pin(world.admit_leave(&room, good));
    assert!(futures_util::FutureExt::now_or_never(leave.as_mut()).is_none());
    crate::testing::until("it is enqueued", || world.storage.waiting() == 1).await;
    crate::testing::settle().await;
    assert!(futures_util::FutureExt::now_or_never(leave.as_mut()).is_none());
    world.storage.release_all();
    assert_eq!(leave.await, Ok(()));
}
