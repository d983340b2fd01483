//! Power levels across an upgrade: those of the new room, and those that close the old one.
//! May not: give anybody lasting power that they did not have.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>

use std::collections::BTreeSet;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedUserId, UserId, events::StateEventType,
    state_res::events::RoomCreateEvent,
};

use super::Upgrade;

/// Levels that stand at the top of the content.
const LEVELS: [&str; 7] = ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"];

/// Levels by name, one floor down.
const MAPS: [&str; 3] = ["events", "notifications", "users"];

/// What a creator has where levels say so, and no power levels event does.
const CREATOR_LEVEL: i32 = 100;

/// What `ban` and `state_default` are when the event does not name them.
const ACTION_DEFAULT: i32 = 50;

/// The least that closing a room for good needs where creators stand above all levels, so that it is theirs to do. Source:
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
const TOMBSTONE_LEVEL: i32 = 150;

/// The least that talking on and inviting need in a room that was replaced. Source: the specification's example.
const CLOSED_LEVEL: i32 = 50;

/// The power levels that a new room begins with.
pub(super) struct NewLevels {
    /// The first ones: who upgrades may do all that there is to do.
    pub(super) first: CanonicalJsonObject,
    /// Those that come when all is done and stay, if they are others.
    pub(super) last: Option<CanonicalJsonObject>,
}

impl Upgrade {
    pub(super) fn levels(&self, banned: &[&UserId]) -> NewLevels {
        let lasting = self.lasting_levels();
        if self.new_version.creators_are_privileged() {
            return NewLevels { first: lasting, last: None };
        }
        let needed = needed_level(&lasting, banned);
        if level_of_user(&lasting, &self.user_id) >= needed {
            return NewLevels { first: lasting, last: None };
        }
        let mut first = lasting.clone();
        set_in(&mut first, "users", self.user_id.as_str(), needed);
        NewLevels { first, last: Some(lasting) }
    }

    fn lasting_levels(&self) -> CanonicalJsonObject {
        let creators_before = self.creators_before();
        let mut content = match self.content(&StateEventType::RoomPowerLevels, "") {
            Some(content) => as_integers(content),
            None => self.unwritten_levels(&creators_before),
        };
        if self.new_version.creators_are_privileged() {
            if let Some(CanonicalJsonValue::Object(users)) = content.get_mut("users") {
                for creator in self.creators() {
                    users.remove(creator.as_str());
                }
            }
            let state_default = level(&content, "state_default", ACTION_DEFAULT);
            if level_in(&content, "events", "m.room.tombstone").is_none_or(|tombstone| tombstone <= state_default) {
                let above = state_default.saturating_add(Int::from(1)).max(Int::from(TOMBSTONE_LEVEL));
                set_in(&mut content, "events", "m.room.tombstone", above);
            }
        } else if self.old_version.creators_are_privileged() {
            // They stood above all levels, and now need one.
            let highest = all_levels(&content).fold(Int::from(CREATOR_LEVEL), Int::max);
            for creator in &creators_before {
                set_in(&mut content, "users", creator.as_str(), highest);
            }
        }
        content
    }

    /// What a room without power levels means: everybody may set its state.
    fn unwritten_levels(&self, creators_before: &BTreeSet<OwnedUserId>) -> CanonicalJsonObject {
        let mut content =
            CanonicalJsonObject::from([("state_default".to_owned(), CanonicalJsonValue::Integer(Int::from(0)))]);
        if !self.old_version.creators_are_privileged() {
            for creator in creators_before {
                set_in(&mut content, "users", creator.as_str(), Int::from(CREATOR_LEVEL));
            }
        }
        content
    }

    fn creators_before(&self) -> BTreeSet<OwnedUserId> {
        let rules = &self.old_version.rules().authorization;
        let create = self.old.create().map(|create| RoomCreateEvent::new(create.clone()));
        create.and_then(|create| create.creators(rules).ok()).into_iter().flatten().collect()
    }
}

/// The power levels of a room that was replaced: only who has at least some power talks on or invites, and so accepts knocks
/// that still wait. `None`: they say so already.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>
pub fn closed_power_levels(content: CanonicalJsonObject) -> Option<CanonicalJsonObject> {
    let mut content = as_integers(content);
    let above_all = level(&content, "users_default", 0).saturating_add(Int::from(1));
    let closed = above_all.max(Int::from(CLOSED_LEVEL));
    let mut is_changed = false;
    for key in ["events_default", "invite"] {
        if level(&content, key, 0) < closed {
            content.insert(key.to_owned(), CanonicalJsonValue::Integer(closed));
            is_changed = true;
        }
    }
    is_changed.then_some(content)
}

/// What sending all state, and banning those who are banned, needs.
fn needed_level(content: &CanonicalJsonObject, banned: &[&UserId]) -> Int {
    let by_type = levels_in(content, "events");
    let state = by_type.fold(level(content, "state_default", ACTION_DEFAULT), Int::max);
    let above_banned = banned.iter().map(|user_id| level_of_user(content, user_id).saturating_add(Int::from(1)));
    let bans = above_banned.fold(level(content, "ban", ACTION_DEFAULT), Int::max);
    if banned.is_empty() { state } else { state.max(bans) }
}

/// Versions up to 9 also take levels in strings, later ones do not. What is no level at all never counted.
fn as_integers(mut content: CanonicalJsonObject) -> CanonicalJsonObject {
    content.retain(|key, value| match value {
        value if LEVELS.contains(&key.as_str()) => becomes_integer(value),
        CanonicalJsonValue::Object(map) if MAPS.contains(&key.as_str()) => {
            map.retain(|_, value| becomes_integer(value));
            true
        }
        _ => !MAPS.contains(&key.as_str()),
    });
    content
}

fn becomes_integer(value: &mut CanonicalJsonValue) -> bool {
    if let CanonicalJsonValue::String(text) = value {
        let Some(level) = text.trim().parse().ok().and_then(Int::new) else { return false };
        *value = CanonicalJsonValue::Integer(level);
    }
    value.is_integer()
}

fn level(content: &CanonicalJsonObject, key: &str, default: i32) -> Int {
    content.get(key).and_then(CanonicalJsonValue::as_integer).unwrap_or(Int::from(default))
}

fn level_of_user(content: &CanonicalJsonObject, user_id: &UserId) -> Int {
    level_in(content, "users", user_id.as_str()).unwrap_or_else(|| level(content, "users_default", 0))
}

fn level_in(content: &CanonicalJsonObject, map: &str, key: &str) -> Option<Int> {
    content.get(map)?.as_object()?.get(key)?.as_integer()
}

fn levels_in<'a>(content: &'a CanonicalJsonObject, map: &str) -> impl Iterator<Item = Int> + use<'a> {
    let map = content.get(map).and_then(CanonicalJsonValue::as_object);
    map.into_iter().flatten().filter_map(|(_, value)| value.as_integer())
}

/// All levels that decide who may do what.
fn all_levels(content: &CanonicalJsonObject) -> impl Iterator<Item = Int> {
    let single = LEVELS.iter().filter_map(|key| content.get(*key)?.as_integer());
    single.chain(levels_in(content, "events")).chain(levels_in(content, "users"))
}

fn set_in(content: &mut CanonicalJsonObject, map: &str, key: &str, level: Int) {
    let entry = content.entry(map.to_owned()).or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    if let CanonicalJsonValue::Object(entries) = entry {
        entries.insert(key.to_owned(), CanonicalJsonValue::Integer(level));
    }
}
