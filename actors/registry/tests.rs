//! Which rooms have actors, for how long, on which thread, and what happens when one cannot be loaded.
//! May not: sleep; time is set by hand or paused.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::ThreadId,
    time::Duration,
};

use actix_rt::Arbiter;
use futures_util::{FutureExt, future::join_all};
use ruma::{CanonicalJsonObject, OwnedRoomId, RoomId, RoomVersionId};
use serde_json::json;
use vestibule_protocol::{
    clock::Clock,
    fixture::{ALICE, BOB, CAROL, EPOCH, canonical, user},
    membership::{CreateRefusal, KnockBucket, KnockRefusal},
};
use vestibule_storage::{
    commit::CommitError,
    error::StorageError,
    memory::{Failure, MemoryStorage},
};

use super::AskError;
use crate::{
    CreateRoom, InitialEvent,
    limits::{KnockRates, Rate},
    room::check_door::CheckDoor,
    testing::{Settings, TestRoom, World, message, read, server, settle, until},
};

/// Actors look at half of their idle timeout whether they are idle; a little more, because timers fire by whole ticks.
const HALF_OF_IDLE: Duration = Duration::from_secs(31);

async fn rooms_of(world: &World, count: usize) -> Vec<TestRoom> {
    let mut rooms = Vec::new();
    for number in 0..count {
        let knockable = vec![("m.room.join_rules", json!({ "join_rule": "knock" }))];
        rooms.push(world.room_with(RoomVersionId::V11, &format!("room{number}"), knockable).await);
    }
    rooms
}

fn door() -> CheckDoor {
    CheckDoor { origin: server("peer.test") }
}

/// Lets the idle check of all actors run.
async fn idle_check() {
    tokio::time::advance(HALF_OF_IDLE).await;
    settle().await;
}

#[actix::test]
async fn idle_actor_goes_and_the_next_message_starts_another() {
    tokio::time::pause();
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    assert_eq!(world.totals().actors_started, 1, "whoever makes a room uses it next");
    world.knock(&room, BOB).await;
    let memory = world.memory(&room).await;
    idle_check().await;
    assert_eq!(world.totals().actors_live, 1, "not idle yet by the wall clock");
    world.clock.advance(Duration::from_mins(1));
    idle_check().await;
    let totals = world.totals();
    assert_eq!((totals.actors_live, totals.actors_passivated), (0, 1));
    assert!(world.rooms.gauges().room(&room.room_id).is_none());
    assert!(world.rooms.lock().by_room.is_empty());
    assert_eq!(world.memory(&room).await, memory);
    let totals = world.totals();
    assert_eq!((totals.actors_live, totals.actors_started, totals.actors_restarted), (1, 2, 0));
}

#[actix::test]
async fn actor_with_commits_in_flight_stays() {
    tokio::time::pause();
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    world.storage.hold();
    let mut sent = Box::pin(world.send(&room, message(ALICE, "slow")));
    assert!(sent.as_mut().now_or_never().is_none());
    until("it is enqueued", || world.storage.waiting() == 1).await;
    for _ in 0..10 {
        world.clock.advance(Duration::from_mins(1));
        idle_check().await;
        assert_eq!(world.totals().actors_live, 1);
    }
    world.storage.release_all();
    sent.await.unwrap();
    world.clock.advance(Duration::from_mins(1));
    idle_check().await;
    assert_eq!(world.totals().actors_live, 0);
}

#[actix::test]
async fn message_that_meets_a_leaving_actor_is_answered() {
    tokio::time::pause();
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let mut passivated = 0;
    for number in 0..50 {
        world.rooms.ask(&room.room_id, door()).await.unwrap();
        world.clock.advance(Duration::from_mins(1));
        // In some rounds the message is in the mailbox before the check, in others it comes while the actor goes.
        let mut asked = Box::pin(world.send(&room, message(ALICE, &format!("{number}"))));
        if number % 2 == 0 {
            assert!(asked.as_mut().now_or_never().is_none());
        }
        let ((), sent) = tokio::join!(tokio::time::advance(HALF_OF_IDLE), asked);
        sent.unwrap();
        world.clock.advance(Duration::from_mins(1));
        idle_check().await;
        passivated += 1;
        assert!(world.totals().actors_passivated >= passivated);
    }
    assert_eq!(world.timeline(&room).len(), 4 + 50);
}

#[test]
fn no_message_is_lost_between_threads_while_actors_come_and_go() {
    actix_rt::System::new().block_on(async {
        let arbiters = [Arbiter::new(), Arbiter::new()];
        let world = World::with(Settings {
            arbiters: arbiters.iter().map(Arbiter::handle).collect(),
            idle_timeout: Duration::ZERO,
            ..Settings::default()
        });
        let rooms = rooms_of(&world, 8).await;
        let mut sent = 0_usize;
        while world.totals().actors_passivated < 40 {
            let round = sent;
            let asks = rooms.iter().map(|room| world.send(room, message(ALICE, &format!("{round}"))));
            for answer in join_all(asks).await {
                answer.unwrap();
            }
            sent += 1;
        }
        for room in &rooms {
            assert_eq!(world.timeline(room).len(), 4 + sent);
            assert_eq!(world.restarted().memory(room).await.counts.join, 1);
        }
        assert_eq!(world.totals().actors_restarted, 0);
        arbiters.iter().for_each(|arbiter| assert!(arbiter.stop()));
    });
}

#[test]
fn rooms_keep_to_their_thread_and_use_all_of_them() {
    actix_rt::System::new().block_on(async {
        let arbiters = [Arbiter::new(), Arbiter::new()];
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        let world = World::with(Settings { arbiters: handles, ..Settings::default() });
        let rooms = rooms_of(&world, 16).await;
        let mut threads: BTreeMap<String, usize> = BTreeMap::new();
        let here = format!("{:?}", std::thread::current().id());
        for room in &rooms {
            let mut of_room: Vec<ThreadId> = Vec::new();
            for _ in 0..3 {
                of_room.push(world.look(room, |_| std::thread::current().id()).await);
            }
            assert!(of_room.windows(2).all(|pair| pair[0] == pair[1]));
            *threads.entry(format!("{:?}", of_room[0])).or_default() += 1;
        }
        assert_eq!(threads.len(), 2, "{threads:?}");
        assert!(!threads.contains_key(&here));
        let template = world.template(&rooms[0], BOB).await;
        let users: Vec<String> = (0..50).map(|number| format!("@u{number}:s{number}.test")).collect();
        let knocks = users.iter().map(|user_id| world.admit(&rooms[0], rooms[0].signed_knock(&template, user_id, "")));
        let others = rooms[1..].iter().map(|room| world.knock(room, CAROL));
        let (knocks, _) = tokio::join!(join_all(knocks), join_all(others));
        assert!(knocks.iter().all(Result::is_ok));
        assert_eq!(world.pending(&rooms[0]).len(), 50);
        assert_eq!(world.totals().knocks.admitted, 50 + 15);
        arbiters.iter().for_each(|arbiter| assert!(arbiter.stop()));
    });
}

#[actix::test]
async fn too_many_actors_make_room_for_new_ones() {
    let world = World::new();
    let rooms = rooms_of(&world, 10).await;
    let world = world.restarted_with(Settings { live_max: 3, ..Settings::default() });
    for room in &rooms {
        world.clock.advance(Duration::from_secs(2));
        world.rooms.ask(&room.room_id, door()).await.unwrap();
        settle().await;
        assert!(world.totals().actors_live <= 3, "{}", world.totals().actors_live);
    }
    let totals = world.totals();
    assert_eq!((totals.actors_started, totals.actors_passivated, totals.actors_live), (10, 7, 3));
    // The busy are passed over: nobody is thrown out of a room that speaks.
    let busy = &rooms[9];
    for room in &rooms[..6] {
        world.clock.advance(Duration::from_secs(2));
        world.rooms.ask(&busy.room_id, door()).await.unwrap();
        world.rooms.ask(&room.room_id, door()).await.unwrap();
        settle().await;
        assert!(world.rooms.gauges().room(&busy.room_id).is_some());
    }
    assert_eq!(world.rooms.gauges().room(&busy.room_id).unwrap().messages.get("check_door"), Some(&7));
}

#[actix::test]
async fn rooms_woken_all_at_once_are_not_too_many() {
    let world = World::new();
    let rooms = rooms_of(&world, 30).await;
    let world = world.restarted_with(Settings { live_max: 3, ..Settings::default() });
    for room in &rooms {
        // All within the same second.
        world.rooms.ask(&room.room_id, door()).await.unwrap();
        settle().await;
        assert!(world.totals().actors_live <= 3, "{}", world.totals().actors_live);
    }
}

#[actix::test]
async fn rooms_that_are_not_here_cost_nothing() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let world = world.restarted();
    for number in 0..100_000 {
        let room_id: OwnedRoomId = RoomId::parse(format!("!nothing{number}:resident.test")).unwrap();
        assert_eq!(world.rooms.ask(&room_id, door()).await, Err(AskError::RoomNotHere));
    }
    let totals = world.totals();
    assert_eq!((totals.actors_started, totals.actors_live), (0, 0));
    {
        let entries = world.rooms.lock();
        assert!(entries.by_room.is_empty() && entries.failures.is_empty() && entries.restarts.is_empty());
    }
    assert!(world.rooms.ask(&room.room_id, door()).await.is_ok());
}

#[actix::test]
async fn many_messages_to_a_sleeping_room_start_it_once() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let world = world.restarted();
    let answers = join_all((0..50).map(|_| world.rooms.ask(&room.room_id, door()))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(world.totals().actors_started, 1);
}

/// One ask whose room is found and then cannot be read as `fail` makes it.
async fn load_that_fails(world: &World, room: &TestRoom, fail: impl FnOnce(&MemoryStorage)) -> StorageError {
    let mut asked = Box::pin(world.rooms.ask(&room.room_id, door()));
    assert!(asked.as_mut().now_or_never().is_none());
    fail(&world.storage);
    match asked.await {
        Err(AskError::Storage(CommitError::Storage(error))) => error,
        other => panic!("{other:?}"),
    }
}

/// The same where what is stored is damaged.
async fn failing_load(world: &World, room: &TestRoom) {
    let error = load_that_fails(world, room, MemoryStorage::damage_read).await;
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
}

#[actix::test]
async fn storage_that_cannot_be_read_for_now_puts_no_room_into_quarantine() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let world = world.restarted();
    for _ in 0..3 {
        let error = load_that_fails(&world, &room, |storage| storage.fail_reads(1)).await;
        assert!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
    }
    assert!(world.totals().quarantined.is_empty());
    assert!(world.rooms.ask(&room.room_id, door()).await.is_ok());
}

#[actix::test]
async fn room_that_fails_to_load_twice_in_a_minute_is_quarantined() {
    let world = World::new();
    let rooms = rooms_of(&world, 2).await;
    let (bad, good) = (&rooms[0], &rooms[1]);
    let world = world.restarted();
    failing_load(&world, bad).await;
    assert!(world.totals().quarantined.is_empty());
    world.clock.advance(Duration::from_secs(59));
    failing_load(&world, bad).await;
    let listed = world.totals().quarantined;
    assert_eq!(listed.get(&bad.room_id), Some(&EPOCH.plus(Duration::from_secs(59))));
    assert_eq!(listed.len(), 1);
    assert_eq!(world.rooms.ask(&bad.room_id, door()).await, Err(AskError::Failed), "although storage is well again");
    world.knock(good, BOB).await;
    world.clock.advance(Duration::from_mins(10));
    assert!(world.rooms.ask(&bad.room_id, door()).await.is_ok());
    assert!(world.totals().quarantined.is_empty());
}

#[actix::test]
async fn failures_far_apart_do_not_quarantine() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let world = world.restarted();
    for _ in 0..3 {
        failing_load(&world, &room).await;
        world.clock.advance(Duration::from_secs(61));
    }
    assert!(world.totals().quarantined.is_empty());
    assert!(world.rooms.ask(&room.room_id, door()).await.is_ok());
}

#[actix::test]
async fn load_that_succeeds_forgives_the_failure_before_it() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let world = world.restarted();
    failing_load(&world, &room).await;
    assert!(world.rooms.ask(&room.room_id, door()).await.is_ok());
    assert!(world.rooms.lock().failures.is_empty());
}

#[actix::test]
async fn closed_rooms_answer_no_more() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    world.storage.hold();
    let mut sent = Box::pin(world.send(&room, message(ALICE, "in time")));
    assert!(sent.as_mut().now_or_never().is_none());
    until("it is enqueued", || world.storage.waiting() == 1).await;
    world.rooms.close();
    assert_eq!(world.rooms.ask(&room.room_id, door()).await, Err(AskError::Failed));
    assert_eq!(world.rooms.create(creation(RoomVersionId::V11, "late")).await, Err(AskError::Failed));
    world.storage.release_all();
    assert!(sent.await.is_ok(), "what runs is finished");
}

fn creation(room_version: RoomVersionId, localpart: &str) -> CreateRoom {
    CreateRoom {
        creator: user(ALICE),
        room_id: Some(RoomId::parse(format!("!{localpart}:resident.test")).unwrap()),
        room_version,
        create_content: CanonicalJsonObject::new(),
        creator_content: CanonicalJsonObject::new(),
        initial: Vec::new(),
    }
}

fn with_state(kind: &str, state_key: &str, content: serde_json::Value) -> CreateRoom {
    let initial = InitialEvent {
        sender: user(ALICE),
        kind: kind.into(),
        state_key: Some(state_key.to_owned()),
        content: canonical(content),
    };
    CreateRoom { initial: vec![initial], ..creation(RoomVersionId::V11, "refused") }
}

#[actix::test]
async fn refused_creations_leave_nothing() {
    let world = World::new();
    let refusal = |answer: Result<OwnedRoomId, AskError<CreateRefusal>>| match answer {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let unhosted = creation(RoomVersionId::V5, "old");
    assert_eq!(refusal(world.rooms.create(unhosted).await), CreateRefusal::VersionNotHosted);
    let large = with_state("m.room.topic", "", json!({ "topic": "x".repeat(70_000) }));
    assert_eq!(refusal(world.rooms.create(large).await), CreateRefusal::TooLarge);
    let long = with_state("org.example", &"k".repeat(256), json!({}));
    assert_eq!(refusal(world.rooms.create(long).await), CreateRefusal::FieldTooLong);
    let second_create = with_state("m.room.create", "", json!({}));
    assert!(matches!(refusal(world.rooms.create(second_create).await), CreateRefusal::NotAuthorized { .. }));
    assert_eq!(read(world.stores().rooms.rooms_stored()), 0);
    assert_eq!(world.totals().rooms_created, 0);
    world.rooms.create(creation(RoomVersionId::V11, "taken")).await.unwrap();
    let again = world.rooms.create(creation(RoomVersionId::V11, "taken")).await;
    assert_eq!(refusal(again), CreateRefusal::RoomExists);
    assert_eq!((world.totals().rooms_created, read(world.stores().rooms.rooms_stored())), (1, 1));
}

#[actix::test]
async fn rooms_made_alike_at_one_time_are_several() {
    let world = World::new();
    let mut made = BTreeSet::new();
    for _ in 0..3 {
        let alike = CreateRoom { room_id: None, ..creation(RoomVersionId::V12, "none") };
        made.insert(world.rooms.create(alike).await.unwrap());
    }
    assert_eq!((made.len(), read(world.stores().rooms.rooms_stored())), (3, 3));
}

#[actix::test]
async fn room_is_made_whole_or_not_at_all() {
    let world = World::with(Settings { writer_slots: 1, ..Settings::default() });
    world.storage.fail_only(1, Failure::NotWritten);
    let failed = world.rooms.create(creation(RoomVersionId::V11, "whole")).await;
    assert!(matches!(failed, Err(AskError::Storage(_))), "{failed:?}");
    assert_eq!(read(world.stores().rooms.rooms_stored()), 0);
    world.storage.hold();
    let mut made = Box::pin(world.rooms.create(creation(RoomVersionId::V11, "whole")));
    assert!(made.as_mut().now_or_never().is_none());
    tokio::select! {
        _ = &mut made => panic!("answered before the disk"),
        () = until("it is enqueued", || world.storage.waiting() == 1) => {}
    }
    let busy = world.rooms.create(creation(RoomVersionId::V11, "busy")).await;
    assert_eq!(busy, Err(AskError::Overloaded));
    assert_eq!(read(world.stores().rooms.rooms_stored()), 0);
    let position = world.stores().stream.position();
    world.storage.release_all();
    let room_id = made.await.unwrap();
    assert_eq!(world.stores().stream.position(), position.next(), "one commit");
    assert_eq!(read(world.stores().rooms.current_state(&room_id)).len(), 2);
}

#[actix::test]
async fn gauges_of_a_room_say_what_happened_in_it() {
    let world = World::with(Settings { mailbox_capacity: 77, ..Settings::default() });
    let room = world.knockable(RoomVersionId::V12).await;
    let world = world.restarted();
    world.clock.advance(Duration::from_secs(3));
    world.knock(&room, BOB).await;
    world.knock(&room, CAROL).await;
    world.clock.advance(Duration::from_secs(4));
    world.send(&room, message(ALICE, "hi")).await.unwrap();
    let gauges = world.rooms.gauges().room(&room.room_id).unwrap();
    assert_eq!(gauges.messages, BTreeMap::from([("admit_knock", 2), ("prepare_knock", 2), ("send_event", 1)]));
    assert_eq!((gauges.mailbox_depth, gauges.mailbox_capacity, gauges.restarts), (0, 77, 0));
    assert_eq!(gauges.started_at, EPOCH.plus(Duration::from_secs(3)));
    assert_eq!(gauges.last_active, EPOCH.plus(Duration::from_secs(7)));
    assert_eq!(gauges.facts.room_version, RoomVersionId::V12);
    assert_eq!(gauges.facts.join_rule.as_deref(), Some("knock"));
    assert_eq!((gauges.facts.members.join, gauges.facts.members.knock, gauges.facts.pending_knocks), (1, 2, 2));
    assert_eq!(gauges.facts.forward_extremities, 1);
    assert_eq!(world.rooms.gauges().rooms(), vec![gauges]);
    assert_eq!(world.totals().rooms_created, 0, "since this start");
}

#[actix::test]
async fn watch_wakes_when_the_commit_is_durable() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let other = world.room_with(RoomVersionId::V12, "other", vec![]).await;
    let template = world.template(&room, BOB).await;
    let mut owner = world.notifier.watch(&user(ALICE), std::slice::from_ref(&room.room_id));
    let mut elsewhere = world.notifier.watch(&user("@erin:resident.test"), std::slice::from_ref(&other.room_id));
    world.storage.hold();
    let mut knock = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "")));
    assert!(knock.as_mut().now_or_never().is_none());
    until("it is enqueued", || world.storage.waiting() == 1).await;
    settle().await;
    assert!(owner.changed().now_or_never().is_none());
    world.storage.release_all();
    assert!(owner.changed().now_or_never().is_some());
    assert_eq!(world.pending(&room).len(), 1, "whoever wakes can read it");
    knock.await.unwrap();
    assert!(elsewhere.changed().now_or_never().is_none());
    // A local user hears of an invite to a room that nobody watches for them.
    use vestibule_protocol::membership::change::MembershipChange::Invite;
    world.change(&room, ALICE, Invite, "@erin:resident.test").await.unwrap();
    assert!(elsewhere.changed().now_or_never().is_some());
    assert_eq!(world.clock.now(), EPOCH);
}

#[actix::test]
async fn message_on_its_way_keeps_its_actor() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let super::Found::Live(_, counted_in, incarnation) = world.rooms.find(&room.room_id) else {
        panic!("the room's actor lives");
    };
    assert!(!world.rooms.passivated(&room.room_id, incarnation), "somebody is about to send it a message");
    assert_eq!(world.totals().actors_live, 1);
    drop(counted_in);
    assert!(!world.rooms.passivated(&room.room_id, incarnation + 1), "another life of the room");
    assert!(world.rooms.passivated(&room.room_id, incarnation));
    assert_eq!(world.totals().actors_live, 0);
}

#[actix::test]
async fn message_whose_look_up_fails_is_not_counted_as_waiting() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let knock = room.signed_knock(&world.template(&room, BOB).await, BOB, "");
    world.storage.fail_reads(1);
    assert!(matches!(world.admit(&room, knock).await, Err(AskError::Storage(_))));
    assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().mailbox_depth, 0);
    world.knock(&room, BOB).await;
}

#[actix::test]
async fn actor_that_wakes_after_a_restart_and_a_sleep_is_no_restart() {
    tokio::time::pause();
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    assert_eq!(world.rooms.ask(&room.room_id, crate::room::tests::support::Panic).await, Err(AskError::Failed));
    world.rooms.ask(&room.room_id, door()).await.unwrap();
    world.clock.advance(Duration::from_mins(1));
    idle_check().await;
    assert_eq!(world.totals().actors_live, 0);
    world.rooms.ask(&room.room_id, door()).await.unwrap();
    let totals = world.totals();
    assert_eq!((totals.actors_started, totals.actors_restarted), (3, 1));
    assert_eq!(world.rooms.gauges().room(&room.room_id).unwrap().restarts, 1);
}

#[actix::test]
async fn knocks_elsewhere_take_from_the_buckets_of_our_users() {
    let many = Rate { per_second: 0.5, burst: 100.0 };
    let two = Rate { per_second: 0.5, burst: 2.0 };
    let rates = KnockRates {
        in_room: many,
        by_origin_in_room: many,
        by_origin: many,
        by_network: many,
        by_user_in_room: many,
        by_user: two,
    };
    let world = World::with(Settings { rates: Some(rates), ..Settings::default() });
    let room = |name: &str| RoomId::parse(format!("!{name}:there.test")).unwrap();
    for name in ["a", "b"] {
        assert_eq!(world.rooms.count_knock_elsewhere(&room(name), &user(BOB)), Ok(()));
    }
    let over = KnockRefusal::OverRate { bucket: KnockBucket::User, retry_after: Duration::from_secs(2) };
    assert_eq!(world.rooms.count_knock_elsewhere(&room("c"), &user(BOB)), Err(over));
    assert_eq!(world.rooms.count_knock_elsewhere(&room("c"), &user(CAROL)), Ok(()));
    assert_eq!(world.totals().knocks.refused.get("over_rate"), Some(&1));
    assert_eq!(world.totals().actors_started, 0, "no room is asked");
}
