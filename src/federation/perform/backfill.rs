//! The past of a room that we joined later: fetched from those who were there, when somebody reads back so far.
//! May not: let the past change what the room is now; the room puts it at the beginning of its timeline.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonValue, OwnedEventId, OwnedServerName, RoomId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use tokio::time::Instant;
use vestibule_actors::{AddHistory, AskError};
use vestibule_protocol::{membership::ReceiveRefusal, pdu::checks::VerifiedPdu, room_version::RoomVersion};
use vestibule_storage::{
    error::StorageError,
    room::{Direction, StoredEvent},
};

use super::{
    Federation, PerformError,
    across_gap::of_storage,
    missing_events::{Gap, MISSING_AUTH_EVENTS_MAX, MISSING_DEADLINE},
};
use crate::endpoints;

/// Events of history fetched at a time. Ours; peers give at most a hundred.
pub const HISTORY_EVENTS_MAX: usize = 100;

/// Servers asked for the same piece of history. Ours: somebody waits for it.
const SERVERS_MAX: usize = 3;

/// Bytes of an answer with history: [`HISTORY_EVENTS_MAX`] events of full size and what is around them.
const HISTORY_REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Federation {
    /// Fetches up to `limit` events that come before the oldest of our timeline, at most [`HISTORY_EVENTS_MAX`]. How many of
    /// them are new and part of the timeline; none at the room's beginning.
    ///
    /// # Errors
    /// [`PerformError`]: `NoServers` when nobody else is in the room, `AllFailed` when none of those asked has the past.
    pub async fn backfill(&self, room_id: &RoomId, limit: usize) -> Result<usize, PerformError> {
        let failed = |error: StorageError| PerformError::Storage(error.into());
        let lock = self.under_way.histories.of(room_id);
        let _turn = lock.lock().await;
        let Some(room) = self.inner.stores.rooms.room(room_id).await.map_err(failed)? else { return Ok(0) };
        let oldest = self.inner.stores.rooms.timeline(room_id, None, Direction::Forward, 1).await.map_err(failed)?;
        let Some(oldest) = oldest.into_iter().next() else { return Ok(0) };
        if *oldest.event.kind() == TimelineEventType::RoomCreate || oldest.event.prev_events().is_empty() {
            return Ok(0);
        }
        let unknown_version = || PerformError::VersionNotKnown { room_version: Some(room.room_version.clone()) };
        let version = RoomVersion::lookup(&room.room_version).ok_or_else(unknown_version)?;
        let servers = self.servers_in(room_id, &oldest).await.map_err(failed)?;
        if servers.is_empty() {
            return Err(PerformError::NoServers);
        }
        let limit = limit.clamp(1, HISTORY_EVENTS_MAX);
        let asked = servers.len();
        for server in servers {
            let gap = Gap {
                origin: &server,
                room_id,
                version: &version,
                deadline: Instant::now() + MISSING_DEADLINE,
                rounds_left: 0,
                auth_events_left: MISSING_AUTH_EVENTS_MAX,
                depth_min: 0,
            };
            let events = match self.fetch_history(gap, oldest.event.event_id().to_owned(), limit).await {
                Ok(Some(events)) => events,
                Ok(None) | Err(AskError::Refused(_)) => continue,
                Err(error) => return Err(PerformError::of_room(error, |_| PerformError::Failed)),
            };
            let message = AddHistory { before: oldest.event.event_id().to_owned(), events };
            match self.inner.rooms.ask(room_id, message).await {
                Ok(0) | Err(AskError::Refused(_)) => {}
                outcome => return outcome.map_err(|error| PerformError::of_room(error, |_| PerformError::Failed)),
            }
        }
        Err(PerformError::AllFailed { asked })
    }

    /// Servers with joined users: that of the oldest event's sender first, then those with the most.
    async fn servers_in(&self, room_id: &RoomId, oldest: &StoredEvent) -> Result<Vec<OwnedServerName>, StorageError> {
        let members = self.inner.stores.rooms.current_state_of_type(room_id, &StateEventType::RoomMember).await?;
        let mut counts: BTreeMap<OwnedServerName, usize> = BTreeMap::new();
        for member in members {
            if member.event.membership() == Some(MembershipState::Join) {
                // A member event in the state of an accepted join is its own sender's.
                let count = counts.entry(member.event.sender_server().to_owned()).or_default();
                *count = count.saturating_add(1);
            }
        }
        counts.remove(self.inner.identity.server_name());
        let mut servers: Vec<(OwnedServerName, usize)> =
            counts.into_iter().filter(|(server, _)| !self.inner.client.is_denied(server)).collect();
        let authors = oldest.event.sender_server();
        servers.sort_by_key(|(server, count)| (server != authors, std::cmp::Reverse(*count)));
        Ok(servers.into_iter().map(|(server, _)| server).take(SERVERS_MAX).collect())
    }

    /// Verified events whose auth events are stored when it returns. `None`: the server does not have them all.
    ///
    /// # Errors
    /// [`AskError`]: it is our own side that cannot.
    async fn fetch_history(
        &self,
        mut gap: Gap<'_>,
        before: OwnedEventId,
        limit: usize,
    ) -> Result<Option<Vec<VerifiedPdu>>, AskError<ReceiveRefusal>> {
        let request = endpoints::backfill(gap.room_id, &before, limit);
        let Some(answer) = self.fetch(&gap, request, HISTORY_REPLY_BYTES_MAX).await else { return Ok(None) };
        let listed = answer.get("pdus").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
        let objects = listed.iter().take(HISTORY_EVENTS_MAX).filter_map(CanonicalJsonValue::as_object);
        let shaped: Vec<_> = objects.filter_map(|object| self.shape_of_room(&gap, object.clone())).collect();
        let events = self.verify_many(shaped, gap.version).await;
        let named: BTreeSet<OwnedEventId> =
            events.iter().flat_map(|event| event.pdu().auth_events()).cloned().collect();
        let known = self.stored(&gap, &named).await.map_err(of_storage)?;
        let unknown: Vec<OwnedEventId> = named.difference(&known).cloned().collect();
        if !unknown.is_empty() && !self.fetch_auth_events(&mut gap, unknown).await? {
            log::debug!(destination:% = gap.origin, room_id:% = gap.room_id; "history lacks what authorizes it");
            return Ok(None);
        }
        Ok(Some(events))
    }
}
