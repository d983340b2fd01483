//! Two servers in one process: ours, which asks, and one that has the rooms and answers as its endpoints would.
//! May not: be compiled outside tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use actix_rt::Arbiter;
use futures_util::future::BoxFuture;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedServerSigningKeyId, OwnedUserId, RoomId,
    RoomVersionId, ServerName, UserId, events::room::member::MembershipState,
};
use serde_json::{Value, json};
use vestibule_actors::{
    AdmitJoin, AdmitKnock, AdmitLeave, AskError, CpuPool, LeaveOutOfBand, PrepareJoin, PrepareKnock, PrepareLeave,
    Rooms, RoomsOptions, SyncNotifier, Typing,
    testing::{ManualClock, RESIDENT, TestRoom, World, network, read, server},
};
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    fixture::{identity, public_keys, user},
    membership::{
        handshake::{Handshake, HandshakeKind, HandshakeShape, SignedHandshake},
        knock::KnockPolicy,
    },
    pdu::Pdu,
    state::StateVersion,
};
use vestibule_storage::{memory::MemoryStorage, room::OutOfBand};

use crate::{
    Federation, FederationParts, FederationSettings, OutboundQueue, Sender,
    client::{Client, RemoteError},
    discovery::Discovery,
    keyring::{KeySource, Keyring, KeyringSettings},
    sender::{Backoff, SenderParts, SenderSettings},
    testing::{Answer, KeyDocument, Peers, ScriptedResolver, Sent, response},
};

pub(super) const US: &str = "us.test";
pub(super) const ANNA: &str = "@anna:us.test";
pub(super) const OTHER: &str = "other.test";

/// Every server's keys are those of the fixture.
struct FixtureKeys {
    clock: Arc<dyn Clock>,
}

impl KeySource for FixtureKeys {
    fn server_keys<'a>(
        &'a self,
        server: &'a ServerName,
        _: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>> {
        let valid_until = self.clock.now().plus(Duration::from_hours(48));
        Box::pin(async move {
            let owner = identity(server);
            Ok(KeyDocument::of(server.as_str(), valid_until).verify_key(&owner).signed_by(&[&owner]))
        })
    }

    fn notary_keys<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ServerName,
        _: &'a [OwnedServerSigningKeyId],
        _: UnixMillis,
        _: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>> {
        Box::pin(async { Err(RemoteError::Timeout) })
    }
}

/// Our server.
pub(super) struct Us {
    pub(super) storage: MemoryStorage,
    pub(super) federation: Federation,
    pub(super) sender: Sender,
    rooms: Rooms,
    pub(super) peers: Arc<Peers>,
}

impl Us {
    pub(super) fn new(peers: Arc<Peers>, clock: Arc<ManualClock>) -> Self {
        let queue = OutboundQueue::default();
        Self::on(MemoryStorage::with_listener(Arc::new(queue.clone())), queue, peers, clock)
    }

    /// As a stop and a start leave us.
    pub(super) fn restarted(&self, peers: Arc<Peers>, clock: Arc<ManualClock>) -> Self {
        let queue = OutboundQueue::default();
        Self::on(self.storage.restart(Arc::new(queue.clone())), queue, peers, clock)
    }

    fn on(storage: MemoryStorage, queue: OutboundQueue, peers: Arc<Peers>, clock: Arc<ManualClock>) -> Self {
        let us = Arc::new(identity(&server(US)));
        let stores = storage.stores();
        let cpu = CpuPool::new(1);
        let rooms = Rooms::new(RoomsOptions {
            identity: us.clone(),
            clock: clock.clone(),
            stores: stores.clone(),
            policy: KnockPolicy {
                repeat_after: Duration::from_hours(1),
                max_pending_per_room: 100,
                max_pending_per_origin_in_room: 50,
            },
            rates: None,
            cpu: cpu.clone(),
            policy_signer: None,
            typing: Typing::new(SyncNotifier::default(), clock.clone()),
            arbiters: vec![Arbiter::current()],
            mailbox_capacity: 64,
            live_max: 100,
            idle_timeout: Duration::from_mins(1),
            core_seed: 3,
        });
        let resolver = ScriptedResolver::default().address(RESIDENT, "1.1.1.1").address(OTHER, "2.2.2.2");
        let discovery =
            Discovery::new(Arc::new(resolver), peers.clone(), BTreeMap::new(), clock.clone(), Arc::new(|| 0));
        let keys = FixtureKeys { clock: clock.clone() };
        let keyring = Keyring::new(
            us.clone(),
            KeyringSettings::default(),
            Arc::new(keys),
            stores.server_keys.clone(),
            clock.clone(),
        );
        let client = Client::new(us.clone(), discovery, peers.clone());
        let request_timeout = Duration::from_secs(20);
        let backoff = Backoff { min: Duration::from_mins(10), max: Duration::from_hours(7 * 24) };
        let sender = Sender::new(
            queue,
            SenderParts {
                identity: us.clone(),
                client: client.clone(),
                stores: stores.clone(),
                rooms: rooms.clone(),
                clock: clock.clone(),
                random: Arc::new(|| 0),
                settings: SenderSettings { request_timeout, backoff },
            },
        );
        let federation = Federation::new(FederationParts {
            identity: us,
            client,
            keyring,
            rooms: rooms.clone(),
            stores,
            typing: rooms.typing().clone(),
            clock,
            random: Arc::new(|| 0),
            cpu,
            settings: FederationSettings { request_timeout, auto_join_accepted: true },
        });
        Self { storage, federation, sender, rooms, peers }
    }

    /// Anna takes her knock back, or declines her invite.
    pub(super) async fn leave(&self, room: &TestRoom) {
        let message = LeaveOutOfBand { user_id: user(ANNA), content: reason("never mind") };
        self.rooms.ask_out_of_band(&room.room_id, &room.version, message).await.unwrap();
    }

    pub(super) fn out_of_band(&self, room_id: &RoomId) -> Option<OutOfBand> {
        read(self.storage.stores().rooms.out_of_band_of(&user(ANNA), room_id))
    }

    pub(super) fn membership(&self, room_id: &RoomId, user_id: &str) -> Option<MembershipState> {
        let kind = ruma::events::StateEventType::RoomMember;
        let stores = self.storage.stores();
        read(stores.rooms.current_state_event(room_id, &kind, user_id)).and_then(|stored| stored.event.membership())
    }

    /// Ids of the timeline, oldest first.
    pub(super) fn timeline(&self, room_id: &RoomId) -> Vec<OwnedEventId> {
        let forward = vestibule_storage::room::Direction::Forward;
        let stores = self.storage.stores();
        let events = read(stores.rooms.timeline(room_id, None, forward, 1000));
        events.iter().map(|stored| stored.event.event_id().to_owned()).collect()
    }

    pub(super) fn sent(&self, word: &str) -> Vec<Sent> {
        self.peers.sent().into_iter().filter(|sent| sent.target.contains(word)).collect()
    }
}

/// The server that has the rooms.
pub(super) struct Resident {
    pub(super) world: Arc<World>,
    pub(super) room: TestRoom,
}

impl Resident {
    pub(super) async fn new(version: RoomVersionId, join_rule: &str) -> Self {
        let world = World::new();
        let state = vec![
            ("m.room.join_rules", json!({ "join_rule": join_rule })),
            ("m.room.name", json!({ "name": "Otters" })),
        ];
        let room = world.room_with(version, "fixture", state).await;
        Self { world: Arc::new(world), room }
    }

    pub(super) fn clock(&self) -> Arc<ManualClock> {
        self.world.clock.clone()
    }

    pub(super) fn room_id(&self) -> OwnedRoomId {
        self.room.room_id.clone()
    }

    /// Answers whatever it is asked, as its endpoints do.
    pub(super) fn answering(&self) -> impl Fn(&Sent) -> BoxFuture<'static, Answer> + Send + Sync + use<> {
        let (world, room) = (self.world.clone(), self.room.clone());
        move |sent| {
            let (world, room, sent) = (world.clone(), room.clone(), sent.clone());
            Box::pin(async move {
                let (path, query) = sent.path();
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                match path[..] {
                    ["v1", "make_knock", _, user_id] => make_knock(&world, &room, user_id, &query).await,
                    ["v1", "send_knock", _, event_id] => send_knock(&world, &room, event_id, sent.body).await,
                    ["v1", "make_join", _, user_id] => make_join(&world, &room, user_id, &query).await,
                    ["v2", "send_join", _, event_id] => send_join(&world, &room, event_id, sent.body).await,
                    ["v1", "make_leave", _, user_id] => make_leave(&world, &room, user_id).await,
                    ["v2", "send_leave", _, event_id] => send_leave(&world, &room, event_id, sent.body).await,
                    ["v1", "get_missing_events", _] => get_missing_events(&world, &room, &sent.body),
                    ["v1", "event", event_id] => event(&world, &room, event_id),
                    ["v1", "state_ids", _] => state_ids(&world, &room, &query),
                    ["v1", "state", _] => whole_state(&world, &room, &query),
                    ["v1", "backfill", _] => backfill(&world, &room, &query),
                    _ => response(404, &[], r#"{"errcode":"M_UNRECOGNIZED"}"#),
                }
            })
        }
    }

    /// An event as it goes over the wire.
    pub(super) fn object(&self, event_id: &OwnedEventId) -> CanonicalJsonObject {
        self.world.stored(&self.room, event_id).unwrap().event.to_object().unwrap()
    }
}

pub(super) fn ok(body: &Value) -> Answer {
    response(200, &[], &body.to_string())
}

pub(super) fn refusal(status: u16, errcode: &str) -> Answer {
    response(status, &[], &json!({ "errcode": errcode, "error": "no" }).to_string())
}

/// A refusal as tests write it: `403 M_FORBIDDEN`, or `403` alone for a page that is not of Matrix.
pub(super) fn refusal_of(text: &str) -> Answer {
    match text.split_once(' ') {
        Some((status, errcode)) => refusal(status.parse().unwrap(), errcode),
        None => response(text.parse().unwrap(), &[], "<html>no</html>"),
    }
}

fn offered(query: &str) -> Vec<RoomVersionId> {
    query.split('&').filter_map(|pair| pair.strip_prefix("ver=")).map(|name| name.try_into().unwrap()).collect()
}

fn origin_of(user_id: &UserId) -> OwnedServerName {
    user_id.server_name().to_owned()
}

fn refused<R: std::fmt::Debug>(error: &AskError<R>) -> Answer {
    response(403, &[], &json!({ "errcode": "M_FORBIDDEN", "error": format!("{error:?}") }).to_string())
}

async fn make_knock(world: &World, room: &TestRoom, user_id: &str, query: &str) -> Answer {
    let user_id: OwnedUserId = user(user_id);
    let request = PrepareKnock { origin: origin_of(&user_id), user_id, offered: offered(query), network: network() };
    match world.rooms.ask(&room.room_id, request).await {
        Ok(template) => ok(&json!({ "room_version": template.room_version, "event": template.event })),
        Err(error) => refused(&error),
    }
}

async fn make_join(world: &World, room: &TestRoom, user_id: &str, query: &str) -> Answer {
    let user_id: OwnedUserId = user(user_id);
    let request = PrepareJoin { origin: origin_of(&user_id), user_id, offered: offered(query), authorised_via: None };
    match world.rooms.ask(&room.room_id, request).await {
        Ok(template) => ok(&json!({ "room_version": template.room_version, "event": template.event })),
        Err(error) => refused(&error),
    }
}

async fn make_leave(world: &World, room: &TestRoom, user_id: &str) -> Answer {
    let user_id: OwnedUserId = user(user_id);
    match world.rooms.ask(&room.room_id, PrepareLeave { origin: origin_of(&user_id), user_id }).await {
        Ok(template) => ok(&json!({ "room_version": template.room_version, "event": template.event })),
        Err(error) => refused(&error),
    }
}

async fn send_leave(world: &World, room: &TestRoom, event_id: &str, body: Value) -> Answer {
    let leave = signed(room, event_id, HandshakeKind::Leave, body).into_leave().unwrap();
    match world.rooms.ask(&room.room_id, AdmitLeave { leave }).await {
        Ok(()) => ok(&json!({})),
        Err(error) => refused(&error),
    }
}

fn signed(room: &TestRoom, event_id: &str, kind: HandshakeKind, body: Value) -> SignedHandshake {
    let event_id: OwnedEventId = event_id.try_into().unwrap();
    let origin = server(US);
    let expected = Handshake {
        kind,
        version: &room.version,
        room_id: &room.room_id,
        event_id: &event_id,
        origin: &origin,
        now: UnixMillis(u64::MAX),
    };
    let shape = HandshakeShape::parse(serde_json::from_value(body).unwrap(), &expected).unwrap();
    shape.verify(&public_keys([&*origin])).unwrap()
}

async fn send_knock(world: &World, room: &TestRoom, event_id: &str, body: Value) -> Answer {
    let knock = signed(room, event_id, HandshakeKind::Knock, body).into_knock().unwrap();
    match world.rooms.ask(&room.room_id, AdmitKnock { knock, network: network() }).await {
        Ok(admitted) => ok(&json!({ "knock_room_state": admitted.knock_room_state })),
        Err(error) => refused(&error),
    }
}

async fn send_join(world: &World, room: &TestRoom, event_id: &str, body: Value) -> Answer {
    let join = signed(room, event_id, HandshakeKind::Join, body).into_join().unwrap();
    let admitted = match world.rooms.ask(&room.room_id, AdmitJoin { join }).await {
        Ok(admitted) => admitted,
        Err(error) => return refused(&error),
    };
    let (state, chain) = state_at(world, room, admitted.state_before);
    ok(&json!({
        "state": state.iter().map(json_of).collect::<Vec<_>>(),
        "auth_chain": chain.iter().map(json_of).collect::<Vec<_>>(),
        "event": json_of(&admitted.event),
    }))
}

fn json_of(event: &Arc<Pdu>) -> Value {
    serde_json::from_str(event.json()).unwrap()
}

/// A state and what authorizes it.
fn state_at(world: &World, room: &TestRoom, version: StateVersion) -> (Vec<Arc<Pdu>>, Vec<Arc<Pdu>>) {
    let state = read(world.stores().rooms.state_at(&room.room_id, version)).unwrap();
    let state: Vec<Arc<Pdu>> =
        state.into_values().map(|event_id| world.stored(room, &event_id).unwrap().event).collect();
    let mut chain: BTreeMap<OwnedEventId, Arc<Pdu>> = BTreeMap::new();
    let mut wanted: Vec<OwnedEventId> = state.iter().flat_map(|event| event.auth_events().to_vec()).collect();
    while let Some(event_id) = wanted.pop() {
        let event = world.stored(room, &event_id).unwrap().event;
        if chain.insert(event_id, event.clone()).is_none() {
            wanted.extend(event.auth_events().to_vec());
        }
    }
    (state, chain.into_values().collect())
}

/// A value of a query, decoded.
fn asked_for<'a>(query: &'a str, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(|value| percent_encoding::percent_decode_str(value).decode_utf8().unwrap())
}

fn state_before(world: &World, room: &TestRoom, query: &str) -> (Vec<Arc<Pdu>>, Vec<Arc<Pdu>>) {
    let event_id: OwnedEventId = asked_for(query, "event_id").unwrap().as_ref().try_into().unwrap();
    state_at(world, room, world.stored(room, &event_id).unwrap().state_before)
}

fn state_ids(world: &World, room: &TestRoom, query: &str) -> Answer {
    let (state, chain) = state_before(world, room, query);
    let ids = |events: &[Arc<Pdu>]| events.iter().map(|event| event.event_id().to_string()).collect::<Vec<_>>();
    ok(&json!({ "pdu_ids": ids(&state), "auth_chain_ids": ids(&chain) }))
}

fn whole_state(world: &World, room: &TestRoom, query: &str) -> Answer {
    let (state, chain) = state_before(world, room, query);
    let jsons = |events: &[Arc<Pdu>]| events.iter().map(json_of).collect::<Vec<_>>();
    ok(&json!({ "pdus": jsons(&state), "auth_chain": jsons(&chain) }))
}

fn backfill(world: &World, room: &TestRoom, query: &str) -> Answer {
    let from: OwnedEventId = asked_for(query, "v").unwrap().as_ref().try_into().unwrap();
    let limit: usize = asked_for(query, "limit").unwrap().parse().unwrap();
    let timeline = world.timeline(room);
    let up_to = timeline.iter().position(|stored| *stored.event.event_id() == from).unwrap();
    let events = timeline[..=up_to].iter().rev().take(limit).map(|stored| json_of(&stored.event));
    ok(&json!({ "origin": RESIDENT, "origin_server_ts": 1, "pdus": events.collect::<Vec<_>>() }))
}

fn get_missing_events(world: &World, room: &TestRoom, body: &Value) -> Answer {
    let ids = |field: &str| -> BTreeSet<OwnedEventId> { serde_json::from_value(body[field].clone()).unwrap() };
    let (mut seen, mut front) = (ids("earliest_events"), ids("latest_events"));
    let limit = usize::try_from(body["limit"].as_u64().unwrap()).unwrap();
    let mut found: Vec<Value> = Vec::new();
    while found.len() < limit && !front.is_empty() {
        let mut next = BTreeSet::new();
        for event_id in &front {
            let event = world.stored(room, event_id).unwrap().event;
            for earlier in event.prev_events() {
                if seen.insert(earlier.clone()) {
                    next.insert(earlier.clone());
                    found.push(serde_json::from_str(world.stored(room, earlier).unwrap().event.json()).unwrap());
                }
            }
        }
        front = next;
    }
    found.truncate(limit);
    found.reverse();
    ok(&json!({ "events": found }))
}

fn event(world: &World, room: &TestRoom, event_id: &str) -> Answer {
    match world.stored(room, &event_id.try_into().unwrap()) {
        Some(stored) => {
            let event: Value = serde_json::from_str(stored.event.json()).unwrap();
            ok(&json!({ "origin": RESIDENT, "origin_server_ts": 1, "pdus": [event] }))
        }
        None => refusal(404, "M_NOT_FOUND"),
    }
}

/// What a client gives.
pub(super) fn reason(text: &str) -> CanonicalJsonObject {
    serde_json::from_value(json!({ "reason": text, "displayname": "Anna" })).unwrap()
}
