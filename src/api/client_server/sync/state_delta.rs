//! What of a room's state changed between two moments, and what of it a client does not learn from the timeline.
//! May not: tell a removal: nothing in the API can say that a key has no event any more.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, RoomId};
use vestibule_protocol::state::{StateKey, StateVersion};
use vestibule_storage::{error::StorageError, room::RoomReader};

/// State events by their keys.
pub type Entries = BTreeMap<StateKey, OwnedEventId>;

/// What `newer` has that `older` has not, or has otherwise. Without an older version that is all of it; without a newer one
/// nothing.
///
/// # Errors
/// When the store cannot be read.
pub async fn between(
    rooms: &dyn RoomReader,
    room_id: &RoomId,
    older: Option<StateVersion>,
    newer: Option<StateVersion>,
) -> Result<Entries, StorageError> {
    let Some(newer) = newer else { return Ok(Entries::new()) };
    let Some(older) = older else { return Ok(rooms.state_at(room_id, newer).await?.unwrap_or_default()) };
    if older == newer {
        return Ok(Entries::new());
    }
    if let Some(changes) = rooms.state_changes(room_id, older, newer).await? {
        return Ok(changes.into_iter().filter_map(|(key, event)| event.map(|event| (key, event))).collect());
    }
    let older = rooms.state_at(room_id, older).await?.unwrap_or_default();
    let newer = rooms.state_at(room_id, newer).await?.unwrap_or_default();
    Ok(differing(&older, newer))
}

/// The entries of `newer` that `older` does not have.
pub fn differing(older: &Entries, newer: Entries) -> Entries {
    newer.into_iter().filter(|(key, event)| older.get(key) != Some(event)).collect()
}

/// What goes into `state` for a client that applies the timeline's state events on top of it.
///
/// `gap` is what changed up to the start of the timeline, `during` what changed from there to its end. Changes during the
/// timeline that are not events of it (state resolution took another fork's event, or a filter left the event out) are told
/// too, since nothing else would tell them.
pub fn before_timeline(gap: Entries, during: Entries, in_timeline: &BTreeSet<OwnedEventId>) -> Entries {
    let mut told = gap;
    told.extend(during.into_iter().filter(|(_, event)| !in_timeline.contains(event)));
    told.retain(|_, event| !in_timeline.contains(event));
    told
}

/// What goes into `state_after`: everything that changed, whether the timeline shows it or not.
pub fn after_timeline(gap: Entries, during: Entries) -> Entries {
    let mut told = gap;
    told.extend(during);
    told
}

#[cfg(test)]
mod tests {
    use ruma::{EventId, events::StateEventType};

    use super::*;

    fn entries(list: &[(&str, &str)]) -> Entries {
        let entry = |(kind, event): &(&str, &str)| {
            ((StateEventType::from(*kind), String::new()), EventId::parse(format!("${event}")).unwrap())
        };
        list.iter().map(entry).collect()
    }

    fn ids(list: &[&str]) -> BTreeSet<OwnedEventId> {
        list.iter().map(|event| EventId::parse(format!("${event}")).unwrap()).collect()
    }

    #[test]
    fn the_gap_is_told_and_the_timeline_tells_the_rest() {
        let gap = entries(&[("m.room.name", "n1"), ("m.room.topic", "t1")]);
        let during = entries(&[("m.room.topic", "t2"), ("m.room.avatar", "a1")]);
        let told = before_timeline(gap.clone(), during.clone(), &ids(&["t2", "a1"]));
        assert_eq!(told, gap);
        assert_eq!(
            after_timeline(gap, during),
            entries(&[("m.room.name", "n1"), ("m.room.topic", "t2"), ("m.room.avatar", "a1")])
        );
    }

    #[test]
    fn changes_that_the_timeline_does_not_show_are_told() {
        let gap = entries(&[("m.room.topic", "t1")]);
        let during = entries(&[("m.room.topic", "fork"), ("m.room.name", "filtered")]);
        let told = before_timeline(gap, during, &ids(&["message"]));
        assert_eq!(told, entries(&[("m.room.topic", "fork"), ("m.room.name", "filtered")]));
    }

    #[test]
    fn an_event_of_the_timeline_is_told_once() {
        // Resolution may have known an event before the timeline reached it.
        let gap = entries(&[("m.room.topic", "t2")]);
        let told = before_timeline(gap, Entries::new(), &ids(&["t2"]));
        assert!(told.is_empty());
    }

    #[test]
    fn whole_states_are_compared_key_by_key() {
        let older = entries(&[("m.room.name", "n1"), ("m.room.topic", "t1"), ("m.room.avatar", "gone")]);
        let newer = entries(&[("m.room.name", "n1"), ("m.room.topic", "t2"), ("m.room.pinned", "p1")]);
        assert_eq!(differing(&older, newer), entries(&[("m.room.topic", "t2"), ("m.room.pinned", "p1")]));
    }
}
