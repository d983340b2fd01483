//! Reads a room's timeline backward, beyond what is stored: what was there before somebody of ours joined.
//! May not: fetch anything for somebody who is not in the room, or fail a page because no other server has the past.

use vestibule_protocol::stream::TimelineOrder;
use vestibule_storage::{
    error::StorageError,
    room::{Direction, RoomReader, StoredEvent},
};

use super::{
    timeline::{Page, Scan, before},
    visibility::Sight,
};
use crate::{extract::Caller, state::App};

/// How often other servers are asked for one page. Ours: somebody waits for it, and a page may also be short.
const FETCHES_MAX: usize = 3;

/// Events asked for at a time, at least. Ours: the next page then is here already.
const FETCHED_MIN: usize = 50;

/// A page read backward, and whether the room got older by it.
pub struct PastPage {
    /// The page.
    pub page: Page,
    /// History was fetched: what was known of the room before is to be read again.
    pub has_grown: bool,
}

/// Reads a page. When it reaches the start of what is stored and the room is older than that, its past is fetched.
///
/// # Errors
/// When the store cannot be read.
pub async fn read_backward(app: &App, caller: &Caller, scan: Scan<'_>) -> Result<PastPage, StorageError> {
    let rooms = &*app.stores.rooms;
    let room_id = scan.room_id;
    let mut page = scan.read(rooms).await?;
    let mut has_grown = false;
    // Who says where to end has been there: it is stored.
    if scan.to.is_some() || !scan.sight.is_joined() {
        return Ok(PastPage { page, has_grown });
    }
    for _ in 0..FETCHES_MAX {
        let Some(start) = late_start(rooms, &scan).await?.filter(|_| page.next.is_none()) else {
            return Ok(PastPage { page, has_grown });
        };
        let missing = scan.limit.saturating_sub(page.events.len());
        match app.federation.backfill(room_id, missing.max(FETCHED_MIN)).await {
            Ok(0) => return Ok(PastPage { page, has_grown }),
            Ok(_) => has_grown = true,
            Err(error) => {
                log::debug!(room_id:%, error:%; "history not had");
                // Another attempt may have more luck; but a client that got nothing must not ask without end.
                page.next = (!page.events.is_empty()).then_some(start);
                return Ok(PastPage { page, has_grown });
            }
        }
        // With the past comes what the user was in it.
        let sight = Sight::load(rooms, room_id, &caller.user_id).await?;
        let further = Scan { sight: &sight, from: Some(start), limit: missing, ..scan }.read(rooms).await?;
        page.events.extend(further.events);
        page.next = further.next;
    }
    if page.next.is_none() {
        page.next = late_start(rooms, &scan).await?;
    }
    Ok(PastPage { page, has_grown })
}

/// The place before the oldest stored event, if the room has a past before it and the scan comes there.
async fn late_start(rooms: &dyn RoomReader, scan: &Scan<'_>) -> Result<Option<TimelineOrder>, StorageError> {
    let oldest: Option<StoredEvent> =
        rooms.timeline(scan.room_id, None, Direction::Forward, 1).await?.into_iter().next();
    let Some(oldest) = oldest.filter(|oldest| !oldest.event.prev_events().is_empty()) else { return Ok(None) };
    let start = oldest.order.map(before);
    Ok(start.filter(|start| scan.from.is_none_or(|from| from >= *start)))
}
