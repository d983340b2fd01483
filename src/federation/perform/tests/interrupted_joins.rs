use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ruma::{RoomVersionId, api::error::ErrorCode, events::room::member::MembershipState};
use serde_json::json;
use tokio::time::advance;
use vestibule_actors::{
    MembershipChange,
    testing::{RESIDENT, read, server, settle, until},
};
use vestibule_protocol::fixture::{ALICE, user};
use vestibule_storage::room::{OutOfBand, Progress};

use super::resident::{ANNA, OTHER, Resident, Us, ok, reason, refusal, refusal_of};
use crate::{
    egress::EgressError,
    perform::{JoinElsewhere, KnockElsewhere, PerformError},
    testing::{Answer, Peers, Sent, on_paused_time},
};

fn join_via(resident: &Resident, via: &[&str]) -> JoinElsewhere {
    let via = via.iter().map(|name| server(name)).collect();
    JoinElsewhere { user_id: user(ANNA), room_id: resident.room_id(), via, content: reason("hello") }
}

fn begun(us: &Us, resident: &Resident) -> Option<OutOfBand> {
    read(us.storage.stores().rooms.joining_of(&user(ANNA), &resident.room_id()))
}

fn is_joined(us: &Us, resident: &Resident) -> bool {
    us.membership(&resident.room_id(), ANNA) == Some(MembershipState::Join)
}

/// The resident takes the join, and its answer is never read.
fn losing_the_answer(resident: &Resident) -> Arc<Peers> {
    let honest = resident.answering();
    Peers::slow(move |sent: &Sent| {
        let (answer, is_send) = (honest(sent), sent.target.contains("send_join"));
        Box::pin(async move {
            let answer = answer.await;
            if is_send { std::future::pending().await } else { answer }
        })
    })
}

/// Honest, but that requests with a word come to `answer`.
fn failing(resident: &Resident, word: &'static str, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Arc<Peers> {
    let honest = resident.answering();
    Peers::slow(move |sent: &Sent| {
        if !sent.target.contains(word) {
            return honest(sent);
        }
        let answer = answer();
        Box::pin(async move { answer })
    })
}

/// Our program ends after the resident has taken the join, and before the answer is here.
async fn interrupted(resident: &Resident, us: &Us) {
    let (federation, wanted) = (us.federation.clone(), join_via(resident, &[RESIDENT]));
    tokio::spawn(async move { federation.join(wanted).await });
    let has_it = || resident.world.membership(&resident.room, ANNA) == MembershipState::Join;
    until("the resident has the join", has_it).await;
    let begun = begun(us, resident).unwrap();
    assert_eq!((begun.membership, begun.progress), (MembershipState::Join, Progress::Asking));
    assert!(read(us.storage.stores().rooms.room(&resident.room_id())).is_none());
}

#[test]
fn a_join_whose_answer_is_of_no_use_was_taken_and_is_asked_for_again() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let honest = resident.answering();
        let is_broken = Arc::new(AtomicBool::new(true));
        let broken = is_broken.clone();
        let us = Us::new(
            Peers::slow(move |sent| {
                let (answer, is_send) = (honest(sent), sent.target.contains("send_join"));
                let breaks = is_send && broken.load(Ordering::SeqCst);
                Box::pin(async move {
                    let answer = answer.await;
                    if breaks { ok(&json!({ "state": "lost on the way" })) } else { answer }
                })
            }),
            resident.clock(),
        );
        us.federation.join(join_via(&resident, &[RESIDENT])).await.unwrap_err();
        assert!(begun(&us, &resident).is_some() && !is_joined(&us, &resident));
        is_broken.store(false, Ordering::SeqCst);
        advance(Duration::from_secs(61)).await;
        until("it is asked for again", || is_joined(&us, &resident)).await;
        assert_eq!(begun(&us, &resident), None);
    });
}

#[test]
fn a_join_whose_answer_the_last_stop_lost_comes_to_its_end_after_the_next_start() {
    for version in [RoomVersionId::V7, RoomVersionId::V12] {
        on_paused_time(async || {
            let resident = Resident::new(version.clone(), "public").await;
            let us = Us::new(losing_the_answer(&resident), resident.clock());
            interrupted(&resident, &us).await;
            let next = us.restarted(Peers::slow(resident.answering()), resident.clock());
            next.federation.resume().await;
            until("the user is in the room", || is_joined(&next, &resident)).await;
            assert_eq!(begun(&next, &resident), None);
            let content = &next.sent("send_join")[0].body["content"];
            assert_eq!(content, &json!({ "membership": "join", "reason": "hello", "displayname": "Anna" }));
            // And once only.
            let third = next.restarted(Peers::slow(resident.answering()), resident.clock());
            third.federation.resume().await;
            settle().await;
            assert!(third.peers.sent().is_empty());
        });
    }
}

#[test]
fn whoever_asks_while_an_interrupted_join_goes_on_gets_its_outcome() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let us = Us::new(losing_the_answer(&resident), resident.clock());
        interrupted(&resident, &us).await;
        let next = us.restarted(Peers::slow(resident.answering()), resident.clock());
        next.federation.resume().await;
        next.federation.join(join_via(&resident, &[RESIDENT])).await.unwrap();
        assert!(is_joined(&next, &resident));
        assert_eq!((next.sent("send_join").len(), begun(&next, &resident)), (1, None));
    });
}

/// A row but for the joins that were asked for: of those nobody knows for sure what came.
fn without_joins(row: Option<OutOfBand>) -> Option<OutOfBand> {
    row.map(|row| OutOfBand { joins: Vec::new(), ..row })
}

#[test]
fn a_join_that_is_refused_after_the_next_start_leaves_what_was_before() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "knock").await;
        let us = Us::new(losing_the_answer(&resident), resident.clock());
        let via = vec![server(RESIDENT)];
        let (user_id, room_id) = (user(ANNA), resident.room_id());
        us.federation.knock(KnockElsewhere { user_id, room_id, via, content: reason("please") }).await.unwrap();
        let knock = us.out_of_band(&resident.room_id()).unwrap();
        resident.world.change(&resident.room, ALICE, MembershipChange::Invite, ANNA).await.unwrap();
        interrupted(&resident, &us).await;
        assert_eq!(without_joins(us.out_of_band(&resident.room_id())), Some(knock.clone()), "shown until it is more");

        resident.world.change(&resident.room, ALICE, MembershipChange::Ban, ANNA).await.unwrap();
        let next = us.restarted(Peers::slow(resident.answering()), resident.clock());
        next.federation.resume().await;
        until("the join has ended", || begun(&next, &resident).is_none()).await;
        assert_eq!(without_joins(next.out_of_band(&resident.room_id())), Some(knock));
        assert!(next.sent("send_join").is_empty());
        advance(Duration::from_hours(5)).await;
        settle().await;
        assert_eq!(next.sent("make_join").len(), 1);
    });
}

#[test]
fn a_join_that_is_refused_at_once_leaves_nothing_of_itself_and_all_that_was_before() {
    for step in ["make_join", "send_join"] {
        on_paused_time(async || {
            let resident = Resident::new(RoomVersionId::V11, "knock").await;
            let us = Us::new(failing(&resident, step, || refusal(403, "M_FORBIDDEN")), resident.clock());
            let via = vec![server(RESIDENT)];
            let (user_id, room_id) = (user(ANNA), resident.room_id());
            us.federation.knock(KnockElsewhere { user_id, room_id, via, content: reason("please") }).await.unwrap();
            let knock = us.out_of_band(&resident.room_id());
            resident.world.change(&resident.room, ALICE, MembershipChange::Invite, ANNA).await.unwrap();
            let refused = us.federation.join(join_via(&resident, &[RESIDENT])).await;
            assert_eq!(refused, Err(PerformError::Refused { status: 403, errcode: ErrorCode::Forbidden }), "{step}");
            let row = without_joins(us.out_of_band(&resident.room_id()));
            assert_eq!((begun(&us, &resident), row), (None, knock), "{step}");
            advance(Duration::from_hours(5)).await;
            settle().await;
            assert_eq!(us.sent("make_join").len(), 1, "{step}");
        });
    }
}

#[test]
fn a_join_that_may_have_been_taken_is_asked_for_again() {
    for lost in ["timeout", "502 M_UNKNOWN"] {
        on_paused_time(async || {
            let resident = Resident::new(RoomVersionId::V11, "public").await;
            let (honest, attempts) = (resident.answering(), AtomicUsize::new(0));
            let peers = Peers::slow(move |sent: &Sent| {
                let answer = honest(sent);
                let is_lost = sent.target.contains("send_join") && attempts.fetch_add(1, Ordering::SeqCst) == 0;
                Box::pin(async move {
                    match (is_lost, answer.await, lost) {
                        (false, answer, _) => answer,
                        (true, _, "timeout") => Err(EgressError::Timeout),
                        (true, _, refusal) => refusal_of(refusal),
                    }
                })
            });
            let us = Us::new(peers, resident.clock());
            us.federation.join(join_via(&resident, &[RESIDENT])).await.unwrap_err();
            assert!(begun(&us, &resident).is_some(), "{lost}");
            advance(Duration::from_secs(61)).await;
            until("the user is in the room", || is_joined(&us, &resident)).await;
            assert_eq!((us.sent("send_join").len(), begun(&us, &resident)), (2, None), "{lost}");
        });
    }
}

#[test]
fn a_join_of_which_nobody_says_anything_is_given_up_after_some_hours() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let us = Us::new(losing_the_answer(&resident), resident.clock());
        interrupted(&resident, &us).await;
        // Servers that cannot be reached, or have an error of their own, have not said no.
        let peers = Peers::new(|sent| {
            let is_silent = sent.to == RESIDENT;
            if is_silent { Err(EgressError::Connect { detail: "refused".to_owned() }) } else { refusal_of("500") }
        });
        let next = us.restarted(peers, resident.clock());
        next.federation.resume().await;
        for attempt in 0..=8_u32 {
            until("it is asked for again", || next.sent("make_join").len() > usize::try_from(attempt).unwrap()).await;
            settle().await;
            assert!(begun(&next, &resident).is_some(), "{attempt}");
            advance(Duration::from_secs(60 * 2_u64.pow(attempt) + 1)).await;
        }
        until("it is given up", || begun(&next, &resident).is_none()).await;
        advance(Duration::from_hours(24)).await;
        settle().await;
        assert_eq!(next.sent("make_join").len(), 9);
    });
}

#[test]
fn a_join_through_two_servers_is_written_down_once_and_ends_with_the_one_that_works() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let honest = resident.answering();
        let peers = Peers::slow(move |sent: &Sent| {
            let is_broken = sent.to == OTHER && sent.target.contains("send_join");
            if is_broken { Box::pin(async { Err(EgressError::Timeout) }) } else { honest(sent) }
        });
        let us = Us::new(peers, resident.clock());
        us.federation.join(join_via(&resident, &[OTHER, RESIDENT])).await.unwrap();
        assert!(is_joined(&us, &resident));
        assert_eq!(begun(&us, &resident), None);
        advance(Duration::from_hours(5)).await;
        settle().await;
        assert_eq!(us.sent("make_join").len(), 2);
    });
}
