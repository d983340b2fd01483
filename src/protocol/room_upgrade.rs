//! What a room that replaces another one starts with, and how the one that is replaced is closed.
//! May not: judge whether the user may; the rules judge the tombstone there, and every event here.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

mod levels;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomAliasId, OwnedUserId, RoomAliasId, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::JoinRuleKind,
};

pub use self::levels::closed_power_levels;
use crate::{
    membership::{CreateRefusal, handshake::member_content},
    pdu::Pdu,
    room_version::RoomVersion,
    state::StateMap,
};

/// Events that a new room takes from the old one, bans included. Ours: they are signed and stored in one commit.
pub const EVENTS_TAKEN_MAX: usize = 10_000;

/// Their contents together, in bytes. Ours: the commit, with all that stands around them, has to fit into memory and into one
/// record of the journal.
pub const CONTENT_BYTES_TAKEN_MAX: usize = 8 * 1024 * 1024;

/// What goes to the new room as it is: what is said of the room, not who said it. Source: the specification's list; join
/// rules, power levels and the canonical alias are adjusted.
const TAKEN_AS_THEY_ARE: [StateEventType; 7] = [
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomHistoryVisibility,
];

/// A wish to replace a room by one of another version.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The state of the room that is replaced.
    pub old: StateMap,
    /// Its version.
    pub old_version: RoomVersion,
    /// The version of the new room.
    pub new_version: RoomVersion,
    /// Who upgrades, and so makes the new room.
    pub user_id: OwnedUserId,
    /// Who else is to be a creator of the new room, where its version knows such. Those of the old room do not stay by
    /// themselves.
    pub additional_creators: Vec<OwnedUserId>,
    /// The last event of the old room that is known here.
    pub last_event: Option<OwnedEventId>,
    /// The aliases that go to the new room.
    pub aliases: BTreeSet<OwnedRoomAliasId>,
}

/// A state event for the new room, to be sent by who upgrades.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenState {
    /// Its type.
    pub kind: StateEventType,
    /// Its state key.
    pub state_key: String,
    /// Its content.
    pub content: CanonicalJsonObject,
}

impl Upgrade {
    /// The content of the create event, but for what the room itself puts in (version, creator).
    pub fn create_content(&self) -> CanonicalJsonObject {
        let mut content = CanonicalJsonObject::new();
        let Some(old) = self.old.create() else { return content };
        let mut predecessor = CanonicalJsonObject::from([text("room_id", old.room_id().as_str())]);
        if let Some(last_event) = self.last_event.as_deref().filter(|_| self.predecessor_has_event()) {
            predecessor.extend([text("event_id", last_event.as_str())]);
        }
        content.insert("predecessor".to_owned(), CanonicalJsonValue::Object(predecessor));
        let before = old.content_object().unwrap_or_default();
        let stays = |(key, value): &(String, CanonicalJsonValue)| match key.as_str() {
            "type" => value.is_string(),
            "m.federate" => value.is_bool(),
            _ => false,
        };
        content.extend(before.into_iter().filter(stays));
        let others: Vec<CanonicalJsonValue> =
            self.creators().iter().skip(1).map(|user_id| user_id.as_str().into()).collect();
        if !others.is_empty() {
            content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(others));
        }
        content
    }

    /// Up to version 11 clients find their way back by the event. Later its place is the tombstone, which cannot be named
    /// before the new room's id is known.
    fn predecessor_has_event(&self) -> bool {
        !self.new_version.room_id_is_create_hash()
    }

    /// Whether a room that begins with `create` is what this upgrade makes, so that an upgrade asked for again need not make
    /// another one. Which event of the old room was the last one does not matter.
    pub fn has_made(&self, create: &Pdu) -> bool {
        let without_event = |mut content: CanonicalJsonObject| {
            let predecessor = content.get_mut("predecessor").and_then(CanonicalJsonValue::as_object_mut);
            predecessor.and_then(|predecessor| predecessor.remove("event_id"));
            content
        };
        let Some(mut content) = create.content_object() else { return false };
        let version = content.remove("room_version");
        content.remove("creator");
        version.as_ref().and_then(|version| version.as_str()) == Some(self.new_version.id().as_str())
            && create.sender() == self.user_id
            && without_event(content) == without_event(self.create_content())
    }

    /// The creators of the new room in the sense of its version, who upgrades first; others only where they are privileged.
    fn creators(&self) -> Vec<&OwnedUserId> {
        let mut creators = vec![&self.user_id];
        if self.new_version.creators_are_privileged() {
            for user_id in &self.additional_creators {
                if !creators.contains(&user_id) {
                    creators.push(user_id);
                }
            }
        }
        creators
    }

    /// The state of the new room, in the order in which it is to be sent: power levels first; bans after all else; then, if
    /// who upgrades had to be given more power for all this, the power levels as they are to stay.
    ///
    /// # Errors
    /// [`CreateRefusal::TooMuch`].
    pub fn state(&self) -> Result<Vec<TakenState>, CreateRefusal> {
        self.state_within(EVENTS_TAKEN_MAX, CONTENT_BYTES_TAKEN_MAX)
    }

    fn state_within(&self, events_max: usize, bytes_max: usize) -> Result<Vec<TakenState>, CreateRefusal> {
        let bans = self.bans();
        let banned: Vec<&UserId> = bans.iter().map(|(user_id, _)| &**user_id).collect();
        let levels = self.levels(&banned);
        let mut state = vec![taken(StateEventType::RoomPowerLevels, "", levels.first)];
        if let Some(rules) = self.content(&StateEventType::RoomJoinRules, "") {
            state.push(taken(StateEventType::RoomJoinRules, "", join_rules(rules, &self.new_version)));
        }
        for kind in TAKEN_AS_THEY_ARE {
            if let Some(content) = self.content(&kind, "") {
                state.push(taken(kind, "", content));
            }
        }
        if let Some(aliases) = self.canonical_alias() {
            state.push(taken(StateEventType::RoomCanonicalAlias, "", aliases));
        }
        state.extend(self.space_children());
        state.extend(
            bans.into_iter().map(|(user_id, content)| taken(StateEventType::RoomMember, user_id.as_str(), content)),
        );
        state.extend(levels.last.map(|content| taken(StateEventType::RoomPowerLevels, "", content)));
        let bytes = |taken: &TakenState| serde_json::to_vec(&taken.content).map_or(usize::MAX, |text| text.len());
        let bytes = state.iter().map(bytes).fold(0, usize::saturating_add);
        if state.len() > events_max || bytes > bytes_max {
            return Err(CreateRefusal::TooMuch);
        }
        Ok(state)
    }

    /// The content of the old room's state. What versions up to 5 allowed and no later one has a form for stays behind.
    fn content(&self, kind: &StateEventType, state_key: &str) -> Option<CanonicalJsonObject> {
        self.old.get(kind, state_key).and_then(|event| event.content_object())
    }

    /// Aliases that did not move still lead to the old room, so the new one does not show them.
    fn canonical_alias(&self) -> Option<CanonicalJsonObject> {
        let moves = |value: &CanonicalJsonValue| {
            let alias = value.as_str().and_then(|alias| RoomAliasId::parse(alias).ok());
            alias.is_some_and(|alias| self.aliases.contains(&alias))
        };
        let mut content = self.content(&StateEventType::RoomCanonicalAlias, "")?;
        content.retain(|key, value| match (key.as_str(), value) {
            ("alias", value) => moves(value),
            ("alt_aliases", CanonicalJsonValue::Array(others)) => {
                others.retain(moves);
                !others.is_empty()
            }
            _ => false,
        });
        (!content.is_empty()).then_some(content)
    }

    /// The rooms of a space. Those that were taken out of it have no `via`.
    fn space_children(&self) -> Vec<TakenState> {
        let create = self.old.create().and_then(|create| create.content_object()).unwrap_or_default();
        if create.get("type").and_then(|kind| kind.as_str()) != Some("m.space") {
            return Vec::new();
        }
        let children = self.old.of_type(&StateEventType::SpaceChild).filter_map(|(room_id, event)| {
            let content = event.content_object().filter(|content| content.contains_key("via"))?;
            Some(taken(StateEventType::SpaceChild, room_id, content))
        });
        children.collect()
    }

    /// Whoever is banned stays banned: memberships are not taken along, but nobody comes in through the new door who was
    /// shown out of the old one. The new room's creators are let in by who upgrades.
    fn bans(&self) -> Vec<(OwnedUserId, CanonicalJsonObject)> {
        let creators = self.creators();
        let banned = self.old.of_type(&StateEventType::RoomMember).filter_map(|(user_id, event)| {
            let user_id = UserId::parse(user_id).ok().filter(|user_id| !creators.contains(&user_id))?;
            (event.membership() == Some(MembershipState::Ban)).then(|| {
                let reason = event.reason().map(|reason| text("reason", &reason));
                (user_id, member_content(reason.into_iter().collect(), &MembershipState::Ban))
            })
        });
        banned.collect()
    }
}

fn taken(kind: StateEventType, state_key: &str, content: CanonicalJsonObject) -> TakenState {
    TakenState { kind, state_key: state_key.to_owned(), content }
}

/// The join rules in a version. A rule that it does not have becomes the one of its own that lets in fewer, and still takes
/// knocks where there are such.
fn join_rules(mut content: CanonicalJsonObject, version: &RoomVersion) -> CanonicalJsonObject {
    let rule = content.get("join_rule").and_then(|rule| rule.as_str()).map(JoinRuleKind::from);
    let narrower = match rule {
        Some(JoinRuleKind::KnockRestricted) if !version.can_knock_restricted() && version.can_knock() => "knock",
        Some(JoinRuleKind::KnockRestricted) if !version.can_knock_restricted() => "invite",
        Some(JoinRuleKind::Restricted) if !version.can_join_restricted() => "invite",
        Some(JoinRuleKind::Knock) if !version.can_knock() => "invite",
        _ => return content,
    };
    content.extend([text("join_rule", narrower)]);
    content
}

fn text(key: &str, value: &str) -> (String, CanonicalJsonValue) {
    (key.to_owned(), CanonicalJsonValue::String(value.to_owned()))
}
