//! `GET /_matrix/client/v3/profile/{userId}` of users here and elsewhere, and `GET`, `PUT`, `DELETE` of one field of it.
//! May not: change the profile of anybody but the caller.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#profiles>

pub mod announce;
pub mod field;

use actix_web::{HttpResponse, http::StatusCode, web};
use ruma::{OwnedUserId, UserId, api::error::ErrorCode};
use serde_json::{Map, Value, json};
use vestibule_storage::accounts::{AccountChange, User};

use self::{
    announce::announce,
    field::{FieldRefusal, MemberField},
};
use super::{commit::commit, json_body::JsonBody, own_path::check_own, paths::each, room_address::may_query};
use crate::{
    error::MatrixError,
    extract::{Caller, ClientAddress, PathArguments},
    state::App,
};

/// Where free profile fields were before Matrix 1.16; ruma's clients still look there.
const UNSTABLE_FIELD: &str = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}";

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/profile/{user_id}")).get(whole));
    for path in each("/profile/{user_id}/{field}").into_iter().chain([UNSTABLE_FIELD.to_owned()]) {
        config.service(web::resource(path).get(get_field).put(put_field).delete(delete_field));
    }
}

async fn whole(path: PathArguments, address: ClientAddress, app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    let user_id: &UserId = path.parse(0, "user id")?;
    if !app.is_ours(user_id.server_name()) {
        return Ok(HttpResponse::Ok().json(elsewhere(&app, address, user_id, None).await?));
    }
    let user = user(&app, user_id).await?;
    let profile: Map<String, Value> =
        user.profile.iter().filter_map(|(name, text)| Some((name.clone(), serde_json::from_str(text).ok()?))).collect();
    Ok(HttpResponse::Ok().json(profile))
}

async fn get_field(
    path: PathArguments,
    address: ClientAddress,
    app: web::Data<App>,
) -> Result<HttpResponse, MatrixError> {
    let name = path.get(1);
    field::check_name(name)?;
    let user_id: &UserId = path.parse(0, "user id")?;
    let value: Option<Value> = if app.is_ours(user_id.server_name()) {
        let user = user(&app, user_id).await?;
        user.profile.get(name).and_then(|text| serde_json::from_str(text).ok())
    } else {
        elsewhere(&app, address, user_id, Some(name)).await?.remove(name)
    };
    match (value, MemberField::named(name)) {
        (Some(value), _) => Ok(HttpResponse::Ok().json(json!({ name: value }))),
        // The two old fields exist even when they are not set.
        (None, Some(_)) => Ok(HttpResponse::Ok().json(json!({}))),
        (None, None) => Err(MatrixError::not_found("this profile field is not set")),
    }
}

async fn put_field(
    caller: Caller,
    path: PathArguments,
    address: ClientAddress,
    app: web::Data<App>,
    JsonBody(body): JsonBody<Map<String, Value>>,
) -> Result<HttpResponse, MatrixError> {
    let name = path.get(1);
    field::check_name(name)?;
    check_own(&caller, &path)?;
    let value = body.get(name).ok_or_else(|| MatrixError::missing_param(format!("missing field `{name}`")))?;
    let text = field::kept_text(name, value)?;
    if let Some(text) = &text {
        let user = user(&app, &caller.user_id).await?;
        field::check_room_left(&user.profile, name, text)?;
    }
    set(app, caller.user_id, name, text, address).await
}

async fn delete_field(
    caller: Caller,
    path: PathArguments,
    address: ClientAddress,
    app: web::Data<App>,
) -> Result<HttpResponse, MatrixError> {
    let name = path.get(1);
    field::check_name(name)?;
    check_own(&caller, &path)?;
    set(app, caller.user_id, name, None, address).await
}

/// Keeps a field, then tells the rooms when member events carry it. Counts as one message, however many rooms there are.
async fn set(
    app: web::Data<App>,
    user_id: OwnedUserId,
    name: &str,
    value: Option<String>,
    address: ClientAddress,
) -> Result<HttpResponse, MatrixError> {
    app.limits.messages_by_user.take(&user_id, &*app.clock)?;
    let change = AccountChange::SetProfileField { user_id: user_id.clone(), field: name.to_owned(), value };
    commit(&app.stores, vec![change]).await?;
    if MemberField::named(name).is_some() {
        announce(app, user_id, address).await;
    }
    Ok(HttpResponse::Ok().json(json!({})))
}

/// The profile of another server's user, or one field of it, as that server tells it. What cannot be a display name or an
/// avatar is left out.
async fn elsewhere(
    app: &App,
    address: ClientAddress,
    user_id: &UserId,
    field: Option<&str>,
) -> Result<Map<String, Value>, MatrixError> {
    may_query(app, address, user_id.server_name())?;
    let mut told = app.federation.profile(user_id, field).await?;
    told.retain(|name, value| MemberField::named(name).is_none() || value.is_string());
    Ok(told)
}

/// A user of this server.
async fn user(app: &App, user_id: &UserId) -> Result<User, MatrixError> {
    let user = app.stores.accounts.user(user_id).await?;
    user.ok_or_else(|| MatrixError::not_found("no such user"))
}

impl From<FieldRefusal> for MatrixError {
    fn from(refusal: FieldRefusal) -> Self {
        match refusal {
            FieldRefusal::NameTooLong => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::KeyTooLarge,
                "the name of a profile field has 255 bytes at most",
            ),
            FieldRefusal::NameNotAllowed => {
                Self::invalid_param("the name of a profile field is made of a-z, 0-9, dots, hyphens and underscores")
            }
            FieldRefusal::DisplayNameNotAllowed => {
                Self::invalid_param("displayname must be a text of 256 characters at most")
            }
            FieldRefusal::AvatarUrlNotAllowed => {
                Self::invalid_param("avatar_url must be an mxc: address of 1000 bytes at most")
            }
            FieldRefusal::ValueNotCanonical => {
                Self::bad_json("the value holds a number that canonical JSON does not know")
            }
            FieldRefusal::ProfileTooLarge => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::ProfileTooLarge, "a profile has 64 KiB at most")
            }
        }
    }
}
