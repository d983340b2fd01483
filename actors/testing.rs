//! Rooms in memory for tests: a store that can be stopped, a clock that is set by hand, and peers that sign.
//! May not: be part of the program. It exists under `cfg(test)` and the feature `testing`, and panics when misused.
//!
//! ```text
//! let world = World::new();
//! let room = world.knockable(RoomVersionId::V12).await;
//! let admitted = world.knock(&room, "@bob:peer.test").await;
//! ```

#![expect(clippy::expect_used, clippy::panic, reason = "a fixture that cannot be built must stop its test")]

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_rt::{Arbiter, ArbiterHandle};
use futures_util::FutureExt;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId,
    ServerName,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::{Value, json};
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    fixture::{ALICE, EPOCH, canonical, identity, public_keys, user, version},
    membership::{
        KnockRefusal, LeaveRefusal, MembershipRefusal, ReceiveRefusal, SendRefusal,
        change::MembershipChange,
        handshake::{Handshake, HandshakeKind, HandshakeShape, SignedHandshake, SignedKnock, SignedLeave},
        knock::KnockPolicy,
    },
    pdu::checks::{ShapedPdu, VerifiedPdu, event_id_of},
    room_version::RoomVersion,
};
use vestibule_storage::{
    Read,
    commit::{Commit, CommitListener, Stores},
    memory::MemoryStorage,
    outbox::{Delivery, OutboxDone, OutboxRow},
    room::{Decision, Direction, KnockRow, StoredEvent},
};

use crate::{
    AdmitKnock, AdmitLeave, AdmittedKnock, AskError, ChangeMembership, CpuPool, CreateRoom, InitialEvent,
    KnockTemplate, LeaveTemplate, PolicySigner, PrepareKnock, PrepareLeave, ReceivePdu, Received, Rooms, RoomsOptions,
    SendEvent, SourceNetwork, SyncNotifier, Typing, gauges::Totals, limits::KnockRates,
};

/// The name of the server under test.
pub const RESIDENT: &str = "resident.test";

/// Real time that [`until`] waits before it gives up: far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a condition holds, without sleeping.
///
/// # Panics
/// When it does not within half a minute.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::task::yield_now().await;
    }
}

/// Lets everything run that can run on this thread.
pub async fn settle() {
    const TURNS: usize = 64;
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// What a read answers; the store in memory answers at once, and any other whatever needs but a few keys.
pub fn read<T>(read: Read<'_, T>) -> T {
    read.now_or_never().expect("it is answered at once").expect("no fault was asked for")
}

/// A clock that stands still until it is set, or goes on by a step whenever it is looked at.
#[derive(Debug)]
pub struct ManualClock {
    times: Mutex<(UnixMillis, Duration)>,
    step: Mutex<Duration>,
}

impl ManualClock {
    /// Shows that wall-clock time.
    pub fn at(now: UnixMillis) -> Self {
        Self { times: Mutex::new((now, Duration::ZERO)), step: Mutex::new(Duration::ZERO) }
    }

    /// From now on no two looks at the wall clock show the same time: it goes on by `step` after each.
    pub fn step_by(&self, step: Duration) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// Lets both times go on.
    pub fn advance(&self, span: Duration) {
        let mut times = self.lock();
        *times = (times.0.plus(span), times.1.saturating_add(span));
    }

    /// Sets the wall clock alone, backwards too.
    pub fn set_wall(&self, now: UnixMillis) {
        self.lock().0 = now;
    }

    fn lock(&self) -> MutexGuard<'_, (UnixMillis, Duration)> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        let step = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times = self.lock();
        let now = times.0;
        times.0 = now.plus(step);
        now
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}

/// What a [`World`] is made with.
#[derive(Clone)]
pub struct Settings {
    /// The server's name, [`RESIDENT`] unless there are several.
    pub server_name: OwnedServerName,
    /// `[knock]`.
    pub policy: KnockPolicy,
    /// Asks rooms' policy servers; nobody by default.
    pub policy_signer: Option<Arc<dyn PolicySigner>>,
    /// The rates; off by default.
    pub rates: Option<KnockRates>,
    /// The arbiters; the current one when there are none.
    pub arbiters: Vec<ArbiterHandle>,
    /// `actors.mailbox_capacity`.
    pub mailbox_capacity: usize,
    /// `actors.live_max`.
    pub live_max: usize,
    /// `actors.idle_timeout`.
    pub idle_timeout: Duration,
    /// Commits that may wait in the store.
    pub writer_slots: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server_name: server(RESIDENT),
            policy: KnockPolicy {
                repeat_after: Duration::from_hours(1),
                max_pending_per_room: 1_000,
                max_pending_per_origin_in_room: 50,
            },
            policy_signer: None,
            rates: None,
            arbiters: Vec::new(),
            mailbox_capacity: 1_024,
            live_max: 2_000,
            idle_timeout: Duration::from_mins(1),
            writer_slots: 1_024,
        }
    }
}

/// A server without network and disk: rooms, the store they are kept in, and its clock. Needs an actix system.
pub struct World {
    /// The store, unless the rooms are [over](Self::over) another: then nothing is in it.
    pub storage: MemoryStorage,
    /// Hears of commits.
    pub notifier: SyncNotifier,
    /// The clock.
    pub clock: Arc<ManualClock>,
    /// The rooms.
    pub rooms: Rooms,
    /// Where long work runs: [`CPU_PERMITS`] pieces at a time.
    pub cpu: CpuPool,
    settings: Settings,
    stores: Stores,
}

/// Pieces of work that run at a time in [`World::cpu`].
pub const CPU_PERMITS: usize = 2;

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// With the settings of a fresh installation, but no rates.
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    /// Another server, with the settings of a fresh installation.
    pub fn named(server_name: &str) -> Self {
        Self::with(Settings { server_name: server(server_name), ..Settings::default() })
    }

    /// With these settings.
    pub fn with(settings: Settings) -> Self {
        let notifier = SyncNotifier::default();
        let storage = MemoryStorage::with_slots(settings.writer_slots, Arc::new(notifier.clone()));
        let clock = Arc::new(ManualClock::at(EPOCH));
        Self::on(storage, notifier, clock, settings)
    }

    /// Over another store than the one in memory, with whose faults, restarts and commits [`Self::storage`] has nothing to do.
    pub fn over(stores: Stores) -> Self {
        let clock = Arc::new(ManualClock::at(EPOCH));
        Self::built(MemoryStorage::new(), stores, SyncNotifier::default(), clock, Settings::default())
    }

    fn on(storage: MemoryStorage, notifier: SyncNotifier, clock: Arc<ManualClock>, settings: Settings) -> Self {
        let stores = storage.stores();
        Self::built(storage, stores, notifier, clock, settings)
    }

    fn built(
        storage: MemoryStorage,
        stores: Stores,
        notifier: SyncNotifier,
        clock: Arc<ManualClock>,
        settings: Settings,
    ) -> Self {
        let arbiters = if settings.arbiters.is_empty() { vec![Arbiter::current()] } else { settings.arbiters.clone() };
        let cpu = CpuPool::new(CPU_PERMITS);
        let rooms = Rooms::new(RoomsOptions {
            identity: Arc::new(identity(&settings.server_name)),
            clock: clock.clone(),
            stores: stores.clone(),
            policy: settings.policy,
            rates: settings.rates,
            cpu: cpu.clone(),
            policy_signer: settings.policy_signer.clone(),
            typing: Typing::new(notifier.clone(), clock.clone()),
            arbiters,
            mailbox_capacity: settings.mailbox_capacity,
            live_max: settings.live_max,
            idle_timeout: settings.idle_timeout,
            core_seed: 7,
        });
        Self { storage, notifier, clock, rooms, cpu, settings, stores }
    }

    /// A new server on a copy of what is durable now: what a crash leaves.
    pub fn restarted(&self) -> Self {
        self.restarted_with(self.settings.clone())
    }

    /// As [`Self::restarted`], with other settings.
    pub fn restarted_with(&self, settings: Settings) -> Self {
        let notifier = SyncNotifier::default();
        let listener: Arc<dyn CommitListener> = Arc::new(notifier.clone());
        Self::on(self.storage.restart(listener), notifier, self.clock.clone(), settings)
    }

    /// The store's handles.
    pub fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// The counters.
    pub fn totals(&self) -> Totals {
        self.rooms.gauges().totals()
    }

    /// Makes a room of Alice's on which anybody may knock.
    pub async fn knockable(&self, version_id: RoomVersionId) -> TestRoom {
        self.room_with(version_id, "fixture", vec![("m.room.join_rules", json!({ "join_rule": "knock" }))]).await
    }

    /// Makes a room of Alice's with these state events behind her join and the power levels.
    pub async fn room_with(&self, version_id: RoomVersionId, localpart: &str, state: Vec<(&str, Value)>) -> TestRoom {
        let room_version = version(&version_id);
        let mut power_levels = json!({ "users": {} });
        if !room_version.creators_are_privileged() {
            power_levels = json!({ "users": { ALICE: 100 } });
        }
        let mut initial = vec![state_event("m.room.power_levels", power_levels)];
        initial.extend(state.into_iter().map(|(kind, content)| state_event(kind, content)));
        let room_id = RoomId::parse(format!("!{localpart}:{RESIDENT}")).expect("a fixture's room id parses");
        let request = CreateRoom {
            creator: user(ALICE),
            room_version: version_id,
            room_id: (!room_version.room_id_is_create_hash()).then_some(room_id),
            // Rooms of version 12 get their id from the hash of the create event; so it must differ.
            create_content: canonical(json!({ "test.name": localpart })),
            creator_content: canonical(json!({ "displayname": "Alice" })),
            initial,
        };
        let room_id = self.rooms.create(request).await.expect("the room can be made");
        TestRoom { room_id, version: room_version }
    }

    /// `make_knock`.
    ///
    /// # Errors
    /// As the room answers.
    pub async fn prepare(&self, room: &TestRoom, user_id: &str) -> Result<KnockTemplate, AskError<KnockRefusal>> {
        let user_id = user(user_id);
        let request = PrepareKnock {
            origin: user_id.server_name().to_owned(),
            user_id,
            offered: RoomVersion::hosted(),
            network: network(),
        };
        self.rooms.ask(&room.room_id, request).await
    }

    /// A template that must be given.
    pub async fn template(&self, room: &TestRoom, user_id: &str) -> CanonicalJsonObject {
        self.prepare(room, user_id).await.expect("a template is given").event
    }

    /// `send_knock`.
    ///
    /// # Errors
    /// As the room answers.
    pub async fn admit(&self, room: &TestRoom, knock: SignedKnock) -> Result<AdmittedKnock, AskError<KnockRefusal>> {
        self.rooms.ask(&room.room_id, AdmitKnock { knock, network: network() }).await
    }

    /// `make_knock`, then `send_knock`, both of which must succeed; gives back the event's id.
    pub async fn knock(&self, room: &TestRoom, user_id: &str) -> OwnedEventId {
        let knock = room.signed_knock(&self.template(room, user_id).await, user_id, "please");
        let event_id = knock.pdu().event_id().to_owned();
        self.admit(room, knock).await.expect("the knock is admitted");
        event_id
    }

    /// `make_leave`.
    ///
    /// # Errors
    /// As the room answers.
    pub async fn prepare_leave(&self, room: &TestRoom, user_id: &str) -> Result<LeaveTemplate, AskError<LeaveRefusal>> {
        let user_id = user(user_id);
        let origin = user_id.server_name().to_owned();
        self.rooms.ask(&room.room_id, PrepareLeave { user_id, origin }).await
    }

    /// `send_leave`.
    ///
    /// # Errors
    /// As the room answers.
    pub async fn admit_leave(&self, room: &TestRoom, leave: SignedLeave) -> Result<(), AskError<LeaveRefusal>> {
        self.rooms.ask(&room.room_id, AdmitLeave { leave }).await
    }

    /// `make_leave`, then `send_leave`, both of which must succeed.
    pub async fn leave(&self, room: &TestRoom, user_id: &str) -> OwnedEventId {
        let template = self.prepare_leave(room, user_id).await.expect("a template is given").event;
        let leave = room.signed_leave(&template, user_id);
        let event_id = leave.pdu().event_id().to_owned();
        self.admit_leave(room, leave).await.expect("the leave is admitted");
        event_id
    }

    /// A client's change of a membership.
    ///
    /// # Errors
    /// As the room answers.
    pub async fn change(
        &self,
        room: &TestRoom,
        sender: &str,
        change: MembershipChange,
        target: &str,
    ) -> Result<OwnedEventId, AskError<MembershipRefusal>> {
        self.rooms.ask(&room.room_id, membership_change(sender, change, target, json!({}))).await
    }

    /// A client's event.
    ///
    /// # Errors
    /// As the room answers.
    pub async fn send(&self, room: &TestRoom, event: SendEvent) -> Result<OwnedEventId, AskError<SendRefusal>> {
        self.rooms.ask(&room.room_id, event).await
    }

    /// Sets state with the empty key as Alice; it must succeed.
    pub async fn set_state(&self, room: &TestRoom, kind: &str, content: Value) -> OwnedEventId {
        let sent = self.send(room, event(ALICE, kind, Some(""), content)).await;
        sent.unwrap_or_else(|error| panic!("{kind} was not sent: {error:?}"))
    }

    /// A stored event, if it is there.
    pub fn stored(&self, room: &TestRoom, event_id: &OwnedEventId) -> Option<StoredEvent> {
        let event_ids = [event_id.clone()];
        read(self.stores().rooms.events(&room.room_id, &event_ids)).into_iter().next().flatten()
    }

    /// The room's timeline, oldest first.
    pub fn timeline(&self, room: &TestRoom) -> Vec<StoredEvent> {
        read(self.stores().rooms.timeline(&room.room_id, None, Direction::Forward, usize::MAX))
    }

    /// A user's membership in the stored current state.
    pub fn membership(&self, room: &TestRoom, user_id: &str) -> MembershipState {
        let stores = self.stores();
        let stored = stores.rooms.current_state_event(&room.room_id, &StateEventType::RoomMember, user_id);
        read(stored).and_then(|stored| stored.event.membership()).unwrap_or(MembershipState::Leave)
    }

    /// The stored pending knocks of the room.
    pub fn pending(&self, room: &TestRoom) -> Vec<KnockRow> {
        read(self.stores().rooms.pending_knocks(Some(&room.room_id), None, usize::MAX))
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.settings.server_name
    }

    /// What is owed to a server, oldest first.
    pub fn owed_to(&self, server_name: &str) -> Vec<OutboxRow> {
        read(self.stores().outbox.pending(&server(server_name), None, usize::MAX))
    }

    /// Hands every event that is owed to another server's transactions over to it, in order; what became of each.
    pub async fn deliver(&self, to: &Self) -> Vec<Result<Received, AskError<ReceiveRefusal>>> {
        let destination = to.server_name().to_owned();
        let mut outcomes = Vec::new();
        for row in read(self.stores().outbox.pending(&destination, None, usize::MAX)) {
            if row.delivery == Delivery::Transaction {
                let event = self.verified(&row.room_id, &row.event_id);
                let origin = self.server_name().to_owned();
                outcomes.push(to.rooms.ask(&row.room_id, ReceivePdu { event, origin }).await);
            }
            let done = OutboxDone { destination: destination.clone(), places: vec![row.place] };
            let stores = self.stores();
            let slot = stores.writer.reserve().expect("a slot is free");
            stores.writer.enqueue(slot, Commit::OutboxDone(done)).await.expect("no fault was asked for");
        }
        outcomes
    }

    /// A stored event, as another server has it after its checks.
    pub fn verified(&self, room_id: &RoomId, event_id: &OwnedEventId) -> VerifiedPdu {
        let stored = read(self.stores().rooms.events(room_id, std::slice::from_ref(event_id)));
        let event = stored.into_iter().next().flatten().expect("the event is stored").event;
        let row = read(self.stores().rooms.room(room_id)).expect("the room is stored");
        verified(event.to_object().expect("a stored event is an object"), &version(&row.room_version))
    }

    /// The audit rows, oldest first.
    pub fn decisions(&self) -> Vec<Decision> {
        let newest_first = read(self.stores().rooms.decisions(None, usize::MAX));
        newest_first.into_iter().rev().map(|(_, decision)| decision).collect()
    }
}

/// A room of a [`World`], as peers know it.
#[derive(Clone, Debug)]
pub struct TestRoom {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersion,
}

impl TestRoom {
    /// A template filled in for a user, signed by the user's server, structure and signature judged.
    pub fn signed_knock(&self, template: &CanonicalJsonObject, user_id: &str, reason: &str) -> SignedKnock {
        let mut event = template.clone();
        put(&mut event, "content", json!({ "membership": "knock", "reason": reason }));
        self.signed(event, user_id, HandshakeKind::Knock).into_knock().expect("it is a knock")
    }

    /// As [`Self::signed_knock`], for a leave.
    pub fn signed_leave(&self, template: &CanonicalJsonObject, user_id: &str) -> SignedLeave {
        self.signed(template.clone(), user_id, HandshakeKind::Leave).into_leave().expect("it is a leave")
    }

    /// Signs an event for a user and judges structure and signature as the handshake's endpoint does.
    pub fn signed(&self, mut event: CanonicalJsonObject, user_id: &str, kind: HandshakeKind) -> SignedHandshake {
        put(&mut event, "sender", json!(user_id));
        put(&mut event, "state_key", json!(user_id));
        let origin = user(user_id).server_name().to_owned();
        identity(&origin).hash_and_sign(&mut event, self.version.rules()).expect("an event can be signed");
        let event_id = event_id_of(&event, &self.version).expect("an event has a hash");
        let expected = Handshake {
            kind,
            version: &self.version,
            room_id: &self.room_id,
            event_id: &event_id,
            origin: &origin,
            now: EPOCH.plus(Duration::from_hours(24 * 365)),
        };
        let shape = HandshakeShape::parse(event, &expected).expect("the event has the right structure");
        shape.verify(&public_keys([&*origin])).expect("the signature verifies")
    }
}

/// An event after the checks of everybody who receives it: format, signature of its sender's server, hash.
pub fn verified(event: CanonicalJsonObject, version: &RoomVersion) -> VerifiedPdu {
    let shaped = ShapedPdu::parse(event, version).expect("the event has the right format");
    let signers = shaped.required_signatures().expect("the event says who signs it");
    let keys = public_keys(signers.keys().map(|server_name| &**server_name));
    shaped.verify(&keys).expect("the signatures verify")
}

/// Puts a value into an event.
pub fn put(event: &mut CanonicalJsonObject, key: &str, value: Value) {
    event.insert(key.to_owned(), CanonicalJsonValue::try_from(value).expect("a fixture's JSON is canonical"));
}

/// A client's wish to change a membership.
pub fn membership_change(sender: &str, change: MembershipChange, target: &str, content: Value) -> ChangeMembership {
    let (sender, target) = (user(sender), user(target));
    ChangeMembership { sender, target, change, content: canonical(content), network: network() }
}

/// A client's wish to send an event.
pub fn event(sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> SendEvent {
    SendEvent {
        sender: user(sender),
        kind: TimelineEventType::from(kind),
        state_key: state_key.map(ToOwned::to_owned),
        content: canonical(content),
        redacts: None,
        transaction: None,
    }
}

/// A client's wish to send a text.
pub fn message(sender: &str, body: &str) -> SendEvent {
    event(sender, "m.room.message", None, json!({ "msgtype": "m.text", "body": body }))
}

/// The network that all fixture requests come from.
pub fn network() -> SourceNetwork {
    SourceNetwork::of([192, 0, 2, 1].into())
}

/// A server name from text.
pub fn server(name: &str) -> OwnedServerName {
    ServerName::parse(name).expect("a fixture's server name parses")
}

fn state_event(kind: &str, content: Value) -> InitialEvent {
    InitialEvent {
        sender: user(ALICE),
        kind: TimelineEventType::from(kind),
        state_key: Some(String::new()),
        content: canonical(content),
    }
}
