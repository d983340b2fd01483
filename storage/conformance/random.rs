//! The property that sums up the suite: whatever is committed, an engine answers as the reference model does.
//! May not: draw randomness that cannot be drawn again; the seed is printed, and taken from the environment.

mod keys;
mod steps;

use proptest::{
    prelude::Rng,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use ruma::{OwnedUserId, RoomVersionId, ServerName, events::room::member::MembershipState};

use super::{
    Engine, Reopening, World, block_on,
    fixture::{
        RoomFixture,
        accounts::{alias_id, device, server_keys, token_hash, user},
        content, local, receipt, remote, sent_to, transaction,
    },
    survey::{Questions, survey},
};
use crate::{
    accounts::{AccountChange, Alias, User},
    commit::{Commit, CommitSink, NobodyListens, Stores},
    memory::MemoryStorage,
    outbox::{OutboxDone, OutboxPlace, OutboxReader},
    receipts::{ReceiptCommit, ReceiptKind, ReceiptThread},
    room::{Progress, RoomCommit},
    stream::StreamReader,
};
use keys::key_change;
use steps::{AccountStep, DEVICES, ElsewhereStep, KINDS, NAMES, RoomStep, SERVERS, Step, step};

/// Set it to the number that a failed run printed to draw the same again.
const SEED_VARIABLE: &str = "VESTIBULE_TEST_SEED";
const CASES: u32 = 24;
const STEPS_MAX: usize = 60;

/// Draws sequences of commits and puts the same questions to the engine and to the model.
pub fn random_commits_are_answered_as_by_the_model(make: impl Fn() -> Box<dyn Engine>) {
    let seed = seed();
    eprintln!("{SEED_VARIABLE}={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = proptest::collection::vec(step(), 1..STEPS_MAX);
    let outcome = runner.run(&steps, |steps| block_on(run(make(), steps)));
    if let Err(failure) = outcome {
        super::panic_with(&format!("{SEED_VARIABLE}={seed}: {failure}"));
    }
}

fn seed() -> u64 {
    let given = std::env::var(SEED_VARIABLE).ok();
    given.map_or_else(|| TestRunner::default().rng().next_u64(), |text| text.parse().expect("a seed is a number"))
}

/// The same world twice: once in the engine, once in the model.
struct Twins {
    world: World,
    model: MemoryStorage,
    rooms: Vec<Room>,
    /// Rooms that this server is not in. `None`: by now it is.
    elsewhere: Vec<Option<RoomFixture>>,
    questions: Questions,
    /// Tokens are given once, as random ones are.
    next_token: u8,
}

struct Room {
    fixture: RoomFixture,
    first_commit: RoomCommit,
    /// Later than every life so far, also the refused ones.
    lives: u64,
}

async fn run(engine: Box<dyn Engine>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut questions = Questions::default();
    questions.users.extend(NAMES.iter().flat_map(|name| [local(name), remote(name)]));
    questions.devices.extend(DEVICES.map(Into::into));
    questions.filters.extend((0..4).map(|number: u8| number.to_string()));
    questions.data_kinds.extend(KINDS.map(ToOwned::to_owned));
    questions.aliases.extend((0..4).map(|number: u8| alias_id(&number.to_string())));
    questions.servers.extend(SERVERS.map(|server| server.try_into().unwrap()));
    let world = World::open(engine).await;
    let model = MemoryStorage::new();
    let mut twins = Twins { world, model, rooms: Vec::new(), elsewhere: Vec::new(), questions, next_token: 0 };
    for step in steps {
        twins.take(step).await?;
    }
    twins.compare().await?;
    if twins.reopen().await == Reopening::Possible {
        twins.compare().await?;
    }
    Ok(())
}

impl Twins {
    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::CreateRoom { version } => self.create_room(version).await,
            Step::InRoom { room, user, is_remote, to, step } => {
                let Some(room) = room.checked_rem(self.rooms.len()) else { return Ok(()) };
                let user_id = if is_remote { remote(NAMES[user]) } else { local(NAMES[user]) };
                self.in_room(room, &user_id, to, step).await
            }
            Step::Elsewhere { room, user, step } => self.elsewhere(room, &local(NAMES[user]), step).await,
            Step::Deliver { server, row } => self.deliver(SERVERS[server].try_into().unwrap(), row).await,
            Step::Account { user, number, step } => {
                let changes = vec![self.account_change(user, number, step)];
                self.commit(Commit::Accounts(changes)).await
            }
            Step::Several(steps) => {
                let changes = steps.into_iter().map(|(user, number, step)| self.account_change(user, number, step));
                let changes = changes.collect();
                self.commit(Commit::Accounts(changes)).await
            }
            Step::Read { room, user, is_remote, slot, is_removed } => {
                let Some(room) = room.checked_rem(self.rooms.len()) else { return Ok(()) };
                let user_id = if is_remote { remote(NAMES[user]) } else { local(NAMES[user]) };
                self.read(room, &user_id, slot, is_removed).await
            }
            Step::ServerKeys { server, number } => {
                let keys = server_keys(SERVERS[server], number.into());
                self.commit(Commit::ServerKeys(Box::new(keys))).await
            }
            Step::Reopen => {
                self.reopen().await;
                self.compare().await
            }
        }
    }

    async fn commit(&mut self, commit: Commit) -> Result<(), TestCaseError> {
        let slot = self.model.reserve().unwrap();
        let in_model = self.model.enqueue(slot, commit.clone()).await;
        let in_engine = self.world.commit(commit).await;
        self.questions.positions.extend(in_model.as_ref().ok().filter(|position| position.0 % 7 == 0));
        if in_engine == in_model {
            return Ok(());
        }
        Err(TestCaseError::fail(format!("the engine said {in_engine:?}, the model {in_model:?}")))
    }

    async fn commit_room(&mut self, commit: RoomCommit) -> Result<(), TestCaseError> {
        self.commit(Commit::Room(Box::new(commit))).await
    }

    async fn create_room(&mut self, version: usize) -> Result<(), TestCaseError> {
        use ruma::RoomVersionId::{V7, V11, V12};
        let version = [V7, V11, V12][version].clone();
        let label = format!("room{}", self.rooms.len());
        let (fixture, commit) = RoomFixture::create_in(&version, &label);
        self.rooms.push(Room { fixture, first_commit: commit.clone(), lives: 1 });
        self.commit_room(commit).await
    }

    async fn elsewhere(
        &mut self,
        room: usize,
        user_id: &OwnedUserId,
        step: ElsewhereStep,
    ) -> Result<(), TestCaseError> {
        while self.elsewhere.len() <= room {
            let label = format!("elsewhere{}", self.elsewhere.len());
            self.elsewhere.push(Some(RoomFixture::elsewhere(&RoomVersionId::V11, &label)));
        }
        // A room that came here is a room like all others.
        let Some(fixture) = &mut self.elsewhere[room] else { return Ok(()) };
        let commit = match step {
            ElsewhereStep::Knock { is_settled } => {
                let progress = if is_settled { Progress::Settled } else { Progress::Asking };
                fixture.out_of_band(user_id, MembershipState::Knock, progress)
            }
            ElsewhereStep::Invite => fixture.out_of_band(user_id, MembershipState::Invite, Progress::Settled),
            ElsewhereStep::Leave => fixture.leave_out_of_band(user_id),
            ElsewhereStep::End => fixture.end_out_of_band(user_id),
            ElsewhereStep::BeginJoin => fixture.begin_join(user_id),
            ElsewhereStep::EndJoin => fixture.end_join(user_id),
            ElsewhereStep::Join => {
                let commit = fixture.import(user_id);
                let (lives, first_commit) = (fixture.incarnation(), commit.clone());
                let fixture = self.elsewhere[room].take();
                self.rooms.extend(fixture.map(|fixture| Room { fixture, first_commit, lives }));
                commit
            }
        };
        self.commit_room(commit).await
    }

    /// The peer took one of its rows and one of its EDUs, or says again that it took some that are gone.
    async fn deliver(&mut self, destination: &ServerName, row: usize) -> Result<(), TestCaseError> {
        let pending = self.model.pending(destination, None, usize::MAX).await.unwrap();
        let edus = self.model.edus(destination, None, usize::MAX).await.unwrap();
        let taken = row.checked_rem(pending.len()).map(|row| pending[row].place);
        let taken_edu = row.checked_rem(edus.len()).map(|edu| edus[edu].place);
        let done = |taken: Option<OutboxPlace>| OutboxDone {
            destination: destination.to_owned(),
            places: vec![taken.unwrap_or_default(), OutboxPlace::default()],
        };
        self.commit(Commit::OutboxDone(done(taken))).await?;
        self.commit(Commit::EdusDone(done(taken_edu))).await
    }

    async fn read(
        &mut self,
        room: usize,
        user_id: &OwnedUserId,
        slot: usize,
        is_removed: bool,
    ) -> Result<(), TestCaseError> {
        let fixture = &self.rooms[room].fixture;
        let (room_id, newest) = (fixture.room_id().to_owned(), fixture.newest());
        let root = ReceiptThread::Root(fixture.events().keys().next().unwrap().clone());
        let mut receipt = receipt(user_id, newest.as_str());
        receipt.slot.kind = [ReceiptKind::Public, ReceiptKind::Private][slot % 2];
        receipt.slot.thread = [ReceiptThread::Unthreaded, ReceiptThread::Main, root][slot / 2].clone();
        let (mut removed, mut set) = (Vec::new(), vec![receipt]);
        if is_removed {
            removed.extend(set.drain(..).map(|receipt| receipt.slot));
        }
        self.commit(Commit::Receipts(ReceiptCommit { room_id, removed, set })).await
    }

    async fn in_room(
        &mut self,
        room: usize,
        user_id: &OwnedUserId,
        to: usize,
        step: RoomStep,
    ) -> Result<(), TestCaseError> {
        let to = [&[][..], &SERVERS[..1], &SERVERS[1..], &SERVERS][to];
        let number = room;
        let room = &mut self.rooms[room];
        let fixture = &mut room.fixture;
        let creator = local("creator");
        let commit = match step {
            RoomStep::Message => fixture.message(user_id, "hello"),
            RoomStep::MessageBeside => fixture.message_beside_newest(user_id, "hello"),
            RoomStep::MessageOfClient { number: id } => {
                // An id is used once in a room, as clients do.
                let sent = transaction(&creator, &format!("{number}.{id}.{}", fixture.events().len()));
                fixture.message_of_client(&sent, "hello")
            }
            RoomStep::Member { membership } => {
                use MembershipState::{Ban, Invite, Join, Knock, Leave};
                fixture.member(user_id, [Ban, Invite, Join, Knock, Leave][membership].clone())
            }
            RoomStep::Leave => fixture.leave(user_id),
            RoomStep::Knock => fixture.knock(user_id, "hello"),
            RoomStep::KnockBeside => fixture.knock_beside_newest(user_id, "hello"),
            RoomStep::State { number } => {
                fixture.state_event("org.example", &number.to_string(), content(&[("a", "b")]))
            }
            RoomStep::Remove { number } => fixture.message_that_removes("org.example", &number.to_string()),
            RoomStep::FullCopy => {
                fixture.copy_state_fully_next();
                return Ok(());
            }
            RoomStep::Redact { event } => {
                let ids: Vec<_> = fixture.timeline().values().cloned().collect();
                fixture.redact(&ids[event % ids.len()])
            }
            RoomStep::SoftFailed => fixture.soft_failed(user_id, "hello"),
            RoomStep::Backfilled => fixture.backfilled(user_id, "hello"),
            RoomStep::History => fixture.history(user_id, &["earlier", "later"]),
            RoomStep::AcceptAfterAll { event } => {
                let hidden = fixture.events().values().filter(|row| row.order.is_none());
                let ids: Vec<_> = hidden.map(|row| row.event.event_id().to_owned()).collect();
                let Some(chosen) = event.checked_rem(ids.len()) else { return Ok(()) };
                fixture.accept_after_all(&ids[chosen])
            }
            RoomStep::Refusal => fixture.refusal(user_id, "join_rule_forbids"),
            RoomStep::NewLife => {
                room.lives += 1;
                fixture.next_life();
                fixture.message(&creator, "a new life")
            }
            RoomStep::Gap => {
                // A life whose first commit is lost; the next life follows it.
                let first = room.after_one_life().message(&creator, "lost");
                let second = RoomCommit { sequence: first.sequence + 1, ..first };
                room.start_anew();
                second
            }
            RoomStep::OldLife => {
                let mut old = fixture.clone();
                room.lives += 1;
                fixture.next_life();
                let made = fixture.message(&creator, "a new life");
                let refused = old.message(&creator, "an old life");
                self.commit_room(made).await?;
                refused
            }
            RoomStep::CreateAgain => {
                let again = RoomCommit { incarnation: room.lives + 1, ..room.first_commit.clone() };
                room.lives += 1;
                room.start_anew();
                again
            }
        };
        self.commit_room(sent_to(commit, to)).await
    }

    fn account_change(&mut self, user: usize, number: u8, step: AccountStep) -> AccountChange {
        let name = NAMES[user];
        let user_id = local(name);
        let device_id = DEVICES[usize::from(number) % DEVICES.len()];
        let field = KINDS[usize::from(number) % KINDS.len()].to_owned();
        let rooms = &self.rooms;
        let room_id = usize::from(number).checked_rem(rooms.len()).map(|room| rooms[room].fixture.room_id().to_owned());
        let room_id = room_id.unwrap_or_else(|| "!none:here.example".try_into().unwrap());
        match step {
            AccountStep::CreateUser => AccountChange::CreateUser(user_of(name, number)),
            AccountStep::UpdateUser => AccountChange::UpdateUser(user_of(name, number)),
            AccountStep::SetField => AccountChange::SetProfileField { user_id, field, value: Some(number.to_string()) },
            AccountStep::RemoveField => AccountChange::SetProfileField { user_id, field, value: None },
            AccountStep::PutDevice => {
                self.next_token += 1;
                self.questions.tokens.insert(token_hash(self.next_token));
                AccountChange::PutDevice(device(&user_id, device_id, self.next_token))
            }
            AccountStep::DeleteDevice => AccountChange::DeleteDevice { user_id, device_id: device_id.into() },
            AccountStep::DeleteDevices => {
                let except = (number < 2).then(|| device_id.into());
                AccountChange::DeleteDevices { user_id, except }
            }
            AccountStep::PutFilter => {
                AccountChange::PutFilter { user_id, filter_id: number.to_string(), filter: format!("{{\"{name}\":1}}") }
            }
            AccountStep::PutData | AccountStep::PutRoomData => {
                let room_id = matches!(step, AccountStep::PutRoomData).then_some(room_id);
                AccountChange::PutAccountData { user_id, room_id, kind: field, content: number.to_string() }
            }
            AccountStep::CreateAlias => {
                AccountChange::CreateAlias(Alias { alias: alias_id(&number.to_string()), room_id, creator: user_id })
            }
            AccountStep::DeleteAlias => AccountChange::DeleteAlias(alias_id(&number.to_string())),
            AccountStep::Publish if !rooms.is_empty() => AccountChange::SetPublished { room_id, is_published: true },
            AccountStep::Publish | AccountStep::Hide => AccountChange::SetPublished { room_id, is_published: false },
            // Only who was in a room can forget it.
            AccountStep::Forget if self.was_member(&user_id, &room_id) => {
                AccountChange::SetForgotten { user_id, room_id, is_forgotten: true }
            }
            AccountStep::Forget | AccountStep::Remember => {
                AccountChange::SetForgotten { user_id, room_id, is_forgotten: false }
            }
            AccountStep::Keys(step) => AccountChange::Keys(key_change(user, number, step, self.model.position())),
        }
    }

    fn was_member(&self, user_id: &OwnedUserId, room_id: &ruma::RoomId) -> bool {
        let room = self.rooms.iter().find(|room| room.fixture.room_id() == room_id);
        room.is_some_and(|room| room.fixture.state().member(user_id).is_some())
    }

    /// Both start again. The model's lives end with it, as those of a process do.
    async fn reopen(&mut self) -> Reopening {
        let reopening = self.world.reopen().await;
        if reopening == Reopening::Possible {
            self.model = self.model.restart(std::sync::Arc::new(NobodyListens));
            for room in &mut self.rooms {
                room.start_anew();
            }
            self.elsewhere.iter_mut().flatten().for_each(RoomFixture::next_life);
        }
        reopening
    }

    async fn compare(&mut self) -> Result<(), TestCaseError> {
        for room in &self.rooms {
            self.questions.add_room(&room.fixture);
        }
        for fixture in self.elsewhere.iter().flatten() {
            self.questions.add_room(fixture);
        }
        let model: Stores = self.model.stores();
        let expected = survey(&model, &self.questions).await;
        let found = survey(self.world.stores(), &self.questions).await;
        let mut differences = String::new();
        for (question, answer) in &expected {
            let other = found.get(question).map_or("nothing", String::as_str);
            if other != answer {
                differences.push_str(&format!("\n{question}\n  the engine: {other}\n  the model: {answer}"));
            }
        }
        let position = self.world.stores().stream.position();
        if position != model.stream.position() {
            differences.push_str(&format!("\nposition {position:?} instead of {:?}", model.stream.position()));
        }
        if differences.is_empty() { Ok(()) } else { Err(TestCaseError::fail(differences)) }
    }
}

impl Room {
    /// The room in a life of its own that nobody will build on.
    fn after_one_life(&mut self) -> RoomFixture {
        self.lives += 1;
        self.fixture.next_life();
        self.fixture.clone()
    }

    /// What was refused stays behind: the next commit begins a life.
    fn start_anew(&mut self) {
        self.lives += 1;
        self.fixture.next_life();
        while self.fixture.incarnation() < self.lives {
            self.fixture.next_life();
        }
    }
}

fn user_of(name: &str, number: u8) -> User {
    User { is_admin: number == 1, is_deactivated: number == 2, ..user(name) }
}
