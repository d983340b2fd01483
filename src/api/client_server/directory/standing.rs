//! Where a user stands in a room as far as the directory asks: a member, and one who may change the room's main alias.
//! May not: decide for the room; these are rules of this server about its own directory.

use std::sync::Arc;

use ruma::{
    RoomId, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use vestibule_protocol::{pdu::Pdu, room_version::RoomVersion, state::StateMap};
use vestibule_storage::{error::StorageError, room::RoomReader};

/// A user's standing in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    is_joined: bool,
    has_power: bool,
    is_world_readable: bool,
}

impl Standing {
    /// Reads it. In a room that is not stored nobody stands.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(rooms: &dyn RoomReader, room_id: &RoomId, user_id: &UserId) -> Result<Self, StorageError> {
        let version = rooms.room(room_id).await?.and_then(|row| RoomVersion::lookup(&row.room_version));
        let Some(version) = version else {
            return Ok(Self { is_joined: false, has_power: false, is_world_readable: false });
        };
        let keys = [
            (StateEventType::RoomCreate, ""),
            (StateEventType::RoomPowerLevels, ""),
            (StateEventType::RoomHistoryVisibility, ""),
            (StateEventType::RoomMember, user_id.as_str()),
        ];
        let mut events: Vec<Arc<Pdu>> = Vec::new();
        for (kind, state_key) in keys {
            events.extend(rooms.current_state_event(room_id, &kind, state_key).await?.map(|stored| stored.event));
        }
        Ok(Self::judge(&events.into_iter().collect(), user_id, &version))
    }

    fn judge(state: &StateMap, user_id: &UserId, version: &RoomVersion) -> Self {
        let needed = state.power_to_send(&TimelineEventType::RoomCanonicalAlias, Some(""), version);
        Self {
            is_joined: state.membership(user_id) == MembershipState::Join,
            has_power: state.power_of(user_id, version) >= needed,
            is_world_readable: state.history_visibility() == HistoryVisibility::WorldReadable,
        }
    }

    /// Joined.
    #[must_use]
    pub fn is_joined(self) -> bool {
        self.is_joined
    }

    /// Joined, and with the power to change `m.room.canonical_alias`.
    #[must_use]
    pub fn may_name_room(self) -> bool {
        self.is_joined && self.has_power
    }

    /// Anybody may read the room.
    #[must_use]
    pub fn is_world_readable(self) -> bool {
        self.is_world_readable
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, owned_event_id, user_id};
    use serde_json::{Value, json};
    use vestibule_protocol::pdu::Standing as EventStanding;

    use super::*;

    fn event(kind: &str, state_key: &str, content: Value, version: &RoomVersion) -> Arc<Pdu> {
        let json = json!({
            "type": kind, "state_key": state_key, "content": content, "sender": "@alice:example.org",
            "room_id": "!r:example.org", "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
        });
        let event_id = owned_event_id!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        let text = json.to_string().into_boxed_str();
        Arc::new(Pdu::from_canonical_text(event_id, text, version, EventStanding::Accepted).unwrap())
    }

    #[test]
    fn members_with_power_name_the_room() {
        let (alice, bob) = (user_id!("@alice:example.org"), user_id!("@bob:example.org"));
        for (version, levels, membership, alice_may, bob_may) in [
            (RoomVersionId::V12, json!({}), "join", true, false),
            (RoomVersionId::V12, json!({ "users": { "@bob:example.org": 50 } }), "join", true, true),
            (RoomVersionId::V12, json!({ "users": { "@bob:example.org": 50 } }), "leave", true, false),
            (RoomVersionId::V11, json!({ "users": { "@bob:example.org": 50 } }), "join", false, true),
            (
                RoomVersionId::V11,
                json!({ "users": { "@bob:example.org": 50 }, "events": { "m.room.canonical_alias": 60 } }),
                "join",
                false,
                false,
            ),
            (RoomVersionId::V11, json!({ "events": { "m.room.canonical_alias": 0 } }), "join", true, true),
        ] {
            let version = RoomVersion::lookup(&version).unwrap();
            let state: StateMap = [
                event("m.room.create", "", json!({ "room_version": version.id() }), &version),
                event("m.room.power_levels", "", levels.clone(), &version),
                event("m.room.member", alice.as_str(), json!({ "membership": "join" }), &version),
                event("m.room.member", bob.as_str(), json!({ "membership": membership }), &version),
            ]
            .into_iter()
            .collect();
            assert_eq!(Standing::judge(&state, alice, &version).may_name_room(), alice_may, "{levels}");
            let bobs = Standing::judge(&state, bob, &version);
            assert_eq!(bobs.may_name_room(), bob_may, "{levels}");
            assert_eq!(bobs.is_joined(), membership == "join");
            assert!(!bobs.is_world_readable());
        }
    }
}
