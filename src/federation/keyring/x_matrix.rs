//! Verifies the signatures of an incoming request.
//! May not: parse headers; it gets their parts. May not: see any other target than the one on the request line.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use std::sync::Arc;

use ruma::{OwnedServerSigningKeyId, ServerName, ServerSigningKeyId, serde::Base64};
use thiserror::Error;
use vestibule_protocol::clock::UnixMillis;

use super::{KeyError, Keyring, Purpose, SourceNetwork, batch};

/// `Authorization` lines looked at in one request. Ours; servers send one for each of their keys, most send one in all.
pub const SIGNATURES_MAX: usize = 8;

/// The parts of a request that its signatures are about.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// The method, upper case.
    pub method: &'a str,
    /// Path and query exactly as on the request line, nothing decoded.
    pub uri: &'a str,
    /// The one origin that all headers name.
    pub origin: &'a ServerName,
    /// The destination that the headers name, if they do.
    pub destination: Option<&'a ServerName>,
    /// The canonical text of the body, if the request has one.
    pub content: Option<&'a str>,
    /// Key id and signature of each header.
    pub signatures: &'a [(OwnedServerSigningKeyId, Base64)],
}

/// Why a request is not proven to be its origin's. All of them are the caller's 401, [`KeyError::OverBudget`] a 429.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum VerifyRequestError {
    /// It was made for another server.
    #[error("the request is for another destination")]
    DestinationMismatch,
    /// It carries no signature, or more than [`SIGNATURES_MAX`].
    #[error("{count} signatures, expected 1 to {SIGNATURES_MAX}")]
    SignatureCount {
        /// How many there are.
        count: usize,
    },
    /// No key to verify with.
    #[error("{0}")]
    Keys(#[source] KeyError),
    /// A signature is wrong for a key that we have.
    #[error("the signature by {key_id} does not verify")]
    BadSignature {
        /// The key that did not sign this.
        key_id: OwnedServerSigningKeyId,
    },
    /// The parts cannot be written as JSON.
    #[error("the request has no canonical form")]
    NoCanonicalForm,
}

impl Keyring {
    /// Verifies that `request.origin` signed `request` for us, at `now`.
    ///
    /// Every signature whose key can be had must verify, and at least one key must be had. Requests that arrive together are
    /// verified together.
    /// `source` pays when the origin is unknown. Dropping the future cancels no fetch.
    ///
    /// # Errors
    /// [`VerifyRequestError`]. A wrong destination is found before anything is fetched.
    pub async fn verify_request(
        &self,
        request: &SignedRequest<'_>,
        source: SourceNetwork,
        now: UnixMillis,
    ) -> Result<(), VerifyRequestError> {
        let us = self.inner.identity.server_name();
        if request.destination.is_some_and(|destination| destination != us) {
            return Err(VerifyRequestError::DestinationMismatch);
        }
        let count = request.signatures.len();
        if count == 0 || count > SIGNATURES_MAX {
            return Err(VerifyRequestError::SignatureCount { count });
        }
        let message = signed_text(request, us).map_err(|_| VerifyRequestError::NoCanonicalForm)?;
        let key_ids: Vec<&ServerSigningKeyId> = request.signatures.iter().map(|(id, _)| &**id).collect();
        let keys = self
            .inner
            .usable_keys(request.origin, &key_ids, Purpose::Request { now }, Some(source))
            .await
            .map_err(VerifyRequestError::Keys)?;
        let message: Arc<str> = message.into();
        for (key_id, signature) in request.signatures {
            let Some(key) = keys.get(key_id) else {
                continue;
            };
            if !batch::verifies(key, Arc::clone(&message), signature.as_bytes()).await {
                return Err(VerifyRequestError::BadSignature { key_id: key_id.clone() });
            }
        }
        Ok(())
    }
}

/// The canonical JSON that was signed. Written piece by piece, so that nothing a stranger sent is parsed for it; the keys stand
/// in the order that canonical JSON demands.
pub(super) fn signed_text(request: &SignedRequest<'_>, destination: &ServerName) -> serde_json::Result<String> {
    let mut text = String::from("{");
    if let Some(content) = request.content {
        text.push_str(r#""content":"#);
        text.push_str(content);
        text.push(',');
    }
    let parts = [
        ("destination", destination.as_str()),
        ("method", request.method),
        ("origin", request.origin.as_str()),
        ("uri", request.uri),
    ];
    for (position, (name, value)) in parts.into_iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(&format!(r#""{name}":{}"#, serde_json::to_string(value)?));
    }
    text.push('}');
    Ok(text)
}
