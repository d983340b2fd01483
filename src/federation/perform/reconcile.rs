//! Knocks elsewhere that nobody answers: asks now and then whether they still have a chance.
//! May not: send a second knock, or tell the other servers anything but the question.
//!
//! The specification lets a room forget or forbid a knock without a word to the one who knocked. So the question is a
//! `make_knock`, which changes nothing there: 404 from everybody ends the knock for our user, and so does it when everybody
//! says 403 or gives a template that is not authorized by the knock, since it is in the room's state no more; anything else
//! keeps it. Source: DESIGN section 5, row "expire".

use std::time::Duration;

use futures_util::{StreamExt, stream};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId, events::room::member::MembershipState};
use tokio::time::{Instant, sleep};
use vestibule_actors::{AbandonKnock, Settled};
use vestibule_protocol::{clock::UnixMillis, room_version::RoomVersion};
use vestibule_storage::{
    error::StorageError,
    room::{OutOfBandRow, Progress},
};

use super::{
    Federation, PerformError,
    candidates::{CANDIDATES_DEADLINE, Wanted},
};

/// Age of a knock at its first check. Source: DESIGN section 5; five minutes more, since servers like us refuse a repeat for
/// an hour and mean nothing else by it.
const FIRST_CHECK: Duration = Duration::from_mins(65);

/// The time between checks doubles up to this. Source: DESIGN section 5.
const CHECK_PAUSE_MAX: Duration = Duration::from_hours(7 * 24);

/// How often it is looked which checks are due. Ours.
const LOOK_PAUSE: Duration = Duration::from_mins(10);

/// From the answers to the end of a knock. Ours: our question tells a server that we are there, and an invite that could not
/// be delivered before comes at once.
const GRACE: Duration = Duration::from_mins(5);

/// Knocks checked at once. Ours.
const CHECKS_AT_ONCE: usize = 4;

/// Rows read at a time. Ours.
const ROWS_PER_READ: usize = 500;

/// Whether a check of a knock of that age falls due after `from` and not after `to`.
fn is_due(since: UnixMillis, from: UnixMillis, to: UnixMillis) -> bool {
    let mut due = since.plus(FIRST_CHECK);
    let mut pause = FIRST_CHECK;
    while due <= from {
        pause = pause.saturating_mul(2).min(CHECK_PAUSE_MAX);
        due = due.plus(pause);
    }
    due <= to
}

impl Federation {
    /// Checks waiting knocks for as long as it is polled.
    pub async fn reconcile(&self) {
        let mut looked_at = self.inner.clock.now();
        loop {
            sleep(LOOK_PAUSE).await;
            let now = self.inner.clock.now();
            match self.due_knocks(looked_at, now).await {
                Ok(due) => {
                    let checks = stream::iter(due).map(|row| self.check_knock(row));
                    checks.buffer_unordered(CHECKS_AT_ONCE).for_each(|()| std::future::ready(())).await;
                    looked_at = now;
                }
                Err(error) => log::error!(error:%; "waiting knocks cannot be read"),
            }
        }
    }

    async fn due_knocks(&self, from: UnixMillis, to: UnixMillis) -> Result<Vec<OutOfBandRow>, StorageError> {
        let mut due = Vec::new();
        let mut last: Option<(OwnedRoomId, OwnedUserId)> = None;
        loop {
            let after = last.as_ref().map(|(room_id, user_id)| (&**room_id, &**user_id));
            let rows = self.inner.stores.rooms.out_of_band(None, after, ROWS_PER_READ).await?;
            let Some(newest) = rows.last() else { return Ok(due) };
            last = Some((newest.room_id.clone(), newest.user_id.clone()));
            due.extend(rows.into_iter().filter(|row| {
                let standing = &row.out_of_band;
                let waits = standing.membership == MembershipState::Knock && standing.progress == Progress::Settled;
                waits && is_due(standing.since, from, to)
            }));
        }
    }

    /// Asks the servers of one knock; ends it when all say that it has no chance, and nothing else comes for a while.
    async fn check_knock(&self, row: OutOfBandRow) {
        if !self.is_hopeless(&row).await {
            return;
        }
        let flow = self.clone();
        // Not while other checks wait.
        tokio::spawn(async move {
            sleep(GRACE).await;
            flow.abandon(row).await;
        });
    }

    async fn is_hopeless(&self, row: &OutOfBandRow) -> bool {
        let offered: Vec<RoomVersionId> = RoomVersion::known();
        let wanted = Wanted {
            room_id: &row.room_id,
            user_id: &row.user_id,
            membership: MembershipState::Knock,
            offered: &offered,
        };
        let deadline = Instant::now() + CANDIDATES_DEADLINE;
        let knock_id = row.out_of_band.event.event_id();
        let (mut gone, mut unknown) = (0_usize, 0_usize);
        let servers = self.candidates(&row.room_id, &[], Some(&row.out_of_band));
        for server in &servers {
            match self.template(server, &wanted, deadline).await {
                Err(PerformError::Refused { status: 403, .. }) => gone = gone.saturating_add(1),
                Ok(template) if template.place.auth_events.iter().all(|cited| cited != knock_id) => {
                    gone = gone.saturating_add(1);
                }
                Err(PerformError::NotFound) => unknown = unknown.saturating_add(1),
                _ => return false,
            }
        }
        !servers.is_empty() && (gone == servers.len() || unknown == servers.len())
    }

    async fn abandon(&self, row: OutOfBandRow) {
        let Some(version) = RoomVersion::lookup(&row.out_of_band.room_version) else { return };
        let event_id = row.out_of_band.event.event_id().to_owned();
        let message = AbandonKnock { user_id: row.user_id.clone(), event_id };
        match self.inner.rooms.ask_out_of_band(&row.room_id, &version, message).await {
            Ok(Settled::Gone) => {
                log::info!(room_id:% = row.room_id, user_id:% = row.user_id; "knock without a chance ended")
            }
            Ok(_) => {}
            Err(error) => log::warn!(room_id:% = row.room_id, user_id:% = row.user_id, error:%; "knock not ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_come_after_an_hour_and_then_less_and_less_often() {
        let since = UnixMillis(1_000_000);
        let mut checks: Vec<u64> = Vec::new();
        let minute = 60_000;
        for passed in 0..60 * 24 * 40 {
            let from = UnixMillis(since.0 + passed * minute);
            if is_due(since, from, UnixMillis(from.0 + minute)) {
                checks.push((passed + 1) / 60);
            }
        }
        assert_eq!(checks[..5], [1, 3, 7, 16, 33]);
        let pauses: Vec<u64> = checks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1] + 1), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&(7 * 24)));
    }
}
