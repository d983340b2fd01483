//! Clients, and a disk that is late: they act on rooms at the same time and write down when they called and what they heard.
//! May not: judge what they hear.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::json;
use vestibule_actors::{
    AskError,
    testing::{TestRoom, World, put},
};
use vestibule_protocol::{
    fixture::ALICE,
    membership::{KnockRefusal, OVERTAKEN, change::MembershipChange},
};
use vestibule_storage::{commit::CommitError, error::StorageError, memory::Failure};

use super::{
    DONE_THOUGH_NOT_WRITTEN, LOST_UPDATE, STALE_READ,
    model::{Action, Answer, Operation, RoomKind},
    on_disk::OnDisk,
};
use crate::{proof::Settings, proofs::oracle::case::Membership};

const CLIENTS: usize = 16;
const OPERATIONS: usize = 50;
/// One history in so many has commits that fail, and one is over the engine.
const FAULTY: u64 = 5;
/// Turns of the disk without an end after which clients are taken to hang.
const TURNS_MAX: usize = 2_000_000;

const ROOMS: [RoomKind; 4] = [
    RoomKind { version: 7, join_rule: "knock" },
    RoomKind { version: 10, join_rule: "knock_restricted" },
    RoomKind { version: 11, join_rule: "public" },
    RoomKind { version: 12, join_rule: "knock" },
];

/// Two of our own users, and two whose servers speak for them.
const USERS: [(&str, Home); 4] = [
    ("@bob:resident.test", Home::Ours),
    ("@carol:resident.test", Home::Ours),
    ("@dave:peer.test", Home::Theirs),
    ("@eve:third.test", Home::Theirs),
];

#[derive(Clone, Copy, PartialEq)]
enum Home {
    Ours,
    Theirs,
}

const ACTIONS: [Action; 12] = [
    Action::Knock,
    Action::Knock,
    Action::Knock,
    Action::Join,
    Action::Join,
    Action::Leave,
    Action::Invite,
    Action::Kick,
    Action::Ban,
    Action::Unban,
    Action::Read,
    Action::Read,
];

/// Whose history.
pub struct Place {
    pub user: &'static str,
    pub room: RoomKind,
}

pub struct History {
    /// Over the engine, and not over the store in memory.
    pub is_on_disk: bool,
    /// Operations in the order of their calls.
    pub by_user: Vec<(Place, Vec<Operation>)>,
    pub came_to_its_end: bool,
}

struct Scene {
    world: World,
    /// The engine, if the rooms are over it, until the end.
    on_disk: RefCell<Option<OnDisk>>,
    rooms: Vec<TestRoom>,
    time: Cell<u64>,
    active: Cell<usize>,
    /// By room and user.
    operations: RefCell<BTreeMap<(usize, usize), Vec<Operation>>>,
    /// What was last read, for the plant that shows it again.
    last_read: RefCell<BTreeMap<(usize, usize), Membership>>,
    plant: Option<Planted>,
}

#[derive(Clone, Copy, PartialEq)]
enum Planted {
    StaleRead,
    LostUpdate,
    DoneThoughNotWritten,
}

impl Planted {
    fn of(settings: &Settings) -> Option<Self> {
        let plants = [
            (&STALE_READ, Self::StaleRead),
            (&LOST_UPDATE, Self::LostUpdate),
            (&DONE_THOUGH_NOT_WRITTEN, Self::DoneThoughNotWritten),
        ];
        plants.into_iter().find(|(plant, _)| settings.has(plant)).map(|(_, planted)| planted)
    }
}

/// Lets clients act and gives back what they wrote down.
///
/// # Errors
/// The engine does not open or close.
pub async fn record(settings: &Settings, case: u64, random: &mut StdRng) -> Result<History, String> {
    let is_on_disk = case % FAULTY == FAULTY - 2;
    // Every second one over the engine, too.
    let is_faulty = case % FAULTY == FAULTY - 1 || (is_on_disk && case / FAULTY % 2 == 1);
    let on_disk = if is_on_disk { Some(OnDisk::open()?) } else { None };
    let world = on_disk.as_ref().map_or_else(World::new, |engine| World::over(engine.stores()));
    let mut rooms = Vec::new();
    for (at, kind) in ROOMS.iter().enumerate() {
        let version = RoomVersionId::try_from(kind.version.to_string()).unwrap_or(RoomVersionId::V10);
        let mut content = json!({ "join_rule": kind.join_rule });
        if kind.join_rule == "knock_restricted" {
            content["allow"] = json!([{ "type": "m.room_membership", "room_id": "!other:resident.test" }]);
        }
        rooms.push(world.room_with(version, &format!("room{at}"), vec![("m.room.join_rules", content)]).await);
    }
    match &on_disk {
        Some(engine) => engine.hold(),
        None => world.storage.hold(),
    }
    // Events of the same millisecond have no order that a fork would keep.
    world.clock.step_by(Duration::from_millis(1));
    let scene = Rc::new(Scene {
        world,
        on_disk: RefCell::new(on_disk),
        rooms,
        time: Cell::new(0),
        active: Cell::new(CLIENTS),
        operations: RefCell::default(),
        last_read: RefCell::default(),
        plant: Planted::of(settings),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = Client { scene: scene.clone(), random: StdRng::from_rng(random) };
            tokio::task::spawn_local(client.act())
        })
        .collect();
    let came_to_its_end = scene.write(random, is_faulty).await;
    if came_to_its_end {
        for client in clients {
            // A client that panics did not count itself out, so the scene did not come to its end.
            let _: Result<(), _> = client.await;
        }
    }
    scene.read_in_the_end()?;
    let mut operations = scene.operations.take();
    let places = (0..ROOMS.len()).flat_map(|room| (0..USERS.len()).map(move |user| (room, user)));
    let by_user = places
        .filter_map(|(room, user)| {
            let mut operations = operations.remove(&(room, user))?;
            operations.sort_unstable_by_key(|operation| operation.called);
            Some((Place { user: USERS[user].0, room: ROOMS[room] }, operations))
        })
        .collect();
    Ok(History { is_on_disk, by_user, came_to_its_end })
}

impl Scene {
    fn tick(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }

    fn note(&self, place: (usize, usize), operation: Operation) {
        self.operations.borrow_mut().entry(place).or_default().push(operation);
    }

    /// The disk: now and then it makes some of the commits that wait, and in some histories one fails.
    async fn write(&self, random: &mut StdRng, is_faulty: bool) -> bool {
        for _ in 0..TURNS_MAX {
            if self.active.get() == 0 {
                self.release_all();
                return true;
            }
            for _ in 0..random.random_range(1..12) {
                tokio::task::yield_now().await;
            }
            if let Some(engine) = &*self.on_disk.borrow() {
                engine.release_some(random, is_faulty);
                continue;
            }
            if is_faulty && random.random_ratio(1, 40) {
                let failures = [Failure::NotWritten, Failure::UnknownAndLost, Failure::UnknownButKept];
                self.world.storage.fail_only(1, *failures.choose(random).unwrap_or(&Failure::NotWritten));
            }
            self.world.storage.release(random.random_range(0..5));
        }
        self.release_all();
        false
    }

    fn release_all(&self) {
        match &*self.on_disk.borrow() {
            Some(engine) => engine.release_all(),
            None => self.world.storage.release_all(),
        }
    }

    /// One more read of everybody, after everything, from what a crash would leave.
    fn read_in_the_end(&self) -> Result<(), String> {
        // The engine lives as long as it is read.
        let reopened = self.on_disk.take().map(OnDisk::reopened).transpose()?;
        let left = match &reopened {
            Some((engine, _)) => World::over(engine.stores.clone()),
            None => self.world.restarted(),
        };
        for (room, test_room) in self.rooms.iter().enumerate() {
            for (user, (user_id, _)) in USERS.iter().enumerate() {
                let called = self.tick();
                let answer = Answer::Seen(membership(&left.membership(test_room, user_id)));
                let returned = Some(self.tick());
                self.note((room, user), Operation { called, returned, action: Action::Read, answer });
            }
        }
        Ok(())
    }
}

struct Client {
    scene: Rc<Scene>,
    random: StdRng,
}

impl Client {
    async fn act(mut self) {
        for _ in 0..OPERATIONS {
            self.pause().await;
            let place = (self.random.random_range(0..ROOMS.len()), self.random.random_range(0..USERS.len()));
            let home = USERS[place.1].1;
            let action = match *ACTIONS.choose(&mut self.random).unwrap_or(&Action::Read) {
                // A join of another server's user is that server's to ask for.
                Action::Join if home == Home::Theirs => Action::Knock,
                Action::Leave if home == Home::Theirs => Action::LeaveByHandshake,
                other => other,
            };
            let called = self.scene.tick();
            let answer = self.ask(place, action).await;
            let returned = (answer != Answer::Unknown).then(|| self.scene.tick());
            self.scene.note(place, Operation { called, returned, action, answer });
        }
        self.scene.active.set(self.scene.active.get() - 1);
    }

    async fn ask(&mut self, place: (usize, usize), action: Action) -> Answer {
        let is_planted = self.random.random_ratio(1, 10);
        let plant = self.scene.plant.filter(|_| is_planted);
        // A ban is always taken, so that only its loss is wrong.
        if plant == Some(Planted::LostUpdate) && action == Action::Ban {
            return Answer::Done;
        }
        let scene = self.scene.clone();
        let (room, user_id) = (&scene.rooms[place.0], USERS[place.1].0);
        let answer = match action {
            Action::Read => {
                self.pause().await;
                let seen = membership(&scene.world.membership(room, user_id));
                self.pause().await;
                let before = scene.last_read.borrow_mut().insert(place, seen);
                Answer::Seen(before.filter(|_| plant == Some(Planted::StaleRead)).unwrap_or(seen))
            }
            Action::Knock if USERS[place.1].1 == Home::Theirs => self.knock_by_handshake(room, user_id).await,
            Action::LeaveByHandshake => self.leave_by_handshake(room, user_id).await,
            Action::Knock => self.change(room, user_id, MembershipChange::Knock, user_id).await,
            Action::Join => self.change(room, user_id, MembershipChange::Join, user_id).await,
            Action::Leave => self.change(room, user_id, MembershipChange::Leave, user_id).await,
            Action::Invite => self.change(room, ALICE, MembershipChange::Invite, user_id).await,
            Action::Kick => self.change(room, ALICE, MembershipChange::Kick, user_id).await,
            Action::Ban => self.change(room, ALICE, MembershipChange::Ban, user_id).await,
            Action::Unban => self.change(room, ALICE, MembershipChange::Unban, user_id).await,
        };
        if plant == Some(Planted::DoneThoughNotWritten) && answer == Answer::Done { Answer::NotWritten } else { answer }
    }

    async fn change(&self, room: &TestRoom, sender: &str, change: MembershipChange, target: &str) -> Answer {
        answer(self.scene.world.change(room, sender, change, target).await)
    }

    async fn knock_by_handshake(&mut self, room: &TestRoom, user_id: &str) -> Answer {
        let scene = self.scene.clone();
        let template = match scene.world.prepare(room, user_id).await {
            Ok(template) => template.event,
            Err(error) => return answer::<(), _>(Err(error)),
        };
        self.pause().await;
        // No two knocks are the same event, which could be sent twice.
        let knock = room.signed_knock(&template, user_id, &format!("please, {}", scene.tick()));
        match scene.world.admit(room, knock).await {
            Err(AskError::Refused(KnockRefusal::NotAuthorized { reason })) if reason == OVERTAKEN => Answer::Overtaken,
            answered => answer(answered),
        }
    }

    async fn leave_by_handshake(&mut self, room: &TestRoom, user_id: &str) -> Answer {
        let scene = self.scene.clone();
        let mut template = match scene.world.prepare_leave(room, user_id).await {
            Ok(template) => template.event,
            Err(error) => return answer::<(), _>(Err(error)),
        };
        self.pause().await;
        put(&mut template, "content", json!({ "membership": "leave", "reason": format!("bye, {}", scene.tick()) }));
        let leave = room.signed_leave(&template, user_id);
        answer(scene.world.admit_leave(room, leave).await)
    }

    async fn pause(&mut self) {
        for _ in 0..self.random.random_range(0..10) {
            tokio::task::yield_now().await;
        }
    }
}

/// What the program reports as not written must never show; any other failure leaves open what happened.
fn answer<T, R>(answered: Result<T, AskError<R>>) -> Answer {
    match answered {
        Ok(_) => Answer::Done,
        Err(AskError::Refused(_)) => Answer::Refused,
        Err(AskError::Storage(
            CommitError::Storage(StorageError::NotWritten { .. } | StorageError::DiskFull)
            | CommitError::PredecessorMissing,
        )) => Answer::NotWritten,
        Err(_) => Answer::Unknown,
    }
}

fn membership(state: &MembershipState) -> Membership {
    match state {
        MembershipState::Join => Membership::Join,
        MembershipState::Invite => Membership::Invite,
        MembershipState::Ban => Membership::Ban,
        MembershipState::Knock => Membership::Knock,
        _ => Membership::Leave,
    }
}
