//! Who of ours vouches for a join into a room with restricted joins, for users of any server.
//! May not: let anybody in; the room applies the rules.
//!
//! Judged here and not in the room, because it depends on memberships in *other* rooms, which a room's turn cannot wait for.
//! The room judges the result by the authorization rules (is that member inside, may that member invite); whether the user is
//! a member of an allowed room is what this server vouches for with its signature.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use vestibule_actors::AskError;
use vestibule_protocol::{
    membership::KnockRefusal,
    room_version::RoomVersion,
    state::{PowerAction, StateMap},
};
use vestibule_storage::error::StorageError;

use crate::state::App;

/// Rooms whose membership lets one in that are looked at. Ours: spaces have a few; the event that lists them could hold a
/// thousand.
pub const ALLOW_ROOMS_MAX: usize = 100;

/// What this server can say for a user who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouching {
    /// Nobody needs to vouch: the room has no restricted joins, or the user is in it or invited.
    NotNeeded,
    /// The user is in an allowed room, and this member of ours may invite.
    By(OwnedUserId),
    /// The user is in none of the allowed rooms, all of which we are in.
    NotAMember,
    /// The user is in none of those allowed rooms that we are in, and there are others.
    CannotJudge,
    /// The user is in an allowed room, and none of ours may invite.
    NobodyMayInvite,
}

#[derive(Deserialize)]
struct JoinRulesContent {
    join_rule: String,
    #[serde(default)]
    allow: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct AllowRule {
    #[serde(rename = "type")]
    kind: String,
    room_id: OwnedRoomId,
}

/// Judges the condition of the room's join rule for a user, and finds the member of ours who vouches.
///
/// # Errors
/// When the store cannot be read.
pub async fn judge(app: &App, room_id: &RoomId, user_id: &UserId) -> Result<Vouching, StorageError> {
    let rooms = &app.stores.rooms;
    let Some(room) = rooms.room(room_id).await? else { return Ok(Vouching::NotNeeded) };
    let Some(version) = RoomVersion::lookup(&room.room_version) else { return Ok(Vouching::NotNeeded) };
    if matches!(membership(app, room_id, user_id).await?, Some(MembershipState::Join | MembershipState::Invite)) {
        return Ok(Vouching::NotNeeded);
    }
    let Some(allow_rooms) = allowed_rooms(app, room_id, &version).await? else { return Ok(Vouching::NotNeeded) };
    let mut knows_all = allow_rooms.len() <= ALLOW_ROOMS_MAX;
    for allowed in allow_rooms.iter().take(ALLOW_ROOMS_MAX) {
        if !is_lived_in(app, allowed).await {
            knows_all = false;
        } else if membership(app, allowed, user_id).await? == Some(MembershipState::Join) {
            let member = member_who_may_invite(app, room_id, &version).await?;
            return Ok(member.map_or(Vouching::NobodyMayInvite, Vouching::By));
        }
    }
    Ok(if knows_all { Vouching::NotAMember } else { Vouching::CannotJudge })
}

/// The rooms whose members may join, as the room's join rule says. `None`: it knows no such thing.
///
/// # Errors
/// When the store cannot be read.
pub async fn allowed_rooms(
    app: &App,
    room_id: &RoomId,
    version: &RoomVersion,
) -> Result<Option<Vec<OwnedRoomId>>, StorageError> {
    let join_rules = app.stores.rooms.current_state_event(room_id, &StateEventType::RoomJoinRules, "").await?;
    let content = join_rules.as_ref().and_then(|event| event.event.content_as::<JoinRulesContent>());
    Ok(content.and_then(|content| allow_rooms(content, version)))
}

/// From the current state, which knows users of all servers.
async fn membership(app: &App, room_id: &RoomId, user_id: &UserId) -> Result<Option<MembershipState>, StorageError> {
    let rooms = &app.stores.rooms;
    let member = rooms.current_state_event(room_id, &StateEventType::RoomMember, user_id.as_str()).await?;
    Ok(member.and_then(|member| member.event.membership()))
}

/// Whether what we know of a room is how it is: somebody of ours is in it. A room that cannot be asked counts as unknown.
async fn is_lived_in(app: &App, room_id: &RoomId) -> bool {
    let asked = app.rooms.check_door(room_id, app.server_name()).await;
    matches!(asked, Ok(_) | Err(AskError::Refused(KnockRefusal::ServerDenied)))
}

/// The rooms whose members may join. `None`: the join rule or the room version knows no such thing.
fn allow_rooms(content: JoinRulesContent, version: &RoomVersion) -> Option<Vec<OwnedRoomId>> {
    let is_restricted = match content.join_rule.as_str() {
        "restricted" => version.can_join_restricted(),
        "knock_restricted" => version.can_knock_restricted(),
        _ => false,
    };
    if !is_restricted {
        return None;
    }
    let rules = content.allow.into_iter().filter_map(|rule| serde_json::from_value::<AllowRule>(rule).ok());
    Some(rules.filter(|rule| rule.kind == "m.room_membership").map(|rule| rule.room_id).collect())
}

/// The local member with the most power, if that is enough to invite.
async fn member_who_may_invite(
    app: &App,
    room_id: &RoomId,
    version: &RoomVersion,
) -> Result<Option<OwnedUserId>, StorageError> {
    let rooms = &app.stores.rooms;
    let mut events = rooms.current_state_of_type(room_id, &StateEventType::RoomMember).await?;
    for kind in [StateEventType::RoomCreate, StateEventType::RoomPowerLevels] {
        events.extend(rooms.current_state_event(room_id, &kind, "").await?);
    }
    let state: StateMap = events.into_iter().map(|event| event.event).collect();
    let needed = state.power_for(PowerAction::Invite, version);
    let ours = state.users_with(&MembershipState::Join).into_iter().filter(|user| app.is_ours(user.server_name()));
    let strongest = ours.max_by_key(|user| state.power_of(user, version));
    Ok(strongest.filter(|user| state.power_of(user, version) >= needed))
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, owned_room_id};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_restricted_rules_of_the_version_name_rooms() {
        let table = [
            ("restricted", RoomVersionId::V7, false),
            ("restricted", RoomVersionId::V8, true),
            ("knock_restricted", RoomVersionId::V9, false),
            ("knock_restricted", RoomVersionId::V10, true),
            ("knock", RoomVersionId::V10, false),
            ("public", RoomVersionId::V12, false),
        ];
        for (join_rule, version, expected) in table {
            let content = serde_json::from_value(json!({
                "join_rule": join_rule,
                "allow": [
                    {"type": "m.room_membership", "room_id": "!a:x"},
                    {"type": "org.example.other", "room_id": "!b:x"},
                    {"type": "m.room_membership", "room_id": 5},
                    "nonsense",
                ],
            }))
            .unwrap();
            let found = allow_rooms(content, &RoomVersion::lookup(&version).unwrap());
            let wanted = expected.then(|| vec![owned_room_id!("!a:x")]);
            assert_eq!(found, wanted, "{join_rule} {version}");
        }
    }
}
