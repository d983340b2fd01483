//! Knocks from old templates: forks, resolution beside the room, and how the extremities drain.
//! May not: let one room's work hold another.

use std::{collections::BTreeSet, sync::mpsc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use ruma::{
    RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::json;
use vestibule_protocol::{
    clock::Clock,
    fixture::{ALICE, BOB, CAROL, EVE, user},
    membership::{
        JoinRefusal, KnockRefusal, OVERTAKEN,
        change::MembershipChange::{Ban, Invite, Join, Kick, Unban},
        handshake::HandshakeKind,
    },
};

use vestibule_storage::memory::Failure;

use super::support::DAVE;
use crate::{
    AdmitJoin, AskError, PrepareJoin,
    room::check_door::CheckDoor,
    testing::{CPU_PERMITS, TestRoom, World, event, message, server, settle, until},
};

async fn many_knocks(world: &World, room: &TestRoom, count: usize) {
    let template = world.template(room, BOB).await;
    let users: Vec<String> = (0..count).map(|number| format!("@user{number}:server{number}.test")).collect();
    let knocks = users.iter().map(|user_id| world.admit(room, room.signed_knock(&template, user_id, "")));
    assert!(join_all(knocks).await.iter().all(Result::is_ok));
}

/// Memory now, memory of a fresh actor, and storage agree.
async fn agrees_with_storage(world: &World, room: &TestRoom) {
    let memory = world.memory(room).await;
    assert_eq!(world.restarted().memory(room).await, memory);
    for (user_id, membership) in &memory.members {
        assert_eq!(world.membership(room, user_id), *membership, "{user_id}");
    }
    let pending: Vec<String> = world.pending(room).iter().map(|row| row.user_id.to_string()).collect();
    let knocking = memory.members.iter().filter(|(_, membership)| *membership == MembershipState::Knock);
    assert_eq!(pending, knocking.map(|(user_id, _)| user_id.clone()).collect::<Vec<_>>());
    assert_eq!(memory.pending, pending.len());
}

/// Long work that leaves no thread free for other long work.
struct Busy {
    ends: Vec<mpsc::Sender<()>>,
    work: Vec<actix_rt::task::JoinHandle<()>>,
}

impl Busy {
    async fn new(world: &World) -> Self {
        let (ends, ended): (Vec<_>, Vec<_>) = (0..CPU_PERMITS).map(|_| mpsc::channel::<()>()).unzip();
        let occupy = |end: mpsc::Receiver<()>| {
            let cpu = world.cpu.clone();
            actix_rt::spawn(async move { cpu.run(move || end.recv().unwrap()).await.unwrap() })
        };
        let work = ended.into_iter().map(occupy).collect();
        settle().await;
        Self { ends, work }
    }

    async fn end(self) {
        self.ends.iter().for_each(|end| end.send(()).unwrap());
        for work in self.work {
            work.await.unwrap();
        }
    }
}

#[actix::test]
async fn ban_beats_a_knock_from_an_older_template() {
    for version_id in [RoomVersionId::V10, RoomVersionId::V12] {
        let world = World::new();
        let room = world.knockable(version_id).await;
        let template = world.template(&room, EVE).await;
        let (ban, knock) = tokio::join!(
            world.change(&room, ALICE, Ban, EVE),
            world.admit(&room, room.signed_knock(&template, EVE, ""))
        );
        ban.unwrap();
        assert_eq!(knock.unwrap_err(), AskError::Refused(KnockRefusal::Banned));
        assert_eq!(world.membership(&room, EVE), MembershipState::Ban);
        // The other way round: the knock was first, the ban ends it.
        let (knock, ban) = tokio::join!(
            world.admit(&room, room.signed_knock(&template, BOB, "")),
            world.change(&room, ALICE, Ban, BOB)
        );
        knock.unwrap();
        ban.unwrap();
        assert_eq!(world.membership(&room, BOB), MembershipState::Ban);
        agrees_with_storage(&world, &room).await;
    }
}

#[actix::test]
async fn new_join_rule_beats_an_older_template() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    world.set_state(&room, "m.room.join_rules", json!({ "join_rule": "invite" })).await;
    for world in [&world, &world.restarted()] {
        let refused = world.admit(&room, room.signed_knock(&template, BOB, "")).await.unwrap_err();
        assert!(matches!(refused, AskError::Refused(KnockRefusal::JoinRuleForbids { .. })), "{refused:?}");
    }
    world.set_state(&room, "m.room.join_rules", json!({ "join_rule": "knock" })).await;
    world.admit(&room, room.signed_knock(&template, BOB, "")).await.unwrap();
    assert_eq!(world.membership(&room, BOB), MembershipState::Knock);
    agrees_with_storage(&world, &room).await;
}

#[actix::test]
async fn knock_beside_other_changes_is_resolved_in_full() {
    for version_id in [RoomVersionId::V7, RoomVersionId::V11, RoomVersionId::V12] {
        let world = World::new();
        let room = world.knockable(version_id).await;
        let template = world.template(&room, BOB).await;
        let name = world.set_state(&room, "m.room.name", json!({ "name": "Changed" })).await;
        world.admit(&room, room.signed_knock(&template, BOB, "")).await.unwrap();
        world.admit(&room, room.signed_knock(&template, CAROL, "")).await.unwrap();
        let name_in_state = world.look(&room, |room| {
            room.state().get(&ruma::events::StateEventType::RoomName, "").map(|event| event.event_id().to_owned())
        });
        assert_eq!(name_in_state.await, Some(name));
        assert_eq!(world.memory(&room).await.counts.knock, 2);
        assert!(world.totals().paths.full >= 1, "{:?}", world.totals().paths);
        agrees_with_storage(&world, &room).await;
    }
}

#[actix::test]
async fn template_from_before_a_restart_is_read_from_storage() {
    for version_id in [RoomVersionId::V10, RoomVersionId::V12] {
        let world = World::new();
        let room = world.knockable(version_id).await;
        let template = world.template(&room, BOB).await;
        world.knock(&room, "@before:peer.test").await;
        world.set_state(&room, "m.room.topic", json!({ "topic": "later" })).await;
        world.change(&room, ALICE, Invite, CAROL).await.unwrap();
        let restarted = world.restarted();
        restarted.admit(&room, room.signed_knock(&template, BOB, "")).await.unwrap();
        assert_eq!(restarted.membership(&room, BOB), MembershipState::Knock);
        assert_eq!(restarted.membership(&room, CAROL), MembershipState::Invite);
        agrees_with_storage(&restarted, &room).await;
        let again = restarted.restarted();
        again.send(&room, message(ALICE, "merges")).await.unwrap();
        agrees_with_storage(&again, &room).await;
        assert_eq!(again.memory(&room).await.extremities, 1);
    }
}

#[actix::test]
async fn knock_that_cites_history_at_random_is_judged_and_kept_whole() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    many_knocks(&world, &room, 30).await;
    world.set_state(&room, "m.room.name", json!({ "name": "x" })).await;
    let history: Vec<String> = world.timeline(&room).iter().map(|stored| stored.event.event_id().to_string()).collect();
    let mut template = world.template(&room, BOB).await;
    for (number, step) in [2_usize, 3, 5, 7].into_iter().enumerate() {
        let cited: Vec<&String> = history.iter().skip(4).step_by(step).take(20).collect();
        crate::testing::put(&mut template, "prev_events", json!(cited));
        let user_id = format!("@wild{number}:wild.test");
        let fresh = world.restarted();
        for world in [&fresh, &world] {
            world.admit(&room, room.signed_knock(&template, &user_id, "")).await.unwrap();
            agrees_with_storage(world, &room).await;
        }
    }
    assert_eq!(world.memory(&room).await.counts.knock, 34);
}

#[actix::test]
async fn extremities_drain_by_twenty() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    many_knocks(&world, &room, 100).await;
    assert_eq!(world.memory(&room).await.extremities, 100);
    let template = world.template(&room, BOB).await;
    assert_eq!(template["prev_events"].as_array().unwrap().len(), 20);
    let mut before = 100;
    for number in 0..6 {
        let event_id = world.send(&room, message(ALICE, &format!("message {number}"))).await.unwrap();
        let event = world.stored(&room, &event_id).unwrap().event;
        assert_eq!(event.prev_events().len(), before.min(20));
        let distinct: BTreeSet<_> = event.prev_events().iter().collect();
        assert_eq!(distinct.len(), event.prev_events().len());
        let now = world.memory(&room).await.extremities;
        assert_eq!(now, before - before.min(20) + 1);
        before = now;
    }
    assert_eq!(before, 1);
    assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().facts.forward_extremities, 1);
    assert_eq!(world.memory(&room).await.counts.knock, 100);
    agrees_with_storage(&world, &room).await;
}

#[actix::test]
async fn event_that_needs_resolution_is_signed_once_while_other_rooms_answer() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let other = world.room_with(RoomVersionId::V12, "other", vec![]).await;
    world.send(&other, message(ALICE, "awake")).await.unwrap();
    many_knocks(&world, &room, 25).await;

    let busy = Busy::new(&world).await;
    let asked_at = world.clock.now();
    // It cites 20 of 25 extremities, so the state before it and the state after must be found beside the turn.
    let mut topic = Box::pin(world.send(&room, event(ALICE, "m.room.topic", Some(""), json!({ "topic": "t" }))));
    assert!(topic.as_mut().now_or_never().is_none());
    settle().await;
    world.clock.advance(Duration::from_secs(5));
    let mut behind = Box::pin(world.send(&room, message(ALICE, "behind")));
    assert!(behind.as_mut().now_or_never().is_none());
    for _ in 0..3 {
        world.send(&other, message(ALICE, "meanwhile")).await.unwrap();
    }
    let door = world.rooms.ask(&other.room_id, CheckDoor { origin: server("peer.test") }).await;
    assert!(door.is_ok());
    assert!(topic.as_mut().now_or_never().is_none());
    assert!(behind.as_mut().now_or_never().is_none());
    assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().mailbox_depth, 1, "only this room's message waits");
    busy.end().await;
    let (topic, behind) = tokio::join!(topic, behind);
    let (topic, behind) = (topic.unwrap(), behind.unwrap());
    let topics: Vec<_> = world
        .timeline(&room)
        .into_iter()
        .filter(|stored| *stored.event.kind() == TimelineEventType::RoomTopic)
        .collect();
    assert_eq!(topics.len(), 1);
    assert_eq!(topics[0].event.event_id(), topic);
    assert_eq!(topics[0].event.origin_server_ts(), asked_at, "the second run built the event of the first");
    assert!(world.stored(&room, &behind).unwrap().order > topics[0].order);
    assert!(world.totals().paths.full >= 1);
    agrees_with_storage(&world, &room).await;
}

#[actix::test]
async fn failing_read_during_gathering_refuses_one_message_and_spares_the_room() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    world.set_state(&room, "m.room.topic", json!({ "topic": "later" })).await;
    let restarted = world.restarted();
    restarted.memory(&room).await;
    // The look-up of the event itself succeeds, the look-up of what it cites fails.
    let knock = room.signed_knock(&template, BOB, "");
    let mut admission = Box::pin(restarted.admit(&room, knock));
    assert!(admission.as_mut().now_or_never().is_none());
    restarted.storage.fail_reads(1);
    assert!(matches!(admission.await, Err(AskError::Storage(_))));
    restarted.admit(&room, room.signed_knock(&template, BOB, "")).await.unwrap();
    assert_eq!(restarted.totals().actors_restarted, 0);
    agrees_with_storage(&restarted, &room).await;
}

#[actix::test]
async fn joined_user_survives_forks_of_knocks() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, BOB).await;
    world.change(&room, ALICE, Invite, DAVE).await.unwrap();
    world.change(&room, DAVE, Join, DAVE).await.unwrap();
    world.admit(&room, room.signed_knock(&template, BOB, "")).await.unwrap();
    world.change(&room, ALICE, Kick, BOB).await.unwrap();
    world.admit(&room, room.signed_knock(&template, CAROL, "")).await.unwrap();
    assert_eq!(world.membership(&room, DAVE), MembershipState::Join);
    assert_eq!(world.membership(&room, BOB), MembershipState::Leave);
    world.send(&room, message(DAVE, "still here")).await.unwrap();
    agrees_with_storage(&world, &room).await;
    until("everything is written", || world.storage.waiting() == 0).await;
}

#[actix::test]
async fn turn_that_resumes_on_failed_ground_is_not_acknowledged() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    many_knocks(&world, &room, 25).await;
    let busy = Busy::new(&world).await;
    world.storage.hold();
    world.storage.fail_only(1, Failure::NotWritten);
    let mut text = Box::pin(world.send(&room, message(ALICE, "fails")));
    assert!(text.as_mut().now_or_never().is_none());
    until("it is enqueued", || world.storage.waiting() == 1).await;
    let mut topic = Box::pin(world.send(&room, event(ALICE, "m.room.topic", Some(""), json!({ "topic": "t" }))));
    assert!(topic.as_mut().now_or_never().is_none());
    settle().await;
    world.storage.release_all();
    busy.end().await;
    let (text, topic) = tokio::join!(text, topic);
    assert!(matches!(text, Err(AskError::Storage(_))), "{text:?}");
    assert!(matches!(topic, Err(AskError::Storage(_))), "{topic:?}");
    assert_eq!(world.timeline(&room).len(), 4 + 25);
    agrees_with_storage(&world, &room).await;
    world.send(&room, event(ALICE, "m.room.topic", Some(""), json!({ "topic": "t" }))).await.unwrap();
    agrees_with_storage(&world, &room).await;
}

/// Found by `cargo xtask prove linear --seed 1`: the second knock was answered 200, and the state held the leave.
#[actix::test]
async fn knock_that_a_newer_leave_stands_in_place_of_is_refused_and_not_kept() {
    let world = World::new();
    world.clock.step_by(Duration::from_millis(1));
    let room = world.knockable(RoomVersionId::V10).await;
    let (first, second) = (world.template(&room, BOB).await, world.template(&room, BOB).await);
    world.admit(&room, room.signed_knock(&first, BOB, "first")).await.unwrap();
    world.leave(&room, BOB).await;
    let second = room.signed_knock(&second, BOB, "second");
    let event_id = second.pdu().event_id().to_owned();

    let refused = world.admit(&room, second).await.unwrap_err();
    assert!(
        matches!(&refused, AskError::Refused(KnockRefusal::NotAuthorized { reason }) if reason == OVERTAKEN),
        "{refused:?}"
    );
    assert_eq!(world.membership(&room, BOB), MembershipState::Leave);
    assert!(world.stored(&room, &event_id).is_none());
    agrees_with_storage(&world, &room).await;
    world.knock(&room, BOB).await;
    assert_eq!(world.membership(&room, BOB), MembershipState::Knock);
}

#[actix::test]
async fn join_from_before_a_ban_that_was_lifted_is_refused_and_the_lifting_stands() {
    for version in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V12] {
        let world = World::new();
        world.clock.step_by(Duration::from_millis(1));
        let room = world.knockable(version).await;
        world.set_state(&room, "m.room.join_rules", json!({ "join_rule": "public" })).await;
        let template = async || {
            let (origin, offered) = (user(BOB).server_name().to_owned(), vec![room.version.id().clone()]);
            let request = PrepareJoin { user_id: user(BOB), origin, offered, authorised_via: None };
            world.rooms.ask(&room.room_id, request).await.unwrap().event
        };
        let admit = async |template| {
            let join = room.signed(template, BOB, HandshakeKind::Join).into_join().unwrap();
            world.rooms.ask(&room.room_id, AdmitJoin { join }).await
        };
        let early = template().await;
        world.change(&room, ALICE, Ban, BOB).await.unwrap();
        world.change(&room, ALICE, Unban, BOB).await.unwrap();

        let refused = admit(early).await.unwrap_err();
        assert!(
            matches!(&refused, AskError::Refused(JoinRefusal::NotAuthorized { reason }) if reason == OVERTAKEN),
            "{refused:?}"
        );
        assert_eq!(world.membership(&room, BOB), MembershipState::Leave);
        agrees_with_storage(&world, &room).await;
        admit(template().await).await.unwrap();
        assert_eq!(world.membership(&room, BOB), MembershipState::Join);
    }
}

/// Found by `cargo xtask prove --quick --seed 289599986 linear`: with the third user's knock Bob was banned again.
#[actix::test]
async fn knock_from_before_a_ban_that_was_lifted_is_refused_and_the_lifting_stands() {
    for version in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V12] {
        let world = World::new();
        world.clock.step_by(Duration::from_millis(1));
        let room = world.knockable(version).await;
        let early = world.template(&room, BOB).await;
        world.change(&room, ALICE, Ban, BOB).await.unwrap();
        let between = world.template(&room, CAROL).await;
        world.change(&room, ALICE, Unban, BOB).await.unwrap();

        let refused = world.admit(&room, room.signed_knock(&early, BOB, "early")).await.unwrap_err();
        assert!(
            matches!(&refused, AskError::Refused(KnockRefusal::NotAuthorized { reason }) if reason == OVERTAKEN),
            "{refused:?}"
        );
        world.admit(&room, room.signed_knock(&between, CAROL, "between")).await.unwrap();
        assert_eq!(world.membership(&room, BOB), MembershipState::Leave);
        world.knock(&room, BOB).await;
        assert_eq!(world.membership(&room, BOB), MembershipState::Knock);
        agrees_with_storage(&world, &room).await;
    }
}
