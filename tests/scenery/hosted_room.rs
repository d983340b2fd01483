//! A room that lives on another server: its events, its state, and the templates that the peer hands out for it.
//! May not: judge anything. It takes what it is given, so that what Vestibule sends is seen as it was sent.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, RoomVersionId, events::TimelineEventType, room::JoinRuleKind,
};
use serde_json::{Value, json, value::to_raw_value};
use vestibule_protocol::{
    auth::selection::{ids, select_auth_events},
    clock::UnixMillis,
    pdu::{
        Pdu,
        checks::ShapedPdu,
        event_builder::{EventDraft, GraphPlace},
    },
    room_version::RoomVersion,
    signing::Identity,
    state::{StateMap, stripped::shown_to_strangers},
};

use super::peer::now_ms;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One room of a peer.
pub struct HostedRoom {
    pub room_id: OwnedRoomId,
    pub owner: String,
    version: RoomVersion,
    /// Oldest first.
    events: Vec<Arc<Pdu>>,
    state: StateMap,
}

impl HostedRoom {
    /// A room of `owner` called Burrow, with that join rule.
    pub fn new(identity: &Identity, owner: &str, version: &str, join_rule: &Value) -> Self {
        Self::made(identity, owner, version, join_rule, true)
    }

    /// The same without any event that gives powers.
    pub fn without_levels(identity: &Identity, owner: &str, version: &str, join_rule: &Value) -> Self {
        Self::made(identity, owner, version, join_rule, false)
    }

    fn made(identity: &Identity, owner: &str, version: &str, join_rule: &Value, has_levels: bool) -> Self {
        let version = RoomVersion::lookup(&RoomVersionId::try_from(version).unwrap()).unwrap();
        // Rooms of the same moment are different rooms, also where the id is a hash.
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let mut content = json!({ "room_version": version.id(), "test.number": number });
        if version.create_names_creator() {
            content["creator"] = json!(owner);
        }
        let room_id = (!version.room_id_is_create_hash())
            .then(|| OwnedRoomId::try_from(format!("!burrow{number}:{}", identity.server_name())).unwrap());
        let place = GraphPlace {
            room_id,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 1,
            origin_server_ts: UnixMillis(now_ms()),
        };
        let create = draft(owner, "m.room.create", Some(""), &content).build(&place, &version, identity).unwrap();
        let room_id = create.room_id().to_owned();
        let mut room =
            Self { room_id, owner: owner.to_owned(), version, events: Vec::new(), state: StateMap::default() };
        room.take(create);
        let users = if room.version.creators_are_privileged() { json!({}) } else { json!({ owner: 100 }) };
        room.append(identity, owner, "m.room.member", Some(owner), &json!({ "membership": "join" }));
        if has_levels {
            room.append(identity, owner, "m.room.power_levels", Some(""), &json!({ "users": users, "invite": 50 }));
        }
        room.append(identity, owner, "m.room.join_rules", Some(""), join_rule);
        room.append(identity, owner, "m.room.name", Some(""), &json!({ "name": "Burrow" }));
        room
    }

    pub fn version(&self) -> &str {
        self.version.id().as_str()
    }

    pub fn state(&self) -> &StateMap {
        &self.state
    }

    /// An event of one of the peer's users at the end of the room.
    pub fn append(
        &mut self,
        identity: &Identity,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: &Value,
    ) -> Arc<Pdu> {
        let draft = draft(sender, kind, state_key, content);
        let place = self.place(&draft);
        let event = draft.build(&place, &self.version, identity).unwrap();
        self.take(event)
    }

    /// The same in anybody's name and at the same place, neither hashed nor signed, and not part of the room.
    pub fn unsigned(&self, sender: &str, kind: &str, state_key: Option<&str>, content: &Value) -> Value {
        let draft = draft(sender, kind, state_key, content);
        json!(draft.to_unsigned(&self.place(&draft), &self.version))
    }

    /// The template of `make_knock` and its like.
    pub fn template(&self, identity: &Identity, user_id: &str, membership: &str) -> Value {
        let mut content = json!({ "membership": membership });
        if membership == "join" && self.is_restricted() {
            content["join_authorised_via_users_server"] = json!(self.owner);
        }
        let draft = draft(user_id, "m.room.member", Some(user_id), &content);
        let template = draft.to_template(&self.place(&draft), &self.version, identity.server_name());
        json!({ "room_version": self.version.id(), "event": template })
    }

    fn is_restricted(&self) -> bool {
        matches!(self.state.join_rule(), Some(JoinRuleKind::Restricted | JoinRuleKind::KnockRestricted))
    }

    /// The join with the signature of the server whose user vouches for it.
    pub fn vouched(&self, identity: &Identity, mut join: CanonicalJsonObject) -> CanonicalJsonObject {
        if self.is_restricted() {
            identity.hash_and_sign(&mut join, self.version.rules()).unwrap();
        }
        join
    }

    /// Takes in what another server sent.
    ///
    /// # Errors
    /// Words, when it is no event of this room's version.
    pub fn receive(&mut self, event: CanonicalJsonObject) -> Result<Arc<Pdu>, String> {
        let shaped = ShapedPdu::parse(event, &self.version).map_err(|error| error.to_string())?;
        let text = shaped.pdu().json().to_owned();
        let event_id = shaped.pdu().event_id().to_owned();
        let standing = shaped.pdu().standing();
        let event = Pdu::from_canonical_text(event_id, text.into(), &self.version, standing);
        Ok(self.take(event.map_err(|error| error.to_string())?))
    }

    /// What a stranger is shown, as `knock_room_state` and `invite_room_state` have it.
    pub fn shown(&self) -> Vec<Value> {
        shown_to_strangers(&self.state).iter().map(|event| json_of(event)).collect()
    }

    /// The state, and all events that authorize it, as `send_join` answers.
    pub fn state_and_auth_chain(&self) -> (Vec<Value>, Vec<Value>) {
        let state: Vec<Value> = self.state.iter().map(|(_, event)| json_of(event)).collect();
        let auth_chain = self.events.iter().filter(|event| event.state_key().is_some()).map(|event| json_of(event));
        (state, auth_chain.collect())
    }

    pub fn event(&self, event_id: &str) -> Option<Value> {
        self.events.iter().find(|event| event.event_id() == event_id).map(|event| json_of(event))
    }

    /// An event and those before it, newest first.
    pub fn back_from(&self, event_id: &str, limit: usize) -> Vec<Value> {
        let back = self.events.iter().rev().skip_while(|event| event.event_id() != event_id);
        back.take(limit).map(|event| json_of(event)).collect()
    }

    fn place(&self, draft: &EventDraft) -> GraphPlace {
        let content = to_raw_value(&draft.content).unwrap();
        let state_key = draft.state_key.as_deref();
        let auth = select_auth_events(&self.version, &draft.kind, &draft.sender, state_key, &content, &self.state);
        let tip = self.events.last().unwrap();
        GraphPlace {
            room_id: Some(self.room_id.clone()),
            prev_events: vec![tip.event_id().to_owned()],
            auth_events: ids(&auth.unwrap()),
            depth: tip.depth() + 1,
            origin_server_ts: UnixMillis(now_ms()),
        }
    }

    fn take(&mut self, event: Pdu) -> Arc<Pdu> {
        let event = Arc::new(event);
        if event.state_key().is_some() {
            self.state.insert(event.clone());
        }
        self.events.push(event.clone());
        event
    }
}

/// The event as it goes from server to server.
pub fn json_of(event: &Pdu) -> Value {
    serde_json::from_str(event.json()).unwrap()
}

fn draft(sender: &str, kind: &str, state_key: Option<&str>, content: &Value) -> EventDraft {
    EventDraft {
        kind: TimelineEventType::from(kind),
        state_key: state_key.map(str::to_owned),
        sender: sender.try_into().unwrap(),
        content: serde_json::from_value(content.clone()).unwrap(),
        redacts: Option::<OwnedEventId>::None,
    }
}
