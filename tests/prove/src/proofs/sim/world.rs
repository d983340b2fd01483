//! Three servers, what is between them, and what the simulation remembers: who runs, who reaches whom, what was promised.
//! May not: decide what happens next, or judge what happened.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_web::{
    http::{Method, header::AUTHORIZATION},
    test::TestRequest,
};
use rand::rngs::StdRng;
use ruma::{EventId, OwnedServerName, RoomId, UserId, events::StateEventType};
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};
use vestibule_actors::testing::read;
use vestibule_protocol::signing::{Identity, SigningKey};
use vestibule_storage::{
    memory::{Failure, MemoryStorage},
    room::{OutOfBand, Progress, StoredEvent},
};

use super::{
    disk::Planted,
    network::{self, Parcel},
    server::{self, Life, Place, address_of, generator},
    trace::Trace,
};

pub const SERVERS: [&str; 3] = ["a.test", "b.test", "c.test"];
/// On each server, besides the owner and the moderator.
pub const KNOCKERS: usize = 3;

/// What the user reads of a knock that has no chance any more.
const ABANDONED: &str = "the room is gone or cannot be knocked on any more";

/// What happened, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub operations: u64,
    pub done: u64,
    pub refused: u64,
    pub unheard: u64,
    pub requests: u64,
    pub dropped: u64,
    pub doubled: u64,
    pub late: u64,
    pub admissions: u64,
    pub answers: u64,
    pub joins: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub failed_writes: u64,
    pub knocks_judged: u64,
    pub given_up: u64,
    pub taken_back_by_strangers: u64,
    pub promises: u64,
}

/// Something that a server said it has done, so that the event is there for good.
pub struct Promise {
    pub server: usize,
    pub room_id: String,
    pub event_id: String,
    pub what: String,
}

/// What came back from a server.
pub enum Heard {
    Answer(u16, Value),
    /// Nobody knows whether it was done.
    Nothing,
}

pub struct World {
    pub places: Vec<Place>,
    pub out: mpsc::UnboundedSender<Parcel>,
    pub network: RefCell<StdRng>,
    pub began: Instant,
    pub counts: RefCell<Counts>,
    pub promises: RefCell<Vec<Promise>>,
    pub trace: RefCell<Trace>,
    /// A request that ended in a panic, and which server's it was.
    pub panics: Cell<u64>,
    seed: u64,
    planted: Option<Planted>,
    running: RefCell<Vec<Running>>,
    cut: RefCell<BTreeSet<(usize, usize)>>,
    is_stormy: Cell<bool>,
}

struct Running {
    life: Option<Rc<Life>>,
    number: u64,
    /// What is stored, while the server does not run.
    left: MemoryStorage,
}

impl World {
    /// All servers run, and the weather is good.
    ///
    /// # Errors
    /// Something cannot be made at all.
    pub async fn begin(seed: u64, planted: Option<Planted>) -> Result<Rc<Self>, String> {
        let (out, sent) = mpsc::unbounded_channel();
        let (mut places, mut running) = (Vec::new(), Vec::new());
        for (number, name) in (0_u8..).zip(SERVERS) {
            let name = OwnedServerName::try_from(name).map_err(|error| error.to_string())?;
            let key =
                SigningKey::from_seed("k1", &[number.saturating_add(1); 32]).map_err(|error| error.to_string())?;
            let users = ["owner".to_owned(), "mod".to_owned()].into_iter();
            let users = users.chain((0..KNOCKERS).map(|number| format!("user{number}")));
            let users: Result<Vec<_>, _> = users.map(|localpart| format!("@{localpart}:{name}").try_into()).collect();
            let left = server::with_accounts(&users.map_err(|error: ruma::IdParseError| error.to_string())?).await;
            places.push(Place {
                identity: Arc::new(Identity::new(name.clone(), key)),
                name,
                clock_ahead: Duration::from_millis(700 * u64::from(number)),
                auto_joins: number == 2 && seed.is_multiple_of(2),
            });
            running.push(Running { life: None, number: 0, left: left.map_err(|error| error.to_string())? });
        }
        let world = Rc::new(Self {
            places,
            out,
            network: RefCell::new(generator(seed, 1)),
            began: Instant::now(),
            counts: RefCell::default(),
            promises: RefCell::default(),
            trace: RefCell::new(Trace::new()),
            panics: Cell::new(0),
            seed,
            planted,
            running: RefCell::new(running),
            cut: RefCell::default(),
            is_stormy: Cell::new(false),
        });
        tokio::task::spawn_local(network::carry(world.clone(), sent));
        for at in 0..SERVERS.len() {
            world.boot(at).await;
        }
        Ok(world)
    }

    pub fn number_of(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.name == name)
    }

    pub fn addresses(&self) -> BTreeMap<OwnedServerName, SocketAddr> {
        self.places.iter().enumerate().map(|(number, place)| (place.name.clone(), address_of(number))).collect()
    }

    /// A generator for one life of a server.
    pub fn random_of(&self, at: usize, life: u64) -> StdRng {
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        generator(self.seed, life.wrapping_mul(1_000).wrapping_add(100).wrapping_add(at))
    }

    pub fn planted_on_disk(&self, at: usize, life: u64) -> Option<(Planted, StdRng)> {
        self.planted.map(|planted| (planted, self.random_of(at, life ^ 0x9_1a27)))
    }

    // Weather.

    pub fn is_stormy(&self) -> bool {
        self.is_stormy.get()
    }

    pub fn set_stormy(&self, is_stormy: bool) {
        self.is_stormy.set(is_stormy);
    }

    pub fn is_reachable(&self, one: usize, other: usize) -> bool {
        !self.cut.borrow().contains(&(one.min(other), one.max(other)))
    }

    pub fn cut(&self, one: usize, other: usize) {
        self.cut.borrow_mut().insert((one.min(other), one.max(other)));
    }

    /// `None`: everything.
    pub fn heal(&self, only: Option<(usize, usize)>) {
        let mut cut = self.cut.borrow_mut();
        match only {
            Some((one, other)) => _ = cut.remove(&(one.min(other), one.max(other))),
            None => cut.clear(),
        }
    }

    // Lives.

    pub fn life(&self, at: usize) -> Option<Rc<Life>> {
        self.running.borrow().get(at)?.life.clone()
    }

    pub fn is_alive(&self, at: usize, life: u64) -> bool {
        self.running.borrow().get(at).is_some_and(|running| running.life.is_some() && running.number == life)
    }

    /// Starts the server if it does not run.
    pub async fn boot(self: &Rc<Self>, at: usize) {
        let (number, left) = {
            let mut running = self.running.borrow_mut();
            let Some(running) = running.get_mut(at).filter(|running| running.life.is_none()) else { return };
            running.number += 1;
            (running.number, running.left.clone())
        };
        self.note(format_args!("server {at} starts, life {number}"));
        let life = Life::begin(self, at, number, &left).await;
        if let Some(running) = self.running.borrow_mut().get_mut(at) {
            running.life = Some(life);
        }
    }

    /// `false`: it does not run.
    pub fn crash(&self, at: usize) -> bool {
        let Some(life) = self.running.borrow_mut().get_mut(at).and_then(|running| running.life.take()) else {
            return false;
        };
        self.panics.set(self.panics.get() + life.app.vitals.panics());
        let left = life.crash();
        if let Some(running) = self.running.borrow_mut().get_mut(at) {
            running.left = left;
        }
        true
    }

    // Clients.

    /// A request of a client. It waits so long at most.
    pub async fn ask(
        &self,
        at: usize,
        token: &str,
        (method, uri): (Method, &str),
        body: &Value,
        patience: Duration,
    ) -> Heard {
        let Some(life) = self.life(at) else { return Heard::Nothing };
        let request = TestRequest::default()
            .method(method)
            .uri(uri)
            .insert_header((AUTHORIZATION, format!("Bearer {token}")))
            .set_payload(body.to_string());
        match tokio::time::timeout(patience, life.answer(request)).await {
            Ok(Some(answered)) => {
                Heard::Answer(answered.status, serde_json::from_slice(&answered.body).unwrap_or(Value::Null))
            }
            _ => Heard::Nothing,
        }
    }

    // What is stored, whether the server runs or not.

    pub fn storage(&self, at: usize) -> MemoryStorage {
        let running = self.running.borrow();
        match &running[at].life {
            Some(life) => life.disk.storage.clone(),
            None => running[at].left.clone(),
        }
    }

    pub fn member_event(&self, at: usize, room_id: &RoomId, user_id: &str) -> Option<StoredEvent> {
        let rooms = self.storage(at).stores().rooms;
        read(rooms.current_state_event(room_id, &StateEventType::RoomMember, user_id))
    }

    /// What a user is to the room, as the server's copy of the room has it.
    pub fn membership(&self, at: usize, room_id: &RoomId, user_id: &str) -> String {
        let event = self.member_event(at, room_id, user_id);
        let membership = event.and_then(|stored| stored.event.membership());
        membership.map_or_else(|| "leave".to_owned(), |membership| membership.to_string())
    }

    /// Whether users of the server are in the room, as the server itself knows.
    pub fn lives_in(&self, at: usize, room_id: &RoomId) -> bool {
        let rooms = self.storage(at).stores().rooms;
        let members = read(rooms.current_state_of_type(room_id, &StateEventType::RoomMember));
        members.iter().any(|stored| {
            let is_joined = stored.event.membership().is_some_and(|membership| membership.as_str() == "join");
            is_joined && stored.event.state_key().is_some_and(|user_id| self.is_of(at, user_id))
        })
    }

    pub fn is_of(&self, at: usize, user_id: &str) -> bool {
        user_id.split_once(':').is_some_and(|(_, server)| self.places.get(at).is_some_and(|place| place.name == server))
    }

    pub fn out_of_band(&self, at: usize, room_id: &RoomId, user_id: &UserId) -> Option<OutOfBand> {
        let rooms = self.storage(at).stores().rooms;
        read(rooms.out_of_band_of(user_id, room_id))
    }

    /// What a local user is to the room, as the user's own server knows.
    pub fn standing(&self, at: usize, room_id: &RoomId, user_id: &UserId) -> String {
        if self.lives_in(at, room_id) {
            return self.membership(at, room_id, user_id.as_str());
        }
        match self.out_of_band(at, room_id, user_id) {
            Some(row) if row.progress == Progress::Asking => format!("asking for {}", row.membership),
            Some(row) => row.membership.to_string(),
            // The copy of a room that the server's users have left still says what others of them were then.
            None => {
                let rooms = self.storage(at).stores().rooms;
                let row = read(rooms.membership(user_id, room_id));
                row.map_or_else(|| "leave".to_owned(), |row| row.membership.to_string())
            }
        }
    }

    /// Whether the user's server has ended the knock for its user alone, because the room said that it had no chance. The room is
    /// not told of that (DESIGN section 5), so an invite still counts.
    pub fn has_given_up(&self, at: usize, room_id: &RoomId, user_id: &UserId) -> bool {
        let row = self.out_of_band(at, room_id, user_id).filter(|_| !self.lives_in(at, room_id));
        row.is_some_and(|row| {
            let is_own = row.event.sender() == user_id && row.membership.as_str() == "leave";
            is_own && row.event.reason().as_deref() == Some(ABANDONED)
        })
    }

    // What is remembered.

    pub fn promise(&self, server: usize, room_id: String, event_id: String, what: String) {
        self.promises.borrow_mut().push(Promise { server, room_id, event_id, what });
    }

    pub fn count<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.counts.borrow_mut())
    }

    pub fn note_written(&self, at: usize, count: usize, failed: Option<Failure>) {
        if failed.is_some() {
            self.count(|counts| counts.failed_writes += 1);
        }
        self.note(format_args!("disk {at} writes {count} {failed:?}"));
    }

    pub fn note(&self, what: fmt::Arguments<'_>) {
        let now = self.now().as_millis();
        self.trace.borrow_mut().note(format_args!("{now} {what}"));
    }

    pub fn step(&self, what: &str) {
        let now = self.now();
        self.trace.borrow_mut().step(format!("{:>10.3} s  {what}", now.as_secs_f64()));
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether an event is stored on a server.
    pub fn has_event(&self, at: usize, room_id: &str, event_id: &str) -> bool {
        let (Ok(room_id), Ok(event_id)) = (RoomId::parse(room_id), EventId::parse(event_id)) else { return false };
        let rooms = self.storage(at).stores().rooms;
        read(rooms.events(&room_id, &[event_id])).into_iter().flatten().next().is_some()
    }
}
