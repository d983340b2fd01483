//! Room id → actor: start, find, restart, passivate, spread over arbiters.
//! May not: start an actor for a room that is not stored, scan rooms to find one, or wait while it holds its lock.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, dev::ToEnvelope};
use actix_rt::ArbiterHandle;
use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use log::{error, warn};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName, UserId};
use thiserror::Error;
use tokio::sync::oneshot;
use vestibule_protocol::{
    clock::Clock,
    membership::{CreateRefusal, ImportRefusal, KnockRefusal, knock::KnockPolicy},
    room_version::RoomVersion,
    signing::Identity,
};
use vestibule_storage::{
    commit::{Commit, CommitError, Conflict, NoSlot, Stores},
    error::StorageError,
};

use crate::{
    cpu_pool::CpuPool,
    gauges::{Gauges, RoomGauges},
    limits::{KnockLimits, KnockRates, KnockSource},
    policy_signer::{PolicySigner, PolicyVerdict},
    room::{
        Answered, Ask, Door, LoadError, Lookups, Passivate, RoomActor, RoomContext, RoomMessage, Unsigned,
        check_door::CheckDoor,
        create_room::{self, CreateRoom},
        import_join::{ImportJoin, JoinAnswer, JudgedJoin},
        load,
    },
    typing::Typing,
};

/// Two failed loads within this time put a room into quarantine, unless storage could not be read at all. DESIGN 3.5.
const LOAD_FAILURES_WITHIN: Duration = Duration::from_mins(1);

/// How long a room stays in quarantine before it is tried again. Ours.
const QUARANTINE: Duration = Duration::from_mins(10);

/// How often a message enters its room before it gives up: an actor may stop between look and send, and an event that the
/// policy server signed may have another place by then.
const ENTRIES_MAX: u32 = 4;

/// Actors looked at to find one that may go when there are too many. Ours: constant work for each start.
const PASSIVATION_LOOKS_MAX: usize = 8;

/// Rooms that one user makes alike within one millisecond. Where the id is the hash of the create event they would be one room,
/// so each gets a time of its own. Ours: nobody means more.
const SAME_ROOMS_MAX: u64 = 64;

/// What the rooms are given.
pub struct RoomsOptions {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Storage.
    pub stores: Stores,
    /// `[knock]`.
    pub policy: KnockPolicy,
    /// The rates of knocks; `None` switches them off.
    pub rates: Option<KnockRates>,
    /// For work over a millisecond.
    pub cpu: CpuPool,
    /// Asks rooms' policy servers.
    pub policy_signer: Option<Arc<dyn PolicySigner>>,
    /// Who types. A room ends it for whoever leaves or is put out.
    pub typing: Typing,
    /// The arbiters whose threads the actors may use; a room's is chosen by a hash of its id.
    pub arbiters: Vec<ArbiterHandle>,
    /// `actors.mailbox_capacity`.
    pub mailbox_capacity: usize,
    /// `actors.live_max`.
    pub live_max: usize,
    /// `actors.idle_timeout`.
    pub idle_timeout: Duration,
    /// Drawn at random when the program starts.
    pub core_seed: u64,
}

/// Why a room did not answer with a reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError<R> {
    /// The room said no.
    #[error("refused")]
    Refused(R),
    /// No such room is stored here.
    #[error("the room is not here")]
    RoomNotHere,
    /// The room's mailbox or the writer is full; nothing changed, try later.
    #[error("overloaded")]
    Overloaded,
    /// Storage failed.
    #[error(transparent)]
    Storage(CommitError),
    /// The turn panicked, the room cannot be loaded, or the program shuts down.
    #[error("the room failed")]
    Failed,
}

impl<R> From<NoSlot> for AskError<R> {
    fn from(refusal: NoSlot) -> Self {
        match refusal {
            NoSlot::Busy => Self::Overloaded,
            // A full disk is the one cause that lasts; recovery and shutdown look the same from outside.
            NoSlot::Refused => Self::Storage(CommitError::Storage(StorageError::DiskFull)),
        }
    }
}

/// The handle to all rooms. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    shared: Arc<Registry>,
}

struct Registry {
    context: Arc<RoomContext>,
    arbiters: Vec<ArbiterHandle>,
    mailbox_capacity: usize,
    live_max: usize,
    idle_timeout: Duration,
    next_incarnation: AtomicU64,
    is_closed: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_room: HashMap<OwnedRoomId, Entry>,
    /// Live rooms in the order in which they are looked at for passivation.
    hand: VecDeque<OwnedRoomId>,
    live: usize,
    restarts: HashMap<OwnedRoomId, Restarts>,
    failures: HashMap<OwnedRoomId, LoadFailures>,
}

enum Entry {
    Loading(Shared<BoxFuture<'static, Result<(), StartError>>>),
    Live { addr: Addr<RoomActor>, gauges: Arc<RoomGauges>, door: Arc<ArcSwapOption<Door>>, incarnation: u64 },
}

/// Discarded actors of a room.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: u64,
    /// The next start of the room's actor follows from a discard.
    is_due: bool,
}

#[derive(Clone, Copy)]
struct LoadFailures {
    last: Duration,
    quarantined_until: Option<Duration>,
}

/// Why no actor could be started.
#[derive(Clone, Debug, Error)]
enum StartError {
    #[error("the room is not stored")]
    NotStored,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("loading panicked or its arbiter is gone")]
    Gone,
}

enum Found {
    Live(Addr<RoomActor>, CountedIn, u64),
    Loading(Shared<BoxFuture<'static, Result<(), StartError>>>),
    Full,
    Quarantined,
    Absent,
}

/// A message that counts as waiting in the mailbox while it is on its way there; so its actor stays.
struct CountedIn {
    gauges: Arc<RoomGauges>,
    is_in_mailbox: bool,
}

impl CountedIn {
    fn new(gauges: Arc<RoomGauges>) -> Self {
        gauges.entered();
        Self { gauges, is_in_mailbox: false }
    }

    /// The message is in the mailbox; the actor counts it out.
    fn leave_to_actor(mut self) {
        self.is_in_mailbox = true;
    }
}

impl Drop for CountedIn {
    fn drop(&mut self) {
        if !self.is_in_mailbox {
            self.gauges.left();
        }
    }
}

impl Rooms {
    /// No actor is started by this.
    pub fn new(options: RoomsOptions) -> Self {
        let context = RoomContext {
            identity: options.identity,
            clock: options.clock,
            stores: options.stores,
            policy: options.policy,
            limits: options.rates.as_ref().map(KnockLimits::new),
            gauges: Arc::new(Gauges::default()),
            cpu: options.cpu,
            policy_signer: options.policy_signer,
            typing: options.typing,
            core_seed: options.core_seed,
        };
        let registry = Registry {
            context: Arc::new(context),
            arbiters: options.arbiters,
            mailbox_capacity: options.mailbox_capacity.max(1),
            live_max: options.live_max.max(1),
            idle_timeout: options.idle_timeout,
            next_incarnation: AtomicU64::new(1),
            is_closed: AtomicBool::new(false),
            entries: Mutex::new(Entries::default()),
        };
        Self { shared: Arc::new(registry) }
    }

    /// Runs one turn of the room's actor and gives back its answer, once all that the turn saw is durable.
    ///
    /// Dropping the future before the turn started means it never runs; later it cancels nothing. A repeat of the same event
    /// or transaction is harmless.
    ///
    /// # Errors
    /// [`AskError`]; with `Refused`, `RoomNotHere` and `Overloaded` nothing changed.
    pub async fn ask<M: RoomMessage>(&self, room_id: &RoomId, message: M) -> Result<M::Reply, AskError<M::Refusal>> {
        self.ask_anywhere(room_id, None, message).await
    }

    /// As [`Rooms::ask`], also for a room that is not stored here: then an actor is started that knows nothing but what local
    /// users are to the room. `room_version` is what the other side says it is; of a stored room the stored one counts.
    ///
    /// # Errors
    /// [`AskError`]; never `RoomNotHere` for messages that are meant for such rooms.
    pub async fn ask_out_of_band<M: RoomMessage>(
        &self,
        room_id: &RoomId,
        room_version: &RoomVersion,
        message: M,
    ) -> Result<M::Reply, AskError<M::Refusal>> {
        self.ask_anywhere(room_id, Some(room_version), message).await
    }

    async fn ask_anywhere<M: RoomMessage>(
        &self,
        room_id: &RoomId,
        elsewhere: Option<&RoomVersion>,
        message: M,
    ) -> Result<M::Reply, AskError<M::Refusal>> {
        if self.shared.is_closed.load(Ordering::Acquire) {
            return Err(AskError::Failed);
        }
        let mut message = message;
        let mut judged: Option<Judged> = None;
        for _ in 0..ENTRIES_MAX {
            let (addr, counted_in, incarnation) = match self.find(room_id) {
                Found::Live(addr, counted_in, incarnation) => (addr, counted_in, incarnation),
                Found::Full => return Err(AskError::Overloaded),
                Found::Quarantined => return Err(AskError::Failed),
                Found::Loading(loading) => {
                    start_outcome(loading.await)?;
                    continue;
                }
                Found::Absent => {
                    let stored = self.shared.context.stores.rooms.room(room_id).await;
                    let is_stored = stored.map_err(|error| AskError::Storage(error.into()))?.is_some();
                    if !is_stored && elsewhere.is_none() {
                        return Err(AskError::RoomNotHere);
                    }
                    start_outcome(self.start(room_id, elsewhere.cloned()).await)?;
                    continue;
                }
            };
            // Only now: what this actor loaded or did before the look-up is in storage or in its memory. Of an actor that
            // starts after the look-up nobody could say that.
            let looked_up = self.look_up(room_id, &message).await;
            let mut lookups = looked_up.map_err(|error| AskError::Storage(error.into()))?;
            if let Some(Judged { earlier, event_id, verdict }) = judged.take() {
                lookups.carry_on(*earlier, event_id, verdict);
            }
            let (reply, answer) = oneshot::channel();
            match enter(&addr, Ask { message, lookups, reply, turns: 0 }) {
                Ok(()) => {
                    counted_in.leave_to_actor();
                    match answer.await.unwrap_or(Answered::Done(Err(AskError::Failed))) {
                        Answered::Done(answer) => return answer,
                        Answered::Unsigned { message: returned, lookups, unsigned } => {
                            let verdict = self.ask_policy_server(&unsigned).await;
                            let event_id = unsigned.event.event_id().to_owned();
                            judged = Some(Judged { earlier: lookups, event_id, verdict });
                            message = returned;
                        }
                    }
                }
                Err(Entering::Full) => return Err(AskError::Overloaded),
                Err(Entering::Stopped(returned)) => {
                    self.forget(room_id, incarnation);
                    message = returned.message;
                }
            }
        }
        Err(AskError::Failed)
    }

    /// Whether a server may come to the room's door, and of which version the room is. Read where a live room shows it, as of
    /// the last durable change; whoever goes in is checked again by the turn.
    ///
    /// # Errors
    /// As of [`Rooms::ask`].
    pub async fn check_door(
        &self,
        room_id: &RoomId,
        origin: &ServerName,
    ) -> Result<RoomVersion, AskError<KnockRefusal>> {
        if self.shared.is_closed.load(Ordering::Acquire) {
            return Err(AskError::Failed);
        }
        match self.shown_door(room_id)? {
            Some(door) => door.check(origin).map_err(AskError::Refused),
            None => self.ask(room_id, CheckDoor { origin: origin.to_owned() }).await,
        }
    }

    /// The door that a live room shows. An overloaded room is not to be bothered with what would follow.
    fn shown_door(&self, room_id: &RoomId) -> Result<Option<Arc<Door>>, AskError<KnockRefusal>> {
        let entries = self.lock();
        let Some(Entry::Live { gauges, door, .. }) = entries.by_room.get(room_id) else { return Ok(None) };
        if self.is_full(gauges) { Err(AskError::Overloaded) } else { Ok(door.load_full()) }
    }

    fn is_full(&self, gauges: &RoomGauges) -> bool {
        gauges.depth() >= u64::try_from(self.shared.mailbox_capacity).unwrap_or(u64::MAX)
    }

    /// Waits for the policy server, which no room does.
    async fn ask_policy_server(&self, unsigned: &Unsigned) -> PolicyVerdict {
        match &self.shared.context.policy_signer {
            Some(signer) => signer.sign(&unsigned.policy_server.via, &unsigned.event).await,
            None => PolicyVerdict::Refused("the room's policy server cannot be asked".to_owned()),
        }
    }

    /// Makes a room; durable when it returns.
    ///
    /// # Errors
    /// [`AskError`]; nothing was made.
    pub async fn create(&self, request: CreateRoom) -> Result<OwnedRoomId, AskError<CreateRefusal>> {
        if self.shared.is_closed.load(Ordering::Acquire) {
            return Err(AskError::Failed);
        }
        for later in (0..SAME_ROOMS_MAX).map(Duration::from_millis) {
            let slot = self.shared.context.stores.writer.reserve()?;
            let context = self.shared.context.clone();
            let (request, incarnation) = (request.clone(), self.draw_incarnation());
            let has_drawn_id = request.room_id.is_some();
            let building = move || create_room::build(&context, request, incarnation, later);
            let built = self.shared.context.cpu.run(building).await;
            let (room_id, commit) = built.map_err(|_| AskError::Failed)?.map_err(AskError::Refused)?;
            match self.shared.context.stores.writer.enqueue(slot, Commit::Room(Box::new(commit))).await {
                Ok(_) => {
                    self.shared.context.gauges.room_created();
                    // Whoever makes a room uses it next. If it does not start, the first message says why.
                    let _ = self.start(&room_id, None).await;
                    return Ok(room_id);
                }
                Err(CommitError::Conflict(Conflict::RoomExists)) if !has_drawn_id => {}
                Err(CommitError::Conflict(Conflict::RoomExists)) => break,
                Err(error) => return Err(AskError::Storage(error)),
            }
        }
        Err(AskError::Refused(CreateRefusal::RoomExists))
    }

    /// Makes a room of another server ours too, with what it answered to the join of a user of ours. Durable when it returns.
    /// Nothing happens if the user is joined already.
    ///
    /// # Errors
    /// [`AskError`]; with `Refused` nothing changed. [`ImportRefusal::LivedIn`]: we are in the room already, so the join is one
    /// event more of it; hand it in as any received event.
    pub async fn import_join(
        &self,
        room_id: &RoomId,
        room_version: &RoomVersion,
        answer: JoinAnswer,
    ) -> Result<(), AskError<ImportRefusal>> {
        let (version, seed) = (room_version.clone(), self.shared.context.core_seed);
        let judged = self.shared.context.cpu.run(move || JudgedJoin::judge(answer, &version, seed)).await;
        let judged = judged.map_err(|_| AskError::Failed)?.map_err(AskError::Refused)?;
        self.ask_out_of_band(room_id, room_version, ImportJoin { judged }).await
    }

    /// Takes what a knock of a user of ours on a room elsewhere costs, before anybody is asked. A knock on a room here is
    /// counted by the room's turn.
    ///
    /// # Errors
    /// [`KnockRefusal::OverRate`]; nothing was taken.
    pub fn count_knock_elsewhere(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), KnockRefusal> {
        let context = &self.shared.context;
        let Some(limits) = &context.limits else { return Ok(()) };
        let counted = limits.take(room_id, user_id, &KnockSource::ClientElsewhere, context.clock.monotonic());
        counted.inspect_err(|refusal| context.gauges.knock_refused(refusal.name()))
    }

    /// Who types in the rooms.
    pub fn typing(&self) -> &Typing {
        &self.shared.context.typing
    }

    /// Counters and gauges; reading them asks no actor.
    pub fn gauges(&self) -> &Gauges {
        &self.shared.context.gauges
    }

    /// Answers no more: every ask fails from now on. Turns that run are finished.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }

    /// An actor threw itself away: the next message starts another.
    pub(crate) fn discarded(&self, room_id: &RoomId, incarnation: u64) {
        let mut entries = self.lock();
        if entries.remove_live(room_id, incarnation) {
            let restarts = entries.restarts.entry(room_id.to_owned()).or_default();
            *restarts = Restarts { count: restarts.count.saturating_add(1), is_due: true };
            drop(entries);
            self.shared.context.gauges.actor_stopped(room_id, false);
        }
    }

    /// An actor is idle and wants to go; `false` when a message is on its way to it.
    pub(crate) fn passivated(&self, room_id: &RoomId, incarnation: u64) -> bool {
        let mut entries = self.lock();
        let nothing_waits = match entries.by_room.get(room_id) {
            // Whoever finds the actor counts itself in under this very lock; so zero is final.
            Some(Entry::Live { gauges, incarnation: of_entry, .. }) => *of_entry == incarnation && gauges.depth() == 0,
            _ => false,
        };
        if !nothing_waits || !entries.remove_live(room_id, incarnation) {
            return false;
        }
        drop(entries);
        self.shared.context.gauges.actor_stopped(room_id, true);
        true
    }

    async fn look_up<M: RoomMessage>(&self, room_id: &RoomId, message: &M) -> Result<Lookups, StorageError> {
        let context = &self.shared.context;
        let mut lookups = Lookups::new(context.clock.now());
        let event_ids = message.events_to_look_up();
        if !event_ids.is_empty() {
            let stored = context.stores.rooms.events(room_id, &event_ids).await?;
            stored.into_iter().flatten().for_each(|stored| lookups.insert(stored));
        }
        if let Some(transaction) = message.transaction() {
            lookups.set_transaction(context.stores.rooms.transaction(transaction).await?);
        }
        Ok(lookups)
    }

    fn find(&self, room_id: &RoomId) -> Found {
        let entries = self.lock();
        match entries.by_room.get(room_id) {
            Some(Entry::Live { addr, gauges, incarnation, .. }) => {
                if self.is_full(gauges) {
                    return Found::Full;
                }
                Found::Live(addr.clone(), CountedIn::new(gauges.clone()), *incarnation)
            }
            Some(Entry::Loading(loading)) => Found::Loading(loading.clone()),
            None => {
                let now = self.shared.context.clock.monotonic();
                let until = entries.failures.get(room_id).and_then(|failures| failures.quarantined_until);
                if until.is_some_and(|until| now < until) { Found::Quarantined } else { Found::Absent }
            }
        }
    }

    /// Starts the room's actor, or joins a start that is under way.
    fn start(
        &self,
        room_id: &RoomId,
        elsewhere: Option<RoomVersion>,
    ) -> Shared<BoxFuture<'static, Result<(), StartError>>> {
        let mut entries = self.lock();
        match entries.by_room.get(room_id) {
            Some(Entry::Loading(loading)) => return loading.clone(),
            Some(Entry::Live { .. }) => return futures_util::future::ready(Ok(())).boxed().shared(),
            None => {}
        }
        let (done, outcome) = oneshot::channel();
        let loading = outcome.map(|outcome| outcome.unwrap_or(Err(StartError::Gone))).boxed().shared();
        entries.by_room.insert(room_id.to_owned(), Entry::Loading(loading.clone()));
        drop(entries);
        let (rooms, room_id) = (self.clone(), room_id.to_owned());
        let starting = {
            let (rooms, room_id) = (rooms.clone(), room_id.clone());
            async move {
                let _ = done.send(rooms.load_and_start(room_id, elsewhere).await);
            }
        };
        let has_arbiter = rooms.arbiter_of(&room_id).is_some_and(|arbiter| arbiter.spawn(starting));
        if !has_arbiter {
            self.lock().by_room.remove(&room_id);
        }
        loading
    }

    async fn load_and_start(&self, room_id: OwnedRoomId, elsewhere: Option<RoomVersion>) -> Result<(), StartError> {
        let context = self.shared.context.clone();
        let loaded = AssertUnwindSafe(load(context, &room_id, elsewhere)).catch_unwind().await;
        let mut room = match loaded {
            Ok(Ok(Some(room))) => room,
            Ok(Ok(None)) => {
                self.lock().by_room.remove(&room_id);
                return Err(StartError::NotStored);
            }
            Ok(Err(error)) => {
                if error.is_about_the_room() {
                    error!(room_id:%, error:%; "cannot load the room");
                    self.load_failed(&room_id);
                } else {
                    self.lock().by_room.remove(&room_id);
                }
                return Err(error.into());
            }
            Err(_) => {
                error!(room_id:%; "loading the room panicked");
                self.load_failed(&room_id);
                return Err(StartError::Gone);
            }
        };
        let incarnation = self.draw_incarnation();
        let restarts = self.lock().take_restarts(&room_id);
        let now = self.shared.context.clock.now();
        let facts = room.facts();
        let gauges =
            Arc::new(RoomGauges::new(room_id.clone(), facts, self.shared.mailbox_capacity, now, restarts.count));
        let context = self.shared.context.clone();
        let door = Arc::new(ArcSwapOption::new(room.door()));
        let (rooms, idle_timeout) = (self.clone(), self.shared.idle_timeout);
        let actor = RoomActor::new(room, context, gauges.clone(), door.clone(), rooms, incarnation, idle_timeout);
        // Before the first message can arrive: what enters is bounded by `find`, and this bound must be no smaller.
        let capacity = self.shared.mailbox_capacity;
        let addr = RoomActor::create(|context| {
            context.set_mailbox_capacity(capacity);
            actor
        });
        self.shared.context.gauges.actor_started(gauges.clone(), restarts.is_due);
        let mut entries = self.lock();
        entries.failures.remove(&room_id);
        entries.by_room.insert(room_id.clone(), Entry::Live { addr, gauges, door, incarnation });
        entries.live = entries.live.saturating_add(1);
        entries.add_to_hand(room_id.clone());
        let too_many = entries.live > self.shared.live_max;
        let idle = if too_many { entries.choose_idle(&room_id, now) } else { None };
        drop(entries);
        self.shared.context.gauges.end_quarantine(&room_id);
        if let Some(idle) = idle {
            // A full mailbox is not idle; then another start chooses another.
            let _ = idle.try_send(Passivate);
        }
        Ok(())
    }

    fn load_failed(&self, room_id: &RoomId) {
        let now = self.shared.context.clock.monotonic();
        let mut entries = self.lock();
        entries.by_room.remove(room_id);
        let failed_before = entries.failures.get(room_id).map(|failures| failures.last);
        let again = failed_before.is_some_and(|last| now.saturating_sub(last) <= LOAD_FAILURES_WITHIN);
        let quarantined_until = again.then(|| now.saturating_add(QUARANTINE));
        entries.failures.insert(room_id.to_owned(), LoadFailures { last: now, quarantined_until });
        drop(entries);
        if again {
            warn!(room_id:%; "room is in quarantine");
            self.shared.context.gauges.quarantine(room_id.to_owned(), self.shared.context.clock.now());
        }
    }

    fn forget(&self, room_id: &RoomId, incarnation: u64) {
        if self.lock().remove_live(room_id, incarnation) {
            self.shared.context.gauges.actor_stopped(room_id, false);
        }
    }

    fn draw_incarnation(&self) -> u64 {
        self.shared.next_incarnation.fetch_add(1, Ordering::Relaxed)
    }

    fn arbiter_of(&self, room_id: &RoomId) -> Option<&ArbiterHandle> {
        let hash = room_id
            .as_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let count = u64::try_from(self.shared.arbiters.len()).unwrap_or(u64::MAX);
        let index = hash.checked_rem(count).and_then(|index| usize::try_from(index).ok())?;
        self.shared.arbiters.get(index)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// How often the room's actor was discarded, and whether the start under way follows from that.
    fn take_restarts(&mut self, room_id: &RoomId) -> Restarts {
        let Some(restarts) = self.restarts.get_mut(room_id) else { return Restarts::default() };
        let taken = *restarts;
        restarts.is_due = false;
        taken
    }

    fn remove_live(&mut self, room_id: &RoomId, incarnation: u64) -> bool {
        let is_it = matches!(
            self.by_room.get(room_id),
            Some(Entry::Live { incarnation: of_entry, .. }) if *of_entry == incarnation
        );
        if is_it {
            self.by_room.remove(room_id);
            self.live = self.live.saturating_sub(1);
        }
        is_it
    }

    /// Rooms that went leave their names in the queue; it is cleaned when most of it is such names.
    fn add_to_hand(&mut self, room_id: OwnedRoomId) {
        const STALE_MIN: usize = 64;
        if self.hand.len() > self.live.saturating_mul(2).saturating_add(STALE_MIN) {
            let mut seen = std::collections::HashSet::new();
            let by_room = &self.by_room;
            self.hand.retain(|id| by_room.contains_key(id) && seen.insert(id.clone()));
        }
        self.hand.push_back(room_id);
    }

    /// A live room to go, other than the newest, among those whose turn it is: one that has been idle, or else, of those for
    /// which nothing waits, the one that was quiet for the longest time. So there are never many too many, however fast rooms
    /// are woken.
    fn choose_idle(&mut self, newest: &RoomId, now: vestibule_protocol::clock::UnixMillis) -> Option<Addr<RoomActor>> {
        const BUSY_WITHIN: Duration = Duration::from_secs(1);
        let mut quietest: Option<(vestibule_protocol::clock::UnixMillis, Addr<RoomActor>)> = None;
        for _ in 0..PASSIVATION_LOOKS_MAX {
            let Some(candidate) = self.hand.pop_front() else { break };
            let Some(Entry::Live { addr, gauges, .. }) = self.by_room.get(&candidate) else { continue };
            let (addr, last_active) = (addr.clone(), gauges.last_active());
            let may_go = gauges.depth() == 0 && *candidate != *newest;
            self.hand.push_back(candidate);
            if may_go && now.since(last_active) >= BUSY_WITHIN {
                return Some(addr);
            }
            if may_go && quietest.as_ref().is_none_or(|(earliest, _)| last_active < *earliest) {
                quietest = Some((last_active, addr));
            }
        }
        quietest.map(|(_, addr)| addr)
    }
}

fn start_outcome<R>(outcome: Result<(), StartError>) -> Result<(), AskError<R>> {
    match outcome {
        Ok(()) => Ok(()),
        Err(StartError::NotStored) => Err(AskError::RoomNotHere),
        Err(StartError::Load(LoadError::Storage(error))) => Err(AskError::Storage(error.into())),
        Err(StartError::Load(_) | StartError::Gone) => Err(AskError::Failed),
    }
}

/// What a policy server said, on its way back into the room.
struct Judged {
    earlier: Box<Lookups>,
    event_id: OwnedEventId,
    verdict: PolicyVerdict,
}

/// Why a message did not enter a mailbox.
enum Entering<M: RoomMessage> {
    Full,
    Stopped(Ask<M>),
}

fn enter<M: RoomMessage>(addr: &Addr<RoomActor>, ask: Ask<M>) -> Result<(), Entering<M>>
where
    <RoomActor as Actor>::Context: ToEnvelope<RoomActor, Ask<M>>,
{
    addr.try_send(ask).map_err(|refusal| match refusal {
        actix::dev::SendError::Full(_) => Entering::Full,
        actix::dev::SendError::Closed(ask) => Entering::Stopped(ask),
    })
}

#[cfg(test)]
mod tests;
