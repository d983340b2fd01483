//! How long to leave a server alone after it failed.
//! May not: read a clock or draw a number; it gets both.

use std::time::Duration;

/// The bounds of the pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure: `federation.retry_backoff_min`.
    pub min: Duration,
    /// No pause is longer: `federation.retry_backoff_max`.
    pub max: Duration,
}

/// Up to one part in so many is added to a pause, so that servers that failed together do not come back together. Ours;
/// less than the doubling, so that more failures never mean a shorter pause.
const JITTER_SHARE: u128 = 4;

/// The least pause that a server gets which names one itself; doubles like the others. Ours.
const ASKED_PAUSE_MIN: Duration = Duration::from_secs(1);

impl Backoff {
    /// The pause after so many failures in a row: doubles from `min`, grows by up to a quarter with `jitter` (any number),
    /// and never exceeds `max`.
    pub fn pause(&self, failures: u32, jitter: u32) -> Duration {
        let doubled = doubled(self.min, failures);
        let nanos = doubled.min(self.max).as_nanos();
        let share = nanos / JITTER_SHARE * u128::from(jitter) / u128::from(u32::MAX);
        let nanos = u64::try_from(nanos.saturating_add(share)).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos).min(self.max)
    }

    /// The pause that a server asked for, within bounds: it may not silence us for longer than `max`, nor have us ask all
    /// the time.
    pub fn asked_pause(&self, asked: Duration, failures: u32) -> Duration {
        asked.max(doubled(ASKED_PAUSE_MIN, failures).min(self.min)).min(self.max)
    }
}

fn doubled(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;

    const BACKOFF: Backoff = Backoff { min: Duration::from_mins(10), max: Duration::from_hours(7 * 24) };

    #[test]
    fn the_first_pause_is_the_least_and_they_double() {
        let pauses: Vec<u64> = (1..=4).map(|failures| BACKOFF.pause(failures, 0).as_secs()).collect();
        assert_eq!(pauses, [600, 1200, 2400, 4800]);
        assert_eq!(BACKOFF.pause(1, u32::MAX).as_secs(), 750);
    }

    #[test]
    fn a_server_that_names_its_pause_gets_it_within_bounds() {
        let asked = |seconds, failures| BACKOFF.asked_pause(Duration::from_secs(seconds), failures).as_secs();
        assert_eq!(asked(7, 1), 7);
        assert_eq!(asked(0, 1), 1);
        assert_eq!(asked(0, 5), 16);
        assert_eq!(asked(0, 40), 600, "it answers, so it is asked again before long");
        assert_eq!(asked(u64::MAX, 1), 7 * 24 * 3600);
    }

    proptest! {
        #[test]
        fn pauses_are_bounded_and_never_shrink(
            failures in 1_u32..200, jitter: u32, later: u32, min_ms in 0_u64..1_000_000_000, max_ms in 0_u64..u64::MAX,
        ) {
            let backoff = Backoff { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms) };
            let pause = backoff.pause(failures, jitter);
            prop_assert!(pause <= backoff.max);
            prop_assert!(pause >= backoff.min.min(backoff.max));
            prop_assert!(backoff.pause(failures + 1, later) >= pause);
        }
    }
}
