//! Waiting for a condition, never for a while.
//! May not: wait longer than its deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything that has to happen may take on a machine that is busy.
pub const WITHIN: Duration = Duration::from_secs(20);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks until there is something; `what` says what was missing when it fails.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {WITHIN:?}: {what}");
        thread::park_timeout(LOOK_AGAIN);
    }
}
