//! One bounded pool for work over a millisecond: state resolution, loading rooms, password hashes.
//! May not: be used for waiting; what waits is async.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::Semaphore;

/// The pool is closed, or the work panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the work was not done")]
pub struct NotDone;

/// Runs blocking work on the runtime's blocking threads, at most so many pieces at once.
#[derive(Clone, Debug)]
pub struct CpuPool {
    permits: Arc<Semaphore>,
}

impl CpuPool {
    /// A pool that runs `at_once` pieces of work at a time; further ones wait in order.
    pub fn new(at_once: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// Runs the work. Dropping the future before it started cancels it; afterwards it runs to its end.
    ///
    /// # Errors
    /// [`NotDone`] when the work panicked or the runtime is going down.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NotDone> {
        let _permit = self.permits.clone().acquire_owned().await.map_err(|_| NotDone)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| NotDone)
    }
}
