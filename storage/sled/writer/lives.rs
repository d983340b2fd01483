//! Which life of each room's actor the writer knows, and which commit must come next.
//! May not: outlive the process; a restart ends all lives.

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use vestibule_storage::room::RoomCommit;

/// The lives of all rooms that committed since the start.
#[derive(Debug, Default)]
pub(super) struct Lives {
    lives: BTreeMap<OwnedRoomId, Life>,
}

#[derive(Debug)]
struct Life {
    incarnation: u64,
    /// `None`: a commit of this life failed, so nothing of it can follow.
    next_sequence: Option<u64>,
}

impl Lives {
    /// Whether all commits before this one were made. A newer life is noted even if its commit is then refused.
    pub(super) fn is_next(&mut self, commit: &RoomCommit) -> bool {
        let newborn = || Life { incarnation: commit.incarnation, next_sequence: Some(1) };
        let life = self.lives.entry(commit.room_id.clone()).or_insert_with(newborn);
        if commit.incarnation > life.incarnation {
            *life = newborn();
        }
        commit.incarnation == life.incarnation && life.next_sequence == Some(commit.sequence)
    }

    /// The commit goes into the journal.
    pub(super) fn made(&mut self, commit: &RoomCommit) {
        if let Some(life) = self.lives.get_mut(&commit.room_id) {
            life.next_sequence = Some(commit.sequence.saturating_add(1));
        }
    }

    /// A commit of the room's present life failed: only a new life can go on.
    pub(super) fn end(&mut self, room_id: &OwnedRoomId) {
        if let Some(life) = self.lives.get_mut(room_id) {
            life.next_sequence = None;
        }
    }
}
