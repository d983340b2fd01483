//! Ends knocks that nobody answered in time: looks through all pending ones every now and then.
//! May not: decide about a knock; its room does.

use std::{sync::Arc, time::Duration};

use log::warn;
use ruma::{OwnedRoomId, OwnedUserId};
use vestibule_protocol::clock::Clock;
use vestibule_storage::{error::StorageError, room::RoomReader};

use crate::{AskError, ExpireKnock, Rooms};

/// Pending knocks read at a time. Ours.
const KNOCKS_PER_READ: usize = 1_000;

/// Knocks are looked through at least so often. Ours: a knock may outlive its time by this much.
pub const LOOK_PAUSE_MAX: Duration = Duration::from_mins(1);

/// Looks for knocks that are too old, for ever. Dropping the future ends it; a knock whose end is not durable then is found
/// again by the next run.
pub async fn run(rooms: Rooms, reader: Arc<dyn RoomReader>, clock: Arc<dyn Clock>, expire_after: Duration) {
    let pause = expire_after.min(LOOK_PAUSE_MAX);
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = expire_once(&rooms, &*reader, &*clock, expire_after).await {
            warn!(error:%; "pending knocks cannot be read");
        }
    }
}

/// Ends all knocks that are too old now; says how many.
///
/// # Errors
/// When the store cannot be read; what was ended before stays so.
pub async fn expire_once(
    rooms: &Rooms,
    reader: &dyn RoomReader,
    clock: &dyn Clock,
    expire_after: Duration,
) -> Result<u64, StorageError> {
    let mut expired = 0_u64;
    let mut last: Option<(OwnedRoomId, OwnedUserId)> = None;
    loop {
        let after = last.as_ref().map(|(room_id, user_id)| (&**room_id, &**user_id));
        let knocks = reader.pending_knocks(None, after, KNOCKS_PER_READ).await?;
        let Some(newest) = knocks.last() else { return Ok(expired) };
        last = Some((newest.room_id.clone(), newest.user_id.clone()));
        for row in knocks {
            if row.knock.since.plus(expire_after) > clock.now() {
                continue;
            }
            match rooms.ask(&row.room_id, ExpireKnock { user_id: row.user_id, expire_after }).await {
                Ok(_) => expired = expired.saturating_add(1),
                // Nothing to do about it now; the next look finds it again.
                Err(AskError::Refused(_) | AskError::RoomNotHere | AskError::Overloaded) => {}
                Err(error @ (AskError::Storage(_) | AskError::Failed)) => {
                    warn!(room_id:% = row.room_id, error:%; "a knock could not be ended");
                }
            }
        }
    }
}
