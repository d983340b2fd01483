//! A case as events, put before the functions that rooms ask.
//! May not: decide anything itself.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{CanonicalJsonValue, EventId, RoomVersionId, ServerName};
use serde_json::{Map, Value, json};
use vestibule_protocol::{
    auth::{authorize_by_shape, authorize_by_state},
    fixture::{canonical, identity, version},
    pdu::{Pdu, Standing},
    room_version::RoomVersion,
    state::StateMap,
};

use super::case::{Case, Key, Levels, ThirdParty, USERS};

/// The token of every third-party invite.
const TOKEN: &str = "token";
/// Whose key signs what an identity server would.
const IDENTITY_SERVER: &str = "identity.test";

/// The room of a case as production has it.
pub struct Room {
    pub version: RoomVersion,
    /// By `type` and `state_key`.
    pub events: BTreeMap<(String, String), Arc<Pdu>>,
    /// What is made now belongs to another room.
    pub is_other: bool,
}

impl Room {
    /// The events that the case's room consists of. They need no history: the rules look at state alone.
    pub fn of(case: &Case) -> Result<Self, String> {
        let mut room = Self { version: version_of(case.version), events: BTreeMap::new(), is_other: false };
        let mut create = json!({ "room_version": case.version.to_string() });
        if case.version <= 10 {
            create["creator"] = json!(USERS[case.creator]);
        }
        if case.version >= 12 && !case.creators.is_empty() {
            create["additional_creators"] = case.creators.iter().map(|user| USERS[*user]).collect();
        }
        if let Some(federate) = case.federate {
            create["m.federate"] = json!(federate);
        }
        room.add("m.room.create", "", USERS[0], create)?;
        if let Some(rule) = case.join_rule {
            let mut content = json!({ "join_rule": rule });
            if rule.ends_with("restricted") {
                content["allow"] = json!([{ "type": "m.room_membership", "room_id": "!other:resident.test" }]);
            }
            room.add("m.room.join_rules", "", USERS[0], content)?;
        }
        if let Some(levels) = &case.levels {
            room.add("m.room.power_levels", "", USERS[0], levels_content(levels))?;
        }
        for (user, membership) in case.members.iter().enumerate() {
            if let Some(word) = membership.word() {
                room.add("m.room.member", USERS[user], USERS[user], json!({ "membership": word }))?;
            }
        }
        if let Some(invite) = case.third_party
            && let Some(issuer) = invite.issued_by
        {
            room.add("m.room.third_party_invite", TOKEN, USERS[issuer], keys_content(invite.key))?;
        }
        Ok(room)
    }

    /// Adds a state event under an id made from its place.
    pub fn add(&mut self, kind: &str, state_key: &str, sender: &str, content: Value) -> Result<(), String> {
        let event_id = format!("${kind}/{state_key}");
        let event = self.event(&event_id, kind, Some(state_key), sender, content, &[], &[], Standing::Accepted)?;
        self.events.insert((kind.to_owned(), state_key.to_owned()), Arc::new(event));
        Ok(())
    }

    /// Any event of the room.
    #[expect(clippy::too_many_arguments, reason = "the fields of an event")]
    pub fn event(
        &self,
        event_id: &str,
        kind: &str,
        state_key: Option<&str>,
        sender: &str,
        content: Value,
        prev_events: &[String],
        auth_events: &[String],
        standing: Standing,
    ) -> Result<Pdu, String> {
        let mut object = json!({
            "type": kind,
            "sender": sender,
            "content": content,
            "prev_events": prev_events,
            "auth_events": auth_events,
            "depth": 7,
            "origin_server_ts": 1_700_000_000_000_u64,
        });
        if let Some(state_key) = state_key {
            object["state_key"] = json!(state_key);
        }
        if !(self.version.room_id_is_create_hash() && kind == "m.room.create") {
            object["room_id"] = json!(self.room_id());
        }
        let event_id = EventId::parse(event_id).map_err(|error| format!("{event_id}: {error}"))?;
        Pdu::from_canonical_text(event_id, object.to_string().into(), &self.version, standing)
            .map_err(|error| format!("{object}: {error}"))
    }

    /// The room's id: in version 12 the create event's.
    fn room_id(&self) -> String {
        if self.is_other {
            "!other:resident.test".to_owned()
        } else if self.version.room_id_is_create_hash() {
            "!m.room.create/".to_owned()
        } else {
            "!room:resident.test".to_owned()
        }
    }

    /// The case's own event, with these auth events.
    pub fn event_of(&self, case: &Case, auth_events: &[String]) -> Result<Pdu, String> {
        let prev_event = if case.is_first { "$m.room.create/" } else { "$before" };
        self.event(
            "$judged",
            "m.room.member",
            Some(USERS[case.target]),
            USERS[case.sender],
            member_content(case),
            &[prev_event.to_owned()],
            auth_events,
            Standing::Accepted,
        )
    }

    /// What the room decides about an event against its state.
    pub fn decides(&self, event: &Pdu) -> Result<(), String> {
        let state: StateMap = self.events.values().cloned().collect();
        authorize_by_state(&self.version, event, &state).map_err(|refusal| refusal.to_string())
    }

    /// What it decides about the auth events that an event names. `others`: events that are known and not in the state.
    pub fn takes_shape(&self, event: &Pdu, others: &[Arc<Pdu>]) -> Result<(), String> {
        let find =
            |event_id: &EventId| self.events.values().chain(others).find(|event| event.event_id() == event_id).cloned();
        authorize_by_shape(&self.version, event, find).map_err(|refusal| refusal.to_string())
    }
}

/// What production decides about a case, and its reason for a no.
///
/// # Errors
/// The case cannot be put before it.
pub fn decide(case: &Case) -> Result<Result<(), String>, String> {
    let room = Room::of(case)?;
    Ok(room.decides(&room.event_of(case, &[])?))
}

fn version_of(number: u8) -> RoomVersion {
    version(&RoomVersionId::try_from(number.to_string()).unwrap_or(RoomVersionId::V12))
}

fn member_content(case: &Case) -> Value {
    let mut content = json!({});
    if let Some(word) = case.next.word() {
        content["membership"] = json!(word);
    }
    if let Some(user) = case.via {
        content["join_authorised_via_users_server"] = json!(USERS[user]);
    }
    if let Some(invite) = case.third_party {
        content["third_party_invite"] = third_party_content(&invite);
    }
    content
}

fn third_party_content(invite: &ThirdParty) -> Value {
    let mut content = json!({ "display_name": "b…@e…" });
    if invite.has_signed {
        let mut signed = json!({});
        if let Some(user) = invite.mxid {
            signed["mxid"] = json!(USERS[user]);
        }
        if invite.has_token {
            signed["token"] = json!(TOKEN);
        }
        let mut object = canonical(signed);
        let signer = <&ServerName>::try_from(IDENTITY_SERVER).map(identity);
        if let Ok(signer) = signer
            && signer.sign_json(&mut object).is_ok()
        {
            content["signed"] = CanonicalJsonValue::Object(object).into();
        }
    }
    content
}

fn keys_content(key: Key) -> Value {
    let key_of = |name: &str| {
        <&ServerName>::try_from(name).map(|name| identity(name).key().public_key_base64().encode()).unwrap_or_default()
    };
    let (public_key, listed) = match key {
        Key::Named => (IDENTITY_SERVER, "stranger.test"),
        Key::Listed => ("stranger.test", IDENTITY_SERVER),
        Key::Elsewhere => ("stranger.test", "other-stranger.test"),
    };
    let url = "https://identity.test/isvalid";
    json!({
        "display_name": "b…@e…",
        "key_validity_url": url,
        "public_key": key_of(public_key),
        "public_keys": [{ "public_key": key_of(listed), "key_validity_url": url }],
    })
}

fn levels_content(levels: &Levels) -> Value {
    let number = |level: i64| if levels.as_text { json!(level.to_string()) } else { json!(level) };
    let mut content = json!({});
    let users: Map<String, Value> = levels
        .users
        .iter()
        .enumerate()
        .filter_map(|(user, level)| level.map(|level| (USERS[user].to_owned(), number(level))))
        .collect();
    content["users"] = Value::Object(users);
    let named = [
        ("users_default", levels.users_default),
        ("ban", levels.ban),
        ("kick", levels.kick),
        ("invite", levels.invite),
    ];
    for (name, level) in named {
        if let Some(level) = level {
            content[name] = number(level);
        }
    }
    content
}
