//! Asks a room's policy server for its signature on an event.
//! May not: judge the signature, or pass on more of a refusal than that it was one.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixpolicyv1sign>

use std::time::Duration;

use futures_util::future::BoxFuture;
use ruma::ServerName;
use vestibule_actors::{PolicySigner, PolicyVerdict};
use vestibule_protocol::pdu::Pdu;

use crate::{
    client::{Client, Limits, RemoteError},
    endpoints,
};

/// Bytes of an answer. Ours: a signature, and what names it.
const SIGN_REPLY_BYTES_MAX: usize = 16 * 1024;

/// Policy servers over the network.
#[derive(Clone)]
pub struct PolicyServers {
    client: Client,
    request_timeout: Duration,
}

impl PolicyServers {
    /// Asks with this client, each time for so long.
    pub fn new(client: Client, request_timeout: Duration) -> Self {
        Self { client, request_timeout }
    }
}

impl PolicySigner for PolicyServers {
    fn sign<'a>(&'a self, via: &'a ServerName, event: &'a Pdu) -> BoxFuture<'a, PolicyVerdict> {
        Box::pin(async move {
            let request = endpoints::policy_sign(event.json().to_owned());
            let limits = Limits { reply_bytes_max: SIGN_REPLY_BYTES_MAX, deadline: self.request_timeout };
            let reply = self.client.request(via, request, limits).await;
            match reply.and_then(|reply| reply.canonical_object()) {
                Ok(answer) => PolicyVerdict::Signed(answer),
                Err(error) => {
                    log::debug!(destination:% = via, room_id:% = event.room_id(), event_id:% = event.event_id(), error:%; "no signature of the policy server");
                    PolicyVerdict::Refused(
                        match error {
                            RemoteError::Refused(refusal) if refusal.status.is_client_error() => {
                                "the room's policy server refuses this event"
                            }
                            _ => "the room's policy server does not answer",
                        }
                        .to_owned(),
                    )
                }
            }
        })
    }
}
