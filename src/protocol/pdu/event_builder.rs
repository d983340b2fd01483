//! Events of our own making: from what a user wants and where the room stands to a signed event.
//! May not: copy fields of a remote server's template other than the graph pointers that its caller judged.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, Int, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName,
    events::TimelineEventType,
};
use thiserror::Error;

use super::{
    Pdu, Standing,
    checks::{EVENT_BYTES_MAX, FIELD_BYTES_MAX, event_id_of, to_text},
};
use crate::{clock::UnixMillis, room_version::RoomVersion, signing::Identity};

/// What a user (or the server for a user) wants to say, before it has a place in the graph.
#[derive(Clone, Debug)]
pub struct EventDraft {
    /// Its type.
    pub kind: TimelineEventType,
    /// Present on state events.
    pub state_key: Option<String>,
    /// Who speaks.
    pub sender: OwnedUserId,
    /// What is said.
    pub content: CanonicalJsonObject,
    /// What a redaction redacts.
    pub redacts: Option<OwnedEventId>,
}

/// Where in the room's graph an event goes.
#[derive(Clone, Debug)]
pub struct GraphPlace {
    /// The room. `None` for a create event of a version whose room id is its hash.
    pub room_id: Option<OwnedRoomId>,
    /// The forward extremities it cites, at most 20.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorize it.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the greatest depth it cites; saturates at 2^53−1.
    pub depth: u64,
    /// Our clock.
    pub origin_server_ts: UnixMillis,
}

/// Why an event cannot be built.
#[derive(Debug, Error)]
pub enum BuildRefusal {
    /// The whole event would exceed [`EVENT_BYTES_MAX`].
    #[error("the event would be larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
    /// `type` or `state_key` exceeds [`FIELD_BYTES_MAX`].
    #[error("type and state_key must not be longer than {FIELD_BYTES_MAX} bytes")]
    FieldTooLong,
    /// The content is no canonical JSON, or the library could not sign it.
    #[error("cannot be an event: {0}")]
    BadContent(String),
}

impl EventDraft {
    /// The event without hashes and signatures: what `make_*` endpoints hand out.
    pub fn to_unsigned(&self, place: &GraphPlace, version: &RoomVersion) -> CanonicalJsonObject {
        let mut object = CanonicalJsonObject::new();
        let mut put = |key: &str, value: CanonicalJsonValue| {
            object.insert(key.to_owned(), value);
        };
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let ids = |ids: &[OwnedEventId]| CanonicalJsonValue::Array(ids.iter().map(|id| text(id.as_str())).collect());
        put("type", text(&self.kind.to_string()));
        put("sender", text(self.sender.as_str()));
        if let Some(state_key) = &self.state_key {
            put("state_key", text(state_key));
        }
        let mut content = self.content.clone();
        if let Some(redacts) = &self.redacts {
            if version.rules().redaction.content_field_redacts {
                content.insert("redacts".to_owned(), text(redacts.as_str()));
            } else {
                put("redacts", text(redacts.as_str()));
            }
        }
        put("content", CanonicalJsonValue::Object(content));
        if let Some(room_id) = &place.room_id {
            put("room_id", text(room_id.as_str()));
        }
        put("prev_events", ids(&place.prev_events));
        put("auth_events", ids(&place.auth_events));
        put("depth", CanonicalJsonValue::Integer(saturating_int(place.depth)));
        put("origin_server_ts", CanonicalJsonValue::Integer(saturating_int(place.origin_server_ts.0)));
        object
    }

    /// The unsigned event with our name as `origin`: the template of `make_*`. The key is in the endpoint's schema, no
    /// event format defines it, so we send it and never require it.
    pub fn to_template(&self, place: &GraphPlace, version: &RoomVersion, origin: &ServerName) -> CanonicalJsonObject {
        let mut object = self.to_unsigned(place, version);
        object.insert("origin".to_owned(), CanonicalJsonValue::String(origin.to_string()));
        object
    }

    /// The unsigned event in the form that rules judge, under a placeholder id: so that nothing is signed that they refuse.
    ///
    /// # Errors
    /// [`BuildRefusal::BadContent`] when the content cannot be that of an event.
    pub fn to_judged_form(&self, place: &GraphPlace, version: &RoomVersion) -> Result<Pdu, BuildRefusal> {
        let bad = |what: String| BuildRefusal::BadContent(what);
        let json = to_text(&self.to_unsigned(place, version)).map_err(|error| bad(error.to_string()))?;
        let placeholder = EventId::parse("$unsigned").map_err(|error| bad(error.to_string()))?;
        Pdu::from_canonical_text(placeholder, json.into(), version, Standing::Accepted)
            .map_err(|error| bad(error.to_string()))
    }

    /// Hashes, signs and names the event.
    ///
    /// # Errors
    /// [`BuildRefusal`]; the limits are judged after our signature is on it.
    pub fn build(self, place: &GraphPlace, version: &RoomVersion, identity: &Identity) -> Result<Pdu, BuildRefusal> {
        let object = self.to_unsigned(place, version);
        self.sign(object, version, identity).map(|(pdu, _)| pdu)
    }

    /// The same for an event that goes to a `send_*` endpoint, also as the object that is the request's body. It carries our
    /// name as `origin`: the endpoints' schemas require the key, and some servers refuse a body without it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid>
    ///
    /// # Errors
    /// As [`EventDraft::build`].
    pub fn build_for_handshake(
        self,
        place: &GraphPlace,
        version: &RoomVersion,
        identity: &Identity,
    ) -> Result<(Pdu, CanonicalJsonObject), BuildRefusal> {
        let object = self.to_template(place, version, identity.server_name());
        self.sign(object, version, identity)
    }

    fn sign(
        &self,
        mut object: CanonicalJsonObject,
        version: &RoomVersion,
        identity: &Identity,
    ) -> Result<(Pdu, CanonicalJsonObject), BuildRefusal> {
        let kind_is_long = self.kind.to_string().len() > FIELD_BYTES_MAX;
        let key_is_long = self.state_key.as_ref().is_some_and(|key| key.len() > FIELD_BYTES_MAX);
        if kind_is_long || key_is_long {
            return Err(BuildRefusal::FieldTooLong);
        }
        // The signing library refuses oversized events with an error of its own; ours is the one clients see.
        if to_text(&object).map_err(|error| BuildRefusal::BadContent(error.to_string()))?.len() > EVENT_BYTES_MAX {
            return Err(BuildRefusal::TooLarge);
        }
        identity
            .hash_and_sign(&mut object, version.rules())
            .map_err(|error| BuildRefusal::BadContent(error.to_string()))?;
        let json = to_text(&object).map_err(|error| BuildRefusal::BadContent(error.to_string()))?;
        if json.len() > EVENT_BYTES_MAX {
            return Err(BuildRefusal::TooLarge);
        }
        let event_id = event_id_of(&object, version).map_err(|error| BuildRefusal::BadContent(error.to_string()))?;
        let pdu = Pdu::from_canonical_text(event_id, json.into(), version, Standing::Accepted)
            .map_err(|error| BuildRefusal::BadContent(error.to_string()))?;
        Ok((pdu, object))
    }
}

fn saturating_int(number: u64) -> Int {
    Int::try_from(number).unwrap_or(Int::MAX)
}
