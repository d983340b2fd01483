//! `GET /_matrix/federation/v1/hierarchy/{roomId}`: a room's summary and, of a space, its children's.
//! May not: show a room to a server whose users could neither read it, nor enter it, nor ask to be let in.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>

use std::collections::BTreeSet;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, ServiceConfig},
};
use ruma::{
    EventEncryptionAlgorithm, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::RoomType,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use vestibule_actors::{AskError, CheckReader};
use vestibule_protocol::{membership::ReadRefusal, pdu::Pdu, room_version::RoomVersion};
use vestibule_storage::{error::StorageError, room::RoomRow};

use super::{
    handshake::overload_pause,
    raw_query,
    readers::{Reading, is_user_of},
};
use crate::{
    client_server::public_rooms::entry::Entry,
    error::MatrixError,
    extract::{PathArguments, Signed},
    restricted_join,
    state::App,
};

/// Children of a space that are looked at. Ours; Synapse stops at 50.
const CHILDREN_MAX: usize = 100;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/_matrix/federation/v1/hierarchy/{roomId}").route(web::get().to(hierarchy)));
}

#[derive(Serialize)]
struct Answer<'a> {
    room: Parent<'a>,
    children: Vec<Summary>,
    inaccessible_children: Vec<OwnedRoomId>,
}

#[derive(Serialize)]
struct Parent<'a> {
    #[serde(flatten)]
    summary: Summary,
    children_state: Vec<ChildState<'a>>,
}

/// What is told of a room: as in the directory, and what one needs to know to enter.
#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    entry: Entry,
    room_version: RoomVersionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<EventEncryptionAlgorithm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_room_ids: Vec<OwnedRoomId>,
}

/// A child in the space's state: as strangers see it, and when it was made one.
#[derive(Serialize)]
struct ChildState<'a> {
    content: &'a RawValue,
    origin_server_ts: u64,
    sender: &'a UserId,
    state_key: &'a str,
    #[serde(rename = "type")]
    kind: &'a StateEventType,
}

#[derive(Deserialize)]
struct ChildContent {
    #[serde(default)]
    via: Vec<OwnedServerName>,
    #[serde(default)]
    suggested: bool,
}

#[derive(Deserialize)]
struct EncryptionContent {
    algorithm: EventEncryptionAlgorithm,
}

async fn hierarchy(signed: Signed, request: HttpRequest, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    app.limits.hold_query_of(&signed.origin, &*app.clock).await?;
    let room_id: OwnedRoomId = PathArguments::of_request(&request)?.parse(0, "roomId")?;
    let suggested_only =
        raw_query::first(request.query_string(), "suggested_only").is_some_and(|value| value == "true");
    let Known::Shown(summary) = Known::of(&app, &room_id, &signed.origin).await? else {
        return Err(MatrixError::room_not_here());
    };
    let kind = StateEventType::SpaceChild;
    let is_space = summary.entry.room_type == Some(RoomType::Space);
    let state = if is_space { app.stores.rooms.current_state_of_type(&room_id, &kind).await? } else { Vec::new() };
    let children_state: Vec<ChildState<'_>> =
        state.iter().filter_map(|child| child_state(&child.event, &kind, suggested_only)).take(CHILDREN_MAX).collect();
    let mut children = Vec::new();
    let mut inaccessible_children = Vec::new();
    // A space may hold itself; it is told once, as the parent.
    let mut seen = BTreeSet::from([room_id.clone()]);
    for child in children_state.iter().filter_map(|child| RoomId::parse(child.state_key).ok()) {
        if !seen.insert(child.clone()) {
            continue;
        }
        match Known::of(&app, &child, &signed.origin).await? {
            Known::Shown(summary) => children.push(*summary),
            Known::Hidden => inaccessible_children.push(child),
            Known::Elsewhere => {}
        }
    }
    let room = Parent { summary: *summary, children_state };
    Ok(HttpResponse::Ok().json(Answer { room, children, inaccessible_children }))
}

/// A child, unless it was taken out again: without a server to enter it through there is none.
fn child_state<'a>(event: &'a Pdu, kind: &'a StateEventType, suggested_only: bool) -> Option<ChildState<'a>> {
    let content = event.content_as::<ChildContent>().filter(|content| !content.via.is_empty())?;
    let is_wanted = content.suggested || !suggested_only;
    is_wanted.then_some(ChildState {
        content: event.content(),
        origin_server_ts: event.origin_server_ts().0,
        sender: event.sender(),
        state_key: event.state_key()?,
        kind,
    })
}

/// What we can say of a room to a server.
enum Known {
    /// It may know of it.
    Shown(Box<Summary>),
    /// We are in it, and the server has no way in.
    Hidden,
    /// We are not in it.
    Elsewhere,
}

impl Known {
    async fn of(app: &App, room_id: &RoomId, origin: &ServerName) -> Result<Self, MatrixError> {
        let is_inside = match presence(app, room_id, origin).await? {
            Some(is_inside) => is_inside,
            None => return Ok(Self::Elsewhere),
        };
        let Some(row) = app.stores.rooms.room(room_id).await? else { return Ok(Self::Elsewhere) };
        let Some(version) = RoomVersion::lookup(&row.room_version) else { return Ok(Self::Elsewhere) };
        let entry = Entry::load(&*app.stores.rooms, &row).await?;
        let allowed_room_ids = restricted_join::allowed_rooms(app, room_id, &version).await?.unwrap_or_default();
        let is_shown = is_inside
            || entry.is_open_to_strangers(&version)
            || is_in_one_of(app, &allowed_room_ids, origin).await?
            || has_invited_user(app, &row, origin).await?;
        if !is_shown {
            return Ok(Self::Hidden);
        }
        let encryption = app.stores.rooms.current_state_event(room_id, &StateEventType::RoomEncryption, "").await?;
        let encryption = encryption.and_then(|event| event.event.content_as::<EncryptionContent>());
        Ok(Self::Shown(Box::new(Summary {
            entry,
            room_version: row.room_version,
            encryption: encryption.map(|content| content.algorithm),
            allowed_room_ids,
        })))
    }
}

/// Whether the server has a joined user in the room. `None`: we are not in it ourselves.
async fn presence(app: &App, room_id: &RoomId, origin: &ServerName) -> Result<Option<bool>, MatrixError> {
    let attempt = || app.rooms.ask(room_id, CheckReader { origin: origin.to_owned(), reading: Reading::Room });
    match app.limits.hold_until(&*app.clock, attempt, overload_pause).await {
        Ok(_) => Ok(Some(true)),
        Err(AskError::Refused(ReadRefusal::ReaderNotInRoom | ReadRefusal::ServerDenied)) => Ok(Some(false)),
        Err(AskError::RoomNotHere | AskError::Refused(ReadRefusal::ServerNotInRoom)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a user of the server is invited, and so may enter whatever the join rule says.
async fn has_invited_user(app: &App, room: &RoomRow, origin: &ServerName) -> Result<bool, StorageError> {
    if room.counts.invite == 0 {
        return Ok(false);
    }
    let members = app.stores.rooms.current_state_of_type(&room.room_id, &StateEventType::RoomMember).await?;
    Ok(members.iter().any(|member| {
        member.event.membership() == Some(MembershipState::Invite)
            && member.event.state_key().is_some_and(|state_key| is_user_of(state_key, origin))
    }))
}

async fn is_in_one_of(app: &App, rooms: &[OwnedRoomId], origin: &ServerName) -> Result<bool, MatrixError> {
    for room_id in rooms.iter().take(restricted_join::ALLOW_ROOMS_MAX) {
        if presence(app, room_id, origin).await? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}
