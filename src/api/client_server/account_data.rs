//! `GET`, `PUT /_matrix/client/v3/user/{userId}/account_data/{type}` and the same under `/rooms/{roomId}`.
//! May not: let clients set what the server keeps by other ways.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use actix_web::{HttpResponse, http::StatusCode, web};
use ruma::{OwnedRoomId, RoomId, api::error::ErrorCode};
use serde_json::{Map, Value, json};
use vestibule_storage::accounts::AccountChange;

use super::{
    commit::commit,
    json_body::JsonBody,
    own_path::check_own,
    paths::each,
    pushrules::{PUSH_RULES, PushRules},
};
use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// Longest type of account data in bytes, as for all events.
const KIND_BYTES_MAX: usize = 255;

/// Largest content in bytes. Ours: twice what an event may have, since lists of direct chats and of ignored users grow.
const CONTENT_BYTES_MAX: usize = 128 * 1024;

/// What has endpoints of its own.
const KEPT_OTHERWISE: [&str; 2] = [FULLY_READ, PUSH_RULES];
const FULLY_READ: &str = "m.fully_read";

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/user/{user_id}/account_data/{type}")).get(get_global).put(put_global)).service(
        web::resource(each("/user/{user_id}/rooms/{room_id}/account_data/{type}")).get(get_of_room).put(put_of_room),
    );
}

async fn get_global(caller: Caller, path: PathArguments, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    check_own(&caller, &path)?;
    if path.get(1) == PUSH_RULES {
        let rules = PushRules::load(&*app.stores.accounts, &caller.user_id).await?;
        return Ok(HttpResponse::Ok().json(rules.content()));
    }
    get(&app, &caller, None, path.get(1)).await
}

async fn get_of_room(caller: Caller, path: PathArguments, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    check_own(&caller, &path)?;
    get(&app, &caller, Some(named_room(&path)?), path.get(2)).await
}

async fn put_global(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> Result<HttpResponse, MatrixError> {
    check_own(&caller, &path)?;
    put(&app, caller, None, path.get(1), content).await
}

async fn put_of_room(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> Result<HttpResponse, MatrixError> {
    check_own(&caller, &path)?;
    let room_id = named_room(&path)?.to_owned();
    put(&app, caller, Some(room_id), path.get(2), content).await
}

/// The room of the path. It need not be one that we know, so it is judged as a name alone; the sigil is none.
fn named_room(path: &PathArguments) -> Result<&RoomId, MatrixError> {
    let room_id: &RoomId = path.parse(1, "room id")?;
    if room_id.strip_sigil().is_empty() {
        return Err(MatrixError::invalid_param("room id: there is nothing behind the !"));
    }
    Ok(room_id)
}

async fn get(app: &App, caller: &Caller, room_id: Option<&RoomId>, kind: &str) -> Result<HttpResponse, MatrixError> {
    let row = app.stores.accounts.account_data(&caller.user_id, room_id, kind).await?;
    let row = row.ok_or_else(|| MatrixError::not_found("no such account data"))?;
    Ok(HttpResponse::Ok().content_type("application/json").body(row.content))
}

async fn put(
    app: &App,
    caller: Caller,
    room_id: Option<OwnedRoomId>,
    kind: &str,
    content: Map<String, Value>,
) -> Result<HttpResponse, MatrixError> {
    check_kind(kind)?;
    let content = Value::Object(content).to_string();
    if content.len() > CONTENT_BYTES_MAX {
        return Err(MatrixError::too_large("account data has 128 KiB at most"));
    }
    let change = AccountChange::PutAccountData { user_id: caller.user_id, room_id, kind: kind.to_owned(), content };
    commit(&app.stores, vec![change]).await?;
    Ok(HttpResponse::Ok().json(json!({})))
}

fn check_kind(kind: &str) -> Result<(), MatrixError> {
    if KEPT_OTHERWISE.contains(&kind) {
        let words = format!("{kind} cannot be set here");
        return Err(MatrixError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadJson, words));
    }
    if kind.is_empty() || kind.len() > KIND_BYTES_MAX {
        return Err(MatrixError::invalid_param("a type of account data has 1 to 255 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_a_name() {
        for (part, is_room) in [
            ("!r:example.org", true),
            ("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", true),
            ("!", false),
            ("r", false),
        ] {
            let path = format!("/user/@alice:example.org/rooms/{part}/account_data/m.tag");
            let path = PathArguments::of("/user/{user_id}/rooms/{room_id}/account_data/{type}", &path).unwrap();
            assert_eq!(named_room(&path).is_ok(), is_room, "{part}");
        }
    }

    #[test]
    fn types_are_bounded_and_two_are_the_servers() {
        for (kind, status) in [
            ("m.direct", None),
            ("org.example.é", None),
            ("m.fully_read", Some(405)),
            ("m.push_rules", Some(405)),
            ("", Some(400)),
        ] {
            assert_eq!(check_kind(kind).err().map(|error| error.status.as_u16()), status, "{kind}");
        }
        assert_eq!(check_kind(&"k".repeat(256)).unwrap_err().status, 400);
    }
}
