//! The calling server: its `Authorization: X-Matrix` lines, parsed to the letter and verified by the keyring.
//! May not: decide with a decoded or rebuilt target; what is verified is the target as it stood on the request line. Nor make
//! more of a body than its text before it is known whose it is.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

mod header;

use std::{cell::OnceCell, future::Future, pin::Pin, rc::Rc};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest,
    dev::Payload,
    http::{Method, header::AUTHORIZATION},
    web::Data,
};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use vestibule_actors::SourceNetwork;
use vestibule_federation::keyring::SignedRequest;
use vestibule_protocol::canonical_json::CanonicalText;

pub use self::header::{Credentials, HeaderError};
use super::{
    ClientAddress,
    body::{self, BodyBytesMax},
};
use crate::{error::MatrixError, rate_limit::ParsedBody, state::App};

/// A request that its origin has signed for us.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The calling server.
    pub origin: OwnedServerName,
    /// The body, if there is one; `PUT` and `POST` always have one.
    pub body: Option<CanonicalJsonObject>,
    /// The network that the request came from.
    pub network: SourceNetwork,
    /// The place of a body that takes much memory. The request keeps it too: it is of use to what outlives the request.
    pub parsed_body: Option<ParsedBody>,
}

/// Where the door learns who is calling, once that is proven. It lies in the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct ProvenOrigin(Rc<OnceCell<OwnedServerName>>);

impl ProvenOrigin {
    /// The server that signed the request. `None`: nothing was proven.
    pub fn get(&self) -> Option<&ServerName> {
        self.0.get().map(|origin| &**origin)
    }
}

impl Signed {
    /// The body of an endpoint that has one.
    ///
    /// # Errors
    /// 400 `M_NOT_JSON`.
    pub fn into_body(self) -> Result<CanonicalJsonObject, MatrixError> {
        self.body.ok_or_else(|| MatrixError::not_json("there is no body"))
    }

    async fn of_request(request: HttpRequest, payload: Payload) -> Result<Self, MatrixError> {
        let app = request.app_data::<Data<App>>().ok_or_else(MatrixError::internal)?;
        let bytes_max = BodyBytesMax::of_request(&request);
        let _large_body =
            if bytes_max.lets_be_large(&request) { Some(app.limits.hold_large_body().await?) } else { None };
        let bytes = body::read(&request, payload, bytes_max.0).await?;
        let has_body = [Method::PUT, Method::POST].contains(request.method()) || !bytes.is_empty();
        let content = if has_body { Some(CanonicalText::read(&bytes)?) } else { None };
        drop(bytes);
        let credentials = credentials(&request).map_err(MatrixError::unauthorized)?;
        if app.settings.denied_servers.holds(&credentials.origin) {
            return Err(MatrixError::forbidden("this server does not deal with yours"));
        }
        let address = ClientAddress::of_request(&request, &app.settings.trusted_proxies);
        let signed = SignedRequest {
            method: request.method().as_str(),
            uri: request.uri().path_and_query().map_or("/", |target| target.as_str()),
            origin: &credentials.origin,
            destination: credentials.destination.as_deref(),
            content: content.as_ref().map(CanonicalText::as_str),
            signatures: &credentials.signatures,
        };
        let network = SourceNetwork::of(address.0);
        app.keyring.verify_request(&signed, network.clone(), app.clock.now()).await.map_err(|error| {
            log::debug!(origin:% = credentials.origin, error:%; "request not authenticated");
            MatrixError::from(error)
        })?;
        if let Some(proven) = request.extensions().get::<ProvenOrigin>() {
            // A second extractor on the same request would prove the same.
            let _ = proven.0.set(credentials.origin.clone());
        }
        // Whoever calls is alive: what waits for that server need not wait for its pause to end.
        app.keyring.forget_failures(&credentials.origin);
        app.sender.sign_of_life(&credentials.origin);
        app.limits.hold_request_of(&credentials.origin, &*app.clock).await?;
        // Only now, that it is known whose it is.
        let Some(content) = content else {
            return Ok(Self { origin: credentials.origin, body: None, network, parsed_body: None });
        };
        let parsed_body = app.limits.hold_parsed_body(content.parsed_bytes()).await?;
        if let Some(place) = &parsed_body {
            request.extensions_mut().insert(place.clone());
        }
        Ok(Self { origin: credentials.origin, body: Some(content.parse()?), network, parsed_body })
    }
}

/// All lines of the header, as bytes: text that is no ASCII is the parser's to refuse.
fn credentials(request: &HttpRequest) -> Result<Credentials, HeaderError> {
    Credentials::parse(request.headers().get_all(AUTHORIZATION).map(|value| value.as_bytes()))
}

impl FromRequest for Signed {
    type Error = MatrixError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, MatrixError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        Box::pin(Self::of_request(request.clone(), payload.take()))
    }
}
