//! Lists of events and of their ids in an answer: as many as a room may have, each as long as an event may be.
//! May not: build what is not kept. A list of the shortest numbers, or one event as long as the answer, would take many times
//! the bytes that were read.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use vestibule_protocol::{canonical_json, pdu::checks::ShapedPdu, room_version::RoomVersion};

/// Events of a state and of what authorizes it. Ours: a room of a hundred thousand members.
pub const STATE_EVENTS_MAX: usize = 200_000;

/// Bytes of one event as it is written. Ours: four times what it has in canonical form, for blanks, escapes and `unsigned`.
const EVENT_TEXT_BYTES_MAX: usize = 256 * 1024;

/// A list of at most [`STATE_EVENTS_MAX`]; a longer one is an error.
pub(super) struct EventList<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for EventList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
    type Value = EventList<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == STATE_EVENTS_MAX {
                return Err(A::Error::custom(format_args!("more than {STATE_EVENTS_MAX} entries")));
            }
            list.push(entry);
        }
        Ok(EventList(list))
    }
}

/// The event, if its format is right.
pub(super) fn read_event(text: &RawValue, version: &RoomVersion) -> Option<ShapedPdu> {
    let text = Some(text.get()).filter(|text| text.len() <= EVENT_TEXT_BYTES_MAX)?;
    let object = canonical_json::parse_object(text.as_bytes()).ok()?;
    ShapedPdu::parse(object, version).ok()
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use vestibule_protocol::fixture::RoomFixture;

    use super::*;

    #[test]
    fn an_event_may_be_written_in_so_many_bytes() {
        let room = RoomFixture::knockable(RoomVersionId::V11).build();
        let event = room.state().create().unwrap().json();
        let written = |bytes: usize| {
            let text = format!("{{{}{}", " ".repeat(bytes - event.len()), event.strip_prefix('{').unwrap());
            assert_eq!(text.len(), bytes);
            read_event(&RawValue::from_string(text).unwrap(), room.version()).is_some()
        };
        assert!(written(event.len()) && written(EVENT_TEXT_BYTES_MAX));
        assert!(!written(EVENT_TEXT_BYTES_MAX + 1));
    }

    #[test]
    fn a_list_ends_where_no_room_goes_on() {
        let list = |entries: usize| {
            let text = format!("[{}7]", "7,".repeat(entries - 1));
            serde_json::from_str::<EventList<u8>>(&text).map(|list| list.0.len())
        };
        assert_eq!(list(1).unwrap(), 1);
        assert_eq!(list(STATE_EVENTS_MAX).unwrap(), STATE_EVENTS_MAX);
        let refusal = list(STATE_EVENTS_MAX + 1).unwrap_err().to_string();
        assert!(refusal.starts_with("more than 200000 entries"), "{refusal}");
        assert!(serde_json::from_str::<EventList<u8>>("{}").is_err());
    }
}
