//! The policy server of a room: whether there is one, which events need its signature, and whether an event has it.
//! May not: ask it. Who has to ask gets told; the room judges again with the answer.

#[cfg(test)]
mod tests;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    events::{TimelineEventType, room::policy::RoomPolicyEventContent},
    serde::{Base64, base64::Standard},
    signatures::verify_policy_server_signature,
};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    pdu::{
        Pdu,
        checks::{EVENT_BYTES_MAX, POLICY_SERVER_KEY},
    },
    room_version::RoomVersion,
    state::StateMap,
};

/// The type of the state event that names a room's policy server.
const POLICY_TYPE: &str = "m.room.policy";

/// Bytes of an ed25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;

/// A room's policy server: without its signature an event is not shown.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    /// Whom to ask, and under whose name the signature stands.
    pub via: OwnedServerName,
    /// What the signature is verified with, as the room's state says.
    pub public_key: Base64<Standard>,
}

/// Why an event lacks what the room's policy server has to say.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyFault {
    /// It was not asked, or refused: ask it.
    #[error("no signature of the policy server")]
    Missing,
    /// The signature does not verify. The room may have changed the key, so asking again can help.
    #[error("the policy server's signature does not verify: {0}")]
    Wrong(String),
    /// There is no room left in the event for the signature.
    #[error("the event would be larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
}

#[derive(Deserialize)]
struct PolicyContent {
    via: OwnedServerName,
    public_keys: PublicKeys,
}

#[derive(Deserialize)]
struct PublicKeys {
    ed25519: Base64<Standard>,
}

impl PolicyServer {
    /// The policy server that a state names. `None`: the room has none, because the event is missing or incomplete, or because
    /// nobody of that server is in the room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room>
    pub fn of(state: &StateMap, has_joined_user: impl FnOnce(&ServerName) -> bool) -> Option<Self> {
        let event = state.get(&POLICY_TYPE.into(), "")?;
        let content: PolicyContent = event.content_as()?;
        let public_key = content.public_keys.ed25519;
        let is_key = public_key.as_bytes().len() == PUBLIC_KEY_BYTES;
        (is_key && has_joined_user(&content.via)).then_some(Self { via: content.via, public_key })
    }

    /// Whether the event carries the policy server's signature. Events that need none pass.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures>
    ///
    /// # Errors
    /// [`PolicyFault::Missing`] or [`PolicyFault::Wrong`].
    pub fn check(&self, event: &Pdu, version: &RoomVersion) -> Result<(), PolicyFault> {
        if !needs_signature(event) {
            return Ok(());
        }
        let object = event.to_object().map_err(|error| PolicyFault::Wrong(error.to_string()))?;
        let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
        if signatures.and_then(|signatures| signature_in(signatures, &self.via)).is_none() {
            return Err(PolicyFault::Missing);
        }
        self.verify(&object, version)
    }

    /// The event with the policy server's signature from its answer to `sign`. Of the answer nothing but that signature is
    /// taken, and nobody else's in the event is touched: the policy server may be its sender's server too.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#asking-for-a-policy-server-signature-on-an-event>
    ///
    /// # Errors
    /// [`PolicyFault`]: the answer holds no signature, or a wrong one, or the event has no room for it.
    pub fn add_signature(
        &self,
        event: &Pdu,
        answer: &CanonicalJsonObject,
        version: &RoomVersion,
    ) -> Result<Pdu, PolicyFault> {
        let wrong = |what: String| PolicyFault::Wrong(what);
        let signature = signature_in(answer, &self.via).ok_or(PolicyFault::Missing)?;
        let mut object = event.to_object().map_err(|error| wrong(error.to_string()))?;
        let Some(CanonicalJsonValue::Object(by_server)) = object.get_mut("signatures") else {
            return Err(wrong("the event has no signatures".to_owned()));
        };
        let of_server = by_server
            .entry(self.via.to_string())
            .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
        let CanonicalJsonValue::Object(by_key) = of_server else {
            return Err(wrong("the event's signatures are malformed".to_owned()));
        };
        by_key.insert(POLICY_SERVER_KEY.to_owned(), signature.clone());
        self.verify(&object, version)?;
        let json = serde_json::to_string(&object).map_err(|error| wrong(error.to_string()))?;
        if json.len() > EVENT_BYTES_MAX {
            return Err(PolicyFault::TooLarge);
        }
        Pdu::from_canonical_text(event.event_id().to_owned(), json.into(), version, event.standing())
            .map_err(|error| wrong(error.to_string()))
    }

    fn verify(&self, object: &CanonicalJsonObject, version: &RoomVersion) -> Result<(), PolicyFault> {
        let policy = RoomPolicyEventContent::new(self.via.clone(), self.public_key.clone());
        verify_policy_server_signature(&policy, object, version.rules())
            .map_err(|error| PolicyFault::Wrong(error.to_string()))
    }
}

/// Whether the event has to be shown to the policy server: all but the one that names it, by which a room can get rid of it.
pub fn needs_signature(event: &Pdu) -> bool {
    *event.kind() != TimelineEventType::from(POLICY_TYPE) || event.state_key() != Some("")
}

fn signature_in<'a>(signatures: &'a CanonicalJsonObject, via: &ServerName) -> Option<&'a CanonicalJsonValue> {
    signatures
        .get(via.as_str())
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|by_key| by_key.get(POLICY_SERVER_KEY))
        .filter(|signature| signature.as_str().is_some())
}
