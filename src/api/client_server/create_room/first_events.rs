//! The first events of a room, in the order of the specification.
//! May not: read storage or draw anything; all that is needed was put in.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use vestibule_actors::InitialEvent;
use vestibule_protocol::{canonical_json, room_version::RoomVersion};

use super::power_levels::PowerLevels;
use crate::{client_server::state_content, error::MatrixError};

/// What a room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// For the invited.
    Private,
    /// For everybody.
    Public,
    /// For the invited, who are as powerful as the creator.
    TrustedPrivate,
}

/// A state event that the client wishes for.
#[derive(Deserialize)]
pub struct StateWish {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

/// A state event that can be made.
#[derive(Clone, Debug)]
pub struct WishedState {
    kind: StateEventType,
    state_key: String,
    content: CanonicalJsonObject,
}

impl StateWish {
    /// Judges what the room would only find out half-way.
    ///
    /// # Errors
    /// 400 when the content is not canonical JSON or cannot be read, or the type is the server's to make.
    pub fn check(self) -> Result<WishedState, MatrixError> {
        let kind = StateEventType::from(self.kind);
        if matches!(kind, StateEventType::RoomCreate | StateEventType::RoomMember) {
            return Err(MatrixError::bad_json(format!("initial_state cannot hold {kind}")));
        }
        let content = canonical_json::parse_object(self.content.get().as_bytes())?;
        state_content::check(&kind, &content)?;
        Ok(WishedState { kind, state_key: self.state_key, content })
    }
}

/// Everything that the first events are made of.
pub struct FirstEvents {
    /// Who makes the room.
    pub creator: OwnedUserId,
    /// The version of the room.
    pub version: RoomVersion,
    /// What it is for.
    pub preset: Preset,
    /// What the client wants in the create event.
    pub creation_content: CanonicalJsonObject,
    /// What the client wants put over the first power levels.
    pub power_levels_override: Option<CanonicalJsonObject>,
    /// State that wins over the preset.
    pub initial_state: Vec<WishedState>,
    /// The room's alias.
    pub alias: Option<OwnedRoomAliasId>,
    /// The room's name, which wins over `initial_state`.
    pub name: Option<String>,
    /// The room's topic, which wins over `initial_state`.
    pub topic: Option<String>,
    /// Who is invited, with their profiles.
    pub invites: Vec<(OwnedUserId, CanonicalJsonObject)>,
    /// The invites say that the room is a direct chat.
    pub is_direct: bool,
}

impl FirstEvents {
    /// The content of the create event. The keys that are the server's to set are set.
    ///
    /// # Errors
    /// 400 when `additional_creators` is no list of user ids.
    pub fn create_content(&self) -> Result<CanonicalJsonObject, MatrixError> {
        let mut content = self.creation_content.clone();
        content.insert("room_version".to_owned(), text(self.version.id().as_str()));
        if self.version.create_names_creator() {
            content.insert("creator".to_owned(), text(self.creator.as_str()));
        } else {
            content.remove("creator");
        }
        if self.version.creators_are_privileged() {
            let additional: Vec<CanonicalJsonValue> =
                self.creators()?.iter().skip(1).map(|creator| text(creator.as_str())).collect();
            if !additional.is_empty() {
                content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(additional));
            }
        }
        Ok(content)
    }

    /// All creators of the room, who makes it first. In versions that know one creator only, that one.
    fn creators(&self) -> Result<Vec<OwnedUserId>, MatrixError> {
        let mut creators = vec![self.creator.clone()];
        if !self.version.creators_are_privileged() {
            return Ok(creators);
        }
        let bad = || MatrixError::bad_json("additional_creators must be a list of user ids");
        if let Some(additional) = self.creation_content.get("additional_creators") {
            for user in additional.as_array().ok_or_else(bad)? {
                let user = user.as_str().and_then(|user| UserId::parse(user).ok()).ok_or_else(bad)?;
                if !creators.contains(&user) {
                    creators.push(user);
                }
            }
        }
        if self.preset == Preset::TrustedPrivate {
            for (invited, _) in &self.invites {
                if !creators.contains(invited) {
                    creators.push(invited.clone());
                }
            }
        }
        Ok(creators)
    }

    /// What comes after the create event and the creator's join, in this order: power levels, alias, preset,
    /// `initial_state`, name, topic, invites.
    ///
    /// # Errors
    /// 400 when the power levels or the creators cannot be what the client wishes.
    pub fn initial_events(&self) -> Result<Vec<InitialEvent>, MatrixError> {
        let mut events = vec![self.state(StateEventType::RoomPowerLevels, self.power_levels()?)];
        if let Some(alias) = &self.alias
            && !self.is_wished(&StateEventType::RoomCanonicalAlias)
        {
            events.push(self.text_state(StateEventType::RoomCanonicalAlias, "alias", alias.as_str()));
        }
        let preset = self.preset_state().into_iter().filter(|(kind, ..)| !self.is_wished(kind));
        events.extend(preset.map(|(kind, key, value)| self.text_state(kind, key, value)));
        let overwritten = |wish: &WishedState| {
            let is_overwritten = match wish.kind {
                StateEventType::RoomPowerLevels => true,
                StateEventType::RoomName => self.name.is_some(),
                StateEventType::RoomTopic => self.topic.is_some(),
                _ => false,
            };
            is_overwritten && wish.state_key.is_empty()
        };
        events.extend(self.initial_state.iter().filter(|wish| !overwritten(wish)).map(|wish| InitialEvent {
            sender: self.creator.clone(),
            kind: TimelineEventType::from(wish.kind.to_string()),
            state_key: Some(wish.state_key.clone()),
            content: wish.content.clone(),
        }));
        if let Some(name) = &self.name {
            events.push(self.text_state(StateEventType::RoomName, "name", name));
        }
        if let Some(topic) = &self.topic {
            events.push(self.text_state(StateEventType::RoomTopic, "topic", topic));
        }
        events.extend(self.invites.iter().map(|(invited, profile)| self.invite(invited, profile)));
        Ok(events)
    }

    fn invite(&self, invited: &UserId, profile: &CanonicalJsonObject) -> InitialEvent {
        let mut content = profile.clone();
        content.insert("membership".to_owned(), text("invite"));
        if self.is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        InitialEvent {
            sender: self.creator.clone(),
            kind: TimelineEventType::RoomMember,
            state_key: Some(invited.to_string()),
            content,
        }
    }

    /// Power levels in `initial_state` take the place of ours as they are; only the override goes over either.
    fn power_levels(&self) -> Result<CanonicalJsonObject, MatrixError> {
        let creators = self.creators()?;
        let trusted = match self.preset {
            Preset::TrustedPrivate => self.invites.iter().map(|(invited, _)| &**invited).collect(),
            Preset::Private | Preset::Public => Vec::new(),
        };
        let levels = PowerLevels {
            creators: &creators,
            trusted,
            preset: self.preset,
            creators_are_privileged: self.version.creators_are_privileged(),
        };
        let wished = self
            .initial_state
            .iter()
            .rfind(|wish| wish.kind == StateEventType::RoomPowerLevels && wish.state_key.is_empty());
        let overrides = match wished {
            None => return levels.content(self.power_levels_override.clone()),
            Some(wish) => {
                let mut content = wish.content.clone();
                content.extend(self.power_levels_override.clone().unwrap_or_default());
                content
            }
        };
        // Judged as an override, then taken alone.
        levels.content(Some(overrides.clone())).map(|_| overrides)
    }

    /// What the preset sets. Spec: the table of presets of createRoom.
    fn preset_state(&self) -> [(StateEventType, &'static str, &'static str); 3] {
        let (join_rule, guest_access) = match self.preset {
            Preset::Private | Preset::TrustedPrivate => ("invite", "can_join"),
            Preset::Public => ("public", "forbidden"),
        };
        [
            (StateEventType::RoomJoinRules, "join_rule", join_rule),
            (StateEventType::RoomHistoryVisibility, "history_visibility", "shared"),
            (StateEventType::RoomGuestAccess, "guest_access", guest_access),
        ]
    }

    fn is_wished(&self, kind: &StateEventType) -> bool {
        self.initial_state.iter().any(|wish| wish.kind == *kind && wish.state_key.is_empty())
    }

    fn text_state(&self, kind: StateEventType, key: &str, value: &str) -> InitialEvent {
        self.state(kind, CanonicalJsonObject::from([(key.to_owned(), text(value))]))
    }

    fn state(&self, kind: StateEventType, content: CanonicalJsonObject) -> InitialEvent {
        let kind = TimelineEventType::from(kind.to_string());
        InitialEvent { sender: self.creator.clone(), kind, state_key: Some(String::new()), content }
    }
}

fn text(value: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(value.to_owned())
}

#[cfg(test)]
mod tests;
