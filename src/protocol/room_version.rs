//! What each room version can do: one capability table, asked by name of the ability and never by number.
//! May not: compare room versions; they are opaque names without an order.

use ruma::{
    RoomId, RoomVersionId,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules},
};

/// Whether we make rooms of a version ourselves, or only understand it when a peer has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosting {
    /// Versions 6 to 12: canonical JSON is enforced, so what we sign has one meaning.
    Hosted,
    /// Versions 3 to 5: known from peers, never made here.
    Understood,
}

/// A room version that we know, with everything that depends on it.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/>
#[derive(Clone, Debug)]
pub struct RoomVersion {
    id: RoomVersionId,
    rules: RoomVersionRules,
    state_resolution: StateResolutionV2Rules,
    hosting: Hosting,
}

impl RoomVersion {
    /// Looks a version up. `None`: we cannot be in a room of that version (unknown, or 1 and 2, whose event ids and state
    /// resolution are of another kind).
    pub fn lookup(id: &RoomVersionId) -> Option<Self> {
        let hosting = match id {
            RoomVersionId::V3 | RoomVersionId::V4 | RoomVersionId::V5 => Hosting::Understood,
            RoomVersionId::V6
            | RoomVersionId::V7
            | RoomVersionId::V8
            | RoomVersionId::V9
            | RoomVersionId::V10
            | RoomVersionId::V11
            | RoomVersionId::V12 => Hosting::Hosted,
            _ => return None,
        };
        let rules = id.rules()?;
        let state_resolution = *rules.state_res.v2_rules()?;
        Some(Self { id: id.clone(), rules, state_resolution, hosting })
    }

    /// The versions of rooms that we can be in, oldest first: what we offer to other servers.
    pub fn known() -> Vec<RoomVersionId> {
        use RoomVersionId::{V3, V4, V5};
        [V3, V4, V5].into_iter().chain(Self::hosted()).collect()
    }

    /// The versions in which rooms can be made here, oldest first.
    pub fn hosted() -> Vec<RoomVersionId> {
        use RoomVersionId::{V6, V7, V8, V9, V10, V11, V12};
        vec![V6, V7, V8, V9, V10, V11, V12]
    }

    /// The version's name.
    pub fn id(&self) -> &RoomVersionId {
        &self.id
    }

    /// ruma's table of the version.
    pub fn rules(&self) -> &RoomVersionRules {
        &self.rules
    }

    /// The state resolution of the version.
    pub fn state_resolution(&self) -> &StateResolutionV2Rules {
        &self.state_resolution
    }

    /// Whether rooms of the version can be made here.
    pub fn hosting(&self) -> Hosting {
        self.hosting
    }

    /// Knocks exist (7 and later).
    pub fn can_knock(&self) -> bool {
        self.rules.authorization.knocking
    }

    /// The join rule `knock_restricted` exists (10 and later).
    pub fn can_knock_restricted(&self) -> bool {
        self.rules.authorization.knock_restricted_join_rule
    }

    /// The join rule `restricted` exists (8 and later).
    pub fn can_join_restricted(&self) -> bool {
        self.rules.authorization.restricted_join_rule
    }

    /// The room id is the hash of the create event, which is not among auth events (12).
    pub fn room_id_is_create_hash(&self) -> bool {
        self.rules.authorization.room_create_event_id_as_room_id
    }

    /// Whether a room of the version can have this id: a bare hash, or up to version 11 a name and a domain.
    pub fn fits_room_id(&self, room_id: &RoomId) -> bool {
        // 32 bytes in URL-safe base64 without padding.
        let is_hash = room_id.strip_sigil().len() == 43
            && room_id.strip_sigil().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if self.room_id_is_create_hash() { is_hash } else { room_id.server_name().is_some() }
    }

    /// Creators stand above all power levels (12).
    pub fn creators_are_privileged(&self) -> bool {
        self.rules.authorization.explicitly_privilege_room_creators
    }

    /// The create event names its `creator` in its content (up to 10).
    pub fn create_names_creator(&self) -> bool {
        !self.rules.authorization.use_room_create_sender
    }
}

impl PartialEq for RoomVersion {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for RoomVersion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abilities_are_those_of_the_specs_table() {
        // (version, hosted, knock, restricted, knock_restricted, create hash, creator in content)
        let table = [
            ("3", false, false, false, false, false, true),
            ("4", false, false, false, false, false, true),
            ("5", false, false, false, false, false, true),
            ("6", true, false, false, false, false, true),
            ("7", true, true, false, false, false, true),
            ("8", true, true, true, false, false, true),
            ("9", true, true, true, false, false, true),
            ("10", true, true, true, true, false, true),
            ("11", true, true, true, true, false, false),
            ("12", true, true, true, true, true, false),
        ];
        for (name, hosted, knock, restricted, knock_restricted, create_hash, creator) in table {
            let version = RoomVersion::lookup(&RoomVersionId::try_from(name).unwrap()).unwrap();
            assert_eq!(version.hosting() == Hosting::Hosted, hosted, "{name}");
            assert_eq!(version.can_knock(), knock, "{name}");
            assert_eq!(version.can_join_restricted(), restricted, "{name}");
            assert_eq!(version.can_knock_restricted(), knock_restricted, "{name}");
            assert_eq!(version.room_id_is_create_hash(), create_hash, "{name}");
            assert_eq!(version.creators_are_privileged(), create_hash, "{name}");
            assert_eq!(version.create_names_creator(), creator, "{name}");
        }
        for name in ["1", "2", "13", "07", "org.example.1"] {
            assert!(RoomVersion::lookup(&RoomVersionId::try_from(name).unwrap()).is_none(), "{name}");
        }
    }
}
