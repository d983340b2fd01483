//! Whole valid rooms for tests: real events, really signed, in every room version that we know.
//! May not: be part of the program. It exists under `cfg(test)` and the feature `testing`, and panics when misused.
//!
//! ```text
//! let room = RoomFixture::knockable(RoomVersionId::V10).join(BOB).ban(EVE).build();
//! ```
//! A [`RoomFixture`] admits events as a room's actor does: state before → rules, three times → place → resolve → append. It
//! keeps what a store would keep, so that a graph can be thrown away and resumed.

#![expect(clippy::expect_used, clippy::panic, reason = "a fixture that cannot be built must stop its test")]

#[cfg(test)]
pub(crate) mod any_json;
mod event_spec;
mod room_draft;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    ServerName, UserId, events::room::member::MembershipState, signatures::PublicKeyMap,
};
use serde_json::{Value, json, value::to_raw_value};
use sha2::{Digest, Sha256};

pub use self::{event_spec::EventSpec, room_draft::RoomDraft};
use crate::{
    auth::{NotAuthorized, authorize_by_shape, authorize_by_state, selection},
    clock::UnixMillis,
    pdu::{Pdu, Standing, checks::event_id_of, event_builder::GraphPlace},
    room_graph::{Appended, CurrentAfter, Extremity, RoomGraph, StateBefore, StateNode, StateRow},
    room_version::RoomVersion,
    signing::{Identity, SigningKey},
    state::{
        StateMap, StateVersion,
        resolution::{AuthEvents, resolve},
    },
};

/// The creator of every fixture room, at power level 100 (infinite in version 12).
pub const ALICE: &str = "@alice:resident.test";
/// A user of a peer.
pub const BOB: &str = "@bob:peer.test";
/// A user of another peer.
pub const CAROL: &str = "@carol:third.test";
/// A user whom tests like to ban.
pub const EVE: &str = "@eve:evil.test";
/// The key of core hashes in fixture rooms.
pub const SEED: u64 = 7;
/// When fixture rooms are created; each event is one second later.
pub const EPOCH: UnixMillis = UnixMillis(1_700_000_000_000);

/// The identity of any server: its key is made from its name, so it is the same in every test.
pub fn identity(server_name: &ServerName) -> Identity {
    let seed: [u8; 32] = Sha256::digest(server_name.as_str()).into();
    let key = SigningKey::from_seed("fixture", &seed).expect("`fixture` is a word");
    Identity::new(server_name.to_owned(), key)
}

/// The public keys of servers, in the form that signatures are verified with.
pub fn public_keys<'a>(server_names: impl IntoIterator<Item = &'a ServerName>) -> PublicKeyMap {
    let keys_of = |server_name: &ServerName| {
        let identity = identity(server_name);
        let key = identity.key();
        (server_name.to_string(), BTreeMap::from([(key.key_id().to_string(), key.public_key_base64())]))
    };
    server_names.into_iter().map(keys_of).collect()
}

/// A user id from text.
pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(name).expect("a fixture's user id parses")
}

/// A room version by its id.
pub fn version(id: &RoomVersionId) -> RoomVersion {
    RoomVersion::lookup(id).unwrap_or_else(|| panic!("room version {id} is not known"))
}

/// JSON as canonical JSON.
pub fn canonical(value: Value) -> CanonicalJsonObject {
    match CanonicalJsonValue::try_from(value).expect("a fixture's JSON is canonical") {
        CanonicalJsonValue::Object(object) => object,
        other => panic!("expected an object, not {other:?}"),
    }
}

/// Why a fixture's room did not take an event: which of the three checks, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It cites events that were never admitted.
    UnknownPrevEvents,
    /// Against its auth events.
    ByAuthEvents(NotAuthorized),
    /// Against the state before it.
    ByStateBefore(NotAuthorized),
    /// Against the current state.
    ByCurrentState(NotAuthorized),
}

/// A room with its graph, its events, and what a store would have kept.
pub struct RoomFixture {
    version: RoomVersion,
    room_id: Option<OwnedRoomId>,
    pub(crate) graph: RoomGraph,
    events: BTreeMap<OwnedEventId, Arc<Pdu>>,
    known: AuthEvents,
    before: BTreeMap<OwnedEventId, StateVersion>,
    rows: BTreeMap<StateVersion, StateRow>,
    arrivals: BTreeMap<OwnedEventId, u64>,
    now: UnixMillis,
}

impl RoomFixture {
    /// A room of that version with the join rule `knock`.
    pub fn knockable(version_id: RoomVersionId) -> RoomDraft {
        Self::with_join_rule(version_id, Some("knock"))
    }

    /// A room of that version with any join rule, or without a join rules event.
    pub fn with_join_rule(version_id: RoomVersionId, rule: Option<&str>) -> RoomDraft {
        let version = version(&version_id);
        let mut create_content = canonical(json!({ "room_version": version_id.to_string() }));
        if version.create_names_creator() {
            create_content.insert("creator".to_owned(), CanonicalJsonValue::String(ALICE.to_owned()));
        }
        RoomDraft {
            version,
            create_content,
            join_rule: rule.map(ToOwned::to_owned),
            levels: Vec::new(),
            steps: Vec::new(),
            localpart: "fixture".to_owned(),
        }
    }

    fn before_create(version: RoomVersion, localpart: &str) -> Self {
        let room_id = RoomId::parse(format!("!{localpart}:resident.test")).expect("a fixture's room id parses");
        Self {
            room_id: (!version.room_id_is_create_hash()).then_some(room_id),
            graph: RoomGraph::empty(version.clone(), SEED),
            version,
            events: BTreeMap::new(),
            known: AuthEvents::default(),
            before: BTreeMap::new(),
            rows: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            now: EPOCH,
        }
    }

    /// The room's version.
    pub fn version(&self) -> &RoomVersion {
        &self.version
    }

    /// The room's id.
    pub fn room_id(&self) -> &RoomId {
        self.room_id.as_deref().expect("the room has its create event")
    }

    /// The graph.
    pub fn graph(&self) -> &RoomGraph {
        &self.graph
    }

    /// The current state.
    pub fn state(&self) -> &StateMap {
        self.graph.current().state()
    }

    /// The membership of a user in the current state.
    pub fn membership(&self, user_id: &str) -> MembershipState {
        self.state().membership(&user(user_id))
    }

    /// All admitted events.
    pub fn events(&self) -> &BTreeMap<OwnedEventId, Arc<Pdu>> {
        &self.events
    }

    /// All admitted events, as state resolution wants them.
    pub fn known(&self) -> &AuthEvents {
        &self.known
    }

    /// The rows of states that were to be stored.
    pub fn rows(&self) -> &BTreeMap<StateVersion, StateRow> {
        &self.rows
    }

    /// What a new event would cite.
    pub fn cite(&self) -> Vec<OwnedEventId> {
        self.graph.cite(&[]).0
    }

    /// The fixture's clock: when the next event is sent.
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Sets the fixture's clock.
    pub fn set_now(&mut self, now: UnixMillis) {
        self.now = now;
    }

    /// The public keys of all servers that sent anything.
    pub fn keys(&self) -> PublicKeyMap {
        let servers: BTreeSet<&ServerName> = self.events.values().map(|event| event.sender_server()).collect();
        public_keys(servers)
    }

    /// Makes and admits an event.
    ///
    /// # Panics
    /// When the room does not take it.
    pub fn append(&mut self, spec: EventSpec) -> Arc<Pdu> {
        let event = self.make(spec);
        if let Err(refusal) = self.admit(event.clone()) {
            panic!("{event:?} was not admitted: {refusal:?}");
        }
        event
    }

    /// Makes and signs an event in its place in the graph, without judging it.
    pub fn make(&mut self, spec: EventSpec) -> Arc<Pdu> {
        let prev_events = spec.prev_events.clone().unwrap_or_else(|| self.cite());
        let before = self.state_before(&prev_events).unwrap_or_else(|| panic!("unknown prev_events"));
        self.make_upon(EventSpec { prev_events: Some(prev_events), ..spec }, before.state())
    }

    /// Makes and signs an event whose auth events come from a given state, without judging it.
    pub fn make_upon(&mut self, spec: EventSpec, state: &StateMap) -> Arc<Pdu> {
        let EventSpec { draft, prev_events, auth_events, origin_server_ts, room_id, cosigners } = spec;
        let prev_events = prev_events.unwrap_or_else(|| self.cite());
        let auth_events = auth_events.unwrap_or_else(|| {
            let content = to_raw_value(&draft.content).expect("canonical JSON is JSON");
            let state_key = draft.state_key.as_deref();
            selection::select_auth_events(&self.version, &draft.kind, &draft.sender, state_key, &content, state)
                .map(|selected| selection::ids(&selected))
                .unwrap_or_default()
        });
        let depth_of = |id: &OwnedEventId| self.events.get(id).map_or(0, |event| event.depth());
        let place = GraphPlace {
            room_id: room_id.or_else(|| self.room_id.clone()),
            depth: prev_events.iter().map(depth_of).max().unwrap_or(0).saturating_add(1),
            prev_events,
            auth_events,
            origin_server_ts: origin_server_ts.unwrap_or(self.now),
        };
        self.now = self.now.plus(Duration::from_secs(1));
        let server = draft.sender.server_name().to_owned();
        let event = draft.build(&place, &self.version, &identity(&server)).expect("a fixture's event can be built");
        if cosigners.is_empty() {
            return Arc::new(event);
        }
        let mut object = event.to_object().expect("an event is an object");
        for cosigner in &cosigners {
            let server_name = <&ServerName>::try_from(cosigner.as_str()).expect("a fixture's server name parses");
            identity(server_name).hash_and_sign(&mut object, self.version.rules()).expect("an event can be signed");
        }
        Arc::new(pdu_from(&object, &self.version))
    }

    /// The state before an event that cites these; `None` when some were never admitted.
    pub fn state_before(&mut self, prev_events: &[OwnedEventId]) -> Option<Arc<StateNode>> {
        loop {
            match self.graph.state_before(prev_events) {
                StateBefore::Known(node) => return Some(node),
                StateBefore::NotInMemory(event_ids) => {
                    for event_id in event_ids {
                        let event = self.events.get(&event_id)?.clone();
                        let before = self.stored_node(*self.before.get(&event_id)?);
                        self.graph.remember(event, before);
                    }
                }
                StateBefore::Unresolved(unresolved) => {
                    let state = resolve(&self.version, &unresolved.states, &self.known)
                        .unwrap_or_else(|failed| panic!("{failed}"));
                    return Some(self.graph.supply(unresolved.after, &state));
                }
            }
        }
    }

    /// Judges an event as a room's actor does and, if it passes, appends it.
    ///
    /// # Errors
    /// [`NotAdmitted`]; the room is as before.
    pub fn admit(&mut self, event: Arc<Pdu>) -> Result<Appended, NotAdmitted> {
        let before = self.state_before(event.prev_events()).ok_or(NotAdmitted::UnknownPrevEvents)?;
        self.admit_upon(event, &before)
    }

    /// The same for an event that cites events which never came, upon the state that somebody claims there.
    ///
    /// # Errors
    /// [`NotAdmitted`]; the room is as before.
    pub fn admit_across(&mut self, event: Arc<Pdu>, claimed: StateMap) -> Result<Appended, NotAdmitted> {
        let before = match self.graph.state_across(event.prev_events(), claimed) {
            StateBefore::Known(node) => node,
            StateBefore::NotInMemory(_) | StateBefore::Unresolved(_) => return Err(NotAdmitted::UnknownPrevEvents),
        };
        self.admit_upon(event, &before)
    }

    fn admit_upon(&mut self, event: Arc<Pdu>, before: &Arc<StateNode>) -> Result<Appended, NotAdmitted> {
        self.authorize(&event, before)?;
        let placement = match self.graph.place(&event, before) {
            CurrentAfter::Known(placement) => placement,
            CurrentAfter::Unresolved(unresolved) => {
                let mut known = self.known.clone();
                known.insert(event.clone());
                let state =
                    resolve(&self.version, &unresolved.states, &known).unwrap_or_else(|failed| panic!("{failed}"));
                self.graph.supply(unresolved.after, &state);
                match self.graph.place(&event, before) {
                    CurrentAfter::Known(placement) => placement,
                    CurrentAfter::Unresolved(_) => panic!("the graph forgot what it was given"),
                }
            }
        };
        let appended = self.graph.append(event.clone(), before, placement);
        self.store(&appended.rows);
        for event_id in &appended.no_longer_extremities {
            assert!(self.arrivals.remove(event_id).is_some(), "{event_id} was no extremity");
        }
        if let Some(arrival) = appended.arrival {
            self.arrivals.insert(event.event_id().to_owned(), arrival);
        }
        self.before.insert(event.event_id().to_owned(), appended.before);
        self.known.insert(event.clone());
        self.events.insert(event.event_id().to_owned(), event);
        Ok(appended)
    }

    /// Keeps an event that is in the graph and not in the room.
    pub fn set_aside(&mut self, event: &Arc<Pdu>, standing: Standing) {
        let before = self.state_before(event.prev_events()).unwrap_or_else(|| panic!("unknown prev_events"));
        let event = Arc::new(event.to_standing(standing));
        let rows = self.graph.set_aside(event.clone(), &before);
        self.store(&rows);
        self.before.insert(event.event_id().to_owned(), before.version());
        self.known.insert(event.clone());
        self.events.insert(event.event_id().to_owned(), event);
    }

    fn store(&mut self, rows: &[StateRow]) {
        for row in rows {
            assert!(
                row.parent.is_none_or(|parent| self.rows.contains_key(&parent)),
                "{:?} is stored before its parent {:?}",
                row.version,
                row.parent
            );
            let replaced = self.rows.insert(row.version, row.clone());
            assert!(replaced.is_none(), "{:?} is stored twice", row.version);
        }
    }

    fn authorize(&self, event: &Pdu, before: &StateNode) -> Result<(), NotAdmitted> {
        let version = &self.version;
        let fetch = |event_id: &EventId| self.events.get(event_id).cloned();
        authorize_by_shape(version, event, fetch).map_err(NotAdmitted::ByAuthEvents)?;
        let mut auth_state: StateMap = event.auth_events().iter().filter_map(|id| fetch(id)).collect();
        if version.room_id_is_create_hash()
            && let Some(create) = self.state().create()
        {
            auth_state.insert(create.clone());
        }
        authorize_by_state(version, event, &auth_state).map_err(NotAdmitted::ByAuthEvents)?;
        authorize_by_state(version, event, before.state()).map_err(NotAdmitted::ByStateBefore)?;
        authorize_by_state(version, event, self.state()).map_err(NotAdmitted::ByCurrentState)
    }

    /// A state as it reads from its rows alone.
    pub fn stored_state(&self, version: StateVersion) -> StateMap {
        let mut line = Vec::new();
        let mut next = (version != StateVersion(0)).then_some(version);
        while let Some(version) = next {
            let row = self.rows.get(&version).unwrap_or_else(|| panic!("{version:?} was never stored"));
            line.push(row);
            next = row.parent.filter(|parent| *parent != StateVersion(0));
        }
        let mut state = StateMap::default();
        for row in line.into_iter().rev() {
            state.apply(&row.changes);
        }
        state
    }

    fn delta_entries(&self, version: StateVersion) -> u64 {
        self.rows.get(&version).map_or(0, |row| row.delta_entries)
    }

    fn stored_node(&self, version: StateVersion) -> Arc<StateNode> {
        self.graph.node_from_storage(version, self.delta_entries(version), &self.stored_state(version))
    }

    /// Throws the graph away and resumes it from what was stored, as after a restart.
    pub fn restart(&mut self) {
        let node = |version: StateVersion| {
            let state = self.stored_state(version);
            Arc::new(StateNode::from_storage(version, self.delta_entries(version), &state, &self.version, SEED))
        };
        let extremities = self
            .arrivals
            .iter()
            .map(|(event_id, arrival)| Extremity {
                event: self.events.get(event_id).expect("extremities were admitted").clone(),
                before: node(*self.before.get(event_id).expect("extremities were admitted")),
                arrival: *arrival,
            })
            .collect();
        let current = node(self.graph.current().version());
        let next_version = self.rows.keys().next_back().map_or(1, |version| version.0.saturating_add(1));
        let next_arrival = self.arrivals.values().max().map_or(1, |arrival| arrival.saturating_add(1));
        self.graph = RoomGraph::resume(
            self.version.clone(),
            SEED,
            current,
            extremities,
            StateVersion(next_version),
            next_arrival,
        );
    }
}

/// An event from its object, without any check.
pub fn pdu_from(object: &CanonicalJsonObject, version: &RoomVersion) -> Pdu {
    let event_id = event_id_of(object, version).expect("an event has a hash");
    let json = serde_json::to_string(object).expect("canonical JSON is JSON");
    Pdu::from_canonical_text(event_id, json.into(), version, Standing::Accepted).expect("an event is an event")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_of_every_known_version_are_built_and_verify() {
        use crate::{canonical_json::parse_object, pdu::checks::ShapedPdu};
        use RoomVersionId::{V3, V4, V5, V6, V7, V8, V9, V10, V11, V12};
        for id in [V3, V4, V5, V6, V7, V8, V9, V10, V11, V12] {
            let draft = RoomFixture::with_join_rule(id.clone(), Some("invite"));
            let room = draft.join(BOB).ban(EVE).invite(CAROL).leave(CAROL).build();
            assert_eq!(room.membership(BOB), MembershipState::Join, "{id}");
            assert_eq!(room.membership(EVE), MembershipState::Ban, "{id}");
            assert_eq!(room.membership(CAROL), MembershipState::Leave, "{id}");
            for event in room.events().values() {
                let object = parse_object(event.json().as_bytes()).unwrap();
                let verified = ShapedPdu::parse(object, room.version()).unwrap().verify(&room.keys()).unwrap();
                assert_eq!(verified.pdu(), event, "{id}");
                assert!(!verified.content_was_redacted(), "{id}");
            }
        }
    }

    #[test]
    fn a_restarted_room_has_the_same_state_and_goes_on() {
        let mut room = RoomFixture::knockable(RoomVersionId::V11).join(BOB).knock(EVE).build();
        let before = room.state().clone();
        room.restart();
        assert_eq!(room.state(), &before);
        room.append(EventSpec::ban(ALICE, EVE));
        assert_eq!(room.membership(EVE), MembershipState::Ban);
    }
}
