//! Rooms: what one commit of a room holds, and what can be read back.
//! May not: judge an event or compute a state; the room's actor did.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedTransactionId, OwnedUserId, RoomId,
    RoomVersionId, UserId,
    events::{
        StateEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use vestibule_protocol::{
    clock::UnixMillis,
    pdu::Pdu,
    state::{StateKey, StateVersion},
    stream::{StreamPosition, TimelineOrder},
};

use crate::{Read, outbox::OutboxEntry};

/// Where the timeline of live events begins; history counts down from the place before it.
const FIRST_LIVE: TimelineOrder = TimelineOrder(1);

/// One atomic change of a room.
#[derive(Clone, Debug)]
pub struct RoomCommit {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version; must never change.
    pub room_version: RoomVersionId,
    /// Which life of the room's actor made it. Grows with each start; the writer refuses an older life once it saw a newer.
    pub incarnation: u64,
    /// 1 for the first commit of an incarnation, then one more each. The writer refuses one whose predecessor was not made.
    pub sequence: u64,
    /// Whether this commit makes the room. Conflict `RoomExists` or `NoSuchRoom` otherwise.
    pub origin: RoomOrigin,
    /// Events, oldest first. One that is stored already comes again because more is known of it (an outlier gets its place,
    /// a soft-failed one is accepted after all): its row is replaced, and it is readable from this commit on. What was
    /// redacted stays redacted.
    pub events: Vec<EventRow>,
    /// New versions of the state. Each names a stored parent, or one earlier in this list, or is full.
    pub state_versions: Vec<StateVersionRow>,
    /// How the current state changes.
    pub current: Option<CurrentState>,
    /// New forward extremities.
    pub extremities_added: Vec<ExtremityRow>,
    /// Events that are no forward extremities any more.
    pub extremities_removed: Vec<OwnedEventId>,
    /// Memberships that changed, of local and remote users. A join, an invite or a knock of a local user ends that the user
    /// forgot the room. One at a place of history ([`MembershipRow::is_history`]) changes nothing but the membership history.
    pub memberships: Vec<MembershipRow>,
    /// Pending knocks that came, changed (`Some`) or ended (`None`).
    pub knocks: Vec<(OwnedUserId, Option<PendingKnock>)>,
    /// Stored events whose content was redacted.
    pub redactions: Vec<RedactedEvent>,
    /// Audit rows.
    pub decisions: Vec<Decision>,
    /// The client's transaction id that this commit answers.
    pub transaction: Option<ClientTransaction>,
    /// Events that must reach other servers.
    pub outbox: Vec<OutboxEntry>,
    /// Out-of-band memberships of local users that came, changed (`Some`) or ended (`None`).
    pub out_of_band: Vec<(OwnedUserId, Option<OutOfBand>)>,
    /// Joins of local users through other servers that begin (`Some`) or have ended (`None`). What the user is to the room stands
    /// beside it as it was.
    pub joining: Vec<(OwnedUserId, Option<OutOfBand>)>,
}

impl RoomCommit {
    /// Servers for which it brings rows of the outbox.
    pub fn destinations(&self) -> BTreeSet<OwnedServerName> {
        self.outbox.iter().flat_map(|entry| &entry.destinations).cloned().collect()
    }

    /// Local users whose memberships it changes, in the room or out of band.
    pub fn local_users(&self) -> BTreeSet<OwnedUserId> {
        let changed = self.memberships.iter().filter(|row| row.is_local && !row.is_history());
        let members = changed.map(|row| &row.user_id);
        members.chain(self.out_of_band.iter().map(|(user_id, _)| user_id)).cloned().collect()
    }

    /// What of it only a stored room can have, so that it does not go with [`RoomOrigin::OutOfBand`]. `None`: nothing.
    pub fn needs_stored_room(&self) -> Option<&'static str> {
        // By name, so that whoever adds a field decides whether it may stand here.
        let Self {
            room_id: _,
            room_version: _,
            incarnation: _,
            sequence: _,
            origin: _,
            decisions: _,
            outbox: _,
            out_of_band: _,
            joining: _,
            events,
            state_versions,
            current,
            extremities_added,
            extremities_removed,
            memberships,
            knocks,
            redactions,
            transaction,
        } = self;
        let is_out_of_band = |row: &MembershipRow| row.is_local && row.order.is_none();
        let parts = [
            ("events", events.is_empty()),
            ("state versions", state_versions.is_empty()),
            ("a current state", current.is_none()),
            ("extremities", extremities_added.is_empty() && extremities_removed.is_empty()),
            ("memberships in a timeline or of remote users", memberships.iter().all(is_out_of_band)),
            ("pending knocks", knocks.is_empty()),
            ("redactions", redactions.is_empty()),
            ("a transaction", transaction.is_none()),
        ];
        parts.into_iter().find(|(_, is_absent)| !is_absent).map(|(part, _)| part)
    }
}

/// Whether the room is made or changed by a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomOrigin {
    /// The commit makes the room.
    Created,
    /// The room is there already.
    Existing,
    /// The room is not stored and does not come to be: the commit holds nothing but memberships of local users that are not
    /// in a timeline, out-of-band rows, joins, outbox rows and decisions; with anything else it is not written. Conflict `RoomExists`
    /// if the room is stored.
    OutOfBand,
}

/// A local user's membership in a room that this server is not in: a knock elsewhere, an invite from elsewhere, and how
/// it ended. The same of a join elsewhere that has begun.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfBand {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// What the user is to the room; in a join that has begun, what comes of it.
    pub membership: MembershipState,
    /// Whether the other side is known to have it.
    pub progress: Progress,
    /// The member event that made it so.
    pub event: Arc<Pdu>,
    /// What the user is shown of the room: stripped events as JSON texts, the own member event not among them.
    pub stripped: Vec<String>,
    /// Servers that are in the room as far as we know. The first is the one that took the knock or sent the invite, or that
    /// is asked for the join.
    pub via: Vec<OwnedServerName>,
    /// When it came to be, by our clock.
    pub since: UnixMillis,
    /// The knock of the user's that it came of, where that is known. A ban beside an invite cites the knock, not the invite.
    pub knock: Option<OwnedEventId>,
    /// Joins that the user asked for since, newest last. The room may hold one of which no answer came here.
    pub joins: Vec<OwnedEventId>,
    /// A denial or a ban that came although it ends something which has not come yet: the invite of another server.
    pub early: Option<Arc<Pdu>>,
}

impl OutOfBand {
    /// The knock that this is, or came of.
    pub fn knock_id(&self) -> Option<&EventId> {
        if self.membership == MembershipState::Knock { Some(self.event.event_id()) } else { self.knock.as_deref() }
    }
}

/// How far a handshake with another server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The event was signed and may have been sent; a restart sends the same event again. Nobody is told of it yet.
    Asking,
    /// The other side took it, or it came from there.
    Settled,
}

/// An out-of-band membership with where and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfBandRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Whose.
    pub user_id: OwnedUserId,
    /// What.
    pub out_of_band: OutOfBand,
}

/// An event with what we know of it.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// The event, with its standing.
    pub event: Arc<Pdu>,
    /// Its place in the timeline. `None`: not shown (rejected, soft-failed, outlier).
    pub order: Option<TimelineOrder>,
    /// The state before it.
    pub state_before: StateVersion,
    /// The room's resolved state after the commit that brought it.
    pub current_after: StateVersion,
    /// Who may see it, as the history visibility around it says.
    pub visibility: HistoryVisibility,
    /// When we got or made it.
    pub received_at: UnixMillis,
    /// The client transaction that made it, shown to that device alone.
    pub transaction: Option<ClientTransaction>,
}

/// A version of the state: a parent and what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateVersionRow {
    /// Its number, unique in the room.
    pub version: StateVersion,
    /// What it changes. `None`: it starts from nothing, `changes` is all of it (a full copy).
    pub parent: Option<StateVersion>,
    /// What differs from the parent.
    pub changes: Vec<(StateKey, Option<OwnedEventId>)>,
    /// Entries of the deltas since the last full copy, this one's included; 0 for a full copy.
    pub delta_entries: u64,
}

/// The current state after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentState {
    /// Its version.
    pub version: StateVersion,
    /// What differs from the current state before the commit.
    pub changes: Vec<(StateKey, Option<OwnedEventId>)>,
    /// Users in each membership afterwards.
    pub counts: MemberCounts,
}

/// How many users are in each membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Joined.
    pub join: u64,
    /// Invited.
    pub invite: u64,
    /// Asking to be let in.
    pub knock: u64,
    /// Left or kicked.
    pub leave: u64,
    /// Banned.
    pub ban: u64,
}

/// A forward extremity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtremityRow {
    /// The event.
    pub event_id: OwnedEventId,
    /// Counts up as extremities arrive in the room.
    pub arrival: u64,
}

/// A user's membership as of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub membership: MembershipState,
    /// The member event.
    pub event_id: OwnedEventId,
    /// Where it stands in the timeline, if it does.
    pub order: Option<TimelineOrder>,
    /// A user of this server: only these are indexed by user.
    pub is_local: bool,
}

impl MembershipRow {
    /// Whether it ends that a user of this server forgot the room: who is in it, or asks to be, has not forgotten it.
    pub fn ends_forgetting(&self) -> bool {
        use MembershipState::{Invite, Join, Knock};
        self.is_local && !self.is_history() && matches!(self.membership, Join | Invite | Knock)
    }

    /// Whether it came with backfilled history, so that it tells what once was and not what is.
    pub fn is_history(&self) -> bool {
        self.order.is_some_and(|order| order < FIRST_LIVE)
    }
}

/// A user's membership in one room, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMembership {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The membership.
    pub membership: MembershipState,
    /// The member event.
    pub event_id: OwnedEventId,
    /// When it came to be.
    pub position: StreamPosition,
    /// The user forgot the room after leaving.
    pub forgotten: bool,
}

/// A knock that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingKnock {
    /// The knock.
    pub event_id: OwnedEventId,
    /// The server of the user who asks.
    pub origin: OwnedServerName,
    /// What the user said.
    pub reason: Option<String>,
    /// Our stored time of receipt: `repeat_after` counts from it.
    pub since: UnixMillis,
}

/// A pending knock with where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnockRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who asks.
    pub user_id: OwnedUserId,
    /// The knock.
    pub knock: PendingKnock,
}

/// An event whose content is gone.
#[derive(Clone, Debug)]
pub struct RedactedEvent {
    /// The event as it now is, same id.
    pub event: Arc<Pdu>,
    /// The redaction that did it.
    pub because: OwnedEventId,
}

/// What was decided about a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionAction {
    /// It came in.
    Admitted,
    /// It was let in: invited or joined.
    Accepted,
    /// It was turned away by somebody inside.
    Denied,
    /// Whoever asked was banned.
    Banned,
    /// Whoever asked took it back.
    Retracted,
    /// It was never admitted; the reason is the refusal's name.
    Refused,
}

/// An audit row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When, by our clock.
    pub at: UnixMillis,
    /// Where.
    pub room_id: OwnedRoomId,
    /// Whose knock.
    pub user_id: OwnedUserId,
    /// That user's server.
    pub origin: OwnedServerName,
    /// The user who decided. `None`: a rule did.
    pub by: Option<OwnedUserId>,
    /// What.
    pub action: DecisionAction,
    /// The refusal's name, or what the deciding user said.
    pub reason: Option<String>,
    /// The event that did it, if there is one.
    pub event_id: Option<OwnedEventId>,
}

/// A client's transaction id: bound to a user, a device and an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientTransaction {
    /// Whose.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// Which endpoint: the path up to the transaction id.
    pub endpoint: String,
    /// The id.
    pub transaction_id: OwnedTransactionId,
}

/// A stored event, read back.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// The event.
    pub event: Arc<Pdu>,
    /// Its place in the timeline.
    pub order: Option<TimelineOrder>,
    /// When it became readable.
    pub position: StreamPosition,
    /// The state before it.
    pub state_before: StateVersion,
    /// The room's resolved state after the commit that brought it.
    pub current_after: StateVersion,
    /// Who may see it.
    pub visibility: HistoryVisibility,
    /// When we got or made it.
    pub received_at: UnixMillis,
    /// The redaction that emptied it.
    pub redacted_by: Option<OwnedEventId>,
    /// The client transaction that made it.
    pub transaction: Option<ClientTransaction>,
}

/// A room in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// The version of its current state.
    pub current: StateVersion,
    /// Users in each membership.
    pub counts: MemberCounts,
}

/// What an actor needs to start.
#[derive(Clone, Debug)]
pub struct RoomSnapshot {
    /// The room.
    pub row: RoomRow,
    /// Its whole current state.
    pub state: Vec<Arc<Pdu>>,
    /// The forward extremities with their arrival numbers.
    pub extremities: Vec<(ExtremityRow, StoredEvent)>,
    /// Entries of the deltas since the last full copy, of the current version.
    pub delta_entries: u64,
    /// Greater than every state version in use.
    pub next_state_version: StateVersion,
    /// After every live event of the timeline.
    pub next_order: TimelineOrder,
    /// Greater than every arrival in use.
    pub next_arrival: u64,
    /// All pending knocks.
    pub knocks: BTreeMap<OwnedUserId, PendingKnock>,
}

/// Which way to read a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From older to newer.
    Forward,
    /// From newer to older.
    Backward,
}

/// [`RoomReader::out_of_band`] or [`RoomReader::joining`].
pub type OutOfBandListing = for<'a> fn(
    &'a (dyn RoomReader + 'static),
    Option<&'a RoomId>,
    Option<(&'a RoomId, &'a UserId)>,
    usize,
) -> Read<'a, Vec<OutOfBandRow>>;

/// Reads rooms. Every method sees one consistent state of the store as of its call.
pub trait RoomReader: Send + Sync {
    /// The room, if it is stored.
    fn room<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Option<RoomRow>>;

    /// How many rooms are stored.
    fn rooms_stored(&self) -> Read<'_, u64>;

    /// Rooms in the order of their ids, after one.
    fn rooms<'a>(&'a self, after: Option<&'a RoomId>, limit: usize) -> Read<'a, Vec<RoomRow>>;

    /// What the room's actor starts from.
    fn snapshot<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Option<RoomSnapshot>>;

    /// Events of that room by id, in the order asked; `None` for those not stored in that room.
    fn events<'a>(&'a self, room_id: &'a RoomId, event_ids: &'a [OwnedEventId]) -> Read<'a, Vec<Option<StoredEvent>>>;

    /// The room that an event belongs to.
    fn room_of_event<'a>(&'a self, event_id: &'a EventId) -> Read<'a, Option<OwnedRoomId>>;

    /// The whole current state.
    fn current_state<'a>(&'a self, room_id: &'a RoomId) -> Read<'a, Vec<StoredEvent>>;

    /// The current state of one type, in the order of state keys.
    fn current_state_of_type<'a>(&'a self, room_id: &'a RoomId, kind: &'a StateEventType)
    -> Read<'a, Vec<StoredEvent>>;

    /// The event that stands for a key in the current state.
    fn current_state_event<'a>(
        &'a self,
        room_id: &'a RoomId,
        kind: &'a StateEventType,
        state_key: &'a str,
    ) -> Read<'a, Option<StoredEvent>>;

    /// A whole version of the state. `None`: no such version.
    fn state_at<'a>(
        &'a self,
        room_id: &'a RoomId,
        version: StateVersion,
    ) -> Read<'a, Option<BTreeMap<StateKey, OwnedEventId>>>;

    /// What differs between an older version and a newer one that descends from it. `None`: it does not descend from it
    /// (or only through a full copy); then compare whole states.
    fn state_changes<'a>(
        &'a self,
        room_id: &'a RoomId,
        older: StateVersion,
        newer: StateVersion,
    ) -> Read<'a, Option<BTreeMap<StateKey, Option<OwnedEventId>>>>;

    /// Events of the timeline. `Backward`: those before or at `from`, newest first; `Forward`: those after `from`, oldest
    /// first. `None` starts at that end of the timeline.
    fn timeline<'a>(
        &'a self,
        room_id: &'a RoomId,
        from: Option<TimelineOrder>,
        direction: Direction,
        limit: usize,
    ) -> Read<'a, Vec<StoredEvent>>;

    /// The newest timeline event that was readable at a position: where a sync token stands in the room's timeline.
    fn timeline_at<'a>(&'a self, room_id: &'a RoomId, position: StreamPosition) -> Read<'a, Option<StoredEvent>>;

    /// All rooms in which a local user has or had a membership.
    fn memberships_of<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Vec<UserMembership>>;

    /// A local user's membership in one room.
    fn membership<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<UserMembership>>;

    /// How a local user's membership in a room went, oldest first: what history visibility is judged by.
    fn membership_history<'a>(
        &'a self,
        user_id: &'a UserId,
        room_id: &'a RoomId,
    ) -> Read<'a, Vec<(TimelineOrder, MembershipState)>>;

    /// Pending knocks, of one room or of all, in the order of (room, user), after one of them.
    fn pending_knocks<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<KnockRow>>;

    /// Out-of-band memberships, of one room or of all, in the order of (room, user), after one of them.
    fn out_of_band<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<OutOfBandRow>>;

    /// The out-of-band membership of one user in one room.
    fn out_of_band_of<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<OutOfBand>>;

    /// Joins through other servers that have not ended, of one room or of all, in the order of (room, user), after one of them.
    /// Each as it was begun: membership `Join`, progress `Asking`.
    fn joining<'a>(
        &'a self,
        room_id: Option<&'a RoomId>,
        after: Option<(&'a RoomId, &'a UserId)>,
        limit: usize,
    ) -> Read<'a, Vec<OutOfBandRow>>;

    /// The join of one user in one room, as [`Self::joining`] has it.
    fn joining_of<'a>(&'a self, user_id: &'a UserId, room_id: &'a RoomId) -> Read<'a, Option<OutOfBand>>;

    /// Audit rows, newest first, before one. The position in each pair is what to pass on as `before`.
    fn decisions(&self, before: Option<u64>, limit: usize) -> Read<'_, Vec<(u64, Decision)>>;

    /// The event that a client transaction made, if it was made before.
    fn transaction<'a>(&'a self, transaction: &'a ClientTransaction) -> Read<'a, Option<OwnedEventId>>;
}
