//! What a room's actor keeps in memory: the graph, and what is derived from its current state so that turns need no scan.
//! May not: wait for anything.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, events::StateEventType,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;
use vestibule_protocol::{
    clock::UnixMillis,
    membership::knock::PendingKnocks,
    pdu::Pdu,
    room_graph::{PathCounts, RoomGraph},
    room_version::RoomVersion,
    server_acl::ServerAcl,
    state::{StateMap, stripped},
    stream::TimelineOrder,
};
use vestibule_storage::room::{ClientTransaction, MemberCounts, OutOfBand, RoomOrigin};

use super::{
    RoomContext,
    check_door::Door,
    gather::{Gathered, GatheringPlace, Lookups},
};
use crate::gauges::{PathTotals, RoomFacts};

/// Client transactions that a room remembers until storage surely answers for them. Ours: far more than commits in flight.
const TRANSACTIONS_MAX: usize = 8_192;

/// What a stranger is shown of the room, prepared once per change of the state it is made from.
#[derive(Debug)]
pub struct ShownState {
    /// Whole PDUs, for servers.
    pub knock_room_state: Vec<Box<RawValue>>,
    /// The same events with four keys each.
    pub stripped: Vec<Box<RawValue>>,
}

/// Where a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residency {
    /// Storage has it.
    Stored,
    /// It is not stored; local users have out-of-band memberships in it.
    OutOfBand,
    /// It was not stored; the commit of this turn makes it so.
    Arriving,
}

/// Which way a user went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// Joined.
    In,
    /// Left in whatever way.
    Out,
}

/// One room in memory. Messages get it for the length of a turn.
pub struct Room {
    pub(super) room_id: OwnedRoomId,
    pub(super) context: Arc<RoomContext>,
    pub(super) graph: RoomGraph,
    pub(super) pending: PendingKnocks,
    acl: Arc<ServerAcl>,
    door: Option<Arc<Door>>,
    pub(super) counts: MemberCounts,
    /// Joined users by their server. None of ours: our copy is dead.
    joined_by_server: BTreeMap<OwnedServerName, u64>,
    /// What local users are to the room while this server is not in it.
    pub(super) out_of_band: BTreeMap<OwnedUserId, OutOfBand>,
    /// Local users who are about to join through another server.
    pub(super) joining: BTreeSet<OwnedUserId>,
    /// Knocks elsewhere that stood before one that is being sent.
    pub(super) knock_before: BTreeMap<OwnedUserId, OutOfBand>,
    /// Whether storage has the room. If not, only out-of-band memberships are kept of it.
    residency: Residency,
    pub(super) next_order: TimelineOrder,
    /// The place of the oldest event of the timeline; history that is fetched goes before it.
    pub(super) oldest_order: TimelineOrder,
    shown: Option<Arc<ShownState>>,
    transactions: BTreeMap<ClientTransaction, OwnedEventId>,
    transaction_order: VecDeque<ClientTransaction>,
    paths_reported: PathCounts,
}

impl Room {
    pub(super) fn new(
        room_id: OwnedRoomId,
        context: Arc<RoomContext>,
        graph: RoomGraph,
        next_order: TimelineOrder,
    ) -> Self {
        let mut room = Self {
            room_id,
            context,
            graph,
            pending: PendingKnocks::default(),
            acl: Arc::default(),
            door: None,
            counts: MemberCounts::default(),
            joined_by_server: BTreeMap::new(),
            out_of_band: BTreeMap::new(),
            joining: BTreeSet::new(),
            knock_before: BTreeMap::new(),
            residency: Residency::Stored,
            oldest_order: next_order,
            next_order,
            shown: None,
            transactions: BTreeMap::new(),
            transaction_order: VecDeque::new(),
            paths_reported: PathCounts::default(),
        };
        room.compile_acl();
        room
    }

    /// A room that is not stored: nothing of it is known but what local users are to it.
    pub(super) fn out_of_band(
        room_id: OwnedRoomId,
        context: Arc<RoomContext>,
        version: RoomVersion,
        memberships: BTreeMap<OwnedUserId, OutOfBand>,
    ) -> Self {
        let graph = RoomGraph::empty(version, context.core_seed);
        let mut room = Self::new(room_id, context, graph, TimelineOrder(1));
        room.residency = Residency::OutOfBand;
        room.out_of_band = memberships;
        room
    }

    /// Whether storage has the room.
    pub(crate) fn residency(&self) -> Residency {
        self.residency
    }

    /// What the next commit of this room is to storage.
    pub(super) fn origin_of_commit(&mut self) -> RoomOrigin {
        match self.residency {
            Residency::Stored => RoomOrigin::Existing,
            Residency::OutOfBand => RoomOrigin::OutOfBand,
            Residency::Arriving => {
                self.residency = Residency::Stored;
                RoomOrigin::Created
            }
        }
    }

    /// Starts anew on a graph that came from another server. What is derived from the state is counted anew; the outbox and
    /// the out-of-band memberships stay.
    pub(super) fn replace_graph(&mut self, graph: RoomGraph) {
        self.graph = graph;
        if self.residency == Residency::OutOfBand {
            self.residency = Residency::Arriving;
        }
        self.shown = None;
        self.paths_reported = PathCounts::default();
        self.compile_acl();
        self.count_joined();
    }

    /// Counts joined users by server, from the whole state: when a room is loaded or replaced.
    pub(super) fn count_joined(&mut self) {
        self.joined_by_server.clear();
        for user_id in self.state().users_with(&MembershipState::Join) {
            self.joined(user_id.server_name(), Coming::In);
        }
    }

    /// One user of a server came or went.
    pub(super) fn joined(&mut self, server: &ServerName, coming: Coming) {
        let count = self.joined_by_server.entry(server.to_owned()).or_insert(0);
        *count = match coming {
            Coming::In => count.saturating_add(1),
            Coming::Out => count.saturating_sub(1),
        };
        if *count == 0 {
            self.joined_by_server.remove(server);
        }
    }

    /// Whether anybody of a server is in the room.
    pub(super) fn has_joined_users_of(&self, server: &ServerName) -> bool {
        self.joined_by_server.contains_key(server)
    }

    /// The servers with joined users.
    pub(super) fn joined_servers(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.joined_by_server.keys()
    }

    /// The room.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Its version.
    pub fn version(&self) -> &RoomVersion {
        self.graph.version()
    }

    /// The resolved current state.
    pub fn state(&self) -> &StateMap {
        self.graph.current().state()
    }

    /// Whether the room's ACL lets a server take part.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.acl.allows(server)
    }

    /// Whether somebody of this server is in the room.
    pub fn is_lived_in(&self) -> bool {
        self.joined_by_server.contains_key(self.context.identity.server_name())
    }

    /// The room's door as memory has it.
    pub(super) fn door_now(&mut self) -> Arc<Door> {
        let door = Door::of(self.graph.version(), self.is_lived_in(), &self.acl, self.door.as_ref());
        self.door = Some(Arc::clone(&door));
        door
    }

    /// What everybody may read at the room's door. `None` for a room that is not stored: of it there is nothing to say.
    pub(crate) fn door(&mut self) -> Option<Arc<Door>> {
        (self.residency != Residency::OutOfBand).then(|| self.door_now())
    }

    /// Whether others are in the room and nobody of ours: then what we hold of it may be old, and they decide.
    pub(super) fn is_lived_in_elsewhere(&self) -> bool {
        !self.is_lived_in() && !self.joined_by_server.is_empty()
    }

    /// Our wall clock.
    pub(super) fn now(&self) -> UnixMillis {
        self.context.clock.now()
    }

    /// What a stranger is shown.
    pub(super) fn shown(&mut self) -> Arc<ShownState> {
        if let Some(shown) = &self.shown {
            return shown.clone();
        }
        let events = stripped::shown_to_strangers(self.state());
        let shown = Arc::new(ShownState {
            knock_room_state: events.iter().filter_map(|event| stripped::full(event)).collect(),
            stripped: events.iter().filter_map(|event| stripped::strip(event)).collect(),
        });
        self.shown = Some(shown.clone());
        shown
    }

    pub(super) fn state_changed(&mut self, kind: &StateEventType) {
        if *kind == StateEventType::RoomServerAcl {
            self.compile_acl();
        }
        if stripped::STRIPPED_TYPES.contains(kind) {
            self.shown = None;
        }
    }

    fn compile_acl(&mut self) {
        let acl = self.state().get(&StateEventType::RoomServerAcl, "");
        self.acl = Arc::new(acl.map_or_else(ServerAcl::absent, |event| ServerAcl::parse(event.content())));
    }

    pub(super) fn remember_transaction(&mut self, transaction: ClientTransaction, event_id: OwnedEventId) {
        if self.transactions.insert(transaction.clone(), event_id).is_none() {
            self.transaction_order.push_back(transaction);
        }
        while self.transaction_order.len() > TRANSACTIONS_MAX {
            if let Some(oldest) = self.transaction_order.pop_front() {
                self.transactions.remove(&oldest);
            }
        }
    }

    pub(super) fn event_of_transaction(&self, transaction: &ClientTransaction) -> Option<&OwnedEventId> {
        self.transactions.get(transaction)
    }

    /// An accepted event that memory holds: recent, or part of the current state.
    pub(super) fn event_in_memory(&self, event_id: &EventId, wanted_by: &Pdu) -> Option<Arc<Pdu>> {
        if let Some(event) = self.graph.recent_event(event_id) {
            return Some(event.clone());
        }
        // What an event is authorized by stands in few places of the state; no need to search all of it.
        let state = self.state();
        let places = [
            state.create(),
            state.get(&StateEventType::RoomPowerLevels, ""),
            state.get(&StateEventType::RoomJoinRules, ""),
            state.member(wanted_by.sender()),
        ];
        places.into_iter().flatten().find(|event| event.event_id() == event_id).cloned()
    }

    /// What the state says, for the stats.
    pub(crate) fn facts(&self) -> RoomFacts {
        RoomFacts {
            room_version: self.version().id().clone(),
            join_rule: self.state().join_rule().map(|rule| rule.to_string()),
            members: self.counts,
            pending_knocks: u64::try_from(self.pending.len()).unwrap_or(u64::MAX),
            forward_extremities: u64::try_from(self.graph.extremity_count()).unwrap_or(u64::MAX),
        }
    }

    /// Which paths decided current states since this was last asked.
    pub(super) fn take_path_totals(&mut self) -> PathTotals {
        let counts = self.graph.path_counts();
        let before = std::mem::replace(&mut self.paths_reported, counts);
        PathTotals {
            linear: counts.linear.saturating_sub(before.linear),
            short: counts.short.saturating_sub(before.short),
            full: counts.full.saturating_sub(before.full),
        }
    }

    pub(super) fn gathering_place(&self) -> GatheringPlace {
        GatheringPlace {
            room_id: self.room_id.clone(),
            version: self.version().clone(),
            current: self.graph.current().clone(),
            recent: self.graph.recent_events().cloned().collect(),
        }
    }

    /// Takes what was gathered outside the turn.
    pub(super) fn take(&mut self, gathered: Gathered, lookups: &mut Lookups) {
        match gathered {
            Gathered::Events { found, absent } => {
                for (stored, state) in found {
                    if let Some((version, state)) = state {
                        let node = self.graph.node_from_storage(version, 0, &state);
                        self.graph.remember(stored.event.clone(), node);
                    }
                    lookups.insert(stored);
                }
                lookups.insert_absent(absent);
            }
            Gathered::Resolved { after, state } => {
                self.graph.supply(after, &state);
            }
        }
    }
}
