//! Which servers may read a room, and what they get.

use actix_web::test::{TestRequest, init_service};
use ruma::{RoomId, RoomVersionId};
use serde_json::json;

use super::{FEDERATION, knock_from, make_knock};
use crate::testing::{Peer, World, ask};

const BASE: &str = "/_matrix/federation/v1";

/// Every question about a room and one of its events, as one server asks them.
fn questions(peer: &Peer, room_id: &str, event_id: &str) -> Vec<(&'static str, TestRequest)> {
    let missing = json!({ "earliest_events": [], "latest_events": [event_id] });
    vec![
        ("state_ids", peer.get(&format!("{BASE}/state_ids/{room_id}?event_id={event_id}"))),
        ("state", peer.get(&format!("{BASE}/state/{room_id}?event_id={event_id}"))),
        ("event_auth", peer.get(&format!("{BASE}/event_auth/{room_id}/{event_id}"))),
        ("backfill", peer.get(&format!("{BASE}/backfill/{room_id}?v={event_id}&limit=10"))),
        ("get_missing_events", peer.post(&format!("{BASE}/get_missing_events/{room_id}"), &missing)),
        ("event", peer.get(&format!("{BASE}/event/{event_id}"))),
    ]
}

async fn create_event(world: &World, room_id: &RoomId) -> String {
    let state = world.app.stores.rooms.current_state(room_id).await.unwrap();
    let create = state.iter().find(|event| event.event.kind().to_string() == "m.room.create").unwrap();
    create.event.event_id().to_string()
}

#[actix_web::test]
async fn servers_without_a_joined_user_read_nothing() {
    // V11: not whoever knocks, and not a stranger, even where history is open to the world.
    let world = World::new();
    let (knocking, stranger) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&knocking).await;
    world.know(&stranger).await;
    let open = ("m.room.history_visibility", json!({ "history_visibility": "world_readable" }));
    let room_id = world.room(RoomVersionId::V11, "knock", &[open]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let (_, template) = ask(&service, knocking.get(&make_knock(room_id.as_str(), "@ann:them.test")).to_request()).await;
    let (event_id, knock) = knocking.sign(knock_from(&template, "them.test", "hi"), RoomVersionId::V11);
    let send_knock = format!("{BASE}/send_knock/{room_id}/{event_id}");
    assert_eq!(ask(&service, knocking.put(&send_knock, &knock).to_request()).await.0, 200);
    let create = create_event(&world, &room_id).await;
    for peer in [&knocking, &stranger] {
        for event in [create.as_str(), event_id.as_str()] {
            for (what, request) in questions(peer, room_id.as_str(), event) {
                let (status, body) = ask(&service, request.to_request()).await;
                assert_eq!((status, &body["errcode"]), (403, &json!("M_FORBIDDEN")), "{what}: {body}");
            }
        }
    }
    for (what, request) in questions(&stranger, "!other:us.test", "$unknown") {
        let (status, body) = ask(&service, request.to_request()).await;
        assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{what}: {body}");
    }
}
