//! Another homeserver: it publishes its keys over TLS, signs its requests, and knocks and leaves for its users.
//! May not: be the judge of signatures and ids. It builds them with our own crates; `tests/interop/` judges.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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
    http::{Answer, Connection, encoded},
    server::{SERVER_NAME, TestServer},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One server with a name and a key.
pub struct FakePeer {
    inner: Arc<Inner>,
    address: SocketAddr,
}

struct Inner {
    name: String,
    identity: Identity,
    key_requests: AtomicUsize,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut seed = [0; 32];
        vestibule::randomness::os_random(&mut seed).unwrap();
        let key = SigningKey::from_seed("1", &seed).unwrap();
        let identity = Identity::new(name.try_into().unwrap(), key);
        let inner = Arc::new(Inner { name: name.to_owned(), identity, key_requests: AtomicUsize::new(0) });
        let tls = server_config(name);
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
        let mut signed = json!({
            "method": method, "uri": target, "origin": self.name(), "destination": SERVER_NAME,
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
        format!(r#"X-Matrix origin="{name}",destination="{SERVER_NAME}",key="{key}",sig="{signature}""#)
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
    /// Whatever is asked on one connection, until it ends.
    fn converse(&self, tcp: TcpStream, tls: Arc<ServerConfig>) {
        let Ok(session) = ServerConnection::new(tls) else { return };
        let mut stream = BufReader::new(StreamOwned::new(session, tcp));
        loop {
            let mut first = String::new();
            let mut line = String::new();
            if stream.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
            }
            let (status, body) = if first.starts_with("GET /_matrix/key/v2/server") {
                self.key_requests.fetch_add(1, Ordering::SeqCst);
                ("200 OK", self.key_document())
            } else {
                ("404 Not Found", json!({ "errcode": "M_UNRECOGNIZED", "error": "not here" }).to_string())
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let out = stream.get_mut();
            if out.write_all(format!("{head}{body}").as_bytes()).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }

    fn key_document(&self) -> String {
        let key = self.identity.key();
        let document = json!({
            "server_name": self.name,
            "verify_keys": { key.key_id().as_str(): { "key": key.public_key_base64().encode() } },
            "old_verify_keys": {},
            "valid_until_ts": now_ms() + DAY_MS,
        });
        let mut document: CanonicalJsonObject = serde_json::from_value(document).unwrap();
        self.identity.sign_json(&mut document).unwrap();
        serde_json::to_string(&document).unwrap()
    }
}
