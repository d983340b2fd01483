//! `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`: what a room is, for those who think of asking to be let in.
//! May not: show a room to somebody who can neither enter it, ask to, nor read it; to them it does not exist.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias>

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    OwnedRoomId, RoomId, RoomVersionId, UserId,
    api::client::room::get_summary,
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vestibule_protocol::room_version::RoomVersion;
use vestibule_storage::room::RoomRow;

use super::{
    public_rooms::entry::Entry,
    room_address::{RoomAddress, lives_here, may_query},
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma},
    restricted_join::{self, Vouching},
    state::App,
};

/// Where it is now, and the two places where clients of before Matrix 1.15 look.
const PATHS: [&str; 3] = [
    "/_matrix/client/v1/room_summary/{room_id_or_alias}",
    "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}",
    "/_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
];

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in PATHS {
        config.service(web::resource(path).get(room_summary));
    }
}

/// What is told: an entry of the room directory, and what matters before one enters.
#[derive(Debug, Deserialize, Serialize)]
struct RoomSummary {
    #[serde(flatten)]
    entry: Entry,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_version: Option<RoomVersionId>,
}

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    summary: RoomSummary,
    membership: MembershipState,
}

/// With a token only: the specification leaves it to us whether others may ask, and each may cost us requests.
async fn room_summary(
    caller: Caller,
    address: ClientAddress,
    app: Data<App>,
    Ruma(request): Ruma<get_summary::v1::Request>,
) -> Result<HttpResponse, MatrixError> {
    let room = RoomAddress::resolve(&app, address, &request.room_id_or_alias, request.via).await?;
    let membership = app.stores.rooms.membership(&caller.user_id, &room.room_id).await?;
    let membership = membership.map_or(MembershipState::Leave, |membership| membership.membership);
    let row = app.stores.rooms.room(&room.room_id).await?;
    let summary = match row {
        Some(row) if lives_here(&app, &room.room_id).await? => {
            summary(&app, &caller.user_id, &membership, &row).await?.ok_or_else(MatrixError::room_not_here)?
        }
        _ => elsewhere(&app, address, &caller.user_id, &room).await?,
    };
    Ok(HttpResponse::Ok().json(Answer { summary, membership }))
}

/// What the servers of a room say of it. They judge whether this server's users may know.
async fn elsewhere(
    app: &App,
    address: ClientAddress,
    user_id: &UserId,
    room: &RoomAddress,
) -> Result<RoomSummary, MatrixError> {
    let via = room.servers(app, user_id).await?;
    if let Some(first) = via.first() {
        may_query(app, address, first)?;
    }
    read(app.federation.room_summary(&room.room_id, &via).await?, &room.room_id)
}

fn read(told: Value, room_id: &RoomId) -> Result<RoomSummary, MatrixError> {
    let summary: Option<RoomSummary> = serde_json::from_value(told).ok();
    let of_this_room = summary.filter(|summary| summary.entry.room_id == *room_id);
    of_this_room.ok_or_else(|| MatrixError::bad_gateway("the other server's answer is no summary of this room"))
}

#[derive(Deserialize)]
struct EncryptionContent {
    algorithm: String,
}

/// The summary of a stored room. `None`: not for this user.
async fn summary(
    app: &App,
    user_id: &UserId,
    membership: &MembershipState,
    row: &RoomRow,
) -> Result<Option<RoomSummary>, MatrixError> {
    let rooms = &*app.stores.rooms;
    let entry = Entry::load(rooms, row).await?;
    let Some(version) = RoomVersion::lookup(&row.room_version) else { return Ok(None) };
    let allowed_room_ids = restricted_join::allowed_rooms(app, &row.room_id, &version).await?.unwrap_or_default();
    let is_known_to_user =
        matches!(membership, MembershipState::Join | MembershipState::Invite | MembershipState::Knock);
    if !is_known_to_user && !entry.is_open_to_strangers(&version) {
        let vouching = restricted_join::judge(app, &row.room_id, user_id).await?;
        if !matches!(vouching, Vouching::By(_) | Vouching::NobodyMayInvite) {
            return Ok(None);
        }
    }
    let encryption = rooms.current_state_event(&row.room_id, &StateEventType::RoomEncryption, "").await?;
    let encryption = encryption.and_then(|event| event.event.content_as::<EncryptionContent>());
    Ok(Some(RoomSummary {
        entry,
        allowed_room_ids,
        encryption: encryption.map(|content| content.algorithm),
        room_version: Some(row.room_version.clone()),
    }))
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;
    use crate::client_server::testing::server::TestServer;

    fn with_rule(join_rule: Value) -> Value {
        json!({"name": "Otters", "initial_state": [{"type": "m.room.join_rules", "content": join_rule}]})
    }

    #[actix_web::test]
    async fn those_who_can_ask_or_enter_are_told_and_others_find_nothing() {
        let server = TestServer::start().await;
        let (ann, bob) = (server.user("ann").await, server.user("bob").await);
        let space = ann.room(json!({"preset": "public_chat"})).await;
        let allow = json!([{"type": "m.room_membership", "room_id": space}]);
        let knockable = ann.room(with_rule(json!({"join_rule": "knock"}))).await;
        let restricted = ann.room(with_rule(json!({"join_rule": "restricted", "allow": allow}))).await;
        let closed = ann.room(with_rule(json!({"join_rule": "invite"}))).await;
        let path = |room: &str| format!("/_matrix/client/v1/room_summary/{room}");

        let told = bob.get_at(&path(&knockable)).await;
        assert_eq!(told["join_rule"], "knock");
        assert_eq!((&told["name"], &told["membership"]), (&json!("Otters"), &json!("leave")));
        assert_eq!((&told["num_joined_members"], &told["room_version"]), (&json!(1), &json!("12")));
        for old in ["summary/{}", "rooms/{}/summary"] {
            let path = format!("/_matrix/client/unstable/im.nheko.summary/{}", old.replace("{}", &knockable));
            assert_eq!(bob.get_at(&path).await, told, "{path}");
        }

        let nothing = (404, "M_NOT_FOUND".to_owned());
        for room in [restricted.as_str(), closed.as_str(), "!nowhere:us.test"] {
            assert_eq!(bob.get_refused_at(&path(room)).await, nothing, "{room}");
        }
        bob.post(&format!("/join/{space}"), json!({})).await;
        assert_eq!(bob.get_at(&path(&restricted)).await["allowed_room_ids"], json!([space]));
        ann.post(&format!("/rooms/{closed}/invite"), json!({"user_id": "@bob:us.test"})).await;
        assert_eq!(bob.get_at(&path(&closed)).await["membership"], "invite");
        assert_eq!(ann.get_at(&path(&closed)).await["membership"], "join");
    }

    #[test]
    fn another_servers_word_counts_for_the_room_that_was_asked_for() {
        let told = json!({
            "room_id": "!r:x", "num_joined_members": 2, "join_rule": "knock_restricted", "allowed_room_ids": ["!s:x"],
            "encryption": "m.megolm.v1.aes-sha2", "room_version": "10", "children_state": [], "odd": 5,
        });
        let summary = serde_json::to_value(read(told.clone(), room_id!("!r:x")).unwrap()).unwrap();
        for key in ["room_id", "join_rule", "allowed_room_ids", "encryption", "room_version"] {
            assert_eq!(summary[key], told[key], "{key}");
        }
        assert_eq!((summary.get("odd"), summary.get("children_state")), (None, None));
        assert_eq!(read(told, room_id!("!other:x")).unwrap_err().status, 502);
        for odd in [json!(null), json!({}), json!({"room_id": "!r:x"})] {
            assert_eq!(read(odd, room_id!("!r:x")).unwrap_err().status, 502);
        }
    }
}
