//! The one gate that every event of another server passes, whatever route brought it: format, keys, signatures, hash.
//! May not: let an event through on anybody's word, or judge what rooms judge.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>, steps 1 to 3; SECURITY V17.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedServerName, events::StateEventType, signatures::PublicKeyMap};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use vestibule_protocol::{
    clock::UnixMillis,
    pdu::checks::{ShapeRefusal, ShapedPdu, SignatureRefusal, VerifiedPdu},
    room_version::RoomVersion,
    state::stripped::{StrippedEntry, StrippedEvent, prune},
};

use super::Federation;

/// Servers whose keys are looked for at once on behalf of one answer. Ours: half of what the keyring fetches at once.
const SERVERS_AT_ONCE_MAX: usize = 16;

/// Time for the keys of all events of one answer. Ours: a room of many servers, some of which are gone.
const KEYS_DEADLINE: Duration = Duration::from_secs(90);

/// Time for the keys of stripped state, for which a client waits. Ours.
const STRIPPED_KEYS_DEADLINE: Duration = Duration::from_secs(10);

/// Events verified in one piece of work. Ours: some twenty milliseconds.
const EVENTS_PER_JOB: usize = 200;

/// Why an event does not pass the gate.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It is no event of the room's version.
    #[error(transparent)]
    Shape(ShapeRefusal),
    /// A signature that it needs is missing or wrong, or its key cannot be had.
    #[error(transparent)]
    Signature(SignatureRefusal),
}

/// What one server must have signed: events with the key ids on them and their times.
type SignedEvents = Vec<(OwnedEventId, BTreeMap<OwnedServerName, BTreeSet<String>>, UnixMillis)>;

impl Federation {
    /// Judges format and size, gets the keys, verifies signatures and hash.
    ///
    /// # Errors
    /// [`VerifyError`]; the event is to be dropped.
    pub async fn verify_pdu(
        &self,
        object: CanonicalJsonObject,
        version: &RoomVersion,
    ) -> Result<VerifiedPdu, VerifyError> {
        self.verify_shaped(ShapedPdu::parse(object, version).map_err(VerifyError::Shape)?, version).await
    }

    /// The same for an event whose format was judged.
    ///
    /// # Errors
    /// [`VerifyError::Signature`]; the event is to be dropped.
    pub async fn verify_shaped(&self, shaped: ShapedPdu, version: &RoomVersion) -> Result<VerifiedPdu, VerifyError> {
        let required = shaped.required_signatures().map_err(VerifyError::Signature)?;
        let signed_at = shaped.pdu().origin_server_ts();
        let keys = self.inner.keyring.keys_of_event(&required, version, signed_at).await;
        shaped.verify(&keys).map_err(VerifyError::Signature)
    }

    /// Verifies many events: keys server by server, some servers at once; signatures in the CPU pool. Events that do not
    /// pass, or whose keys are not to be had in time, are left out; the others keep their order.
    pub async fn verify_many(&self, events: Vec<ShapedPdu>, version: &RoomVersion) -> Vec<VerifiedPdu> {
        let mut keys = self.keys_of_many(&events, version).await;
        let mut rest = events.into_iter().map(|event| {
            let keys = keys.remove(event.pdu().event_id()).unwrap_or_default();
            (event, keys)
        });
        let mut verified = Vec::new();
        loop {
            let job: Vec<(ShapedPdu, PublicKeyMap)> = rest.by_ref().take(EVENTS_PER_JOB).collect();
            if job.is_empty() {
                return verified;
            }
            let done = self.inner.cpu.run(move || verify_all(job)).await;
            verified.extend(done.unwrap_or_default());
        }
    }

    /// The keys for each event, as far as they are to be had in time.
    async fn keys_of_many(&self, events: &[ShapedPdu], version: &RoomVersion) -> BTreeMap<OwnedEventId, PublicKeyMap> {
        let mut by_server: BTreeMap<OwnedServerName, SignedEvents> = BTreeMap::new();
        for event in events {
            for (server, key_ids) in event.required_signatures().unwrap_or_default() {
                let signed_at = event.pdu().origin_server_ts();
                let signed = (event.pdu().event_id().to_owned(), [(server.clone(), key_ids)].into(), signed_at);
                by_server.entry(server).or_default().push(signed);
            }
        }
        let deadline = Instant::now() + KEYS_DEADLINE;
        let lookups = stream::iter(by_server).map(|(server, signed)| async move {
            let mut found = Vec::new();
            let all = async {
                for (event_id, required, signed_at) in signed {
                    let keys = self.inner.keyring.keys_of_event(&required, version, signed_at).await;
                    found.push((event_id, keys));
                }
            };
            if timeout_at(deadline, all).await.is_err() {
                log::debug!(origin:% = server; "keys not had in time");
            }
            found
        });
        let mut keys: BTreeMap<OwnedEventId, PublicKeyMap> = BTreeMap::new();
        let mut lookups = lookups.buffer_unordered(SERVERS_AT_ONCE_MAX);
        while let Some(found) = lookups.next().await {
            for (event_id, of_server) in found {
                keys.entry(event_id).or_default().extend(of_server);
            }
        }
        keys
    }

    /// What clients are shown of stripped state. Whole events must verify; one whose keys cannot be had is not shown, unless
    /// it is the create event, without which the rest says nothing.
    pub async fn verify_stripped(&self, entries: Vec<StrippedEntry>, version: &RoomVersion) -> Vec<StrippedEvent> {
        let deadline = Instant::now() + STRIPPED_KEYS_DEADLINE;
        let mut shown = Vec::new();
        for entry in entries {
            match entry {
                StrippedEntry::Stripped(event) => shown.push(event),
                StrippedEntry::Pdu(shaped) => shown.extend(self.show(shaped, version, deadline).await),
            }
        }
        shown
    }

    async fn show(&self, shaped: ShapedPdu, version: &RoomVersion, deadline: Instant) -> Option<StrippedEvent> {
        let required = shaped.required_signatures().ok()?;
        let finding = self.inner.keyring.keys_of_event(&required, version, shaped.pdu().origin_server_ts());
        let keys = timeout_at(deadline, finding).await.unwrap_or_default();
        let stripped = prune(shaped.pdu())?;
        let lacks_keys = required.keys().any(|server| !keys.contains_key(server.as_str()));
        if lacks_keys {
            return (stripped.kind == StateEventType::RoomCreate).then_some(stripped);
        }
        // A content that is not what was signed comes back redacted.
        shaped.verify(&keys).ok().and_then(|verified| prune(verified.pdu()))
    }
}

fn verify_all(job: Vec<(ShapedPdu, PublicKeyMap)>) -> Vec<VerifiedPdu> {
    let verify = |(event, keys): (ShapedPdu, PublicKeyMap)| match event.verify(&keys) {
        Ok(verified) => Some(verified),
        Err(error) => {
            log::debug!(error:%; "an event of an answer does not verify");
            None
        }
    };
    job.into_iter().filter_map(verify).collect()
}
