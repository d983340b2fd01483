use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;
use vestibule_actors::testing::{RESIDENT, message, server};
use vestibule_protocol::fixture::{ALICE, user};

use super::resident::{ANNA, Resident, Us, ok, reason, refusal};
use crate::{
    perform::{JoinElsewhere, MISSING_ROUNDS_MAX},
    testing::{Peers, on_paused_time},
};

/// We are in the resident's room, and hear nothing of what is said there.
async fn in_the_room(resident: &Resident, peers: std::sync::Arc<Peers>) -> Us {
    let us = Us::new(peers, resident.clock());
    let wanted = JoinElsewhere {
        user_id: user(ANNA),
        room_id: resident.room_id(),
        via: vec![server(RESIDENT)],
        content: reason("hello"),
    };
    us.federation.join(wanted).await.unwrap();
    us
}

async fn say(resident: &Resident, count: usize) -> Vec<OwnedEventId> {
    let mut said = Vec::new();
    for number in 0..count {
        let text = message(ALICE, &format!("number {number}"));
        said.push(resident.world.send(&resident.room, text).await.unwrap());
    }
    said
}

#[test]
fn an_event_that_fits_is_taken_once() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let us = in_the_room(&resident, Peers::slow(resident.answering())).await;
        let said = say(&resident, 1).await;
        for _ in 0..2 {
            us.federation.receive(&server(RESIDENT), &resident.room_id(), resident.object(&said[0])).await.unwrap();
        }
        assert_eq!(us.timeline(&resident.room_id())[1..], said);
        assert!(us.sent("get_missing_events").is_empty());
    });
}

#[test]
fn what_an_event_cites_and_we_lack_is_fetched_and_comes_first() {
    for count in [2, 15, 70] {
        on_paused_time(async || {
            let resident = Resident::new(RoomVersionId::V12, "public").await;
            let us = in_the_room(&resident, Peers::slow(resident.answering())).await;
            let said = say(&resident, count).await;
            let last = resident.object(said.last().unwrap());
            us.federation.receive(&server(RESIDENT), &resident.room_id(), last).await.unwrap();
            assert_eq!(us.timeline(&resident.room_id())[1..], said, "{count}");
        });
    }
}

#[test]
fn an_auth_event_that_we_lack_is_fetched_by_its_id() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let us = in_the_room(&resident, Peers::slow(resident.answering())).await;
        let levels = json!({ "users": { ALICE: 100 }, "events_default": 0 });
        let levels = resident.world.set_state(&resident.room, "m.room.power_levels", levels).await;
        let said = say(&resident, 1).await;
        us.federation.receive(&server(RESIDENT), &resident.room_id(), resident.object(&said[0])).await.unwrap();
        assert_eq!(us.timeline(&resident.room_id())[1..], [levels, said[0].clone()]);
    });
}

#[test]
fn a_gap_that_stays_is_an_error_after_a_few_questions() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let honest = resident.answering();
        let us = in_the_room(
            &resident,
            Peers::slow(move |sent| {
                if sent.target.contains("get_missing_events") {
                    Box::pin(async { ok(&json!({ "events": [] })) })
                } else if sent.target.contains("/event/") {
                    Box::pin(async { refusal(404, "M_NOT_FOUND") })
                } else {
                    honest(sent)
                }
            }),
        )
        .await;
        let said = say(&resident, 3).await;
        us.federation.receive(&server(RESIDENT), &resident.room_id(), resident.object(&said[2])).await.unwrap_err();
        assert_eq!(us.timeline(&resident.room_id()).len(), 1);
        assert!(us.sent("get_missing_events").len() <= MISSING_ROUNDS_MAX);
    });
}

#[test]
fn a_forged_event_leaves_no_trace_whichever_way_it_comes() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let honest = resident.answering();
        let us = in_the_room(
            &resident,
            Peers::slow(move |sent| {
                let (answer, is_missing) = (honest(sent), sent.target.contains("get_missing_events"));
                Box::pin(async move {
                    let answer = answer.await?;
                    let mut body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
                    if is_missing {
                        for event in body["events"].as_array_mut().unwrap() {
                            event["depth"] = json!(5000);
                        }
                    }
                    ok(&body)
                })
            }),
        )
        .await;
        let said = say(&resident, 2).await;
        let mut forged = resident.object(&said[0]);
        forged.insert("depth".to_owned(), ruma::CanonicalJsonValue::Integer(ruma::int!(7777)));
        us.federation.receive(&server(RESIDENT), &resident.room_id(), forged).await.unwrap_err();
        assert_eq!(us.timeline(&resident.room_id()).len(), 1);
        // The missing event comes forged in the list and whole by its id.
        us.federation.receive(&server(RESIDENT), &resident.room_id(), resident.object(&said[1])).await.unwrap();
        assert_eq!(us.timeline(&resident.room_id())[1..], said);
    });
}

#[test]
fn an_event_of_a_room_that_we_are_not_in_is_not_taken() {
    on_paused_time(async || {
        let resident = Resident::new(RoomVersionId::V11, "public").await;
        let us = Us::new(Peers::slow(resident.answering()), resident.clock());
        let said = say(&resident, 1).await;
        us.federation.receive(&server(RESIDENT), &resident.room_id(), resident.object(&said[0])).await.unwrap_err();
    });
}
