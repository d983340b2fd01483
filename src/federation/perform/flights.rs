//! Flows under way: one for each user and room, on a task of its own, shared by everybody who wants the same.
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

/// Whose flow, and on which room.
pub(super) type FlightKey = (OwnedUserId, OwnedRoomId);

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
