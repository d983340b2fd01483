//! What malformed requests are thrown at: a server with users, rooms and another server, and all that may be seen of it.
//! May not: send a malformed request.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use vestibule_scenery::{FakePeer, Http, PASSWORD, SignedEvent, TestServer, User, encoded, until};

use super::routes::{Body, Caller, Route};
use crate::{journal_file, program};

/// The key of the other server, as its signatures name it, and one that it has not.
pub const KEY: &str = "key=\"ed25519:1\"";
pub const NO_KEY: &str = "key=\"ed25519:none\"";

/// Looks at the journal in a row that see no change: a few tenths of a second.
const LOOKS_AT_STILL_JOURNAL: u32 = 60;

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Client,
    Federation,
    Admin,
}

impl Door {
    /// Where a path is served.
    pub fn of(pattern: &str) -> Self {
        let is_under = |prefix: &str| pattern.starts_with(prefix);
        if ["/_matrix/client", "/.well-known/", "/_synapse/", "/desk"].into_iter().any(is_under) {
            Self::Client
        } else if is_under("/_matrix/federation") || is_under("/_matrix/key") {
            Self::Federation
        } else {
            Self::Admin
        }
    }
}

pub struct World {
    server: TestServer,
    pub peer: FakePeer,
    /// The session whose token the malformed requests have.
    owner: User,
    /// Another session of the same user, and another member of the room.
    watchers: [User; 2],
    admin_token: String,
    /// A knock that was never sent.
    knock: SignedEvent,
    /// What stands for `<…>` in samples.
    words: BTreeMap<&'static str, String>,
}

impl World {
    /// # Errors
    /// There is no program.
    pub fn new() -> Result<Self, String> {
        let peer = FakePeer::new("peer.test");
        let server = program::server()?
            .set("registration.shared_secret", "\"a secret of this run\"")
            .set("well_known_client", "\"https://vestibule.test\"")
            .set("well_known_server", "\"vestibule.test:443\"")
            .knowing(&[&peer])
            .start();
        let owner = server.register("owner");
        let friend = server.register("friend");
        let alias = "#otters:vestibule.test";
        let room = owner.create_room(json!({
            "room_version": "11", "name": "Otters", "visibility": "public", "room_alias_name": "otters",
            "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }],
        }));
        for guest in [friend.user_id.clone(), peer.user("guest")] {
            owner.about(&room, "invite", &guest);
        }
        friend.join(&room);
        peer.join(&server, &room, &peer.user("guest")).ok();
        peer.knock(&server, &room, &peer.user("waits"), "please");
        let event = owner.say(&room, "t1", "hello");
        let user = format!("/user/{}", encoded(&owner.user_id));
        owner.put(&format!("/profile/{}/displayname", encoded(&owner.user_id)), json!({ "displayname": "Owner" }));
        owner.put(&format!("{user}/account_data/org.example.kept"), json!({ "a": 0 }));
        owner.put(&format!("{user}/rooms/{}/account_data/org.example.kept", encoded(&room)), json!({ "a": 0 }));
        owner.set_state(&room, "org.example.kept", "", json!({ "a": 0 }));
        let filter = owner.post(&format!("{user}/filter"), json!({}))["filter_id"].as_str().unwrap_or("0").to_owned();
        // Nobody is asked for a password who has no signing keys yet.
        let signing_key = json!({ "user_id": owner.user_id, "usage": ["master"], "keys": { "ed25519:k": "k" } });
        owner.post("/keys/device_signing/upload", json!({ "master_key": signing_key }));
        let knock = peer.sign(peer.knock_template(&server, &room, &peer.user("late")));
        // A key that is not known is looked for once in ten minutes, and what was found is kept.
        let target = "/_matrix/federation/v1/publicRooms";
        let unknown = peer.authorization("GET", target, None).replace(KEY, NO_KEY);
        server.federation().ask("GET", target, &[("Authorization", &unknown)], None).refused(401, "M_UNAUTHORIZED");
        let watchers = [server.log_in("owner", PASSWORD), friend.clone()];
        let words = BTreeMap::from([
            ("owner", owner.user_id.clone()),
            ("friend", friend.user_id.clone()),
            ("late", peer.user("late")),
            ("device", owner.device_id.clone()),
            ("room", room),
            ("alias", alias.to_owned()),
            ("event", event),
            ("filter", filter),
            ("since", owner.now()),
            ("peer", peer.name().to_owned()),
            ("page", "0".to_owned()),
        ]);
        let admin_token = server.admin_token();
        let world = Self { server, peer, owner, watchers, admin_token, knock, words };
        world.settle();
        Ok(world)
    }

    /// Waits until the other server has heard all, which the journal notes each time.
    fn settle(&self) {
        until("the other server hears of the state", || {
            self.peer.received().iter().any(|event| event["type"] == "org.example.kept").then_some(())
        });
        let (mut records, mut looks) = (0, 0);
        until("the journal is still", || {
            let now = self.records();
            looks = if now == records { looks + 1 } else { 0 };
            records = now;
            (looks > LOOKS_AT_STILL_JOURNAL).then_some(())
        });
    }

    pub fn door(&self, door: Door) -> Http {
        match door {
            Door::Client => self.server.client(),
            Door::Federation => self.server.federation(),
            Door::Admin => self.server.admin(),
        }
    }

    pub fn word(&self, name: &str) -> &str {
        self.words.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A well-formed body for a route.
    ///
    /// # Errors
    /// The table's sample is no JSON.
    pub fn sample(&self, route: &Route) -> Result<Option<Value>, String> {
        match route.body {
            Body::None => Ok(None),
            Body::Event => serde_json::to_value(&self.knock.event).map(Some).map_err(|error| error.to_string()),
            Body::Fields(sample) | Body::Free(sample) => {
                let fill = |text: String, (name, word): (&&str, &String)| text.replace(&format!("<{name}>"), word);
                let text = self.words.iter().fold(sample.to_owned(), fill);
                serde_json::from_str(&text).map(Some).map_err(|error| format!("{error} in the sample {text}"))
            }
        }
    }

    /// A query with its words.
    pub fn filled_query(&self, query: &str) -> String {
        self.words
            .iter()
            .fold(query.to_owned(), |text, (name, word)| text.replace(&format!("<{name}>"), &encoded(word)))
    }

    /// A good value for an open part of a route's path.
    pub fn argument(&self, route: &Route, name: &str) -> &str {
        match name {
            "room_id" | "roomId" | "room_id_or_alias" => self.word("room"),
            "user_id" => self.word("owner"),
            "userId" if route.pattern.contains("/user/devices/") => self.word("owner"),
            "userId" => self.word("late"),
            "eventId" if route.method == "PUT" => self.knock.event_id.as_str(),
            "event_id" | "eventId" => self.word("event"),
            "room_alias" => self.word("alias"),
            "field" => "displayname",
            "type" | "event_type" => "org.example.kept",
            "filter_id" => self.word("filter"),
            "device_id" => self.word("device"),
            "kind" => "override",
            "rule_id" => ".m.rule.master",
            "receipt_type" => "m.read",
            "keyId" => "ed25519:1",
            "serverName" => self.word("peer"),
            "state_key:.*" => "",
            _ => "1",
        }
    }

    /// The `Authorization` line of whoever may ask.
    pub fn authorization(&self, caller: Caller, method: &str, target: &str, content: Option<&Value>) -> Option<String> {
        match caller {
            Caller::Nobody => None,
            Caller::User => Some(format!("Bearer {}", self.owner.token)),
            Caller::Operator => Some(format!("Bearer {}", self.admin_token)),
            Caller::Server => {
                let content = content.map(|content| serde_json::from_value(content.clone()).unwrap_or_default());
                Some(self.peer.authorization(method, target, content.as_ref()))
            }
        }
    }

    /// All that may be seen of the server, part by part.
    pub fn state(&self) -> BTreeMap<String, String> {
        let [owner, friend] = &self.watchers;
        let room = format!("/rooms/{}", encoded(self.word("room")));
        let user = format!("/user/{}", encoded(&owner.user_id));
        let kept = "account_data/org.example.kept";
        let mut seen = BTreeMap::new();
        for path in [
            format!("{room}/state"),
            format!("{room}/members"),
            format!("{room}/joined_members"),
            format!("{room}/messages?dir=b&limit=100"),
            format!("{room}/aliases"),
            format!("{user}/{kept}"),
            format!("{user}{room}/{kept}"),
            format!("{user}/filter/{}", self.word("filter")),
            format!("/profile/{}", encoded(&owner.user_id)),
            format!("/profile/{}", encoded(&friend.user_id)),
            format!("/profile/{}/displayname", encoded(&owner.user_id)),
            format!("/directory/room/{}", encoded(self.word("alias"))),
            format!("/directory/list/room/{}", encoded(self.word("room"))),
            "/publicRooms".to_owned(),
            "/joined_rooms".to_owned(),
            "/pushrules".to_owned(),
            "/devices".to_owned(),
            "/register/available?username=newcomer".to_owned(),
            "/sync?timeout=0&full_state=true".to_owned(),
        ] {
            seen.insert(format!("GET {path}"), shown(&owner.try_get(&path)));
        }
        let keys = json!({ "device_keys": { (owner.user_id.as_str()): [], (friend.user_id.as_str()): [] } });
        seen.insert("keys".to_owned(), shown(&owner.try_post("/keys/query", keys)));
        seen.insert("what the friend syncs".to_owned(), shown(&friend.try_get("/sync?timeout=0&full_state=true")));
        seen.insert("pending knocks".to_owned(), shown(&self.server.ask_admin("/_vestibule/admin/v1/knocks")));
        seen.insert("rooms".to_owned(), self.server.totals()["rooms_stored"].to_string());
        seen.insert("records in the journal".to_owned(), self.records().to_string());
        seen
    }

    /// What the journal holds, in all its segments: also of what nobody is shown.
    fn records(&self) -> usize {
        let segments = fs::read_dir(self.server.data_dir().join("journal")).into_iter().flatten().flatten();
        let of_segment =
            |entry: fs::DirEntry| fs::read(entry.path()).map_or(0, |bytes| journal_file::records(&bytes).len());
        segments.map(of_segment).sum()
    }

    /// What must not have happened, if it did.
    pub fn harm(&self) -> Vec<String> {
        let mut harm = Vec::new();
        let restarted = self.server.totals()["actors_restarted"].take();
        if restarted != json!(0) {
            harm.push(format!("{restarted} actors were restarted"));
        }
        let metrics = self.server.ask_admin("/metrics").text();
        if !metrics.lines().any(|line| line == "vestibule_request_panics_total 0") {
            harm.push("requests ended in a panic".to_owned());
        }
        let log = self.server.log();
        harm.extend(log.lines().filter(|line| line.contains("panicked")).map(str::to_owned));
        harm
    }
}

/// An answer without what changes by itself.
fn shown(answer: &vestibule_scenery::Answer) -> String {
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    without_passing(&mut body);
    format!("{} {body}", answer.status)
}

fn without_passing(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for passing in ["age", "next_batch", "prev_batch", "start", "end", "last_seen_ts", "last_seen_ip"] {
                fields.remove(passing);
            }
            fields.values_mut().for_each(without_passing);
        }
        Value::Array(items) => items.iter_mut().for_each(without_passing),
        _ => {}
    }
}
