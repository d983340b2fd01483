//! Makes a room of another server ours too: what `send_join` answered, and the join that asked for it, in one commit.
//! May not: believe the other server's word about a rule; every event was verified before, and is judged here.
//!
//! The judging takes long in a large room, so it runs in the CPU pool (`JudgedJoin::judge`) on what was sent alone; the
//! turn only takes the result.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId, events::StateEventType, events::room::member::MembershipState};
use vestibule_protocol::{
    auth::{authorize_by_shape, authorize_by_state},
    membership::ImportRefusal,
    pdu::{Pdu, Standing},
    room_graph::{CurrentAfter, RoomGraph, StateNode, StateRow},
    room_version::RoomVersion,
    state::{StateChange, StateMap, StateVersion},
};
use vestibule_storage::room::{MembershipRow, OutOfBand, PendingKnock};

use super::{
    Lookups, Need, Room, RoomChange, RoomMessage, Turn,
    apply::{Placed, Source},
    leave_out_of_band::is_owed,
    memory::Residency,
    outliers::judge_outlier,
};
use crate::gauges::KnockEvent;

/// What a server answered to our `send_join`, signatures and hashes verified, nothing judged.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    /// The join that we sent, as it came back.
    pub join: Arc<Pdu>,
    /// The state before it.
    pub state: Vec<Arc<Pdu>>,
    /// What authorizes the state, and what authorizes that.
    pub auth_chain: Vec<Arc<Pdu>>,
}

/// A judged answer.
#[derive(Debug)]
pub struct JudgedJoin {
    version: RoomVersion,
    join: Arc<Pdu>,
    before: StateNode,
    /// Every event but the join, with its standing.
    outliers: Vec<Arc<Pdu>>,
}

impl JudgedJoin {
    /// Judges every event by the events that authorize it, and the join by the state before it. State that fails is left out;
    /// without a create event there is no room. `seed` keys the hash of states; it is the rooms' own.
    ///
    /// # Errors
    /// [`ImportRefusal`]: nothing of the answer is worth keeping.
    pub(crate) fn judge(answer: JoinAnswer, version: &RoomVersion, seed: u64) -> Result<Self, ImportRefusal> {
        let JoinAnswer { join, state, auth_chain } = answer;
        let room_id = join.room_id().to_owned();
        let of_state: BTreeSet<OwnedEventId> = state.iter().map(|event| event.event_id().to_owned()).collect();
        let mut unjudged: BTreeMap<OwnedEventId, Arc<Pdu>> = BTreeMap::new();
        for event in auth_chain.into_iter().chain(state) {
            if event.room_id() == room_id && event.event_id() != join.event_id() {
                unjudged.insert(event.event_id().to_owned(), event);
            }
        }
        let create = unjudged.values().find(|event| is_create(event)).cloned().ok_or(ImportRefusal::NoCreateEvent)?;
        let judged = judge_in_order(unjudged, version, &create);
        let before: StateMap = judged
            .values()
            .filter(|event| event.standing() == Standing::Accepted && of_state.contains(event.event_id()))
            .cloned()
            .collect();
        if before.create().is_none_or(|standing| *standing != create) {
            return Err(ImportRefusal::NoCreateEvent);
        }
        let not_authorized = |refusal: vestibule_protocol::auth::NotAuthorized| ImportRefusal::JoinNotAuthorized {
            reason: refusal.reason,
        };
        authorize_by_shape(version, &join, |id| judged.get(id).cloned()).map_err(not_authorized)?;
        authorize_by_state(version, &join, &before).map_err(not_authorized)?;
        let before = StateNode::from_storage(StateVersion::default(), 0, &before, version, seed);
        Ok(Self { version: version.clone(), join, before, outliers: judged.into_values().collect() })
    }
}

fn is_create(event: &Pdu) -> bool {
    event.state_entry().is_some_and(|(kind, key)| kind == StateEventType::RoomCreate && key.is_empty())
}

/// Judges events after those that authorize them. What names an event that is not among them is rejected; so is what names
/// itself in a circle, which no hash allows.
fn judge_in_order(
    mut unjudged: BTreeMap<OwnedEventId, Arc<Pdu>>,
    version: &RoomVersion,
    create: &Arc<Pdu>,
) -> BTreeMap<OwnedEventId, Arc<Pdu>> {
    let mut judged: BTreeMap<OwnedEventId, Arc<Pdu>> = BTreeMap::new();
    let mut stack: Vec<OwnedEventId> = Vec::new();
    // The create event first: where the room id is its hash, everything stands on it and nothing names it.
    let mut next_root = Some(create.event_id().to_owned());
    while let Some(first) = next_root.take().or_else(|| unjudged.keys().next().cloned()) {
        stack.push(first);
        while let Some(next) = stack.last().cloned() {
            let Some(event) = unjudged.get(&next).cloned() else {
                stack.pop();
                continue;
            };
            let waits_for = event
                .auth_events()
                .iter()
                .find(|id| unjudged.contains_key(*id) && !judged.contains_key(*id) && !stack.contains(id));
            if let Some(waits_for) = waits_for {
                stack.push(waits_for.clone());
                continue;
            }
            stack.pop();
            unjudged.remove(&next);
            let find = |id: &EventId| judged.get(id).cloned();
            let known_create = judged.get(create.event_id());
            let verdict = judge_outlier(&event, version, known_create, find);
            judged.insert(next, verdict);
        }
    }
    judged
}

/// Takes a judged answer.
#[derive(Debug)]
pub struct ImportJoin {
    /// What the CPU pool made of it.
    pub judged: JudgedJoin,
}

impl RoomMessage for ImportJoin {
    type Reply = ();
    type Refusal = ImportRefusal;
    const KIND: &'static str = "import_join";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let JudgedJoin { version, join, before: _, outliers } = &self.judged;
        let is_of_another_version = room.residency() == Residency::Stored && room.version() != version;
        if join.room_id() != room.room_id() || is_of_another_version {
            return Turn::Refuse(ImportRefusal::OtherRoom, Box::default());
        }
        if room.is_lived_in() {
            let target = join.state_key().and_then(|user| UserId::parse(user).ok());
            let is_joined = target.is_some_and(|user| room.state().membership(&user) == MembershipState::Join);
            // Somebody of ours was faster: then the join is one event more of a room that we are in.
            return if is_joined { Turn::Answer(()) } else { Turn::Refuse(ImportRefusal::LivedIn, Box::default()) };
        }
        if room.has_left(join) {
            return Turn::Refuse(ImportRefusal::Left, Box::default());
        }
        if room.residency() == Residency::Stored {
            let ids = outliers.iter().map(|event| event.event_id());
            let read: BTreeSet<OwnedEventId> =
                ids.filter(|id| lookups.event(id).is_none() && !lookups.is_absent(id)).map(ToOwned::to_owned).collect();
            if !read.is_empty() {
                return Turn::Need(Need::Events { cited: BTreeSet::new(), read });
            }
        }
        // What was shown when we were in the room before keeps its place.
        let has_place = |event: &Pdu| lookups.event(event.event_id()).is_some_and(|stored| stored.order.is_some());
        match room.import(&self.judged, has_place) {
            Some(change) => Turn::Commit(Box::new(change), ()),
            None => Turn::Refuse(ImportRefusal::NoCreateEvent, Box::default()),
        }
    }
}

impl Room {
    /// Whether the user has gone back on a join that was begun here, by declining what it follows or by leaving.
    fn has_left(&self, join: &Pdu) -> bool {
        let user_id = join.sender();
        let Some(standing) = self.out_of_band.get(user_id).filter(|_| !self.joining.contains(user_id)) else {
            return false;
        };
        let is_out = matches!(standing.membership, MembershipState::Leave | MembershipState::Ban);
        let declines = join.auth_events().iter().any(|cited| is_owed(standing, cited));
        is_out && (declines || standing.event.cites_as_auth(join.event_id()))
    }

    fn import(&mut self, judged: &JudgedJoin, has_place: impl Fn(&Pdu) -> bool) -> Option<RoomChange> {
        let JudgedJoin { version, join, before, outliers } = judged;
        let mut change = RoomChange::default();
        let old_state = self.state().clone();
        for event_id in self.graph.extremity_ids() {
            change.push_extremity_removed(event_id.clone());
        }
        let state_version = self.graph.next_state_version();
        let node = Arc::new(before.clone().with_version(state_version));
        let whole = StateMap::default().changes_to(node.state());
        change.push_state_rows(vec![StateRow {
            version: state_version,
            parent: None,
            changes: whole,
            delta_entries: 0,
        }]);
        let next_version = StateVersion(state_version.0.saturating_add(1));
        let version = version.clone();
        let next_arrival = self.graph.next_arrival();
        let graph = RoomGraph::resume(version, self.graph.seed(), node.clone(), Vec::new(), next_version, next_arrival);
        self.replace_graph(graph);
        for event in outliers.iter().filter(|event| !has_place(event)) {
            self.keep_outlier(event.clone(), &mut change);
        }
        self.take_over_memberships(&old_state, judged, &mut change);
        // The room has no forward extremities yet, so nothing must be resolved.
        let CurrentAfter::Known(placement) = self.graph.place(join, &node) else { return None };
        self.counts = super::apply::count_members(self.state());
        change.start_current(old_state.changes_to(node.state()), node.version(), self.counts);
        self.apply(
            Placed { source: Source::Received, event: join.clone(), before: node, placement },
            None,
            &mut change,
        );
        Some(change)
    }

    /// What the state says of local users and of knocks, where it is not what we had.
    fn take_over_memberships(&mut self, old: &StateMap, judged: &JudgedJoin, change: &mut RoomChange) {
        let joining = judged.join.state_key();
        let brought: BTreeSet<&EventId> = judged.outliers.iter().map(|event| event.event_id()).collect();
        let differing: Vec<StateChange> = old.changes_to(self.state());
        let now = self.now();
        for StateChange { key, event } in differing {
            let (kind, user_id) = key;
            let Some(user_id) = UserId::parse(&user_id).ok().filter(|_| kind == StateEventType::RoomMember) else {
                continue;
            };
            let membership = event.as_ref().and_then(|event| event.membership()).unwrap_or(MembershipState::Leave);
            self.take_over_knock(&user_id, &membership, event.as_deref(), now, change);
            let is_local = user_id.server_name() == self.context.identity.server_name();
            let Some(event) = event.filter(|_| is_local && Some(user_id.as_str()) != joining) else { continue };
            // The answer may be old. What a knock or an invite stands upon does not end it; nor does an answer without that,
            // for whatever ends a knock brings the knock, and all that it stands upon, as what authorizes it.
            let is_newer = |standing: &OutOfBand| {
                let stands_upon = standing.event.auth_events();
                standing.event.cites_as_auth(event.event_id())
                    || stands_upon.iter().any(|cited| !brought.contains(&**cited))
            };
            if self.out_of_band.get(&user_id).is_some_and(is_newer) {
                continue;
            }
            self.end_out_of_band(&user_id, change);
            if membership == MembershipState::Join {
                self.end_join(&user_id, change);
            }
            change.push_membership(MembershipRow {
                user_id,
                membership,
                event_id: event.event_id().to_owned(),
                order: None,
                is_local,
            });
        }
        // What was kept when the last of ours left, the room now says itself.
        let said = self.out_of_band.iter().filter(|(user_id, standing)| {
            self.state().member(user_id).is_some_and(|member| member.event_id() == standing.event.event_id())
        });
        let said: Vec<OwnedUserId> = said.map(|(user_id, _)| user_id.clone()).collect();
        for user_id in said {
            self.end_out_of_band(&user_id, change);
        }
    }

    fn take_over_knock(
        &mut self,
        user_id: &OwnedUserId,
        membership: &MembershipState,
        event: Option<&Pdu>,
        now: vestibule_protocol::clock::UnixMillis,
        change: &mut RoomChange,
    ) {
        match event.filter(|_| *membership == MembershipState::Knock) {
            Some(event) => {
                if self.pending.since(user_id).is_none() {
                    change.push_happened(KnockEvent::Found);
                }
                self.pending.insert(user_id.clone(), now);
                let knock = PendingKnock {
                    event_id: event.event_id().to_owned(),
                    origin: user_id.server_name().to_owned(),
                    reason: event.reason(),
                    since: now,
                };
                change.push_knock(user_id.clone(), Some(knock));
            }
            None if self.pending.since(user_id).is_some() => {
                self.pending.remove(user_id);
                change.push_knock(user_id.clone(), None);
                change.push_happened(KnockEvent::Lost);
            }
            None => {}
        }
    }
}
