//! The ground of the hostile scenarios: a server with an owner, a peer that plays foul, and what must hold after whatever it does.
//! May not: forgive a 5xx, or take an answer for proof that nothing was changed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Answer, FakePeer, SignedEvent, Template, TestServer, User, encoded, path_of};

/// What our server is called in signatures.
const US: &str = "vestibule.test";

/// The versions that a peer says it knows.
const OFFERED: &str = "ver=7&ver=8&ver=9&ver=10&ver=11&ver=12";

/// A server, somebody who owns rooms on it, and a peer that it knows.
pub struct Ground {
    pub peer: FakePeer,
    pub server: TestServer,
    pub owner: User,
}

impl Ground {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// The same with further peers.
    pub fn with(others: &[&FakePeer]) -> Self {
        Self::on(TestServer::new(), others)
    }

    /// The same on a server that is not started yet.
    pub fn on(server: TestServer, others: &[&FakePeer]) -> Self {
        let peer = FakePeer::new("peer.test");
        let peers: Vec<&FakePeer> = [&peer].into_iter().chain(others.iter().copied()).collect();
        let server = server.set("knock.repeat_after", "\"0s\"").knowing(&peers).start();
        let owner = server.register("owner");
        Self { peer, server, owner }
    }

    /// What a bad request may not change: the room's state, as event ids by type and key.
    #[track_caller]
    pub fn state_of(&self, room_id: &str) -> BTreeMap<(String, String), String> {
        let state = self.owner.get(&format!("/rooms/{}/state", encoded(room_id)));
        let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        let events = state.as_array().unwrap().iter();
        events.map(|event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id"))).collect()
    }

    /// The event of the room's state with that type and an empty key.
    #[track_caller]
    pub fn state_event(&self, room_id: &str, kind: &str) -> String {
        self.state_of(room_id)[&(kind.to_owned(), String::new())].clone()
    }

    /// What must work after anything: our users' `/sync`, and a knock that is as it should be.
    #[track_caller]
    pub fn still_serves(&self) {
        self.owner.sync("timeout=0");
        let room_id = self.owner.knockable_room("11");
        self.peer.knock(&self.server, &room_id, &self.peer.user("honest"), "otters");
        assert_eq!(self.owner.membership(&room_id, &self.peer.user("honest")).as_deref(), Some("knock"));
    }
}

/// What comes next in a room from a user of a peer who has joined it: a message, until it is changed.
#[track_caller]
pub fn next_event(ground: &Ground, peer: &FakePeer, room_id: &str, user_id: &str) -> Template {
    // A leave of that user is authorized by the same events as whatever else the user sends.
    let mut template = Handshake::Leave.template_for(ground, peer, room_id, user_id);
    template.event.as_object_mut().unwrap().remove("state_key");
    template.with("type", json!("m.room.message")).with("content", json!({ "msgtype": "m.text", "body": "hello" }))
}

/// Delivers events by a transaction of `peer`; what is said of each.
#[track_caller]
pub fn deliver(ground: &Ground, peer: &FakePeer, events: &[&SignedEvent]) -> Value {
    let pdus: Vec<Value> = events.iter().map(|event| serde_json::to_value(&event.event).unwrap()).collect();
    peer.send(&ground.server, &pdus).ok()["pdus"].take()
}

/// A membership handshake in which we are the resident server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Knock,
    Join,
    Leave,
}

impl Handshake {
    pub const ALL: [Self; 3] = [Self::Knock, Self::Join, Self::Leave];

    /// A room where a user of the peer may do this.
    #[track_caller]
    pub fn room(self, ground: &Ground, user_id: &str) -> String {
        let rule = if self == Self::Join { "public" } else { "knock" };
        let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": rule }), &[]);
        if self == Self::Leave {
            ground.peer.knock(&ground.server, &room_id, user_id, "otters");
        }
        room_id
    }

    pub fn make_target(self, room_id: &str, user_id: &str) -> String {
        match self {
            Self::Knock => format!("{}?{OFFERED}", path_of("v1/make_knock", room_id, user_id)),
            Self::Join => format!("{}?{OFFERED}", path_of("v1/make_join", room_id, user_id)),
            Self::Leave => path_of("v1/make_leave", room_id, user_id),
        }
    }

    pub fn send_target(self, room_id: &str, event_id: &str) -> String {
        let endpoint = match self {
            Self::Knock => "v1/send_knock",
            Self::Join => "v2/send_join",
            Self::Leave => "v2/send_leave",
        };
        path_of(endpoint, room_id, event_id)
    }

    #[track_caller]
    pub fn template(self, ground: &Ground, room_id: &str, user_id: &str) -> Template {
        self.template_for(ground, &ground.peer, room_id, user_id)
    }

    /// The template that another peer gets.
    #[track_caller]
    pub fn template_for(self, ground: &Ground, peer: &FakePeer, room_id: &str, user_id: &str) -> Template {
        Template::of(peer.ask(&ground.server, "GET", &self.make_target(room_id, user_id), None).ok())
    }

    #[track_caller]
    pub fn send(self, ground: &Ground, room_id: &str, event: &SignedEvent) -> Answer {
        let target = self.send_target(room_id, &event.event_id);
        ground.peer.ask(&ground.server, "PUT", &target, Some(&event.event))
    }
}

/// A 400 or 403 with a Matrix error that bears nothing signed by us.
#[track_caller]
pub fn assert_refused(answer: &Answer, what: &str) {
    assert!([400, 403].contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    assert!(answer.json()["errcode"].is_string(), "{what}: {}", answer.text());
    assert!(!is_signed_by_us(&answer.json()), "{what}: {}", answer.text());
}

/// Whether anything in it bears a signature of ours.
pub fn is_signed_by_us(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            let signed = fields.get("signatures").is_some_and(|signatures| signatures.get(US).is_some());
            signed || fields.values().any(is_signed_by_us)
        }
        Value::Array(entries) => entries.iter().any(is_signed_by_us),
        _ => false,
    }
}
