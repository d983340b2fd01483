//! Turns a commit into puts and deletes, as the journal and the look-up store take them.
//! May not: write anything, or change anything when it refuses.
//!
//! What it reads is the look-up store with the commits of the same batch over it, which are not applied yet.

mod accounts;
mod device_keys;
mod outbox;
mod receipts;
mod room;

pub(crate) use self::accounts::{account_data_key, device_key};
pub(crate) use self::device_keys::{inbox, inbox_size_key, list_key, remote_keys_key, usage_of};
pub(crate) use self::outbox::outbox_key;
pub(crate) use self::receipts::receipt_key;
pub(crate) use self::room::transaction_key;

use std::collections::BTreeMap;
use std::ops::Range;

use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    commit::{Announcement, Commit, CommitError},
    error::StorageError,
};

use crate::fields::StoredForm;
use crate::index::Index;
use crate::keys::{Key, Table};
use crate::record::Changes;
use crate::values::CounterValue;
use crate::views::Subject;

/// A commit as it is going to be written.
#[derive(Debug)]
pub(crate) struct Drafted {
    pub(crate) changes: Changes,
    pub(crate) announcement: Announcement,
    pub(crate) subjects: Vec<Subject>,
}

/// Translates a commit that gets `position` if it is made.
///
/// # Errors
/// [`CommitError::Conflict`], or [`CommitError::Storage`] with `NotWritten`: it cannot be made.
pub(crate) fn draft(
    index: &Index,
    batch: &Changes,
    commit: &Commit,
    position: StreamPosition,
) -> Result<Drafted, CommitError> {
    let mut draft = Draft { index, batch, changes: Changes::new(), position };
    let mut news = Announcement { position, ..Announcement::default() };
    let mut subjects = Vec::new();
    match commit {
        Commit::Room(commit) => {
            draft.room(commit)?;
            news.room_id = Some(commit.room_id.clone());
            news.users = commit.local_users().into_iter().collect();
            news.destinations = commit.destinations().into_iter().collect();
        }
        Commit::Accounts(changes) => {
            let effects = draft.accounts(changes)?;
            news.users = effects.users.into_iter().collect();
            news.destinations = effects.destinations.into_iter().collect();
        }
        Commit::ServerKeys(keys) => {
            draft.put(Key::of(Table::ServerKeys).last(keys.server_name.as_str()), &**keys);
        }
        Commit::OutboxDone(done) => {
            draft.outbox_done(Table::Outbox, done);
            subjects.push(Subject::server(&done.destination));
        }
        Commit::Receipts(commit) => {
            draft.receipts(commit)?;
            news.room_id = commit.public_room().cloned();
            news.users = commit.private_users().into_iter().collect();
        }
        Commit::EdusDone(done) => {
            draft.outbox_done(Table::EduOutbox, done);
            subjects.push(Subject::server(&done.destination));
        }
    }
    subjects.extend(news.room_id.iter().map(|room_id| Subject::room(room_id)));
    subjects.extend(news.users.iter().map(|user_id| Subject::user(user_id)));
    subjects.extend(news.destinations.iter().map(|destination| Subject::server(destination)));
    Ok(Drafted { changes: draft.changes, announcement: news, subjects })
}

/// Counts by how much the ids of news of device lists are ahead of their positions: they jump with each restore.
pub(crate) const NEWS_IDS_AHEAD: &str = "device_list_ids_ahead";

struct Draft<'a> {
    index: &'a Index,
    batch: &'a Changes,
    changes: Changes,
    position: StreamPosition,
}

impl Draft<'_> {
    fn put(&mut self, key: Key, value: &impl StoredForm) {
        self.changes.insert(key.into_bytes(), Some(value.to_bytes()));
    }

    /// Puts a key that says all by itself.
    fn put_key(&mut self, key: Key) {
        self.changes.insert(key.into_bytes(), Some(Vec::new()));
    }

    fn delete(&mut self, key: Key) {
        self.changes.insert(key.into_bytes(), None);
    }

    fn contains(&self, key: &Key) -> Result<bool, CommitError> {
        Ok(self.bytes(key)?.is_some())
    }

    fn value<T: StoredForm>(&self, key: &Key) -> Result<Option<T>, CommitError> {
        let bytes = self.bytes(key)?;
        bytes.map(|bytes| T::from_bytes(&bytes)).transpose().map_err(not_written)
    }

    fn bytes(&self, key: &Key) -> Result<Option<Vec<u8>>, CommitError> {
        let key = key.as_bytes();
        if let Some(value) = self.changes.get(key).or_else(|| self.batch.get(key)) {
            return Ok(value.clone());
        }
        let stored = self.index.get(key).map_err(|error| not_written(error.into()))?;
        Ok(stored.map(|bytes| bytes.to_vec()))
    }

    /// The entries whose keys begin with a prefix.
    fn under(&self, prefix: &Key) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, CommitError> {
        self.between(prefix.as_bytes().to_vec()..prefix.clone().after(), <[u8]>::to_vec)
    }

    /// Deletes the entries between two keys. Their values may be many and large, so none is held.
    fn delete_between(&mut self, range: Range<Vec<u8>>) -> Result<u64, CommitError> {
        let mut deleted = 0;
        for key in self.between(range, |_| ())?.into_keys() {
            deleted += 1;
            self.changes.insert(key, None);
        }
        Ok(deleted)
    }

    /// The entries between two keys, with what is kept of each value.
    fn between<T>(
        &self,
        range: Range<Vec<u8>>,
        keep: impl Fn(&[u8]) -> T,
    ) -> Result<BTreeMap<Vec<u8>, T>, CommitError> {
        let mut entries = BTreeMap::new();
        for entry in self.index.range(range.clone()) {
            let (key, value) = entry.map_err(|error| not_written(error.into()))?;
            entries.insert(key.to_vec(), keep(&value));
        }
        for (key, value) in self.batch.range(range.clone()).chain(self.changes.range(range)) {
            match value {
                Some(value) => entries.insert(key.clone(), keep(value)),
                None => entries.remove(key),
            };
        }
        Ok(entries)
    }

    fn counter(&self, name: &str, first: u64) -> Result<u64, CommitError> {
        let counter: Option<CounterValue> = self.value(&Key::of(Table::Counter).last(name))?;
        Ok(counter.map_or(first, |counter| counter.0))
    }

    fn set_counter(&mut self, name: &str, number: u64) {
        self.put(Key::of(Table::Counter).last(name), &CounterValue(number));
    }
}

/// Whatever fails while a commit is drafted: the commit is not written.
fn not_written(error: StorageError) -> CommitError {
    CommitError::Storage(StorageError::NotWritten { reason: error.to_string() })
}

fn refused(reason: impl Into<String>) -> CommitError {
    CommitError::Storage(StorageError::NotWritten { reason: reason.into() })
}
