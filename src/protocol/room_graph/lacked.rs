//! Events that accepted events cite and that are not in memory: nobody gave them to us, or they are older than memory.
//! May not: grow without end. What it forgets costs a forward extremity that the next event of ours takes away.

use std::collections::{BTreeSet, VecDeque};

use ruma::{EventId, OwnedEventId};

/// Events remembered. Ours: as many as the graph remembers with their states.
const LACKED_MAX: usize = super::RECENT_EVENTS_MAX;

/// Should one of them come, it is no forward extremity: others stand on it.
#[derive(Debug, Default)]
pub(super) struct Lacked {
    event_ids: BTreeSet<OwnedEventId>,
    order: VecDeque<OwnedEventId>,
}

impl Lacked {
    pub(super) fn add(&mut self, event_id: &EventId) {
        if !self.event_ids.insert(event_id.to_owned()) {
            return;
        }
        self.order.push_back(event_id.to_owned());
        if self.order.len() > LACKED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.event_ids.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, event_id: &EventId) -> bool {
        self.event_ids.contains(event_id)
    }
}
