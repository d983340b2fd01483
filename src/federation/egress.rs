//! The one way out: connects to other servers, over TLS only, and to permitted addresses only.
//! May not: resolve names, follow redirects, decompress, or skip the certificate check for anybody.
//!
//! A [`Route`] carries addresses that are already resolved, and exactly those are judged and connected to. So nothing can
//! change between the check and the connection, and every hop of every flow passes the same gate.

pub mod address_filter;
mod connector;
mod trust;

use std::{
    collections::HashMap,
    error::Error,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::Client as PooledClient,
    rt::{TokioExecutor, TokioTimer},
};
use rustls_pki_types::ServerName as CertificateName;
use thiserror::Error;
use tokio::time::timeout;

pub use self::address_filter::{AddressFilter, DEFAULT_DENIED_IP_RANGES};
use self::connector::Connector;
pub use self::trust::{TrustError, tls_config, tls_config_with_roots};

/// Bytes of a reply's status line and headers. Ours; one read buffer, so also what is read ahead of a capped body.
pub const REPLY_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a body in one piece while it arrives. Ours. What grows in one piece is copied each time that it doubles, and the
/// old and the new are there together: one body would cost three times its cap.
const PIECE_BYTES: usize = 1024 * 1024;

/// Header lines in a reply. Ours.
pub const REPLY_HEADERS_MAX: usize = 100;

/// How long an unused connection is kept for the next request to the same server.
const IDLE_CONNECTION_KEPT: Duration = Duration::from_secs(60);

/// Unused connections kept for one server.
const IDLE_CONNECTIONS_PER_SERVER_MAX: usize = 4;

/// Where a request goes, and whom it must meet there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Resolved addresses in the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
    /// Value of the `Host` header.
    pub host_header: String,
    /// Name or IP address that the certificate must be for. A name is also sent as SNI, an address never is.
    pub certificate_name: CertificateName<'static>,
}

/// Why an exchange with another server gave no reply. Facts about this attempt, none of them our own failure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EgressError {
    /// The route holds no address.
    #[error("no address to connect to")]
    NoAddress,
    /// Every address of the route is in a denied range.
    #[error("every address is in a denied range")]
    AddressDenied,
    /// The route's port is reserved for other protocols.
    #[error("port {port} is not for federation")]
    PortDenied {
        /// The refused port.
        port: u16,
    },
    /// No permitted address took the connection.
    #[error("could not connect: {detail}")]
    Connect {
        /// The system's words about the last attempt.
        detail: String,
    },
    /// The TLS handshake failed; most often the certificate is not for this name or not trusted. No request byte was sent.
    #[error("TLS handshake refused: {detail}")]
    Tls {
        /// The TLS library's words.
        detail: String,
    },
    /// The deadline passed.
    #[error("no complete reply before the deadline")]
    Timeout,
    /// The reply is longer than the caller allows. The rest was not read.
    #[error("reply with status {status} larger than {bytes_max} bytes")]
    ReplyTooLarge {
        /// The caller's limit.
        bytes_max: usize,
        /// The reply's status: what the server decided is known, although not what it said.
        status: StatusCode,
    },
    /// The connection ended early, or what came is not HTTP/1 with a head within our limits.
    #[error("broken exchange: {detail}")]
    Broken {
        /// The HTTP library's words.
        detail: String,
    },
}

/// Carries one request to a server and its whole, capped reply back. Production: [`Egress`]. Tests script it.
pub trait Transport: Send + Sync {
    /// Sends `request`, whose URI is a path with query, along `route`.
    ///
    /// At most `reply_bytes_max` bytes of body are accepted, counted while they arrive. Redirects come back as they are.
    /// Dropping the future gives the request up; the server may have acted on it.
    ///
    /// # Errors
    /// [`EgressError`]; after `deadline` always [`EgressError::Timeout`].
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: Request<Bytes>,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Response<Bytes>, EgressError>>;
}

/// The outbound HTTP client: pooled HTTP/1.1 over TLS to permitted addresses.
pub struct Egress {
    client: PooledClient<Connector, Full<Bytes>>,
    routes: Arc<RouteTable>,
}

impl Egress {
    /// Builds the client. `tls` comes from [`tls_config`].
    pub fn new(filter: AddressFilter, tls: Arc<rustls::ClientConfig>) -> Self {
        let routes = Arc::new(RouteTable::default());
        let client = PooledClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION_KEPT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_SERVER_MAX)
            .http1_max_buf_size(REPLY_HEAD_BYTES_MAX)
            .http1_max_headers(REPLY_HEADERS_MAX)
            .set_host(false)
            .build(Connector::new(filter, tls, Arc::clone(&routes)));
        Self { client, routes }
    }

    async fn exchange_without_deadline(
        &self,
        route: &Route,
        request: Request<Bytes>,
        reply_bytes_max: usize,
    ) -> Result<Response<Bytes>, EgressError> {
        let authority = pool_authority(route)?;
        let request = address_request(&authority, route, request)?;
        // The guard lives as long as this future: while the client may still ask for a connection, the route is known.
        let _route_known = self.routes.know(authority, route.clone());
        let response = self.client.request(request).await.map_err(|error| classify(&error))?;
        let (head, mut body) = response.into_parts();
        let too_large = EgressError::ReplyTooLarge { bytes_max: reply_bytes_max, status: head.status };
        let announced =
            head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > reply_bytes_max) {
            return Err(too_large);
        }
        // What is announced has its place at once, and is touched only as it comes.
        let mut collected =
            Pieces { last: BytesMut::with_capacity(announced.unwrap_or_default()), ..Pieces::default() };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| EgressError::Broken { detail: error.to_string() })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > reply_bytes_max.saturating_sub(collected.bytes) {
                return Err(too_large);
            }
            collected.push(&data);
        }
        Ok(Response::from_parts(head, collected.whole()))
    }
}

impl Transport for Egress {
    fn exchange<'a>(
        &'a self,
        route: &'a Route,
        request: Request<Bytes>,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Response<Bytes>, EgressError>> {
        Box::pin(async move {
            let exchange = self.exchange_without_deadline(route, request, reply_bytes_max);
            timeout(deadline, exchange).await.unwrap_or(Err(EgressError::Timeout))
        })
    }
}

/// A body while it arrives.
#[derive(Default)]
struct Pieces {
    full: Vec<BytesMut>,
    last: BytesMut,
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, data: &[u8]) {
        if self.last.len().saturating_add(data.len()) > PIECE_BYTES.max(self.last.capacity()) {
            self.full.push(mem::take(&mut self.last));
        }
        self.last.extend_from_slice(data);
        self.bytes = self.bytes.saturating_add(data.len());
    }

    fn whole(self) -> Bytes {
        if self.full.is_empty() {
            return self.last.freeze();
        }
        let mut whole = BytesMut::with_capacity(self.bytes);
        for piece in self.full.into_iter().chain([self.last]) {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }
}

/// The routes of the requests in flight, by the authority under which the pool knows them.
///
/// The pool hands its connector nothing but a URI; this is where the connector finds the addresses.
#[derive(Default)]
struct RouteTable {
    known: Mutex<HashMap<String, KnownRoute>>,
}

struct KnownRoute {
    route: Route,
    requests: usize,
}

impl RouteTable {
    fn know(self: &Arc<Self>, authority: String, route: Route) -> RouteGuard {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known
            .entry(authority.clone())
            .and_modify(|entry| entry.route = route.clone())
            .or_insert_with(|| KnownRoute { route, requests: 0 });
        entry.requests = entry.requests.saturating_add(1);
        RouteGuard { table: Arc::clone(self), authority }
    }

    fn find(&self, authority: &str) -> Option<Route> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(authority).map(|entry| entry.route.clone())
    }
}

struct RouteGuard {
    table: Arc<RouteTable>,
    authority: String,
}

impl Drop for RouteGuard {
    fn drop(&mut self) {
        let mut known = self.table.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get_mut(&self.authority) {
            entry.requests = entry.requests.saturating_sub(1);
            if entry.requests == 0 {
                known.remove(&self.authority);
            }
        }
    }
}

/// Connections are shared by certificate name and port: whoever proves the name on that port is the same server to us.
fn pool_authority(route: &Route) -> Result<String, EgressError> {
    let port = route.addresses.first().ok_or(EgressError::NoAddress)?.port();
    Ok(match &route.certificate_name {
        CertificateName::IpAddress(ip) => SocketAddr::new(IpAddr::from(*ip), port).to_string(),
        name => format!("{}:{port}", name.to_str().to_ascii_lowercase()),
    })
}

fn address_request(
    authority: &str,
    route: &Route,
    request: Request<Bytes>,
) -> Result<Request<Full<Bytes>>, EgressError> {
    let unfit = |detail: String| EgressError::Broken { detail };
    let (mut head, body) = request.into_parts();
    let path_and_query = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    head.uri = Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query(path_and_query)
        .build()
        .map_err(|error| unfit(error.to_string()))?;
    let host = HeaderValue::from_str(&route.host_header).map_err(|error| unfit(error.to_string()))?;
    head.headers.insert(header::HOST, host);
    Ok(Request::from_parts(head, Full::new(body)))
}

fn classify(error: &hyper_util::client::legacy::Error) -> EgressError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut innermost = String::new();
    while let Some(error) = cause {
        if let Some(ours) = error.downcast_ref::<EgressError>() {
            return ours.clone();
        }
        innermost = error.to_string();
        cause = error.source();
    }
    EgressError::Broken { detail: innermost }
}

#[cfg(test)]
mod tests;
