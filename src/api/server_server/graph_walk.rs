//! Walks a room's graph from events to those before them, within a budget of look-ups.
//! May not: go on without bound (SECURITY V65), or cross into another room.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ruma::OwnedEventId;
use vestibule_protocol::pdu::Standing;
use vestibule_storage::{error::StorageError, room::StoredEvent};

use super::readers::{Reader, has_state};

/// Events looked up for one question. Source: SECURITY V65.
pub(super) const LOOKUPS_MAX: usize = 1_000;

/// Looks events up while the budget lasts.
struct Budget<'a> {
    reader: &'a Reader<'a>,
    left: usize,
}

impl Budget<'_> {
    /// The events that are here, in this room, and around which the state is known.
    async fn look_up(
        &mut self,
        event_ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<Vec<StoredEvent>, StorageError> {
        let event_ids: Vec<OwnedEventId> = event_ids.into_iter().take(self.left).collect();
        self.left = self.left.saturating_sub(event_ids.len());
        let mut found = self.reader.events(&event_ids).await?;
        found.retain(has_state);
        Ok(found)
    }
}

/// These events and those before them, the newest first by their depth, as far as `limit` goes. Rejected ones are passed over.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn back_from(
    reader: &Reader<'_>,
    event_ids: BTreeSet<OwnedEventId>,
    limit: usize,
) -> Result<Vec<StoredEvent>, StorageError> {
    let mut budget = Budget { reader, left: LOOKUPS_MAX };
    let mut seen = event_ids.clone();
    let mut waiting = BTreeMap::new();
    let mut newest_first = BinaryHeap::new();
    let mut walked = Vec::new();
    let mut next = event_ids;
    while walked.len() < limit {
        for event in budget.look_up(std::mem::take(&mut next)).await? {
            let event_id = event.event.event_id().to_owned();
            newest_first.push((event.event.depth(), event.order, event_id.clone()));
            waiting.insert(event_id, event);
        }
        let Some((_, _, event_id)) = newest_first.pop() else { break };
        let Some(event) = waiting.remove(&event_id) else { continue };
        next = event.event.prev_events().iter().filter(|event_id| seen.insert((*event_id).clone())).cloned().collect();
        if event.event.standing() != Standing::Rejected {
            walked.push(event);
        }
    }
    Ok(walked)
}

/// The events between some that a server has and later ones: breadth first from the later ones, which are not among them.
pub(super) struct Gap {
    /// What the server has.
    pub(super) earliest: BTreeSet<OwnedEventId>,
    /// From where the walk starts.
    pub(super) latest: BTreeSet<OwnedEventId>,
    /// Events of a smaller depth are not wanted.
    pub(super) depth_min: u64,
    /// How many are wanted.
    pub(super) limit: usize,
}

impl Gap {
    /// The missing events, oldest first. Rejected ones are passed over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn walk(self, reader: &Reader<'_>) -> Result<Vec<StoredEvent>, StorageError> {
        let mut budget = Budget { reader, left: LOOKUPS_MAX };
        let mut seen = self.earliest;
        let start: Vec<OwnedEventId> =
            self.latest.into_iter().filter(|event_id| seen.insert(event_id.clone())).collect();
        let mut front = budget.look_up(start).await?;
        let mut missing: Vec<StoredEvent> = Vec::new();
        while !front.is_empty() && missing.len() < self.limit {
            let before: Vec<OwnedEventId> = front
                .iter()
                .flat_map(|event| event.event.prev_events())
                .filter(|event_id| seen.insert((*event_id).clone()))
                .cloned()
                .collect();
            front = budget.look_up(before).await?;
            front.retain(|event| event.event.depth() >= self.depth_min);
            let wanted = front.iter().filter(|event| event.event.standing() != Standing::Rejected).cloned();
            let room = self.limit.saturating_sub(missing.len());
            missing.extend(wanted.take(room));
        }
        missing.sort_by_key(|event| (event.event.depth(), event.order));
        Ok(missing)
    }
}
