//! When a server may be asked for its keys again.
//! May not: use the wall clock, which may be set back.

use std::time::Duration;

use ruma::{OwnedServerSigningKeyId, ServerSigningKeyId};

/// Pause after the first failed fetch; doubles. Source: SECURITY T16.
const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(10 * 60);

/// Longest pause after failed fetches. Source: SECURITY T16.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// One key of one server is asked for at most once in this time. Source: SECURITY T14.
const SAME_KEY_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Fetches of one server within [`SAME_KEY_PAUSE`], so that made-up key ids buy no more. Ours; a rotation needs one.
const FETCHES_WITHIN_PAUSE_MAX: usize = 3;

/// The fetches of one server, in monotonic time.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failures: u32,
    paused_until: Duration,
    /// Fetches within the pause, each with the keys it was for.
    recent: Vec<(Duration, Vec<OwnedServerSigningKeyId>)>,
}

impl Attempts {
    /// How long the pause after a failure still lasts.
    pub(super) fn pause_left(&self, now: Duration) -> Option<Duration> {
        self.paused_until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Whether a fetch for `id` is due.
    pub(super) fn may_ask_for(&mut self, id: &ServerSigningKeyId, now: Duration) -> bool {
        self.recent.retain(|(at, _)| now.saturating_sub(*at) < SAME_KEY_PAUSE);
        self.recent.len() < FETCHES_WITHIN_PAUSE_MAX
            && !self.recent.iter().any(|(_, ids)| ids.iter().any(|asked| asked == id))
    }

    pub(super) fn asked_for(&mut self, ids: Vec<OwnedServerSigningKeyId>, now: Duration) {
        self.recent.push((now, ids));
    }

    /// The last fetch never began, so it does not count.
    pub(super) fn took_no_place(&mut self) {
        self.recent.pop();
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.paused_until = Duration::ZERO;
    }

    pub(super) fn failed(&mut self, now: Duration) {
        let pause = FAILURE_PAUSE_MIN.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.paused_until = now.saturating_add(pause.min(FAILURE_PAUSE_MAX));
    }
}
