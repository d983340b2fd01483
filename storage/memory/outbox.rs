//! What is read of the outbox of the reference model.
//! May not: change anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use ruma::{OwnedServerName, ServerName};

use super::MemoryStorage;
use crate::{
    Read,
    outbox::{OutboxPlace, OutboxReader, OutboxRow, QueuedEdu},
};

impl OutboxReader for MemoryStorage {
    fn destinations<'a>(&'a self, after: Option<&'a ServerName>, limit: usize) -> Read<'a, Vec<OwnedServerName>> {
        self.read(|kept| {
            let places = kept.outbox.keys().chain(kept.edus.keys());
            let names: BTreeSet<&OwnedServerName> = places.map(|(destination, _)| destination).collect();
            let asked = names.into_iter().filter(|name| after.is_none_or(|after| ***name > *after));
            Ok(asked.take(limit).cloned().collect())
        })
    }

    fn pending<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<OutboxRow>> {
        self.read(|kept| Ok(page(&kept.outbox, destination, after).take(limit).map(|(_, row)| row.clone()).collect()))
    }

    fn edus<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<QueuedEdu>> {
        self.read(|kept| {
            let edus = page(&kept.edus, destination, after).take(limit);
            Ok(edus.map(|(place, content)| QueuedEdu { place, content: content.clone() }).collect())
        })
    }
}

/// What is queued for one destination, after a place.
fn page<'a, T>(
    queues: &'a BTreeMap<(OwnedServerName, OutboxPlace), T>,
    destination: &'a ServerName,
    after: Option<OutboxPlace>,
) -> impl Iterator<Item = (OutboxPlace, &'a T)> {
    let key = |place| (destination.to_owned(), place);
    let first = after.map_or_else(|| Bound::Included(key(OutboxPlace::default())), |after| Bound::Excluded(key(after)));
    let queued = queues.range((first, Bound::Unbounded)).take_while(move |((name, _), _)| name == destination);
    queued.map(|((_, place), queued)| (*place, queued))
}
