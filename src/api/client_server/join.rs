//! `POST /_matrix/client/v3/join/{roomIdOrAlias}` and `/rooms/{roomId}/join`.
//! May not: let anybody in; the room applies the rules. For restricted rooms it is found out here which member vouches.

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::membership::{join_room_by_id, join_room_by_id_or_alias},
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use vestibule_actors::MembershipChange;
use vestibule_protocol::{
    room_version::RoomVersion,
    state::{PowerAction, StateMap},
};
use vestibule_storage::error::StorageError;

use super::{
    member_content::reason_content,
    paths::each,
    room_address::{local_room, require_stored},
    rooms_membership::{WantedChange, change_membership},
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    state::App,
};

/// Rooms whose membership lets one in that are looked at. Ours: spaces have a few; the event that lists them could hold a
/// thousand.
const ALLOW_ROOMS_MAX: usize = 100;

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/join/{room_id_or_alias}") {
        config.service(web::resource(path).post(join_by_address));
    }
    for path in each("/rooms/{room_id}/join") {
        config.service(web::resource(path).post(join_by_id));
    }
}

async fn join_by_address(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<join_room_by_id_or_alias::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let room_id = local_room(&app, &request.room_id_or_alias).await?;
    join(&app, caller.user_id, &room_id, reason_content(request.reason), address).await?;
    answer(join_room_by_id_or_alias::v3::Response::new(room_id))
}

async fn join_by_id(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<join_room_by_id::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    require_stored(&app, &request.room_id).await?;
    join(&app, caller.user_id, &request.room_id, reason_content(request.reason), address).await?;
    answer(join_room_by_id::v3::Response::new(request.room_id))
}

async fn join(
    app: &App,
    user_id: OwnedUserId,
    room_id: &RoomId,
    content: CanonicalJsonObject,
    address: ClientAddress,
) -> Result<(), MatrixError> {
    let change = MembershipChange::Join;
    let wanted = WantedChange { sender: user_id.clone(), room_id, target: user_id, change, content, address };
    change_membership(app, wanted).await?;
    Ok(())
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

/// The local member who vouches for a join into a room with restricted joins. `None`: none is needed, or none can.
///
/// Decided here and not in the room, because it depends on memberships in *other* rooms, which a room's turn cannot wait
/// for. The room judges the result by the authorization rules (is that member inside, may that member invite); whether the
/// user is a member of an allowed room is what this server vouches for with its signature.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
///
/// # Errors
/// When the store cannot be read.
pub async fn authorizing_user(
    app: &App,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<Option<OwnedUserId>, StorageError> {
    let rooms = &app.stores.rooms;
    let Some(room) = rooms.room(room_id).await? else { return Ok(None) };
    let Some(version) = RoomVersion::lookup(&room.room_version) else { return Ok(None) };
    let membership = rooms.membership(user_id, room_id).await?.map(|membership| membership.membership);
    if matches!(membership, Some(MembershipState::Join | MembershipState::Invite)) {
        return Ok(None);
    }
    let join_rules = rooms.current_state_event(room_id, &StateEventType::RoomJoinRules, "").await?;
    let allow_rooms = join_rules
        .and_then(|event| event.event.content_as::<JoinRulesContent>())
        .map(|content| allow_rooms(content, &version))
        .unwrap_or_default();
    for allowed in allow_rooms.iter().take(ALLOW_ROOMS_MAX) {
        let there = rooms.membership(user_id, allowed).await?;
        if there.is_some_and(|there| there.membership == MembershipState::Join) {
            return member_who_may_invite(app, room_id, &version).await;
        }
    }
    Ok(None)
}

/// The rooms whose members may join. Empty when the join rule or the room version knows no such thing.
fn allow_rooms(content: JoinRulesContent, version: &RoomVersion) -> Vec<OwnedRoomId> {
    let is_restricted = match content.join_rule.as_str() {
        "restricted" => version.can_join_restricted(),
        "knock_restricted" => version.can_knock_restricted(),
        _ => false,
    };
    if !is_restricted {
        return Vec::new();
    }
    let rules = content.allow.into_iter().filter_map(|rule| serde_json::from_value::<AllowRule>(rule).ok());
    rules.filter(|rule| rule.kind == "m.room_membership").map(|rule| rule.room_id).collect()
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
            let wanted = if expected { vec![owned_room_id!("!a:x")] } else { Vec::new() };
            assert_eq!(found, wanted, "{join_rule} {version}");
        }
    }
}
