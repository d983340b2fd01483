use std::time::Duration;

use ruma::{RoomVersionId, events::room::member::MembershipState};
use tokio::time::advance;
use vestibule_actors::testing::{RESIDENT, read, server, settle, until};
use vestibule_protocol::fixture::user;

use super::resident::{ANNA, Resident, Us, reason, refusal};
use crate::{
    egress::EgressError,
    perform::KnockElsewhere,
    testing::{Peers, Sent, on_paused_time},
};

async fn knocking(resident: &Resident, peers: std::sync::Arc<Peers>) -> Us {
    let us = Us::new(peers, resident.clock());
    knock(resident, &us).await;
    us
}

async fn knock(resident: &Resident, us: &Us) {
    let (user_id, via) = (user(ANNA), vec![server(RESIDENT)]);
    let wanted = KnockElsewhere { user_id, room_id: resident.room_id(), via, content: reason("please") };
    us.federation.knock(wanted).await.unwrap();
}

fn pending(us: &Us) -> usize {
    read(us.storage.stores().outbox.pending(&server(RESIDENT), None, 10)).len()
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
        let attempts = std::sync::atomic::AtomicUsize::new(0);
        let us = knocking(
            &resident,
            Peers::slow(move |sent: &Sent| {
                if !sent.target.contains("make_leave") {
                    return honest(sent);
                }
                match attempts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
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
        knock(&resident, &us).await;
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
