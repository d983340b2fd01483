//! What is asked of the server: each scenario prepares its requests, and says how many verifications one of them demands.
//! May not: count what it prepares.

use serde_json::json;
use vestibule_scenery::{FakePeer, Template, TestServer, User, path_of, send_knock_target};

use crate::load::Request;

/// Servers that knock.
pub const PEERS: usize = 4;

/// Something that is measured.
pub struct Scenario {
    pub name: &'static str,
    /// In a few words.
    pub what: &'static str,
    /// Signatures that the protocol has the server verify for one request.
    pub verifications: f64,
    /// The ratio of CPU time to those verifications that we want.
    pub wanted: f64,
    pub prepare: fn(&Stage, usize) -> Vec<Request>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "make_knock",
        what: "templates, one room",
        verifications: 1.0,
        wanted: 1.75,
        prepare: |stage, count| {
            let room_id = stage.room();
            requests(count, |number| make_knock(stage.peer(number), &room_id, number))
        },
    },
    Scenario {
        name: "send_knock",
        what: "signed knocks, one room",
        verifications: 2.0,
        wanted: 2.0,
        prepare: |stage, count| send_knocks(stage, &[stage.room()], count),
    },
    Scenario {
        name: "send_knock_1000_rooms",
        what: "signed knocks over 1,000 rooms",
        verifications: 2.0,
        wanted: 2.0,
        prepare: |stage, count| {
            let rooms: Vec<String> = (0..1_000).map(|_| stage.room()).collect();
            send_knocks(stage, &rooms, count)
        },
    },
];

/// What the journal was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Journal {
    pub syncs: f64,
    pub commits: f64,
}

impl Journal {
    /// What was asked for since an earlier count.
    pub fn since(self, earlier: Self) -> Self {
        Self { syncs: self.syncs - earlier.syncs, commits: self.commits - earlier.commits }
    }
}

/// A running server with an owner of rooms, and the servers that knock on them.
pub struct Stage {
    pub server: TestServer,
    owner: User,
    peers: Vec<FakePeer>,
}

impl Stage {
    /// With limits that no scenario meets.
    pub fn set(server: TestServer, has_tls: bool) -> Self {
        let peers: Vec<FakePeer> = (0..PEERS).map(|number| FakePeer::new(&format!("peer{number}.test"))).collect();
        let server = server
            .set("listener.1.tls", if has_tls { "true" } else { "false" })
            .set("knock.max_pending_per_room", "1000000")
            .set("knock.max_pending_per_origin_in_room", "1000000")
            .knowing(&peers.iter().collect::<Vec<_>>())
            .start();
        let owner = server.register("owner");
        Self { server, owner, peers }
    }

    fn room(&self) -> String {
        self.owner.knockable_room("12")
    }

    fn peer(&self, number: usize) -> &FakePeer {
        &self.peers[number % PEERS]
    }

    /// How often the journal was synced so far, and for how many commits, as the server counts it.
    pub fn journal(&self) -> Journal {
        let metrics = self.server.ask_admin("/metrics").text();
        let count = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|count| count.trim().parse().ok()).unwrap_or(f64::NAN)
        };
        Journal { syncs: count("vestibule_journal_syncs_total "), commits: count("vestibule_journal_commits_total ") }
    }
}

fn requests(count: usize, make: impl Fn(usize) -> Request) -> Vec<Request> {
    (0..count).map(make).collect()
}

fn make_knock(peer: &FakePeer, room_id: &str, number: usize) -> Request {
    let user_id = peer.user(&format!("u{number}"));
    let target = format!("{}?ver=10&ver=11&ver=12", path_of("v1/make_knock", room_id, &user_id));
    let authorization = peer.authorization("GET", &target, None);
    Request { method: "GET", target, authorization, body: None }
}

/// Knocks of users who are all different, made from one template for each room.
fn send_knocks(stage: &Stage, rooms: &[String], count: usize) -> Vec<Request> {
    let peer = stage.peer(0);
    let template = |room_id: &String| peer.knock_template(&stage.server, room_id, &peer.user("template"));
    let templates: Vec<Template> = rooms.iter().map(template).collect();
    requests(count, |number| {
        let (peer, place) = (stage.peer(number), number % rooms.len());
        let user_id = peer.user(&format!("u{number}"));
        let knock = peer.sign(templates[place].clone().for_user(&user_id).with_reason("I would like to talk"));
        let target = send_knock_target(&rooms[place], &knock.event_id);
        let authorization = peer.authorization("PUT", &target, Some(&knock.event));
        let body = Some(json!(knock.event).to_string());
        Request { method: "PUT", target, authorization, body }
    })
}
