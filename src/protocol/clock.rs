//! Time as an argument: the two clocks that the rest of the program is given.
//! May not: read the system's clock; the root crate owns the only implementation that does.

use std::time::Duration;

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// A point in wall-clock time, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This point moved into the future; saturates.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// The span from `earlier` to this point; zero when `earlier` is later (a clock may step back).
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The form that events carry. Saturates at the largest integer canonical JSON can hold.
    pub fn to_matrix(self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.0).unwrap_or(UInt::MAX))
    }
}

impl From<MilliSecondsSinceUnixEpoch> for UnixMillis {
    fn from(matrix: MilliSecondsSinceUnixEpoch) -> Self {
        Self(matrix.0.into())
    }
}

/// A duration in whole milliseconds; saturates.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Wall clock for what is stored and shown, monotonic clock for limits and timeouts.
pub trait Clock: Send + Sync {
    /// Wall-clock time. May step backwards.
    fn now(&self) -> UnixMillis;

    /// Time since an arbitrary start. Never steps backwards; limits use it, so that a wall clock set back revives none.
    fn monotonic(&self) -> Duration;
}
