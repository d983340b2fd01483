//! Goes on with knocks and joins elsewhere of which nobody knows whether another server has taken them: because the program
//! ended in between, or because the answer did not come.
//! May not: go on with what has ended meanwhile, or ask for ever.

use std::time::Duration;

use ruma::{OwnedRoomId, OwnedUserId};
use tokio::time::sleep;
use vestibule_storage::{
    error::StorageError,
    room::{OutOfBandListing, RoomReader},
};

use super::{
    Federation, PerformError,
    flights::{FlightKey, Flow},
    knock::is_intent,
};

/// Pause before what may have been taken is asked for again; doubles. Ours.
const AGAIN_PAUSE_MIN: Duration = Duration::from_mins(1);

/// How often it is asked for again, over some four hours, before the user may begin anew. Ours.
pub(super) const AGAIN_MAX: u32 = 8;

/// Rows read at a time at the start. Ours.
const ROWS_PER_READ: usize = 500;

impl Federation {
    /// Goes on with the knocks and joins that the last stop interrupted. Returns when all have begun.
    pub async fn resume(&self) {
        let listings: [(OutOfBandListing, Flow); 2] =
            [(<dyn RoomReader>::out_of_band, Flow::Knock), (<dyn RoomReader>::joining, Flow::Join)];
        for (listing, flow) in listings {
            if let Err(error) = self.resume_all(listing, flow).await {
                log::error!(flow:?, error:%; "what the last stop interrupted cannot be read");
            }
        }
    }

    async fn resume_all(&self, listing: OutOfBandListing, flow: Flow) -> Result<(), StorageError> {
        let mut last: Option<(OwnedRoomId, OwnedUserId)> = None;
        loop {
            let after = last.as_ref().map(|(room_id, user_id)| (&**room_id, &**user_id));
            let rows = listing(&*self.inner.stores.rooms, None, after, ROWS_PER_READ).await?;
            let Some(newest) = rows.last() else { return Ok(()) };
            last = Some((newest.room_id.clone(), newest.user_id.clone()));
            for row in rows.into_iter().filter(|row| flow == Flow::Join || is_intent(&row.out_of_band)) {
                log::info!(room_id:% = row.room_id, user_id:% = row.user_id, flow:?; "going on with what was interrupted");
                self.go_on((row.user_id, row.room_id, flow), 0);
            }
        }
    }

    /// Goes on with a flow on a task of its own: now, or after a pause when it failed before.
    pub(super) fn go_on(&self, key: FlightKey, attempt: u32) {
        let Some(waiting) = self.under_way.repeats.begin(key.clone()) else {
            return;
        };
        let federation = self.clone();
        tokio::spawn(async move {
            if attempt > 0 {
                sleep(AGAIN_PAUSE_MIN.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)))).await;
            }
            // From now on the next one may wait.
            drop(waiting);
            let flights = federation.under_way.flights.clone();
            let (user_id, room_id, flow) = key.clone();
            let performing = federation.clone();
            let again = async move {
                match flow {
                    Flow::Knock => performing.knock_again(&user_id, &room_id, attempt).await,
                    Flow::Join => performing.join_again(&user_id, &room_id, attempt).await,
                }
            };
            if let Err(error) = flights.run(key.clone(), again).await {
                log::debug!(flow:?, attempt, error:%; "what was interrupted did not get through");
                // We ourselves could not say or note what there is to be done; a last attempt stays the last one.
                if matches!(error, PerformError::Storage(_) | PerformError::Overloaded | PerformError::Failed) {
                    federation.go_on(key, attempt.saturating_add(1).min(AGAIN_MAX.saturating_add(1)));
                }
            }
        });
    }
}
