//! What a stranger is shown of a room: the stripped state that goes with a knock or an invite, given and received.
//! May not: show members, ACLs, power levels or custom types; the list is an allow-list. What is received is shown and never
//! believed: no rule is judged by it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, RoomId, UserId, events::StateEventType};
use serde::Deserialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::StateMap;
use crate::{
    membership::InviteRefusal,
    pdu::{
        Pdu,
        checks::{FIELD_BYTES_MAX, ShapedPdu},
    },
    room_version::RoomVersion,
};

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

/// Received entries that are looked at. Ours (SECURITY V06): nine can be meant, servers send a few more types.
pub const STRIPPED_ENTRIES_MAX: usize = 64;

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

/// Reduces a state event to `content`, `sender`, `state_key` and `type`. `None` for other events.
pub fn strip(event: &Pdu) -> Option<Box<RawValue>> {
    RawValue::from_string(prune(event)?.to_json()).ok()
}

/// The event as servers see it: the whole PDU.
pub fn full(event: &Pdu) -> Option<Box<RawValue>> {
    RawValue::from_string(event.json().to_owned()).ok()
}

/// A state event as clients see it in stripped state: four keys, nothing of the graph.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
#[derive(Clone, Debug)]
pub struct StrippedEvent {
    /// Its type.
    pub kind: StateEventType,
    /// Its state key.
    pub state_key: String,
    /// Who sent it, or so it says.
    pub sender: OwnedUserId,
    /// Its content: an object.
    pub content: Box<RawValue>,
}

impl StrippedEvent {
    /// The four keys as JSON.
    pub fn to_json(&self) -> String {
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        format!(
            r#"{{"content":{},"sender":{},"state_key":{},"type":{}}}"#,
            self.content.get(),
            quoted(self.sender.as_str()),
            quoted(&self.state_key),
            quoted(&self.kind.to_string())
        )
    }

    /// Reads the four keys of a stripped event; others do not matter. `None`: one is missing or of the wrong type.
    fn read(entry: &CanonicalJsonObject) -> Option<Self> {
        let text = |field: &str| {
            entry.get(field).and_then(CanonicalJsonValue::as_str).filter(|text| text.len() <= FIELD_BYTES_MAX)
        };
        let content = entry.get("content").filter(|content| content.is_object())?;
        Some(Self {
            kind: text("type")?.into(),
            state_key: text("state_key")?.to_owned(),
            sender: UserId::parse(text("sender")?).ok()?,
            content: to_raw_value(content).ok()?,
        })
    }
}

/// Reduces a state event to what clients see in stripped state. `None` for other events.
pub fn prune(pdu: &Pdu) -> Option<StrippedEvent> {
    let (kind, state_key) = pdu.state_entry()?;
    Some(StrippedEvent { kind, state_key, sender: pdu.sender().to_owned(), content: pdu.content().to_owned() })
}

/// An entry of stripped state as it came.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a list holds few of them, and each is taken apart at once")]
pub enum StrippedEntry {
    /// A whole event of the room. Its signatures are still to be verified; then [`prune`] makes of it what clients see.
    Pdu(ShapedPdu),
    /// Four keys that nothing vouches for but the server that sent them. Most servers send these, up to version 11 for all
    /// types, so they are shown too.
    Stripped(StrippedEvent),
}

impl StrippedEntry {
    /// Its type and state key.
    fn key(&self) -> Option<(StateEventType, String)> {
        match self {
            Self::Pdu(shaped) => shaped.pdu().state_entry(),
            Self::Stripped(stripped) => Some((stripped.kind.clone(), stripped.state_key.clone())),
        }
    }

    fn content(&self) -> &RawValue {
        match self {
            Self::Pdu(shaped) => shaped.pdu().content(),
            Self::Stripped(stripped) => &stripped.content,
        }
    }
}

/// Reads what a server answered to a knock: the entries that are fit to be shown, in their order. Entries that are odd, of
/// another room, of a type that strangers are not shown, or too many or too large, are dropped; so is a create event that is
/// not that of the room, and any but the first entry of a type. Nothing here is an error: the knock was taken all the same.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid>
pub fn read_stripped(
    entries: Option<&CanonicalJsonValue>,
    room_id: &RoomId,
    version: &RoomVersion,
) -> Vec<StrippedEntry> {
    let entries = entries.and_then(CanonicalJsonValue::as_array).unwrap_or_default();
    fit_entries(entries, room_id, version, is_shown_to_strangers)
}

/// Judges and reads what came with an invite: as [`read_stripped`], and the member event of the inviter, by which clients say
/// who invites. Where the room's id is the hash of its create event, that event must be there and whole.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>
///
/// # Errors
/// [`InviteRefusal::BadInviteState`] when it is no list of objects, or when the create event of such a room is not the one
/// that its id names; [`InviteRefusal::NoCreateEvent`] when such a room has none in the list.
pub fn check_invite_state(
    entries: Option<&CanonicalJsonValue>,
    room_id: &RoomId,
    version: &RoomVersion,
    inviter: &UserId,
) -> Result<Vec<StrippedEntry>, InviteRefusal> {
    let bad = |what: &str| InviteRefusal::BadInviteState { what: what.to_owned() };
    let entries = match entries {
        None => &[],
        Some(CanonicalJsonValue::Array(entries)) => entries.as_slice(),
        Some(_) => return Err(bad("must be an array")),
    };
    if entries.iter().any(|entry| !entry.is_object()) {
        return Err(bad("must hold objects"));
    }
    let fit = fit_entries(entries, room_id, version, |kind, state_key| {
        is_shown_to_strangers(kind, state_key) || (*kind == StateEventType::RoomMember && state_key == inviter.as_str())
    });
    if version.room_id_is_create_hash() && !fit.iter().any(is_create) {
        let claims_to_be = |entry: &CanonicalJsonValue| {
            let kind = entry.as_object().and_then(|entry| entry.get("type")).and_then(CanonicalJsonValue::as_str);
            kind == Some("m.room.create")
        };
        let has_another = entries.iter().any(claims_to_be);
        return Err(if has_another {
            bad("the create event is not that of the room")
        } else {
            InviteRefusal::NoCreateEvent
        });
    }
    Ok(fit)
}

fn is_shown_to_strangers(kind: &StateEventType, state_key: &str) -> bool {
    state_key.is_empty() && STRIPPED_TYPES.contains(kind)
}

fn is_create(entry: &StrippedEntry) -> bool {
    entry.key().is_some_and(|(kind, _)| kind == StateEventType::RoomCreate)
}

fn fit_entries(
    entries: &[CanonicalJsonValue],
    room_id: &RoomId,
    version: &RoomVersion,
    is_shown: impl Fn(&StateEventType, &str) -> bool,
) -> Vec<StrippedEntry> {
    let mut bytes = 0_usize;
    let mut seen = Vec::new();
    let mut fit = Vec::new();
    for entry in entries.iter().take(STRIPPED_ENTRIES_MAX).filter_map(CanonicalJsonValue::as_object) {
        let Some(entry_bytes) = serde_json::to_string(entry).ok().map(|text| text.len()) else { continue };
        let total = bytes.saturating_add(entry_bytes);
        if total > STRIPPED_BYTES_MAX {
            continue;
        }
        let Some(entry) = read_entry(entry, room_id, version) else { continue };
        let Some(key) = entry.key().filter(|(kind, state_key)| is_shown(kind, state_key)) else { continue };
        if seen.contains(&key) || (is_create(&entry) && !is_create_of(&entry, version)) {
            continue;
        }
        bytes = total;
        seen.push(key);
        fit.push(entry);
    }
    fit
}

/// An entry of this room in whichever of the two forms it has.
fn read_entry(entry: &CanonicalJsonObject, room_id: &RoomId, version: &RoomVersion) -> Option<StrippedEntry> {
    let is_pdu = ["auth_events", "prev_events", "signatures", "hashes"].iter().all(|field| entry.contains_key(*field));
    if is_pdu {
        // The id of the room is written in the event or, for a create event of version 12, its hash.
        let shaped =
            ShapedPdu::parse(entry.clone(), version).ok().filter(|shaped| shaped.pdu().room_id() == room_id)?;
        return Some(StrippedEntry::Pdu(shaped));
    }
    let is_elsewhere = entry.get("room_id").is_some_and(|named| named.as_str() != Some(room_id.as_str()));
    if is_elsewhere {
        return None;
    }
    StrippedEvent::read(entry).map(StrippedEntry::Stripped)
}

/// Whether a create event can be that of a room of the version, whose id it fits already.
fn is_create_of(entry: &StrippedEntry, version: &RoomVersion) -> bool {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    let is_whole = matches!(entry, StrippedEntry::Pdu(_));
    let named = serde_json::from_str::<Content>(entry.content().get()).map(|content| content.room_version);
    let names_version = named.is_ok_and(|named| named.as_deref().unwrap_or("1") == version.id().as_str());
    // Nothing but its hash binds a create event to a room whose id is that hash.
    names_version && (is_whole || !version.room_id_is_create_hash())
}
