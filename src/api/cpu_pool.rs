//! The door from requests to the CPU pool that rooms use too: work over about a millisecond, such as argon2.
//! May not: let callers queue without bound; a flood of logins must not hold up rooms that load.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::error::MatrixError;

/// Jobs of requests that may wait or run at once. Ours: at 50 ms a job on two threads the last one waits under a second.
const JOBS_MAX: usize = 32;

/// What a client waits when all processors are busy: the queue drains in about that time. Ours.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The pool as requests see it. Clones share it.
#[derive(Clone, Debug)]
pub struct CpuPool {
    pool: vestibule_actors::CpuPool,
    places: Arc<Semaphore>,
}

/// Why a job was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CpuPoolError {
    /// Too many jobs wait already. Nothing was started.
    #[error("too many jobs wait for a processor")]
    Busy,
    /// The job panicked, or the program is stopping.
    #[error("the job did not end")]
    Lost,
}

impl From<CpuPoolError> for MatrixError {
    fn from(error: CpuPoolError) -> Self {
        match error {
            CpuPoolError::Busy => Self::limit_exceeded(BUSY_PAUSE),
            CpuPoolError::Lost => Self::internal(),
        }
    }
}

impl CpuPool {
    /// A door to a pool of its own with so many threads.
    pub fn new(threads: usize) -> Self {
        Self::sharing(vestibule_actors::CpuPool::new(threads))
    }

    /// A door to the pool that rooms use.
    pub fn sharing(pool: vestibule_actors::CpuPool) -> Self {
        Self { pool, places: Arc::new(Semaphore::new(JOBS_MAX)) }
    }

    /// Runs a job. Dropping the future before the job started means it never starts; later it runs to its end.
    ///
    /// # Errors
    /// [`CpuPoolError`].
    pub async fn run<T, J>(&self, job: J) -> Result<T, CpuPoolError>
    where
        J: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let _place = self.places.try_acquire().map_err(|_| CpuPoolError::Busy)?;
        self.pool.run(job).await.map_err(|_| CpuPoolError::Lost)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[actix_web::test]
    async fn a_full_pool_refuses_and_a_panic_gives_the_thread_back() {
        let pool = CpuPool::new(1);
        assert_eq!(pool.run(|| -> u8 { panic!("meant") }).await, Err(CpuPoolError::Lost));
        let (release, gate) = mpsc::channel::<()>();
        let first = actix_web::rt::spawn({
            let pool = pool.clone();
            async move { pool.run(move || gate.recv().is_ok()).await }
        });
        let waiting: Vec<_> = (1..JOBS_MAX)
            .map(|number| {
                let pool = pool.clone();
                actix_web::rt::spawn(async move { pool.run(move || number).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(pool.run(|| 0).await, Err(CpuPoolError::Busy));
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        for (number, job) in (1..).zip(waiting) {
            assert_eq!(job.await.unwrap(), Ok(number));
        }
    }
}
