//! What is read of the outbox of the reference model.
//! May not: change anything.

use std::{collections::BTreeSet, ops::Bound};

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
        self.read(|kept| {
            let key = |place| (destination.to_owned(), place);
            let first =
                after.map_or_else(|| Bound::Included(key(OutboxPlace::default())), |after| Bound::Excluded(key(after)));
            let rows = kept.outbox.range((first, Bound::Unbounded));
            let of_destination = rows.take_while(|((name, _), _)| name == destination);
            Ok(of_destination.take(limit).map(|(_, row)| row.clone()).collect())
        })
    }

    fn edus<'a>(
        &'a self,
        destination: &'a ServerName,
        after: Option<OutboxPlace>,
        limit: usize,
    ) -> Read<'a, Vec<QueuedEdu>> {
        self.read(|kept| {
            let key = |place| (destination.to_owned(), place);
            let first =
                after.map_or_else(|| Bound::Included(key(OutboxPlace::default())), |after| Bound::Excluded(key(after)));
            let edus = kept.edus.range((first, Bound::Unbounded));
            let of_destination = edus.take_while(|((name, _), _)| name == destination);
            let queued = |((_, place), content): (&(OwnedServerName, OutboxPlace), &_)| QueuedEdu {
                place: *place,
                content: Clone::clone(content),
            };
            Ok(of_destination.take(limit).map(queued).collect())
        })
    }
}
