//! Knocks from many sides at once, and the ledger of what was answered.
//! May not: ask the server what it acknowledged.
//!
//! Users of other servers knock with signed events, our own over the client API, some of either are banned; and of those who
//! were heard the owner turns some away and invites others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use serde_json::{Value, json};
use vestibule_scenery::{
    Connection, FakePeer, Http, PASSWORD, SignedEvent, TestServer, User, encoded, send_knock_target, until,
};

use crate::program;

/// Servers that knock.
const PEERS: usize = 3;
/// Users of ours who knock. Each costs a password hash once.
const LOCAL_USERS: usize = 40;
/// Connections by which other servers knock.
const FEDERATION_CONNECTIONS: usize = 4;
/// Connections by which our own users do.
const CLIENT_CONNECTIONS: usize = 3;
/// Of so many that were heard, one is answered by the owner.
const ANSWERED_ONE_IN: usize = 4;

/// A server under load, and those who make it.
pub struct Stage {
    pub server: TestServer,
    pub owner: User,
    peers: Vec<FakePeer>,
    locals: Vec<User>,
    banned: User,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It was not sent.
    Nothing,
    /// It was sent, and the connection ended before there was an answer.
    Unanswered,
    /// 200.
    Acknowledged,
    /// A 4xx or a 503: it did not happen.
    Refused(u16),
    /// Any other answer: who asked knows nothing.
    Failed(u16),
}

impl Said {
    fn of(status: u16) -> Self {
        match status {
            200 => Self::Acknowledged,
            400..=499 | 503 => Self::Refused(status),
            _ => Self::Failed(status),
        }
    }

    fn is_open(self) -> bool {
        matches!(self, Self::Unanswered | Self::Failed(_))
    }
}

/// One user in one room.
#[derive(Clone, Debug)]
pub struct Case {
    /// Stands in the knock's reason, and nowhere else.
    pub mark: String,
    /// Known before for a knock that another server signed.
    pub event_id: Option<String>,
    pub knock: Said,
    /// What the owner did, before a knock or after it: the membership, and what became of it.
    pub then: Option<(&'static str, Said)>,
}

impl Case {
    /// Memberships that this user may have, by what was answered.
    fn may_be(&self) -> BTreeSet<&'static str> {
        let mut may = BTreeSet::new();
        match self.knock {
            Said::Nothing | Said::Refused(_) => _ = may.insert(NONE),
            Said::Unanswered | Said::Failed(_) => may.extend([NONE, "knock"]),
            Said::Acknowledged => _ = may.insert("knock"),
        }
        match self.then {
            Some((membership, Said::Acknowledged)) => may = BTreeSet::from([membership]),
            Some((membership, said)) if said.is_open() => _ = may.insert(membership),
            _ => {}
        }
        may
    }
}

/// There is no member event about that user.
const NONE: &str = "nothing";

/// What was asked and answered in one room.
pub struct Book {
    pub room_id: String,
    cases: Mutex<BTreeMap<String, Case>>,
    /// Marks of the knocks that were acknowledged, in the order that this was heard.
    heard: Mutex<Vec<String>>,
}

impl Book {
    pub fn cases(&self) -> MutexGuard<'_, BTreeMap<String, Case>> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks of the knocks that were acknowledged, in the order that this was heard.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A copy of what is known now, for a backup to be held against: what is acknowledged must be there, all else may be.
    pub fn as_of_now(&self) -> Self {
        let mut cases = self.cases().clone();
        for case in cases.values_mut() {
            if case.knock == Said::Nothing {
                case.knock = Said::Unanswered;
            }
            if case.then.is_none_or(|(_, said)| said != Said::Acknowledged) {
                // The owner may answer at any time from now on, one way or the other.
                case.then = Some((ANYTHING, Said::Unanswered));
            }
        }
        Self { room_id: self.room_id.clone(), cases: Mutex::new(cases), heard: Mutex::new(self.heard()) }
    }

    fn set_knock(&self, user_id: &str, said: Said) {
        let mut cases = self.cases();
        if let Some(case) = cases.get_mut(user_id) {
            case.knock = said;
            if said == Said::Acknowledged {
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(case.mark.clone());
            }
        }
    }

    fn set_then(&self, user_id: &str, membership: &'static str, said: Said) {
        if let Some(case) = self.cases().get_mut(user_id) {
            case.then = Some((membership, said));
        }
    }

    /// Knocks that were acknowledged, and all that was.
    pub fn acknowledged(&self) -> (u64, u64) {
        let cases = self.cases();
        let knocks = cases.values().filter(|case| case.knock == Said::Acknowledged).count();
        let answers = cases.values().filter(|case| matches!(case.then, Some((_, Said::Acknowledged)))).count();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        (number(knocks), number(knocks + answers))
    }
}

/// Stands for whatever the owner may do.
const ANYTHING: &str = "anything";

/// What those who wait for a moment look at.
#[derive(Default)]
pub struct Progress {
    acknowledged: AtomicUsize,
    pub in_flight: AtomicUsize,
    finished: AtomicUsize,
}

impl Progress {
    /// Waits until so many were acknowledged, or everybody is done.
    pub fn wait_for(&self, acknowledged: usize) {
        until("answers, or all of them", || {
            let is_over = self.finished.load(Ordering::SeqCst) == CONNECTIONS;
            (is_over || self.acknowledged.load(Ordering::SeqCst) >= acknowledged).then_some(())
        });
    }
}

/// Connections of one load.
const CONNECTIONS: usize = FEDERATION_CONNECTIONS + CLIENT_CONNECTIONS;

/// One request to come.
enum Knocker<'a> {
    Theirs { peer: &'a FakePeer, user_id: String, knock: Box<SignedEvent> },
    Ours { user: &'a User, mark: String },
}

impl Stage {
    /// A server with its users.
    pub fn set(server: TestServer) -> Self {
        let peers: Vec<FakePeer> = (0..PEERS).map(|number| FakePeer::new(&format!("peer{number}.test"))).collect();
        let server = server.knowing(&peers.iter().collect::<Vec<_>>()).start();
        let owner = server.register("owner");
        let locals = (0..LOCAL_USERS).map(|number| server.register(&format!("local{number}"))).collect();
        let banned = server.register("banned");
        Self { server, owner, peers, locals, banned }
    }

    /// The usual one.
    ///
    /// # Errors
    /// There is no program.
    pub fn usual() -> Result<Self, String> {
        Ok(Self::set(program::server()?))
    }

    /// A new room, and a load of knocks on it with so many from other servers. `meanwhile` runs in this thread while it lasts.
    pub fn load<T>(&self, number: u64, theirs: usize, meanwhile: impl FnOnce(&Book, &Progress) -> T) -> (Book, T) {
        let room_id = self.owner.knockable_room(if number.is_multiple_of(2) { "12" } else { "11" });
        let theirs_banned = self.peers.first().map(|peer| peer.user("banned"));
        let banned: Vec<&String> = theirs_banned.iter().chain([&self.banned.user_id]).collect();
        banned.iter().for_each(|user_id| _ = self.owner.about(&room_id, "ban", user_id));
        let (federation, client) = self.knockers(number, theirs, &room_id);
        let book = Book { room_id, cases: Mutex::default(), heard: Mutex::default() };
        for knocker in federation.iter().chain(&client) {
            let (user_id, mark, event_id) = match knocker {
                Knocker::Theirs { user_id, knock, .. } => (user_id, mark_of(number, user_id), Some(&knock.event_id)),
                Knocker::Ours { user, mark } => (&user.user_id, mark.clone(), None),
            };
            let then = banned.contains(&user_id).then_some(("ban", Said::Acknowledged));
            let case = Case { mark, event_id: event_id.cloned(), knock: Said::Nothing, then };
            book.cases().insert(user_id.clone(), case);
        }
        let progress = Progress::default();
        let doors = (self.server.federation(), self.server.client());
        let (answer, answers) = channel();
        let came_to = thread::scope(|scope| {
            for (knockers, door, connections) in
                [(federation, &doors.0, FEDERATION_CONNECTIONS), (client, &doors.1, CLIENT_CONNECTIONS)]
            {
                let mut shares: Vec<Vec<Knocker<'_>>> = (0..connections).map(|_| Vec::new()).collect();
                for (number, knocker) in knockers.into_iter().enumerate() {
                    if let Some(share) = shares.get_mut(number % connections) {
                        share.push(knocker);
                    }
                }
                for share in shares {
                    let (book, progress, answer) = (&book, &progress, answer.clone());
                    scope.spawn(move || {
                        knock_all(share, door, book, progress, &answer);
                        progress.finished.fetch_add(1, Ordering::SeqCst);
                    });
                }
            }
            drop(answer);
            let (book, progress, door) = (&book, &progress, &doors.1);
            scope.spawn(move || self.answer_some(&answers, door, book, progress));
            meanwhile(book, progress)
        });
        (book, came_to)
    }

    fn knockers(&self, number: u64, theirs: usize, room_id: &str) -> (Vec<Knocker<'_>>, Vec<Knocker<'_>>) {
        let mut federation = Vec::new();
        for (place, peer) in self.peers.iter().enumerate() {
            let template = peer.knock_template(&self.server, room_id, &peer.user("template"));
            for user in (0..theirs).filter(|user| user % PEERS == place) {
                // The first of the first server is banned.
                let name = if user == 0 { "banned".to_owned() } else { format!("u{number}x{user}") };
                let user_id = peer.user(&name);
                let knock = template.clone().for_user(&user_id).with_reason(&mark_of(number, &user_id));
                federation.push(Knocker::Theirs { peer, user_id, knock: Box::new(peer.sign(knock)) });
            }
        }
        let client = self.locals.iter().chain([&self.banned]);
        let client = client.map(|user| Knocker::Ours { user, mark: mark_of(number, &user.user_id) }).collect();
        (federation, client)
    }

    /// Turns some of those away who were heard, and invites others.
    fn answer_some(&self, heard: &Receiver<String>, door: &Http, book: &Book, progress: &Progress) {
        let Ok(mut connection) = door.connect() else { return };
        for (number, user_id) in heard.iter().enumerate().filter(|(number, _)| number % ANSWERED_ONE_IN == 0) {
            // Only our own users: an invite to another server waits for that server.
            let is_ours = self.locals.iter().any(|user| user.user_id == user_id);
            let (action, membership) =
                if is_ours && number % (2 * ANSWERED_ONE_IN) == 0 { ("invite", "invite") } else { ("kick", "leave") };
            let target = format!("/_matrix/client/v3/rooms/{}/{action}", encoded(&book.room_id));
            book.set_then(&user_id, membership, Said::Unanswered);
            progress.in_flight.fetch_add(1, Ordering::SeqCst);
            let Ok(status) = post(&mut connection, &target, &self.owner.token, &json!({ "user_id": user_id })) else {
                return;
            };
            progress.in_flight.fetch_sub(1, Ordering::SeqCst);
            book.set_then(&user_id, membership, Said::of(status));
        }
    }
}

fn mark_of(number: u64, user_id: &str) -> String {
    format!("mark {number} of {user_id};")
}

fn post(connection: &mut Connection, target: &str, token: &str, body: &Value) -> std::io::Result<u16> {
    let bearer = format!("Bearer {token}");
    let body = body.to_string();
    connection.ask("POST", target, &[("Authorization", &bearer)], Some(body.as_bytes())).map(|answer| answer.status)
}

fn knock_all(share: Vec<Knocker<'_>>, door: &Http, book: &Book, progress: &Progress, heard: &Sender<String>) {
    let Ok(mut connection) = door.connect() else { return };
    for knocker in share {
        let user_id = match &knocker {
            Knocker::Theirs { user_id, .. } => user_id.clone(),
            Knocker::Ours { user, .. } => user.user_id.clone(),
        };
        book.set_knock(&user_id, Said::Unanswered);
        progress.in_flight.fetch_add(1, Ordering::SeqCst);
        let status = match &knocker {
            Knocker::Theirs { peer, knock, .. } => {
                let target = send_knock_target(&book.room_id, &knock.event_id);
                peer.ask_on(&mut connection, "PUT", &target, Some(&knock.event)).map(|answer| answer.status)
            }
            Knocker::Ours { user, mark } => {
                let target = format!("/_matrix/client/v3/knock/{}", encoded(&book.room_id));
                post(&mut connection, &target, &user.token, &json!({ "reason": mark }))
            }
        };
        // A server that is gone leaves the request in flight.
        let Ok(status) = status else { return };
        progress.in_flight.fetch_sub(1, Ordering::SeqCst);
        let said = Said::of(status);
        book.set_knock(&user_id, said);
        if said == Said::Acknowledged {
            progress.acknowledged.fetch_add(1, Ordering::SeqCst);
            // The owner is gone when the server is.
            let _ = heard.send(user_id);
        }
    }
}

/// What a look at a room came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// Requests without an answer that turned out to have happened.
    pub appeared: u64,
    /// Requests without an answer that did not happen.
    pub vanished: u64,
}

/// Holds a room against the book: everybody is what was acknowledged, nobody is what was refused, each member event stands once
/// in the timeline. What was open is settled by it: from now on it must stay so.
pub fn check(owner: &User, book: &Book, misses: &mut Vec<String>) -> Looked {
    let mut looked = Looked::default();
    let mut members: BTreeMap<String, Value> = BTreeMap::new();
    let listed = owner.try_get(&format!("/rooms/{}/members", encoded(&book.room_id)));
    if listed.status != 200 {
        misses.push(format!("{} is not there: {}", book.room_id, listed.text()));
        return looked;
    }
    for event in listed.json()["chunk"].as_array().into_iter().flatten().cloned() {
        let user_id = event["state_key"].as_str().unwrap_or_default().to_owned();
        if members.insert(user_id.clone(), event).is_some() {
            misses.push(format!("{user_id} stands twice among the members of {}", book.room_id));
        }
    }
    let timeline = timeline_of(owner, &book.room_id);
    let mut cases = book.cases();
    for (user_id, case) in cases.iter_mut() {
        let event = members.remove(user_id);
        let is = event.as_ref().and_then(|event| event["content"]["membership"].as_str()).unwrap_or(NONE);
        let may = case.may_be();
        let is_right = may.contains(is) || (may.contains(ANYTHING) && ["invite", "leave"].contains(&is));
        if !is_right {
            misses.push(format!("{user_id} in {} is {is}, of {may:?}: {case:?}", book.room_id));
        }
        if let Some(event) = event.as_ref().filter(|_| is == "knock") {
            let is_other = case.event_id.as_ref().is_some_and(|event_id| event["event_id"] != event_id.as_str());
            if is_other || event["content"]["reason"] != case.mark.as_str() {
                misses.push(format!("the knock of {user_id} in {} is another: {event}", book.room_id));
            }
        }
        if let Some(event_id) = event.as_ref().and_then(|event| event["event_id"].as_str())
            && timeline.get(event_id) != Some(&1)
        {
            misses.push(format!("{user_id} in {}: {event_id} is not once in the timeline", book.room_id));
        }
        settle(case, is, &mut looked);
    }
    drop(cases);
    for user_id in members.keys().filter(|user_id| **user_id != owner.user_id) {
        misses.push(format!("{user_id} is a member of {} and never asked", book.room_id));
    }
    looked
}

/// What was open has happened, or it never will.
fn settle(case: &mut Case, is: &str, looked: &mut Looked) {
    if let Some((membership, said)) = &mut case.then
        && said.is_open()
        && *membership != ANYTHING
    {
        let has_happened = is == *membership;
        *said = if has_happened { Said::Acknowledged } else { Said::Refused(0) };
        looked.appeared += u64::from(has_happened);
        looked.vanished += u64::from(!has_happened);
    }
    if case.knock.is_open() {
        // Who is banned was so before anybody knocked.
        let has_happened = ![NONE, "ban"].contains(&is);
        case.knock = if has_happened { Said::Acknowledged } else { Said::Refused(0) };
        looked.appeared += u64::from(has_happened);
        looked.vanished += u64::from(!has_happened);
    }
}

/// How often each event stands in the timeline.
fn timeline_of(owner: &User, room_id: &str) -> BTreeMap<String, usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut from = String::new();
    loop {
        let page = owner.get(&format!("/rooms/{}/messages?dir=b&limit=500{from}", encoded(room_id)));
        for event in page["chunk"].as_array().into_iter().flatten() {
            *seen.entry(event["event_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return seen,
        }
    }
}

/// The owner of a room on a server that was restored.
pub fn owner_on(server: &TestServer) -> User {
    server.log_in("owner", PASSWORD)
}
