//! What the reference model keeps, and how a commit changes it.
//! May not: change anything when it refuses.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use vestibule_protocol::stream::StreamPosition;

use super::{accounts::Accounts, device_keys::Effects, room::Room};
use crate::{
    accounts::AccountChange,
    commit::{Announcement, Commit, CommitError, Conflict},
    error::StorageError,
    outbox::{EduContent, OutboxPlace, OutboxRow},
    receipts::{ReceiptSlot, StoredReceipt},
    room::{ClientTransaction, Decision, MembershipRow, OutOfBand, RoomCommit, RoomOrigin},
    server_keys::StoredServerKeys,
};

/// Rows by room and local user.
pub(super) type OutOfBandRows = BTreeMap<(OwnedRoomId, OwnedUserId), OutOfBand>;

/// Everything that is durable.
#[derive(Clone, Default)]
pub(super) struct Kept {
    pub(super) position: StreamPosition,
    pub(super) rooms: BTreeMap<OwnedRoomId, Room>,
    pub(super) room_of_event: BTreeMap<OwnedEventId, OwnedRoomId>,
    /// Of local users, with what was before, oldest first.
    pub(super) memberships: BTreeMap<(OwnedUserId, OwnedRoomId), Vec<(StreamPosition, MembershipRow)>>,
    pub(super) forgotten: BTreeSet<(OwnedUserId, OwnedRoomId)>,
    pub(super) out_of_band: OutOfBandRows,
    pub(super) joining: OutOfBandRows,
    pub(super) outbox: BTreeMap<(OwnedServerName, OutboxPlace), OutboxRow>,
    pub(super) receipts: BTreeMap<(OwnedRoomId, ReceiptSlot), StoredReceipt>,
    pub(super) edus: BTreeMap<(OwnedServerName, OutboxPlace), EduContent>,
    pub(super) decisions: Vec<Decision>,
    pub(super) transactions: BTreeMap<ClientTransaction, OwnedEventId>,
    pub(super) accounts: Accounts,
    pub(super) server_keys: BTreeMap<OwnedServerName, StoredServerKeys>,
}

impl Kept {
    /// Makes one commit, all of it or nothing.
    pub(super) fn apply(&mut self, commit: &Commit) -> Result<Announcement, CommitError> {
        let position = self.position.next();
        let mut announcement = Announcement { position, ..Announcement::default() };
        match commit {
            Commit::Room(commit) => {
                self.apply_room(commit, position)?;
                announcement.room_id = Some(commit.room_id.clone());
                announcement.users = commit.local_users().into_iter().collect();
                announcement.destinations = commit.destinations().into_iter().collect();
            }
            Commit::Accounts(changes) => {
                let effects = self.apply_accounts(changes, position)?;
                announcement.destinations = self.queue_edus(&effects, position).into_iter().collect();
                announcement.users = effects.users.into_iter().collect();
            }
            Commit::ServerKeys(keys) => {
                self.server_keys.insert(keys.server_name.clone(), (**keys).clone());
            }
            Commit::OutboxDone(done) => {
                for place in &done.places {
                    self.outbox.remove(&(done.destination.clone(), *place));
                }
            }
            Commit::Receipts(commit) => {
                self.apply_receipts(commit, position);
                announcement.room_id = commit.public_room().cloned();
                announcement.users = commit.private_users().into_iter().collect();
            }
            Commit::EdusDone(done) => {
                for place in &done.places {
                    self.edus.remove(&(done.destination.clone(), *place));
                }
            }
        }
        self.position = position;
        Ok(announcement)
    }

    fn apply_room(&mut self, commit: &RoomCommit, position: StreamPosition) -> Result<(), CommitError> {
        let room_id = &commit.room_id;
        let not_written = |reason| CommitError::Storage(StorageError::NotWritten { reason });
        let stored = self.rooms.contains_key(room_id);
        match (commit.origin, stored) {
            (RoomOrigin::Created | RoomOrigin::OutOfBand, true) => {
                return Err(CommitError::Conflict(Conflict::RoomExists));
            }
            (RoomOrigin::Existing, false) => return Err(CommitError::Conflict(Conflict::NoSuchRoom)),
            (RoomOrigin::Created | RoomOrigin::OutOfBand, false) | (RoomOrigin::Existing, true) => {}
        }
        let needs_room = commit.needs_stored_room().filter(|_| commit.origin == RoomOrigin::OutOfBand);
        if let Some(part) = needs_room {
            return Err(not_written(format!("{part} in a room that is not stored")));
        }
        let nothing = Room::new(commit.room_version.clone());
        self.rooms.get(room_id).unwrap_or(&nothing).check(commit).map_err(not_written)?;
        if commit.origin != RoomOrigin::OutOfBand {
            self.rooms.entry(room_id.clone()).or_insert(nothing).apply(commit, position);
        }
        for row in &commit.events {
            self.room_of_event.insert(row.event.event_id().to_owned(), room_id.clone());
        }
        for row in commit.memberships.iter().filter(|row| row.is_local) {
            let key = (row.user_id.clone(), room_id.clone());
            if row.ends_forgetting() {
                self.forgotten.remove(&key);
            }
            self.memberships.entry(key).or_default().push((position, row.clone()));
        }
        for (kept, rows) in [(&mut self.out_of_band, &commit.out_of_band), (&mut self.joining, &commit.joining)] {
            for (user_id, row) in rows {
                let key = (room_id.clone(), user_id.clone());
                match row {
                    Some(row) => kept.insert(key, row.clone()),
                    None => kept.remove(&key),
                };
            }
        }
        self.decisions.extend(commit.decisions.iter().cloned());
        self.apply_transactions(commit);
        self.apply_outbox(commit, position);
        Ok(())
    }

    fn apply_outbox(&mut self, commit: &RoomCommit, position: StreamPosition) {
        for (index, entry) in (0..).zip(&commit.outbox) {
            let place = OutboxPlace { position, index };
            for destination in &entry.destinations {
                let row = OutboxRow {
                    place,
                    room_id: commit.room_id.clone(),
                    event_id: entry.event_id.clone(),
                    delivery: entry.delivery.clone(),
                };
                self.outbox.insert((destination.clone(), place), row);
            }
        }
    }

    fn apply_transactions(&mut self, commit: &RoomCommit) {
        for row in &commit.events {
            if let Some(transaction) = &row.transaction {
                self.transactions.insert(transaction.clone(), row.event.event_id().to_owned());
            }
        }
        let answered = commit.transaction.as_ref().filter(|id| !self.transactions.contains_key(*id));
        if let (Some(transaction), Some(row)) = (answered, commit.events.last()) {
            self.transactions.insert(transaction.clone(), row.event.event_id().to_owned());
        }
    }

    fn apply_accounts(&mut self, changes: &[AccountChange], position: StreamPosition) -> Result<Effects, CommitError> {
        // Tried on a copy, so that a conflict of the last change leaves nothing of the first.
        let mut accounts = self.accounts.clone();
        let mut forgotten = self.forgotten.clone();
        let mut effects = Effects::default();
        for change in changes {
            match change {
                AccountChange::SetForgotten { user_id, room_id, is_forgotten } => {
                    let mark = (user_id.clone(), room_id.clone());
                    if *is_forgotten {
                        forgotten.insert(mark);
                    } else {
                        forgotten.remove(&mark);
                    }
                    effects.users.insert(user_id.clone());
                }
                AccountChange::Keys(change) => {
                    accounts.apply_keys(change, position, &mut effects).map_err(CommitError::Conflict)?;
                }
                other => effects.users.extend(accounts.apply(other, position).map_err(CommitError::Conflict)?),
            }
        }
        self.accounts = accounts;
        self.forgotten = forgotten;
        Ok(effects)
    }

    /// Tells for whom there is something.
    fn queue_edus(&mut self, effects: &Effects, position: StreamPosition) -> BTreeSet<OwnedServerName> {
        for (index, (destinations, content)) in (0..).zip(&effects.edus) {
            for destination in destinations {
                self.edus.insert((destination.clone(), OutboxPlace { position, index }), content.clone());
            }
        }
        effects.edus.iter().flat_map(|(destinations, _)| destinations).cloned().collect()
    }
}

/// Which life of each room's actor the writer knows. Not kept: the lives of one process end with it.
#[derive(Default)]
pub(super) struct Lives {
    lives: BTreeMap<OwnedRoomId, Life>,
}

struct Life {
    incarnation: u64,
    /// `None`: a commit's outcome is unknown, so nothing of this life can follow it.
    next_sequence: Option<u64>,
}

impl Lives {
    /// Whether all commits before this one were made. A newer life is noted even if its commit is then refused.
    pub(super) fn check(&mut self, commit: &RoomCommit) -> Result<(), CommitError> {
        let newborn = || Life { incarnation: commit.incarnation, next_sequence: Some(1) };
        let life = self.lives.entry(commit.room_id.clone()).or_insert_with(newborn);
        if commit.incarnation > life.incarnation {
            *life = newborn();
        }
        let is_next = commit.incarnation == life.incarnation && life.next_sequence == Some(commit.sequence);
        if is_next { Ok(()) } else { Err(CommitError::PredecessorMissing) }
    }

    /// The commit was made.
    pub(super) fn made(&mut self, commit: &RoomCommit) {
        let next_sequence = Some(commit.sequence.saturating_add(1));
        self.lives.insert(commit.room_id.clone(), Life { incarnation: commit.incarnation, next_sequence });
    }

    /// Nobody can tell whether the commit was made.
    pub(super) fn lose_track(&mut self, commit: &Commit) {
        if let Commit::Room(commit) = commit {
            let life = Life { incarnation: commit.incarnation, next_sequence: None };
            self.lives.insert(commit.room_id.clone(), life);
        }
    }
}
