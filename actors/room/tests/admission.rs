//! `make_knock` and `send_knock` as a peer meets them.
//! May not: accept an answer that came before the disk.

use std::collections::BTreeSet;

use futures_util::{FutureExt, future::join_all};
use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::{Value, json};
use vestibule_protocol::{
    fixture::{ALICE, BOB, user},
    membership::KnockRefusal,
};
use vestibule_storage::room::DecisionAction;

use crate::{
    AskError,
    testing::{World, settle, until},
};

#[actix::test]
async fn admitted_knock_is_stored_pending_and_counted() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let knock = room.signed_knock(&template, BOB, "let me in");
    let event_id = knock.pdu().event_id().to_owned();
    let admitted = world.admit(&room, knock).await.unwrap();

    let stored = world.stored(&room, &event_id).unwrap();
    assert_eq!(stored.event.membership(), Some(MembershipState::Knock));
    assert!(stored.order.is_some());
    assert_eq!(world.membership(&room, BOB), MembershipState::Knock);
    let pending = world.pending(&room);
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].user_id, user(BOB));
    assert_eq!(pending[0].knock.event_id, event_id);
    assert_eq!(pending[0].knock.reason.as_deref(), Some("let me in"));
    assert_eq!(pending[0].knock.origin, "peer.test");

    let shown: Vec<Value> =
        admitted.knock_room_state.iter().map(|raw| serde_json::from_str(raw.get()).unwrap()).collect();
    let create = shown.iter().find(|event| event["type"] == "m.room.create").unwrap();
    for key in ["auth_events", "prev_events", "hashes", "signatures", "depth", "origin_server_ts"] {
        assert!(create.get(key).is_some(), "{key}");
    }
    for event in &admitted.stripped {
        let event: Value = serde_json::from_str(event.get()).unwrap();
        let keys: BTreeSet<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["content", "sender", "state_key", "type"]));
    }
    assert_eq!(admitted.stripped.len(), shown.len());
    let totals = world.totals();
    assert_eq!((totals.knocks.prepared, totals.knocks.admitted, totals.knocks.pending), (1, 1, 1));
    assert_eq!(world.actions(BOB), [DecisionAction::Admitted]);
}

#[actix::test]
async fn state_shown_to_strangers_names_seven_types_and_no_member() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    for kind in ["m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias", "m.room.encryption"] {
        world.set_state(&room, kind, json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    }
    for kind in ["m.room.history_visibility", "m.room.guest_access", "m.room.tombstone", "org.example.secret"] {
        world.set_state(&room, kind, json!({ "history_visibility": "shared" })).await;
    }
    let knock = room.signed_knock(&world.template(&room, BOB).await, BOB, "");
    let admitted = world.admit(&room, knock).await.unwrap();
    let kinds: BTreeSet<String> = admitted
        .stripped
        .iter()
        .map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    let expected = ["avatar", "canonical_alias", "create", "encryption", "join_rules", "name", "topic"];
    assert_eq!(kinds, expected.iter().map(|kind| format!("m.room.{kind}")).collect());
}

#[actix::test]
async fn shown_state_follows_a_new_name() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V10).await;
    world.knock(&room, "@first:peer.test").await;
    world.set_state(&room, "m.room.name", json!({ "name": "The Vestibule" })).await;
    let knock = room.signed_knock(&world.template(&room, BOB).await, BOB, "");
    let admitted = world.admit(&room, knock).await.unwrap();
    assert!(admitted.stripped.iter().any(|event| event.get().contains("The Vestibule")));
}

#[actix::test]
async fn no_answer_leaves_before_the_disk_has_what_it_saw() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    world.storage.hold();
    let mut success = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "")));
    assert!(success.as_mut().now_or_never().is_none());
    until("the knock waits for the disk", || world.storage.waiting() == 1).await;
    // Each of these turns saw the knock that is not durable yet.
    let mut refusal = Box::pin(world.admit(&room, room.signed_knock(&template, BOB, "again")));
    let mut next_template = Box::pin(world.prepare(&room, "@carol:third.test"));
    let mut no_template = Box::pin(world.prepare(&room, BOB));
    let mut look = Box::pin(world.look(&room, |room| room.pending.len()));
    for _ in 0..100 {
        assert!(success.as_mut().now_or_never().is_none());
        assert!(refusal.as_mut().now_or_never().is_none());
        assert!(next_template.as_mut().now_or_never().is_none());
        assert!(no_template.as_mut().now_or_never().is_none());
        assert!(look.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!(world.pending(&room).is_empty());
    assert_eq!(world.totals().knocks.admitted, 0, "counted once it is durable");
    world.storage.release_all();
    assert!(success.await.is_ok());
    assert!(matches!(refusal.await, Err(AskError::Refused(KnockRefusal::AlreadyKnocking { .. }))));
    assert!(next_template.await.is_ok());
    assert!(matches!(no_template.await, Err(AskError::Refused(KnockRefusal::AlreadyKnocking { .. }))));
    assert_eq!(look.await, 1);
}

#[actix::test]
async fn two_hundred_users_with_one_template_are_all_admitted_once() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let users: Vec<String> = (0..200).map(|number| format!("@user{number}:server{}.test", number % 20)).collect();
    let knocks = users.iter().map(|user_id| world.admit(&room, room.signed_knock(&template, user_id, "")));
    for answer in join_all(knocks).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    let pending: BTreeSet<_> = world.pending(&room).into_iter().map(|row| row.user_id.to_string()).collect();
    assert_eq!(pending, users.iter().cloned().collect());
    let knocks_in_timeline =
        world.timeline(&room).iter().filter(|stored| stored.event.membership() == Some(MembershipState::Knock)).count();
    assert_eq!(knocks_in_timeline, 200);
    for user_id in &users {
        assert_eq!(world.membership(&room, user_id), MembershipState::Knock);
    }
    let totals = world.totals();
    assert_eq!(totals.knocks.admitted, 200);
    // The first cites the only extremity; the other 199 are forks that need no resolution.
    assert_eq!((totals.paths.short, totals.paths.full), (199, 0));
    let memory = world.memory(&room).await;
    assert_eq!((memory.counts.knock, memory.counts.join, memory.pending), (200, 1, 200));
    assert_eq!(world.restarted().memory(&room).await, memory);
}

#[actix::test]
async fn one_user_with_fifty_knocks_is_admitted_once() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V11).await;
    let template = world.template(&room, BOB).await;
    let knocks = (0..50).map(|number| world.admit(&room, room.signed_knock(&template, BOB, &format!("try {number}"))));
    let answers = join_all(knocks).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let refused =
        |answer: &&Result<_, _>| matches!(answer, Err(AskError::Refused(KnockRefusal::AlreadyKnocking { .. })));
    assert_eq!(answers.iter().filter(refused).count(), 49);
    assert_eq!(world.totals().knocks.refused.get("already_knocking"), Some(&49));
    assert_eq!(world.pending(&room).len(), 1);
    assert_eq!(world.memory(&room).await.counts.knock, 1);
}

#[actix::test]
async fn knocks_work_in_every_version_that_has_them() {
    use RoomVersionId::{V7, V8, V9, V10, V11, V12};
    let world = World::new();
    for version_id in [V7, V8, V9, V10, V11, V12] {
        let rules =
            if matches!(version_id, V7 | V8 | V9) { &["knock"][..] } else { &["knock", "knock_restricted"][..] };
        for rule in rules {
            let content = json!({ "join_rule": rule, "allow": [] });
            let name = format!("v{version_id}.{rule}");
            let room = world.room_with(version_id.clone(), &name, vec![("m.room.join_rules", content)]).await;
            world.knock(&room, BOB).await;
            assert_eq!(world.membership(&room, BOB), MembershipState::Knock, "{version_id} {rule}");
            let restarted = world.restarted();
            restarted.knock(&room, "@carol:third.test").await;
            assert_eq!(restarted.memory(&room).await.counts.knock, 2, "{version_id} {rule}");
        }
    }
}

#[actix::test]
async fn versions_without_knocks_or_not_offered_refuse() {
    let world = World::new();
    let six = world.room_with(RoomVersionId::V6, "six", vec![]).await;
    assert_eq!(world.prepare(&six, BOB).await.unwrap_err(), AskError::Refused(KnockRefusal::VersionCannotKnock));
    let eleven = world.knockable(RoomVersionId::V11).await;
    let request = crate::PrepareKnock {
        user_id: user(BOB),
        origin: user(BOB).server_name().to_owned(),
        offered: vec![RoomVersionId::V10],
        network: crate::testing::network(),
    };
    let refusal = KnockRefusal::VersionNotOffered { room_version: RoomVersionId::V11 };
    assert_eq!(world.rooms.ask(&eleven.room_id, request).await.unwrap_err(), AskError::Refused(refusal));
}

#[actix::test]
async fn template_is_unsigned_and_belongs_to_the_asker() {
    let world = World::new();
    let room = world.knockable(RoomVersionId::V12).await;
    let template = world.template(&room, BOB).await;
    let template = serde_json::to_value(&template).unwrap();
    for absent in ["signatures", "hashes", "event_id", "unsigned"] {
        assert!(template.get(absent).is_none(), "{absent}");
    }
    assert_eq!(template["sender"], BOB);
    assert_eq!(template["state_key"], BOB);
    assert_eq!(template["content"], json!({ "membership": "knock" }));
    assert_eq!(template["room_id"], room.room_id.as_str());
    assert_eq!(template["auth_events"].as_array().unwrap().len(), 2, "version 12 leaves the create event out");
    let extremity = world.timeline(&room).last().unwrap().event.event_id().to_string();
    assert_eq!(template["prev_events"], json!([extremity]));
}

#[actix::test]
async fn every_join_rule_but_knocks_refuses_with_its_name() {
    let world = World::new();
    for rule in ["invite", "public", "private", "restricted", "org.example.unknown"] {
        let content = json!({ "join_rule": rule, "allow": [] });
        let room =
            world.room_with(RoomVersionId::V11, &format!("rule.{rule}"), vec![("m.room.join_rules", content)]).await;
        let refusal = world.prepare(&room, BOB).await.unwrap_err();
        assert!(matches!(refusal, AskError::Refused(KnockRefusal::JoinRuleForbids { .. })), "{rule}: {refusal:?}");
    }
    let none = world.room_with(RoomVersionId::V11, "none", vec![]).await;
    let refusal = world.prepare(&none, BOB).await.unwrap_err();
    assert_eq!(refusal, AskError::Refused(KnockRefusal::JoinRuleForbids { rule: None }));
    assert_eq!(world.totals().knocks.refused.get("join_rule_forbids"), Some(&6));
    settle().await;
    assert_eq!(world.membership(&none, ALICE), MembershipState::Join);
}
