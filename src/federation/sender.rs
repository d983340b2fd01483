//! Brings to other servers what the outbox holds for them, in order, until each has taken it.
//! May not: hold up one server because of another, or take a row from the outbox that was not delivered or given up.
//!
//! The writer rings for each commit with rows ([`OutboundQueue`]); that is a hint, the rows are the truth. A server with
//! rows has a lane for transactions and, when it needs one, another for invites and leaves; a lane ends when it has nothing
//! more to do. Pauses after failures live in the lanes, so a restart begins with an attempt for everybody.

mod backoff;
mod catch_up;
mod destination;
mod edus;
mod handshakes;
mod invite;
mod leave;
mod transactions;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    time::{Instant, sleep},
};
use vestibule_actors::Rooms;
use vestibule_protocol::{clock::Clock, signing::Identity};
use vestibule_storage::{
    commit::{Announcement, Commit, CommitListener, Stores},
    error::StorageError,
    outbox::{OutboxDone, OutboxPlace},
};

pub use self::backoff::Backoff;
pub use self::transactions::{EDUS_MAX, PDUS_MAX};
use self::{destination::Lane, handshakes::Handshakes, transactions::Transactions};
use crate::{client::Client, discovery::Random, generations::Generations};

/// Requests at once to servers that answered the last time. Ours: each is a socket and a few buffers.
pub const REQUESTS_AT_ONCE_MAX: usize = 256;

/// Requests at once to servers that did not, or were not asked yet: many dead servers must leave places to the others. Ours.
pub const DOUBTFUL_REQUESTS_AT_ONCE_MAX: usize = 128;

/// Two empty transactions to one server lie at least so far apart. Source: DESIGN 3.12.
const POKE_PAUSE: Duration = Duration::from_mins(1);

/// Servers whose last empty transaction is remembered. Ours.
const POKED_MAX: usize = 10_000;

/// Destinations read from the outbox at a time. Ours.
const DESTINATIONS_PER_READ: usize = 500;

/// Pause before storage is asked again when it failed. Ours.
const STORAGE_PAUSE: Duration = Duration::from_secs(2);

/// What the sender goes by.
#[derive(Clone, Copy, Debug)]
pub struct SenderSettings {
    /// Deadline of one request: `federation.request_timeout`.
    pub request_timeout: Duration,
    /// The pauses after failures: `federation.retry_backoff_min` and `_max`.
    pub backoff: Backoff,
}

/// What the sender works with.
#[derive(Clone)]
pub struct SenderParts {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Makes the requests.
    pub client: Client,
    /// The outbox, the events, and the writer.
    pub stores: Stores,
    /// Rooms: an invite that was refused is taken back there.
    pub rooms: Rooms,
    /// What transactions are dated by.
    pub clock: Arc<dyn Clock>,
    /// Jitter of the pauses.
    pub random: Random,
    /// Deadlines and pauses.
    pub settings: SenderSettings,
}

/// The bell between the writer and the sender. It is there before storage opens and the sender after it; clones share it.
#[derive(Clone, Default)]
pub struct OutboundQueue {
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell {
    /// At most one entry for each server, so bounded by the servers that we have anything for.
    rung_for: Mutex<BTreeMap<OwnedServerName, Wanted>>,
    notify: Notify,
}

/// What a lane is woken for besides rows of the outbox.
#[derive(Default)]
struct Wanted {
    /// Not kept anywhere else: lost when the server does not answer.
    edus: VecDeque<Box<RawValue>>,
    /// A transaction must go even if there is nothing to put into it.
    is_poke: bool,
}

/// The two ways to a server; a failure of one does not hold up the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneKind {
    /// Events of rooms in which the server has members, and short-lived news.
    Transactions,
    /// Invites, and leaves for rooms that we are not in.
    Handshakes,
}

/// How a lane stands, for admins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationStatus {
    /// The server.
    pub server_name: OwnedServerName,
    /// Which way.
    pub lane: LaneKind,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Until the next attempt; `None`: it is not paused.
    pub retry_in: Option<Duration>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// The handle to the sender. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    inner: Arc<Inner>,
}

struct Inner {
    queue: OutboundQueue,
    parts: SenderParts,
    lanes: Mutex<BTreeMap<(OwnedServerName, LaneKind), Arc<Lane>>>,
    places: Semaphore,
    doubtful_places: Semaphore,
    /// When each server was last poked, in monotonic time.
    poked: Mutex<Generations<OwnedServerName, Duration>>,
    stop: watch::Sender<bool>,
}

impl OutboundQueue {
    fn ring(&self, servers: impl IntoIterator<Item = OwnedServerName>, fill: impl Fn(&mut Wanted)) {
        let mut rung_for = self.lock();
        for server in servers {
            fill(rung_for.entry(server).or_default());
        }
        drop(rung_for);
        self.bell.notify.notify_one();
    }

    fn take(&self) -> BTreeMap<OwnedServerName, Wanted> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OwnedServerName, Wanted>> {
        self.bell.rung_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitListener for OutboundQueue {
    fn committed(&self, announcement: &Announcement) {
        if !announcement.destinations.is_empty() {
            self.ring(announcement.destinations.iter().cloned(), |_| {});
        }
    }
}

impl Wanted {
    /// Takes in what came later. What is too much goes, oldest first: only the newest of such news is worth anything.
    fn join(&mut self, later: Self) {
        self.edus.extend(later.edus);
        let too_many = self.edus.len().saturating_sub(EDUS_MAX);
        self.edus.drain(..too_many);
        self.is_poke |= later.is_poke;
    }
}

impl Sender {
    /// A sender that does nothing yet: see [`Self::start`].
    pub fn new(queue: OutboundQueue, parts: SenderParts) -> Self {
        let inner = Inner {
            queue,
            parts,
            lanes: Mutex::default(),
            places: Semaphore::new(REQUESTS_AT_ONCE_MAX),
            doubtful_places: Semaphore::new(DOUBTFUL_REQUESTS_AT_ONCE_MAX),
            poked: Mutex::new(Generations::new(POKED_MAX)),
            stop: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Begins with everything that the outbox holds. All requests are made on the runtime of the caller.
    pub fn start(&self) {
        let inner = self.inner.clone();
        self.inner.spawn(async move { inner.dispatch().await });
    }

    /// Ends all work, requests in flight included. What was not noted as taken is sent again after the next start, under the
    /// same event ids.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// A request that the server signed has just been verified: if it is paused, it is tried at once.
    pub fn sign_of_life(&self, server: &ServerName) {
        for kind in [LaneKind::Transactions, LaneKind::Handshakes] {
            self.inner.end_pause(server, kind);
        }
    }

    /// Sends a transaction to the server, an empty one if need be, at most once a minute. It follows a 429 or 5xx answer of
    /// ours: the server then leaves us alone until it hears from us.
    pub fn poke(&self, server: &ServerName) {
        let now = self.inner.parts.clock.monotonic();
        let mut poked = self.inner.poked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = poked.get(server).is_some_and(|last| now.saturating_sub(*last) < POKE_PAUSE);
        if is_recent || server == self.inner.parts.identity.server_name() {
            return;
        }
        poked.insert(server.to_owned(), now);
        drop(poked);
        self.inner.queue.ring([server.to_owned()], |wanted| wanted.is_poke = true);
    }

    /// Sends an EDU to servers, once, in their next transaction; a server that is paused or fails does not get it. At most
    /// [`EDUS_MAX`] wait for a server, the newest ones.
    pub fn add_edu(&self, destinations: impl IntoIterator<Item = OwnedServerName>, edu: &RawValue) {
        let us = self.inner.parts.identity.server_name();
        let others = destinations.into_iter().filter(|server| *server != us);
        self.inner.queue.ring(others, |wanted| {
            let edus = VecDeque::from([edu.to_owned()]);
            wanted.join(Wanted { edus, is_poke: false });
        });
    }

    /// The servers for which there is work, in the order of their names.
    pub fn statuses(&self) -> Vec<DestinationStatus> {
        self.inner.lanes().values().map(|lane| lane.status()).collect()
    }
}

impl Inner {
    /// Runs until the sender stops. Dropped at any point: what is not noted as done is done again.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stops| *stops) => {}
                () = work => {}
            }
        });
    }

    async fn dispatch(self: &Arc<Self>) {
        while let Err(error) = self.wake_all().await {
            log::error!(error:%; "the outbox cannot be read");
            sleep(STORAGE_PAUSE).await;
        }
        loop {
            self.queue.bell.notify.notified().await;
            for (server, wanted) in self.queue.take() {
                self.wake(server, LaneKind::Transactions, wanted);
            }
        }
    }

    async fn wake_all(self: &Arc<Self>) -> Result<(), StorageError> {
        let mut last: Option<OwnedServerName> = None;
        loop {
            let servers = self.parts.stores.outbox.destinations(last.as_deref(), DESTINATIONS_PER_READ).await?;
            let Some(newest) = servers.last() else { return Ok(()) };
            last = Some(newest.clone());
            for server in servers {
                self.wake(server, LaneKind::Transactions, Wanted::default());
            }
        }
    }

    /// Tells a lane that there is work, and starts it if it does not run.
    fn wake(self: &Arc<Self>, server: OwnedServerName, kind: LaneKind, wanted: Wanted) {
        let mut lanes = self.lanes();
        let key = (server, kind);
        if let Some(lane) = lanes.get(&key) {
            lane.tell(wanted);
            return;
        }
        let lane = Arc::new(Lane::new(key.0.clone(), kind));
        lane.tell(wanted);
        lanes.insert(key, lane.clone());
        drop(lanes);
        let inner = self.clone();
        self.spawn(async move {
            // In any case, also after a panic: a lane that stays without its task would block the server for good.
            let retiring = Retiring { inner: &inner, lane: &lane };
            match kind {
                LaneKind::Transactions => destination::run(retiring.inner, &lane, Transactions::default()).await,
                LaneKind::Handshakes => destination::run(retiring.inner, &lane, Handshakes::default()).await,
            }
        });
    }

    /// Takes the lane out if nobody told it of anything since it looked. Whoever tells it holds the same lock.
    fn retire(&self, lane: &Lane) -> bool {
        let mut lanes = self.lanes();
        if lane.has_news() {
            return false;
        }
        lanes.remove(&lane.key());
        true
    }

    fn end_pause(&self, server: &ServerName, kind: LaneKind) {
        let lanes = self.lanes();
        // The key is owned, so that a look-up would allocate; most servers that call have no lane at all.
        if lanes.is_empty() {
            return;
        }
        if let Some(lane) = lanes.get(&(server.to_owned(), kind)) {
            lane.sign_of_life(Instant::now());
        }
    }

    /// The right to make one request.
    async fn place(&self, lane: &Lane) -> Option<SemaphorePermit<'_>> {
        let places = if lane.is_doubtful() { &self.doubtful_places } else { &self.places };
        // Nobody closes the semaphores; without a place the request would go all the same.
        places.acquire().await.ok()
    }

    /// Takes rows out of the outbox, as [`Self::note`] does.
    async fn note_done(&self, server: &ServerName, places: Vec<OutboxPlace>) {
        self.note(server, places, Commit::OutboxDone).await;
    }

    /// Takes EDUs out of the outbox, as [`Self::note`] does.
    async fn note_edus_done(&self, server: &ServerName, places: Vec<OutboxPlace>) {
        self.note(server, places, Commit::EdusDone).await;
    }

    /// Notes what is done with; durable when it returns. Storage that fails is asked again until it does not: what was taken
    /// must not be sent under another transaction id.
    async fn note(&self, server: &ServerName, places: Vec<OutboxPlace>, commit: fn(OutboxDone) -> Commit) {
        if places.is_empty() {
            return;
        }
        loop {
            let done = OutboxDone { destination: server.to_owned(), places: places.clone() };
            match self.parts.stores.writer.reserve() {
                Ok(slot) => match self.parts.stores.writer.enqueue(slot, commit(done)).await {
                    Ok(_) => return,
                    Err(error) => log::error!(destination:% = server, error:%; "delivered events not noted"),
                },
                Err(refusal) => {
                    log::debug!(destination:% = server, error:% = refusal; "no room to note delivered events")
                }
            }
            sleep(STORAGE_PAUSE).await;
        }
    }

    fn jitter(&self) -> u32 {
        let [_, _, _, _, low @ ..] = (self.parts.random)().to_be_bytes();
        u32::from_be_bytes(low)
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<(OwnedServerName, LaneKind), Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Retiring<'a> {
    inner: &'a Arc<Inner>,
    lane: &'a Arc<Lane>,
}

impl Drop for Retiring<'_> {
    fn drop(&mut self) {
        let mut lanes = self.inner.lanes();
        if lanes.get(&self.lane.key()).is_some_and(|lane| Arc::ptr_eq(lane, self.lane)) {
            lanes.remove(&self.lane.key());
        }
    }
}

#[cfg(test)]
mod tests;
