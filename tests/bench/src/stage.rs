//! Who is measured: a running server with an owner of rooms, and the servers that knock on them.
//! May not: differ between Vestibule and Synapse in anything but the process: the same peers, rooms and requests.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};
use vestibule_scenery::{FakePeer, Http, TestServer, authority_pem, client_config};

use crate::{process::Process, report::US};

/// Servers that knock.
const PEERS: usize = 4;
/// Of all rooms.
const ROOM_VERSION: &str = "12";

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

/// A server, its owner of rooms, and its peers.
pub struct Stage {
    place: Place,
    /// What it calls itself.
    pub server_name: String,
    pub federation: Http,
    pub client: Owner,
    /// Somebody else with rooms. Synapse has nobody.
    pub noisy: Option<Owner>,
    pub peers: Arc<[FakePeer]>,
}

/// The process that is measured.
enum Place {
    Vestibule(Box<TestServer>),
    Synapse(Synapse),
}

/// A user with rooms.
#[derive(Clone)]
pub struct Owner {
    pub door: Http,
    token: String,
}

impl Owner {
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let bearer = format!("Bearer {}", self.token);
        let body = (method != "GET").then(|| body.to_string());
        let answer = self.door.ask(
            method,
            &format!("/_matrix/client/v3{path}"),
            &[("Authorization", &bearer)],
            body.as_deref().map(str::as_bytes),
        );
        if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{path}: {}", answer.text())) }
    }

    /// A private room on which anybody may knock.
    pub fn room(&self) -> Result<String, String> {
        let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
        let body = json!({ "room_version": ROOM_VERSION, "name": "Otters", "initial_state": [rule] });
        let made = self.ask("POST", "/createRoom", &body)?;
        made["room_id"].as_str().map(str::to_owned).ok_or_else(|| format!("no room: {made}"))
    }
}

impl Stage {
    /// Vestibule with limits that no scenario meets.
    pub fn vestibule(program: PathBuf, has_tls: bool) -> Self {
        let server = TestServer::of(program)
            .set("listener.1.tls", if has_tls { "true" } else { "false" })
            .set("knock.max_pending_per_room", "1000000")
            .set("knock.max_pending_per_origin_in_room", "1000000")
            .start();
        let owner = server.register("owner");
        let client = Owner { door: server.client(), token: owner.token };
        let noisy = Some(Owner { door: server.client(), token: server.register("noisy").token });
        let (server_name, federation) = (server.name().to_owned(), server.federation());
        Self { place: Place::Vestibule(Box::new(server)), server_name, federation, client, noisy, peers: peers() }
    }

    /// Synapse with its limits off, over TLS.
    pub fn synapse(python: &Path) -> Result<Self, String> {
        let (synapse, about) = Synapse::start(python)?;
        let text = |key: &str| about[key].as_str().map(str::to_owned).ok_or_else(|| format!("no {key} in {about}"));
        let address = |key: &str| text(key)?.parse().map_err(|error| format!("{key}: {error}"));
        let tls = Some(client_config(Path::new(&text("trusted")?)));
        Ok(Self {
            server_name: text("server_name")?,
            federation: Http { address: address("federation")?, tls },
            client: Owner { door: Http::plain(address("client")?), token: text("token")? },
            noisy: None,
            place: Place::Synapse(synapse),
            peers: peers(),
        })
    }

    /// What is measured.
    pub fn about(&self) -> String {
        match &self.place {
            Place::Vestibule(_) => US.to_owned(),
            Place::Synapse(synapse) => synapse.about.clone(),
        }
    }

    pub fn process(&self) -> Process {
        Process::new(match &self.place {
            Place::Vestibule(server) => server.pid(),
            Place::Synapse(synapse) => synapse.pid,
        })
    }

    pub fn peer(&self, number: usize) -> &FakePeer {
        &self.peers[number % self.peers.len()]
    }

    /// How often the journal was synced so far, and for how many commits, as the server counts it. Synapse has none.
    pub fn journal(&self) -> Journal {
        let Place::Vestibule(server) = &self.place else { return Journal { syncs: f64::NAN, commits: f64::NAN } };
        let metrics = server.ask_admin("/metrics").text();
        let count = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|count| count.trim().parse().ok()).unwrap_or(f64::NAN)
        };
        Journal { syncs: count("vestibule_journal_syncs_total "), commits: count("vestibule_journal_commits_total ") }
    }
}

/// Servers that are named by where they listen, so that everybody finds them.
fn peers() -> Arc<[FakePeer]> {
    (0..PEERS).map(|_| FakePeer::by_address()).collect()
}

/// Synapse as a child, which ends when its standard input does.
struct Synapse {
    child: Child,
    pid: u32,
    about: String,
}

impl Synapse {
    fn start(python: &Path) -> Result<(Self, Value), String> {
        let home = tempfile::tempdir().map_err(|error| error.to_string())?;
        let authority = home.path().join("authority.pem");
        std::fs::write(&authority, authority_pem()).map_err(|error| error.to_string())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop/measured_synapse.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(&authority)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        }
        let about: Value = serde_json::from_str(&line).map_err(|error| format!("Synapse did not start: {error}"))?;
        let pid = about["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        let words = about["about"].as_str().unwrap_or_default().to_owned();
        Ok((Self { child, pid, about: words }, about))
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Whatever its end was, it has ended.
        let _ = self.child.wait();
    }
}
