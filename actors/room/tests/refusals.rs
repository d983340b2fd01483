//! Knocks that the room does not take: why, in which order the reasons are asked, and what is kept of it.
//! May not: accept a refusal that changed the room.

use std::time::Duration;

use futures_util::FutureExt as _;
use ruma::RoomVersionId;
use serde_json::json;
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    fixture::{ALICE, BOB, CAROL, EPOCH, EVE},
    membership::{
        KnockBucket, KnockRefusal,
        change::MembershipChange::{Ban, Invite, Join, Kick, Unban},
        knock::KnockPolicy,
    },
};
use vestibule_storage::room::DecisionAction;

use crate::{
    AdmitKnock, AskError, SourceNetwork,
    limits::{KnockRates, Rate},
    testing::{Settings, TestRoom, World, network, put, server, until},
};

/// Asks with an event made from an older template, and expects a refusal that leaves nothing behind.
async fn refusal_of(
    world: &World,
    room: &TestRoom,
    knock: vestibule_protocol::membership::handshake::SignedKnock,
) -> KnockRefusal {
    let before = (world.timeline(room).len(), world.memory(room).await);
    let event_id = knock.pdu().event_id().to_owned();
    let answer = world.admit(room, knock).await;
    assert_eq!((world.timeline(room).len(), world.memory(room).await), before);
    assert!(world.stored(room, &event_id).is_none());
    match answer {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn each_standing_refuses_with_its_own_fact() {
    let world = World::new();
    for version_id in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V12] {
        let room = world
            .room_with(
                version_id.clone(),
                &format!("standing{version_id}"),
                vec![("m.room.join_rules", json!({ "join_rule": "knock" }))],
            )
            .await;
        let template = world.template(&room, BOB).await;
        let [banned, invited, joined, gone] =
            ["@ban:peer.test", "@invite:peer.test", "@dave:resident.test", "@gone:peer.test"];
        world.change(&room, ALICE, Ban, banned).await.unwrap();
        world.change(&room, ALICE, Invite, invited).await.unwrap();
        world.change(&room, ALICE, Invite, joined).await.unwrap();
        world.change(&room, joined, Join, joined).await.unwrap();
        world.change(&room, ALICE, Invite, gone).await.unwrap();
        world.change(&room, ALICE, Kick, gone).await.unwrap();
        let refused = |answer: Result<_, AskError<KnockRefusal>>| match answer {
            Err(AskError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(world.prepare(&room, banned).await), KnockRefusal::Banned);
        assert_eq!(refused(world.prepare(&room, invited).await), KnockRefusal::AlreadyInvited);
        assert_eq!(refused(world.prepare(&room, joined).await), KnockRefusal::AlreadyJoined);
        // A template from before is no way round.
        let old = |user_id| room.signed_knock(&template, user_id, "");
        assert_eq!(refusal_of(&world, &room, old(banned)).await, KnockRefusal::Banned);
        assert_eq!(refusal_of(&world, &room, old(invited)).await, KnockRefusal::AlreadyInvited);
        world.knock(&room, gone).await;
        world.change(&room, ALICE, Unban, banned).await.unwrap();
        world.knock(&room, banned).await;
    }
}

#[actix::test]
async fn refusals_leave_audit_rows_and_counters() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, EVE).await;
    world.change(&room, ALICE, Ban, EVE).await.unwrap();
    let knock = room.signed_knock(&template, EVE, "");
    let event_id = knock.pdu().event_id().to_owned();
    assert_eq!(refusal_of(&world, &room, knock).await, KnockRefusal::Banned);
    let decisions = world.decisions();
    let row = decisions.last().unwrap();
    assert_eq!(row.action, DecisionAction::Refused);
    assert_eq!(row.reason.as_deref(), Some("banned"));
    assert_eq!(row.by, None);
    assert_eq!(row.origin, "evil.test");
    assert_eq!(row.event_id, Some(event_id));
    assert_eq!(row.room_id, room.room_id);
    assert_eq!(row.at, world.clock.now());
    assert_eq!(world.totals().knocks.refused.get("banned"), Some(&1));
}

#[actix::test]
async fn unknown_events_are_named() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let foreign = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let mut template = world.template(&room, BOB).await;
    put(&mut template, "prev_events", json!([foreign]));
    let refusal = refusal_of(&world, &room, room.signed_knock(&template, BOB, "")).await;
    assert_eq!(refusal, KnockRefusal::UnknownPrevEvents { event_ids: vec![foreign.try_into().unwrap()] });
    let mut template = world.template(&room, BOB).await;
    put(&mut template, "auth_events", json!([foreign]));
    let refusal = refusal_of(&world, &room, room.signed_knock(&template, BOB, "")).await;
    assert_eq!(refusal, KnockRefusal::UnknownAuthEvents { event_ids: vec![foreign.try_into().unwrap()] });
    assert_eq!(world.totals().actors_started, 1);
}

#[actix::test]
async fn knock_that_cites_the_create_event_is_refused_in_memory_and_from_storage() {
    let world = World::new();
    for version_id in [RoomVersionId::V11, RoomVersionId::V12] {
        let room = world
            .room_with(
                version_id.clone(),
                &format!("create{version_id}"),
                vec![("m.room.join_rules", json!({ "join_rule": "knock" }))],
            )
            .await;
        let mut template = world.template(&room, BOB).await;
        let create = world.timeline(&room)[0].event.event_id().to_string();
        put(&mut template, "prev_events", json!([create]));
        for world in [&world.restarted(), &world] {
            let refusal = refusal_of(world, &room, room.signed_knock(&template, BOB, "")).await;
            assert!(matches!(refusal, KnockRefusal::JoinRuleForbids { rule: None }), "{refusal:?}");
        }
    }
}

#[actix::test]
async fn foreign_auth_events_do_not_authorize() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let other = world
        .room_with(RoomVersionId::V11, "other", vec![("m.room.join_rules", json!({ "join_rule": "knock" }))])
        .await;
    let theirs = world.template(&other, BOB).await;
    let mut mixed = world.template(&room, BOB).await;
    mixed.insert("auth_events".to_owned(), theirs["auth_events"].clone());
    let refusal = refusal_of(&world, &room, room.signed_knock(&mixed, BOB, "")).await;
    assert!(matches!(refusal, KnockRefusal::UnknownAuthEvents { .. }), "{refusal:?}");
    let own: Vec<_> = world.template(&room, BOB).await["auth_events"].as_array().unwrap().to_vec();
    let mut doubled = world.template(&room, BOB).await;
    let doubled_ids: Vec<_> = own.iter().chain(&own[..1]).map(|id| id.as_str().unwrap()).collect();
    put(&mut doubled, "auth_events", json!(doubled_ids));
    let refusal = refusal_of(&world, &room, room.signed_knock(&doubled, BOB, "")).await;
    assert!(matches!(refusal, KnockRefusal::NotAuthorized { .. }), "{refusal:?}");
    let mut extra = world.template(&room, BOB).await;
    let alice = world.timeline(&room)[1].event.event_id().to_string();
    let with_alice: Vec<_> = own.iter().map(|id| id.as_str().unwrap().to_owned()).chain([alice]).collect();
    put(&mut extra, "auth_events", json!(with_alice));
    let refusal = refusal_of(&world, &room, room.signed_knock(&extra, BOB, "")).await;
    assert!(matches!(refusal, KnockRefusal::NotAuthorized { .. }), "{refusal:?}");
}

#[actix::test]
async fn acl_shuts_the_door_at_once() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, EVE).await;
    world.knock(&room, BOB).await;
    let acl = json!({ "allow": ["*"], "deny": ["evil.test", "PEER.*"] });
    world.set_state(&room, "m.room.server_acl", acl).await;
    let denied = AskError::Refused(KnockRefusal::ServerDenied);
    for world in [&world, &world.restarted()] {
        for name in ["evil.test", "evil.test:8448", "peer.test"] {
            assert_eq!(world.rooms.check_door(&room.room_id, &server(name)).await.unwrap_err(), denied, "{name}");
        }
        assert!(world.rooms.check_door(&room.room_id, &server("third.test")).await.is_ok());
        assert_eq!(world.prepare(&room, EVE).await.unwrap_err(), denied);
        assert_eq!(refusal_of(world, &room, room.signed_knock(&template, EVE, "")).await, KnockRefusal::ServerDenied);
        let leave = world.prepare_leave(&room, BOB).await.unwrap_err();
        assert_eq!(leave, AskError::Refused(vestibule_protocol::membership::LeaveRefusal::ServerDenied));
    }
    world.set_state(&room, "m.room.server_acl", json!({ "allow": ["*"] })).await;
    world.knock(&room, EVE).await;
}

#[actix::test]
async fn a_door_shows_what_is_durable() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let peer = server("peer.test");
    world.storage.hold();
    let acl = json!({ "allow": ["*"], "deny": ["peer.test"] });
    let mut shutting = Box::pin(world.set_state(&room, "m.room.server_acl", acl));
    assert!(shutting.as_mut().now_or_never().is_none());
    until("it is enqueued", || world.storage.waiting() == 1).await;
    assert!(world.rooms.check_door(&room.room_id, &peer).await.is_ok(), "nobody was told yet");
    world.storage.release_all();
    shutting.await;
    let denied = AskError::Refused(KnockRefusal::ServerDenied);
    assert_eq!(world.rooms.check_door(&room.room_id, &peer).await.unwrap_err(), denied);
    let messages = world.rooms.gauges().room(&room.room_id).unwrap().messages;
    assert_eq!(messages.get("check_door"), None, "a live room is not asked");
}

#[actix::test]
async fn room_that_does_not_federate_refuses_strangers() {
    let world = World::new();
    let request = crate::CreateRoom {
        creator: vestibule_protocol::fixture::user(ALICE),
        room_version: RoomVersionId::V11,
        room_id: Some("!closed:resident.test".try_into().unwrap()),
        create_content: vestibule_protocol::fixture::canonical(json!({ "m.federate": false })),
        creator_content: std::collections::BTreeMap::new(),
        initial: vec![crate::InitialEvent {
            sender: vestibule_protocol::fixture::user(ALICE),
            kind: "m.room.join_rules".into(),
            state_key: Some(String::new()),
            content: vestibule_protocol::fixture::canonical(json!({ "join_rule": "knock" })),
        }],
    };
    let room_id = world.rooms.create(request).await.unwrap();
    let room = TestRoom { room_id, version: vestibule_protocol::fixture::version(&RoomVersionId::V11) };
    assert_eq!(world.prepare(&room, BOB).await.unwrap_err(), AskError::Refused(KnockRefusal::NotFederated));
}

#[actix::test]
async fn room_without_anybody_of_ours_is_a_dead_copy() {
    use vestibule_protocol::membership::{LeaveRefusal, change::MembershipChange::Leave};
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, CAROL).await;
    world.knock(&room, BOB).await;
    world.change(&room, ALICE, Leave, ALICE).await.unwrap();
    let dead = AskError::Refused(KnockRefusal::ServerNotInRoom);
    for world in [&world, &world.restarted()] {
        assert_eq!(world.rooms.check_door(&room.room_id, &server("peer.test")).await.unwrap_err(), dead);
        assert_eq!(world.prepare(&room, CAROL).await.unwrap_err(), dead);
        let refusal = refusal_of(world, &room, room.signed_knock(&template, CAROL, "")).await;
        assert_eq!(refusal, KnockRefusal::ServerNotInRoom);
        let leave = world.prepare_leave(&room, BOB).await.unwrap_err();
        assert_eq!(leave, AskError::Refused(LeaveRefusal::ServerNotInRoom));
    }
}

#[actix::test]
async fn repeat_counts_from_receipt_and_the_wall_clock() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    world.knock(&room, BOB).await;
    world.clock.advance(Duration::from_mins(59));
    let again_from = EPOCH.plus(Duration::from_hours(1));
    let refused = AskError::Refused(KnockRefusal::AlreadyKnocking { again_from });
    assert_eq!(world.prepare(&room, BOB).await.unwrap_err(), refused);
    let restarted = world.restarted();
    assert_eq!(restarted.prepare(&room, BOB).await.unwrap_err(), refused, "also after a restart");
    world.clock.set_wall(UnixMillis(EPOCH.0 - 1_000_000));
    assert_eq!(world.prepare(&room, BOB).await.unwrap_err(), refused, "also when the clock stepped back");
    world.clock.set_wall(again_from);
    for world in [&restarted, &world] {
        let second = world.knock(&room, BOB).await;
        let pending = world.pending(&room);
        assert_eq!(pending.len(), 1);
        assert_eq!((pending[0].knock.event_id.clone(), pending[0].knock.since), (second, again_from));
    }
    let totals = world.totals();
    assert_eq!((totals.knocks.admitted, totals.knocks.pending), (2, 1));
}

#[actix::test]
async fn caps_refuse_new_users_and_let_repeats_pass() {
    let policy =
        KnockPolicy { repeat_after: Duration::ZERO, max_pending_per_room: 3, max_pending_per_origin_in_room: 2 };
    let world = World::with(Settings { policy, ..Settings::default() });
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, BOB).await;
    world.knock(&room, "@a:one.test").await;
    world.knock(&room, "@b:one.test").await;
    let of_origin = AskError::Refused(KnockRefusal::TooManyPendingFromOrigin);
    assert_eq!(world.prepare(&room, "@c:one.test").await.unwrap_err(), of_origin);
    let refusal = refusal_of(&world, &room, room.signed_knock(&template, "@c:one.test", "")).await;
    assert_eq!(refusal, KnockRefusal::TooManyPendingFromOrigin);
    world.knock(&room, "@a:two.test").await;
    let of_room = AskError::Refused(KnockRefusal::TooManyPendingInRoom);
    assert_eq!(world.prepare(&room, CAROL).await.unwrap_err(), of_room);
    assert_eq!(world.restarted().prepare(&room, CAROL).await.unwrap_err(), of_room);
    world.clock.advance(Duration::from_secs(1));
    world.knock(&room, "@a:one.test").await;
    world.change(&room, ALICE, Kick, "@a:one.test").await.unwrap();
    world.knock(&room, "@c:one.test").await;
}

const PLENTY: Rate = Rate { per_second: 0.0, burst: 1_000.0 };

fn plenty() -> KnockRates {
    KnockRates {
        in_room: PLENTY,
        by_origin_in_room: PLENTY,
        by_origin: PLENTY,
        by_network: PLENTY,
        by_user_in_room: PLENTY,
        by_user: PLENTY,
    }
}

const TWO: Rate = Rate { per_second: 0.5, burst: 2.0 };

/// Two knocks pass, the third meets the bucket, both at `make_knock` and at `send_knock`; then time brings a token back.
async fn third_meets(rates: KnockRates, bucket: KnockBucket, users: [&str; 3], untouched: &str) {
    let policy = KnockPolicy { repeat_after: Duration::ZERO, ..Settings::default().policy };
    let world = World::with(Settings { policy, rates: Some(rates), ..Settings::default() });
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, users[2]).await;
    // Looking takes nothing.
    for _ in 0..20 {
        world.template(&room, users[0]).await;
    }
    world.knock(&room, users[0]).await;
    world.clock.set_wall(world.clock.now().plus(Duration::from_millis(1)));
    world.knock(&room, users[1]).await;
    let decisions = world.decisions().len();
    let over = KnockRefusal::OverRate { bucket, retry_after: Duration::from_secs(2) };
    world.clock.set_wall(world.clock.now().plus(Duration::from_hours(1)));
    for _ in 0..5 {
        assert_eq!(world.prepare(&room, users[2]).await.unwrap_err(), AskError::Refused(over.clone()));
        assert_eq!(refusal_of(&world, &room, room.signed_knock(&template, users[2], "x")).await, over);
    }
    assert_eq!(world.decisions().len(), decisions, "a flood must not write as much as it sends");
    assert_eq!(world.totals().knocks.refused.get("over_rate"), None, "counted by who gives up on a held knock");
    if !untouched.is_empty() {
        world.knock(&room, untouched).await;
    }
    world.clock.advance(Duration::from_secs(2));
    world.knock(&room, users[2]).await;
}

#[actix::test]
async fn room_has_a_bucket() {
    let rates = KnockRates { in_room: TWO, ..plenty() };
    third_meets(rates, KnockBucket::Room, ["@a:one.test", "@b:two.test", "@c:three.test"], "").await;
}

#[actix::test]
async fn origin_has_a_bucket_in_the_room() {
    let rates = KnockRates { by_origin_in_room: TWO, ..plenty() };
    third_meets(rates, KnockBucket::OriginInRoom, ["@a:one.test", "@b:one.test", "@c:one.test"], "@a:two.test").await;
}

#[actix::test]
async fn origin_has_a_bucket() {
    let rates = KnockRates { by_origin: TWO, ..plenty() };
    third_meets(rates, KnockBucket::Origin, ["@a:one.test", "@b:one.test", "@c:one.test"], "@a:two.test").await;
}

#[actix::test]
async fn network_has_a_bucket() {
    let rates = KnockRates { by_network: TWO, ..plenty() };
    third_meets(rates, KnockBucket::Network, ["@a:one.test", "@b:two.test", "@c:three.test"], "").await;
}

#[actix::test]
async fn user_has_a_bucket_in_the_room() {
    let rates = KnockRates { by_user_in_room: TWO, ..plenty() };
    third_meets(rates, KnockBucket::UserInRoom, ["@a:one.test", "@a:one.test", "@a:one.test"], "@b:one.test").await;
}

#[actix::test]
async fn local_user_has_a_bucket_and_no_network() {
    use vestibule_protocol::membership::{MembershipRefusal, change::MembershipChange::Knock};
    let rates = KnockRates { by_user: TWO, by_network: Rate { per_second: 0.0, burst: 0.0 }, ..plenty() };
    let world = World::with(Settings { rates: Some(rates), ..Settings::default() });
    let mut rooms = Vec::new();
    for name in ["one", "two", "three"] {
        rooms.push(
            world
                .room_with(RoomVersionId::V11, name, vec![("m.room.join_rules", json!({ "join_rule": "knock" }))])
                .await,
        );
    }
    let dave = super::support::DAVE;
    world.change(&rooms[0], dave, Knock, dave).await.unwrap();
    world.change(&rooms[1], dave, Knock, dave).await.unwrap();
    let over = KnockRefusal::OverRate { bucket: KnockBucket::User, retry_after: Duration::from_secs(2) };
    let refusal = world.change(&rooms[2], dave, Knock, dave).await.unwrap_err();
    assert_eq!(refusal, AskError::Refused(MembershipRefusal::Knock(over)));
    assert_eq!(world.totals().knocks.refused.get("over_rate"), Some(&1));
}

#[actix::test]
async fn other_network_has_its_own_bucket() {
    let rates = KnockRates { by_network: Rate { per_second: 0.5, burst: 1.0 }, ..plenty() };
    let world = World::with(Settings { rates: Some(rates), ..Settings::default() });
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, BOB).await;
    let knock =
        |user_id, network: SourceNetwork| AdmitKnock { knock: room.signed_knock(&template, user_id, ""), network };
    world.rooms.ask(&room.room_id, knock(BOB, network())).await.unwrap();
    let refusal = world.rooms.ask(&room.room_id, knock(CAROL, network())).await.unwrap_err();
    assert!(matches!(refusal, AskError::Refused(KnockRefusal::OverRate { bucket: KnockBucket::Network, .. })));
    let elsewhere = SourceNetwork::of([198, 51, 100, 7].into());
    world.rooms.ask(&room.room_id, knock(CAROL, elsewhere)).await.unwrap();
}

#[actix::test]
async fn same_event_a_hundred_times_is_one_event_before_all_limits() {
    let rates = KnockRates { in_room: Rate { per_second: 0.0, burst: 1.0 }, ..plenty() };
    let policy = KnockPolicy { max_pending_per_room: 1, ..Settings::default().policy };
    let world = World::with(Settings { policy, rates: Some(rates), ..Settings::default() });
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let knock = || room.signed_knock(&template, BOB, "");
    let all = futures_util::future::join_all((0..50).map(|_| world.admit(&room, knock()))).await;
    assert!(all.iter().all(Result::is_ok));
    let events = world.timeline(&room).len();
    for _ in 0..50 {
        world.admit(&room, knock()).await.unwrap();
    }
    let restarted = world.restarted();
    for world in [&world, &restarted] {
        let shown = world.admit(&room, knock()).await.unwrap();
        assert!(!shown.knock_room_state.is_empty());
        assert_eq!(world.timeline(&room).len(), events);
        assert_eq!(world.pending(&room).len(), 1);
    }
    assert_eq!(world.totals().knocks.admitted, 1);
    assert_eq!(world.decisions().len(), 1);
}

#[actix::test]
async fn replay_after_a_denial_or_a_leave_does_not_resurrect() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    for user_id in [BOB, CAROL] {
        world.admit(&room, room.signed_knock(&template, user_id, "")).await.unwrap();
    }
    world.change(&room, ALICE, Kick, BOB).await.unwrap();
    world.leave(&room, CAROL).await;
    let events = world.timeline(&room).len();
    for world in [&world, &world.restarted()] {
        for user_id in [BOB, CAROL] {
            world.admit(&room, room.signed_knock(&template, user_id, "")).await.unwrap();
            assert_eq!(world.membership(&room, user_id), ruma::events::room::member::MembershipState::Leave);
        }
        assert!(world.pending(&room).is_empty());
        assert_eq!(world.timeline(&room).len(), events);
        assert_eq!(world.memory(&room).await.counts.knock, 0);
    }
}
