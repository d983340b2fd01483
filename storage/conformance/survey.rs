//! Everything that can be asked of an engine, asked at once: two engines with the same content answer the same.
//! May not: compare what the traits leave open (the order of unordered lists, numbers that only page, spare counters).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId, UserId,
    events::StateEventType,
};
use vestibule_protocol::{
    state::StateVersion,
    stream::{StreamPosition, TimelineOrder},
};

use super::fixture::RoomFixture;
use crate::{
    accounts::TokenHash,
    commit::Stores,
    device_keys::DeviceKeyReader,
    outbox::OutboxReader,
    room::{ClientTransaction, Direction, OutOfBand, OutOfBandRow, RoomReader, StoredEvent},
};

/// More than any test makes of anything.
const ALL: usize = 10_000;
/// After all that was ever committed.
const END: StreamPosition = StreamPosition(u64::MAX);

/// Question → answer, both as text, so that a difference is readable.
pub type Answers = BTreeMap<String, String>;

/// What is asked about.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// Rooms, with the state versions in each.
    pub rooms: BTreeMap<OwnedRoomId, BTreeSet<StateVersion>>,
    /// Events; each is asked of every room.
    pub events: BTreeSet<OwnedEventId>,
    /// Users.
    pub users: BTreeSet<OwnedUserId>,
    /// Devices; each is asked of every user.
    pub devices: BTreeSet<OwnedDeviceId>,
    /// Hashes of tokens.
    pub tokens: BTreeSet<TokenHash>,
    /// Filter ids; each is asked of every user.
    pub filters: BTreeSet<String>,
    /// Types of account data; each is asked of every user and room.
    pub data_kinds: BTreeSet<String>,
    /// Aliases.
    pub aliases: BTreeSet<OwnedRoomAliasId>,
    /// Transactions.
    pub transactions: BTreeSet<ClientTransaction>,
    /// Servers.
    pub servers: BTreeSet<OwnedServerName>,
    /// Positions of the past.
    pub positions: BTreeSet<StreamPosition>,
}

impl Questions {
    /// What there is to ask about some rooms.
    pub fn of_rooms<'a>(fixtures: impl IntoIterator<Item = &'a RoomFixture>) -> Self {
        let mut questions = Self::default();
        for fixture in fixtures {
            questions.add_room(fixture);
        }
        questions
    }

    /// Adds what there is to ask about a room as it is now.
    pub fn add_room(&mut self, fixture: &RoomFixture) {
        self.rooms.insert(fixture.room_id().to_owned(), fixture.states().keys().copied().collect());
        for (event_id, row) in fixture.events() {
            self.events.insert(event_id.clone());
            self.users.insert(row.event.sender().to_owned());
            self.transactions.extend(row.transaction.clone());
        }
        let members = fixture.states().values().flat_map(|state| state.iter());
        let members = members.filter(|((kind, _), _)| *kind == StateEventType::RoomMember);
        self.users.extend(members.filter_map(|((_, user_id), _)| OwnedUserId::try_from(user_id.as_str()).ok()));
    }
}

/// Puts all questions to an engine.
pub async fn survey(stores: &Stores, questions: &Questions) -> Answers {
    let mut answers = Answers::new();
    ask_of_rooms(stores, questions, &mut answers).await;
    for room_id in questions.rooms.keys() {
        ask_of_room(stores, room_id, questions, &mut answers).await;
    }
    for user_id in &questions.users {
        ask_of_user(stores, user_id, questions, &mut answers).await;
    }
    ask_of_accounts(stores, questions, &mut answers).await;
    ask_for_changed_lists(&*stores.device_keys, questions, &mut answers).await;
    ask_of_outbox(&*stores.outbox, &mut answers).await;
    answers
}

/// A stored event as text: all of it that an engine must give back.
pub fn event_text(stored: &StoredEvent) -> String {
    let StoredEvent { event, order, position, state_before, current_after, .. } = stored;
    let StoredEvent { visibility, received_at, redacted_by, transaction, .. } = stored;
    let (event_id, json, standing) = (event.event_id(), event.json(), event.standing());
    format!(
        "{event_id} {standing:?} {order:?} {position:?} before {state_before:?} after {current_after:?} {visibility:?} \
         {received_at:?} redacted by {redacted_by:?} of {transaction:?} {json}"
    )
}

/// Stored events as text, in the order of their ids.
pub fn sorted_event_texts(stored: &[StoredEvent]) -> Vec<String> {
    let mut texts: Vec<_> = stored.iter().map(event_text).collect();
    texts.sort();
    texts
}

/// An out-of-band membership as text: all of it that an engine must give back.
pub fn out_of_band_text(row: &OutOfBand) -> String {
    let OutOfBand { room_version, membership, progress, event, stripped, via, since, knock, joins, early } = row;
    let (event_id, json, standing) = (event.event_id(), event.json(), event.standing());
    format!(
        "{room_version} {membership} {progress:?} {event_id} {standing:?} {json} {stripped:?} {via:?} {since:?} {knock:?} {joins:?} {early:?}"
    )
}

fn out_of_band_texts(rows: &[OutOfBandRow]) -> Vec<String> {
    let text = |row: &OutOfBandRow| format!("{} {} {}", row.room_id, row.user_id, out_of_band_text(&row.out_of_band));
    rows.iter().map(text).collect()
}

fn event_texts(stored: &[StoredEvent]) -> Vec<String> {
    stored.iter().map(event_text).collect()
}

fn put(answers: &mut Answers, question: String, answer: impl Debug) {
    answers.insert(question, format!("{answer:#?}"));
}

async fn ask_of_rooms(stores: &Stores, questions: &Questions, answers: &mut Answers) {
    let rooms = &stores.rooms;
    put(answers, "rooms stored".to_owned(), rooms.rooms_stored().await.unwrap());
    put(answers, "rooms".to_owned(), rooms.rooms(None, ALL).await.unwrap());
    for room_id in questions.rooms.keys() {
        put(answers, format!("2 rooms after {room_id}"), rooms.rooms(Some(room_id), 2).await.unwrap());
    }
    for event_id in &questions.events {
        put(answers, format!("room of {event_id}"), rooms.room_of_event(event_id).await.unwrap());
    }
    let knocks = rooms.pending_knocks(None, None, ALL).await.unwrap();
    for row in &knocks {
        let after = Some((&*row.room_id, &*row.user_id));
        let question = format!("3 knocks after {} in {}", row.user_id, row.room_id);
        put(answers, question, rooms.pending_knocks(None, after, 3).await.unwrap());
    }
    put(answers, "knocks".to_owned(), knocks);
    let out_of_band = rooms.out_of_band(None, None, ALL).await.unwrap();
    for row in &out_of_band {
        let after = Some((&*row.room_id, &*row.user_id));
        let question = format!("3 out-of-band rows after {} in {}", row.user_id, row.room_id);
        put(answers, question, out_of_band_texts(&rooms.out_of_band(None, after, 3).await.unwrap()));
    }
    put(answers, "out-of-band rows".to_owned(), out_of_band_texts(&out_of_band));
    let joining = rooms.joining(None, None, ALL).await.unwrap();
    for row in &joining {
        let after = Some((&*row.room_id, &*row.user_id));
        let question = format!("3 joins after {} in {}", row.user_id, row.room_id);
        put(answers, question, out_of_band_texts(&rooms.joining(None, after, 3).await.unwrap()));
    }
    put(answers, "joins".to_owned(), out_of_band_texts(&joining));
    let decisions: Vec<_> = rooms.decisions(None, ALL).await.unwrap();
    let decisions: Vec<_> = decisions.into_iter().map(|(_, decision)| decision).collect();
    put(answers, "decisions".to_owned(), decisions);
    for transaction in &questions.transactions {
        put(answers, format!("{transaction:?}"), rooms.transaction(transaction).await.unwrap());
    }
    for server in &questions.servers {
        put(answers, format!("keys of {server}"), stores.server_keys.lookup(server).await.unwrap());
    }
}

async fn ask_of_outbox(outbox: &dyn OutboxReader, answers: &mut Answers) {
    let destinations = outbox.destinations(None, ALL).await.unwrap();
    for destination in &destinations {
        let next = outbox.destinations(Some(destination), 1).await.unwrap();
        put(answers, format!("destination after {destination}"), next);
        let pending = outbox.pending(destination, None, ALL).await.unwrap();
        for row in &pending {
            let page = outbox.pending(destination, Some(row.place), 2).await.unwrap();
            put(answers, format!("2 rows for {destination} after {:?}", row.place), page);
        }
        put(answers, format!("rows for {destination}"), pending);
        let edus = outbox.edus(destination, None, ALL).await.unwrap();
        for edu in &edus {
            let page = outbox.edus(destination, Some(edu.place), 2).await.unwrap();
            put(answers, format!("2 EDUs for {destination} after {:?}", edu.place), page);
        }
        put(answers, format!("EDUs for {destination}"), edus);
    }
    put(answers, "destinations".to_owned(), destinations);
}

async fn ask_of_room(stores: &Stores, room_id: &OwnedRoomId, questions: &Questions, answers: &mut Answers) {
    let rooms = &stores.rooms;
    let about = |question: &str| format!("{room_id}: {question}");
    put(answers, about("row"), rooms.room(room_id).await.unwrap());
    ask_for_snapshot(&**rooms, room_id, answers).await;

    let ids: Vec<_> = questions.events.iter().cloned().collect();
    let events = rooms.events(room_id, &ids).await.unwrap();
    let events: Vec<_> = events.iter().map(|stored| stored.as_ref().map(event_text)).collect();
    put(answers, about("events"), events);

    let current = rooms.current_state(room_id).await.unwrap();
    for key in current.iter().filter_map(|stored| stored.event.state_entry()) {
        let stored = rooms.current_state_event(room_id, &key.0, &key.1).await.unwrap();
        put(answers, about(&format!("current {key:?}")), stored.as_ref().map(event_text));
        let of_type = rooms.current_state_of_type(room_id, &key.0).await.unwrap();
        put(answers, about(&format!("current state of type {}", key.0)), event_texts(&of_type));
    }
    put(answers, about("current state"), sorted_event_texts(&current));

    let versions: Vec<StateVersion> = questions.rooms[room_id].iter().copied().collect();
    for newer in &versions {
        put(answers, about(&format!("{newer:?}")), rooms.state_at(room_id, *newer).await.unwrap());
        for older in &versions {
            let changes = rooms.state_changes(room_id, *older, *newer).await.unwrap();
            put(answers, about(&format!("from {older:?} to {newer:?}")), changes);
        }
    }

    let whole = rooms.timeline(room_id, None, Direction::Forward, ALL).await.unwrap();
    put(answers, about("timeline forward"), event_texts(&whole));
    let whole_backward = rooms.timeline(room_id, None, Direction::Backward, ALL).await.unwrap();
    put(answers, about("timeline backward"), event_texts(&whole_backward));
    for stored in &whole {
        let from: Option<TimelineOrder> = stored.order;
        for direction in [Direction::Forward, Direction::Backward] {
            let page = rooms.timeline(room_id, from, direction, 3).await.unwrap();
            put(answers, about(&format!("timeline {direction:?} from {from:?}")), event_texts(&page));
        }
    }
    for position in &questions.positions {
        let newest = rooms.timeline_at(room_id, *position).await.unwrap();
        put(answers, about(&format!("timeline at {position:?}")), newest.as_ref().map(event_text));
    }
    put(answers, about("knocks"), rooms.pending_knocks(Some(room_id), None, ALL).await.unwrap());
    let out_of_band = rooms.out_of_band(Some(room_id), None, ALL).await.unwrap();
    put(answers, about("out-of-band rows"), out_of_band_texts(&out_of_band));
    let mut aliases = stores.accounts.aliases_of(room_id).await.unwrap();
    aliases.sort_by(|left, right| left.alias.cmp(&right.alias));
    put(answers, about("aliases"), aliases);
    put(answers, about("is published"), stores.accounts.is_published(room_id).await.unwrap());
    for since in questions.positions.iter().copied().chain([StreamPosition::START]) {
        for limit in [2, ALL] {
            let receipts = stores.receipts.receipts_since(&[(room_id.clone(), since)], limit).await.unwrap();
            put(answers, about(&format!("{limit} receipts since {since:?}")), receipts);
        }
    }
}

async fn ask_for_snapshot(rooms: &dyn RoomReader, room_id: &OwnedRoomId, answers: &mut Answers) {
    let snapshot = rooms.snapshot(room_id).await.unwrap();
    let Some(snapshot) = snapshot else {
        put(answers, format!("{room_id}: snapshot"), None::<()>);
        return;
    };
    let mut state: Vec<_> =
        snapshot.state.iter().map(|event| format!("{:?} {}", event.standing(), event.json())).collect();
    state.sort();
    let mut extremities: Vec<_> =
        snapshot.extremities.iter().map(|(row, stored)| format!("{row:?} {}", event_text(stored))).collect();
    extremities.sort();
    put(
        answers,
        format!("{room_id}: snapshot"),
        (snapshot.row, state, extremities, snapshot.delta_entries, snapshot.knocks),
    );
}

async fn ask_of_user(stores: &Stores, user_id: &OwnedUserId, questions: &Questions, answers: &mut Answers) {
    let about = |question: &str| format!("{user_id}: {question}");
    let mut memberships = stores.rooms.memberships_of(user_id).await.unwrap();
    memberships.sort_by(|left, right| left.room_id.cmp(&right.room_id));
    put(answers, about("memberships"), memberships);
    for room_id in questions.rooms.keys() {
        let membership = stores.rooms.membership(user_id, room_id).await.unwrap();
        put(answers, about(&format!("membership in {room_id}")), membership);
        let history = stores.rooms.membership_history(user_id, room_id).await.unwrap();
        put(answers, about(&format!("membership history in {room_id}")), history);
        let out_of_band = stores.rooms.out_of_band_of(user_id, room_id).await.unwrap();
        put(answers, about(&format!("out of band in {room_id}")), out_of_band.as_ref().map(out_of_band_text));
        let receipts = stores.receipts.receipts_of(room_id, user_id).await.unwrap();
        put(answers, about(&format!("receipts in {room_id}")), receipts);
    }
    ask_for_keys(&*stores.device_keys, user_id, answers).await;
    let accounts = &stores.accounts;
    put(answers, about("user"), accounts.user(user_id).await.unwrap());
    put(answers, about("2 users after"), accounts.users(Some(user_id), 2).await.unwrap());
    for device_id in &questions.devices {
        let device = accounts.device(user_id, device_id).await.unwrap();
        put(answers, about(&format!("device {device_id}")), device);
        ask_of_device(stores, (user_id, device_id), questions, answers).await;
    }
    let mut devices = accounts.devices(user_id).await.unwrap();
    devices.sort_by(|left, right| left.device_id.cmp(&right.device_id));
    put(answers, about("devices"), devices);
    for filter_id in &questions.filters {
        let filter = accounts.filter(user_id, filter_id).await.unwrap();
        put(answers, about(&format!("filter {filter_id}")), filter);
    }
    let places = questions.rooms.keys().map(|room_id| Some(&**room_id)).chain([None]);
    for room_id in places {
        for kind in &questions.data_kinds {
            let row = accounts.account_data(user_id, room_id, kind).await.unwrap();
            put(answers, about(&format!("account data {kind} in {room_id:?}")), row);
        }
    }
    for since in questions.positions.iter().copied().chain([StreamPosition::START]) {
        let mut rows = accounts.account_data_since(user_id, since).await.unwrap();
        rows.sort_by(|left, right| (&left.room_id, &left.kind).cmp(&(&right.room_id, &right.kind)));
        put(answers, about(&format!("account data since {since:?}")), rows);
    }
}

async fn ask_of_device(
    stores: &Stores,
    (user_id, device_id): (&UserId, &DeviceId),
    questions: &Questions,
    answers: &mut Answers,
) {
    let about = |question: &str| format!("{user_id} {device_id}: {question}");
    put(answers, about("one-time keys"), stores.device_keys.one_time_keys(user_id, device_id).await.unwrap());
    let mut fallback_keys = stores.device_keys.fallback_keys(user_id, device_id).await.unwrap();
    fallback_keys.sort_by(|left, right| left.key.cmp(&right.key));
    put(answers, about("fallback keys"), fallback_keys);
    put(answers, about("messages that wait"), stores.inboxes.waiting(user_id, device_id).await.unwrap());
    for position in questions.positions.iter().copied().chain([StreamPosition::START]) {
        for (after, up_to, limit) in [(position, END, ALL), (StreamPosition::START, position, ALL), (position, END, 1)]
        {
            let messages = stores.inboxes.messages(user_id, device_id, after, up_to, limit).await.unwrap();
            put(answers, about(&format!("{limit} messages between {after:?} and {up_to:?}")), messages);
        }
    }
}

async fn ask_for_keys(keys: &dyn DeviceKeyReader, user_id: &UserId, answers: &mut Answers) {
    let about = |question: &str| format!("{user_id}: {question}");
    put(answers, about("device keys"), keys.device_keys(user_id).await.unwrap());
    put(answers, about("cross-signing keys"), keys.cross_signing_keys(user_id).await.unwrap());
    let mut signatures = keys.signatures(user_id).await.unwrap();
    signatures.sort();
    put(answers, about("signatures"), signatures);
    put(answers, about("stream id of the list"), keys.list_stream_id(user_id).await.unwrap());
    put(answers, about("remote keys"), keys.remote_keys(user_id).await.unwrap());
}

async fn ask_for_changed_lists(keys: &dyn DeviceKeyReader, questions: &Questions, answers: &mut Answers) {
    for position in questions.positions.iter().copied().chain([StreamPosition::START]) {
        for (after, up_to) in [(position, END), (StreamPosition::START, position)] {
            let lists = keys.changed_lists(after, up_to).await.unwrap();
            put(answers, format!("lists changed between {after:?} and {up_to:?}"), lists);
        }
    }
}

async fn ask_of_accounts(stores: &Stores, questions: &Questions, answers: &mut Answers) {
    let accounts = &stores.accounts;
    put(answers, "users".to_owned(), accounts.users(None, ALL).await.unwrap());
    for token_hash in &questions.tokens {
        let device = accounts.device_by_token(token_hash).await.unwrap();
        put(answers, format!("device of token {}", token_hash[0]), device);
    }
    for alias in &questions.aliases {
        put(answers, format!("alias {alias}"), accounts.alias(alias).await.unwrap());
    }
    put(answers, "published".to_owned(), accounts.published(None, ALL).await.unwrap());
    for room_id in questions.rooms.keys() {
        put(answers, format!("2 published after {room_id}"), accounts.published(Some(room_id), 2).await.unwrap());
    }
}
