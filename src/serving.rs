//! A server's life: make the secrets, open storage, start the rooms, bind the listeners, say `ready:`, and end in order.
//! May not: name an engine; [`crate::open_storage`] does.

use std::{collections::BTreeMap, num::NonZero, sync::Arc, thread::available_parallelism, time::Duration};

use actix_rt::{Arbiter, System, time::timeout};
use actix_web::web::Data;
use log::{error, info, warn};
use tokio::signal::unix::{SignalKind, signal};
use vestibule_actors::{
    CpuPool, Rooms, RoomsOptions, SyncNotifier, Typing, expiry,
    limits::{KnockRates, Rate},
};
use vestibule_api::{
    App, Listener, Serves, Serving,
    rate_limit::{self, Limits},
    state::{ApiSettings, CommitFollowers, HiddenText, OldKey, Randomness, Vitals},
};
use vestibule_federation::{
    Federation, FederationParts, FederationSettings, OutboundQueue, Sender,
    client::Client,
    denied_servers::DeniedServers,
    discovery::{Discovery, Random, SystemResolver},
    egress::{AddressFilter, Egress, tls_config},
    keyring::{Keyring, KeyringSettings},
    perform::edus::typing,
    policy::PolicyServers,
    sender::{Backoff, SenderParts, SenderSettings},
};
use vestibule_protocol::{clock::Clock, membership::knock::KnockPolicy, signing::Identity};
use vestibule_storage::{commit::Stores, error::StorageError};

use crate::{
    Storage,
    clock::SystemClock,
    config::{self, Bucket, Config},
    control::ControlSocket,
    exit::Exit,
    open_storage,
    private_file::{self, Readers},
    randomness::os_random,
    signing_key::{self, OldSigningKey},
    tls::{self, CertificateFiles},
    token_file::{self, ADMIN_TOKEN_FILE},
};

/// After SIGTERM the program is gone within ten seconds; storage needs the rest. DESIGN section 6.
const STOP_WITHIN: Duration = Duration::from_secs(9);

/// Pending knocks read at a time when they are counted at the start. Ours.
const KNOCKS_PER_READ: usize = 1_000;

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn serve(config: Config) -> Result<(), Exit> {
    let (parts, storage) = prepare(config)?;
    let listeners = listeners(&parts.config, &parts.clock)?;
    let storage = Arc::new(storage);
    let served = System::new().block_on(run(parts, &listeners, storage.clone()));
    let closed = storage.close();
    served.and(closed)
}

/// Does one piece of work with everything but listeners, on a server that does not run.
///
/// # Errors
/// The ending of the program; the reason has been printed.
pub fn offline(config: Config, work: impl AsyncFnOnce(&App) -> Result<String, String>) -> Result<String, Exit> {
    let (parts, storage) = prepare(config)?;
    let done = System::new().block_on(async {
        let threads = NonZero::<usize>::MIN;
        let cpu = CpuPool::new(threads.get());
        let reach = reach(&parts)?;
        let rooms = rooms(&parts, &[], cpu.clone(), &reach)?;
        let app = app(parts, rooms, cpu, reach)?;
        Ok(work(&app).await)
    });
    storage.close()?;
    done?.map_err(|why: String| {
        eprintln!("vestibule: {why}");
        Exit::Failure
    })
}

/// Secrets first, then storage: a key that is gone must be noticed before anything is written.
fn prepare(mut config: Config) -> Result<(Parts, Storage), Exit> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let failed = |error: &dyn std::error::Error| Exit::Failure.because(error);
    let refused = |error: &dyn std::error::Error| Exit::Refused.because(error);
    private_file::create_directory(&config.data_dir).map_err(|error| failed(&error))?;
    let key =
        signing_key::load_or_create(&config.data_dir, &os_random).map_err(|error| error.exit().because(&error))?;
    let old_keys =
        signing_key::load_old(&config.data_dir, key.key_id()).map_err(|error| error.exit().because(&error))?;
    let admin_token =
        token_file::load_or_create(&config.data_dir.join(ADMIN_TOKEN_FILE), Readers::OwnerOnly, &os_random)
            .map_err(|error| refused(&error))?;
    if let Some(file) = &config.registration.shared_secret_file {
        let secret = token_file::load_or_create(file, Readers::Anybody, &os_random).map_err(|error| refused(&error))?;
        config.registration.shared_secret = Some(secret);
    }
    let identity = Arc::new(Identity::new(config.server_name.clone(), key));
    let (notifier, outbound) = (SyncNotifier::default(), OutboundQueue::default());
    let followers = CommitFollowers { notifier: notifier.clone(), outbound: outbound.clone() };
    let storage = open_storage(&config, Arc::new(followers))?;
    let stores = storage.stores.clone();
    Ok((Parts { config, clock, identity, old_keys, admin_token, notifier, outbound, stores }, storage))
}

/// What a server is made of, before it is one.
struct Parts {
    config: Config,
    clock: Arc<dyn Clock>,
    identity: Arc<Identity>,
    old_keys: Vec<OldSigningKey>,
    admin_token: config::Secret,
    notifier: SyncNotifier,
    outbound: OutboundQueue,
    stores: Stores,
}

async fn run(parts: Parts, listeners: &[Listener], storage: Arc<Storage>) -> Result<(), Exit> {
    let failed = |error: &dyn std::error::Error| Exit::Failure.because(error);
    // Before anything is accepted, so that no signal finds nobody listening.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed(&error))?;
    let threads = available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let arbiters: Vec<Arbiter> = (0..threads.get()).map(|_| Arbiter::new()).collect();
    let data_dir = parts.config.data_dir.clone();
    let cpu = CpuPool::new(threads.get());
    let reach = reach(&parts)?;
    let rooms = rooms(&parts, &arbiters, cpu.clone(), &reach)?;
    let pending = count_pending_knocks(&parts.stores).await.map_err(|error| failed(&error))?;
    rooms.gauges().set_knocks_pending(pending);
    let expire_after = parts.config.knock.expire_after.get();
    let app = Data::new(app(parts, rooms.clone(), cpu, reach)?);
    let control = ControlSocket::bind(&data_dir, app.clone(), storage).map_err(|error| failed(&error))?;
    let Serving { listeners, handle, server } =
        vestibule_api::serve(app.clone(), listeners, threads).map_err(|error| failed(&error))?;
    let server = actix_rt::spawn(server);
    app.vitals.set_ready(true);
    announce(&listeners);
    app.sender.start();
    let expiry = (!expire_after.is_zero()).then(|| {
        let reader = app.stores.rooms.clone();
        actix_rt::spawn(expiry::run(rooms.clone(), reader, app.clock.clone(), expire_after))
    });
    let federation = app.federation.clone();
    actix_rt::spawn(async move {
        federation.resume().await;
        federation.reconcile().await;
    });
    let us = app.identity.server_name().to_owned();
    let typing = actix_rt::spawn(typing::run(app.typing.clone(), rooms.clone(), app.sender.clone(), us));

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM, stopping"),
        _ = interrupt.recv() => info!("SIGINT, stopping"),
        outcome = server => {
            error!("the HTTP server ended by itself");
            return match outcome {
                Ok(Err(error)) => Err(failed(&error)),
                _ => Err(Exit::Failure),
            };
        }
    }
    app.vitals.begin_stop();
    // First: what it does not end now begins anew after the next start, and nobody waits for it.
    app.sender.stop();
    if let Some(expiry) = expiry {
        expiry.abort();
    }
    typing.abort();
    drop(control);
    let stopped = tokio::select! {
        stopped = timeout(STOP_WITHIN, handle.stop(true)) => stopped.is_ok(),
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    rooms.close();
    for arbiter in arbiters {
        arbiter.stop();
    }
    if stopped {
        Ok(())
    } else {
        let live = rooms.gauges().totals().actors_live;
        warn!(actors_live = live; "stopped before all requests ended");
        Err(Exit::Failure)
    }
}

/// Tells whoever started the program that all listeners accept; on stderr whatever the log level.
fn announce(listeners: &[Listener]) {
    let shown: Vec<String> = listeners
        .iter()
        .map(|listener| {
            let serves = listener.serves.iter().map(ToString::to_string);
            let words: Vec<String> = serves.chain(listener.tls.as_ref().map(|_| "tls".to_owned())).collect();
            format!("{} ({})", listener.address, words.join(", "))
        })
        .collect();
    eprintln!("ready: listening on {}", shown.join(", "));
}

fn listeners(config: &Config, clock: &Arc<dyn Clock>) -> Result<Vec<Listener>, Exit> {
    config.listener.iter().map(|listener| bindable(listener, config, clock)).collect()
}

fn bindable(listener: &config::Listener, config: &Config, clock: &Arc<dyn Clock>) -> Result<Listener, Exit> {
    let refused = |error: &dyn std::error::Error| Exit::Refused.because(error);
    let tls = if listener.tls {
        let files = match (&listener.tls_certificate, &listener.tls_private_key) {
            (Some(certificate), Some(private_key)) => {
                CertificateFiles { certificate: certificate.clone(), private_key: private_key.clone() }
            }
            _ => tls::self_signed(&config.data_dir, &config.server_name).map_err(|error| refused(&error))?,
        };
        Some(tls::server_config(files, clock.clone()).map_err(|error| refused(&error))?)
    } else {
        None
    };
    let serves = listener.serves.iter().map(|word| match word {
        config::Serves::Client => Serves::Client,
        config::Serves::Federation => Serves::Federation,
        config::Serves::Admin => Serves::Admin,
    });
    Ok(Listener { address: listener.address, serves: serves.collect(), tls })
}

fn rooms(parts: &Parts, arbiters: &[Arbiter], cpu: CpuPool, reach: &Reach) -> Result<Rooms, Exit> {
    let Config { knock, actors, rate_limit, .. } = &parts.config;
    let mut seed = [0; 8];
    os_random(&mut seed).map_err(|error| Exit::Failure.because(&error))?;
    let request_timeout = parts.config.federation.request_timeout.get();
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Rooms::new(RoomsOptions {
        identity: parts.identity.clone(),
        clock: parts.clock.clone(),
        stores: parts.stores.clone(),
        policy: KnockPolicy {
            repeat_after: knock.repeat_after.get(),
            max_pending_per_room: count(knock.max_pending_per_room),
            max_pending_per_origin_in_room: count(knock.max_pending_per_origin_in_room),
        },
        rates: rate_limit.enabled.then(|| KnockRates {
            in_room: rate(rate_limit.knocks_in_room),
            by_origin_in_room: rate(rate_limit.knocks_by_origin_in_room),
            by_origin: rate(rate_limit.knocks_by_origin),
            by_network: rate(rate_limit.knocks_by_network),
            by_user_in_room: rate(rate_limit.knocks_by_user_in_room),
            by_user: rate(rate_limit.knocks_by_user),
        }),
        cpu,
        policy_signer: Some(Arc::new(PolicyServers::new(reach.client.clone(), request_timeout))),
        typing: Typing::new(parts.notifier.clone(), parts.clock.clone()),
        arbiters: arbiters.iter().map(Arbiter::handle).collect(),
        mailbox_capacity: actors.mailbox_capacity,
        live_max: actors.live_max,
        idle_timeout: actors.idle_timeout.get(),
        core_seed: u64::from_le_bytes(seed),
    }))
}

fn rate(bucket: Bucket) -> Rate {
    Rate { per_second: bucket.per_second, burst: f64::from(bucket.burst) }
}

fn app(parts: Parts, rooms: Rooms, cpu: CpuPool, reach: Reach) -> Result<App, Exit> {
    let denied_servers = reach.denied_servers.clone();
    let Outside { keyring, federation, sender, typing } = outside(&parts, &rooms, &cpu, reach);
    let Parts { config, clock, identity, old_keys, admin_token, notifier, outbound: _, stores } = parts;
    let limits = &config.rate_limit;
    let rates = rate_limit::Rates {
        enabled: limits.enabled,
        requests_by_origin: rate(limits.requests_by_origin),
        queries_by_origin: rate(limits.queries_by_origin),
        queries_by_address: rate(limits.queries_by_address),
        logins_by_address: rate(limits.logins_by_address),
        failed_logins_by_user: rate(limits.failed_logins_by_user),
        registrations_by_address: rate(limits.registrations_by_address),
        messages_by_user: rate(limits.messages_by_user),
        typing_and_receipts_by_user: rate(limits.typing_and_receipts_by_user),
        rooms_by_user: rate(limits.rooms_by_user),
        joins_by_user: rate(limits.joins_by_user),
        invites_by_user: rate(limits.invites_by_user),
        failed_admin_tokens_by_address: rate(limits.failed_admin_tokens_by_address),
    };
    let secret = config.registration.shared_secret.as_ref();
    let settings = ApiSettings {
        trusted_proxies: config.trusted_proxies.clone(),
        well_known_client: config.well_known_client.clone(),
        well_known_server: config.well_known_server.clone(),
        open_registration: config.registration.open,
        registration_shared_secret: secret.map(|secret| HiddenText::new(secret.expose())),
        denied_servers,
        default_room_version: config.rooms.default_version.clone(),
        knock_reason_bytes_max: config.knock.reason_bytes_max,
        admin_token: HiddenText::new(admin_token.expose()),
    };
    let old_keys = old_keys
        .into_iter()
        .map(|old| (old.key_id, OldKey { public_key: old.public_key, expired: old.expired_ts.into() }))
        .collect::<BTreeMap<_, _>>();
    Ok(App {
        identity,
        old_keys,
        rooms,
        stores,
        keyring,
        federation,
        sender,
        typing,
        notifier,
        clock,
        randomness: Arc::new(OsRandomness),
        settings,
        limits: Limits::new(rates),
        cpu: vestibule_api::cpu_pool::CpuPool::sharing(cpu),
        registration_nonces: Default::default(),
        claims: Default::default(),
        transactions: Default::default(),
        upgrades: Default::default(),
        vitals: Vitals::default(),
    })
}

/// What talks to other servers.
struct Outside {
    keyring: Keyring,
    federation: Federation,
    sender: Sender,
    typing: Typing,
}

/// The way to other servers, which everything that talks to them shares.
struct Reach {
    client: Client,
    denied_servers: DeniedServers,
    random: Random,
}

fn reach(parts: &Parts) -> Result<Reach, Exit> {
    let refused = |error: &dyn std::error::Error| Exit::Refused.because(error);
    let federation = &parts.config.federation;
    let filter =
        AddressFilter { denied: federation.denied_ip_ranges.clone(), allowed: federation.allowed_ip_ranges.clone() };
    let tls = tls_config(&federation.trusted_ca_files).map_err(|error| refused(&error))?;
    let egress = Arc::new(Egress::new(filter, tls));
    let resolver = Arc::new(SystemResolver::new().map_err(|error| refused(&error))?);
    let random: Random = Arc::new(|| {
        let mut drawn = [0; 8];
        // Without randomness all pauses are equally long, which harms nobody.
        let _ = os_random(&mut drawn);
        u64::from_le_bytes(drawn)
    });
    let discovery = Discovery::new(
        resolver,
        egress.clone(),
        federation.server_addresses.clone(),
        parts.clock.clone(),
        random.clone(),
    );
    let denied_servers = DeniedServers::parse(&federation.denied_servers);
    let client = Client::new(parts.identity.clone(), discovery, egress).denying(denied_servers.clone());
    Ok(Reach { client, denied_servers, random })
}

fn outside(parts: &Parts, rooms: &Rooms, cpu: &CpuPool, reach: Reach) -> Outside {
    let Reach { client, random, denied_servers: _ } = reach;
    let federation = &parts.config.federation;
    let rate_limit = &parts.config.rate_limit;
    let own_old_keys = parts.old_keys.iter().map(|old| (old.key_id.clone(), (old.public_key, old.expired_ts.into())));
    let settings = KeyringSettings {
        banned_keys: federation.banned_keys.iter().map(|key| *key.bytes()).collect(),
        notaries: federation.notaries.clone(),
        new_origins_by_network: rate_limit.enabled.then(|| rate(rate_limit.new_origins_by_network)),
        own_old_keys: own_old_keys.collect(),
    };
    let store = parts.stores.server_keys.clone();
    let key_source = Arc::new(client.clone());
    let keyring = Keyring::new(parts.identity.clone(), settings, key_source, store, parts.clock.clone());
    let request_timeout = federation.request_timeout.get();
    let backoff = Backoff { min: federation.retry_backoff_min.get(), max: federation.retry_backoff_max.get() };
    let sender = SenderParts {
        identity: parts.identity.clone(),
        client: client.clone(),
        stores: parts.stores.clone(),
        rooms: rooms.clone(),
        clock: parts.clock.clone(),
        random: random.clone(),
        settings: SenderSettings { request_timeout, backoff },
    };
    let typing = rooms.typing().clone();
    let federation = FederationParts {
        identity: parts.identity.clone(),
        client,
        keyring: keyring.clone(),
        rooms: rooms.clone(),
        stores: parts.stores.clone(),
        typing: typing.clone(),
        clock: parts.clock.clone(),
        random,
        cpu: cpu.clone(),
        settings: FederationSettings { request_timeout, auto_join_accepted: parts.config.knock.auto_join_accepted },
    };
    let (federation, sender) = (Federation::new(federation), Sender::new(parts.outbound.clone(), sender));
    Outside { keyring, federation, sender, typing }
}

async fn count_pending_knocks(stores: &Stores) -> Result<u64, StorageError> {
    let mut count = 0_u64;
    let mut last = None;
    loop {
        let after = last.as_ref().map(|(room, user): &(ruma::OwnedRoomId, ruma::OwnedUserId)| (&**room, &**user));
        let knocks = stores.rooms.pending_knocks(None, after, KNOCKS_PER_READ).await?;
        let Some(newest) = knocks.last() else { return Ok(count) };
        last = Some((newest.room_id.clone(), newest.user_id.clone()));
        count = count.saturating_add(u64::try_from(knocks.len()).unwrap_or(u64::MAX));
    }
}

/// The operating system's randomness.
struct OsRandomness;

impl Randomness for OsRandomness {
    #[expect(
        clippy::expect_used,
        reason = "invariant: the same source gave the keys at the start; without it nothing may go on"
    )]
    fn fill(&self, bytes: &mut [u8]) {
        os_random(bytes).expect("invariant: the operating system gives randomness");
    }
}
