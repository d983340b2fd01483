//! Asking a room's policy server for its signature: a port, since rooms reach no network.
//! May not: be used inside a turn. The door asks while the room goes on, and the turn runs anew with the answer.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use futures_util::future::BoxFuture;
use ruma::{CanonicalJsonObject, ServerName};
use vestibule_protocol::pdu::Pdu;

/// What a policy server said of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyVerdict {
    /// Its answer, with a signature that is still to be verified.
    Signed(CanonicalJsonObject),
    /// It does not want the event, or did not answer: for our own client.
    Refused(String),
}

/// Asks policy servers. Implemented above, where other servers can be reached.
pub trait PolicySigner: Send + Sync {
    /// Shows the event to the policy server and waits for its answer, not for ever.
    fn sign<'a>(&'a self, via: &'a ServerName, event: &'a Pdu) -> BoxFuture<'a, PolicyVerdict>;
}
