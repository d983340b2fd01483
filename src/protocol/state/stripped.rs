//! What a stranger is shown of a room: the stripped state that goes with a knock or an invite.
//! May not: show members, ACLs, power levels or custom types; the list is an allow-list.

use std::sync::Arc;

use ruma::events::StateEventType;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::StateMap;
use crate::pdu::Pdu;

/// The types shown, in this order. Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
pub const STRIPPED_TYPES: [StateEventType; 7] = [
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomAvatar,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomTopic,
];

/// Bytes of all shown events together. Ours (SECURITY T5): seven events of 64 KiB each would be larger.
pub const STRIPPED_BYTES_MAX: usize = 262_144;

/// The events shown. The create event always; others as long as they fit into [`STRIPPED_BYTES_MAX`].
pub fn shown_to_strangers(state: &StateMap) -> Vec<Arc<Pdu>> {
    let mut bytes = 0_usize;
    STRIPPED_TYPES
        .iter()
        .filter_map(|kind| state.get(kind, ""))
        .filter(|event| {
            let total = bytes.saturating_add(event.json().len());
            let fits = total <= STRIPPED_BYTES_MAX;
            if fits {
                bytes = total;
            }
            fits
        })
        .cloned()
        .collect()
}

/// An event as clients see it in stripped state: four keys, nothing of the graph.
#[derive(Serialize)]
struct Stripped<'a> {
    content: &'a RawValue,
    sender: &'a ruma::UserId,
    state_key: &'a str,
    #[serde(rename = "type")]
    kind: String,
}

/// Reduces a state event to `content`, `sender`, `state_key` and `type`. `None` for other events.
pub fn strip(event: &Pdu) -> Option<Box<RawValue>> {
    let stripped = Stripped {
        content: event.content(),
        sender: event.sender(),
        state_key: event.state_key()?,
        kind: event.kind().to_string(),
    };
    to_raw_value(&stripped).ok()
}

/// The event as servers see it: the whole PDU.
pub fn full(event: &Pdu) -> Option<Box<RawValue>> {
    RawValue::from_string(event.json().to_owned()).ok()
}
