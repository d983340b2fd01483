//! Another homeserver: it publishes its keys over TLS, signs its requests, knocks and leaves for its users, and is the server
//! of rooms that Vestibule's users ask to be let into.
//! May not: be the judge of signatures and ids. It builds them with our own crates; `tests/interop/` judges.

mod foul_play;

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use ruma::{CanonicalJsonObject, RoomVersionId};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use vestibule::clock::SystemClock;
use vestibule_protocol::{
    clock::Clock as _,
    pdu::checks::event_id_of,
    room_version::RoomVersion,
    signing::{Identity, SigningKey},
};

use super::{
    authority::server_config,
    hosted_room::{HostedRoom, json_of},
    http::{Answer, Connection, decoded, encoded},
    server::{SERVER_NAME, TestServer},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One server with a name and a key. A clone is the same server.
#[derive(Clone)]
pub struct FakePeer {
    inner: Arc<Inner>,
    address: SocketAddr,
}

struct Inner {
    name: String,
    identity: Identity,
    key_requests: AtomicUsize,
    transactions: AtomicUsize,
    is_down: AtomicBool,
    script: Mutex<Script>,
    /// Shared by all who are in them.
    rooms: Rooms,
}

type Rooms = Arc<Mutex<BTreeMap<String, HostedRoom>>>;

/// How the peer behaves, and what it saw.
#[derive(Default)]
struct Script {
    /// What is answered in place of the ordinary answer, by endpoint.
    answers: BTreeMap<String, (u16, Value)>,
    /// What happens before an endpoint answers.
    before: BTreeMap<String, Arc<dyn Fn() + Send + Sync>>,
    /// What is made of the answer in the end.
    changes: BTreeMap<String, foul_play::Change>,
    /// How the body of the answer is written in the end, if not as it is.
    texts: BTreeMap<String, foul_play::Text>,
    /// What is written in place of an answer.
    raw: BTreeMap<String, foul_play::Raw>,
    aliases: BTreeMap<String, String>,
    profiles: BTreeMap<String, Value>,
    seen: Vec<Seen>,
    /// Answers by the word of the endpoint, as they were before they were written.
    told: Vec<(String, Value)>,
}

/// A request that somebody made of the peer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The word of the endpoint, such as `make_knock`.
    pub endpoint: String,
    /// Path and query as they came.
    pub target: String,
    pub body: Value,
}

/// What `make_knock` or `make_leave` answered.
#[derive(Clone, Debug)]
pub struct Template {
    pub version: RoomVersion,
    pub event: Value,
}

/// An event with hashes, signature and the id that follows from them.
#[derive(Clone, Debug)]
pub struct SignedEvent {
    pub event_id: String,
    pub event: CanonicalJsonObject,
}

impl FakePeer {
    /// Listens on a loopback address that no other test needs to know.
    pub fn new(name: &str) -> Self {
        Self::with_key(name, "1")
    }

    /// The same with another version of its key.
    pub fn with_key(name: &str, version: &str) -> Self {
        Self::in_rooms(name, version, Self::socket(), Rooms::default())
    }

    /// The same where somebody has chosen to listen.
    pub fn listening(name: &str, version: &str, listener: TcpListener) -> Self {
        Self::in_rooms(name, version, listener, Rooms::default())
    }

    /// A server whose name is where it listens, so that nobody has to be told.
    pub fn by_address() -> Self {
        let listener = Self::socket();
        Self::listening(&listener.local_addr().unwrap().to_string(), "1", listener)
    }

    /// Another server that is in all rooms of this one, and answers for them as well.
    pub fn beside(&self, name: &str) -> Self {
        Self::in_rooms(name, "1", Self::socket(), self.inner.rooms.clone())
    }

    fn socket() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn in_rooms(name: &str, version: &str, listener: TcpListener, rooms: Rooms) -> Self {
        let address = listener.local_addr().unwrap();
        let mut seed = [0; 32];
        vestibule::randomness::os_random(&mut seed).unwrap();
        let key = SigningKey::from_seed(version, &seed).unwrap();
        let identity = Identity::new(name.try_into().unwrap(), key);
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        let inner = Arc::new(Inner {
            name: name.to_owned(),
            identity,
            key_requests: AtomicUsize::new(0),
            transactions: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            script: Mutex::default(),
            rooms,
        });
        // A certificate names the host alone, also of a server that is named by address and port.
        let tls = server_config(host);
        let answering = inner.clone();
        // Ends with the process: it holds nothing but a socket.
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (inner, tls) = (answering.clone(), tls.clone());
                thread::spawn(move || inner.converse(tcp, tls));
            }
        });
        Self { inner, address }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often somebody asked for our keys.
    pub fn key_requests(&self) -> usize {
        self.inner.key_requests.load(Ordering::SeqCst)
    }

    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name())
    }

    /// The `Authorization` header of a request.
    pub fn authorization(&self, method: &str, target: &str, content: Option<&CanonicalJsonObject>) -> String {
        self.authorization_for(SERVER_NAME, method, target, content)
    }

    /// The same of a request to another server.
    pub fn authorization_for(
        &self,
        destination: &str,
        method: &str,
        target: &str,
        content: Option<&CanonicalJsonObject>,
    ) -> String {
        let mut signed = json!({
            "method": method, "uri": target, "origin": self.name(), "destination": destination,
        });
        if let Some(content) = content {
            signed["content"] = serde_json::to_value(content).unwrap();
        }
        let mut signed: CanonicalJsonObject = serde_json::from_value(signed).unwrap();
        self.inner.identity.sign_json(&mut signed).unwrap();
        let signed = serde_json::to_value(&signed).unwrap();
        let key = self.inner.identity.key().key_id();
        let signature = signed["signatures"][self.name()][key.as_str()].as_str().unwrap();
        let name = self.name();
        format!(r#"X-Matrix origin="{name}",destination="{destination}",key="{key}",sig="{signature}""#)
    }

    /// A signed request on a connection that stays.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn ask_on(
        &self,
        connection: &mut Connection,
        method: &str,
        target: &str,
        content: Option<&CanonicalJsonObject>,
    ) -> io::Result<Answer> {
        let authorization = self.authorization(method, target, content);
        let body = content.map(|content| serde_json::to_string(content).unwrap());
        connection.ask(method, target, &[("Authorization", &authorization)], body.as_ref().map(String::as_bytes))
    }

    /// A signed request on a connection of its own.
    #[track_caller]
    pub fn ask(
        &self,
        server: &TestServer,
        method: &str,
        target: &str,
        content: Option<&CanonicalJsonObject>,
    ) -> Answer {
        let mut connection = server.federation().connect().unwrap();
        self.ask_on(&mut connection, method, target, content).unwrap()
    }

    #[track_caller]
    pub fn make_knock(&self, server: &TestServer, room_id: &str, user_id: &str) -> Answer {
        let offered = "ver=6&ver=7&ver=8&ver=9&ver=10&ver=11&ver=12";
        let target = format!("{}?{offered}", path_of("v1/make_knock", room_id, user_id));
        self.ask(server, "GET", &target, None)
    }

    #[track_caller]
    pub fn knock_template(&self, server: &TestServer, room_id: &str, user_id: &str) -> Template {
        Template::of(self.make_knock(server, room_id, user_id).ok())
    }

    #[track_caller]
    pub fn leave_template(&self, server: &TestServer, room_id: &str, user_id: &str) -> Template {
        let target = path_of("v1/make_leave", room_id, user_id);
        Template::of(self.ask(server, "GET", &target, None).ok())
    }

    #[track_caller]
    pub fn send_knock(&self, server: &TestServer, room_id: &str, knock: &SignedEvent) -> Answer {
        let target = send_knock_target(room_id, &knock.event_id);
        self.ask(server, "PUT", &target, Some(&knock.event))
    }

    #[track_caller]
    pub fn send_leave(&self, server: &TestServer, room_id: &str, leave: &SignedEvent) -> Answer {
        let target = path_of("v2/send_leave", room_id, &leave.event_id);
        self.ask(server, "PUT", &target, Some(&leave.event))
    }

    /// Template, signature, delivery: 200, or the test fails.
    #[track_caller]
    pub fn knock(&self, server: &TestServer, room_id: &str, user_id: &str, reason: &str) -> SignedEvent {
        let knock = self.sign(self.knock_template(server, room_id, user_id).with_reason(reason));
        self.send_knock(server, room_id, &knock).ok();
        knock
    }

    /// Takes a knock back.
    #[track_caller]
    pub fn retract(&self, server: &TestServer, room_id: &str, user_id: &str) {
        let leave = self.sign(self.leave_template(server, room_id, user_id));
        self.send_leave(server, room_id, &leave).ok();
    }

    /// Template, signature, delivery: enters a room of the server's.
    #[track_caller]
    pub fn join(&self, server: &TestServer, room_id: &str, user_id: &str) -> Answer {
        let offered = "ver=6&ver=7&ver=8&ver=9&ver=10&ver=11&ver=12";
        let target = format!("{}?{offered}", path_of("v1/make_join", room_id, user_id));
        let join = self.sign(Template::of(self.ask(server, "GET", &target, None).ok()));
        let target = path_of("v2/send_join", room_id, &join.event_id);
        self.ask(server, "PUT", &target, Some(&join.event))
    }

    /// Signs an event for a room of that version.
    #[track_caller]
    pub fn sign_for(&self, version: &str, event: Value) -> SignedEvent {
        let version = RoomVersion::lookup(&RoomVersionId::try_from(version).unwrap()).unwrap();
        self.sign(Template { version, event })
    }

    /// Makes a room of a user of this server; its id.
    #[track_caller]
    pub fn host(&self, owner: &str, version: &str, join_rule: Value) -> String {
        self.keep(HostedRoom::new(&self.inner.identity, &self.user(owner), version, &join_rule))
    }

    /// The same without an event that gives powers.
    #[track_caller]
    pub fn host_without_levels(&self, owner: &str, version: &str, join_rule: Value) -> String {
        self.keep(HostedRoom::without_levels(&self.inner.identity, &self.user(owner), version, &join_rule))
    }

    fn keep(&self, room: HostedRoom) -> String {
        let room_id = room.room_id.to_string();
        self.inner.rooms().insert(room_id.clone(), room);
        room_id
    }

    /// From now on an endpoint, by its word, answers so whatever it is asked.
    pub fn answer_with(&self, endpoint: &str, status: u16, body: Value) {
        self.inner.script().answers.insert(endpoint.to_owned(), (status, body));
    }

    /// From now on an endpoint refuses with this errcode.
    pub fn refuse(&self, endpoint: &str, status: u16, errcode: &str) {
        self.answer_with(endpoint, status, json!({ "errcode": errcode, "error": "as the script says" }));
    }

    /// An endpoint answers in its own way again.
    pub fn behave(&self, endpoint: &str) {
        self.inner.script().answers.remove(endpoint);
    }

    /// Does something each time before an endpoint answers, when its change is made already.
    pub fn before_answering(&self, endpoint: &str, act: impl Fn() + Send + Sync + 'static) {
        self.inner.script().before.insert(endpoint.to_owned(), Arc::new(act));
    }

    /// Breaks off every connection, or no more.
    pub fn set_down(&self, is_down: bool) {
        self.inner.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Says which room an alias of this server names.
    pub fn name_room(&self, alias: &str, room_id: &str) {
        self.inner.script().aliases.insert(alias.to_owned(), room_id.to_owned());
    }

    /// Gives a user of this server a profile.
    pub fn set_profile(&self, user_id: &str, profile: Value) {
        self.inner.script().profiles.insert(user_id.to_owned(), profile);
    }

    /// The requests that an endpoint was asked, oldest first.
    pub fn seen(&self, endpoint: &str) -> Vec<Seen> {
        self.inner.script().seen.iter().filter(|seen| seen.endpoint == endpoint).cloned().collect()
    }

    /// What an endpoint answered, oldest first; not what was written in place of an answer.
    pub fn told(&self, endpoint: &str) -> Vec<Value> {
        let script = self.inner.script();
        script.told.iter().filter(|(known, _)| known == endpoint).map(|(_, answer)| answer.clone()).collect()
    }

    /// The events that transactions brought, oldest first.
    pub fn received(&self) -> Vec<Value> {
        let pdus = self.seen("send").into_iter().filter_map(|seen| seen.body["pdus"].as_array().cloned());
        pdus.flatten().collect()
    }

    /// The EDUs of a type that transactions brought, oldest first.
    pub fn received_edus(&self, kind: &str) -> Vec<Value> {
        let edus = self.seen("send").into_iter().filter_map(|seen| seen.body["edus"].as_array().cloned());
        edus.flatten().filter(|edu| edu["edu_type"] == kind).map(|edu| edu["content"].clone()).collect()
    }

    /// What a user is to a hosted room.
    #[track_caller]
    pub fn membership(&self, room_id: &str, user_id: &str) -> String {
        let user_id = ruma::UserId::parse(user_id).unwrap();
        self.in_room(room_id, |room, _| room.state().membership(&user_id).to_string())
    }

    /// Invites a user into a hosted room. The event stands in the room, and its server is told.
    #[track_caller]
    pub fn invite(&self, server: &TestServer, room_id: &str, user_id: &str) -> Answer {
        self.invite_at(&mut server.federation().connect().unwrap(), room_id, user_id)
    }

    /// The same on a connection.
    #[track_caller]
    pub fn invite_at(&self, connection: &mut Connection, room_id: &str, user_id: &str) -> Answer {
        let (event, body) = self.in_room(room_id, |room, identity| {
            let shown = room.shown();
            let owner = room.owner.clone();
            let content = json!({ "membership": "invite" });
            let event = room.append(identity, &owner, "m.room.member", Some(user_id), &content);
            let body = json!({ "room_version": room.version(), "event": json_of(&event), "invite_room_state": shown });
            (event, body)
        });
        let target = path_of("v2/invite", room_id, event.event_id().as_str());
        let body: CanonicalJsonObject = serde_json::from_value(body).unwrap();
        self.ask_on(connection, "PUT", &target, Some(&body)).unwrap()
    }

    /// Turns a user out of a hosted room, `leave` or `ban`, and tells that user's server. The event.
    #[track_caller]
    pub fn turn_out(&self, server: &TestServer, room_id: &str, user_id: &str, membership: &str) -> Value {
        let content = json!({ "membership": membership, "reason": "not now" });
        let event = self.append(room_id, "m.room.member", Some(user_id), &content);
        self.send(server, std::slice::from_ref(&event)).ok();
        event
    }

    /// An event of the owner at the end of a hosted room, which nobody is told of yet.
    #[track_caller]
    pub fn append(&self, room_id: &str, kind: &str, state_key: Option<&str>, content: &Value) -> Value {
        self.in_room(room_id, |room, identity| {
            let owner = room.owner.clone();
            json_of(&room.append(identity, &owner, kind, state_key, content))
        })
    }

    /// Sends events in a transaction.
    #[track_caller]
    pub fn send(&self, server: &TestServer, pdus: &[Value]) -> Answer {
        self.send_transaction(server, pdus, &[])
    }

    /// Sends EDUs in a transaction.
    #[track_caller]
    pub fn send_edus(&self, server: &TestServer, edus: &[Value]) -> Answer {
        self.send_transaction(server, &[], edus)
    }

    #[track_caller]
    fn send_transaction(&self, server: &TestServer, pdus: &[Value], edus: &[Value]) -> Answer {
        let number = self.inner.transactions.fetch_add(1, Ordering::SeqCst);
        let target = format!("/_matrix/federation/v1/send/{}-{number}", now_ms());
        let body = json!({ "origin": self.name(), "origin_server_ts": now_ms(), "pdus": pdus, "edus": edus });
        self.ask(server, "PUT", &target, Some(&serde_json::from_value(body).unwrap()))
    }

    #[track_caller]
    fn in_room<T>(&self, room_id: &str, act: impl FnOnce(&mut HostedRoom, &Identity) -> T) -> T {
        let mut rooms = self.inner.rooms();
        act(rooms.get_mut(room_id).expect("the peer has this room"), &self.inner.identity)
    }

    /// Hashes, signs and names an event.
    #[track_caller]
    pub fn sign(&self, template: Template) -> SignedEvent {
        let Template { version, mut event } = template;
        event["origin"] = json!(self.name());
        event["origin_server_ts"] = event.get("origin_server_ts").cloned().unwrap_or_else(|| json!(now_ms()));
        let mut event: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        self.inner.identity.hash_and_sign(&mut event, version.rules()).unwrap();
        let event_id = event_id_of(&event, &version).unwrap().to_string();
        SignedEvent { event_id, event }
    }
}

impl Template {
    #[track_caller]
    pub fn of(answer: Value) -> Self {
        let version = answer["room_version"].as_str().unwrap_or_else(|| panic!("no room_version in {answer}"));
        let version = RoomVersion::lookup(&RoomVersionId::try_from(version).unwrap()).unwrap();
        Self { version, event: answer["event"].clone() }
    }

    pub fn with_reason(mut self, reason: &str) -> Self {
        self.event["content"]["reason"] = json!(reason);
        self
    }

    /// The same template with another value at a top-level key.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.event[key] = value;
        self
    }

    /// The same template for another user.
    pub fn for_user(self, user_id: &str) -> Self {
        self.with("sender", json!(user_id)).with("state_key", json!(user_id))
    }
}

/// Path of a membership handshake.
pub fn path_of(endpoint: &str, room_id: &str, last: &str) -> String {
    format!("/_matrix/federation/{endpoint}/{}/{}", encoded(room_id), encoded(last))
}

/// Path of `send_knock`.
pub fn send_knock_target(room_id: &str, event_id: &str) -> String {
    path_of("v1/send_knock", room_id, event_id)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemClock::start().now().0
}

impl Inner {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<String, HostedRoom>> {
        self.rooms.lock().unwrap()
    }

    /// Whatever is asked on one connection, until it ends.
    fn converse(&self, tcp: TcpStream, tls: Arc<ServerConfig>) {
        let Ok(session) = ServerConnection::new(tls) else { return };
        let mut stream = BufReader::new(StreamOwned::new(session, tcp));
        while let Some(request) = read_request(&mut stream) {
            if self.is_down.load(Ordering::SeqCst) {
                return;
            }
            let (status, body) = self.answer(&request);
            let endpoint = endpoint_of(&request.target);
            let (raw, text) = {
                let script = self.script();
                (script.raw.get(&endpoint).cloned(), script.texts.get(&endpoint).cloned())
            };
            if let Some(write) = raw {
                // Whoever asked may have hung up in the middle of it.
                let _ = write(stream.get_mut());
                return;
            }
            let written = text.map_or_else(|| body.to_string().into_bytes(), |text| text(&body));
            self.script().told.push((endpoint, body));
            let head = format!(
                "HTTP/1.1 {status} As It Is\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                written.len()
            );
            let out = stream.get_mut();
            if out.write_all(&[head.as_bytes(), &written].concat()).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> (u16, Value) {
        let (status, body) = self.honest_answer(request);
        let change = self.script().changes.get(&endpoint_of(&request.target)).cloned();
        (status, if let Some(change) = change { change(body) } else { body })
    }

    fn honest_answer(&self, request: &Request) -> (u16, Value) {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if path == "/_matrix/key/v2/server" {
            self.key_requests.fetch_add(1, Ordering::SeqCst);
            return (200, self.key_document());
        }
        let parts = words_of(path);
        let Some((endpoint, arguments)) = parts.split_first() else { return not_here() };
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let seen = Seen { endpoint: endpoint.clone(), target: request.target.clone(), body: body.clone() };
        self.script().seen.push(seen);
        let scripted = self.script().answers.get(endpoint).cloned();
        let answer = scripted.unwrap_or_else(|| self.ordinary_answer(endpoint, arguments, query, body));
        let before = self.script().before.get(endpoint).cloned();
        if let Some(act) = before {
            act();
        }
        answer
    }

    fn ordinary_answer(&self, endpoint: &str, arguments: &[String], query: &str, body: Value) -> (u16, Value) {
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
        };
        match (endpoint, arguments) {
            ("directory", _) => {
                let alias = parameter("room_alias").unwrap_or_default();
                let room_id = self.script().aliases.get(&alias).cloned();
                room_id.map_or_else(not_here, |room_id| (200, json!({ "room_id": room_id, "servers": [self.name] })))
            }
            ("profile", _) => {
                let profile = self.script().profiles.get(&parameter("user_id").unwrap_or_default()).cloned();
                profile.map_or_else(not_here, |profile| (200, profile))
            }
            ("send", _) => {
                self.take_in(&body);
                (200, json!({ "pdus": {} }))
            }
            // An invite into a room of Vestibule's: the peer adds its signature, as the invited user's server.
            ("invite", [_, _]) => {
                let version = RoomVersionId::try_from(body["room_version"].as_str().unwrap_or_default()).unwrap();
                let mut event: CanonicalJsonObject = serde_json::from_value(body["event"].clone()).unwrap();
                let rules = RoomVersion::lookup(&version).unwrap();
                self.identity.hash_and_sign(&mut event, rules.rules()).unwrap();
                (200, json!({ "event": event }))
            }
            (_, [room_id, last]) => {
                let mut rooms = self.rooms();
                let Some(room) = rooms.get_mut(room_id) else { return not_here() };
                self.in_hosted_room(room, endpoint, last, body)
            }
            ("backfill", [room_id]) => {
                let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10);
                let from = parameter("v").unwrap_or_default();
                let rooms = self.rooms();
                let Some(room) = rooms.get(room_id) else { return not_here() };
                let pdus = room.back_from(&from, limit);
                (200, json!({ "origin": self.name, "origin_server_ts": now_ms(), "pdus": pdus }))
            }
            ("event", [event_id]) => {
                let found = self.rooms().values().find_map(|room| room.event(event_id));
                let answer = |event| json!({ "origin": self.name, "origin_server_ts": now_ms(), "pdus": [event] });
                found.map_or_else(not_here, |event| (200, answer(event)))
            }
            _ => not_here(),
        }
    }

    fn in_hosted_room(&self, room: &mut HostedRoom, endpoint: &str, last: &str, body: Value) -> (u16, Value) {
        match endpoint {
            "make_knock" => (200, room.template(&self.identity, last, "knock")),
            "make_join" => (200, room.template(&self.identity, last, "join")),
            "make_leave" => (200, room.template(&self.identity, last, "leave")),
            "send_knock" | "send_join" | "send_leave" => {
                let (state, auth_chain) = room.state_and_auth_chain();
                let shown = room.shown();
                let mut event: CanonicalJsonObject = serde_json::from_value(body).unwrap_or_default();
                if endpoint == "send_join" {
                    event = room.vouched(&self.identity, event);
                }
                let event = match room.receive(event) {
                    Ok(event) if event.event_id() == last => event,
                    other => {
                        let words = format!("not that event: {other:?}");
                        return (400, json!({ "errcode": "M_INVALID_PARAM", "error": words }));
                    }
                };
                match endpoint {
                    "send_knock" => (200, json!({ "knock_room_state": shown })),
                    "send_leave" => (200, json!({})),
                    _ => (
                        200,
                        json!({
                            "origin": self.name, "event": json_of(&event), "state": state, "auth_chain": auth_chain,
                            "members_omitted": false, "servers_in_room": [self.name],
                        }),
                    ),
                }
            }
            _ => not_here(),
        }
    }

    /// Events of a transaction go to the ends of their rooms, if the rooms are here.
    fn take_in(&self, transaction: &Value) {
        let mut rooms = self.rooms();
        for pdu in transaction["pdus"].as_array().into_iter().flatten() {
            if let Some(room) = pdu["room_id"].as_str().and_then(|room_id| rooms.get_mut(room_id)) {
                room.receive(serde_json::from_value(pdu.clone()).unwrap()).unwrap();
            }
        }
    }

    fn key_document(&self) -> Value {
        let key = self.identity.key();
        let document = json!({
            "server_name": self.name,
            "verify_keys": { key.key_id().as_str(): { "key": key.public_key_base64().encode() } },
            "old_verify_keys": {},
            "valid_until_ts": now_ms() + DAY_MS,
        });
        let mut document: CanonicalJsonObject = serde_json::from_value(document).unwrap();
        self.identity.sign_json(&mut document).unwrap();
        serde_json::to_value(&document).unwrap()
    }
}

/// The word of an endpoint, and what follows it in a path.
fn words_of(path: &str) -> Vec<String> {
    if let Some(keys) = path.strip_prefix("/_matrix/key/v2/") {
        return keys.split('/').map(decoded).collect();
    }
    let path = path.strip_prefix("/_matrix/federation/").unwrap_or_default();
    let mut parts: Vec<String> = path.split('/').map(decoded).collect();
    // `v1/query/directory` is known by its last word, all others by the one after the version.
    parts.drain(..if parts.get(1).is_some_and(|word| word == "query") { 2 } else { 1 });
    parts
}

fn endpoint_of(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    words_of(path).into_iter().next().unwrap_or_default()
}

struct Request {
    /// Path and query.
    target: String,
    body: Vec<u8>,
}

/// `None` when the connection ends.
fn read_request(stream: &mut BufReader<StreamOwned<ServerConnection, TcpStream>>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).unwrap_or(0) == 0 {
        return None;
    }
    let target = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request { target, body })
}

fn not_here() -> (u16, Value) {
    (404, json!({ "errcode": "M_NOT_FOUND", "error": "not here" }))
}
