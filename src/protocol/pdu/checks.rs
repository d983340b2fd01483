//! Raw → shaped → verified: what a PDU must pass before any rule looks at it, the costly step last.
//! May not: fetch keys; the caller brings exactly the keys that are valid for the event's time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedServerName, RoomId, ServerName,
    canonical_json::redact,
    signatures::{
        JsonError, PublicKeyMap, VerificationError, Verified, reference_hash,
        required_server_signatures_to_verify_event, verify_event, verify_json,
    },
    state_res::check_pdu_format,
};
use thiserror::Error;

use super::{Pdu, Standing};
use crate::{room_version::RoomVersion, signing::Identity};

/// Bytes of a whole event in canonical form, with signatures.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
pub const EVENT_BYTES_MAX: usize = 65_536;

/// Bytes of `sender`, `room_id`, `state_key`, `type` and `event_id`. Spec: as above.
pub const FIELD_BYTES_MAX: usize = 255;

/// Events in `prev_events`. Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format>
pub const PREV_EVENTS_MAX: usize = 20;

/// Events in `auth_events`. Spec: as above.
pub const AUTH_EVENTS_MAX: usize = 10;

/// The policy server's key id; its signature is judged apart and displaces nobody's.
pub(crate) const POLICY_SERVER_KEY: &str = "ed25519:policy_server";

/// Why an object is no event of its room version.
#[derive(Debug, Error)]
pub enum ShapeRefusal {
    /// Larger than [`EVENT_BYTES_MAX`].
    #[error("the event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    /// A field that names something is longer than [`FIELD_BYTES_MAX`].
    #[error("{0} is longer than {FIELD_BYTES_MAX} bytes")]
    FieldTooLong(&'static str),
    /// A field is missing, of the wrong type, or out of its bounds.
    #[error("not an event of this room version: {0}")]
    BadFormat(String),
}

/// Why an event's authorship is not proven.
#[derive(Debug, Error)]
pub enum SignatureRefusal {
    /// A required signature is missing or wrong, or its key is unknown.
    #[error("signature not verified: {0}")]
    NotVerified(String),
}

/// Why our signature cannot be added to another server's event.
#[derive(Debug, Error)]
pub(crate) enum CosignError {
    /// With it the event would exceed [`EVENT_BYTES_MAX`].
    #[error("the event would be larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    /// The library could not sign it.
    #[error("not signed: {0}")]
    NotSigned(String),
}

/// An event whose format and size fit its room version, with its computed id. Nothing is known of its author yet.
#[derive(Debug)]
pub struct ShapedPdu {
    object: CanonicalJsonObject,
    pdu: Pdu,
    version: RoomVersion,
}

impl ShapedPdu {
    /// Judges the format and computes the event id.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu> (step 1)
    ///
    /// # Errors
    /// [`ShapeRefusal`]; nothing was changed.
    pub fn parse(mut object: CanonicalJsonObject, version: &RoomVersion) -> Result<Self, ShapeRefusal> {
        object.remove("unsigned");
        // Rooms of version 3 and later compute ids; a field of that name is foreign and must not confuse anybody.
        object.remove("event_id");
        let json = to_text(&object)?;
        if json.len() > EVENT_BYTES_MAX {
            return Err(ShapeRefusal::TooLarge);
        }
        check_format(&object, version)?;
        if json.len() < EVENT_BYTES_MAX {
            // The library's own limit is one byte short of the specification's; it judges all but that one size.
            check_pdu_format(&object, &version.rules().event_format).map_err(ShapeRefusal::BadFormat)?;
        }
        let event_id = event_id_of(&object, version).map_err(|error| ShapeRefusal::BadFormat(error.to_string()))?;
        let pdu = Pdu::from_canonical_text(event_id, json.into(), version, Standing::Accepted)
            .map_err(|error| ShapeRefusal::BadFormat(error.to_string()))?;
        Ok(Self { object, pdu, version: version.clone() })
    }

    /// The event, format judged, author unknown.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// Whose signatures, under which of the key ids present, must be checked.
    ///
    /// # Errors
    /// [`SignatureRefusal`] when the event does not even say who should have signed.
    pub fn required_signatures(&self) -> Result<BTreeMap<OwnedServerName, BTreeSet<String>>, SignatureRefusal> {
        let servers = required_server_signatures_to_verify_event(&self.object, &self.version.rules().signatures)
            .map_err(|error| SignatureRefusal::NotVerified(error.to_string()))?;
        Ok(servers
            .into_iter()
            .map(|server| {
                let keys = self.key_ids_of(&server);
                (server, keys)
            })
            .collect())
    }

    /// Under which key ids a server signed, as the event says.
    pub(crate) fn key_ids_of(&self, server: &ServerName) -> BTreeSet<String> {
        self.object
            .get("signatures")
            .and_then(CanonicalJsonValue::as_object)
            .and_then(|by_server| by_server.get(server.as_str()))
            .and_then(CanonicalJsonValue::as_object)
            .map(|by_key| by_key.keys().filter(|key| *key != POLICY_SERVER_KEY).cloned().collect())
            .unwrap_or_default()
    }

    /// Adds our signature beside those that are there; the id stays what it is. The caller's type says why we vouch.
    ///
    /// # Errors
    /// [`CosignError`]; the event is as before.
    pub(crate) fn cosign(&mut self, identity: &Identity) -> Result<(), CosignError> {
        let (object, pdu) = cosigned(self.object.clone(), &self.pdu, &self.version, identity)?;
        self.object = object;
        self.pdu = pdu;
        Ok(())
    }

    /// Checks the signatures and the content hash, and the signature of one more server than the format demands: a
    /// third-party invite need not be signed by its sender's server, but one that is handed to us by that server is.
    ///
    /// # Errors
    /// As [`ShapedPdu::verify`].
    pub(crate) fn verify_with_signer(
        self,
        signer: &ServerName,
        keys: &PublicKeyMap,
    ) -> Result<VerifiedPdu, SignatureRefusal> {
        let not_verified = |error: String| SignatureRefusal::NotVerified(error);
        let is_required = required_server_signatures_to_verify_event(&self.object, &self.version.rules().signatures)
            .map_err(|error| not_verified(error.to_string()))?
            .contains(signer);
        if !is_required {
            let mut signed = redact(self.object.clone(), &self.version.rules().redaction, None)
                .map_err(|error| not_verified(error.to_string()))?;
            if let Some(CanonicalJsonValue::Object(by_server)) = signed.get_mut("signatures") {
                by_server.retain(|server, _| server == signer.as_str());
                if by_server.is_empty() {
                    return Err(not_verified(format!("no signature of {signer}")));
                }
            }
            verify_json(keys, &signed).map_err(|error| not_verified(error.to_string()))?;
        }
        self.verify(keys)
    }

    /// Checks the signatures and the content hash. A wrong hash leaves the redacted event, as the specification says, if the
    /// signatures suffice for that too.
    ///
    /// A signature has one form: nobody but the key's holder can make another of it that verifies. The library asks no more:
    /// it takes an `R` of small order, which the holder alone can make, and which some servers refuse. Bring no keys of small
    /// order; any signature would do for them (SECURITY V18).
    ///
    /// # Errors
    /// [`SignatureRefusal`] when a required signature does not verify with the keys given.
    pub fn verify(self, keys: &PublicKeyMap) -> Result<VerifiedPdu, SignatureRefusal> {
        let verdict = verify_event(keys, &self.object, self.version.rules())
            .map_err(|error: VerificationError| SignatureRefusal::NotVerified(error.to_string()))?;
        match verdict {
            Verified::All => Ok(VerifiedPdu { pdu: Arc::new(self.pdu), content_was_redacted: false }),
            Verified::Signatures => {
                let not_an_event = |what: String| SignatureRefusal::NotVerified(what);
                let redacted = redact(self.object, &self.version.rules().redaction, None)
                    .map_err(|error| not_an_event(error.to_string()))?;
                // An invite for a third-party token needs no signature of its sender's server: the token vouches for it. Up to
                // version 10 redaction drops the token, and what is left is an invite like any other. So it must be signed
                // like any other, or whoever changes a content could invite in everybody's name.
                verify_event(keys, &redacted, self.version.rules()).map_err(|error| not_an_event(error.to_string()))?;
                let json = to_text(&redacted).map_err(|error| not_an_event(error.to_string()))?;
                let event_id = self.pdu.event_id.clone();
                let pdu = Pdu::from_canonical_text(event_id, json.into(), &self.version, Standing::Accepted)
                    .map_err(|error| not_an_event(error.to_string()))?;
                Ok(VerifiedPdu { pdu: Arc::new(pdu), content_was_redacted: true })
            }
        }
    }
}

/// An event whose signatures were verified. Made only by [`ShapedPdu::verify`].
#[derive(Clone, Debug)]
pub struct VerifiedPdu {
    pdu: Arc<Pdu>,
    content_was_redacted: bool,
}

impl VerifiedPdu {
    /// The event.
    pub fn pdu(&self) -> &Arc<Pdu> {
        &self.pdu
    }

    /// The event with our signature beside those that were verified.
    ///
    /// # Errors
    /// [`CosignError`].
    pub(crate) fn cosign(&self, version: &RoomVersion, identity: &Identity) -> Result<Pdu, CosignError> {
        let object = self.pdu.to_object().map_err(|error| CosignError::NotSigned(error.to_string()))?;
        cosigned(object, &self.pdu, version, identity).map(|(_, pdu)| pdu)
    }

    /// Its content did not have the hash that was signed, so only what redaction keeps is left.
    pub fn content_was_redacted(&self) -> bool {
        self.content_was_redacted
    }
}

/// An event id as another server may name it. The library takes ids without a domain at any length.
pub(crate) fn parse_event_id(text: &str) -> Option<OwnedEventId> {
    EventId::parse(text).ok().filter(|_| text.len() <= FIELD_BYTES_MAX)
}

/// The id of an event: `$` and the reference hash in the alphabet of the room version.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v4/#event-ids>
///
/// # Errors
/// When the object cannot be redacted, so is no event.
pub fn event_id_of(object: &CanonicalJsonObject, version: &RoomVersion) -> Result<OwnedEventId, JsonError> {
    let hash = reference_hash(object, version.rules())?;
    // `$` and 43 characters of base64 always parse as an event id; the library's error type has no variant for the rest.
    EventId::parse(format!("${hash}")).map_err(|_| JsonError::PduTooLarge)
}

/// The same event with our signature added.
fn cosigned(
    mut object: CanonicalJsonObject,
    pdu: &Pdu,
    version: &RoomVersion,
    identity: &Identity,
) -> Result<(CanonicalJsonObject, Pdu), CosignError> {
    let not_signed = |what: String| CosignError::NotSigned(what);
    identity.cosign(&mut object, version.rules()).map_err(|error| not_signed(error.to_string()))?;
    let json = to_text(&object).map_err(|error| not_signed(error.to_string()))?;
    if json.len() > EVENT_BYTES_MAX {
        return Err(CosignError::TooLarge);
    }
    let cosigned = Pdu::from_canonical_text(pdu.event_id().to_owned(), json.into(), version, pdu.standing())
        .map_err(|error| not_signed(error.to_string()))?;
    Ok((object, cosigned))
}

pub(super) fn to_text(object: &CanonicalJsonObject) -> Result<String, ShapeRefusal> {
    serde_json::to_string(object).map_err(|error| ShapeRefusal::BadFormat(error.to_string()))
}

/// What the library does not judge, and what it judges only below its own size limit.
fn check_format(object: &CanonicalJsonObject, version: &RoomVersion) -> Result<(), ShapeRefusal> {
    let bad = |what: String| Err(ShapeRefusal::BadFormat(what));
    let kind = match object.get("type") {
        Some(CanonicalJsonValue::String(kind)) => kind.as_str(),
        _ => return bad("type must be a string".to_owned()),
    };
    let room_is_optional = kind == "m.room.create" && !version.rules().event_format.require_room_create_room_id;
    for (field, required) in [("type", true), ("sender", true), ("room_id", !room_is_optional), ("state_key", false)] {
        match object.get(field) {
            Some(CanonicalJsonValue::String(text)) if text.len() <= FIELD_BYTES_MAX => {}
            Some(CanonicalJsonValue::String(_)) => return Err(ShapeRefusal::FieldTooLong(field)),
            None if !required => {}
            _ => return bad(format!("{field} must be a string")),
        }
    }
    if let Some(CanonicalJsonValue::String(room_id)) = object.get("room_id") {
        if room_is_optional {
            return bad("room_id must be absent on a create event of this version".to_owned());
        }
        if let Err(error) = RoomId::parse(room_id) {
            return bad(format!("room_id: {error}"));
        }
    }
    for (field, entries_max) in [("prev_events", PREV_EVENTS_MAX), ("auth_events", AUTH_EVENTS_MAX)] {
        match object.get(field) {
            Some(CanonicalJsonValue::Array(entries)) if entries.len() <= entries_max => {
                if !entries.iter().all(|entry| entry.as_str().and_then(parse_event_id).is_some()) {
                    return bad(format!("{field} must hold event ids"));
                }
            }
            Some(CanonicalJsonValue::Array(_)) => return bad(format!("{field} has more than {entries_max} entries")),
            _ => return bad(format!("{field} must be an array")),
        }
    }
    match object.get("depth") {
        Some(CanonicalJsonValue::Integer(depth)) if i64::from(*depth) >= 0 => {}
        _ => return bad("depth must be an integer from 0 to 2^53−1".to_owned()),
    }
    match object.get("origin_server_ts") {
        Some(CanonicalJsonValue::Integer(timestamp)) if i64::from(*timestamp) >= 0 => {}
        _ => return bad("origin_server_ts must be an integer from 0 to 2^53−1".to_owned()),
    }
    for field in ["content", "hashes", "signatures"] {
        if !matches!(object.get(field), Some(CanonicalJsonValue::Object(_))) {
            return bad(format!("{field} must be an object"));
        }
    }
    // Redaction leaves the `signed` of it, or all of what holds none: servers differ, and so would the ids of the event.
    if kind == "m.room.member"
        && version.rules().redaction.keep_room_member_third_party_invite_signed
        && let Some(CanonicalJsonValue::Object(content)) = object.get("content")
        && content.get("third_party_invite").is_some_and(|invite| !invite.is_object())
    {
        return bad("third_party_invite must be an object".to_owned());
    }
    Ok(())
}
