//! What the room directory shows of a room.
//! May not: decide which rooms are shown.

use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId,
    directory::{Filter, RoomTypeFilter},
    events::{
        StateEventType,
        room::{guest_access::GuestAccess, history_visibility::HistoryVisibility},
    },
    room::{JoinRuleKind, RoomType},
};
use serde::{Deserialize, Serialize};
use vestibule_protocol::{pdu::Pdu, room_version::RoomVersion};
use vestibule_storage::{
    error::StorageError,
    room::{RoomReader, RoomRow},
};

/// One room of the directory.
///
/// What other servers send is read into it too. ruma's type leaves `join_rule` out when it is `public`, since readers take
/// that for granted; ours always says it, so that nobody has to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Users joined.
    pub num_joined_members: u64,
    /// How to get in.
    #[serde(default = "public")]
    pub join_rule: JoinRuleKind,
    /// Anybody may read it.
    #[serde(default)]
    pub world_readable: bool,
    /// Guests may join.
    #[serde(default)]
    pub guest_can_join: bool,
    /// Its main alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<OwnedMxcUri>,
    /// Its kind, such as `m.space`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<RoomType>,
}

/// What an absent join rule means in a directory.
fn public() -> JoinRuleKind {
    JoinRuleKind::Public
}

impl Entry {
    /// Reads what is shown of a room from its current state. State that nobody can read counts as absent.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn load(rooms: &dyn RoomReader, row: &RoomRow) -> Result<Self, StorageError> {
        let mut entry = Self::bare(row);
        for kind in [
            StateEventType::RoomCreate,
            StateEventType::RoomJoinRules,
            StateEventType::RoomHistoryVisibility,
            StateEventType::RoomGuestAccess,
            StateEventType::RoomCanonicalAlias,
            StateEventType::RoomName,
            StateEventType::RoomTopic,
            StateEventType::RoomAvatar,
        ] {
            if let Some(stored) = rooms.current_state_event(&row.room_id, &kind, "").await? {
                entry.read(&kind, &stored.event);
            }
        }
        Ok(entry)
    }

    /// A room without any of the state that is shown.
    fn bare(row: &RoomRow) -> Self {
        Self {
            room_id: row.room_id.clone(),
            num_joined_members: row.counts.join,
            join_rule: JoinRuleKind::Invite,
            world_readable: false,
            guest_can_join: false,
            canonical_alias: None,
            name: None,
            topic: None,
            avatar_url: None,
            room_type: None,
        }
    }

    fn read(&mut self, kind: &StateEventType, event: &Pdu) {
        match kind {
            StateEventType::RoomCreate => {
                self.room_type = event.content_as::<CreateContent>().and_then(|content| content.room_type);
            }
            StateEventType::RoomJoinRules => {
                if let Some(content) = event.content_as::<JoinRulesContent>() {
                    self.join_rule = content.join_rule;
                }
            }
            StateEventType::RoomHistoryVisibility => {
                self.world_readable = event
                    .content_as::<VisibilityContent>()
                    .is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable);
            }
            StateEventType::RoomGuestAccess => {
                self.guest_can_join = event
                    .content_as::<GuestContent>()
                    .is_some_and(|content| content.guest_access == GuestAccess::CanJoin);
            }
            StateEventType::RoomCanonicalAlias => {
                let alias = event.content_as::<AliasContent>().and_then(|content| content.alias);
                self.canonical_alias = alias.and_then(|alias| alias.try_into().ok());
            }
            StateEventType::RoomName => {
                self.name = shown(event.content_as::<NameContent>().and_then(|content| content.name));
            }
            StateEventType::RoomTopic => {
                self.topic = shown(event.content_as::<TopicContent>().and_then(|content| content.topic));
            }
            StateEventType::RoomAvatar => {
                let url = event.content_as::<AvatarContent>().and_then(|content| content.url);
                self.avatar_url = shown(url).map(OwnedMxcUri::from);
            }
            _ => {}
        }
    }

    /// Whether strangers may read the room, enter it or ask to, as rooms of its version can: then it is no secret.
    #[must_use]
    pub fn is_open_to_strangers(&self, version: &RoomVersion) -> bool {
        let may_enter_or_ask = match self.join_rule {
            JoinRuleKind::Public => true,
            JoinRuleKind::Knock => version.can_knock(),
            JoinRuleKind::KnockRestricted => version.can_knock_restricted(),
            _ => false,
        };
        self.world_readable || may_enter_or_ask
    }

    /// Whether a search finds the room: its kind is wanted, and the term is part of its name, topic or alias in any case.
    #[must_use]
    pub fn matches(&self, filter: &Filter) -> bool {
        let kind_is_wanted =
            filter.room_types.is_empty() || filter.room_types.contains(&RoomTypeFilter::from(self.room_type.clone()));
        let Some(term) = filter.generic_search_term.as_deref().filter(|term| !term.is_empty()) else {
            return kind_is_wanted;
        };
        let term = term.to_lowercase();
        let alias = self.canonical_alias.as_ref().map(|alias| alias.as_str());
        kind_is_wanted
            && [self.name.as_deref(), self.topic.as_deref(), alias]
                .into_iter()
                .flatten()
                .any(|text| text.to_lowercase().contains(&term))
    }
}

fn shown(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct CreateContent {
    #[serde(rename = "type")]
    room_type: Option<RoomType>,
}

#[derive(Deserialize)]
struct JoinRulesContent {
    join_rule: JoinRuleKind,
}

#[derive(Deserialize)]
struct VisibilityContent {
    history_visibility: HistoryVisibility,
}

#[derive(Deserialize)]
struct GuestContent {
    guest_access: GuestAccess,
}

#[derive(Deserialize)]
struct AliasContent {
    alias: Option<String>,
}

#[derive(Deserialize)]
struct NameContent {
    name: Option<String>,
}

#[derive(Deserialize)]
struct TopicContent {
    topic: Option<String>,
}

#[derive(Deserialize)]
struct AvatarContent {
    url: Option<String>,
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, owned_room_alias_id, owned_room_id};
    use serde_json::json;

    use super::*;

    fn entry() -> Entry {
        Entry {
            room_id: owned_room_id!("!a:example.org"),
            num_joined_members: 3,
            join_rule: JoinRuleKind::Public,
            world_readable: false,
            guest_can_join: true,
            canonical_alias: Some(owned_room_alias_id!("#Garden:example.org")),
            name: Some("Über Gärten".to_owned()),
            topic: None,
            avatar_url: None,
            room_type: None,
        }
    }

    fn filter(json: serde_json::Value) -> Filter {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_join_rule_is_always_sent() {
        for (rule, text) in [
            (JoinRuleKind::Public, "public"),
            (JoinRuleKind::Knock, "knock"),
            (JoinRuleKind::KnockRestricted, "knock_restricted"),
        ] {
            let sent = serde_json::to_value(Entry { join_rule: rule, ..entry() }).unwrap();
            assert_eq!(sent["join_rule"], json!(text));
        }
        assert_eq!(
            serde_json::to_value(entry()).unwrap(),
            json!({
                "room_id": "!a:example.org", "num_joined_members": 3, "join_rule": "public", "world_readable": false,
                "guest_can_join": true, "canonical_alias": "#Garden:example.org", "name": "Über Gärten",
            })
        );
    }

    #[test]
    fn a_room_is_open_by_what_its_version_can() {
        for (join_rule, version, is_open) in [
            (JoinRuleKind::Public, RoomVersionId::V6, true),
            (JoinRuleKind::Knock, RoomVersionId::V6, false),
            (JoinRuleKind::Knock, RoomVersionId::V7, true),
            (JoinRuleKind::KnockRestricted, RoomVersionId::V9, false),
            (JoinRuleKind::KnockRestricted, RoomVersionId::V10, true),
            (JoinRuleKind::Restricted, RoomVersionId::V12, false),
            (JoinRuleKind::Invite, RoomVersionId::V12, false),
        ] {
            let version = RoomVersion::lookup(&version).unwrap();
            let entry = Entry { join_rule, ..entry() };
            assert_eq!(entry.is_open_to_strangers(&version), is_open, "{:?}", entry.join_rule);
            let readable = Entry { world_readable: true, ..entry };
            assert!(readable.is_open_to_strangers(&version));
        }
    }

    #[test]
    fn searching_is_blind_to_case_and_finds_parts() {
        for (term, found) in
            [("gärt", true), ("ÜBER", true), ("garden", true), ("example.org", true), ("", true), ("topic", false)]
        {
            assert_eq!(entry().matches(&filter(json!({ "generic_search_term": term }))), found, "{term:?}");
        }
    }

    #[test]
    fn searching_by_kind_tells_rooms_from_spaces() {
        let space = Entry { room_type: Some(RoomType::Space), ..entry() };
        for (types, finds_room, finds_space) in [
            (json!([]), true, true),
            (json!([null]), true, false),
            (json!(["m.space"]), false, true),
            (json!([null, "m.space"]), true, true),
            (json!(["org.example.other"]), false, false),
        ] {
            let wanted = filter(json!({ "room_types": types }));
            assert_eq!(entry().matches(&wanted), finds_room, "{types}");
            assert_eq!(space.matches(&wanted), finds_space, "{types}");
        }
    }
}
