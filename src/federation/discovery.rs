//! From a server name to the place where that server answers: addresses, `Host` header, certificate name.
//! May not: judge addresses (the egress does, when it connects) or send anything but the well-known request.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

mod resolver;
pub(crate) mod well_known;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use ruma::{OwnedServerName, ServerName};
use rustls_pki_types::ServerName as CertificateName;
use thiserror::Error;
use tokio::time::timeout;
use vestibule_protocol::clock::Clock;

pub use self::resolver::{ResolveError, Resolver, ServiceRecord, SystemResolver};
use self::well_known::WellKnownCache;
pub use self::well_known::{WELL_KNOWN_BYTES_MAX, WELL_KNOWN_DEADLINE, WELL_KNOWN_REDIRECTS_MAX};
use crate::{
    egress::{Route, Transport},
    generations::Generations,
};

/// Port of a server that says nothing else. Spec: resolving server names.
pub const FEDERATION_PORT: u16 = 8448;

/// How long a finished route is used again before names are resolved anew. Ours; short, so that DNS changes count soon.
const ROUTE_KEPT: Duration = Duration::from_secs(60);

/// One search as a whole. Callers have deadlines of their own; this one ends what nobody waits for. Ours.
const SEARCH_DEADLINE: Duration = Duration::from_secs(20);

/// Routes remembered. Ours.
const ROUTES_MAX: usize = 4096;

/// SRV targets followed for one name. Ours.
const SRV_TARGETS_MAX: usize = 4;

/// Addresses in one route. Ours.
const ADDRESSES_MAX: usize = 8;

/// Why a server name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiscoveryError {
    /// The name can be no certificate's name, so no server could prove it.
    #[error("{host} is no name that a certificate could be for")]
    UnfitName {
        /// The offending host.
        host: String,
    },
    /// No address is known for the name.
    #[error("no address for {host}: {detail}")]
    NoAddress {
        /// The host that has none.
        host: String,
        /// The resolver's words.
        detail: String,
    },
    /// Name servers did not answer in time.
    #[error("no route found before the deadline")]
    Timeout,
    /// The task that was looking was lost, as when the program stops.
    #[error("discovery was given up")]
    GivenUp,
}

/// Source of random 64-bit numbers. An argument, so that simulations repeat.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Finds servers; remembers what it found. Cheap to clone, clones share the memory.
#[derive(Clone)]
pub struct Discovery {
    inner: Arc<Inner>,
}

struct Inner {
    resolver: Arc<dyn Resolver>,
    well_known: WellKnownCache,
    server_addresses: BTreeMap<OwnedServerName, SocketAddr>,
    clock: Arc<dyn Clock>,
    random: Random,
    memory: Mutex<Memory>,
}

struct Memory {
    /// Finished routes with the monotonic time until which they count.
    routes: Generations<OwnedServerName, (Route, Duration)>,
    flights: HashMap<OwnedServerName, Flight>,
}

type Flight = Shared<BoxFuture<'static, Result<Route, DiscoveryError>>>;

impl Discovery {
    /// `server_addresses` names the servers for which discovery is skipped; certificate and address filter still bind them.
    pub fn new(
        resolver: Arc<dyn Resolver>,
        transport: Arc<dyn Transport>,
        server_addresses: BTreeMap<OwnedServerName, SocketAddr>,
        clock: Arc<dyn Clock>,
        random: Random,
    ) -> Self {
        let well_known = WellKnownCache::new(Arc::clone(&resolver), transport, Arc::clone(&clock));
        let memory = Mutex::new(Memory { routes: Generations::new(ROUTES_MAX), flights: HashMap::new() });
        let inner = Inner { resolver, well_known, server_addresses, clock, random, memory };
        Self { inner: Arc::new(inner) }
    }

    /// The route to `server`. Simultaneous calls for one name share one search.
    ///
    /// The search runs on its own task: a caller that gives up cancels nothing, and the next one finds its result.
    ///
    /// # Errors
    /// [`DiscoveryError`]; failures are not remembered here, only a failed well-known is.
    pub async fn route(&self, server: &ServerName) -> Result<Route, DiscoveryError> {
        let flight = {
            let mut memory = self.inner.memory();
            if let Some((route, good_until)) = memory.routes.get(server)
                && self.inner.clock.monotonic() < *good_until
            {
                return Ok(route.clone());
            }
            match memory.flights.get(server) {
                Some(flight) => flight.clone(),
                None => {
                    let flight = Inner::depart(Arc::clone(&self.inner), server.to_owned());
                    memory.flights.insert(server.to_owned(), flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    /// Forgets the route to `server`, because nobody answered there.
    pub fn forget(&self, server: &ServerName) {
        self.inner.memory().routes.remove(server);
    }
}

impl Inner {
    fn depart(inner: Arc<Self>, server: OwnedServerName) -> Flight {
        let search = tokio::spawn(async move {
            // Lands in any case, also when the search panics: a flight that stays would block its name for good.
            let landing = Landing { inner: &inner, server: &server };
            let found = timeout(SEARCH_DEADLINE, landing.inner.search(&server)).await;
            let found = found.unwrap_or(Err(DiscoveryError::Timeout));
            if let Ok(route) = &found {
                let good_until = inner.clock.monotonic().saturating_add(ROUTE_KEPT);
                inner.memory().routes.insert(server.clone(), (route.clone(), good_until));
            }
            found
        });
        async move { search.await.unwrap_or(Err(DiscoveryError::GivenUp)) }.boxed().shared()
    }

    async fn search(&self, server: &ServerName) -> Result<Route, DiscoveryError> {
        // Before anything is looked up: a name that no certificate can be for leads nowhere. Among those are the shapes that
        // system resolvers take for addresses, such as 127.1 and 0x7f.1.
        certificate_name(server)?;
        if let Some(address) = self.server_addresses.get(server) {
            return route_to(server, vec![*address]);
        }
        // Steps 1 and 2: an IP literal or a port leaves nothing to look up.
        if server.is_ip_literal() || server.port().is_some() {
            return self.direct(server).await;
        }
        // Step 3: the name's owner may have delegated.
        let delegated = self.well_known.delegation(server).await;
        let server = delegated.as_deref().unwrap_or(server);
        certificate_name(server)?;
        if server.is_ip_literal() || server.port().is_some() {
            return self.direct(server).await;
        }
        self.by_service_records(server).await
    }

    /// Steps 1, 2, 3.1, 3.2: the address is in the name, or the port is.
    async fn direct(&self, server: &ServerName) -> Result<Route, DiscoveryError> {
        let port = server.port().unwrap_or(FEDERATION_PORT);
        let addresses = match ip_literal(server) {
            Some(ip) => vec![SocketAddr::new(ip, port)],
            None => self.addresses(server.host(), port).await?,
        };
        route_to(server, addresses)
    }

    /// Steps 3.3 to 3.5 and 4 to 6. The certificate is for the name, never for an SRV target.
    async fn by_service_records(&self, server: &ServerName) -> Result<Route, DiscoveryError> {
        let host = server.host();
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let name = format!("{service}.{host}");
            // A resolver that fails is taken as "no record": then the default port gets its chance.
            let records = self.resolver.services(&name).await.unwrap_or_else(|error| {
                log::debug!(name, error:%; "service records not found");
                Vec::new()
            });
            if records.is_empty() {
                continue;
            }
            return route_to(server, self.service_addresses(host, records).await?);
        }
        route_to(server, self.addresses(host, FEDERATION_PORT).await?)
    }

    async fn service_addresses(
        &self,
        host: &str,
        records: Vec<ServiceRecord>,
    ) -> Result<Vec<SocketAddr>, DiscoveryError> {
        let mut found = Vec::new();
        // RFC 2782: the target "." says that the service is not offered.
        let mut outcome = no_address(host, "its service record offers no service");
        let ordered = resolver::order_by_priority(records, || (self.random)());
        for record in ordered.iter().filter(|record| record.target != ".").take(SRV_TARGETS_MAX) {
            match self.addresses(record.target.trim_end_matches('.'), record.port).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => outcome = error,
            }
        }
        found.truncate(ADDRESSES_MAX);
        if found.is_empty() { Err(outcome) } else { Ok(found) }
    }

    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DiscoveryError> {
        let found = self.resolver.addresses(host).await.map_err(|error| no_address(host, &error.detail))?;
        if found.is_empty() {
            return Err(no_address(host, "the name has none"));
        }
        Ok(found.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Landing<'a> {
    inner: &'a Inner,
    server: &'a ServerName,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.inner.memory().flights.remove(self.server);
    }
}

/// A route that shows `server` in the `Host` header and demands its certificate.
fn route_to(server: &ServerName, addresses: Vec<SocketAddr>) -> Result<Route, DiscoveryError> {
    let certificate_name = certificate_name(server)?;
    Ok(Route { addresses, host_header: server.as_str().to_owned(), certificate_name })
}

pub(crate) fn certificate_name(server: &ServerName) -> Result<CertificateName<'static>, DiscoveryError> {
    if let Some(ip) = ip_literal(server) {
        return Ok(CertificateName::from(ip));
    }
    let host = server.host();
    match CertificateName::try_from(host.to_owned()) {
        Ok(name @ CertificateName::DnsName(_)) => Ok(name),
        _ => Err(DiscoveryError::UnfitName { host: host.to_owned() }),
    }
}

fn ip_literal(server: &ServerName) -> Option<IpAddr> {
    let host = server.host();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    server.is_ip_literal().then(|| bare.parse().ok()).flatten()
}

fn no_address(host: &str, detail: &str) -> DiscoveryError {
    DiscoveryError::NoAddress { host: host.to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests;
