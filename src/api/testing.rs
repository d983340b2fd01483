//! What tests of this crate share: the application over the reference store, a scripted peer, and a clock that follows
//! the runtime's, so that paused time is virtual time.
//! May not: be compiled into the program.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    Error,
    body::{MessageBody, to_bytes},
    dev::{Service, ServiceFactory, ServiceRequest, ServiceResponse},
    http::{Method, header::AUTHORIZATION},
    test::TestRequest,
    web::Data,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedServerSigningKeyId, OwnedUserId, RoomId,
    RoomVersionId, ServerName,
};
use serde_json::{Value, json};
use vestibule_actors::{CreateRoom, InitialEvent, Rooms, RoomsOptions, SendEvent, SyncNotifier, Typing, limits::Rate};
use vestibule_federation::{
    Federation, FederationParts, FederationSettings, OutboundQueue, Sender,
    client::{Client, RemoteError},
    denied_servers::DeniedServers,
    discovery::{Discovery, ResolveError, Resolver, ServiceRecord},
    egress::{EgressError, Route, Transport},
    keyring::{KeySource, Keyring, KeyringSettings},
    perform::edus,
    sender::{Backoff, SenderParts, SenderSettings},
};
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    membership::knock::KnockPolicy,
    pdu::checks::event_id_of,
    room_version::RoomVersion,
    signing::{Identity, SigningKey},
};
use vestibule_storage::{
    accounts::{AccountChange, Device, User},
    commit::Commit,
    memory::MemoryStorage,
    server_keys::StoredServerKeys,
};

use crate::{
    cpu_pool::CpuPool,
    door::Served,
    extract::access_token::hash_token,
    listener::Serves,
    rate_limit::{Limits, Rates},
    state::{ApiSettings, App, CommitFollowers, HiddenText, Randomness, Vitals},
};

/// When tests begin.
pub(crate) const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

pub(crate) const ADMIN_TOKEN: &str = "the-admin-token";

/// Follows the runtime's clock, paused or not.
pub(crate) struct RuntimeClock(tokio::time::Instant);

impl RuntimeClock {
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> UnixMillis {
        NOW.plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Zeroes;

impl Randomness for Zeroes {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// No server answers: peers' keys are in the store, or nowhere.
struct SilentServers;

impl KeySource for SilentServers {
    fn server_keys<'a>(
        &'a self,
        _: &'a ServerName,
        _: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>> {
        Box::pin(async { Err(RemoteError::Connect { detail: "refused".to_owned() }) })
    }

    fn notary_keys<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a ServerName,
        _: &'a [OwnedServerSigningKeyId],
        _: UnixMillis,
        _: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>> {
        Box::pin(async { Err(RemoteError::Connect { detail: "refused".to_owned() }) })
    }
}

/// What other servers answer: their name and the request give status and JSON; `None`: nobody takes the connection.
pub(crate) type Peers = dyn Fn(&str, &http::Request<Bytes>) -> Option<(u16, Value)> + Send + Sync;

/// A network in which every name has an address and [`Peers`] answer.
struct ScriptedNetwork(Arc<Peers>);

impl Resolver for ScriptedNetwork {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async { Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()]) })
    }

    fn services<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<ServiceRecord>, ResolveError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl Transport for ScriptedNetwork {
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: http::Request<Bytes>,
        _: usize,
        _: Duration,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, EgressError>> {
        let is_well_known = request.uri().path().starts_with("/.well-known/");
        let answer = if is_well_known { None } else { (self.0)(&route.host_header, &request) };
        Box::pin(async move {
            let refused = || EgressError::Connect { detail: "refused".to_owned() };
            let (status, body) = answer.ok_or_else(refused)?;
            Ok(http::Response::builder().status(status).body(body.to_string().into()).unwrap())
        })
    }
}

/// The server `us.test` with everything behind it.
pub(crate) struct World {
    pub(crate) app: Data<App>,
}

pub(crate) fn rates(enabled: bool) -> Rates {
    let rate = Rate { per_second: 1.0, burst: 3.0 };
    Rates {
        enabled,
        requests_by_origin: Rate { per_second: 1.0, burst: 20.0 },
        queries_by_origin: rate,
        queries_by_address: rate,
        logins_by_address: rate,
        failed_logins_by_user: rate,
        registrations_by_address: rate,
        messages_by_user: rate,
        typing_and_receipts_by_user: rate,
        rooms_by_user: rate,
        joins_by_user: rate,
        invites_by_user: rate,
        failed_admin_tokens_by_address: Rate { per_second: 0.083, burst: 5.0 },
    }
}

impl World {
    /// Without rates, nothing well-known.
    pub(crate) fn new() -> Self {
        Self::with(rates(false), |_| {})
    }

    pub(crate) fn with(rates: Rates, change: impl FnOnce(&mut ApiSettings)) -> Self {
        Self::among(rates, change, Arc::new(|_, _| None))
    }

    /// With other servers, and a sender that runs.
    pub(crate) fn among(rates: Rates, change: impl FnOnce(&mut ApiSettings), peers: Arc<Peers>) -> Self {
        let settings = FederationSettings { request_timeout: Duration::from_secs(20), auto_join_accepted: false };
        Self::federating(rates, change, peers, settings)
    }

    /// The same, with its part in the federation configured.
    pub(crate) fn federating(
        rates: Rates,
        change: impl FnOnce(&mut ApiSettings),
        peers: Arc<Peers>,
        federating: FederationSettings,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock::start());
        let (notifier, outbound) = (SyncNotifier::default(), OutboundQueue::default());
        let followers = CommitFollowers { notifier: notifier.clone(), outbound: outbound.clone() };
        let stores = MemoryStorage::with_listener(Arc::new(followers)).stores();
        let identity = Arc::new(identity("us.test", 1));
        let pool = vestibule_actors::CpuPool::new(1);
        let rooms = Rooms::new(RoomsOptions {
            identity: identity.clone(),
            clock: clock.clone(),
            stores: stores.clone(),
            policy: KnockPolicy {
                repeat_after: Duration::from_secs(3600),
                max_pending_per_room: 3,
                max_pending_per_origin_in_room: 2,
            },
            rates: None,
            cpu: pool.clone(),
            policy_signer: None,
            typing: Typing::new(notifier.clone(), clock.clone()),
            arbiters: vec![actix_rt::Arbiter::current()],
            mailbox_capacity: 16,
            live_max: 100,
            idle_timeout: Duration::from_secs(60),
            core_seed: 1,
        });
        let keyring = Keyring::new(
            identity.clone(),
            KeyringSettings::default(),
            Arc::new(SilentServers),
            stores.server_keys.clone(),
            clock.clone(),
        );
        let network = Arc::new(ScriptedNetwork(peers));
        let discovery =
            Discovery::new(network.clone(), network.clone(), BTreeMap::new(), clock.clone(), Arc::new(|| 0));
        let client = Client::new(identity.clone(), discovery, network);
        let request_timeout = federating.request_timeout;
        let typing = rooms.typing().clone();
        let federation = Federation::new(FederationParts {
            identity: identity.clone(),
            client: client.clone(),
            keyring: keyring.clone(),
            rooms: rooms.clone(),
            stores: stores.clone(),
            typing: typing.clone(),
            clock: clock.clone(),
            random: Arc::new(|| 0),
            cpu: pool.clone(),
            settings: federating,
        });
        let backoff = Backoff { min: Duration::from_mins(10), max: Duration::from_hours(7 * 24) };
        let sender = SenderParts {
            identity: identity.clone(),
            client,
            stores: stores.clone(),
            rooms: rooms.clone(),
            clock: clock.clone(),
            random: Arc::new(|| 0),
            settings: SenderSettings { request_timeout, backoff },
        };
        let sender = Sender::new(outbound, sender);
        sender.start();
        let us = identity.server_name().to_owned();
        actix_web::rt::spawn(edus::typing::run(typing.clone(), rooms.clone(), sender.clone(), us));
        let mut settings = ApiSettings {
            trusted_proxies: Vec::new(),
            well_known_client: None,
            well_known_server: None,
            open_registration: false,
            registration_shared_secret: None,
            denied_servers: DeniedServers::default(),
            default_room_version: RoomVersionId::V12,
            knock_reason_bytes_max: 512,
            admin_token: HiddenText::new(ADMIN_TOKEN),
        };
        change(&mut settings);
        let app = App {
            identity,
            old_keys: BTreeMap::new(),
            rooms,
            stores,
            keyring,
            federation,
            sender,
            typing,
            notifier,
            clock,
            randomness: Arc::new(Zeroes),
            settings,
            limits: Limits::new(rates),
            cpu: CpuPool::sharing(pool),
            registration_nonces: Default::default(),
            claims: Default::default(),
            transactions: Default::default(),
            upgrades: Default::default(),
            vitals: Vitals::default(),
        };
        Self { app: Data::new(app) }
    }

    /// The application as a listener of these kinds has it.
    pub(crate) fn application(
        &self,
        kinds: &[Serves],
    ) -> actix_web::App<
        impl ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<impl MessageBody + use<>>,
            Error = Error,
            InitError = (),
        > + use<>,
    > {
        crate::application(self.app.clone(), served(kinds))
    }

    /// Puts a peer's keys where the keyring finds them.
    pub(crate) async fn know(&self, peer: &Peer) {
        let key = peer.identity.key();
        let keys = StoredServerKeys {
            server_name: peer.identity.server_name().to_owned(),
            verify_keys: BTreeMap::from([(key.key_id().to_owned(), key.public_key_base64().encode())]),
            old_verify_keys: BTreeMap::new(),
            valid_until_ts: NOW.plus(Duration::from_hours(48)).0,
            fetched_at_ms: NOW.0,
            signed_json: "{}".to_owned(),
        };
        self.app.stores.server_keys.store(keys).await.unwrap();
    }

    /// Makes a user with an access token.
    pub(crate) async fn user(&self, localpart: &str, is_admin: bool, token: &str) -> OwnedUserId {
        let user_id: OwnedUserId = format!("@{localpart}:us.test").try_into().unwrap();
        let user = User {
            user_id: user_id.clone(),
            password_hash: None,
            is_admin,
            is_deactivated: false,
            created_at: NOW,
            profile: BTreeMap::from([("displayname".to_owned(), json!(localpart).to_string())]),
        };
        let device = Device {
            user_id: user_id.clone(),
            device_id: "DEVICE".into(),
            display_name: None,
            token_hash: hash_token(token),
            created_at: NOW,
        };
        self.change(vec![AccountChange::CreateUser(user), AccountChange::PutDevice(device)]).await;
        user_id
    }

    pub(crate) async fn change(&self, changes: Vec<AccountChange>) {
        let writer = &self.app.stores.writer;
        let slot = writer.reserve().unwrap();
        writer.enqueue(slot, Commit::Accounts(changes)).await.unwrap();
    }

    /// Makes a room of `@owner:us.test`.
    pub(crate) async fn room(&self, version: RoomVersionId, join_rule: &str, more: &[(&str, Value)]) -> OwnedRoomId {
        self.create(version, CanonicalJsonObject::new(), join_rule, more).await
    }

    /// Makes a space of `@owner:us.test`.
    pub(crate) async fn space(&self, version: RoomVersionId, join_rule: &str) -> OwnedRoomId {
        self.create(version, object(json!({ "type": "m.space" })), join_rule, &[]).await
    }

    async fn create(
        &self,
        version: RoomVersionId,
        create_content: CanonicalJsonObject,
        join_rule: &str,
        more: &[(&str, Value)],
    ) -> OwnedRoomId {
        let creator: OwnedUserId = "@owner:us.test".try_into().unwrap();
        let hash_is_id = RoomVersion::lookup(&version).unwrap().room_id_is_create_hash();
        let mut state = vec![("m.room.join_rules", json!({ "join_rule": join_rule }))];
        state.extend(more.iter().map(|(kind, content)| (*kind, content.clone())));
        let initial = state.into_iter().map(|(kind, content)| InitialEvent {
            sender: creator.clone(),
            kind: kind.into(),
            state_key: Some(String::new()),
            content: object(content),
        });
        let request = CreateRoom {
            creator: creator.clone(),
            room_version: version,
            room_id: (!hash_is_id).then(|| "!room:us.test".try_into().unwrap()),
            create_content,
            creator_content: CanonicalJsonObject::new(),
            initial: initial.collect(),
        };
        self.app.rooms.create(request).await.unwrap()
    }

    /// Changes the state of a room, as its owner.
    pub(crate) async fn state(&self, room_id: &RoomId, kind: &str, content: Value) -> OwnedEventId {
        self.send(room_id, kind, Some(String::new()), content).await
    }

    /// Sends an event as the room's owner.
    pub(crate) async fn send(
        &self,
        room_id: &RoomId,
        kind: &str,
        state_key: Option<String>,
        content: Value,
    ) -> OwnedEventId {
        let sender = "@owner:us.test".try_into().unwrap();
        let (kind, content) = (kind.into(), object(content));
        let message = SendEvent { sender, kind, state_key, content, redacts: None, transaction: None };
        self.app.rooms.ask(room_id, message).await.unwrap()
    }

    /// How often a knock was refused for a reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        self.app.rooms.gauges().totals().knocks.refused.get(reason).copied().unwrap_or(0)
    }
}

pub(crate) fn served(kinds: &[Serves]) -> Data<Served> {
    Data::new(Served(kinds.iter().copied().collect()))
}

pub(crate) fn identity(server: &str, seed: u8) -> Identity {
    let name: OwnedServerName = server.try_into().unwrap();
    Identity::new(name, SigningKey::from_seed("k1", &[seed; 32]).unwrap())
}

pub(crate) fn object(json: Value) -> CanonicalJsonObject {
    serde_json::from_value(json).unwrap()
}

/// The id of an event as JSON.
pub(crate) fn event_id(event: &Value, version: &RoomVersionId) -> String {
    event_id_of(&object(event.clone()), &RoomVersion::lookup(version).unwrap()).unwrap().to_string()
}

/// Another server, which signs what it sends.
pub(crate) struct Peer {
    pub(crate) identity: Identity,
}

impl Peer {
    pub(crate) fn new(server: &str, seed: u8) -> Self {
        Self { identity: identity(server, seed) }
    }

    /// The header for a request to `destination`.
    pub(crate) fn authorization(&self, method: &Method, uri: &str, destination: &str, body: Option<&Value>) -> String {
        let origin = self.identity.server_name();
        let mut signed = json!({ "method": method.as_str(), "uri": uri, "origin": origin, "destination": destination });
        if let Some(body) = body {
            signed["content"] = body.clone();
        }
        let key = self.identity.key();
        let signature = key.sign_bytes(serde_json::to_string(&object(signed)).unwrap().as_bytes());
        let signature = ruma::serde::Base64::<ruma::serde::base64::Standard>::new(signature.to_vec());
        let key_id = key.key_id();
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#)
    }

    pub(crate) fn get(&self, uri: &str) -> TestRequest {
        let authorization = self.authorization(&Method::GET, uri, "us.test", None);
        TestRequest::get().uri(uri).insert_header((AUTHORIZATION, authorization))
    }

    pub(crate) fn put(&self, uri: &str, body: &Value) -> TestRequest {
        let authorization = self.authorization(&Method::PUT, uri, "us.test", Some(body));
        TestRequest::put().uri(uri).insert_header((AUTHORIZATION, authorization)).set_payload(body.to_string())
    }

    pub(crate) fn post(&self, uri: &str, body: &Value) -> TestRequest {
        let authorization = self.authorization(&Method::POST, uri, "us.test", Some(body));
        TestRequest::post().uri(uri).insert_header((AUTHORIZATION, authorization)).set_payload(body.to_string())
    }

    /// Hashes and signs an event; its id and its JSON.
    pub(crate) fn sign(&self, event: Value, version: RoomVersionId) -> (String, Value) {
        let version = RoomVersion::lookup(&version).unwrap();
        let mut event = object(event);
        self.identity.hash_and_sign(&mut event, version.rules()).unwrap();
        let event_id = event_id_of(&event, &version).unwrap();
        (event_id.to_string(), serde_json::to_value(&event).unwrap())
    }
}

/// Status and JSON of an answer; `null` for an empty body.
pub(crate) async fn ask<S, R, B>(service: &S, request: R) -> (u16, Value)
where
    S: Service<R, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let (status, body) = match service.call(request).await {
        Ok(response) => (response.status(), to_bytes(response.into_body()).await.ok().unwrap()),
        Err(error) => {
            let response = error.error_response();
            (response.status(), to_bytes(response.into_body()).await.unwrap())
        }
    };
    let json = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (status.as_u16(), json)
}
