//! `GET https://<name>/.well-known/matrix/server`: whether a name's owner delegated federation to another name.
//! May not: leave https, follow more redirects than the limit, or hold a caller longer than the deadline.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use ruma::{OwnedServerName, ServerName, http_headers::http_date_to_system_time};
use rustls_pki_types::ServerName as CertificateName;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;
use url::{Host, Url};
use vestibule_protocol::clock::{Clock, UnixMillis};

use super::Resolver;
use crate::{
    client::USER_AGENT,
    egress::{EgressError, Route, Transport},
    generations::Generations,
};

/// Bytes of a well-known body. Source: Synapse's limit, SECURITY T21.
pub const WELL_KNOWN_BYTES_MAX: usize = 50 * 1024;

/// Redirects followed. Source: SECURITY V61.
pub const WELL_KNOWN_REDIRECTS_MAX: usize = 5;

/// All hops together. SECURITY V61 allows 10 s; less, so that a key fetch of 8 s still has time for a server without one.
pub const WELL_KNOWN_DEADLINE: Duration = Duration::from_secs(5);

/// How long an answer without cache headers counts. Spec: a day is suggested.
const ANSWER_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The most that cache headers can ask for. Spec: 48 hours is suggested.
const ANSWER_KEPT_MAX: Duration = Duration::from_secs(48 * 3600);

/// The least, so that a `no-store` does not cost a request for each message. Ours; Synapse has the same.
const ANSWER_KEPT_MIN: Duration = Duration::from_secs(5 * 60);

/// Pause after the first failure; doubles. Ours.
const FAILURE_KEPT_MIN: Duration = Duration::from_secs(10 * 60);

/// Longest pause after failures. Spec: up to an hour.
const FAILURE_KEPT_MAX: Duration = Duration::from_secs(3600);

/// Names remembered. Ours.
const NAMES_MAX: usize = 4096;

/// What the well-known endpoints of names said.
pub(super) struct WellKnownCache {
    resolver: Arc<dyn Resolver>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    known: Mutex<Generations<OwnedServerName, Known>>,
}

struct Known {
    /// `None`: there is no valid delegation.
    delegated: Option<OwnedServerName>,
    /// On the monotonic clock.
    good_until: Duration,
    /// Failures in a row.
    failures: u32,
}

/// Why there is no delegation. Only for the log: all of them mean that the name speaks for itself.
#[derive(Debug, Error)]
pub(crate) enum NoDelegation {
    #[error("{0}")]
    Unreachable(#[from] EgressError),
    #[error("the name does not resolve: {0}")]
    Unresolved(#[from] super::ResolveError),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("a redirect without a usable https location")]
    BadRedirect,
    #[error("redirects that lead in a circle or too far")]
    TooManyRedirects,
    #[error("no valid m.server in the answer")]
    Malformed,
    #[error("no answer before the deadline")]
    Timeout,
}

#[derive(Deserialize)]
struct WellKnownBody {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

impl WellKnownCache {
    pub(super) fn new(resolver: Arc<dyn Resolver>, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        Self { resolver, transport, clock, known: Mutex::new(Generations::new(NAMES_MAX)) }
    }

    /// The name that `server` delegated to, from memory or by asking.
    pub(super) async fn delegation(&self, server: &ServerName) -> Option<OwnedServerName> {
        let now = self.clock.monotonic();
        let failures_before = {
            let mut memory = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match memory.get(server) {
                Some(known) if now < known.good_until => return known.delegated.clone(),
                Some(known) => known.failures,
                None => 0,
            }
        };
        let asked = timeout(WELL_KNOWN_DEADLINE, self.ask(server)).await.unwrap_or(Err(NoDelegation::Timeout));
        let (delegated, kept, failures) = match asked {
            Ok((delegated, kept)) => (Some(delegated), kept, 0),
            Err(error) => {
                log::debug!(destination:% = server, error:%; "no well-known delegation");
                let doubled = 2_u32.saturating_pow(failures_before);
                let kept = FAILURE_KEPT_MIN.saturating_mul(doubled).min(FAILURE_KEPT_MAX);
                (None, kept, failures_before.saturating_add(1))
            }
        };
        let good_until = self.clock.monotonic().saturating_add(kept);
        let known = Known { delegated: delegated.clone(), good_until, failures };
        let mut memory = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(server.to_owned(), known);
        delegated
    }

    async fn ask(&self, server: &ServerName) -> Result<(OwnedServerName, Duration), NoDelegation> {
        let mut url = Url::parse(&format!("https://{}/.well-known/matrix/server", server.host()))
            .map_err(|_| NoDelegation::BadRedirect)?;
        let mut visited = BTreeSet::new();
        for _hop in 0..=WELL_KNOWN_REDIRECTS_MAX {
            if !visited.insert(url.as_str().to_owned()) {
                return Err(NoDelegation::TooManyRedirects);
            }
            let response = self.get(&url).await?;
            match response.status() {
                StatusCode::OK => return read_answer(response.headers(), response.body(), self.clock.now()),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => url = next_hop(&url, response.headers())?,
                status => return Err(NoDelegation::Status(status)),
            }
        }
        Err(NoDelegation::TooManyRedirects)
    }

    async fn get(&self, url: &Url) -> Result<Response<Bytes>, NoDelegation> {
        let port = url.port_or_known_default().ok_or(NoDelegation::BadRedirect)?;
        let host = url.host().ok_or(NoDelegation::BadRedirect)?;
        let (ips, certificate_name) = match host {
            Host::Ipv4(ip) => (vec![IpAddr::V4(ip)], CertificateName::from(IpAddr::V4(ip))),
            Host::Ipv6(ip) => (vec![IpAddr::V6(ip)], CertificateName::from(IpAddr::V6(ip))),
            Host::Domain(name) => {
                let certificate_name =
                    CertificateName::try_from(name.to_owned()).map_err(|_| NoDelegation::BadRedirect)?;
                (self.resolver.addresses(name).await?, certificate_name)
            }
        };
        let host_header = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let route = Route {
            addresses: ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
            host_header,
            certificate_name,
        };
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let request = Request::get(path)
            .header(header::USER_AGENT, USER_AGENT)
            .body(Bytes::new())
            .map_err(|_| NoDelegation::BadRedirect)?;
        let exchange = self.transport.exchange(&route, request, WELL_KNOWN_BYTES_MAX, WELL_KNOWN_DEADLINE);
        Ok(exchange.await?)
    }
}

/// Whom an answer delegates to, and for how long that counts.
pub(crate) fn read_answer(
    headers: &HeaderMap,
    body: &[u8],
    now: UnixMillis,
) -> Result<(OwnedServerName, Duration), NoDelegation> {
    // A list of what the fields would hold passes for the object with some parsers, ours among them.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(NoDelegation::Malformed);
    }
    let body: WellKnownBody = serde_json::from_slice(body).map_err(|_| NoDelegation::Malformed)?;
    Ok((body.server, kept_for(headers, now)))
}

pub(crate) fn next_hop(from: &Url, headers: &HeaderMap) -> Result<Url, NoDelegation> {
    let location =
        headers.get(header::LOCATION).and_then(|location| location.to_str().ok()).ok_or(NoDelegation::BadRedirect)?;
    let mut to = from.join(location).map_err(|_| NoDelegation::BadRedirect)?;
    let carries_credentials = !to.username().is_empty() || to.password().is_some();
    if to.scheme() != "https" || carries_credentials {
        return Err(NoDelegation::BadRedirect);
    }
    // A fragment is not sent, so it must not make two hops out of one.
    to.set_fragment(None);
    Ok(to)
}

/// How long the answer counts: `Cache-Control`, else `Expires`, else a day; always within our bounds.
fn kept_for(headers: &HeaderMap, now: UnixMillis) -> Duration {
    cache_control(headers)
        .or_else(|| expires(headers, now))
        .unwrap_or(ANSWER_KEPT)
        .clamp(ANSWER_KEPT_MIN, ANSWER_KEPT_MAX)
}

fn cache_control(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(header::CACHE_CONTROL).iter();
    let text: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let mut max_age = None;
    for directive in text.iter().flat_map(|line| line.split(',')) {
        let (name, value) = directive.trim().split_once('=').unwrap_or((directive.trim(), ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") {
            max_age = value.trim_matches('"').parse().ok().map(Duration::from_secs);
        }
    }
    max_age
}

fn expires(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    // An unreadable date means "already expired" (RFC 9111, section 5.3).
    let date = http_date_to_system_time(headers.get(header::EXPIRES)?).unwrap_or(UNIX_EPOCH);
    let now = UNIX_EPOCH.checked_add(Duration::from_millis(now.0))?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}
