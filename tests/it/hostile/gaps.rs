//! Events that we have to ask for because others cite them: each comes through the same gate as one that is sent.
//! May not: stop at one endpoint, or let silence pass for refusal; what is fair comes by the same way and is taken.

use std::{
    collections::BTreeMap,
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    ground::{Ground, deliver, next_event},
    guest::Guest,
};
use crate::support::{Answer, FakePeer, SignedEvent, Template, encoded};

/// Longer than anything here takes that comes at all.
const COMES_WITHIN: Duration = Duration::from_secs(30);

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

/// A room of two with power, and what is in its state.
struct Levels<'a> {
    ground: &'a Ground,
    room_id: String,
    bob: String,
    state: BTreeMap<(String, String), String>,
}

impl<'a> Levels<'a> {
    fn new(ground: &'a Ground) -> Self {
        let bob = ground.peer.user("bob");
        let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
        ground.peer.join(&ground.server, &room_id, &bob).ok();
        let this = Self { ground, room_id, bob, state: BTreeMap::new() };
        ground.owner.set_state(&this.room_id, "m.room.power_levels", "", this.content(0));
        for endpoint in ["get_missing_events", "event", "state_ids", "state"] {
            ground.peer.refuse(endpoint, 404, "M_NOT_FOUND");
        }
        Self { state: ground.state_of(&this.room_id), ..this }
    }

    fn content(&self, unheard_of: i32) -> Value {
        let users = json!({ self.ground.owner.user_id.clone(): 100, self.bob.clone(): 100 });
        json!({ "users": users, "events": { "unheard.of": unheard_of } })
    }

    fn id_of(&self, kind: &str, key: &str) -> String {
        self.state[&(kind.to_owned(), key.to_owned())].clone()
    }

    /// Other powers, as bob may give them, upon those.
    fn upon(&self, levels: &str, unheard_of: i32) -> SignedEvent {
        let cited = [self.id_of("m.room.create", ""), levels.to_owned(), self.id_of("m.room.member", &self.bob)];
        let event = self.next().with("type", json!("m.room.power_levels")).with("state_key", json!(""));
        self.ground.peer.sign(event.with("content", self.content(unheard_of)).with("auth_events", json!(cited)))
    }

    fn next(&self) -> Template {
        next_event(self.ground, &self.ground.peer, &self.room_id, &self.bob)
    }

    /// A message of bob's that stands upon those powers.
    fn citing(&self, levels: &SignedEvent) -> SignedEvent {
        let message = self.next();
        let instead =
            |id: &Value| if *id == self.id_of("m.room.power_levels", "") { json!(levels.event_id) } else { id.clone() };
        let cited: Vec<Value> = message.event["auth_events"].as_array().unwrap().iter().map(instead).collect();
        self.ground.peer.sign(message.with("auth_events", json!(cited)))
    }

    /// From now on the peer has these events, one by one.
    fn tells(&self, events: &[&SignedEvent]) {
        let peer = self.ground.peer.clone();
        let events: Vec<(String, Value)> =
            events.iter().map(|event| (encoded(&event.event_id), json!(event.event))).collect();
        self.ground.peer.answer_with("event", 200, json!({}));
        self.ground.peer.corrupt("event", move |_| {
            let asked = peer.seen("event").pop().unwrap().target;
            let found = events.iter().filter(|(event_id, _)| asked.ends_with(event_id.as_str()));
            let found: Vec<&Value> = found.map(|(_, event)| event).collect();
            json!({ "origin": peer.name(), "origin_server_ts": 1, "pdus": found })
        });
    }

    /// What the owner's client and bob's server are told of an event.
    fn shown(&self, event: &SignedEvent) -> [Answer; 2] {
        let path = format!("/rooms/{}/event/{}", encoded(&self.room_id), encoded(&event.event_id));
        let target = format!("/_matrix/federation/v1/event/{}", encoded(&event.event_id));
        [self.ground.owner.try_get(&path), self.ground.peer.ask(&self.ground.server, "GET", &target, None)]
    }

    fn knows(&self, event: &SignedEvent) -> bool {
        self.shown(event)[0].status == 200
    }
}

#[test]
fn synapse_1_15_2_a_state_has_what_was_announced_and_nothing_more() {
    let ground = Ground::new();
    let levels = Levels::new(&ground);
    // What the rules would let stand.
    let event = levels.upon(&levels.id_of("m.room.power_levels", ""), 1);
    let others: Vec<&String> =
        levels.state.values().filter(|id| **id != levels.id_of("m.room.power_levels", "")).collect();
    // So many more that all of the state is asked for.
    let more: Vec<String> = (0..60).map(|number| format!("${number:043}")).collect();
    ground.peer.answer_with("state", 200, json!({ "pdus": [event.event], "auth_chain": [event.event] }));
    for is_announced in [false, true] {
        let announced: Vec<&String> =
            others.iter().copied().chain([&event.event_id].into_iter().filter(|_| is_announced)).collect();
        ground.peer.answer_with("state_ids", 200, json!({ "pdu_ids": announced, "auth_chain_ids": more }));
        let asked = ground.peer.seen("state").len();
        let unknown = format!("${}", if is_announced { "B" } else { "A" }.repeat(43));
        let citing = ground.peer.sign(levels.next().with("prev_events", json!([unknown])).with("depth", json!(99)));
        deliver(&ground, &ground.peer, &[&citing]);
        assert!(ground.peer.seen("state").len() > asked, "all of it was asked for");
        let stands = ground.state_event(&levels.room_id, "m.room.power_levels");
        assert_eq!(stands == event.event_id, is_announced, "announced: {is_announced}");
    }
    ground.still_serves();
}

#[test]
fn continuwuity_aa1281a9e_a_state_that_was_cut_short_takes_nothing_away() {
    let ground = Ground::new();
    let levels = Levels::new(&ground);
    for (place, missing) in ["m.room.create", "m.room.power_levels", "m.room.join_rules"].into_iter().enumerate() {
        let told: Vec<&String> =
            levels.state.iter().filter(|((kind, _), _)| kind != missing).map(|(_, event_id)| event_id).collect();
        ground.peer.answer_with("state_ids", 200, json!({ "pdu_ids": told, "auth_chain_ids": [] }));
        let unknown = format!("${place:C>43}");
        let citing = ground.peer.sign(levels.next().with("prev_events", json!([unknown])).with("depth", json!(99)));
        deliver(&ground, &ground.peer, &[&citing]);
        assert_eq!(ground.state_of(&levels.room_id), levels.state, "{missing}");
        assert!(missing != "m.room.create" || !levels.knows(&citing), "nothing stands upon no room");
    }
    ground.still_serves();
}

#[test]
fn tuwunel_b4e94544a_a_walk_that_broke_off_begins_anew() {
    let ground = Ground::new();
    let levels = Levels::new(&ground);
    let first = levels.upon(&levels.id_of("m.room.power_levels", ""), 1);
    let second = levels.upon(&first.event_id, 2);
    let citing = levels.citing(&second);
    levels.tells(&[&second]);
    deliver(&ground, &ground.peer, &[&citing]);
    let asked: Vec<String> = ground.peer.seen("event").into_iter().map(|seen| seen.target).collect();
    for event in [&second, &first] {
        assert!(asked.iter().any(|target| target.ends_with(&encoded(&event.event_id))), "{asked:?}");
    }
    assert!(!levels.knows(&citing));
    levels.tells(&[&first, &second]);
    deliver(&ground, &ground.peer, &[&citing]);
    assert!(levels.knows(&citing));
    let target =
        format!("/_matrix/federation/v1/event_auth/{}/{}", encoded(&levels.room_id), encoded(&citing.event_id));
    let chain = ground.peer.ask(&ground.server, "GET", &target, None).ok()["auth_chain"].take();
    let has = |unheard_of: i32| {
        chain.as_array().unwrap().iter().any(|event| event["content"]["events"]["unheard.of"] == unheard_of)
    };
    assert!(has(0) && has(1) && has(2), "the whole of it: {chain}");
}

#[test]
fn continuwuity_0_5_4_what_is_still_being_looked_into_is_shown_to_nobody() {
    let ground = Ground::new();
    let levels = Levels::new(&ground);
    let first = levels.upon(&levels.id_of("m.room.power_levels", ""), 1);
    let second = levels.upon(&first.event_id, 2);
    let citing = levels.citing(&second);
    levels.tells(&[&first, &second]);
    let (enter, entered) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let (enter, left) = (Mutex::new(enter), Mutex::new(left));
    // Each answer waits until somebody has looked.
    ground.peer.before_answering("event", move || {
        enter.lock().unwrap().send(()).unwrap();
        left.lock().unwrap().recv_timeout(COMES_WITHIN).unwrap();
    });
    thread::scope(|scope| {
        let delivered = scope.spawn(|| deliver(&ground, &ground.peer, &[&citing]));
        for _ in [&second, &first] {
            entered.recv_timeout(COMES_WITHIN).unwrap();
            for event in [&first, &second, &citing] {
                for answer in levels.shown(event) {
                    assert!([403, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
                    assert!(!answer.text().contains("unheard.of"), "{}", answer.text());
                }
            }
            leave.send(()).unwrap();
        }
        delivered.join().unwrap();
    });
    assert!(levels.knows(&citing));
    assert_eq!(ground.state_of(&levels.room_id), levels.state);
    for event in [&first, &second] {
        assert!(!levels.knows(event), "what only authorizes has no place in the room");
    }
}
