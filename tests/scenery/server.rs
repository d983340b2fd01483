//! The program as a process on a data directory of its own: started, stopped, killed, started again, and asked by commands.
//! May not: leave a process behind, or let a panic of the server go unnoticed.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    authority::{authority_pem, client_config},
    http::{Answer, Http},
    peer::FakePeer,
    user::User,
    wait::until,
};

/// From the start of the process to its `ready:` line, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// For a command to end, on a busy machine.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// What the server calls itself.
pub const SERVER_NAME: &str = "vestibule.test";

/// Password of every user that [`TestServer::register`] makes.
pub const PASSWORD: &str = "correct horse battery staple";

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Code 0; standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Another code, and what standard error has to say.
    #[track_caller]
    pub fn refused(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "no “{words}” in {self:?}");
    }
}

/// Where the listeners are; shared with users, who outlive a restart.
#[derive(Clone, Default)]
pub struct Doors(Arc<Mutex<Option<Listeners>>>);

#[derive(Clone)]
struct Listeners {
    client: Http,
    federation: Http,
    admin: Http,
}

impl Doors {
    #[track_caller]
    fn get(&self) -> Listeners {
        self.0.lock().unwrap().clone().expect("the server runs")
    }

    #[track_caller]
    pub fn client(&self) -> Http {
        self.get().client
    }

    #[track_caller]
    pub fn federation(&self) -> Http {
        self.get().federation
    }
}

struct Running {
    child: Child,
    /// The server itself, which is a child of the child when something watches it.
    pid: u32,
    reader: thread::JoinHandle<()>,
}

/// A server and its data directory.
pub struct TestServer {
    program: PathBuf,
    home: TempDir,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    /// Words before the program's own, such as a tracer.
    wrapper: Vec<String>,
    doors: Doors,
    log: Arc<Mutex<String>>,
    running: Option<Running>,
}

impl TestServer {
    /// A server that is not started yet, with no rates and open registration.
    #[track_caller]
    #[expect(
        clippy::new_without_default,
        reason = "outside of `cargo test` there is no program, and that is no default"
    )]
    pub fn new() -> Self {
        Self::of(std::env::var_os("CARGO_BIN_EXE_vestibule").expect("`cargo test` says where the program is"))
    }

    /// The same with the program from somewhere else.
    pub fn of(program: impl Into<PathBuf>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = home.path().join("authority.pem");
        fs::write(&authority, authority_pem()).unwrap();
        let server = Self {
            program: program.into(),
            home,
            settings: Vec::new(),
            environment: vec![("RUST_LOG".to_owned(), "info,actix_server=warn,ruma_state_res=warn".to_owned())],
            wrapper: Vec::new(),
            doors: Doors::default(),
            log: Arc::default(),
            running: None,
        };
        let trusted = format!("[{:?}]", authority.to_str().unwrap());
        server
            .set("server_name", &format!("{SERVER_NAME:?}"))
            .set("listener.0.address", "127.0.0.1:0")
            .set("listener.1.address", "127.0.0.1:0")
            .set("listener.2.address", "127.0.0.1:0")
            .set("registration.open", "true")
            .set("rate_limit.enabled", "false")
            .set("federation.allowed_ip_ranges", "[\"127.0.0.0/8\"]")
            .set("federation.trusted_ca_files", &trusted)
    }

    /// A running server.
    #[track_caller]
    pub fn started() -> Self {
        Self::new().start()
    }

    /// Another `--set`; a later one for the same key counts.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.change(key, Some(value));
        self
    }

    /// Sets a key for the next start, or takes a setting away.
    pub fn change(&mut self, key: &str, value: Option<&str>) {
        self.settings.retain(|(known, _)| known != key);
        if let Some(value) = value {
            self.settings.push((key.to_owned(), value.to_owned()));
        }
    }

    /// A variable of the program's environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the program under another.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Tells the server where these peers are.
    pub fn knowing(self, peers: &[&FakePeer]) -> Self {
        let addresses: Vec<String> =
            peers.iter().map(|peer| format!("{:?} = \"{}\"", peer.name(), peer.address())).collect();
        self.set("federation.server_addresses", &format!("{{ {} }}", addresses.join(", ")))
    }

    /// Starts, and waits for the `ready:` line.
    #[track_caller]
    pub fn start(mut self) -> Self {
        self.restart();
        self
    }

    /// Starts again on the same directory, and waits for the `ready:` line.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let mut child = self.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, ready) = mpsc::channel();
        let log = self.log.clone();
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let announced = line.strip_prefix("ready: listening on ").map(str::to_owned);
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
                drop(log);
                if let Some(listeners) = announced {
                    // Nobody waits any more when the deadline has passed.
                    let _ = sender.send(listeners);
                }
            }
        });
        let pid = child.id();
        self.running = Some(Running { child, pid, reader });
        let listeners = match ready.recv_timeout(READY_WITHIN) {
            Ok(listeners) => listeners,
            Err(RecvTimeoutError::Timeout) => panic!("not ready within {READY_WITHIN:?}: {}", self.log()),
            Err(RecvTimeoutError::Disconnected) => panic!("ended before it was ready: {}", self.log()),
        };
        if !self.wrapper.is_empty() {
            let running = self.running.as_mut().unwrap();
            running.pid = only_child_of(pid);
        }
        *self.doors.0.lock().unwrap() = Some(self.parse(&listeners));
    }

    fn parse(&self, ready: &str) -> Listeners {
        let mut found: Vec<(SocketAddr, Vec<String>)> = Vec::new();
        for part in ready.split_inclusive(')') {
            let (address, words) = part.trim_start_matches(", ").trim_end_matches(')').split_once(" (").unwrap();
            found.push((address.parse().unwrap(), words.split(", ").map(str::to_owned).collect()));
        }
        let door = |word: &str| {
            let has = |words: &[String], word: &str| words.iter().any(|known| known == word);
            let (address, words) = found.iter().find(|(_, words)| has(words, word)).expect(ready);
            let certificate = self.data_dir().join("self_signed_cert.pem");
            Http { address: *address, tls: has(words, "tls").then(|| client_config(&certificate)) }
        };
        Listeners { client: door("client"), federation: door("federation"), admin: door("admin") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.wrapper.iter().map(OsStr::new).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("VESTIBULE_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.home.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Runs the program with the same settings to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with_input(arguments, "")
    }

    /// The same with standard input.
    #[track_caller]
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command, input)
    }

    /// Lets the program end by SIGTERM. Its exit code and how long it took.
    #[track_caller]
    pub fn stop(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        send_signal("TERM", self.pid());
        let code = self.ended();
        (code, begun.elapsed())
    }

    /// The server's process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").pid
    }

    /// Waits for the end of the process; its exit code.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        let mut running = self.running.take().expect("it runs");
        *self.doors.0.lock().unwrap() = None;
        let status = until("the server ends", || running.child.try_wait().unwrap());
        running.reader.join().unwrap();
        status.code()
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            *self.doors.0.lock().unwrap() = None;
            if running.pid == running.child.id() {
                let _ = running.child.kill();
            } else if Path::new(&format!("/proc/{}", running.pid)).exists() {
                // What watches it ends by itself once it is gone.
                send_signal("KILL", running.pid);
            }
            running.child.wait().unwrap();
            running.reader.join().unwrap();
        }
    }

    /// The working directory, in which the data directory lies.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What it calls itself.
    pub fn name(&self) -> &'static str {
        SERVER_NAME
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// All that was logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn client(&self) -> Http {
        self.doors.client()
    }

    #[track_caller]
    pub fn federation(&self) -> Http {
        self.doors.federation()
    }

    #[track_caller]
    pub fn admin(&self) -> Http {
        self.doors.get().admin
    }

    pub fn admin_token(&self) -> String {
        fs::read_to_string(self.data_dir().join("admin_token")).unwrap().trim().to_owned()
    }

    /// A path of the admin listener, with the admin token.
    #[track_caller]
    pub fn ask_admin(&self, target: &str) -> Answer {
        let bearer = format!("Bearer {}", self.admin_token());
        self.admin().ask("GET", target, &[("Authorization", &bearer)], None)
    }

    /// `totals` of the actor stats.
    #[track_caller]
    pub fn totals(&self) -> Value {
        self.ask_admin("/_vestibule/admin/v1/actors").ok()["totals"].take()
    }

    /// The counters of knocks.
    #[track_caller]
    pub fn knock_totals(&self) -> Value {
        self.totals()["knocks"].take()
    }

    /// A new user.
    #[track_caller]
    pub fn register(&self, localpart: &str) -> User {
        let body = json!({ "username": localpart, "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
        let target = "/_matrix/client/v3/register";
        let answer = self.client().ask("POST", target, &[], Some(body.to_string().as_bytes())).ok();
        User::new(self.doors.clone(), &answer)
    }

    /// Another session of a user that exists.
    #[track_caller]
    pub fn log_in(&self, localpart: &str, password: &str) -> User {
        User::new(self.doors.clone(), &self.try_log_in(localpart, password).ok())
    }

    #[track_caller]
    pub fn try_log_in(&self, localpart: &str, password: &str) -> Answer {
        let identifier = json!({ "type": "m.id.user", "user": localpart });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        self.client().ask("POST", "/_matrix/client/v3/login", &[], Some(body.to_string().as_bytes()))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        } else {
            assert!(!self.log().contains("a thread panicked"), "{}", self.log());
        }
    }
}

/// Sends a signal and does not wait.
#[track_caller]
pub fn send_signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// Words before a program whose files are limited: a file beyond its limit is an error of the write, and not the end of the
/// process. The shell stays, so that it is the parent.
pub const LIMITABLE: [&str; 3] = ["sh", "-c", "trap '' XFSZ; \"$0\" \"$@\"; exit $?"];

/// The size in bytes, or `unlimited`, up to which a running process may write files. With 0 every disk is full.
#[track_caller]
pub fn limit_files(pid: u32, bytes: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]);
    assert!(command.status().unwrap().success(), "prlimit --fsize={bytes} of {pid}");
}

/// Runs a command to its end.
#[track_caller]
pub fn finish(mut command: Command, input: &str) -> Finished {
    let mut child = command.spawn().unwrap();
    // A program that reads nothing may be gone before it could.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let read = |mut pipe: Box<dyn std::io::Read + Send>| {
        thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let deadline = Instant::now() + COMMAND_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::park_timeout(Duration::from_millis(2));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let status = status.unwrap_or_else(|| panic!("did not end: {stdout} {stderr}"));
    Finished { code: status.code(), stdout, stderr }
}

fn only_child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}
