//! What is asked of a server: each scenario makes its pieces of work, and says how many verifications one of them demands.
//! May not: count what it prepares, or know which server it is.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use vestibule_scenery::{Connection, FakePeer, SignedEvent, Template, encoded, path_of, send_knock_target};

use crate::{
    load::{Request, Work},
    stage::Stage,
};

/// Room versions that our peers know.
const OFFERED: &str = "ver=10&ver=11&ver=12";

/// Something that is measured.
pub struct Scenario {
    pub name: &'static str,
    /// In a few words.
    pub what: &'static str,
    /// Signatures that the protocol has the server verify for one piece of work.
    pub verifications: f64,
    /// The ratio of CPU time to those verifications that we want.
    pub wanted: Option<f64>,
    /// Pieces of work, if not as many as were asked for.
    pub pieces: Option<usize>,
    /// Connections, if not as many as were asked for.
    pub connections: Option<usize>,
    /// So many a second, if not as fast as answers come.
    pub rate: Option<f64>,
    /// Synapse is measured by it too.
    pub is_compared: bool,
    /// How many pieces were done before, each time that it is measured.
    pub grown: &'static [usize],
    pub prepare: fn(&Stage, usize) -> Result<Work, String>,
}

/// What most scenarios have in common.
const KNOCKS: Scenario = Scenario {
    name: "",
    what: "",
    verifications: 2.0,
    wanted: None,
    pieces: None,
    connections: None,
    rate: None,
    is_compared: false,
    grown: &[0],
    prepare: |stage, count| send_knocks(stage, &rooms(stage, 1)?, count),
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "make_knock",
        what: "templates, one room",
        verifications: 1.0,
        wanted: Some(1.75),
        prepare: |stage, count| {
            let room_id = stage.client.room()?;
            let requests: Vec<Request> = (0..count)
                .map(|number| {
                    let peer = stage.peer(number);
                    make(stage, peer, "make_knock", &room_id, &peer.user(&format!("u{number}")))
                })
                .collect();
            Ok(sending(requests))
        },
        ..KNOCKS
    },
    Scenario { name: "send_knock", what: "signed knocks, one room", wanted: Some(2.0), ..KNOCKS },
    Scenario {
        name: "send_knock_1000_rooms",
        what: "signed knocks over 1,000 rooms",
        wanted: Some(2.0),
        prepare: |stage, count| send_knocks(stage, &rooms(stage, 1_000)?, count),
        ..KNOCKS
    },
    Scenario {
        name: "send_knock_256",
        what: "signed knocks, one room, 256 connections",
        connections: Some(256),
        ..KNOCKS
    },
    Scenario {
        name: "send_knock_grown",
        what: "signed knocks, one room in which so many wait already",
        pieces: Some(2_000),
        grown: &[0, 10_000, 100_000],
        ..KNOCKS
    },
    Scenario {
        name: "send_knock_alone",
        what: "a knock every 20 ms on a server that has nothing else to do",
        pieces: Some(500),
        connections: Some(1),
        rate: Some(50.0),
        ..KNOCKS
    },
    Scenario {
        name: "make_send_300",
        what: "300 templates, each signed and sent, one room",
        verifications: 3.0,
        pieces: Some(300),
        is_compared: true,
        prepare: |stage, _| Ok(whole_knocks(stage, rooms(stage, 1)?)),
        ..KNOCKS
    },
    Scenario {
        name: "make_send_2000",
        what: "2,000 templates, each signed and sent, one room",
        verifications: 3.0,
        pieces: Some(2_000),
        // With more, Synapse's answers come after more than the 40 s for which anybody waits.
        connections: Some(8),
        is_compared: true,
        prepare: |stage, _| Ok(whole_knocks(stage, rooms(stage, 1)?)),
        ..KNOCKS
    },
    Scenario {
        name: "make_send_50_rooms",
        what: "300 templates, each signed and sent, over 50 rooms",
        verifications: 3.0,
        pieces: Some(300),
        is_compared: true,
        prepare: |stage, _| Ok(whole_knocks(stage, rooms(stage, 50)?)),
        ..KNOCKS
    },
    Scenario {
        name: "make_knock_300",
        what: "300 templates, one room",
        verifications: 1.0,
        pieces: Some(300),
        is_compared: true,
        prepare: |stage, count| {
            let room_id = stage.client.room()?;
            let user = |number: usize| stage.peer(number).user(&format!("u{number}"));
            let request = |number| make(stage, stage.peer(number), "make_knock", &room_id, &user(number));
            Ok(sending((0..count).map(request).collect()))
        },
        ..KNOCKS
    },
    Scenario {
        name: "life_cycle",
        what: "knock, invite, join, a message, leave, over 50 rooms",
        // Three templates, three signed events, and the invite that comes back.
        verifications: 10.0,
        pieces: Some(500),
        prepare: |stage, _| life_cycles(stage),
        ..KNOCKS
    },
];

fn sending(requests: Vec<Request>) -> Work {
    Box::new(move |connection, number| match requests.get(number) {
        Some(request) => request.send(connection).map(drop),
        None => Err(format!("request {number} was not prepared")),
    })
}

/// A request for a template.
fn make(stage: &Stage, peer: &FakePeer, endpoint: &str, room_id: &str, user_id: &str) -> Request {
    template_request(&stage.server_name, peer, endpoint, room_id, user_id)
}

fn template_request(server: &str, peer: &FakePeer, endpoint: &str, room_id: &str, user_id: &str) -> Request {
    let target = format!("{}?{OFFERED}", path_of(&format!("v1/{endpoint}"), room_id, user_id));
    let authorization = peer.authorization_for(server, "GET", &target, None);
    Request { method: "GET", target, authorization, body: None }
}

/// A request that brings a signed event.
fn event_request(server: &str, peer: &FakePeer, target: String, event: &SignedEvent) -> Request {
    let authorization = peer.authorization_for(server, "PUT", &target, Some(&event.event));
    Request { method: "PUT", target, authorization, body: Some(json!(event.event).to_string()) }
}

/// Knocks of users who are all different, made from one template for each room.
pub fn send_knocks(stage: &Stage, rooms: &[String], count: usize) -> Result<Work, String> {
    let peer = stage.peer(0);
    let mut connection = stage.federation.connect().map_err(|error| error.to_string())?;
    let mut templates = Vec::new();
    for room_id in rooms {
        let answer = make(stage, peer, "make_knock", room_id, &peer.user("template")).send(&mut connection)?;
        templates.push(Template::of(answer.json()));
    }
    let request = |number: usize| {
        let (peer, place) = (stage.peer(number), number % rooms.len());
        let (room_id, template) = (&rooms[place], templates[place].clone());
        let template = template.for_user(&peer.user(&format!("u{number}")));
        let knock = peer.sign(template.with_reason("I would like to talk"));
        event_request(&stage.server_name, peer, send_knock_target(room_id, &knock.event_id), &knock)
    };
    Ok(sending((0..count).map(request).collect()))
}

/// One handshake: template, signature, delivery.
fn handshake(
    connection: &mut Connection,
    server: &str,
    peer: &FakePeer,
    room_id: &str,
    user_id: &str,
    (make, send): (&str, &str),
) -> Result<(), String> {
    let answer = template_request(server, peer, make, room_id, user_id).send(connection)?;
    let event = peer.sign(Template::of(answer.json()));
    event_request(server, peer, path_of(send, room_id, &event.event_id), &event).send(connection).map(drop)
}

const KNOCK: (&str, &str) = ("make_knock", "v1/send_knock");
const JOIN: (&str, &str) = ("make_join", "v2/send_join");
const LEAVE: (&str, &str) = ("make_leave", "v2/send_leave");

/// So many rooms on which anybody may knock.
fn rooms(stage: &Stage, count: usize) -> Result<Vec<String>, String> {
    (0..count).map(|_| stage.client.room()).collect()
}

/// A knock as it comes: template, signature, delivery.
pub fn knock(
    connection: &mut Connection,
    server: &str,
    peer: &FakePeer,
    room_id: &str,
    user_id: &str,
) -> Result<(), String> {
    handshake(connection, server, peer, room_id, user_id, KNOCK)
}

/// Knocks as they come: each asks for its own template.
fn whole_knocks(stage: &Stage, rooms: Vec<String>) -> Work {
    let (peers, server) = (stage.peers.clone(), stage.server_name.clone());
    Box::new(move |connection, number| {
        let (peer, room_id) = (&peers[number % peers.len()], &rooms[number % rooms.len()]);
        knock(connection, &server, peer, room_id, &peer.user(&format!("u{number}")))
    })
}

fn life_cycles(stage: &Stage) -> Result<Work, String> {
    let rooms = rooms(stage, 50)?;
    let (peers, server, owner) = (stage.peers.clone(), stage.server_name.clone(), stage.client.clone());
    let turns: Vec<Mutex<()>> = rooms.iter().map(|_| Mutex::default()).collect();
    Ok(Box::new(move |connection, number| {
        let (peer, room_id) = (&peers[number % peers.len()], &rooms[number % rooms.len()]);
        let user_id = peer.user(&format!("u{number}"));
        // One after the other in a room, as its owner would answer them.
        let _turn = turns[number % rooms.len()].lock().unwrap_or_else(PoisonError::into_inner);
        let in_room = |action: &str, body: Value| {
            owner.ask("POST", &format!("/rooms/{}/{action}", encoded(room_id)), &body).map(drop)
        };
        knock(connection, &server, peer, room_id, &user_id)?;
        in_room("invite", json!({ "user_id": user_id }))?;
        handshake(connection, &server, peer, room_id, &user_id, JOIN)?;
        let path = format!("/rooms/{}/send/m.room.message/t{number}", encoded(room_id));
        owner.ask("PUT", &path, &json!({ "msgtype": "m.text", "body": "welcome" }))?;
        handshake(connection, &server, peer, room_id, &user_id, LEAVE)
    }))
}
