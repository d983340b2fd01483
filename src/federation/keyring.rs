//! Other servers' signing keys: gets them, keeps them, and verifies what they sign.
//! May not: use a key outside its time, or reach for the network before the caller's budget allows it.
//!
//! Keys are looked for in this order: memory, the store, the server itself, the configured notaries.
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

mod attempts;
mod batch;
mod document;
mod fetch;
mod key_set;
mod source;
mod x_matrix;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, Shared};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    signatures::{PublicKeyMap, PublicKeySet},
};
use thiserror::Error;
use tokio::sync::Semaphore;
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    room_version::RoomVersion,
    signing::Identity,
};
use vestibule_storage::server_keys::ServerKeyStore;

use self::attempts::Attempts;
pub use self::document::{DocumentError, KEYS_IN_DOCUMENT_MAX};
pub(crate) use self::key_set::ServerKeys;
use self::key_set::{Key, Provenance, Purpose};
pub use self::source::KeySource;
pub use self::x_matrix::{SIGNATURES_MAX, SignedRequest, VerifyRequestError};
use crate::{client::RemoteError, generations::Generations};
use vestibule_actors::limits::Buckets;
pub use vestibule_actors::{SourceNetwork, limits::Rate};

/// Key fetches at once. Source: SECURITY T16.
pub const FETCHES_AT_ONCE_MAX: usize = 32;

/// All that one fetch does, waiting for its turn included. Source: SECURITY T16.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(8);

/// Servers whose keys, and whose failures, stay in memory. Ours.
const SERVERS_MAX: usize = 10_000;

/// Source networks whose budget is remembered. Ours.
const NETWORKS_MAX: usize = 10_000;

/// What the keyring is told about its work.
#[derive(Clone, Debug, Default)]
pub struct KeyringSettings {
    /// Public keys that never verify, whoever publishes them.
    pub banned_keys: BTreeSet<[u8; 32]>,
    /// Servers asked for keys that their owner does not give, in this order.
    pub notaries: Vec<OwnedServerName>,
    /// How many unknown origins one source network may make us look for; `None`: any number.
    pub new_origins_by_network: Option<Rate>,
    /// Our own former keys with the moment until which they signed events.
    pub own_old_keys: BTreeMap<OwnedServerSigningKeyId, ([u8; 32], UnixMillis)>,
}

/// Why there is no key. A refusal by our own limits, or a fact about the other server.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum KeyError {
    /// The source network asked about too many unknown origins. Nothing was resolved or fetched.
    #[error("too many unknown origins from this network")]
    OverBudget,
    /// A fetch failed lately and the pause after it is not over.
    #[error("the last key fetch failed; next attempt in {} s", .retry_after.as_secs())]
    RecentlyFailed {
        /// Until the next attempt.
        retry_after: Duration,
    },
    /// The server is known and has no such key, or none for that time.
    #[error("no usable key among those asked for")]
    NoUsableKey,
    /// The server did not answer the fetch.
    #[error("key fetch: {0}")]
    Fetch(RemoteError),
    /// The server answered with a document that proves nothing.
    #[error("key document: {0}")]
    UnfitDocument(DocumentError),
    /// All fetch places stayed taken until the deadline.
    #[error("too many key fetches at once")]
    Busy,
    /// The task that was fetching was lost, as when the program stops.
    #[error("the key fetch was given up")]
    GivenUp,
}

/// The keys of all servers. Cheap to clone, clones share everything.
#[derive(Clone)]
pub struct Keyring {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    own_keys: Arc<ServerKeys>,
    settings: KeyringSettings,
    source: Arc<dyn KeySource>,
    store: Arc<dyn ServerKeyStore>,
    clock: Arc<dyn Clock>,
    fetch_places: Semaphore,
    memory: Mutex<Memory>,
    /// What each source network may still spend on origins that nobody knows yet.
    budgets: Option<Buckets<SourceNetwork>>,
}

struct Memory {
    keys: Generations<OwnedServerName, Arc<ServerKeys>>,
    flights: HashMap<OwnedServerName, Flight>,
    attempts: Generations<OwnedServerName, Attempts>,
}

type Flight = Shared<BoxFuture<'static, Result<(), KeyError>>>;

/// Keys that passed every check for their purpose.
type UsableKeys = BTreeMap<OwnedServerSigningKeyId, Key>;

impl Keyring {
    /// A keyring that fetches through `source` and remembers in `store`.
    pub fn new(
        identity: Arc<Identity>,
        settings: KeyringSettings,
        source: Arc<dyn KeySource>,
        store: Arc<dyn ServerKeyStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let memory = Memory {
            keys: Generations::new(SERVERS_MAX),
            flights: HashMap::new(),
            attempts: Generations::new(SERVERS_MAX),
        };
        let own_keys = Arc::new(ServerKeys::own(&identity, &settings.own_old_keys));
        let budgets = settings.new_origins_by_network.map(|rate| Buckets::new(rate, NETWORKS_MAX));
        let inner = Inner {
            budgets,
            identity,
            own_keys,
            settings,
            source,
            store,
            clock,
            fetch_places: Semaphore::new(FETCHES_AT_ONCE_MAX),
            memory: Mutex::new(memory),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The keys among `key_ids` with which `origin` may sign a request at `at`, which is now or later.
    ///
    /// Only current `verify_keys` within their validity; what cannot be had is left out, and at least one is in it.
    /// `source` pays when the origin is unknown. Dropping the future cancels no fetch.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn keys_for_request(
        &self,
        origin: &ServerName,
        key_ids: &[&ServerSigningKeyId],
        source: SourceNetwork,
        at: UnixMillis,
    ) -> Result<PublicKeyMap, KeyError> {
        let keys = self.inner.usable_keys(origin, key_ids, Purpose::Request { now: at }, Some(source)).await?;
        Ok(key_map(origin, keys))
    }

    /// The keys among `key_ids` with which `server` may have signed an event at `origin_server_ts`.
    ///
    /// `enforce_validity` is the room version's `enforce_key_validity`; without it current keys count at any time.
    /// What cannot be had is left out, and at least one is in it. Dropping the future cancels no fetch.
    ///
    /// # Errors
    /// [`KeyError`], never [`KeyError::OverBudget`].
    pub async fn keys_for_event(
        &self,
        server: &ServerName,
        key_ids: &[&ServerSigningKeyId],
        origin_server_ts: UnixMillis,
        enforce_validity: bool,
        now: UnixMillis,
    ) -> Result<PublicKeyMap, KeyError> {
        let purpose = Purpose::Event { origin_server_ts, enforce_validity, now };
        let keys = self.inner.usable_keys(server, key_ids, purpose, None).await?;
        Ok(key_map(server, keys))
    }

    /// The keys with which the signatures that an event needs may have been made at its time: `required` as the event
    /// says it, servers with their key ids. The one way to keys of events, whatever route brought them.
    ///
    /// A key that cannot be had is left out, and the signature that needs it will not verify.
    pub async fn keys_of_event(
        &self,
        required: &BTreeMap<OwnedServerName, BTreeSet<String>>,
        version: &RoomVersion,
        origin_server_ts: UnixMillis,
    ) -> PublicKeyMap {
        let enforce_validity = version.rules().enforce_key_validity;
        let now = self.inner.clock.now();
        let mut keys = PublicKeyMap::new();
        for (server, names) in required {
            let key_ids: Vec<OwnedServerSigningKeyId> =
                names.iter().filter_map(|name| ServerSigningKeyId::parse(name).ok()).collect();
            let key_ids: Vec<&ServerSigningKeyId> = key_ids.iter().map(|key_id| &**key_id).collect();
            match self.keys_for_event(server, &key_ids, origin_server_ts, enforce_validity, now).await {
                Ok(found) => keys.extend(found),
                Err(error) => log::debug!(origin:% = server, error:%; "no key for an event"),
            }
        }
        keys
    }

    /// Ends the pause after failed fetches, because the server showed life in another way.
    pub fn forget_failures(&self, server: &ServerName) {
        if let Some(attempts) = self.inner.memory().attempts.get(server) {
            attempts.succeeded();
        }
    }
}

impl Inner {
    async fn usable_keys(
        self: &Arc<Self>,
        server: &ServerName,
        key_ids: &[&ServerSigningKeyId],
        purpose: Purpose,
        payer: Option<SourceNetwork>,
    ) -> Result<UsableKeys, KeyError> {
        if server == self.identity.server_name() {
            return some(pick(Some(&*self.own_keys), key_ids, purpose));
        }
        let known = self.known_keys(server).await;
        let usable = pick(known.as_deref(), key_ids, purpose);
        let wanted: Vec<OwnedServerSigningKeyId> = key_ids
            .iter()
            .filter(|id| !usable.contains_key(**id))
            .filter(|id| known.as_ref().is_none_or(|keys| keys.may_gain(id, purpose)))
            .map(|id| (*id).to_owned())
            .collect();
        if wanted.is_empty() {
            if let Some(keys) = known.filter(|keys| keys.is_past_half_life(purpose.now())) {
                self.refresh_behind(&keys);
            }
            return some(usable);
        }
        let fetched = match self.flight_for(server, &wanted, purpose, payer.filter(|_| known.is_none())) {
            Ok(flight) => flight.await,
            Err(refused) => Err(refused),
        };
        match fetched {
            Ok(()) => some(pick(self.known_keys(server).await.as_deref(), key_ids, purpose)),
            Err(_) if !usable.is_empty() => Ok(usable),
            Err(error) => Err(error),
        }
    }

    /// From memory, else from the store.
    async fn known_keys(&self, server: &ServerName) -> Option<Arc<ServerKeys>> {
        if let Some(keys) = self.memory().keys.get(server) {
            return Some(Arc::clone(keys));
        }
        let stored = match self.store.lookup(server).await {
            Ok(stored) => stored?,
            Err(error) => {
                log::error!(origin:% = server, error:%; "stored server keys not readable");
                return None;
            }
        };
        let keys = Arc::new(ServerKeys::from_stored(stored, &self.settings.banned_keys));
        let mut memory = self.memory();
        // A fetch may have finished meanwhile; what it found is newer.
        if let Some(newer) = memory.keys.get(server) {
            return Some(Arc::clone(newer));
        }
        memory.keys.insert(server.to_owned(), Arc::clone(&keys));
        Some(keys)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pick(keys: Option<&ServerKeys>, key_ids: &[&ServerSigningKeyId], purpose: Purpose) -> UsableKeys {
    let Some(keys) = keys else {
        return UsableKeys::new();
    };
    key_ids.iter().filter_map(|id| Some(((*id).to_owned(), keys.usable(id, purpose)?.clone()))).collect()
}

fn some(usable: UsableKeys) -> Result<UsableKeys, KeyError> {
    if usable.is_empty() { Err(KeyError::NoUsableKey) } else { Ok(usable) }
}

fn key_map(server: &ServerName, keys: UsableKeys) -> PublicKeyMap {
    let set: PublicKeySet = keys.into_iter().map(|(id, key)| (id.to_string(), key.base64())).collect();
    PublicKeyMap::from([(server.to_string(), set)])
}

#[cfg(test)]
mod tests;
