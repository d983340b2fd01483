//! DNS as discovery sees it: addresses of a host, service records of a name.
//! May not: choose between addresses by their range; the egress judges them.

use std::net::IpAddr;

use futures_util::future::BoxFuture;
use hickory_resolver::{TokioResolver, proto::rr::RData};
use thiserror::Error;

/// A name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct ResolveError {
    /// The resolver's words.
    pub detail: String,
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Share among those of equal priority.
    pub weight: u16,
    /// Port to connect to.
    pub port: u16,
    /// Host whose addresses to use; "." when the service is not offered.
    pub target: String,
}

/// Resolves names. Production: [`SystemResolver`]. Tests script it.
pub trait Resolver: Send + Sync {
    /// The host's addresses, in the order to try them. May be empty.
    ///
    /// # Errors
    /// [`ResolveError`] when the name does not exist or nobody knows.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>>;

    /// The SRV records of a full name such as `_matrix-fed._tcp.example.org`; empty when there are none.
    ///
    /// # Errors
    /// [`ResolveError`] when nobody knows whether there are any.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<ServiceRecord>, ResolveError>>;
}

/// Addresses as the operating system resolves them (so `/etc/hosts` counts), service records from its name servers.
pub struct SystemResolver {
    dns: TokioResolver,
}

impl SystemResolver {
    /// Reads the system's resolver configuration.
    ///
    /// # Errors
    /// [`ResolveError`] when that configuration cannot be read.
    pub fn new() -> Result<Self, ResolveError> {
        let dns = TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(describe)?;
        Ok(Self { dns })
    }
}

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await.map_err(describe)?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<ServiceRecord>, ResolveError>> {
        Box::pin(async move {
            // The closing dot keeps the system's search domains out of it.
            let absolute = format!("{name}.");
            let answer = match self.dns.srv_lookup(absolute).await {
                Ok(answer) => answer,
                Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                    return Ok(Vec::new());
                }
                Err(error) => return Err(describe(error)),
            };
            let records = answer.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(ServiceRecord {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_ascii(),
                }),
                _ => None,
            });
            Ok(records.collect())
        })
    }
}

/// Ascending priority; within one priority drawn by weight, as RFC 2782 describes.
pub(super) fn order_by_priority(
    mut records: Vec<ServiceRecord>,
    mut random: impl FnMut() -> u64,
) -> Vec<ServiceRecord> {
    // Weight 0 first, so that it is drawn only when the draw is 0.
    records.sort_by_key(|record| (record.priority, record.weight != 0));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let group = records.iter().take_while(|record| record.priority == priority);
        let weights: u64 = group.clone().map(|record| u64::from(record.weight)).sum();
        let mut draw = random() % weights.saturating_add(1);
        let last = group.clone().count().saturating_sub(1);
        let chosen = group
            .map(|record| u64::from(record.weight))
            .position(|weight| {
                let is_chosen = draw <= weight;
                draw = draw.saturating_sub(weight);
                is_chosen
            })
            .unwrap_or(last);
        ordered.push(records.remove(chosen));
    }
    ordered
}

fn describe(error: impl std::fmt::Display) -> ResolveError {
    ResolveError { detail: error.to_string() }
}
