//! The room's policy server: an event that it has not signed is not sent, and one that it will not sign is not shown.
//! May not: ask it; a turn says that its signature is needed, and runs anew when it is there or refused.

use std::sync::Arc;

use ruma::ServerName;
use vestibule_protocol::{
    pdu::Pdu,
    policy_server::{PolicyServer, needs_signature},
};

use super::{Lookups, Need, Room};
use crate::policy_signer::PolicyVerdict;

/// An event that the room's policy server must see first.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// The event.
    pub event: Arc<Pdu>,
    /// Whom to ask.
    pub policy_server: PolicyServer,
}

/// Why an event does not pass.
#[derive(Debug)]
pub(super) enum PolicyStop {
    /// The policy server was not asked yet.
    Need(Need),
    /// It refuses.
    Refused(String),
}

impl Room {
    /// The event as it may go on: with the policy server's signature, if the room has one.
    pub(super) fn pass_policy(&self, event: &Arc<Pdu>, lookups: &Lookups) -> Result<Arc<Pdu>, PolicyStop> {
        let us = self.context.identity.server_name();
        // A room that names us names nobody: we are no policy server.
        let may_be_asked = |server: &ServerName| server != us && self.has_joined_users_of(server);
        let Some(policy_server) = PolicyServer::of(self.state(), may_be_asked) else { return Ok(event.clone()) };
        if !needs_signature(event) || policy_server.check(event, self.version()).is_ok() {
            return Ok(event.clone());
        }
        match lookups.policy_verdict(event.event_id()) {
            None => {
                Err(PolicyStop::Need(Need::PolicySignature(Box::new(Unsigned { event: event.clone(), policy_server }))))
            }
            Some(PolicyVerdict::Signed(answer)) => policy_server
                .add_signature(event, answer, self.version())
                .map(Arc::new)
                .map_err(|fault| PolicyStop::Refused(fault.to_string())),
            Some(PolicyVerdict::Refused(reason)) => Err(PolicyStop::Refused(reason.clone())),
        }
    }
}
