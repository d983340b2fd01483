//! Holds the look-up store against the journal: every key.
//! May not: change either, or stop the server that is looked at.
//!
//! What the journal says is built beside what is looked at, then both are compared. The server may go on writing: keys that differ are
//! compared again after the journal was followed further, and keys that were written while they were compared are not judged.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use thiserror::Error;

use crate::index::{Index, IndexError};
use crate::journal::JournalPosition;
use crate::opening::{Places, rebuild, remove_dir, replay_into};
use crate::{Handle, OpenError, OpenReport, Options, SledStorage};

/// Name of the store that is built to compare with.
const EXPECTED_DIR: &str = "sled.verify";
/// Keys that may differ before the comparison ends: all is lost then.
const SUSPECTS_MAX: usize = 100_000;
/// How often keys that a running server keeps writing are looked at again.
const ROUNDS_MAX: usize = 5;

/// What the comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The newest commit that was compared.
    pub position: JournalPosition,
    /// Keys that were compared.
    pub keys: u64,
    /// Commits that were read.
    pub commits: u64,
    /// Keys that differ, are missing or are too many in the look-up store, in hexadecimal.
    pub differing: Vec<String>,
    /// Keys that were written each time they were looked at. Always 0 for a server that rests.
    pub undecided: usize,
}

impl VerifyReport {
    /// Whether the look-up store says what the journal says.
    pub fn is_sound(&self) -> bool {
        self.differing.is_empty()
    }
}

/// Why nothing could be compared.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The journal or a checkpoint cannot be read.
    #[error("what the journal says cannot be read")]
    Journal(#[source] OpenError),
    /// The look-up store cannot be read.
    #[error("the look-up store cannot be read: {reason}")]
    Index {
        /// In sled's words.
        reason: String,
    },
    /// The engine is closed.
    #[error("storage is closed")]
    Closed,
}

impl From<IndexError> for VerifyError {
    fn from(error: IndexError) -> Self {
        Self::Index { reason: error.reason }
    }
}

/// Verifies a data directory that no server uses. What opening found is told too: opening replays what the look-up store has not seen, and
/// builds it anew if it cannot be used at all.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(options: Options) -> Result<(OpenReport, VerifyReport), VerifyError> {
    let opened = SledStorage::open(options).map_err(VerifyError::Journal)?;
    let report = opened.handle.verify()?;
    Ok((opened.report, report))
}

impl Handle {
    /// Verifies the data of this engine while it runs. Blocks, for about as long as a rebuild takes.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(&self) -> Result<VerifyReport, VerifyError> {
        let path = self.places.dir.join(EXPECTED_DIR);
        let removed = |outcome: std::io::Result<()>| {
            let path = path.clone();
            outcome.map_err(|source| VerifyError::Journal(OpenError::Io { operation: "remove", path, source }))
        };
        removed(remove_dir(&path))?;
        let report = self.compare(&self.places, &path);
        removed(remove_dir(&path))?;
        report
    }

    fn compare(&self, places: &Places, path: &Path) -> Result<VerifyReport, VerifyError> {
        // Kept to the end, so that the journal can be followed from where this stands.
        let (pinned, _kept) = self.pin(None).ok_or(VerifyError::Closed)?;
        let checkpoint = pinned.checkpoint.map(|checkpoint| checkpoint.position);
        let replay = pinned.replay.map_err(|error| VerifyError::Journal(error.into()))?;
        let mut position = pinned.durable;
        let (expected, _, mut commits) = rebuild(places, path, checkpoint, replay).map_err(VerifyError::Journal)?;

        let (keys, mut suspects) = self.differing(&expected)?;
        let mut differing = Vec::new();
        for _ in 0..ROUNDS_MAX {
            if suspects.is_empty() {
                break;
            }
            (position, commits) = self.follow(&expected, position, commits, |_| {})?;
            let still = self.differing_of(&expected, &suspects)?;
            let mut written = BTreeSet::new();
            (position, commits) = self.follow(&expected, position, commits, |key| {
                written.insert(key.to_vec());
            })?;
            differing.extend(still.difference(&written).map(|key| hex(key)));
            suspects = still.intersection(&written).cloned().collect();
        }
        Ok(VerifyReport { position, keys, commits, differing, undecided: suspects.len() })
    }

    /// Brings what is expected to where the journal is now, and tells which keys that wrote.
    fn follow(
        &self,
        expected: &Index,
        after: JournalPosition,
        commits: u64,
        mut tell: impl FnMut(&[u8]),
    ) -> Result<(JournalPosition, u64), VerifyError> {
        let (pinned, _kept) = self.pin(Some(after.next())).ok_or(VerifyError::Closed)?;
        let replay = pinned.replay.map_err(|error| VerifyError::Journal(error.into()))?;
        let replayed = replay_into(expected, replay, |changes| changes.keys().for_each(|key| tell(key)));
        Ok((pinned.durable, commits + replayed.map_err(VerifyError::Journal)?))
    }

    /// All keys on which both stores differ, and how many were compared.
    fn differing(&self, expected: &Index) -> Result<(u64, BTreeSet<Vec<u8>>), VerifyError> {
        let actual = self.views.index().ok_or(VerifyError::Closed)?;
        let (mut expected, mut actual) = (expected.all(), actual.all());
        let (mut left, mut right) = (expected.next().transpose()?, actual.next().transpose()?);
        let mut keys = 0;
        let mut differing = BTreeSet::new();
        while differing.len() < SUSPECTS_MAX {
            let order = match (&left, &right) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.0.cmp(&right.0),
            };
            keys += 1;
            if order != Ordering::Equal || left != right {
                let key = if order == Ordering::Greater { &right } else { &left };
                differing.extend(key.as_ref().map(|(key, _)| key.to_vec()));
            }
            if order != Ordering::Greater {
                left = expected.next().transpose()?;
            }
            if order != Ordering::Less {
                right = actual.next().transpose()?;
            }
        }
        Ok((keys, differing))
    }

    fn differing_of(&self, expected: &Index, keys: &BTreeSet<Vec<u8>>) -> Result<BTreeSet<Vec<u8>>, VerifyError> {
        let actual = self.views.index().ok_or(VerifyError::Closed)?;
        let mut differing = BTreeSet::new();
        for key in keys {
            if expected.get(key)? != actual.get(key)? {
                differing.insert(key.clone());
            }
        }
        Ok(differing)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
