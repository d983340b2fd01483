//! A server of the simulation: the production rooms, federation, sender and HTTP floor, on the simulated disk, network and clock.
//! May not: survive its crash. Left out are rates, policy servers and the expiry of knocks, which other tests have.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    body::to_bytes,
    dev::Service,
    http::header::RETRY_AFTER,
    test::{TestRequest, init_service},
    web::Data,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::LocalBoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};
use tokio::{sync::watch, time::Instant};
use vestibule_actors::{CpuPool, Rooms, RoomsOptions, SyncNotifier, Typing, limits::Rate};
use vestibule_api::{
    App, Serves,
    door::Served,
    rate_limit::{Limits, Rates},
    state::{ApiSettings, CommitFollowers, HiddenText, Randomness, Vitals},
};
use vestibule_federation::{
    Federation, FederationParts, FederationSettings, OutboundQueue, Sender,
    client::Client,
    denied_servers::DeniedServers,
    discovery::{Discovery, Random},
    keyring::{Keyring, KeyringSettings},
    perform::edus::typing,
    sender::{Backoff, SenderParts, SenderSettings},
};
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    membership::knock::KnockPolicy,
    signing::Identity,
};
use vestibule_storage::{
    accounts::{AccountChange, Device, User},
    commit::{Commit, CommitError, CommitSink},
    memory::MemoryStorage,
};

use super::{
    disk::Disk,
    network::{NoNames, Wire},
    world::World,
};

/// When simulations begin.
const BEGIN: UnixMillis = UnixMillis(1_790_000_000_000);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const BACKOFF: Backoff = Backoff { min: Duration::from_secs(30), max: Duration::from_mins(30) };
/// Short, so that many knocks count within the hour.
const REPEAT_AFTER: Duration = Duration::from_mins(3);

/// What stays over all lives of a server.
pub struct Place {
    pub name: OwnedServerName,
    pub identity: Arc<Identity>,
    /// How far its wall clock is ahead of the world's.
    pub clock_ahead: Duration,
    pub auto_joins: bool,
}

/// An answer as it leaves the server.
pub struct Answered {
    pub status: u16,
    pub body: Bytes,
    pub retry_after: Option<String>,
}

type Call = Box<dyn Fn(TestRequest) -> LocalBoxFuture<'static, Answered>>;

/// From a start to a crash.
pub struct Life {
    pub app: Data<App>,
    pub disk: Arc<Disk>,
    call: Call,
    ended: watch::Sender<bool>,
}

/// The runtime's clock, which is virtual.
struct RuntimeClock {
    began: Instant,
    ahead: Duration,
}

impl Clock for RuntimeClock {
    fn now(&self) -> UnixMillis {
        BEGIN.plus(self.ahead).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Numbers from the seed, where the program asks the operating system.
struct Seeded(Mutex<StdRng>);

impl Seeded {
    fn number(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}

impl Randomness for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            [*byte, ..] = self.number().to_le_bytes();
        }
    }
}

impl Life {
    /// Starts the server on what is stored.
    pub async fn begin(world: &Rc<World>, at: usize, number: u64, stored: &MemoryStorage) -> Rc<Self> {
        let place = &world.places[at];
        let identity = place.identity.clone();
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock { began: world.began, ahead: place.clock_ahead });
        let (notifier, outbound) = (SyncNotifier::default(), OutboundQueue::default());
        let followers = CommitFollowers { notifier: notifier.clone(), outbound: outbound.clone() };
        let disk = Disk::new(stored.restart(Arc::new(followers)), world.planted_on_disk(at, number));
        let stores = disk.stores();
        let seeded = Arc::new(Seeded(Mutex::new(world.random_of(at, number))));
        let random: Random = {
            let seeded = seeded.clone();
            Arc::new(move || seeded.number())
        };
        let cpu = CpuPool::on_asking_thread();
        let rooms = Rooms::new(RoomsOptions {
            identity: identity.clone(),
            clock: clock.clone(),
            stores: stores.clone(),
            policy: KnockPolicy {
                repeat_after: REPEAT_AFTER,
                max_pending_per_room: 1_000,
                max_pending_per_origin_in_room: 50,
            },
            rates: None,
            cpu: cpu.clone(),
            policy_signer: None,
            typing: Typing::new(notifier.clone(), clock.clone()),
            arbiters: vec![actix_rt::Arbiter::current()],
            mailbox_capacity: 1_024,
            live_max: 2_000,
            idle_timeout: Duration::from_mins(1),
            core_seed: seeded.number(),
        });
        let wire = Arc::new(Wire { from: at, life: number, out: world.out.clone() });
        let discovery =
            Discovery::new(Arc::new(NoNames), wire.clone(), world.addresses(), clock.clone(), random.clone());
        let client = Client::new(identity.clone(), discovery, wire);
        let keyring = Keyring::new(
            identity.clone(),
            KeyringSettings::default(),
            Arc::new(client.clone()),
            stores.server_keys.clone(),
            clock.clone(),
        );
        let typing = rooms.typing().clone();
        let federation = Federation::new(FederationParts {
            identity: identity.clone(),
            client: client.clone(),
            keyring: keyring.clone(),
            rooms: rooms.clone(),
            stores: stores.clone(),
            typing: typing.clone(),
            clock: clock.clone(),
            random: random.clone(),
            cpu: cpu.clone(),
            settings: FederationSettings { request_timeout: REQUEST_TIMEOUT, auto_join_accepted: place.auto_joins },
        });
        let parts = SenderParts {
            identity: identity.clone(),
            client,
            stores: stores.clone(),
            rooms: rooms.clone(),
            clock: clock.clone(),
            random,
            settings: SenderSettings { request_timeout: REQUEST_TIMEOUT, backoff: BACKOFF },
        };
        let sender = Sender::new(outbound, parts);
        let app = Data::new(App {
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
            randomness: seeded,
            settings: settings(),
            limits: Limits::new(no_rates()),
            cpu: vestibule_api::cpu_pool::CpuPool::sharing(cpu),
            registration_nonces: Default::default(),
            claims: Default::default(),
            transactions: Default::default(),
            upgrades: Default::default(),
            vitals: Vitals::default(),
        });
        let (ended, _) = watch::channel(false);
        let life = Rc::new(Self { call: call(&app).await, app, disk, ended });
        life.work(world, at, number);
        life
    }

    /// What goes on by itself, as the program starts it.
    fn work(self: &Rc<Self>, world: &Rc<World>, at: usize, number: u64) {
        let (life, noted) = (self.clone(), world.clone());
        let mut random = world.random_of(at, number ^ 0xd15c);
        tokio::task::spawn_local(async move {
            let written = life.disk.write(
                &mut random,
                || noted.is_stormy(),
                |count, failed| noted.note_written(at, count, failed),
            );
            life.run(written).await
        });
        self.app.sender.start();
        let life = self.clone();
        let federation = self.app.federation.clone();
        tokio::task::spawn_local(async move {
            let resumed = async {
                federation.resume().await;
                federation.reconcile().await;
            };
            life.run(resumed).await
        });
        let life = self.clone();
        let us = self.app.server_name().to_owned();
        let typing = typing::run(self.app.typing.clone(), self.app.rooms.clone(), self.app.sender.clone(), us);
        tokio::task::spawn_local(async move { life.run(typing).await });
    }

    /// What the future comes to, unless the life ends before.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => None,
            done = work => Some(done),
        }
    }

    /// Answers a request. `None`: the server ended before it had.
    pub async fn answer(&self, request: TestRequest) -> Option<Answered> {
        self.run((self.call)(request)).await
    }

    /// Ends everything at once, and gives back what a crash leaves.
    pub fn crash(&self) -> MemoryStorage {
        let left = self.disk.storage.restart(Arc::new(vestibule_storage::commit::NobodyListens));
        self.ended.send_replace(true);
        self.app.sender.stop();
        self.app.rooms.close();
        // What waits for the old disk must not wait for ever. Nobody looks at the old disk any more.
        self.disk.storage.fail_from(1, vestibule_storage::memory::Failure::NotWritten);
        self.disk.storage.release_all();
        left
    }
}

async fn call(app: &Data<App>) -> Call {
    let served = Served([Serves::Client, Serves::Federation].into());
    let application = vestibule_api::application(app.clone(), Data::new(served));
    let service = Rc::new(init_service(application).await);
    Box::new(move |request| {
        let answer = service.call(request.to_request());
        async move {
            let response = match answer.await {
                Ok(response) => response.into_parts().1.map_into_boxed_body(),
                Err(error) => error.error_response(),
            };
            let status = response.status().as_u16();
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok().map(Into::into));
            let body = to_bytes(response.into_body()).await.unwrap_or_default();
            Answered { status, body, retry_after }
        }
        .boxed_local()
    })
}

fn settings() -> ApiSettings {
    ApiSettings {
        trusted_proxies: Vec::new(),
        well_known_client: None,
        well_known_server: None,
        open_registration: false,
        registration_shared_secret: None,
        denied_servers: DeniedServers::default(),
        default_room_version: RoomVersionId::V12,
        knock_reason_bytes_max: 512,
        admin_token: HiddenText::new("nobody asks"),
    }
}

fn no_rates() -> Rates {
    let rate = Rate { per_second: 1.0, burst: 1.0 };
    Rates {
        enabled: false,
        requests_by_origin: rate,
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
        failed_admin_tokens_by_address: rate,
    }
}

/// A store with accounts, whose tokens are the ids of their users.
///
/// # Errors
/// Of the store.
pub async fn with_accounts(users: &[OwnedUserId]) -> Result<MemoryStorage, CommitError> {
    let storage = MemoryStorage::new();
    for user_id in users {
        let user = User {
            user_id: user_id.clone(),
            password_hash: None,
            is_admin: false,
            is_deactivated: false,
            created_at: BEGIN,
            profile: BTreeMap::new(),
        };
        let device = Device {
            user_id: user_id.clone(),
            device_id: "DEVICE".into(),
            display_name: None,
            token_hash: vestibule_api::extract::access_token::hash_token(user_id.as_str()),
            created_at: BEGIN,
        };
        let changes = vec![AccountChange::CreateUser(user), AccountChange::PutDevice(device)];
        let slot = storage.reserve().map_err(|_| CommitError::PredecessorMissing)?;
        storage.enqueue(slot, Commit::Accounts(changes)).await?;
    }
    Ok(storage)
}

/// The address of a server; nobody connects to it.
pub fn address_of(number: usize) -> SocketAddr {
    let last = u8::try_from(number).unwrap_or(u8::MAX).saturating_add(1);
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 8448))
}

/// A generator of its own for each thing that draws.
pub fn generator(seed: u64, of: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ of.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
