//! Rows of the outbox as puts and deletes.
//! May not: know what became of a delivery; whoever delivers says which rows are done with.

use ruma::ServerName;
use vestibule_storage::{
    outbox::{OutboxDone, OutboxPlace},
    room::RoomCommit,
};

use super::Draft;
use crate::keys::{Key, Table};
use crate::peer_values::OutboxValue;

impl Draft<'_> {
    /// A row for each event and each of its destinations.
    pub(super) fn outbox(&mut self, commit: &RoomCommit) {
        for (index, entry) in (0..).zip(&commit.outbox) {
            let place = OutboxPlace { position: self.position, index };
            let value = OutboxValue {
                room_id: commit.room_id.clone(),
                event_id: entry.event_id.clone(),
                delivery: entry.delivery.clone(),
            };
            for destination in &entry.destinations {
                self.put(outbox_key(Table::Outbox, destination, place), &value);
            }
        }
    }

    /// Removes rows or EDUs without looking whether they are there: whoever names them has read them.
    pub(super) fn outbox_done(&mut self, table: Table, done: &OutboxDone) {
        for place in &done.places {
            self.delete(outbox_key(table, &done.destination, *place));
        }
    }
}

/// Where a row of the outbox, or an EDU in the other table, is kept.
pub(crate) fn outbox_key(table: Table, destination: &ServerName, place: OutboxPlace) -> Key {
    Key::of(table).text(destination.as_str()).number(place.position.0).part(place.index)
}
