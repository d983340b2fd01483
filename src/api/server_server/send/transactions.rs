//! Transactions of other servers: of each server one at a time, and a repeated one is answered as before.
//! May not: keep answers beyond this process. A transaction that is judged anew finds its events known and changes nothing.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use tokio::sync::Semaphore;

use crate::{error::MatrixError, rate_limit::HOLD_MAX};

/// Transactions that are judged at once, of all servers. Source: SECURITY V70.
const AT_ONCE_MAX: usize = 150;

/// Transactions of one server that may wait or run. Ours: a server sends one at a time; the rest are its retries.
const OF_ONE_SERVER_MAX: usize = 4;

/// Answers remembered for one server. Ours: it may send the next only after it has the answer to the last.
const ANSWERS_OF_ONE_SERVER: usize = 4;

/// Servers remembered. Ours: some kilobytes each.
const SERVERS_MAX: usize = 4_096;

/// Pause told to who comes with too many at once. Ours.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// The transactions of all servers. Start with the default.
#[derive(Debug)]
pub struct Transactions {
    lanes: Mutex<BTreeMap<OwnedServerName, Arc<Lane>>>,
    places: Semaphore,
}

/// The transactions of one server.
#[derive(Debug)]
struct Lane {
    places: Semaphore,
    answers: tokio::sync::Mutex<VecDeque<(String, Arc<str>)>>,
}

impl Default for Transactions {
    fn default() -> Self {
        Self { lanes: Mutex::default(), places: Semaphore::new(AT_ONCE_MAX) }
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self { places: Semaphore::new(OF_ONE_SERVER_MAX), answers: tokio::sync::Mutex::default() }
    }
}

impl Transactions {
    /// Judges a transaction when it is its turn, unless it was answered before. An answer that is an error is not remembered.
    ///
    /// # Errors
    /// Those of `judge`; 429 when too many wait.
    pub(super) async fn once<F>(
        &self,
        origin: &ServerName,
        transaction_id: &str,
        judge: impl FnOnce() -> F,
    ) -> Result<Arc<str>, MatrixError>
    where
        F: Future<Output = Result<String, MatrixError>>,
    {
        let too_many = || MatrixError::limit_exceeded(OVERLOAD_PAUSE);
        let lane = self.lane(origin);
        let _place_in_lane = lane.places.try_acquire().map_err(|_| too_many())?;
        let mut answers = lane.answers.lock().await;
        if let Some((_, answer)) = answers.iter().find(|(answered, _)| answered == transaction_id) {
            return Ok(answer.clone());
        }
        let _place = match tokio::time::timeout(HOLD_MAX, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(too_many()),
        };
        let answer: Arc<str> = judge().await?.into();
        if answers.len() >= ANSWERS_OF_ONE_SERVER {
            answers.pop_front();
        }
        answers.push_back((transaction_id.to_owned(), answer.clone()));
        Ok(answer)
    }

    fn lane(&self, origin: &ServerName) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(origin) {
            return lane.clone();
        }
        if lanes.len() >= SERVERS_MAX {
            // Whose transaction is being judged is kept: two at a time must not be.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        lanes.entry(origin.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use ruma::server_name;

    use super::*;

    #[actix_web::test]
    async fn a_repeated_transaction_is_judged_once_and_others_wait_for_it() {
        let transactions = Transactions::default();
        let (judged, at_once, most) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let send = |id: &'static str| {
            let (judged, at_once, most) = (&judged, &at_once, &most);
            transactions.once(server_name!("a.test"), id, move || async move {
                judged.set(judged.get() + 1);
                at_once.set(at_once.get() + 1);
                most.set(most.get().max(at_once.get()));
                tokio::task::yield_now().await;
                at_once.set(at_once.get() - 1);
                Ok(format!("{id} as number {}", judged.get()))
            })
        };
        let answers = join_all(["1", "1", "2", "1"].map(send)).await;
        let answers: Vec<String> = answers.into_iter().map(|answer| answer.unwrap().to_string()).collect();
        assert_eq!(answers, ["1 as number 1", "1 as number 1", "2 as number 2", "1 as number 1"]);
        assert_eq!((judged.get(), most.get()), (2, 1));
        // Another server's transaction of the same id is another one.
        let other = transactions.once(server_name!("b.test"), "1", || async { Ok("other".to_owned()) }).await;
        assert_eq!(&*other.unwrap(), "other");
    }

    #[actix_web::test]
    async fn failures_are_not_remembered_and_only_so_many_wait() {
        let transactions = Transactions::default();
        let origin = server_name!("a.test");
        let failed = transactions.once(origin, "1", || async { Err(MatrixError::internal()) }).await;
        assert_eq!(failed.unwrap_err(), MatrixError::internal());
        let again = transactions.once(origin, "1", || async { Ok("done".to_owned()) }).await;
        assert_eq!(&*again.unwrap(), "done");
        let many = (0..OF_ONE_SERVER_MAX + 2).map(|number| {
            let transactions = &transactions;
            async move {
                let judge = || async {
                    tokio::task::yield_now().await;
                    Ok(String::new())
                };
                transactions.once(origin, &format!("many {number}"), judge).await.is_ok()
            }
        });
        let taken = join_all(many).await.into_iter().filter(|taken| *taken).count();
        assert_eq!(taken, OF_ONE_SERVER_MAX);
    }
}
