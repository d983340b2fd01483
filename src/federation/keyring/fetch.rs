//! Fetches of keys: one at a time for each server, few at once, each with a deadline, and never in vain twice in a row.
//! May not: be cancelled by a caller that hangs up.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName};
use tokio::time::{Instant, timeout};

use super::{
    DocumentError, FETCH_DEADLINE, Flight, Inner, KeyError, Provenance, Purpose, ServerKeys, SourceNetwork,
    attempts::Attempts,
};
use crate::client::RemoteError;

/// How long a fetch waits for a place. Less than the whole deadline, so that what gets one late is not blamed for our queue.
const PLACE_WAIT: Duration = Duration::from_secs(4);

/// Share of the deadline left to the notaries when some are configured: direct fetches get 1 - 1/this.
const NOTARIES_SHARE: u32 = 3;

/// Key ids that one fetch is for. Ours: servers have one or two, and an event could name a thousand, which would all be
/// remembered.
const KEY_IDS_MAX: usize = 16;

/// Documents of one server looked at in a notary's answer. Ours.
const NOTARY_DOCUMENTS_MAX: usize = 8;

impl Inner {
    /// The fetch in flight for `server`, or a new one if limits allow. `payer`: whose budget pays for a new one.
    pub(super) fn flight_for(
        self: &Arc<Self>,
        server: &ServerName,
        wanted: &[OwnedServerSigningKeyId],
        purpose: Purpose,
        payer: Option<SourceNetwork>,
    ) -> Result<Flight, KeyError> {
        let now = self.clock.monotonic();
        let mut memory = self.memory();
        if let Some(flight) = memory.flights.get(server) {
            return Ok(flight.clone());
        }
        let mut due = wanted.to_vec();
        if let Some(attempts) = memory.attempts.get(server) {
            if let Some(retry_after) = attempts.pause_left(now) {
                return Err(KeyError::RecentlyFailed { retry_after });
            }
            due.retain(|id| attempts.may_ask_for(id, now));
        }
        if due.is_empty() {
            return Err(KeyError::NoUsableKey);
        }
        due.truncate(KEY_IDS_MAX);
        if let (Some(network), Some(budgets)) = (payer, &self.budgets)
            && budgets.take(&network, now).is_err()
        {
            return Err(KeyError::OverBudget);
        }
        if memory.attempts.get(server).is_none() {
            memory.attempts.insert(server.to_owned(), Attempts::default());
        }
        if let Some(attempts) = memory.attempts.get(server) {
            attempts.asked_for(due.clone(), now);
        }
        let flight = self.depart(server.to_owned(), due, purpose);
        memory.flights.insert(server.to_owned(), flight.clone());
        Ok(flight)
    }

    /// Fetches `keys` anew without anybody waiting, if limits allow.
    pub(super) fn refresh_behind(self: &Arc<Self>, keys: &ServerKeys) {
        let Some(id) = keys.first_key_id() else {
            return;
        };
        let purpose = Purpose::Request { now: self.clock.now() };
        // The flight runs on its own task, so it goes on although its future is dropped here.
        drop(self.flight_for(keys.server_name(), &[id.to_owned()], purpose, None));
    }

    fn depart(
        self: &Arc<Self>,
        server: OwnedServerName,
        wanted: Vec<OwnedServerSigningKeyId>,
        purpose: Purpose,
    ) -> Flight {
        let inner = Arc::clone(self);
        let fetch = tokio::spawn(async move {
            // Lands in any case, also when the fetch panics: a flight that stays would block its server for good.
            let landing = Landing { inner: &inner, server: &server };
            let fetched = inner.fetch(&server, &wanted, purpose).await;
            landing.inner.note_outcome(&server, &fetched);
            fetched
        });
        async move { fetch.await.unwrap_or(Err(KeyError::GivenUp)) }.boxed().shared()
    }

    async fn fetch(
        &self,
        server: &ServerName,
        wanted: &[OwnedServerSigningKeyId],
        purpose: Purpose,
    ) -> Result<(), KeyError> {
        let deadline = Instant::now() + FETCH_DEADLINE;
        let place = timeout(PLACE_WAIT, self.fetch_places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(KeyError::Busy);
        };
        let direct = self.fetch_direct(server, deadline).await;
        let has_wanted = |keys: &ServerKeys| wanted.iter().any(|id| keys.usable(id, purpose).is_some());
        if direct.as_deref().is_ok_and(has_wanted) || self.settings.notaries.is_empty() {
            return direct.map(drop);
        }
        for notary in self.settings.notaries.iter().filter(|notary| **notary != server) {
            match self.fetch_from_notary(notary, server, wanted, purpose, deadline).await {
                Ok(keys) if has_wanted(&keys) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    log::debug!(origin:% = server, destination:% = notary, error:%; "notary gave no keys");
                }
            }
        }
        direct.map(drop)
    }

    async fn fetch_direct(&self, server: &ServerName, deadline: Instant) -> Result<Arc<ServerKeys>, KeyError> {
        let mut allowed = deadline.saturating_duration_since(Instant::now());
        if !self.settings.notaries.is_empty() {
            allowed -= allowed / NOTARIES_SHARE;
        }
        let asking = self.source.server_keys(server, allowed);
        let answer = timeout(allowed, asking).await.unwrap_or(Err(RemoteError::Timeout));
        let document = answer.map_err(KeyError::Fetch)?;
        let keys = self.read(&document, server)?;
        Ok(self.take_over(keys, Provenance::Direct).await)
    }

    async fn fetch_from_notary(
        &self,
        notary: &ServerName,
        server: &ServerName,
        wanted: &[OwnedServerSigningKeyId],
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Arc<ServerKeys>, KeyError> {
        let now = self.clock.now();
        let is_current = |keys: &Arc<ServerKeys>| {
            keys.first_key_id().is_some_and(|id| keys.usable(id, Purpose::Request { now }).is_some())
        };
        let notary_keys = match self.known_keys(notary).await.filter(is_current) {
            Some(keys) => keys,
            None => self.fetch_direct(notary, deadline).await?,
        };
        let allowed = deadline.saturating_duration_since(Instant::now());
        let minimum_valid_until = purpose.minimum_valid_until();
        let asking = self.source.notary_keys(notary, server, wanted, minimum_valid_until, allowed);
        let answer = timeout(allowed, asking).await.unwrap_or(Err(RemoteError::Timeout));
        let answer = answer.map_err(KeyError::Fetch)?;
        let mut outcome = Err(KeyError::UnfitDocument(DocumentError::NotAtNotary));
        for document in documents_about(server, &answer) {
            let is_vouched_for = notary_keys.signed(document).map_err(KeyError::UnfitDocument);
            outcome = match (is_vouched_for, self.read(document, server)) {
                (Ok(true), Ok(keys)) => Ok(self.take_over(keys, Provenance::Notary).await),
                (Ok(false), Ok(_)) => Err(KeyError::UnfitDocument(DocumentError::NotSignedByNotary)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        outcome
    }

    fn read(&self, document: &CanonicalJsonObject, server: &ServerName) -> Result<ServerKeys, KeyError> {
        ServerKeys::read(document, server, &self.settings.banned_keys, self.clock.now())
            .map_err(KeyError::UnfitDocument)
    }

    /// Merges verified keys into what is held, in memory and in the store, and returns the result.
    async fn take_over(&self, keys: ServerKeys, provenance: Provenance) -> Arc<ServerKeys> {
        let server = keys.server_name().to_owned();
        let held = self.known_keys(&server).await;
        let updated = match &held {
            Some(held) => held.updated_by(&keys, provenance, self.clock.now()),
            None => Some(keys.clone()),
        };
        let Some(updated) = updated.map(Arc::new) else {
            return held.unwrap_or(Arc::new(keys));
        };
        self.memory().keys.insert(server.clone(), Arc::clone(&updated));
        if let Err(error) = self.store.store(updated.to_stored()).await {
            // Memory has them, and a restart can fetch them again.
            log::error!(origin:% = server, error:%; "server keys not stored");
        }
        updated
    }

    fn note_outcome(&self, server: &ServerName, outcome: &Result<(), KeyError>) {
        let now = self.clock.monotonic();
        let mut memory = self.memory();
        let Some(attempts) = memory.attempts.get(server) else {
            return;
        };
        match outcome {
            Ok(()) => attempts.succeeded(),
            // Our own lack of places says nothing about the server.
            Err(KeyError::Busy) => attempts.took_no_place(),
            Err(error) => {
                attempts.failed(now);
                log::debug!(origin:% = server, error:%; "key fetch gave nothing");
            }
        }
    }
}

struct Landing<'a> {
    inner: &'a Inner,
    server: &'a ServerName,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.inner.memory().flights.remove(self.server);
    }
}

fn documents_about<'a>(
    server: &ServerName,
    answer: &'a CanonicalJsonObject,
) -> impl Iterator<Item = &'a CanonicalJsonObject> {
    let listed = answer.get("server_keys").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
    listed
        .iter()
        .filter_map(CanonicalJsonValue::as_object)
        .filter(move |document| {
            document.get("server_name").and_then(CanonicalJsonValue::as_str) == Some(server.as_str())
        })
        .take(NOTARY_DOCUMENTS_MAX)
}
