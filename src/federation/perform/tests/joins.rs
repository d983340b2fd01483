use std::sync::{Arc, OnceLock};

use ruma::{OwnedRoomId, RoomVersionId, events::room::member::MembershipState};
use serde_json::{Value, json};
use vestibule_actors::{
    MembershipChange, PrepareJoin,
    testing::{RESIDENT, message, read, server},
};
use vestibule_protocol::fixture::{ALICE, user};

use super::resident::{ANNA, OTHER, Resident, Us, ok, reason};
use crate::{
    egress::EgressError,
    perform::{Federation, JoinElsewhere, PerformError},
    testing::{Peers, on_paused_time},
};

const BERTA: &str = "@berta:us.test";

fn join_via(room_id: OwnedRoomId, via: &[&str]) -> JoinElsewhere {
    let via = via.iter().map(|name| server(name)).collect();
    JoinElsewhere { user_id: user(ANNA), room_id, via, content: reason("hello") }
}

/// A resident whose answers to `send_join` are changed on their way.
async fn with_answers_changed(
    version: RoomVersionId,
    change: impl Fn(&mut Value) + Clone + Send + Sync + 'static,
) -> (Resident, Us) {
    let resident = Resident::new(version, "public").await;
    let honest = resident.answering();
    let peers = Peers::slow(move |sent| {
        let (answer, is_send, change) = (honest(sent), sent.target.contains("send_join"), change.clone());
        Box::pin(async move {
            let answer = answer.await?;
            let mut body: Value = serde_json::from_slice(answer.body()).unwrap();
            if is_send && body.get("state").is_some() {
                change(&mut body);
            }
            ok(&body)
        })
    });
    let us = Us::new(peers, resident.clock());
    (resident, us)
}

fn entry<'a>(body: &'a mut Value, kind: &str) -> &'a mut Value {
    body["state"].as_array_mut().unwrap().iter_mut().find(|event| event["type"] == kind).unwrap()
}

#[test]
fn a_room_elsewhere_becomes_ours_with_all_its_state_in_every_version() {
    for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12] {
        on_paused_time(async || {
            let resident = Resident::new(version.clone(), "public").await;
            resident.world.send(&resident.room, message(ALICE, "before")).await.unwrap();
            let us = Us::new(Peers::slow(resident.answering()), resident.clock());
            us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await.unwrap();

            let room_id = resident.room_id();
            assert_eq!(us.membership(&room_id, ANNA), Some(MembershipState::Join));
            assert_eq!(us.membership(&room_id, ALICE), Some(MembershipState::Join));
            let ours = read(us.storage.stores().rooms.current_state(&room_id));
            let theirs = read(resident.world.stores().rooms.current_state(&room_id));
            let ids = |state: &[vestibule_storage::room::StoredEvent]| {
                let mut ids: Vec<_> = state.iter().map(|stored| stored.event.event_id().to_owned()).collect();
                ids.sort();
                ids
            };
            assert_eq!(ids(&ours), ids(&theirs));
            assert_eq!(us.timeline(&room_id).len(), 1, "the join is the first of our timeline");
            assert_eq!(us.sent("make_join")[0].path().1.matches("ver=").count(), 10);
        });
    }
}

#[test]
fn state_that_does_not_verify_is_left_out() {
    on_paused_time(async || {
        let (resident, us) =
            with_answers_changed(RoomVersionId::V11, |body| entry(body, "m.room.name")["depth"] = json!(99)).await;
        us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await.unwrap();
        let kind = ruma::events::StateEventType::RoomName;
        assert!(read(us.storage.stores().rooms.current_state_event(&resident.room_id(), &kind, "")).is_none());
        assert_eq!(us.membership(&resident.room_id(), ANNA), Some(MembershipState::Join));
    });
}

#[test]
fn an_answer_without_the_events_that_everything_is_judged_by_is_not_used() {
    fn without(kind: &'static str) -> impl Fn(&mut Value) + Clone {
        move |body| {
            for list in ["state", "auth_chain"] {
                body[list].as_array_mut().unwrap().retain(|event| event["type"] != kind);
            }
        }
    }
    fn spoiled(kind: &'static str) -> impl Fn(&mut Value) + Clone {
        move |body| {
            for list in ["state", "auth_chain"] {
                for event in body[list].as_array_mut().unwrap().iter_mut().filter(|event| event["type"] == kind) {
                    event["signatures"] = json!({ RESIDENT: { "ed25519:fixture": "c2lnbmF0dXJl" } });
                }
            }
        }
    }
    for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules"] {
        for removes in [true, false] {
            on_paused_time(async || {
                let (resident, us) = if removes {
                    with_answers_changed(RoomVersionId::V11, without(kind)).await
                } else {
                    with_answers_changed(RoomVersionId::V11, spoiled(kind)).await
                };
                let outcome = us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await;
                assert_eq!(outcome, Err(PerformError::AllFailed { asked: 1 }), "{kind}, {removes}");
                assert!(read(us.storage.stores().rooms.room(&resident.room_id())).is_none());
            });
        }
    }
}

#[test]
fn an_answer_that_leaves_members_out_is_not_used() {
    on_paused_time(async || {
        let (resident, us) =
            with_answers_changed(RoomVersionId::V11, |body| body["members_omitted"] = json!(true)).await;
        us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await.unwrap_err();
    });
}

#[test]
fn the_next_server_is_asked_when_one_fails_at_any_step() {
    for step in ["make_join", "send_join"] {
        on_paused_time(async || {
            let resident = Resident::new(RoomVersionId::V11, "public").await;
            let honest = resident.answering();
            let us = Us::new(
                Peers::slow(move |sent| {
                    if sent.to == OTHER && sent.target.contains(step) {
                        Box::pin(async { Err(EgressError::Timeout) })
                    } else {
                        honest(sent)
                    }
                }),
                resident.clock(),
            );
            us.federation.join(join_via(resident.room_id(), &[OTHER, RESIDENT])).await.unwrap();
            assert_eq!(us.membership(&resident.room_id(), ANNA), Some(MembershipState::Join));
        });
    }
}

#[test]
fn a_second_user_who_joins_elsewhere_at_the_same_time_is_in_the_room_too() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let us = Us::new(Peers::slow(resident.answering()), resident.clock());
        let first = us.federation.join(join_via(resident.room_id(), &[RESIDENT]));
        let second =
            us.federation.join(JoinElsewhere { user_id: user(BERTA), ..join_via(resident.room_id(), &[RESIDENT]) });
        let (first, second) = futures_util::future::join(first, second).await;
        first.unwrap();
        second.unwrap();
        for user_id in [ANNA, BERTA] {
            assert_eq!(us.membership(&resident.room_id(), user_id), Some(MembershipState::Join), "{user_id}");
        }
    });
}

#[test]
fn a_join_that_has_ended_before_its_answer_came_is_no_success() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let (honest, world, room) = (resident.answering(), resident.world.clone(), resident.room.clone());
        let ours = Arc::new(OnceLock::<Federation>::new());
        let kicks = ours.clone();
        let us = Us::new(
            Peers::slow(move |sent| {
                let (answer, is_send) = (honest(sent), sent.target.contains("send_join"));
                let (federation, world, room) = (kicks.get().cloned(), world.clone(), room.clone());
                Box::pin(async move {
                    let answer = answer.await;
                    if let Some(federation) = federation.filter(|_| is_send) {
                        let kick = world.change(&room, ALICE, MembershipChange::Kick, BERTA).await.unwrap();
                        let kick = world.stored(&room, &kick).unwrap().event.to_object().unwrap();
                        federation.receive(&server(RESIDENT), &room.room_id, kick).await.unwrap();
                    }
                    answer
                })
            }),
            resident.clock(),
        );
        us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await.unwrap();
        assert!(ours.set(us.federation.clone()).is_ok());
        let second = JoinElsewhere { user_id: user(BERTA), ..join_via(resident.room_id(), &[RESIDENT]) };
        us.federation.join(second).await.unwrap_err();
        assert_eq!(us.membership(&resident.room_id(), BERTA), Some(MembershipState::Leave));
    });
}

/// Found by `cargo xtask prove sim --seed 391`: what the server behind took, the others had ruled out.
#[test]
fn a_template_of_a_server_that_has_not_heard_that_our_user_was_put_out_is_not_used() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let (honest, behind) = (resident.answering(), Arc::new(OnceLock::<Value>::new()));
        let told = behind.clone();
        let peers = Peers::slow(move |sent| match told.get().filter(|_| sent.target.contains("make_join")) {
            Some(template) => {
                let template = template.clone();
                Box::pin(async move { ok(&template) })
            }
            None => honest(sent),
        });
        let us = Us::new(peers, resident.clock());
        us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await.unwrap();
        let request = PrepareJoin {
            user_id: user(ANNA),
            origin: server("us.test"),
            offered: vec![RoomVersionId::V11],
            authorised_via: None,
        };
        let template = resident.world.rooms.ask(&resident.room_id(), request).await.unwrap().event;
        let kick = resident.world.change(&resident.room, ALICE, MembershipChange::Kick, ANNA).await.unwrap();
        us.federation.receive(&server(RESIDENT), &resident.room_id(), resident.object(&kick)).await.unwrap();
        assert_eq!(us.membership(&resident.room_id(), ANNA), Some(MembershipState::Leave));
        behind.set(json!({ "room_version": "11", "event": template })).unwrap();
        let refused = us.federation.join(join_via(resident.room_id(), &[RESIDENT])).await;
        assert_eq!(refused, Err(PerformError::AllFailed { asked: 1 }));
        assert_eq!((us.sent("make_join").len(), us.sent("send_join").len()), (2, 1));
    });
}
