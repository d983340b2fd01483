//! Flows under way: one of each kind for each user and room, on a task of its own, shared by everybody who wants the same.
//! May not: end a flow because nobody waits for it any more; another server may have accepted what it sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use ruma::{OwnedRoomId, OwnedUserId};

use super::PerformError;

/// What a flow is for. A join does not wait for a knock that is under way: the invite that the join accepts may have come
/// before the answer to the knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flow {
    Knock,
    Join,
}

/// Whose flow, on which room, what for.
pub(super) type FlightKey = (OwnedUserId, OwnedRoomId, Flow);

type Flight = Shared<BoxFuture<'static, Result<(), PerformError>>>;

/// The flows under way.
#[derive(Clone, Default)]
pub(super) struct Flights {
    under_way: Arc<Mutex<BTreeMap<FlightKey, Flight>>>,
}

impl Flights {
    /// Joins the flow of that key, or begins `work`. Dropping the future ends neither.
    pub(super) async fn run(
        &self,
        key: FlightKey,
        work: impl Future<Output = Result<(), PerformError>> + Send + 'static,
    ) -> Result<(), PerformError> {
        let flight = {
            let mut under_way = self.lock();
            match under_way.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let flight = self.depart(key.clone(), work);
                    under_way.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    fn depart(&self, key: FlightKey, work: impl Future<Output = Result<(), PerformError>> + Send + 'static) -> Flight {
        let flights = self.clone();
        let task = tokio::spawn(async move {
            // Lands in any case, also when the work panics: a flight that stays would block its key for good.
            let _landing = Landing { flights, key };
            work.await
        });
        async move { task.await.unwrap_or(Err(PerformError::Failed)) }.boxed().shared()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlightKey, Flight>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Flows that wait to be tried again: one for each key, however often it was asked for meanwhile.
#[derive(Clone, Default)]
pub(super) struct Repeats {
    waiting: Arc<Mutex<BTreeSet<FlightKey>>>,
}

impl Repeats {
    /// The right to wait for that key; `None`: another one waits already. It ends when it is dropped.
    pub(super) fn begin(&self, key: FlightKey) -> Option<Waiting> {
        let is_first = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_first.then(|| Waiting { repeats: self.clone(), key })
    }
}

pub(super) struct Waiting {
    repeats: Repeats,
    key: FlightKey,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.repeats.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

struct Landing {
    flights: Flights,
    key: FlightKey,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join;
    use tokio::sync::oneshot;

    use super::*;

    fn key(flow: Flow) -> FlightKey {
        ("@ann:hs1".try_into().unwrap(), "!r:hs2".try_into().unwrap(), flow)
    }

    #[actix_rt::test]
    async fn who_wants_the_same_shares_it_and_a_join_is_no_knock() {
        let flights = Flights::default();
        let (answer, answered) = oneshot::channel::<()>();
        let knock = flights.run(key(Flow::Knock), async move { answered.await.map_err(|_| PerformError::Failed) });
        let again = async {
            // The first knock is under way by now: the flows below are polled in their order.
            let joined = flights.run(key(Flow::Join), async { Err(PerformError::NotFound) }).await;
            assert_eq!(joined, Err(PerformError::NotFound));
            let knocked = flights.run(key(Flow::Knock), async { Err(PerformError::NotFound) });
            answer.send(()).unwrap();
            knocked.await
        };
        assert_eq!(join(knock, again).await, (Ok(()), Ok(())));
        assert!(flights.lock().is_empty());
    }
}
