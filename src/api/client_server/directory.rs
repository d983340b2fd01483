//! `/_matrix/client/v3/directory/…` and `/rooms/{roomId}/aliases`: what aliases stand for, those of this server, and which of
//! its rooms are listed.
//! May not: let an alias be moved by anybody but its maker, the room's powerful, or an admin (SECURITY V47).
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>

pub mod alias;
pub mod standing;

use actix_web::{HttpResponse, web};
use ruma::{
    CanonicalJsonObject, OwnedRoomAliasId, RoomId, UserId,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        directory::{get_room_visibility, set_room_visibility},
        room::{Visibility, aliases},
    },
    events::{StateEventType, TimelineEventType},
};
use vestibule_actors::SendEvent;
use vestibule_storage::accounts::{AccountChange, Alias};

use self::{alias::without_aliases, standing::Standing};
use super::{
    commit::commit,
    paths::each,
    room_address::{require_stored, resolve_alias},
};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, Ruma, answer},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource(each("/directory/room/{room_alias}")).get(get_alias).put(create_alias).delete(delete_alias),
        )
        .service(web::resource(each("/directory/list/room/{room_id}")).get(get_visibility).put(set_visibility))
        .service(web::resource(each("/rooms/{room_id}/aliases")).get(aliases));
}

async fn get_alias(
    address: ClientAddress,
    app: web::Data<App>,
    Ruma(request): Ruma<get_alias::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let found = resolve_alias(&app, address, &request.room_alias).await?;
    answer(get_alias::v3::Response::new(found.room_id, found.servers))
}

async fn create_alias(
    caller: Caller,
    app: web::Data<App>,
    Ruma(request): Ruma<create_alias::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    alias::check_ours(&request.room_alias, app.server_name())?;
    require_stored(&app, &request.room_id).await?;
    let standing = Standing::load(&*app.stores.rooms, &request.room_id, &caller.user_id).await?;
    if !standing.is_joined() {
        return Err(MatrixError::forbidden("only members of the room can give it an alias"));
    }
    if app.stores.accounts.aliases_of(&request.room_id).await?.len() >= alias::ALIASES_PER_ROOM_MAX {
        return Err(MatrixError::forbidden("the room has as many aliases as a room can have"));
    }
    let alias = Alias { alias: request.room_alias, room_id: request.room_id, creator: caller.user_id };
    commit(&app.stores, vec![AccountChange::CreateAlias(alias)]).await?;
    answer(create_alias::v3::Response::new())
}

async fn delete_alias(
    caller: Caller,
    app: web::Data<App>,
    Ruma(request): Ruma<delete_alias::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let found = app.stores.accounts.alias(&request.room_alias).await?;
    let found = found.ok_or_else(|| MatrixError::not_found("unknown alias"))?;
    let standing = Standing::load(&*app.stores.rooms, &found.room_id, &caller.user_id).await?;
    let may_delete = found.creator == caller.user_id || caller.is_admin || standing.may_name_room();
    if !may_delete {
        return Err(MatrixError::forbidden("only the alias's maker, or who may change the main alias, can remove it"));
    }
    commit(&app.stores, vec![AccountChange::DeleteAlias(request.room_alias.clone())]).await?;
    if standing.may_name_room() {
        forget_in_room(&app, &caller.user_id, &found.room_id, std::slice::from_ref(&request.room_alias)).await;
    }
    answer(delete_alias::v3::Response::new())
}

/// Takes aliases that do not lead to the room any more out of its list of aliases. They are gone either way.
pub async fn forget_in_room(app: &App, user_id: &UserId, room_id: &RoomId, gone: &[OwnedRoomAliasId]) {
    let listed = app.stores.rooms.current_state_event(room_id, &StateEventType::RoomCanonicalAlias, "").await;
    let content: Option<CanonicalJsonObject> = match &listed {
        Ok(Some(stored)) => stored.event.content_object(),
        _ => None,
    };
    let Some(content) = content.and_then(|content| without_aliases(content, gone)) else { return };
    let message = SendEvent {
        sender: user_id.to_owned(),
        kind: TimelineEventType::RoomCanonicalAlias,
        state_key: Some(String::new()),
        content,
        redacts: None,
        transaction: None,
    };
    if let Err(error) = app.rooms.ask(room_id, message).await.map_err(MatrixError::from) {
        log::debug!(room_id:%, error:%; "a room kept an alias that is gone");
    }
}

async fn get_visibility(
    app: web::Data<App>,
    Ruma(request): Ruma<get_room_visibility::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    require_stored(&app, &request.room_id).await?;
    let is_published = app.stores.accounts.is_published(&request.room_id).await?;
    let visibility = if is_published { Visibility::Public } else { Visibility::Private };
    answer(get_room_visibility::v3::Response::new(visibility))
}

async fn set_visibility(
    caller: Caller,
    app: web::Data<App>,
    Ruma(request): Ruma<set_room_visibility::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let is_published = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(MatrixError::invalid_param("visibility must be public or private")),
    };
    require_stored(&app, &request.room_id).await?;
    let standing = Standing::load(&*app.stores.rooms, &request.room_id, &caller.user_id).await?;
    if !standing.may_name_room() && !caller.is_admin {
        return Err(MatrixError::forbidden("only members who may change the main alias can list the room"));
    }
    commit(&app.stores, vec![AccountChange::SetPublished { room_id: request.room_id, is_published }]).await?;
    answer(set_room_visibility::v3::Response::new())
}

async fn aliases(
    caller: Caller,
    app: web::Data<App>,
    Ruma(request): Ruma<aliases::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let standing = Standing::load(&*app.stores.rooms, &request.room_id, &caller.user_id).await?;
    if !standing.is_joined() && !standing.is_world_readable() {
        return Err(MatrixError::forbidden("not in this room"));
    }
    let rows = app.stores.accounts.aliases_of(&request.room_id).await?;
    answer(aliases::v3::Response::new(rows.into_iter().map(|row| row.alias).collect()))
}

#[cfg(test)]
mod tests;
