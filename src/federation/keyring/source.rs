//! The two questions for keys that go over the network.
//! May not: judge the answers.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ruma::{CanonicalJsonObject, OwnedServerSigningKeyId, ServerName};
use serde_json::json;
use vestibule_protocol::clock::UnixMillis;

use crate::client::{Client, KEYS_REPLY_BYTES_MAX, Limits, RemoteError, ServerRequest};

/// Asks servers and notaries for key documents. Production: [`Client`]. Tests script it.
pub trait KeySource: Send + Sync {
    /// What `server` says about its own keys, unverified.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn server_keys<'a>(
        &'a self,
        server: &'a ServerName,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>>;

    /// What `notary` says about `server`'s keys, unverified: an object with `server_keys`.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn notary_keys<'a>(
        &'a self,
        notary: &'a ServerName,
        server: &'a ServerName,
        wanted: &'a [OwnedServerSigningKeyId],
        minimum_valid_until: UnixMillis,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>>;
}

impl KeySource for Client {
    fn server_keys<'a>(
        &'a self,
        server: &'a ServerName,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>> {
        Box::pin(async move {
            let request = ServerRequest::get("/_matrix/key/v2/server").anonymous();
            let limits = Limits { reply_bytes_max: KEYS_REPLY_BYTES_MAX, deadline };
            self.request(server, request, limits).await?.canonical_object()
        })
    }

    fn notary_keys<'a>(
        &'a self,
        notary: &'a ServerName,
        server: &'a ServerName,
        wanted: &'a [OwnedServerSigningKeyId],
        minimum_valid_until: UnixMillis,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, RemoteError>> {
        Box::pin(async move {
            let criteria = json!({ "minimum_valid_until_ts": minimum_valid_until.to_matrix() });
            let by_key: serde_json::Map<_, _> = wanted.iter().map(|id| (id.to_string(), criteria.clone())).collect();
            let body = json!({ "server_keys": { server.as_str(): by_key } }).to_string();
            let request = ServerRequest::post("/_matrix/key/v2/query", body).anonymous();
            let limits = Limits { reply_bytes_max: KEYS_REPLY_BYTES_MAX, deadline };
            self.request(notary, request, limits).await?.canonical_object()
        })
    }
}
