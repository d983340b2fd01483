//! `GET`, `POST /_matrix/client/v3/login`: a password becomes an access token.
//! May not: tell by words or time whether a user exists.
//!
//! The body is not read as ruma's type: that one panics on a body without `type`.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#login>

use actix_web::{HttpResponse, http::StatusCode, web};
use ruma::{
    OwnedUserId, ServerName, UserId,
    api::{
        client::session::login::v3::{DiscoveryInfo, HomeserverInfo, Response},
        error::ErrorCode,
    },
};
use serde::Deserialize;
use serde_json::json;

use super::{
    commit::commit,
    json_body::JsonBody,
    password::{self, Password},
    paths::each,
    session::DeviceRequest,
};
use crate::{
    error::MatrixError,
    extract::{ClientAddress, answer},
    state::App,
};

/// The only way to log in.
const PASSWORD_LOGIN: &str = "m.login.password";

/// The only way to say who.
const USER_IDENTIFIER: &str = "m.id.user";

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/login")).get(flows).post(login));
}

async fn flows() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "flows": [{ "type": PASSWORD_LOGIN }] }))
}

#[derive(Deserialize)]
struct LoginBody {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    /// How clients of before r0.4 say who.
    user: Option<String>,
    password: Option<Password>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
}

async fn login(
    address: ClientAddress,
    app: web::Data<App>,
    JsonBody(body): JsonBody<LoginBody>,
) -> Result<HttpResponse, MatrixError> {
    app.limits.logins_by_address.take(&address.for_limits(), &*app.clock)?;
    let attempt = Attempt::read(body)?;
    let user_id = authenticate(&app, &attempt.user, attempt.password).await?;
    let session =
        attempt.device.into_session(&user_id, &*app.stores.accounts, &*app.randomness, app.clock.now()).await?;
    commit(&app.stores, vec![session.change]).await?;
    let mut response = Response::new(user_id, session.access_token, session.device_id);
    let base_url = app.settings.well_known_client.clone();
    response.well_known = base_url.map(|base_url| DiscoveryInfo::new(HomeserverInfo::new(base_url)));
    answer(response)
}

/// What somebody tries to log in with.
#[derive(Debug)]
struct Attempt {
    user: String,
    password: Password,
    device: DeviceRequest,
}

impl Attempt {
    fn read(body: LoginBody) -> Result<Self, MatrixError> {
        if body.kind != PASSWORD_LOGIN {
            return Err(unknown_kind("login"));
        }
        let user = match body.identifier {
            Some(identifier) if identifier.kind != USER_IDENTIFIER => return Err(unknown_kind("identifier")),
            Some(identifier) => identifier.user,
            None => body.user,
        };
        let device = DeviceRequest { device_id: body.device_id, display_name: body.initial_device_display_name };
        device.check()?;
        Ok(Self {
            user: user.ok_or_else(|| MatrixError::missing_param("identifier.user"))?,
            password: body.password.ok_or_else(|| MatrixError::missing_param("password"))?,
            device,
        })
    }
}

fn unknown_kind(of_what: &str) -> MatrixError {
    MatrixError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, format!("unknown type of {of_what}"))
}

/// Whose password it is. Counts failed attempts, also those at users that do not exist.
async fn authenticate(app: &App, user: &str, password: Password) -> Result<OwnedUserId, MatrixError> {
    let wrong = || MatrixError::forbidden("wrong user name or password");
    // What can be no user of ours has no bucket either: it costs as much and tells as little.
    let Some(user_id) = our_user_id(user, app.server_name()) else {
        password::verify(&app.cpu, password, None).await?;
        return Err(wrong());
    };
    app.limits.failed_logins_by_user.peek(&user_id, &*app.clock)?;
    let account = app.stores.accounts.user(&user_id).await?;
    if account.as_ref().is_some_and(|account| account.is_deactivated) {
        let words = "this account was deactivated";
        return Err(MatrixError::new(StatusCode::FORBIDDEN, ErrorCode::UserDeactivated, words));
    }
    let stored = account.and_then(|account| account.password_hash);
    if password::verify(&app.cpu, password, stored).await? {
        return Ok(user_id);
    }
    // Attempts side by side may find the bucket empty only now; then this one hears so.
    app.limits.failed_logins_by_user.take(&user_id, &*app.clock)?;
    Err(wrong())
}

/// The user id that a name or an id stands for, in small letters as all our user ids are; `None` when it can be no user here.
fn our_user_id(user: &str, server_name: &ServerName) -> Option<OwnedUserId> {
    let localpart = match user.strip_prefix('@') {
        None => user,
        Some(id) => {
            let (localpart, server) = id.split_once(':')?;
            (server == server_name.as_str()).then_some(localpart)?
        }
    };
    if localpart.is_empty() {
        return None;
    }
    let user_id = UserId::parse(format!("@{}:{server_name}", localpart.to_ascii_lowercase())).ok()?;
    // A colon in the localpart would move the border to the server name.
    (user_id.server_name() == server_name).then_some(user_id)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::client_server::json_body::parse;

    #[test]
    fn names_and_ids_stand_for_users_of_ours_alone() {
        let server = server_name!("example.org:8448");
        for (user, expected) in [
            ("alice", Some("@alice:example.org:8448")),
            ("Alice", Some("@alice:example.org:8448")),
            ("@alice:example.org:8448", Some("@alice:example.org:8448")),
            ("@ALICE:example.org:8448", Some("@alice:example.org:8448")),
            ("@alice:example.org", None),
            ("@alice:other.org", None),
            ("alice:other.org", None),
            ("alice:example.org:8448", None),
            ("@alice", None),
            ("", None),
            ("@", None),
            ("al\0ice", None),
        ] {
            let found = our_user_id(user, server);
            assert_eq!(found.as_ref().map(|user_id| user_id.as_str()), expected, "{user:?}");
        }
        assert!(our_user_id(&"a".repeat(10_000_000), server).is_none());
    }

    #[test]
    fn attempts_are_read_in_both_forms() {
        let read = |body: &str| Attempt::read(parse(body.as_bytes())?).map(|attempt| attempt.user);
        let identifier = r#""identifier":{"type":"m.id.user","user":"alice"}"#;
        let ok = |body: String| assert_eq!(read(&body).unwrap(), "alice", "{body}");
        ok(format!(r#"{{"type":"m.login.password",{identifier},"password":"x"}}"#));
        ok(r#"{"type":"m.login.password","user":"alice","password":"x"}"#.to_owned());
        ok(format!(r#"{{"type":"m.login.password",{identifier},"user":"bob","password":"x","device_id":"D"}}"#));
        for (body, errcode) in [
            ("{}".to_owned(), ErrorCode::MissingParam),
            (r#"{"type":7}"#.to_owned(), ErrorCode::BadJson),
            (r#"{"type":"m.login.token","token":"x"}"#.to_owned(), ErrorCode::Unknown),
            (r#"{"type":"m.login.password"}"#.to_owned(), ErrorCode::MissingParam),
            (r#"{"type":"m.login.password","password":"x"}"#.to_owned(), ErrorCode::MissingParam),
            (format!(r#"{{"type":"m.login.password",{identifier}}}"#), ErrorCode::MissingParam),
            (format!(r#"{{"type":"m.login.password",{identifier},"password":7}}"#), ErrorCode::BadJson),
            (
                r#"{"type":"m.login.password","identifier":{"type":"m.id.phone"},"password":"x"}"#.to_owned(),
                ErrorCode::Unknown,
            ),
            (
                format!(r#"{{"type":"m.login.password",{identifier},"password":"x","device_id":""}}"#),
                ErrorCode::InvalidParam,
            ),
            (
                format!(
                    r#"{{"type":"m.login.password",{identifier},"password":"x","device_id":"{}"}}"#,
                    "d".repeat(256)
                ),
                ErrorCode::InvalidParam,
            ),
        ] {
            assert_eq!(read(&body).unwrap_err().errcode, errcode, "{body}");
        }
    }
}
