//! Data directories of tests, and engines on them.
//! May not: leave anything on the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use ruma::{EventId, OwnedEventId, server_name};
use tempfile::TempDir;
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::commit::{Commit, CommitError, CommitListener, NobodyListens, Stores, Ticket};
use vestibule_storage::conformance::fixture::RoomFixture;
use vestibule_storage::conformance::{Engine, Reopening, block_on};
use vestibule_storage::room::{Direction, RoomCommit};

use crate::journal::files::{JournalFiles, RealFiles};
use crate::{FreeSpace, Handle, Opened, Options, SledStorage, Space};

/// A directory that goes away with the test.
pub(super) struct Place {
    pub(super) dir: TempDir,
    pub(super) files: Arc<dyn JournalFiles>,
}

/// A disk without an end.
#[derive(Debug)]
pub(super) struct Roomy;

impl FreeSpace for Roomy {
    fn measure(&self) -> io::Result<Space> {
        Ok(Space { available_bytes: u64::MAX, total_bytes: u64::MAX })
    }
}

impl Place {
    pub(super) fn new() -> Self {
        Self::on(Arc::new(RealFiles))
    }

    pub(super) fn on(files: Arc<dyn JournalFiles>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), files }
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn options(&self) -> Options {
        self.options_at(&self.data_dir())
    }

    pub(super) fn options_at(&self, dir: &Path) -> Options {
        Options {
            files: Arc::clone(&self.files),
            free_space: Arc::new(Roomy),
            listener: Arc::new(NobodyListens),
            cache_bytes: 1024 * 1024,
            recovery_pauses: (Duration::from_millis(1), Duration::from_millis(2)),
            ..Options::new(dir, server_name!("here.example").to_owned(), 0x5eed)
        }
    }

    pub(super) fn open(&self) -> Opened {
        SledStorage::open(self.options()).unwrap()
    }
}

/// Copies a directory as a backup tool would that knows nothing of what is in it.
pub(super) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The engine for the suite.
pub(super) struct TemporarySled {
    place: Place,
    handle: Option<Handle>,
}

impl TemporarySled {
    pub(super) fn new() -> Self {
        Self { place: Place::new(), handle: None }
    }
}

impl Engine for TemporarySled {
    fn open(&mut self, listener: Arc<dyn CommitListener>) -> LocalBoxFuture<'_, Stores> {
        let opened = SledStorage::open(Options { listener, ..self.place.options() }).unwrap();
        self.handle = Some(opened.handle);
        std::future::ready(opened.stores).boxed_local()
    }

    fn close(&mut self) -> LocalBoxFuture<'_, Reopening> {
        self.handle.take().unwrap().close().unwrap();
        std::future::ready(Reopening::Possible).boxed_local()
    }
}

/// Enqueues a commit.
pub(super) fn enqueue(stores: &Stores, commit: Commit) -> Ticket {
    stores.writer.enqueue(stores.writer.reserve().unwrap(), commit)
}

/// Makes a commit of a room.
pub(super) fn commit(stores: &Stores, commit: RoomCommit) -> Result<StreamPosition, CommitError> {
    block_on(enqueue(stores, Commit::Room(Box::new(commit))))
}

/// A room with so many messages, all committed.
pub(super) fn talk(stores: &Stores, label: &str, messages: usize) -> RoomFixture {
    let (mut room, first) = RoomFixture::create(label);
    let creator = room.creator().to_owned();
    commit(stores, first).unwrap();
    for number in 0..messages {
        let message = room.message(&creator, &format!("message {number}"));
        commit(stores, message).unwrap();
    }
    room
}

/// Whether everything that a room's fixture committed is there.
pub(super) fn assert_whole(stores: &Stores, room: &RoomFixture) {
    block_on(async {
        let ids: Vec<OwnedEventId> = room.events().keys().cloned().collect();
        let stored = stores.rooms.events(room.room_id(), &ids).await.unwrap();
        for (event_id, stored) in ids.iter().zip(stored) {
            let stored = stored.unwrap_or_else(|| panic!("{event_id} is gone"));
            assert_eq!(stored.event.json(), room.events()[event_id].event.json());
        }
        let timeline = stores.rooms.timeline(room.room_id(), None, Direction::Forward, usize::MAX).await.unwrap();
        let shown: Vec<&EventId> = timeline.iter().map(|stored| stored.event.event_id()).collect();
        assert_eq!(shown, room.timeline().values().map(|id| &**id).collect::<Vec<_>>());
        let snapshot = stores.rooms.snapshot(room.room_id()).await.unwrap().unwrap();
        assert_eq!(snapshot.state.len(), room.state().len());
        assert_eq!(snapshot.row.current, room.current());
    });
}
