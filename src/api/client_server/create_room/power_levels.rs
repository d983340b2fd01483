//! The first power levels of a room.
//! May not: name a creator of a room whose version puts creators above all levels.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int, OwnedUserId, UserId};

use super::first_events::Preset;
use crate::error::MatrixError;

/// The level of who makes a room and of those who are as trusted.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
const CREATOR_LEVEL: i32 = 100;

/// What closing a room for good needs where creators stand above all: more than any level given at the start, so that it is
/// the creators' to do. Spec: <https://spec.matrix.org/v1.19/rooms/v12/>
const TOMBSTONE_LEVEL_V12: i32 = 150;

/// What kinds of state need more or less than the default. Source: what Synapse and the specification's example set.
const EVENT_LEVELS: [(&str, i32); 8] = [
    ("m.room.avatar", 50),
    ("m.room.canonical_alias", 50),
    ("m.room.encryption", 100),
    ("m.room.history_visibility", 100),
    ("m.room.name", 50),
    ("m.room.power_levels", 100),
    ("m.room.server_acl", 100),
    ("m.room.tombstone", 100),
];

/// Who gets which level.
pub struct PowerLevels<'a> {
    /// Who makes the room, and who else is a creator of it.
    pub creators: &'a [OwnedUserId],
    /// Who is as powerful as the creator, where levels say so.
    pub trusted: Vec<&'a UserId>,
    /// What the room is for.
    pub preset: Preset,
    /// Creators stand above all levels and may not be named in them.
    pub creators_are_privileged: bool,
}

impl PowerLevels<'_> {
    /// The content, with the top-level keys of `overrides` put over it.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when the override gives a creator a level that must have none.
    pub fn content(&self, overrides: Option<CanonicalJsonObject>) -> Result<CanonicalJsonObject, MatrixError> {
        let overrides = overrides.unwrap_or_default();
        if self.creators_are_privileged {
            let users = overrides.get("users").and_then(|users| users.as_object());
            if users.is_some_and(|users| self.creators.iter().any(|creator| users.contains_key(creator.as_str()))) {
                let words = "power_level_content_override names a creator, who is above all power levels";
                return Err(MatrixError::invalid_param(words));
            }
        }
        let mut content = self.defaults();
        content.extend(overrides);
        Ok(content)
    }

    fn defaults(&self) -> CanonicalJsonObject {
        let mut events: CanonicalJsonObject =
            EVENT_LEVELS.into_iter().map(|(kind, level)| (kind.to_owned(), integer(level))).collect();
        let mut users = CanonicalJsonObject::new();
        if self.creators_are_privileged {
            events.insert("m.room.tombstone".to_owned(), integer(TOMBSTONE_LEVEL_V12));
        } else {
            let strong = self.creators.iter().map(AsRef::as_ref).chain(self.trusted.iter().copied());
            users.extend(strong.map(|user: &UserId| (user.to_string(), integer(CREATOR_LEVEL))));
        }
        // In rooms of friends everybody may bring somebody; in public ones letting knocks in is the moderators' to do.
        let invite = match self.preset {
            Preset::Public => 50,
            Preset::Private | Preset::TrustedPrivate => 0,
        };
        let levels = [
            ("ban", 50),
            ("events_default", 0),
            ("invite", invite),
            ("kick", 50),
            ("redact", 50),
            ("state_default", 50),
            ("users_default", 0),
        ];
        let mut content: CanonicalJsonObject =
            levels.into_iter().map(|(key, level)| (key.to_owned(), integer(level))).collect();
        content.insert("events".to_owned(), CanonicalJsonValue::Object(events));
        content.insert("users".to_owned(), CanonicalJsonValue::Object(users));
        content
    }
}

fn integer(level: i32) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::from(level))
}
