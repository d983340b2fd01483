//! A persistent data unit (event) as we hold it: parsed once, with its canonical text.
//! May not: be made from text whose format, id and signatures nobody judged; see [`checks`] and [`event_builder`].

pub mod checks;
pub mod event_builder;
#[cfg(test)]
mod tests;

use std::fmt;

use ruma::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    ServerName, UInt, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    state_res::Event,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{canonical_json, clock::UnixMillis, room_version::RoomVersion};

/// What our checks made of an event.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Part of the room.
    Accepted,
    /// Passed the rules where it was made, not against the current state: not shown, no forward extremity.
    SoftFailed,
    /// Failed the rules: stays in the graph, never in state, never shown.
    Rejected,
}

/// An event with its id, its parsed head and its canonical JSON.
pub struct Pdu {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    names_room: bool,
    sender: OwnedUserId,
    kind: TimelineEventType,
    state_key: Option<String>,
    content: Box<RawValue>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    depth: u64,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
    json: Box<str>,
    standing: Standing,
}

/// The text is no event of the room version.
#[derive(Debug, Error)]
#[error("not an event: {0}")]
pub struct NotAnEvent(String);

#[derive(Deserialize)]
struct Head<'a> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: TimelineEventType,
    state_key: Option<String>,
    #[serde(borrow)]
    content: &'a RawValue,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    depth: UInt,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
}

#[derive(Deserialize)]
struct ContentRedacts {
    redacts: Option<OwnedEventId>,
}

impl Pdu {
    /// Takes canonical text whose format was judged before (or that we stored), and its id.
    ///
    /// # Errors
    /// [`NotAnEvent`] when a field is missing or of the wrong type, or when no room id can be known.
    pub fn from_canonical_text(
        event_id: OwnedEventId,
        json: Box<str>,
        version: &RoomVersion,
        standing: Standing,
    ) -> Result<Self, NotAnEvent> {
        let head: Head<'_> = serde_json::from_str(&json).map_err(|error| NotAnEvent(error.to_string()))?;
        let is_create = head.kind == TimelineEventType::RoomCreate;
        let names_room = head.room_id.is_some();
        let room_id = match head.room_id {
            Some(room_id) => room_id,
            None if is_create && version.room_id_is_create_hash() => room_id_of_create(&event_id)?,
            None => return Err(NotAnEvent("no room_id".to_owned())),
        };
        let content_holds_redacts = version.rules().redaction.content_field_redacts;
        let redacts = if head.kind != TimelineEventType::RoomRedaction {
            None
        } else if content_holds_redacts {
            serde_json::from_str::<ContentRedacts>(head.content.get()).ok().and_then(|content| content.redacts)
        } else {
            head.redacts
        };
        Ok(Self {
            event_id,
            room_id,
            names_room,
            sender: head.sender,
            kind: head.kind,
            state_key: head.state_key,
            content: head.content.to_owned(),
            origin_server_ts: head.origin_server_ts,
            depth: head.depth.into(),
            prev_events: head.prev_events,
            auth_events: head.auth_events,
            redacts,
            json,
            standing,
        })
    }

    /// The same event with another standing.
    pub fn with_standing(mut self, standing: Standing) -> Self {
        self.standing = standing;
        self
    }

    /// A copy of the event with another standing.
    pub fn to_standing(&self, standing: Standing) -> Self {
        Self {
            event_id: self.event_id.clone(),
            room_id: self.room_id.clone(),
            names_room: self.names_room,
            sender: self.sender.clone(),
            kind: self.kind.clone(),
            state_key: self.state_key.clone(),
            content: self.content.clone(),
            origin_server_ts: self.origin_server_ts,
            depth: self.depth,
            prev_events: self.prev_events.clone(),
            auth_events: self.auth_events.clone(),
            redacts: self.redacts.clone(),
            json: self.json.clone(),
            standing,
        }
    }

    /// The event's id.
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// The room it belongs to; for a create event of version 12 the id that its hash gives.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    /// Its type.
    pub fn kind(&self) -> &TimelineEventType {
        &self.kind
    }

    /// Its state key, if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// Its key in the room's state, if it is a state event.
    pub fn state_entry(&self) -> Option<(StateEventType, String)> {
        let state_key = self.state_key.clone()?;
        Some((self.kind.to_string().into(), state_key))
    }

    /// Its content as text.
    pub fn content(&self) -> &RawValue {
        &self.content
    }

    /// Its content as a type. `None` when the content does not have that shape.
    pub fn content_as<'de, T: Deserialize<'de>>(&'de self) -> Option<T> {
        serde_json::from_str(self.content.get()).ok()
    }

    /// Its content as an object. `None` when it is none, or has two readings.
    pub fn content_object(&self) -> Option<CanonicalJsonObject> {
        canonical_json::parse_object(self.content.get().as_bytes()).ok()
    }

    /// When its server says it was sent. Chosen by the sender: never order or authorize by it.
    pub fn origin_server_ts(&self) -> UnixMillis {
        self.origin_server_ts.into()
    }

    /// Its depth. Cosmetic, chosen by the sender.
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// The events it was sent after.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.prev_events
    }

    /// The events that authorize it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.auth_events
    }

    /// Whether it names that event among those that authorize it.
    pub fn cites_as_auth(&self, event_id: &EventId) -> bool {
        self.auth_events.iter().any(|id| id == event_id)
    }

    /// What it redacts, if it is a redaction.
    pub fn redacts(&self) -> Option<&EventId> {
        self.redacts.as_deref()
    }

    /// Canonical JSON with hashes and signatures, without `unsigned`: what is stored and sent to servers.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The event as an object.
    ///
    /// # Errors
    /// [`NotAnEvent`] only if the text was damaged since it was parsed.
    pub fn to_object(&self) -> Result<CanonicalJsonObject, NotAnEvent> {
        canonical_json::parse_object(self.json.as_bytes()).map_err(|error| NotAnEvent(error.to_string()))
    }

    /// What our checks made of it.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// `content.membership`, for member events of a readable shape.
    pub fn membership(&self) -> Option<MembershipState> {
        if self.kind != TimelineEventType::RoomMember {
            return None;
        }
        self.content_as::<MembershipOnly>().map(|content| content.membership)
    }

    /// `content.reason`, if it is a string.
    pub fn reason(&self) -> Option<String> {
        self.content_as::<ReasonOnly>().and_then(|content| content.reason)
    }

    /// The server of its sender.
    pub fn sender_server(&self) -> &ServerName {
        self.sender.server_name()
    }
}

/// The room id that a create event of version 12 and later gives: its own id with the sigil of rooms.
fn room_id_of_create(event_id: &EventId) -> Result<OwnedRoomId, NotAnEvent> {
    let hash = event_id.as_str().trim_start_matches('$');
    RoomId::parse(format!("!{hash}")).map_err(|error| NotAnEvent(error.to_string()))
}

#[derive(Deserialize)]
struct MembershipOnly {
    membership: MembershipState,
}

#[derive(Deserialize)]
struct ReasonOnly {
    reason: Option<String>,
}

impl fmt::Debug for Pdu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pdu")
            .field("event_id", &self.event_id)
            .field("kind", &self.kind)
            .field("sender", &self.sender)
            .field("state_key", &self.state_key)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

/// Two events are the same iff their ids are: the id is the hash of what matters.
impl PartialEq for Pdu {
    fn eq(&self, other: &Self) -> bool {
        self.event_id == other.event_id
    }
}

impl Eq for Pdu {}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.names_room.then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.standing == Standing::Rejected
    }
}
