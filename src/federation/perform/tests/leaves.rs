use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::{Value, json};
use tokio::time::advance;
use vestibule_actors::testing::{RESIDENT, read, server, settle, until};
use vestibule_protocol::fixture::user;

use super::resident::{ANNA, OTHER, Resident, Us, ok, reason, refusal};
use crate::{
    egress::EgressError,
    perform::KnockElsewhere,
    testing::{Peers, Sent, on_paused_time},
};

async fn knocking(resident: &Resident, peers: Arc<Peers>) -> Us {
    knocking_via(resident, peers, &[RESIDENT]).await
}

async fn knocking_via(resident: &Resident, peers: Arc<Peers>, via: &[&str]) -> Us {
    let us = Us::new(peers, resident.clock());
    knock(resident, &us, via).await;
    us
}

async fn knock(resident: &Resident, us: &Us, via: &[&str]) {
    let (user_id, via) = (user(ANNA), via.iter().map(|name| server(name)).collect());
    let wanted = KnockElsewhere { user_id, room_id: resident.room_id(), via, content: reason("please") };
    us.federation.knock(wanted).await.unwrap();
}

fn pending(us: &Us) -> usize {
    pending_for(us, RESIDENT)
}

fn pending_for(us: &Us, name: &str) -> usize {
    read(us.storage.stores().outbox.pending(&server(name), None, 10)).len()
}

/// To whom requests with that word went, in their order.
fn asked(us: &Us, word: &str) -> Vec<String> {
    us.sent(word).into_iter().map(|sent| sent.to).collect()
}

/// Time passes until a server that does not answer was asked so often, with its pauses.
async fn silent_for(us: &Us, attempts: u32) {
    for attempt in 1..=attempts {
        until("the silent server is asked", || us.sent("make_leave").len() >= usize::try_from(attempt).unwrap()).await;
        settle().await;
        if attempt < attempts {
            advance(Duration::from_mins(10) * 2_u32.pow(attempt - 1) + Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn a_knock_taken_back_is_taken_back_at_the_other_server_too() {
    for version in [RoomVersionId::V7, RoomVersionId::V12] {
        on_paused_time(async || {
            let resident = Resident::new(version.clone(), "knock").await;
            let us = knocking(&resident, Peers::slow(resident.answering())).await;
            us.sender.start();
            us.leave(&resident.room).await;
            assert_eq!(us.out_of_band(&resident.room_id()).unwrap().membership, MembershipState::Leave);
            until("the server is told", || pending(&us) == 0).await;
            assert_eq!(resident.world.membership(&resident.room, ANNA), MembershipState::Leave);
            assert_eq!(us.sent("send_leave")[0].body["content"]["reason"], "never mind");
        });
    }
}

#[test]
fn a_leave_waits_for_a_server_that_does_not_answer_and_ends_with_one_that_refuses() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let honest = resident.answering();
        let attempts = AtomicUsize::new(0);
        let us = knocking(
            &resident,
            Peers::slow(move |sent: &Sent| {
                if !sent.target.contains("make_leave") {
                    return honest(sent);
                }
                match attempts.fetch_add(1, Ordering::SeqCst) {
                    0 => Box::pin(async { Err(EgressError::Timeout) }),
                    _ => Box::pin(async { refusal(403, "M_FORBIDDEN") }),
                }
            }),
        )
        .await;
        us.sender.start();
        us.leave(&resident.room).await;
        until("the server is asked", || us.sent("make_leave").len() == 1).await;
        settle().await;
        assert_eq!(pending(&us), 1);
        advance(Duration::from_secs(601)).await;
        until("the leave is done", || pending(&us) == 0).await;
        assert!(us.sent("send_leave").is_empty());
    });
}

#[test]
fn a_leave_that_a_new_knock_overtook_is_not_sent() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let us = knocking(&resident, Peers::slow(resident.answering())).await;
        us.leave(&resident.room).await;
        resident.clock().advance(Duration::from_hours(2));
        knock(&resident, &us, &[RESIDENT]).await;
        us.sender.start();
        until("the leave is done", || pending(&us) == 0).await;
        assert!(us.sent("make_leave").is_empty());
        assert_eq!(resident.world.membership(&resident.room, ANNA), MembershipState::Knock);
    });
}

#[test]
fn an_old_server_gets_the_leave_by_the_old_endpoint() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let honest = resident.answering();
        let us = knocking(
            &resident,
            Peers::slow(move |sent: &Sent| {
                if sent.target.contains("v2/send_leave") {
                    return Box::pin(async { refusal(404, "M_UNRECOGNIZED") });
                }
                let newer = sent.target.replace("v1/send_leave", "v2/send_leave");
                honest(&Sent { target: newer, ..sent.clone() })
            }),
        )
        .await;
        us.sender.start();
        us.leave(&resident.room).await;
        until("the server is told", || pending(&us) == 0).await;
        assert_eq!(us.sent("v1/send_leave").len(), 1);
        assert_eq!(resident.world.membership(&resident.room, ANNA), MembershipState::Leave);
    });
}

#[test]
fn a_leave_that_the_server_asked_first_does_not_let_through_goes_to_the_next_one() {
    let lie = |pointer: &'static str, value: Value| Some((pointer, value));
    let ways = [
        ("make_leave", lie("/event/content/membership", json!("join"))),
        ("make_leave", lie("/event/sender", json!("@eve:us.test"))),
        ("make_leave", lie("/event", json!(null))),
        ("make_leave", None),
        ("send_leave", None),
    ];
    for (step, lie) in ways {
        on_paused_time(async || {
            let resident = Resident::new(RoomVersionId::V11, "knock").await;
            let honest = resident.answering();
            let told = lie.clone();
            let peers = Peers::slow(move |sent: &Sent| {
                let is_foul = sent.to == RESIDENT && sent.target.contains(step);
                let (answer, told) = (honest(sent), told.clone());
                Box::pin(async move {
                    match (is_foul, told) {
                        (false, _) => answer.await,
                        (true, None) => refusal(403, "M_FORBIDDEN"),
                        (true, Some((pointer, value))) => {
                            let mut body: Value = serde_json::from_slice(answer.await?.body()).unwrap();
                            *body.pointer_mut(pointer).unwrap() = value;
                            ok(&body)
                        }
                    }
                })
            });
            let us = knocking_via(&resident, peers, &[RESIDENT, OTHER]).await;
            us.sender.start();
            us.leave(&resident.room).await;
            until("a server is told", || pending(&us) == 0 && !us.sent("send_leave").is_empty()).await;
            until("the next server is told", || pending_for(&us, OTHER) == 0).await;
            assert_eq!(asked(&us, "make_leave"), [RESIDENT, OTHER], "{step} {lie:?}");
            let signed_for_the_first = step == "send_leave";
            assert_eq!(asked(&us, "send_leave").len(), if signed_for_the_first { 2 } else { 1 }, "{step} {lie:?}");
            assert_eq!(resident.world.membership(&resident.room, ANNA), MembershipState::Leave, "{step} {lie:?}");
        });
    }
}

#[test]
fn a_leave_that_nobody_lets_through_is_given_up_after_each_was_asked_once() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let honest = resident.answering();
        let peers = Peers::slow(move |sent: &Sent| {
            let is_leave = sent.target.contains("make_leave");
            if is_leave { Box::pin(async { refusal(404, "M_NOT_FOUND") }) } else { honest(sent) }
        });
        let us = knocking_via(&resident, peers, &[OTHER, RESIDENT]).await;
        us.sender.start();
        us.leave(&resident.room).await;
        until("both are asked", || us.sent("make_leave").len() == 2).await;
        until("nothing is owed", || pending(&us) + pending_for(&us, OTHER) == 0).await;
        settle().await;
        assert_eq!(asked(&us, "make_leave"), [OTHER, RESIDENT]);
        assert_eq!(us.out_of_band(&resident.room_id()).unwrap().membership, MembershipState::Leave);
    });
}

#[test]
fn after_long_silence_the_next_server_is_told_and_the_first_is_still_owed() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let (honest, is_away) = (resident.answering(), Arc::new(AtomicBool::new(false)));
        let away = is_away.clone();
        let peers = Peers::slow(move |sent: &Sent| {
            let is_silent = sent.to == RESIDENT && away.load(Ordering::SeqCst);
            if is_silent { Box::pin(async { Err(EgressError::Timeout) }) } else { honest(sent) }
        });
        let us = knocking_via(&resident, peers, &[RESIDENT, OTHER]).await;
        is_away.store(true, Ordering::SeqCst);
        us.sender.start();
        us.leave(&resident.room).await;
        silent_for(&us, 4).await;
        assert_eq!((pending(&us), pending_for(&us, OTHER)), (1, 0));
        advance(Duration::from_mins(80) + Duration::from_millis(1)).await;
        until("the next server is told", || us.sent("send_leave").len() == 1 && pending_for(&us, OTHER) == 0).await;
        assert_eq!(us.sent("send_leave")[0].to, OTHER);
        assert_eq!(resident.world.membership(&resident.room, ANNA), MembershipState::Leave);
        assert_eq!(pending(&us), 1, "it took the knock, and may not have heard");

        // It comes back, and there is nothing left to leave: then nobody is asked any more.
        is_away.store(false, Ordering::SeqCst);
        us.sender.sign_of_life(&server(RESIDENT));
        until("nothing is owed", || pending(&us) == 0).await;
        settle().await;
        assert_eq!(asked(&us, "make_leave").iter().filter(|to| *to == OTHER).count(), 1);
        assert_eq!(us.sent("send_leave").len(), 1);
    });
}

#[test]
fn a_leave_that_only_silent_servers_are_owed_stays_until_one_of_them_is_back() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let (honest, is_away) = (resident.answering(), Arc::new(AtomicBool::new(true)));
        let away = is_away.clone();
        // The first refuses, the only other one is away for long.
        let peers = Peers::slow(move |sent: &Sent| match sent.target.contains("make_leave") {
            true if sent.to == RESIDENT => Box::pin(async { refusal(403, "M_FORBIDDEN") }),
            true if away.load(Ordering::SeqCst) => Box::pin(async { Err(EgressError::Timeout) }),
            _ => honest(sent),
        });
        let us = knocking_via(&resident, peers, &[RESIDENT, OTHER]).await;
        us.sender.start();
        us.leave(&resident.room).await;
        until("the first refuses", || pending(&us) == 0).await;
        for attempt in 2..=8_usize {
            until("the other is asked", || us.sent("make_leave").len() >= attempt).await;
            settle().await;
            advance(Duration::from_hours(24)).await;
        }
        assert_eq!(pending_for(&us, OTHER), 1);
        is_away.store(false, Ordering::SeqCst);
        us.sender.sign_of_life(&server(OTHER));
        until("the other is told", || pending_for(&us, OTHER) == 0).await;
        assert_eq!(resident.world.membership(&resident.room, ANNA), MembershipState::Leave);
    });
}

#[test]
fn a_leave_that_a_new_knock_overtook_goes_to_no_other_server() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let honest = resident.answering();
        let peers = Peers::slow(move |sent: &Sent| {
            let is_leave = sent.target.contains("make_leave");
            if is_leave { Box::pin(async { Err(EgressError::Timeout) }) } else { honest(sent) }
        });
        let us = knocking_via(&resident, peers, &[RESIDENT, OTHER]).await;
        us.sender.start();
        us.leave(&resident.room).await;
        silent_for(&us, 4).await;
        resident.clock().advance(Duration::from_hours(3));
        knock(&resident, &us, &[OTHER]).await;
        advance(Duration::from_mins(80) + Duration::from_millis(1)).await;
        until("nothing is owed", || pending(&us) == 0).await;
        settle().await;
        assert_eq!(asked(&us, "make_leave"), [RESIDENT; 4]);
        assert_eq!(pending_for(&us, OTHER), 0);
        assert_eq!(us.out_of_band(&resident.room_id()).unwrap().membership, MembershipState::Knock);
    });
}
