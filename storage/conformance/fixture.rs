//! Rooms made for tests: real signed events, and the commits that an actor would make of them.
//! May not: be valid only by luck; every commit fits what was committed before it, in the order the fixture made them.
//!
//! A commit that is made by the fixture and never handed to the engine leaves a hole: clone the fixture before, or go on
//! with [`RoomFixture::next_life`] from such a clone.

pub mod accounts;
mod elsewhere;
mod making;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    RoomVersionId, UserId,
    canonical_json::redact,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    clock::UnixMillis,
    pdu::{Pdu, Standing, event_builder::EventDraft},
    room_version::RoomVersion,
    signing::{Identity, SigningKey},
    state::{StateKey, StateMap, StateVersion},
    stream::TimelineOrder,
};

use crate::{
    outbox::{Delivery, OutboxEntry},
    receipts::{Receipt, ReceiptKind, ReceiptSlot, ReceiptThread},
    room::{
        ClientTransaction, Decision, DecisionAction, EventRow, MemberCounts, PendingKnock, RedactedEvent, RoomCommit,
        StateVersionRow,
    },
};
use making::{Place, counts_of};

/// The server that keeps the rooms.
pub const HERE: &str = "here.example";
/// Another server.
pub const THERE: &str = "there.example";

/// A user of [`HERE`].
pub fn local(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{HERE}")).unwrap()
}

/// A user of [`THERE`].
pub fn remote(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{THERE}")).unwrap()
}

/// A transaction id of a user's only device at the endpoint that sends messages.
pub fn transaction(user_id: &UserId, id: &str) -> ClientTransaction {
    ClientTransaction {
        user_id: user_id.to_owned(),
        device_id: "DEVICE".into(),
        endpoint: "/_matrix/client/v3/rooms/!r/send/m.room.message".to_owned(),
        transaction_id: id.into(),
    }
}

/// The same commit, whose events must reach other servers.
pub fn sent_to(mut commit: RoomCommit, destinations: &[&str]) -> RoomCommit {
    let destinations: BTreeSet<OwnedServerName> =
        destinations.iter().map(|destination| (*destination).try_into().unwrap()).collect();
    for row in &commit.events {
        let (event_id, delivery) = (row.event.event_id().to_owned(), Delivery::Transaction);
        commit.outbox.push(OutboxEntry { event_id, delivery, destinations: destinations.clone() });
    }
    commit
}

/// A public receipt about the whole room.
pub fn receipt(user_id: &UserId, event_id: &str) -> Receipt {
    let (kind, thread) = (ReceiptKind::Public, ReceiptThread::Unthreaded);
    let slot = ReceiptSlot { user_id: user_id.to_owned(), kind, thread };
    Receipt { slot, event_id: event_id.try_into().unwrap(), at: UnixMillis(1_790_000_000_002) }
}

/// A content of text fields.
pub fn content(fields: &[(&str, &str)]) -> CanonicalJsonObject {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    fields.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect()
}

/// A room as its actor would hold it, which makes the next commit. [`RoomFixture::create`] makes the first.
#[derive(Clone)]
pub struct RoomFixture {
    identity: Arc<Identity>,
    version: RoomVersion,
    room_id: OwnedRoomId,
    creator: OwnedUserId,
    now: UnixMillis,
    incarnation: u64,
    sequence: u64,
    current: StateVersion,
    delta_entries: u64,
    next_is_full_copy: bool,
    states: BTreeMap<StateVersion, StateMap>,
    next_order: TimelineOrder,
    next_backfill: TimelineOrder,
    next_arrival: u64,
    extremities: BTreeMap<OwnedEventId, u64>,
    events: BTreeMap<OwnedEventId, EventRow>,
    timeline: BTreeMap<TimelineOrder, OwnedEventId>,
    knocks: BTreeMap<OwnedUserId, PendingKnock>,
    decisions: Vec<Decision>,
    newest: Option<OwnedEventId>,
}

impl RoomFixture {
    /// A room of version 12 with a creator who joined, power levels and the join rule `knock`. Rooms with different labels
    /// are different rooms.
    pub fn create(label: &str) -> (Self, RoomCommit) {
        Self::create_in(&RoomVersionId::V12, label)
    }

    /// The same in another room version.
    pub fn create_in(version: &RoomVersionId, label: &str) -> (Self, RoomCommit) {
        Self::created_by(local("creator"), version, label)
    }

    fn created_by(creator: OwnedUserId, version: &RoomVersionId, label: &str) -> (Self, RoomCommit) {
        let version = RoomVersion::lookup(version).unwrap();
        let key = SigningKey::from_seed("fixture", &[7; 32]).unwrap();
        let identity = Arc::new(Identity::new(HERE.try_into().unwrap(), key));
        let mut fixture = Self {
            identity,
            version,
            room_id: RoomId::parse(format!("!{label}:{}", creator.server_name())).unwrap(),
            creator,
            now: UnixMillis(1_790_000_000_000),
            incarnation: 1,
            sequence: 0,
            current: StateVersion(0),
            delta_entries: 0,
            next_is_full_copy: false,
            states: BTreeMap::new(),
            next_order: TimelineOrder(1),
            next_backfill: TimelineOrder(0),
            next_arrival: 0,
            extremities: BTreeMap::new(),
            events: BTreeMap::new(),
            timeline: BTreeMap::new(),
            knocks: BTreeMap::new(),
            decisions: Vec::new(),
            newest: None,
        };
        let commit = fixture.first_commit(label);
        (fixture, commit)
    }

    /// The room.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Its version.
    pub fn version(&self) -> &RoomVersion {
        &self.version
    }

    /// Who made it.
    pub fn creator(&self) -> &UserId {
        &self.creator
    }

    /// The current state.
    pub fn state(&self) -> &StateMap {
        &self.states[&self.current]
    }

    /// The version of the current state.
    pub fn current(&self) -> StateVersion {
        self.current
    }

    /// All versions of the state there ever were.
    pub fn states(&self) -> &BTreeMap<StateVersion, StateMap> {
        &self.states
    }

    /// Entries of the deltas since the last full copy of the current version.
    pub fn delta_entries(&self) -> u64 {
        self.delta_entries
    }

    /// The forward extremities with their arrivals.
    pub fn extremities(&self) -> &BTreeMap<OwnedEventId, u64> {
        &self.extremities
    }

    /// All events, as they were committed.
    pub fn events(&self) -> &BTreeMap<OwnedEventId, EventRow> {
        &self.events
    }

    /// The events that are shown.
    pub fn timeline(&self) -> &BTreeMap<TimelineOrder, OwnedEventId> {
        &self.timeline
    }

    /// Pending knocks.
    pub fn knocks(&self) -> &BTreeMap<OwnedUserId, PendingKnock> {
        &self.knocks
    }

    /// What was decided, oldest first.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Users in each membership.
    pub fn counts(&self) -> MemberCounts {
        counts_of(self.state())
    }

    /// The life of the room's actor that makes commits now.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The id of the event that was made last.
    pub fn newest(&self) -> &EventId {
        self.newest.as_deref().unwrap()
    }

    /// From now on commits are those of a later life of the room's actor.
    pub fn next_life(&mut self) {
        self.incarnation += 1;
        self.sequence = 0;
    }

    /// The next commit brings a state version that is a full copy.
    pub fn copy_state_fully_next(&mut self) {
        self.next_is_full_copy = true;
    }

    /// A user gets a membership: by own doing for `join` and `knock`, by the creator's for others. A knock pends; any
    /// other membership ends one.
    pub fn member(&mut self, user_id: &UserId, membership: MembershipState) -> RoomCommit {
        let is_own = matches!(membership, MembershipState::Join | MembershipState::Knock);
        let sender = if is_own { user_id.to_owned() } else { self.creator.clone() };
        let content = content(&[("membership", membership.as_str())]);
        let draft = member_draft(&sender, user_id, content);
        self.make(draft, Place::Tip, |_| ())
    }

    /// A user leaves; takes the knock back if one is pending.
    pub fn leave(&mut self, user_id: &UserId) -> RoomCommit {
        let draft = member_draft(user_id, user_id, content(&[("membership", "leave")]));
        self.make(draft, Place::Tip, |_| ())
    }

    /// A user knocks and says why.
    pub fn knock(&mut self, user_id: &UserId, reason: &str) -> RoomCommit {
        self.make(knock_draft(user_id, reason), Place::Tip, |_| ())
    }

    /// A user knocks from the template that the newest event was made from: a fork that resolves to the union.
    pub fn knock_beside_newest(&mut self, user_id: &UserId, reason: &str) -> RoomCommit {
        self.make(knock_draft(user_id, reason), Place::BesideNewest, |_| ())
    }

    /// A user says something.
    pub fn message(&mut self, sender: &UserId, body: &str) -> RoomCommit {
        self.make(message_draft(sender, body), Place::Tip, |_| ())
    }

    /// A user says something without having seen the newest event: a fork.
    pub fn message_beside_newest(&mut self, sender: &UserId, body: &str) -> RoomCommit {
        self.make(message_draft(sender, body), Place::BesideNewest, |_| ())
    }

    /// A client says something under a transaction id.
    pub fn message_of_client(&mut self, transaction: &ClientTransaction, body: &str) -> RoomCommit {
        let mut commit = self.message(&transaction.user_id.clone(), body);
        for row in &mut commit.events {
            row.transaction = Some(transaction.clone());
            self.events.insert(row.event.event_id().to_owned(), row.clone());
        }
        commit.transaction = Some(transaction.clone());
        commit
    }

    /// The creator sets a piece of state.
    pub fn state_event(&mut self, kind: &str, state_key: &str, content: CanonicalJsonObject) -> RoomCommit {
        let draft = state_draft(&self.creator, kind, state_key, content);
        self.make(draft, Place::Tip, |_| ())
    }

    /// A message arrives and resolution leaves nothing for a key that had something.
    pub fn message_that_removes(&mut self, kind: &str, state_key: &str) -> RoomCommit {
        let key: StateKey = (StateEventType::from(kind), state_key.to_owned());
        let draft = message_draft(&self.creator, "resolution removes a key");
        self.make(draft, Place::Tip, |state| state.remove(&key))
    }

    /// An event that passed its own rules and not those of the current state: stored, not shown.
    pub fn soft_failed(&mut self, sender: &UserId, body: &str) -> RoomCommit {
        self.tick();
        let (prev_events, state_before) = self.parents(Place::Tip);
        let event = self.build(message_draft(sender, body), prev_events, state_before, Standing::SoftFailed);
        let row = self.row(event, None, state_before, self.current);
        let mut commit = self.empty_commit();
        self.events.insert(row.event.event_id().to_owned(), row.clone());
        commit.events.push(row);
        commit
    }

    /// An event from before everything that is shown so far.
    pub fn backfilled(&mut self, sender: &UserId, body: &str) -> RoomCommit {
        let mut commit = self.soft_failed(sender, body);
        for row in &mut commit.events {
            row.event = Arc::new(self.same_event(&row.event, Standing::Accepted));
            row.order = Some(self.next_backfill);
            self.timeline.insert(self.next_backfill, row.event.event_id().to_owned());
            self.events.insert(row.event.event_id().to_owned(), row.clone());
        }
        self.next_backfill = TimelineOrder(self.next_backfill.0 - 1);
        commit
    }

    /// Events from before everything that is shown so far, oldest first, in one commit, before which the room was but its
    /// create event and the creator's join.
    pub fn history(&mut self, sender: &UserId, bodies: &[&str]) -> RoomCommit {
        let version = StateVersion(self.states.keys().next_back().unwrap().0 + 1);
        let mut beginnings = StateMap::default();
        let keys = [(StateEventType::RoomCreate, ""), (StateEventType::RoomMember, self.creator.as_str())];
        for (kind, state_key) in keys {
            beginnings.insert(self.state().get(&kind, state_key).unwrap().clone());
        }
        let mut commit = self.empty_commit();
        let entries = beginnings.iter().map(|(key, event)| (key.clone(), Some(event.event_id().to_owned())));
        let changes = entries.collect();
        commit.state_versions.push(StateVersionRow { version, parent: None, changes, delta_entries: 0 });
        self.states.insert(version, beginnings);
        for body in bodies.iter().rev() {
            let mut newest_first = self.backfilled(sender, body).events;
            // One commit of several: only the first number counts.
            self.sequence -= 1;
            for row in &mut newest_first {
                row.state_before = version;
                self.events.insert(row.event.event_id().to_owned(), row.clone());
            }
            commit.events.splice(0..0, newest_first);
        }
        commit
    }

    /// An event as the room has it, with another standing.
    pub fn as_standing(&self, event_id: &EventId, standing: Standing) -> Arc<Pdu> {
        Arc::new(self.same_event(&self.events[event_id].event, standing))
    }

    /// An event that was not shown comes again and gets a place after all.
    pub fn accept_after_all(&mut self, event_id: &EventId) -> RoomCommit {
        self.tick();
        let event = self.as_standing(event_id, Standing::Accepted);
        self.timeline.retain(|_, shown| *shown != *event_id);
        let row = self.row(event, Some(self.next_order), self.current, self.current);
        self.timeline.insert(self.next_order, event_id.to_owned());
        self.next_order = self.next_order.next();
        self.events.insert(event_id.to_owned(), row.clone());
        let mut commit = self.empty_commit();
        commit.events.push(row);
        commit
    }

    /// The creator redacts an event.
    pub fn redact(&mut self, event_id: &EventId) -> RoomCommit {
        let draft = EventDraft {
            kind: TimelineEventType::RoomRedaction,
            state_key: None,
            sender: self.creator.clone(),
            content: CanonicalJsonObject::new(),
            redacts: Some(event_id.to_owned()),
        };
        let mut commit = self.make(draft, Place::Tip, |_| ());
        let event = &self.events[event_id].event;
        let redacted = redact(event.to_object().unwrap(), &self.version.rules().redaction, None).unwrap();
        let json = serde_json::to_string(&redacted).unwrap().into_boxed_str();
        let standing = event.standing();
        let event = Pdu::from_canonical_text(event_id.to_owned(), json, &self.version, standing).unwrap();
        let event = Arc::new(event);
        if let Some(row) = self.events.get_mut(event_id) {
            row.event = event.clone();
        }
        commit.redactions.push(RedactedEvent { event, because: self.newest().to_owned() });
        commit
    }

    /// A knock is turned away by a rule: nothing but an audit row.
    pub fn refusal(&mut self, user_id: &UserId, reason: &str) -> RoomCommit {
        self.tick();
        let decision = self.decision(user_id, DecisionAction::Refused, None, Some(reason.to_owned()), None);
        let mut commit = self.empty_commit();
        commit.decisions.push(decision);
        commit
    }
}

fn member_draft(sender: &UserId, user_id: &UserId, content: CanonicalJsonObject) -> EventDraft {
    state_draft(sender, "m.room.member", user_id.as_str(), content)
}

fn knock_draft(user_id: &UserId, reason: &str) -> EventDraft {
    member_draft(user_id, user_id, content(&[("membership", "knock"), ("reason", reason)]))
}

fn message_draft(sender: &UserId, body: &str) -> EventDraft {
    let content = content(&[("msgtype", "m.text"), ("body", body)]);
    EventDraft {
        kind: TimelineEventType::RoomMessage,
        state_key: None,
        sender: sender.to_owned(),
        content,
        redacts: None,
    }
}

fn state_draft(sender: &UserId, kind: &str, state_key: &str, content: CanonicalJsonObject) -> EventDraft {
    EventDraft {
        kind: kind.into(),
        state_key: Some(state_key.to_owned()),
        sender: sender.to_owned(),
        content,
        redacts: None,
    }
}
