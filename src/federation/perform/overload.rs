//! A room that is full at the moment is asked again, a few times.
//! May not: take any other answer for a reason to ask again.

use std::time::Duration;

use tokio::time::sleep;
use vestibule_actors::AskError;

/// How often a full room is asked, and the pause between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) attempts_max: u32,
    pub(super) pause: Duration,
}

impl Patience {
    /// Asks until the room is not full. What is asked must be harmless when it comes twice.
    pub(super) async fn ask<T, R, F>(self, asking: impl Fn() -> F) -> Result<T, AskError<R>>
    where
        F: Future<Output = Result<T, AskError<R>>>,
    {
        for _ in 1..self.attempts_max {
            match asking().await {
                Err(AskError::Overloaded) => sleep(self.pause).await,
                asked => return asked,
            }
        }
        asking().await
    }
}
