//! Events that we have to ask for because others cite them: each comes through the same gate as one that is sent.
//! May not: stop at one endpoint, or let silence pass for refusal; what is fair comes by the same way and is taken.

use serde_json::{Value, json};

use super::{
    ground::{Ground, deliver, next_event},
    guest::Guest,
};
use crate::support::{FakePeer, SignedEvent, Template, encoded};

/// By which answer an event reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As what lies before an event, with all that lies there.
    Missing,
    /// As what lies before an event, by its id.
    Before,
    /// As what authorizes an event.
    Authorizing,
    /// As a part of the state before an event, by its id.
    InState,
    /// As a part of the state before an event, with all of it.
    WithState,
}

impl Way {
    const ALL: [Self; 5] = [Self::Missing, Self::Before, Self::Authorizing, Self::InState, Self::WithState];

    /// The endpoint that has the event.
    fn endpoint(self) -> &'static str {
        match self {
            Self::Missing => "get_missing_events",
            Self::Before | Self::Authorizing | Self::InState => "event",
            Self::WithState => "state",
        }
    }

    /// Lets the peer answer with the event where this way asks for it, and nowhere else.
    fn offer(self, peer: &FakePeer, event: &SignedEvent, state: &[String]) {
        for endpoint in ["get_missing_events", "event", "state_ids", "state"] {
            peer.refuse(endpoint, 404, "M_NOT_FOUND");
        }
        let pdu = json!(event.event);
        let answer = match self {
            Self::Missing => json!({ "events": [pdu] }),
            Self::Before | Self::Authorizing | Self::InState => {
                json!({ "origin": peer.name(), "origin_server_ts": 1, "pdus": [pdu] })
            }
            Self::WithState => json!({ "pdus": [pdu], "auth_chain": [] }),
        };
        peer.answer_with(self.endpoint(), 200, answer);
        if self == Self::InState || self == Self::WithState {
            // So many more that they are not asked for one by one.
            let more = if self == Self::WithState { 60 } else { 0 };
            let more: Vec<String> = (0..more).map(|number| format!("${number:043}")).collect();
            let state: Vec<&String> = state.iter().chain([&event.event_id]).collect();
            peer.answer_with("state_ids", 200, json!({ "pdu_ids": state, "auth_chain_ids": more }));
        }
    }

    /// A message of bob's for which we need the event; `levels` is what the event would stand in for.
    fn citing(self, message: Template, event: &SignedEvent, levels: &str) -> Template {
        match self {
            Self::Missing | Self::Before => {
                message.with("prev_events", json!([event.event_id])).with("depth", json!(99))
            }
            Self::Authorizing => {
                let cited = message.event["auth_events"].as_array().unwrap().iter();
                let cited: Vec<Value> =
                    cited.map(|id| if id == levels { json!(event.event_id) } else { id.clone() }).collect();
                message.with("auth_events", json!(cited))
            }
            // After what nobody has.
            Self::InState | Self::WithState => {
                message.with("prev_events", json!([format!("${}", "A".repeat(43))])).with("depth", json!(99))
            }
        }
    }
}

#[test]
fn cve_2022_39200_whatever_way_an_event_comes_it_passes_the_same_gate() {
    let impostor = FakePeer::new("peer.test");
    let stranger = FakePeer::new("stranger.test");
    let ground = Ground::with(&[&stranger]);
    let (owner, bob, ben) = (ground.owner.user_id.clone(), ground.peer.user("bob"), ground.peer.user("ben"));
    for way in Way::ALL {
        let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
        for user_id in [&bob, &ben] {
            ground.peer.join(&ground.server, &room_id, user_id).ok();
        }
        let powers = |of_ben: i32| json!({ "users": { owner.clone(): 100, bob.clone(): 100, ben.clone(): of_ben } });
        ground.owner.set_state(&room_id, "m.room.power_levels", "", powers(0));
        let before = ground.state_of(&room_id);
        let id_of = |kind: &str, key: &str| before[&(kind.to_owned(), key.to_owned())].clone();
        let levels = id_of("m.room.power_levels", "");
        let others: Vec<String> = before.values().filter(|id| **id != levels).cloned().collect();
        let template = next_event(&ground, &ground.peer, &room_id, &bob);
        // More power for ben. The rules let the owner and bob say that.
        let event_by = |sender: &str| {
            let cited = [id_of("m.room.create", ""), levels.clone(), id_of("m.room.member", sender)];
            let event = template.clone().with("type", json!("m.room.power_levels")).with("state_key", json!(""));
            event.with("sender", json!(sender)).with("content", powers(50)).with("auth_events", json!(cited))
        };
        let knows = |event: &SignedEvent| {
            let path = format!("/rooms/{}/event/{}", encoded(&room_id), encoded(&event.event_id));
            ground.owner.try_get(&path).status == 200
        };
        let cite = |event: &SignedEvent| {
            way.offer(&ground.peer, event, &others);
            let asked = ground.peer.seen(way.endpoint()).len();
            let message = next_event(&ground, &ground.peer, &room_id, &bob);
            let citing = ground.peer.sign(way.citing(message, event, &levels));
            deliver(&ground, &ground.peer, &[&citing]);
            assert!(ground.peer.seen(way.endpoint()).len() > asked, "{way:?}: it was asked for");
            citing
        };
        for (what, event) in [
            ("in the owner's name, signed by bob's server", ground.peer.sign(event_by(&owner))),
            ("in bob's name, with a signature of nobody", impostor.sign(event_by(&bob))),
            ("in bob's name, by a server that he is not of", stranger.sign(event_by(&bob))),
            ("by ben himself, who may not", ground.peer.sign(event_by(&ben))),
        ] {
            let citing = cite(&event);
            assert!(!knows(&event), "{way:?} {what}");
            assert!(way != Way::Authorizing || !knows(&citing), "{way:?} {what}");
            assert_eq!(ground.state_of(&room_id), before, "{way:?} {what}");
        }
        let fair = ground.peer.sign(event_by(&bob));
        let citing = cite(&fair);
        assert!(knows(&citing), "{way:?}");
        // What only authorizes has no place in the room of its own.
        let is_in_state = ground.state_event(&room_id, "m.room.power_levels") == fair.event_id;
        assert_eq!(is_in_state, way != Way::Authorizing, "{way:?}");
        ground.owner.say(&room_id, "1", "still mine");
    }
    ground.still_serves();
}

#[test]
fn cve_2022_39200_nor_does_the_past_of_a_room_come_unproven() {
    let guest = Guest::new();
    let room_id = guest.room("11", "public");
    let message = |text: &str| json!({ "msgtype": "m.text", "body": text });
    for text in ["first", "forged", "changed", "last"] {
        guest.peer.append(&room_id, "m.room.message", None, &message(text));
        // Between any two, one that the rules do not let stand.
        let outsider = guest.peer.user("outsider");
        let smuggled = guest.peer.unsigned(&room_id, &outsider, "m.room.message", None, &message("smuggled"));
        guest.peer.put_in(&room_id, guest.peer.sign_for("11", smuggled));
    }
    guest.peer.append(&room_id, "m.room.topic", Some(""), &json!({ "topic": "the end" }));
    guest.try_join(&room_id, &["peer.test"]).ok();
    guest.peer.corrupt("backfill", |mut answer| {
        for event in answer["pdus"].as_array_mut().unwrap() {
            if event["content"]["body"] == "forged" {
                event["signatures"] = json!({ "peer.test": { "ed25519:1": "A".repeat(86) } });
            }
            if event["content"]["body"] == "changed" {
                event["content"]["body"] = json!("never said");
            }
        }
        answer
    });
    let texts = || -> Vec<String> {
        let page = guest.anna.get(&format!("/rooms/{}/messages?dir=b&limit=100", encoded(&room_id)));
        let chunk = page["chunk"].as_array().unwrap().clone();
        chunk.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(texts(), ["last"]);
    guest.peer.play_fair("backfill");
    assert_eq!(texts(), ["last", "forged", "first"], "all but what was taken without its content");
}
