//! Reads pieces of a room's timeline that a user may see and a filter lets through.
//! May not: end a page because many events in a row are hidden (V56); it reads on, within a bound, and says where it stopped.

use ruma::{RoomId, api::client::filter::RoomEventFilter};
use vestibule_protocol::stream::TimelineOrder;
use vestibule_storage::{
    error::StorageError,
    room::{Direction, RoomReader, StoredEvent},
};

use super::{event_filter, visibility::Sight};

/// Events looked at for one page. Ours: about 50 ms of reading; a client that meets more hidden events in a row gets an empty
/// page with a token to go on.
const EVENTS_SCANNED_MAX: usize = 5_000;

/// Events read at once when few are asked for. Ours: hidden events are then skipped without a read for each.
const CHUNK_MIN: usize = 32;

/// Events read at once when many are asked for or many are hidden. Ours.
const CHUNK_MAX: usize = 512;

/// What to read.
#[derive(Clone, Copy)]
pub struct Scan<'a> {
    /// The room.
    pub room_id: &'a RoomId,
    /// What the user may see of it.
    pub sight: &'a Sight,
    /// What the client wants of that. Its limit is not looked at.
    pub filter: &'a RoomEventFilter,
    /// Which way.
    pub direction: Direction,
    /// Where to begin: backward with the event at this place or the nearest before it; forward after it.
    pub from: Option<TimelineOrder>,
    /// Where to end: backward after (that is, without) the event at this place; forward with it.
    pub to: Option<TimelineOrder>,
    /// How many events at most.
    pub limit: usize,
}

/// What was read.
#[derive(Debug)]
pub struct Page {
    /// In the direction of the scan.
    pub events: Vec<StoredEvent>,
    /// Where to go on, as `from` of the next scan. `None`: there is nothing more that way.
    pub next: Option<TimelineOrder>,
}

impl Scan<'_> {
    /// Reads until the limit, the end, or the bound on looked-at events is reached.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read(self, rooms: &dyn RoomReader) -> Result<Page, StorageError> {
        let mut events = Vec::new();
        let mut from = self.from;
        let mut scanned = 0_usize;
        if self.limit == 0 {
            return Ok(Page { events, next: from });
        }
        let mut chunk_size = self.limit.clamp(CHUNK_MIN, CHUNK_MAX);
        loop {
            let chunk = rooms.timeline(self.room_id, from, self.direction, chunk_size).await?;
            let is_last = chunk.len() < chunk_size;
            for event in chunk {
                // Events of the timeline have a place in it; one without would be a fault of the store, and is not shown.
                let Some(order) = event.order else { continue };
                if self.is_past_end(order) {
                    return Ok(Page { events, next: None });
                }
                from = Some(self.after(order));
                scanned = scanned.saturating_add(1);
                if self.sight.may_see(&event) && event_filter::lets_through(self.filter, &event.event) {
                    events.push(event);
                    if events.len() >= self.limit {
                        return Ok(Page { events, next: from });
                    }
                }
            }
            if is_last {
                return Ok(Page { events, next: None });
            }
            if scanned >= EVENTS_SCANNED_MAX {
                return Ok(Page { events, next: from });
            }
            chunk_size = CHUNK_MAX;
        }
    }

    fn is_past_end(&self, order: TimelineOrder) -> bool {
        match (self.direction, self.to) {
            (_, None) => false,
            (Direction::Backward, Some(to)) => order <= to,
            (Direction::Forward, Some(to)) => order > to,
        }
    }

    /// The `from` of a scan that goes on after the event at `order`.
    fn after(&self, order: TimelineOrder) -> TimelineOrder {
        match self.direction {
            Direction::Backward => before(order),
            Direction::Forward => order,
        }
    }
}

/// The gap before the event at `order`: what a token names so that paging backward begins before it.
pub fn before(order: TimelineOrder) -> TimelineOrder {
    TimelineOrder(order.0.saturating_sub(1))
}

#[cfg(test)]
mod tests;
