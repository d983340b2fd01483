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
    place: Place,
}

/// Where work runs.
#[derive(Clone, Copy, Debug)]
enum Place {
    BlockingThreads,
    /// On the thread that asks: nothing else goes on meanwhile, and the order of events is the same each time.
    #[cfg(any(test, feature = "testing"))]
    AskingThread,
}

impl CpuPool {
    /// A pool that runs `at_once` pieces of work at a time; further ones wait in order.
    pub fn new(at_once: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once.max(1))), place: Place::BlockingThreads }
    }

    /// A pool for simulations: work is done at once, by whoever asks.
    #[cfg(any(test, feature = "testing"))]
    pub fn on_asking_thread() -> Self {
        Self { place: Place::AskingThread, ..Self::new(1) }
    }

    /// Runs the work. Dropping the future before it started cancels it; afterwards it runs to its end.
    ///
    /// # Errors
    /// [`NotDone`] when the work panicked or the runtime is going down.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NotDone> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| NotDone)?;
        let work = move || {
            // The work has it, not who waits: whoever hangs up would let one more piece run beside it.
            let _permit = permit;
            work()
        };
        match self.place {
            Place::BlockingThreads => tokio::task::spawn_blocking(work).await.map_err(|_| NotDone),
            #[cfg(any(test, feature = "testing"))]
            Place::AskingThread => std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|_| NotDone),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_counts_until_its_end() {
        let pool = CpuPool::new(1);
        let (end, ended) = mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let work = move || {
            let _ = begin.send(());
            ended.recv().unwrap();
        };
        tokio::select! {
            _ = pool.run(work) => panic!("the work has not ended"),
            _ = begun => {}
        }
        assert_eq!(pool.permits.available_permits(), 0);
        end.send(()).unwrap();
        let next = tokio::time::timeout(Duration::from_secs(10), pool.run(|| 7)).await.expect("its turn comes");
        assert_eq!(next, Ok(7));
    }
}
