//! The production engine on a disk of ours: what was handed to its writer, what it answered, and what it holds afterwards.
//! May not: believe the engine about what it acknowledged; the ledger looks at the answers alone.
//!
//! A life is the same whenever it is drawn from the same seed: bursts are handed over while the writer is held at its first
//! write, so that the batches are always the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState, server_name};
use vestibule_protocol::pdu::Pdu;
use vestibule_storage::{
    commit::{Commit, CommitError, Stores, Ticket},
    conformance::{
        block_on,
        fixture::{RoomFixture, local, remote},
    },
    error::StorageError,
    room::{Direction, MemberCounts, PendingKnock, RoomCommit},
};
use vestibule_storage_sled::{
    FreeSpace, OpenError, Opened, Options, SledStorage, Space,
    journal::{
        faults::{Draw, FaultyFiles, Operation},
        files::{JournalFiles, NewFile, StoredFile},
    },
};

/// Rooms of one life.
const ROOMS: usize = 3;
/// Users who knock in it.
const USERS: u64 = 12;
/// Between two looks at what was answered.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// Looks until an engine counts as one that never takes anything again: some seconds.
const TAKES_AGAIN_LOOKS: usize = 50_000;

/// Is told of every call that changes something, before it is made and on the thread that makes it.
pub trait Watcher: Send + Sync {
    fn before(&self, operation: Operation, path: &Path);
}

/// A disk with somebody who watches.
#[derive(Clone)]
pub struct WatchedFiles {
    pub disk: FaultyFiles,
    pub watcher: Arc<dyn Watcher>,
}

impl fmt::Debug for WatchedFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WatchedFiles")
    }
}

impl JournalFiles for WatchedFiles {
    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.ensure_dir(dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        self.watcher.before(Operation::CreateNew, path);
        let (file, watcher) = (self.disk.create_new(path)?, Arc::clone(&self.watcher));
        Ok(Box::new(WatchedFile { file, watcher, path: path.into() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.watcher.before(Operation::Rename, from);
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.watcher.before(Operation::Remove, path);
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.watcher.before(Operation::SyncDir, dir);
        self.disk.sync_dir(dir)
    }
}

struct WatchedFile {
    file: Box<dyn NewFile>,
    watcher: Arc<dyn Watcher>,
    path: Box<Path>,
}

impl NewFile for WatchedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.watcher.before(Operation::Write, &self.path);
        self.file.write(bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.watcher.before(Operation::SyncData, &self.path);
        self.file.sync_data()
    }
}

/// A disk without an end.
#[derive(Debug)]
struct Roomy;

impl FreeSpace for Roomy {
    fn measure(&self) -> io::Result<Space> {
        Ok(Space { available_bytes: u64::MAX, total_bytes: u64::MAX })
    }
}

/// How a journal is cut into segments.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub segment_bytes: u64,
    pub salt: u64,
}

/// The production engine, with sled in a directory of the machine.
///
/// # Errors
/// As production has them.
pub fn open(files: Arc<dyn JournalFiles>, dir: &Path, geometry: Geometry) -> Result<Opened, OpenError> {
    SledStorage::open(Options {
        files,
        free_space: Arc::new(Roomy),
        cache_bytes: 1024 * 1024,
        segment_bytes: geometry.segment_bytes,
        // Taken when the life says so, and not when the clock of some thread does.
        checkpoint_journal_bytes: u64::MAX / 4,
        recovery_pauses: (Duration::from_millis(1), Duration::from_millis(2)),
        ..Options::new(dir, server_name!("here.example").to_owned(), geometry.salt)
    })
}

/// What a room holds once a commit is made.
#[derive(Clone, Debug)]
pub struct After {
    pub knocks: BTreeMap<OwnedUserId, PendingKnock>,
    pub counts: MemberCounts,
}

/// One commit that was handed over.
#[derive(Clone, Debug)]
pub struct Entry {
    pub room_id: OwnedRoomId,
    pub events: Vec<Arc<Pdu>>,
    pub after: After,
    /// The burst, and whether it was its first: those that are written together agree in both.
    pub batch: (usize, bool),
    /// Whether it was acknowledged in the end. One that was not leaves no gap where it is missing.
    pub is_made: bool,
}

/// What is known of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered: it may be there or not.
    Waits,
    /// Acknowledged.
    Durable,
    /// Reported as failed.
    NotWritten,
    /// The engine said that it does not know.
    Unknown,
}

/// What was answered, by the number of the entry.
#[derive(Default)]
pub struct Ledger {
    tickets: Vec<Option<Ticket>>,
    fates: Vec<Fate>,
}

impl Ledger {
    /// Looks at all that were not answered yet.
    pub fn look(&mut self) -> &[Fate] {
        let mut context = Context::from_waker(Waker::noop());
        for (slot, fate) in self.tickets.iter_mut().zip(&mut self.fates) {
            let Some(ticket) = slot else { continue };
            if let Poll::Ready(answer) = Pin::new(ticket).poll(&mut context) {
                *fate = fate_of(&answer);
                *slot = None;
            }
        }
        &self.fates
    }

    fn is_settled(&mut self) -> bool {
        self.look();
        self.tickets.iter().all(Option::is_none)
    }
}

fn fate_of<T>(answer: &Result<T, CommitError>) -> Fate {
    match answer {
        Ok(_) => Fate::Durable,
        Err(CommitError::Storage(StorageError::OutcomeUnknown { .. })) => Fate::Unknown,
        Err(_) => Fate::NotWritten,
    }
}

/// What somebody does at each call that changes the disk.
pub type AtCall = Box<dyn FnMut(Operation, &Path, &mut Ledger) + Send>;

/// Holds the writer where bursts begin, and calls whoever wants to know.
pub struct Watch {
    ledger: Mutex<Ledger>,
    at_call: Mutex<AtCall>,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// The next write waits.
    Armed,
    /// A write waits.
    Holding,
}

impl Watch {
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, gate: Gate) {
        *self.gate() = gate;
        self.moved.notify_all();
    }

    /// Waits until the first of a burst is being written, or was refused without a write.
    fn wait_until_held(&self) {
        loop {
            let waited = self.moved.wait_timeout_while(self.gate(), LOOK_AGAIN, |now| *now == Gate::Armed);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 != Gate::Armed {
                return;
            }
            if self.ledger().is_settled() {
                return self.set(Gate::Open);
            }
        }
    }

    fn wait_while(&self, gate: Gate) {
        let held = self.moved.wait_while(self.gate(), |now| *now == gate);
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Watcher for Watch {
    fn before(&self, operation: Operation, path: &Path) {
        let begins_batch = matches!(operation, Operation::Write | Operation::CreateNew);
        if begins_batch && *self.gate() == Gate::Armed {
            self.set(Gate::Holding);
            self.wait_while(Gate::Holding);
        }
        let mut at_call = self.at_call.lock().unwrap_or_else(PoisonError::into_inner);
        at_call(operation, path, &mut self.ledger());
    }
}

/// An engine from its start to its end, and all that was handed to it.
pub struct Life {
    pub disk: FaultyFiles,
    pub watch: Arc<Watch>,
    pub opened: Opened,
    pub entries: Vec<Entry>,
    place: (PathBuf, Geometry, Arc<WatchedFiles>),
    rooms: Vec<RoomFixture>,
    bursts: usize,
}

impl Life {
    /// On an empty disk; `at_call` is told of everything from the first call on.
    ///
    /// # Errors
    /// The engine does not open.
    pub fn begin(dir: &Path, geometry: Geometry, at_call: AtCall, disk: FaultyFiles) -> Result<Self, OpenError> {
        let watch = Arc::new(Watch {
            ledger: Mutex::default(),
            at_call: Mutex::new(at_call),
            gate: Mutex::new(Gate::Open),
            moved: Condvar::new(),
        });
        let watcher: Arc<dyn Watcher> = watch.clone();
        let files = Arc::new(WatchedFiles { disk: disk.clone(), watcher });
        let opened = open(files.clone(), dir, geometry)?;
        let place = (dir.to_owned(), geometry, files);
        Ok(Self { disk, watch, opened, entries: Vec::new(), place, rooms: Vec::new(), bursts: 0 })
    }

    /// Closes the engine and opens it again.
    ///
    /// # Errors
    /// Of opening; it may be tried again.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        // That it is not sealed is no loss, and twice is no error.
        let _ = self.opened.handle.close();
        let (dir, geometry, files) = &self.place;
        self.opened = open(files.clone(), dir, *geometry)?;
        self.rooms.iter_mut().for_each(RoomFixture::next_life);
        Ok(())
    }

    /// All that was handed over, with what was answered in the end.
    pub fn settled_entries(&self) -> Vec<Entry> {
        let fates = self.watch.ledger().look().to_vec();
        let settled = |(entry, fate): (&Entry, Fate)| Entry { is_made: fate == Fate::Durable, ..entry.clone() };
        self.entries.iter().zip(fates).map(settled).collect()
    }

    /// Hands over so many commits at once, and waits until each is answered: the first is written alone, all others together.
    /// Says whether the engine took them all.
    ///
    /// # Errors
    /// The engine refuses before it was given anything.
    pub fn burst(&mut self, size: u64, draw: &mut Draw) -> Result<bool, String> {
        let begins_at = self.entries.len();
        let before = self.rooms.clone();
        let mut made = Vec::new();
        for number in 0..size.max(1) {
            let (room, commit) = self.draw_commit(draw);
            let Some(fixture) = self.rooms.get(room) else { continue };
            let events = commit.events.iter().map(|row| Arc::clone(&row.event)).collect();
            let after = After { knocks: fixture.knocks().clone(), counts: fixture.counts() };
            let batch = (self.bursts, number == 0);
            self.entries.push(Entry { room_id: fixture.room_id().to_owned(), events, after, batch, is_made: true });
            made.push((room, fixture.clone(), commit));
        }
        self.bursts += 1;
        self.wait_until_it_takes()?;
        let mut reached = Vec::new();
        for (number, (room, fixture, commit)) in made.into_iter().enumerate() {
            if number == 0 {
                self.watch.set(Gate::Armed);
            }
            let slot = self.opened.stores.writer.reserve().map_err(|error| {
                self.watch.set(Gate::Open);
                format!("no slot: {error}")
            })?;
            let ticket = self.opened.stores.writer.enqueue(slot, Commit::Room(Box::new(commit)));
            let mut ledger = self.watch.ledger();
            ledger.tickets.push(Some(ticket));
            ledger.fates.push(Fate::Waits);
            drop(ledger);
            if number == 0 {
                self.watch.wait_until_held();
            }
            reached.push((room, fixture));
        }
        self.watch.set(Gate::Open);
        while !self.watch.ledger().is_settled() {
            thread::park_timeout(LOOK_AGAIN);
        }
        Ok(self.go_on_from(begins_at, &before, reached))
    }

    /// After a failure the engine refuses for a moment.
    fn wait_until_it_takes(&self) -> Result<(), String> {
        for _ in 0..TAKES_AGAIN_LOOKS {
            if self.opened.stores.writer.reserve().is_ok() {
                return Ok(());
            }
            thread::park_timeout(LOOK_AGAIN);
        }
        Err("it takes no commits any more".to_owned())
    }

    /// Puts rooms in which something failed back to where the engine has them.
    fn go_on_from(&mut self, begins_at: usize, before: &[RoomFixture], reached: Vec<(usize, RoomFixture)>) -> bool {
        let fates = self.watch.ledger().look().to_vec();
        let mut is_whole = true;
        let mut last: BTreeMap<usize, RoomFixture> = before.iter().cloned().enumerate().collect();
        let mut failed = Vec::new();
        for ((room, fixture), fate) in reached.into_iter().zip(fates.iter().skip(begins_at)) {
            if *fate == Fate::Durable {
                last.insert(room, fixture);
            } else {
                is_whole = false;
                failed.push(room);
            }
        }
        if !is_whole {
            for room in failed.iter().collect::<BTreeSet<_>>() {
                last.entry(*room).and_modify(RoomFixture::next_life);
            }
            self.rooms = last.into_values().collect();
        }
        is_whole
    }

    fn draw_commit(&mut self, draw: &mut Draw) -> (usize, RoomCommit) {
        if self.rooms.len() < ROOMS && (self.rooms.is_empty() || draw.one_in(6)) {
            let (fixture, commit) = RoomFixture::create(&format!("room{}x{}", self.bursts, self.entries.len()));
            self.rooms.push(fixture);
            return (self.rooms.len() - 1, commit);
        }
        let room = index_below(draw, self.rooms.len());
        let number = draw.below(USERS);
        let name = format!("user{number}");
        let user_id = if number.is_multiple_of(3) { local(&name) } else { remote(&name) };
        let reason = "let me in ".repeat(index_below(draw, 60));
        let Some(fixture) = self.rooms.get_mut(room) else { return self.draw_commit(draw) };
        let is_waiting = fixture.knocks().contains_key(&user_id);
        let commit = match draw.below(8) {
            0 if is_waiting => fixture.leave(&user_id),
            1 if is_waiting => fixture.member(&user_id, MembershipState::Leave),
            2 if is_waiting => fixture.member(&user_id, MembershipState::Invite),
            3 => fixture.message(&local("creator"), &reason),
            4 => fixture.knock_beside_newest(&user_id, &reason),
            _ => fixture.knock(&user_id, &reason),
        };
        (room, commit)
    }
}

fn index_below(draw: &mut Draw, bound: usize) -> usize {
    let bound = u64::try_from(bound).unwrap_or(1).max(1);
    usize::try_from(draw.below(bound)).unwrap_or(0)
}

/// What an engine holds of a life.
pub struct Held {
    /// By the number of the entry.
    pub entries: Vec<bool>,
}

/// Everything that was acknowledged is there, nothing is there that failed or was never handed over, and what is there is what
/// was handed over: events, timelines, knocks and counts. `excused` are those whose loss was reported.
///
/// # Errors
/// What is wrong, in one line.
pub fn judge(
    opened: &Opened,
    entries: &[Entry],
    fates: &[Fate],
    excused: impl Fn(&Entry) -> bool,
) -> Result<Held, String> {
    let mut held = vec![false; entries.len()];
    let mut rooms: BTreeMap<&OwnedRoomId, Vec<usize>> = BTreeMap::new();
    for (number, entry) in entries.iter().enumerate() {
        rooms.entry(&entry.room_id).or_default().push(number);
    }
    for (room_id, numbers) in rooms {
        judge_room(&opened.stores, (room_id, &numbers), entries, &mut held)?;
    }
    let mut is_gap = false;
    for (number, entry) in entries.iter().enumerate() {
        let is_held = held.get(number).copied().unwrap_or(false);
        let fate = fates.get(number).copied();
        let what = || format!("commit {number} of {} in {}", entries.len(), entry.room_id);
        match (fate, is_held) {
            (None, true) => return Err(format!("{} was not handed over and is there", what())),
            (Some(Fate::NotWritten), true) => return Err(format!("{} was reported as failed and is there", what())),
            (Some(Fate::Durable), false) if !excused(entry) => {
                return Err(format!("{} was acknowledged and is lost", what()));
            }
            (Some(Fate::NotWritten) | None, false) => {}
            (Some(_), true) if is_gap => return Err(format!("{} is there without what came before it", what())),
            (Some(_), _) => is_gap |= !is_held && entry.is_made,
        }
    }
    let count = u64::try_from(held.iter().filter(|is_held| **is_held).count()).unwrap_or(u64::MAX);
    let position = opened.report.position.0;
    if count != position {
        return Err(format!("{count} commits are there, but the newest has position {position}"));
    }
    Ok(Held { entries: held })
}

fn judge_room(
    stores: &Stores,
    (room_id, numbers): (&OwnedRoomId, &[usize]),
    entries: &[Entry],
    held: &mut [bool],
) -> Result<(), String> {
    let failed = |what: &str, error: &dyn fmt::Display| format!("{what} of {room_id}: {error}");
    let of_room = || numbers.iter().filter_map(|number| Some((*number, entries.get(*number)?)));
    let events = || of_room().flat_map(|(number, entry)| entry.events.iter().map(move |event| (number, event)));
    let ids: Vec<_> = events().map(|(_, event)| event.event_id().to_owned()).collect();
    let stored = block_on(stores.rooms.events(room_id, &ids)).map_err(|error| failed("events", &error))?;
    let mut shown = Vec::new();
    let mut there: BTreeMap<usize, usize> = BTreeMap::new();
    for ((number, event), stored) in events().zip(stored) {
        let Some(stored) = stored else { continue };
        if stored.event.json() != event.json() {
            return Err(format!("{} of {room_id} is served changed", event.event_id()));
        }
        shown.push(event.event_id().to_owned());
        *there.entry(number).or_default() += 1;
    }
    let mut newest = None;
    for (number, entry) in of_room() {
        let count = there.get(&number).copied().unwrap_or(0);
        if count != 0 && count != entry.events.len() {
            return Err(format!("commit {number} is torn: {count} of its {} events are there", entry.events.len()));
        }
        if let Some(place) = held.get_mut(number).filter(|_| count > 0) {
            *place = true;
            newest = Some((number, entry));
        }
    }
    let snapshot = block_on(stores.rooms.snapshot(room_id)).map_err(|error| failed("snapshot", &error))?;
    let Some((number, newest)) = newest else {
        return if snapshot.is_some() { Err(format!("{room_id} is there without its events")) } else { Ok(()) };
    };
    let Some(snapshot) = snapshot else { return Err(format!("{room_id} is not there and its events are")) };
    let timeline = block_on(stores.rooms.timeline(room_id, None, Direction::Forward, usize::MAX))
        .map_err(|error| failed("timeline", &error))?;
    let timeline: Vec<_> = timeline.iter().map(|stored| stored.event.event_id().to_owned()).collect();
    if timeline != shown {
        return Err(format!("the timeline of {room_id} is not what was committed"));
    }
    let pending: BTreeMap<OwnedUserId, PendingKnock> =
        block_on(stores.rooms.pending_knocks(Some(room_id), None, usize::MAX))
            .map_err(|error| failed("knocks", &error))?
            .into_iter()
            .map(|row| (row.user_id, row.knock))
            .collect();
    if pending != newest.after.knocks || snapshot.knocks != newest.after.knocks {
        return Err(format!(
            "{} wait in {room_id}, and after commit {number} it must be {}",
            pending.len(),
            newest.after.knocks.len()
        ));
    }
    if snapshot.row.counts != newest.after.counts {
        return Err(format!("members of {room_id} are counted wrong: {:?}", snapshot.row.counts));
    }
    Ok(())
}

/// Copies a directory as a backup tool would that knows nothing of what is in it.
///
/// # Errors
/// Of the file system.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
