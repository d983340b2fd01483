//! Looks at some events at each start: whether what is stored still has the hash that names it.
//! May not: repair.

use ruma::RoomId;
use vestibule_protocol::{canonical_json, pdu::checks::event_id_of, room_version::RoomVersion};
use vestibule_storage::error::StorageError;

use crate::fields::StoredForm;
use crate::index::Index;
use crate::keys::{Key, Table};
use crate::values::{EventValue, RoomValue, TextValue};

/// Events whose hashes are computed at a start. Source: SECURITY section 5.
const EVENTS_CHECKED: usize = 100;

/// Checks events at places that the seed decides. Says how many, or what is wrong.
pub(crate) fn check_events(index: &Index, seed: u64) -> Result<usize, String> {
    let table = Key::of(Table::Event);
    let end = table.clone().after();
    let mut checked = 0;
    let mut draw = seed;
    for _ in 0..EVENTS_CHECKED {
        // A linear congruence is random enough to pick places in a table of hashes.
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let from = table.clone().number(draw).into_bytes();
        let Some(entry) = index.range(from..end.clone()).next() else { continue };
        let (_, bytes) = entry.map_err(|error| error.to_string())?;
        let value = EventValue::from_bytes(&bytes).map_err(|error| error.to_string())?;
        if !has_its_hash(index, &value).map_err(|error| error.to_string())? {
            return Err(format!("event {} does not have the hash that names it", value.event_id));
        }
        checked += 1;
    }
    Ok(checked)
}

fn has_its_hash(index: &Index, value: &EventValue) -> Result<bool, StorageError> {
    let damaged = || StorageError::Corrupt { what: format!("room of event {}", value.event_id) };
    let room_id: Option<TextValue> = index.value(&Key::of(Table::RoomNumber).number(value.room_number))?;
    let room_id = room_id.and_then(|text| RoomId::parse(text.0).ok()).ok_or_else(damaged)?;
    let room: RoomValue = index.value(&Key::of(Table::Room).last(room_id.as_str()))?.ok_or_else(damaged)?;
    let version = RoomVersion::lookup(&room.room_version).ok_or_else(damaged)?;
    // A redacted event has the hash of the whole one: the hash is of what redaction leaves.
    let object = canonical_json::parse_object(value.json.as_bytes()).ok();
    let event_id = object.and_then(|object| event_id_of(&object, &version).ok());
    Ok(event_id.as_ref() == Some(&value.event_id))
}
