//! Events that come by `/send`: forged, out of place, from servers that have no say, or made to upset the order of a room.
//! May not: call an event refused because it was not shown at once; it is asked for by its id when a good one has come after it.

use serde_json::{Value, json};

use super::ground::{Ground, deliver, next_event};
use crate::support::{FakePeer, SignedEvent, Template, encoded};

/// A room that is open to all, with a user of the peer in it.
struct Shared {
    ground: Ground,
    room_id: String,
    bob: String,
}

impl Shared {
    fn new(version: &str, others: &[&FakePeer]) -> Self {
        let ground = Ground::with(others);
        let room_id = ground.owner.room_with_rule(version, json!({ "join_rule": "public" }), &[]);
        let bob = ground.peer.user("bob");
        ground.peer.join(&ground.server, &room_id, &bob).ok();
        Self { ground, room_id, bob }
    }

    fn knows(&self, event_id: &str) -> bool {
        let path = format!("/rooms/{}/event/{}", encoded(&self.room_id), encoded(event_id));
        let answer = self.ground.owner.try_get(&path);
        assert!([200, 404].contains(&answer.status), "{}", answer.text());
        answer.status == 200
    }

    /// A message of bob's comes through, and none of these events has.
    #[track_caller]
    fn assert_without(&self, refused: &[SignedEvent]) {
        let good = self.ground.peer.sign(next_event(&self.ground, &self.ground.peer, &self.room_id, &self.bob));
        assert_eq!(deliver(&self.ground, &self.ground.peer, &[&good])[&good.event_id], json!({}));
        assert!(self.knows(&good.event_id));
        for event in refused {
            assert!(!self.knows(&event.event_id), "{event:?}");
        }
        self.ground.owner.sync("timeout=0");
    }
}

/// Texts and kinds of what a client sees of a room, oldest first.
fn timeline(shared: &Shared) -> Vec<Value> {
    let path = format!("/rooms/{}/messages?dir=b&limit=50", encoded(&shared.room_id));
    let mut chunk = shared.ground.owner.get(&path)["chunk"].as_array().unwrap().clone();
    chunk.reverse();
    chunk
}

#[test]
fn cve_2018_16515_each_event_of_a_transaction_needs_its_own_signature() {
    let other = FakePeer::new("other.test");
    let impostor = FakePeer::new("peer.test");
    for version in ["11", "12"] {
        let shared = Shared::new(version, &[&other]);
        let Shared { ground, room_id, bob } = &shared;
        let template = next_event(ground, &ground.peer, room_id, bob);
        let right = ground.peer.sign(template.clone());
        let mut unsigned = right.clone();
        unsigned.event.remove("signatures");
        let of = |user_id: &str| template.clone().with("sender", json!(user_id));
        let forged = [
            impostor.sign(template.clone().with("depth", json!(7))),
            other.sign(template.clone().with("depth", json!(8))),
            ground.peer.sign(of(&ground.owner.user_id)),
            ground.peer.sign(of(&other.user("eve"))),
        ];
        let all: Vec<&SignedEvent> = forged.iter().chain([&unsigned]).collect();
        let said = deliver(ground, &ground.peer, &all);
        for event in &all {
            assert!(said[&event.event_id]["error"].is_string(), "{said}");
        }
        shared.assert_without(&forged);
        // The right one is not held against those that were made of it.
        assert_eq!(deliver(ground, &ground.peer, &[&right])[&right.event_id], json!({}));
        assert!(shared.knows(&right.event_id));
    }
}

#[test]
fn what_the_hash_does_not_vouch_for_is_not_shown() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let mut event = ground.peer.sign(next_event(ground, &ground.peer, room_id, bob));
    let lie = serde_json::from_value(json!({ "msgtype": "m.text", "body": "never said" })).unwrap();
    event.event.insert("content".to_owned(), lie);
    deliver(ground, &ground.peer, &[&event]);
    shared.assert_without(&[]);
    assert!(!json!(timeline(&shared)).to_string().contains("never said"));
}

#[test]
fn cve_2022_31152_cve_2025_49090_and_synapse_6501_not_even_by_the_door_of_another_server() {
    let shared = Shared::new("12", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let template = next_event(ground, &ground.peer, room_id, bob);
    let cited: Vec<Value> = template.event["auth_events"].as_array().unwrap().clone();
    let elsewhere = ground.owner.room_with_rule("12", json!({ "join_rule": "public" }), &[]);
    ground.peer.join(&ground.server, &elsewhere, bob).ok();
    let foreign = next_event(ground, &ground.peer, &elsewhere, bob).event["auth_events"].clone();
    let with = |more: Value| -> Vec<Value> { cited.iter().cloned().chain([more]).collect() };
    let create = format!("${}", &room_id[1..]);
    let state = |kind: &str, content: Value| {
        template.clone().with("type", json!(kind)).with("state_key", json!("")).with("content", content)
    };
    let events: Vec<SignedEvent> = [
        template.clone().with("auth_events", json!(with(cited[0].clone()))),
        template.clone().with("auth_events", json!(with(json!(create)))),
        template.clone().with("auth_events", foreign),
        template.clone().with("auth_events", json!([])),
        state("m.room.create", json!({ "room_version": "12" })),
        state("m.room.create", json!({ "room_version": "12", "additional_creators": [bob] })),
        state("m.room.power_levels", json!({ "users": { bob.clone(): 100 } })),
        state("m.room.join_rules", json!({ "join_rule": "knock" })),
        template
            .clone()
            .with("type", json!("m.room.member"))
            .with("state_key", json!(ground.owner.user_id))
            .with("content", json!({ "membership": "ban" })),
    ]
    .into_iter()
    .map(|event| ground.peer.sign(event))
    .collect();
    let before = ground.state_of(room_id);
    deliver(ground, &ground.peer, &events.iter().collect::<Vec<_>>());
    shared.assert_without(&events);
    assert_eq!(ground.state_of(room_id), before);
}

#[test]
fn cve_2025_30355_depths_that_no_event_can_have_are_refused_and_hold_up_nobody() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let template = next_event(ground, &ground.peer, room_id, bob);
    let events: Vec<SignedEvent> = [json!(-1), json!("7"), json!([]), json!({}), Value::Null]
        .into_iter()
        .map(|depth| ground.peer.sign(template.clone().with("depth", depth)))
        .collect();
    let said = deliver(ground, &ground.peer, &events.iter().collect::<Vec<_>>());
    assert!(events.iter().all(|event| said[&event.event_id]["error"].is_string()), "{said}");
    shared.assert_without(&events);
}

#[test]
fn cve_2018_10657_the_greatest_depth_pins_no_order() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let deepest = next_event(ground, &ground.peer, room_id, bob).with("depth", json!((1_i64 << 53) - 1));
    let deepest = ground.peer.sign(deepest);
    assert_eq!(deliver(ground, &ground.peer, &[&deepest])[&deepest.event_id], json!({}));
    let mut sent = vec![deepest.event_id];
    for number in 0..5 {
        sent.push(ground.owner.say(room_id, &format!("ours{number}"), "ours"));
        // Whatever depth it has: one that is last by its place and first by its depth tells the two orders apart.
        let theirs = ground.peer.sign(next_event(ground, &ground.peer, room_id, bob).with("depth", json!(9 - number)));
        assert_eq!(deliver(ground, &ground.peer, &[&theirs])[&theirs.event_id], json!({}));
        sent.push(theirs.event_id);
    }
    let shown: Vec<String> = timeline(&shared)
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown, sent);
}

#[test]
fn synapse_3796_acls_are_asked_for_each_event() {
    let evil = FakePeer::new("evil.test");
    let ground = Ground::with(&[&evil]);
    let bob = ground.peer.user("bob");
    let rooms = ["1", "2"].map(|_| ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]));
    let eve = evil.user("eve");
    for room_id in &rooms {
        ground.peer.join(&ground.server, room_id, &bob).ok();
        evil.join(&ground.server, room_id, &eve).ok();
    }
    let [closed, open] = rooms.each_ref().map(|room_id| {
        let template = next_event(&ground, &evil, room_id, &eve);
        evil.sign(template)
    });
    ground.owner.set_state(&rooms[0], "m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["EVIL.test"] }));
    let said = deliver(&ground, &evil, &[&closed, &open]);
    assert!(said[&closed.event_id]["error"].is_string(), "{said}");
    assert_eq!(said[&open.event_id], json!({}));
    let is_known = |room_id: &str, event: &SignedEvent| {
        let path = format!("/rooms/{}/event/{}", encoded(room_id), encoded(&event.event_id));
        ground.owner.try_get(&path).status == 200
    };
    assert!(!is_known(&rooms[0], &closed));
    assert!(is_known(&rooms[1], &open));
    // The list is about who talks to us, and no rule of the room: from a server that may, all of the room's events are
    // taken, or the room would fall apart into those who have one and those who have not.
    // Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms>
    assert_eq!(deliver(&ground, &ground.peer, &[&closed])[&closed.event_id], json!({}));
    assert!(is_known(&rooms[0], &closed));
}

#[test]
fn gomatrixserverlib_431_who_is_banned_says_nothing_from_before_the_ban() {
    for version in ["11", "12"] {
        let shared = Shared::new(version, &[]);
        let Shared { ground, room_id, bob } = &shared;
        let ben = ground.peer.user("ben");
        ground.peer.join(&ground.server, room_id, &ben).ok();
        let early = next_event(ground, &ground.peer, room_id, bob);
        let joined = json!({ "membership": "join", "displayname": "back again" });
        let joined = early.clone().with("type", json!("m.room.member")).with("content", joined);
        let events = [early, joined.with("state_key", json!(bob))].map(|event| ground.peer.sign(event));
        ground.owner.about(room_id, "ban", bob);
        let before = ground.state_of(room_id);
        deliver(ground, &ground.peer, &events.iter().collect::<Vec<_>>());
        let fair = ground.peer.sign(next_event(ground, &ground.peer, room_id, &ben));
        assert_eq!(deliver(ground, &ground.peer, &[&fair])[&fair.event_id], json!({}));
        assert!(shared.knows(&fair.event_id));
        for event in &events {
            assert!(!shared.knows(&event.event_id), "{version} {event:?}");
        }
        assert_eq!(ground.state_of(room_id), before, "{version}");
        // Nor by an event that comes after it.
        let after = ground.peer.sign(
            next_event(ground, &ground.peer, room_id, &ben)
                .with("prev_events", json!([events[0].event_id, events[1].event_id])),
        );
        deliver(ground, &ground.peer, &[&after]);
        assert_eq!(ground.owner.membership(room_id, bob).as_deref(), Some("ban"), "{version}");
        assert!(events.iter().all(|event| !shared.knows(&event.event_id)), "{version}");
    }
}

#[test]
fn continuwuity_b0c1381f0_rooms_that_we_left_take_no_events() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let template = next_event(ground, &ground.peer, room_id, bob);
    ground.owner.in_room(room_id, "leave", json!({}));
    let since = ground.owner.now();
    let events: Vec<SignedEvent> = [
        template.clone(),
        template
            .clone()
            .with("type", json!("m.room.member"))
            .with("state_key", json!(ground.owner.user_id))
            .with("content", json!({ "membership": "join" })),
        template.with("room_id", json!("!never:heard.test")),
    ]
    .into_iter()
    .map(|event| ground.peer.sign(event))
    .collect();
    let said = deliver(ground, &ground.peer, &events.iter().collect::<Vec<_>>());
    for event in &events {
        // What is of a room that nobody here knows is passed over in silence.
        assert!(said.get(&event.event_id).is_none_or(|said| said["error"].is_string()), "{said}");
    }
    let news = ground.owner.sync_since(&since);
    assert!(news["rooms"]["join"].as_object().is_none_or(serde_json::Map::is_empty), "{news}");
    ground.still_serves();
}

#[test]
fn cve_2022_36009_the_level_that_speaking_takes_is_asked() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let ben = ground.peer.user("ben");
    ground.peer.join(&ground.server, room_id, &ben).ok();
    let users = json!({ ground.owner.user_id.as_str(): 100, ben.as_str(): 50 });
    ground.owner.set_state(room_id, "m.room.power_levels", "", json!({ "users": users, "events_default": 50 }));
    let mute = ground.peer.sign(next_event(ground, &ground.peer, room_id, bob));
    let fair = ground.peer.sign(next_event(ground, &ground.peer, room_id, &ben));
    assert_eq!(deliver(ground, &ground.peer, &[&mute, &fair])[&fair.event_id], json!({}));
    assert!(shared.knows(&fair.event_id) && !shared.knows(&mute.event_id));
}

#[test]
fn cve_2022_39374_what_was_rejected_authorizes_nothing_and_enters_no_state() {
    for version in ["11", "12"] {
        let shared = Shared::new(version, &[]);
        let Shared { ground, room_id, bob } = &shared;
        let next = next_event(ground, &ground.peer, room_id, bob);
        let levels = json!({ "users": { ground.owner.user_id.as_str(): 100, bob.as_str(): 100 } });
        let state = |template: Template, kind: &str, content: Value| {
            template.with("type", json!(kind)).with("state_key", json!("")).with("content", content)
        };
        let levels = ground.peer.sign(state(next.clone(), "m.room.power_levels", levels));
        let cited = next.event["auth_events"].as_array().unwrap();
        let with_it = json!(cited.iter().cloned().chain([json!(levels.event_id)]).collect::<Vec<_>>());
        let topic = state(next.clone(), "m.room.topic", json!({ "topic": "taken over" }));
        // By its authority, behind it, and both.
        let forks = [
            topic.clone().with("auth_events", with_it.clone()),
            topic.clone().with("prev_events", json!([levels.event_id])),
            topic.with("auth_events", with_it).with("prev_events", json!([levels.event_id])),
        ]
        .map(|event| ground.peer.sign(event));
        let before = ground.state_of(room_id);
        deliver(ground, &ground.peer, &[&levels, &forks[0], &forks[1], &forks[2]]);
        // What comes behind a rejected event is judged by itself, and stands.
        let behind = next_event(ground, &ground.peer, room_id, bob).with("prev_events", json!([levels.event_id]));
        deliver(ground, &ground.peer, &[&ground.peer.sign(behind)]);
        shared.assert_without(&forks);
        assert!(!shared.knows(&levels.event_id));
        assert_eq!(ground.state_of(room_id), before, "{version}");
    }
}

#[test]
fn cve_2024_6302_who_may_not_redact_redacts_nothing() {
    for version in ["10", "11"] {
        let shared = Shared::new(version, &[]);
        let Shared { ground, room_id, bob } = &shared;
        let said = ground.owner.say(room_id, "1", "among ourselves");
        let text = |event_id: &str| {
            ground.owner.get(&format!("/rooms/{}/event/{}", encoded(room_id), encoded(event_id)))["content"].clone()
        };
        let redaction = |redacts: &str| {
            let template = next_event(ground, &ground.peer, room_id, bob).with("type", json!("m.room.redaction"));
            match version {
                "10" => template.with("redacts", json!(redacts)).with("content", json!({})),
                _ => template.with("content", json!({ "redacts": redacts })),
            }
        };
        let foreign = ground.peer.sign(redaction(&said));
        deliver(ground, &ground.peer, &[&foreign]);
        // What is bob's own he may redact; and of two that redact one another there is an end.
        let own = ground.peer.sign(next_event(ground, &ground.peer, room_id, bob));
        deliver(ground, &ground.peer, &[&own]);
        assert_eq!(text(&own.event_id)["body"], "hello");
        let fair = ground.peer.sign(redaction(&own.event_id));
        deliver(ground, &ground.peer, &[&fair]);
        assert_eq!(text(&own.event_id).get("body"), None, "{version}");
        let back = ground.peer.sign(redaction(&fair.event_id));
        deliver(ground, &ground.peer, &[&back]);
        assert_eq!(text(&said)["body"], "among ourselves", "{version}");
        ground.owner.sync("timeout=0");
    }
}

#[test]
fn synapse_limits_no_transaction_holds_more_than_it_may() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let pdus = vec![json!({}); 51];
    ground.peer.send(&ground.server, &pdus).refused(400, "M_INVALID_PARAM");
    let typing = json!({ "edu_type": "m.typing", "content": { "room_id": room_id, "user_id": bob, "typing": true } });
    let since = ground.owner.now();
    ground.peer.send_edus(&ground.server, &vec![typing; 101]).refused(400, "M_INVALID_PARAM");
    let news = ground.owner.sync_since(&since);
    assert!(!news.to_string().contains("m.typing"), "{news}");
    shared.assert_without(&[]);
}

#[test]
fn tuwunel_extremities_however_many_ends_a_room_has_few_are_cited() {
    let shared = Shared::new("11", &[]);
    let Shared { ground, room_id, bob } = &shared;
    let next = next_event(ground, &ground.peer, room_id, bob);
    let forks: Vec<SignedEvent> = (0..100)
        .map(|number| next.clone().with("content", json!({ "msgtype": "m.text", "body": number.to_string() })))
        .map(|event| ground.peer.sign(event))
        .collect();
    for some in forks.chunks(50) {
        let said = deliver(ground, &ground.peer, &some.iter().collect::<Vec<_>>());
        assert!(some.iter().all(|event| said[&event.event_id] == json!({})), "{said}");
    }
    let cited = next_event(ground, &ground.peer, room_id, bob).event["prev_events"].as_array().unwrap().len();
    assert!((1..=20).contains(&cited), "{cited}");
    ground.owner.set_state(room_id, "m.room.join_rules", "", json!({ "join_rule": "knock" }));
    ground.peer.knock(&ground.server, room_id, &ground.peer.user("ann"), "otters");
    shared.assert_without(&[]);
}
