//! Stored events for the tests of what clients see.
//! May not: be used outside tests.

pub mod server;

use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use serde_json::{Value, json};
use vestibule_protocol::{
    clock::UnixMillis,
    pdu::{Pdu, Standing},
    room_version::RoomVersion,
    state::StateVersion,
    stream::{StreamPosition, TimelineOrder},
};
use vestibule_storage::room::{MembershipRow, OutOfBand, Progress, RoomCommit, RoomOrigin, StoredEvent};

/// A builder of a stored event with good defaults: a message of `@ann:x` in `!r:x`, at place and position 1.
pub struct Event {
    json: Value,
    stored: StoredEvent,
}

/// The id that the event at a place has.
pub fn event_id(number: u64) -> OwnedEventId {
    EventId::parse(format!("$event{number}")).unwrap()
}

impl Event {
    /// The event at a place of the timeline.
    pub fn at(number: u32) -> Self {
        let json = json!({
            "auth_events": [],
            "content": {"body": "hello", "msgtype": "m.text"},
            "depth": 1,
            "hashes": {"sha256": "aaaa"},
            "origin_server_ts": 1_000,
            "prev_events": [],
            "room_id": "!r:x",
            "sender": "@ann:x",
            "signatures": {"x": {"ed25519:1": "bbbb"}},
            "type": "m.room.message",
        });
        let event = Arc::new(parsed(number, &json));
        let stored = StoredEvent {
            event,
            order: Some(TimelineOrder(i64::from(number))),
            position: StreamPosition(u64::from(number)),
            state_before: StateVersion(0),
            current_after: StateVersion(0),
            visibility: HistoryVisibility::Shared,
            received_at: UnixMillis(2_000),
            redacted_by: None,
            transaction: None,
        };
        Self { json, stored }
    }

    /// Sets a key of the event.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.json[key] = value.into();
        self
    }

    /// Makes it a state event.
    pub fn state(self, kind: &str, state_key: &str, content: Value) -> Self {
        self.with("type", kind).with("state_key", state_key).with("content", content)
    }

    /// Makes it a member event of a user about themselves.
    pub fn member(self, user: &str, membership: &MembershipState) -> Self {
        self.with("sender", user).state("m.room.member", user, json!({ "membership": membership.as_str() }))
    }

    /// Changes what we know of it.
    pub fn stored(mut self, change: impl FnOnce(&mut StoredEvent)) -> Self {
        change(&mut self.stored);
        self
    }

    /// The stored event.
    pub fn build(mut self) -> StoredEvent {
        let number = u32::try_from(self.stored.position.0).unwrap();
        self.stored.event = Arc::new(parsed(number, &self.json));
        self.stored
    }
}

/// A member event at a place.
pub fn member(user: &str, membership: MembershipState, number: u32) -> StoredEvent {
    Event::at(number).member(user, &membership).build()
}

/// The commit with which a room's actor makes an out-of-band row, and the membership that goes with it once it is settled.
/// `life` tells apart the commits of one room: each stands for a life of the actor of its own.
pub fn out_of_band_commit(room_id: &str, user_id: &str, row: OutOfBand, origin: RoomOrigin, life: u64) -> RoomCommit {
    let user_id: OwnedUserId = user_id.try_into().unwrap();
    let membership = MembershipRow {
        user_id: user_id.clone(),
        membership: row.membership.clone(),
        event_id: row.event.event_id().to_owned(),
        order: None,
        is_local: true,
    };
    let room_id: OwnedRoomId = room_id.try_into().unwrap();
    RoomCommit {
        room_id,
        room_version: row.room_version.clone(),
        incarnation: life,
        sequence: 1,
        origin,
        events: Vec::new(),
        state_versions: Vec::new(),
        current: None,
        extremities_added: Vec::new(),
        extremities_removed: Vec::new(),
        memberships: if row.progress == Progress::Settled { vec![membership] } else { Vec::new() },
        knocks: Vec::new(),
        redactions: Vec::new(),
        decisions: Vec::new(),
        transaction: None,
        outbox: Vec::new(),
        out_of_band: vec![(user_id, Some(row))],
        joining: Vec::new(),
    }
}

fn parsed(number: u32, json: &Value) -> Pdu {
    let version = RoomVersion::lookup(&RoomVersionId::V11).unwrap();
    let json = serde_json::to_string(json).unwrap().into_boxed_str();
    Pdu::from_canonical_text(event_id(u64::from(number)), json, &version, Standing::Accepted).unwrap()
}
