//! The handles that handlers get, and the settings they go by.
//! May not: hold room state or make decisions; handlers ask through these handles.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ipnet::IpNet;
use ruma::{OwnedServerName, OwnedServerSigningKeyId, RoomVersionId, ServerName};
use tokio::sync::watch;
use vestibule_actors::{Rooms, SyncNotifier, Typing};
use vestibule_federation::{Federation, OutboundQueue, Sender, denied_servers::DeniedServers, keyring::Keyring};
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    signing::Identity,
};
use vestibule_storage::commit::{Announcement, CommitListener, Stores};

use crate::{
    client_server::{register::nonces::Nonces, rooms_upgrade::Upgrades},
    cpu_pool::CpuPool,
    device_keys::Claims,
    rate_limit::Limits,
    server_server::send::transactions::Transactions,
};

/// Those who hear of commits: clients who wait, and the sender to other servers.
pub struct CommitFollowers {
    /// Wakes the clients.
    pub notifier: SyncNotifier,
    /// What the sender owes.
    pub outbound: OutboundQueue,
}

impl CommitListener for CommitFollowers {
    fn committed(&self, announcement: &Announcement) {
        self.notifier.committed(announcement);
        self.outbound.committed(announcement);
    }
}

/// Everything a handler may use. Shared by all workers; handlers take `web::Data<App>`.
pub struct App {
    /// Our name and key.
    pub identity: Arc<Identity>,
    /// Keys that we signed with before: public half and the moment until which they count.
    pub old_keys: BTreeMap<OwnedServerSigningKeyId, OldKey>,
    /// The door to the rooms.
    pub rooms: Rooms,
    /// Readers, and the sink for changes of accounts.
    pub stores: Stores,
    /// Other servers' keys.
    pub keyring: Keyring,
    /// What takes several requests to other servers.
    pub federation: Federation,
    /// Brings our events to other servers.
    pub sender: Sender,
    /// Who types where.
    pub typing: Typing,
    /// Wakes those who wait in `/sync`.
    pub notifier: SyncNotifier,
    /// Wall clock and monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// Bytes that nobody can guess.
    pub randomness: Arc<dyn Randomness>,
    /// What is configured.
    pub settings: ApiSettings,
    /// Buckets and holds.
    pub limits: Limits,
    /// Where work over about a millisecond runs (argon2).
    pub cpu: CpuPool,
    /// Nonces given out for registration with the shared secret; start with the default.
    pub registration_nonces: Nonces,
    /// Keys for one use that are being given out; start with the default.
    pub claims: Claims,
    /// Transactions of other servers and how they were answered; start with the default.
    pub transactions: Transactions,
    /// Upgrades of rooms under way; start with the default.
    pub upgrades: Upgrades,
    /// What the server tells about itself besides the rooms' gauges.
    pub vitals: Vitals,
}

impl App {
    /// Our server name.
    pub fn server_name(&self) -> &ServerName {
        self.identity.server_name()
    }

    /// Whether the name is ours, compared as the specification says: byte by byte.
    pub fn is_ours(&self, server: &ServerName) -> bool {
        server == self.identity.server_name()
    }
}

/// A key that we signed with before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// The public half.
    pub public_key: [u8; 32],
    /// Last moment for which it verifies our events.
    pub expired: UnixMillis,
}

/// Bytes that nobody can guess: the operating system's in production, seeded ones in tests.
pub trait Randomness: Send + Sync {
    /// Fills the whole buffer.
    fn fill(&self, bytes: &mut [u8]);
}

/// The part of the configuration that requests depend on.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Networks whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Base URL under `/.well-known/matrix/client`; `None`: 404.
    pub well_known_client: Option<String>,
    /// Host and port under `/.well-known/matrix/server`; `None`: 404.
    pub well_known_server: Option<OwnedServerName>,
    /// Anybody may register.
    pub open_registration: bool,
    /// Enables `/_synapse/admin/v1/register`.
    pub registration_shared_secret: Option<HiddenText>,
    /// Servers that we do not deal with.
    pub denied_servers: DeniedServers,
    /// Version of rooms whose maker names none.
    pub default_room_version: RoomVersionId,
    /// Longest reason of our own users' knocks, in bytes.
    pub knock_reason_bytes_max: usize,
    /// The bearer token of the admin listeners.
    pub admin_token: HiddenText,
}

/// Text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct HiddenText(String);

impl HiddenText {
    /// Hides it from `Debug`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. For comparing, never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HiddenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HiddenText(…)")
    }
}

/// What the server tells about its own life: `/ready`, `/metrics`.
#[derive(Debug, Default)]
pub struct Vitals {
    is_ready: AtomicBool,
    stop: watch::Sender<bool>,
    panics: AtomicU64,
    requests: AtomicU64,
    limited: AtomicU64,
}

impl Vitals {
    /// Said by the program once all listeners accept, and taken back when it shuts down.
    pub fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Release);
    }

    /// The program shuts down: not ready any more, and whoever waits in a long poll answers now.
    pub fn begin_stop(&self) {
        self.set_ready(false);
        self.stop.send_replace(true);
    }

    /// Resolves when the program shuts down, at once if it does already. For long polls.
    pub async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives in `self`, so waiting cannot end in any other way.
        let _stopped = stop.wait_for(|stops| *stops).await.is_ok();
    }

    /// Whether new requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    /// A request ended in a panic.
    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that ended in a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// A request came in.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A request was answered with 429.
    pub fn count_limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests answered with 429 so far.
    pub fn limited(&self) -> u64 {
        self.limited.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_in_debug_text() {
        assert!(!format!("{:?}", HiddenText::new("s3cret")).contains("s3cret"));
    }
}
