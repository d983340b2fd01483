//! Requests to other servers: signed or not, with a capped reply and one deadline over everything.
//! May not: retry, follow redirects, or pass on more of a foreign error than its facts.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use ruma::{
    CanonicalJsonObject, RoomVersionId, ServerName,
    api::{
        error::ErrorCode,
        federation::authentication::{XMatrix, XMatrixSigningInput},
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::time::timeout;
use vestibule_protocol::{canonical_json, signing::Identity};

use crate::{
    denied_servers::DeniedServers,
    discovery::{Discovery, DiscoveryError},
    egress::{EgressError, Transport},
};

/// Bytes of a key document or a notary's answer. Source: SECURITY T21.
pub const KEYS_REPLY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a `make_knock` answer. Source: SECURITY T21.
pub const MAKE_KNOCK_REPLY_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a `send_knock` answer. Source: SECURITY T21.
pub const SEND_KNOCK_REPLY_BYTES_MAX: usize = 1024 * 1024;

/// What we call ourselves in `User-Agent`.
pub const USER_AGENT: &str = concat!("Vestibule/", env!("CARGO_PKG_VERSION"));

/// Bytes of an error that is looked into. Ours: an honest one is a line, while the reply may be as long as a whole room.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Bytes for each list or object of a reply, on average. Ours: a value costs up to a hundred times its text when it is all
/// braces; honest replies have a hundred bytes for each.
const BYTES_BY_NEST_MIN: usize = 24;

/// Lists and objects that a reply may have however short it is. Ours.
const NESTS_UNCOUNTED: usize = 10_000;

/// Characters kept of a peer's error text. It is for logs and admins, never for our users. Ours.
const ERROR_TEXT_CHARS_MAX: usize = 256;

/// How much of a peer a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of body accepted, counted as they arrive.
    pub reply_bytes_max: usize,
    /// Time for discovery, connection, request and whole reply together.
    pub deadline: Duration,
}

/// One request, not yet addressed.
#[derive(Clone, Debug)]
pub struct ServerRequest {
    /// The HTTP method.
    pub method: Method,
    /// Path and query, percent-encoded, from `/_matrix/…`. Signed and sent exactly so.
    pub path_and_query: String,
    /// The JSON text of the body, if the request has one.
    pub body: Option<Bytes>,
    /// Whether our signature goes with it.
    pub authentication: Authentication,
}

/// How a request says who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// With an X-Matrix header signed by our key.
    Signed,
    /// Not at all: key and version endpoints.
    Anonymous,
}

/// A reply with a 2xx status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body, at most as long as the limits allow.
    pub body: Bytes,
}

/// What a server said instead of doing what we asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The status, never 2xx.
    pub status: StatusCode,
    /// The Matrix error code, if the body carried one.
    pub errcode: Option<ErrorCode>,
    /// The start of the peer's own words. Not trustworthy.
    pub error: String,
    /// How long it asks us to wait.
    pub retry_after: Option<Duration>,
    /// The room's version, which goes with `M_INCOMPATIBLE_ROOM_VERSION`.
    pub room_version: Option<RoomVersionId>,
}

/// Why a server did not do what we asked. None of these is a failure of ours.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum RemoteError {
    /// The destination is this server.
    #[error("the destination is this server itself")]
    DestinationIsUs,
    /// The operator denies the destination. Nothing was looked up or sent.
    #[error("the destination is denied by the operator")]
    DestinationDenied,
    /// The request cannot be written or signed; the caller built it wrongly.
    #[error("unfit request: {detail}")]
    UnfitRequest {
        /// What is wrong with it.
        detail: String,
    },
    /// The name leads nowhere.
    #[error("no way to the server: {0}")]
    NoAddress(DiscoveryError),
    /// The server's addresses or port are ones that we do not connect to.
    #[error("the server's addresses are in denied ranges, or its port is reserved")]
    AddressDenied,
    /// Nobody took the connection.
    #[error("could not connect: {detail}")]
    Connect {
        /// The system's words.
        detail: String,
    },
    /// The server did not prove its name.
    #[error("TLS handshake refused: {detail}")]
    Tls {
        /// The TLS library's words.
        detail: String,
    },
    /// No complete reply in time. The server may have done what we asked.
    #[error("no complete reply before the deadline")]
    Timeout,
    /// The reply is longer than allowed. The server may have done what we asked.
    #[error("reply with status {status} larger than {bytes_max} bytes")]
    ReplyTooLarge {
        /// The limit.
        bytes_max: usize,
        /// The reply's status.
        status: StatusCode,
    },
    /// The connection broke or what came is not HTTP. The server may have done what we asked.
    #[error("broken exchange: {detail}")]
    Broken {
        /// The HTTP library's words.
        detail: String,
    },
    /// A 2xx reply whose body is not the JSON it has to be.
    #[error("reply is not the expected JSON: {detail}")]
    NotJson {
        /// The parser's words.
        detail: String,
    },
    /// Any status but 2xx.
    #[error("refused with {} {}", .0.status, .0.errcode.as_ref().map_or("", AsRef::as_ref))]
    Refused(Box<Refusal>),
}

/// Makes requests to other servers in our name.
#[derive(Clone)]
pub struct Client {
    identity: Arc<Identity>,
    discovery: Discovery,
    transport: Arc<dyn Transport>,
    denied: Arc<DeniedServers>,
}

impl ServerRequest {
    /// A signed `GET`.
    pub fn get(path_and_query: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path_and_query: path_and_query.into(),
            body: None,
            authentication: Authentication::Signed,
        }
    }

    /// A signed `PUT` of a JSON text.
    pub fn put(path_and_query: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::PUT, body: Some(body.into()), ..Self::get(path_and_query) }
    }

    /// A signed `POST` of a JSON text.
    pub fn post(path_and_query: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: Some(body.into()), ..Self::get(path_and_query) }
    }

    /// The same request without our signature.
    pub fn anonymous(self) -> Self {
        Self { authentication: Authentication::Anonymous, ..self }
    }
}

impl Reply {
    /// The body as `T`, which may keep parts of it as they are.
    ///
    /// # Errors
    /// [`RemoteError::NotJson`], also for what is little but lists and objects, which would take much memory.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, RemoteError> {
        let nests = self.body.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
        if nests > NESTS_UNCOUNTED.max(self.body.len() / BYTES_BY_NEST_MIN) {
            return Err(RemoteError::NotJson { detail: format!("{nests} lists and objects") });
        }
        serde_json::from_slice(&self.body).map_err(|error| RemoteError::NotJson { detail: error.to_string() })
    }

    /// The body as an object of canonical JSON, which is what signatures are about.
    ///
    /// # Errors
    /// [`RemoteError::NotJson`], also for floats, doubled keys and other text with two readings.
    pub fn canonical_object(&self) -> Result<CanonicalJsonObject, RemoteError> {
        canonical_json::parse_object(&self.body).map_err(|error| RemoteError::NotJson { detail: error.to_string() })
    }
}

impl Client {
    /// A client that speaks as `identity`.
    pub fn new(identity: Arc<Identity>, discovery: Discovery, transport: Arc<dyn Transport>) -> Self {
        Self { identity, discovery, transport, denied: Arc::default() }
    }

    /// The same client, which sends nothing to these servers.
    pub fn denying(self, denied: DeniedServers) -> Self {
        Self { denied: Arc::new(denied), ..self }
    }

    /// Whether the operator lets us talk to a server.
    pub fn is_denied(&self, server: &ServerName) -> bool {
        self.denied.holds(server)
    }

    /// Sends `request` to `destination` and waits for the whole reply.
    ///
    /// Sent at most once. Dropping the future gives the request up; the server may have acted on it.
    ///
    /// # Errors
    /// [`RemoteError`]; any status outside 2xx is [`RemoteError::Refused`].
    pub async fn request(
        &self,
        destination: &ServerName,
        request: ServerRequest,
        limits: Limits,
    ) -> Result<Reply, RemoteError> {
        if destination == self.identity.server_name() {
            return Err(RemoteError::DestinationIsUs);
        }
        if self.is_denied(destination) {
            return Err(RemoteError::DestinationDenied);
        }
        let request = self.write(destination, request)?;
        let exchange = async {
            let route = self.discovery.route(destination).await.map_err(RemoteError::NoAddress)?;
            let exchange = self.transport.exchange(&route, request, limits.reply_bytes_max, limits.deadline);
            exchange.await.map_err(RemoteError::from)
        };
        let outcome = timeout(limits.deadline, exchange).await.unwrap_or(Err(RemoteError::Timeout));
        if outcome.as_ref().is_err_and(RemoteError::is_about_the_route) {
            self.discovery.forget(destination);
        }
        let response = outcome?;
        if response.status().is_success() {
            return Ok(Reply { status: response.status(), body: response.into_body() });
        }
        let refusal = Refusal::read(response.status(), response.headers(), response.body());
        Err(RemoteError::Refused(Box::new(refusal)))
    }

    fn write(&self, destination: &ServerName, request: ServerRequest) -> Result<Request<Bytes>, RemoteError> {
        let mut builder = Request::builder()
            .method(request.method)
            .uri(&request.path_and_query)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "application/json");
        if request.body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        let mut written = builder.body(request.body.unwrap_or_default()).map_err(RemoteError::unfit)?;
        // The parser of URIs drops what no request line may hold; then what we sign would not be what was asked for.
        let is_exact = written.uri().path_and_query().is_some_and(|kept| *kept == *request.path_and_query);
        if !is_exact {
            return Err(RemoteError::unfit("the target is no path with query"));
        }
        if request.authentication == Authentication::Signed {
            let authorization = self.authorization(destination, &written)?;
            written.headers_mut().insert(header::AUTHORIZATION, authorization);
        }
        Ok(written)
    }

    /// The header in the form that every peer reads: all values quoted, one space, no blanks (SPEC 4.2).
    fn authorization(&self, destination: &ServerName, request: &Request<Bytes>) -> Result<HeaderValue, RemoteError> {
        let input = XMatrixSigningInput::new(
            self.identity.server_name().to_owned(),
            destination.to_owned(),
            self.identity.key().key_pair(),
        );
        let signed = XMatrix::sign_http_request(request, input).map_err(RemoteError::unfit)?;
        let text = format!(
            r#"{} origin="{}",destination="{destination}",key="{}",sig="{}""#,
            XMatrix::AUTH_SCHEME,
            signed.origin,
            signed.key,
            signed.sig,
        );
        HeaderValue::from_str(&text).map_err(RemoteError::unfit)
    }
}

impl RemoteError {
    fn unfit(error: impl std::fmt::Display) -> Self {
        Self::UnfitRequest { detail: error.to_string() }
    }

    /// Whether the server does not know the endpoint, so that what was asked for was not judged at all.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#unsupported-endpoints>
    pub fn is_unknown_endpoint(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let is_about_endpoints = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&refusal.status);
        is_about_endpoints && matches!(&refusal.errcode, None | Some(ErrorCode::Unrecognized))
    }

    /// Whether the server refuses this very request, and would again: not us, not now, and not the endpoint. A page without a
    /// Matrix error is of whatever stands before the server, and says nothing of what was asked; but what is too large for that
    /// one never gets through.
    pub fn is_about_the_request(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let is_about_us_or_now = [StatusCode::UNAUTHORIZED, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS]
            .contains(&refusal.status);
        let is_of_the_server = refusal.errcode.is_some() || refusal.status == StatusCode::PAYLOAD_TOO_LARGE;
        refusal.status.is_client_error() && is_of_the_server && !is_about_us_or_now && !self.is_unknown_endpoint()
    }

    /// Whether the server may have done what we asked although it did not say so.
    pub fn may_have_been_done(&self) -> bool {
        match self {
            Self::Timeout | Self::Broken { .. } | Self::NotJson { .. } => true,
            Self::ReplyTooLarge { status, .. } => !status.is_client_error(),
            Self::Refused(refusal) => refusal.status.is_server_error(),
            Self::DestinationIsUs
            | Self::DestinationDenied
            | Self::UnfitRequest { .. }
            | Self::NoAddress(_)
            | Self::AddressDenied
            | Self::Connect { .. }
            | Self::Tls { .. } => false,
        }
    }

    /// Whether looking for the server anew may help.
    fn is_about_the_route(&self) -> bool {
        matches!(
            self,
            Self::AddressDenied | Self::Connect { .. } | Self::Tls { .. } | Self::Timeout | Self::Broken { .. }
        )
    }
}

impl From<EgressError> for RemoteError {
    fn from(error: EgressError) -> Self {
        match error {
            EgressError::NoAddress => Self::Connect { detail: error.to_string() },
            EgressError::AddressDenied | EgressError::PortDenied { .. } => Self::AddressDenied,
            EgressError::Connect { detail } => Self::Connect { detail },
            EgressError::Tls { detail } => Self::Tls { detail },
            EgressError::Timeout => Self::Timeout,
            EgressError::ReplyTooLarge { bytes_max, status } => Self::ReplyTooLarge { bytes_max, status },
            EgressError::Broken { detail } => Self::Broken { detail },
        }
    }
}

impl Refusal {
    fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let is_short = body.len() <= ERROR_BYTES_MAX;
        let body: Map<String, Value> =
            if is_short { serde_json::from_slice(body).ok() } else { None }.unwrap_or_default();
        // One by one: a peer that writes one of them oddly has said the others all the same.
        let text = |key: &str| body.get(key).and_then(Value::as_str);
        let header_s = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body_ms = body.get("retry_after_ms").and_then(Value::as_u64);
        let retry_after = header_s.map(Duration::from_secs).or(body_ms.map(Duration::from_millis));
        let errcode = text("errcode").filter(|code| code.chars().count() <= ERROR_TEXT_CHARS_MAX).map(ErrorCode::from);
        let error = text("error").unwrap_or_default().chars().take(ERROR_TEXT_CHARS_MAX).collect();
        let room_version = text("room_version").and_then(|version| RoomVersionId::try_from(version).ok());
        Self { status, errcode, error, retry_after, room_version }
    }
}

#[cfg(test)]
mod tests;
