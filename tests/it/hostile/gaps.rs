//! Events that we have to ask for because others cite them: each comes through the same gate as one that is sent.
//! May not: stop at one endpoint; the forged event is offered at every one that we might ask.

use serde_json::{Value, json};

use super::ground::{Ground, deliver, next_event};
use crate::support::{FakePeer, SignedEvent, encoded};

/// Answers with these events wherever events are asked for.
fn offer(peer: &FakePeer, forged: &[&SignedEvent]) {
    let events: Vec<Value> = forged.iter().map(|event| serde_json::to_value(&event.event).unwrap()).collect();
    let ids: Vec<&str> = forged.iter().map(|event| event.event_id.as_str()).collect();
    let transaction = json!({ "origin": peer.name(), "origin_server_ts": 1, "pdus": events });
    peer.answer_with("event", 200, transaction.clone());
    peer.answer_with("backfill", 200, transaction);
    peer.answer_with("get_missing_events", 200, json!({ "events": events }));
    peer.answer_with("event_auth", 200, json!({ "auth_chain": events }));
    peer.answer_with("state", 200, json!({ "pdus": events, "auth_chain": events }));
    peer.answer_with("state_ids", 200, json!({ "pdu_ids": ids, "auth_chain_ids": ids }));
}

#[test]
fn cve_2022_39200_whatever_way_an_event_comes_it_passes_the_same_gate() {
    let impostor = FakePeer::new("peer.test");
    let stranger = FakePeer::new("stranger.test");
    let ground = Ground::with(&[&stranger]);
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let bob = ground.peer.user("bob");
    ground.peer.join(&ground.server, &room_id, &bob).ok();
    let template = next_event(&ground, &ground.peer, &room_id, &bob);
    let levels = |sender: &str| {
        let users = json!({ "users": { bob.clone(): 100, ground.owner.user_id.clone(): 0 } });
        let event = template.clone().with("type", json!("m.room.power_levels")).with("state_key", json!(""));
        event.with("sender", json!(sender)).with("content", users)
    };
    let forged = [
        ("in the owner's name, signed by bob's server", ground.peer.sign(levels(&ground.owner.user_id))),
        ("in bob's name, with a signature of nobody", impostor.sign(levels(&bob))),
        ("in bob's name, by a server that he is not of", stranger.sign(levels(&bob))),
        ("by bob himself, who may not", ground.peer.sign(levels(&bob))),
    ];
    let before = ground.state_of(&room_id);
    let levels = &before[&("m.room.power_levels".to_owned(), String::new())];
    for (what, event) in &forged {
        offer(&ground.peer, &[event]);
        let honest = next_event(&ground, &ground.peer, &room_id, &bob);
        let cited = honest.event["auth_events"].as_array().unwrap().iter().filter(|id| **id != json!(levels));
        let cited: Vec<Value> = cited.cloned().chain([json!(event.event_id)]).collect();
        // Once as what comes before, once as what authorizes, once as both.
        let after = honest.clone().with("prev_events", json!([event.event_id])).with("depth", json!(99));
        let by = honest.with("auth_events", json!(cited));
        for citing in [after, by.clone(), by.with("prev_events", json!([event.event_id]))] {
            deliver(&ground, &ground.peer, &[&ground.peer.sign(citing)]);
            let path = format!("/rooms/{}/event/{}", encoded(&room_id), encoded(&event.event_id));
            ground.owner.try_get(&path).refused(404, "M_NOT_FOUND");
            assert_eq!(ground.state_of(&room_id), before, "{what}");
        }
        ground.owner.say(&room_id, &encoded(what), "still mine");
    }
    assert!(ground.peer.seen("get_missing_events").len() + ground.peer.seen("event").len() > 0, "it was asked");
    ground.still_serves();
}
