//! `POST /_matrix/client/v3/register`, `GET /register/available`: accounts for whoever comes, when registration is open.
//! May not: make guests, or admins.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>

pub mod new_account;
pub mod nonces;
pub mod shared_secret;
pub mod username;

use actix_web::{HttpResponse, http::StatusCode, web};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    OwnedUserId,
    api::{client::account::get_username_availability, error::ErrorCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    new_account::{NewAccount, Registered},
    username::UsernameRefusal,
};
use super::{json_body::JsonBody, password::Password, paths::each, session::DeviceRequest};
use crate::{
    error::MatrixError,
    extract::{ClientAddress, Ruma, answer},
    state::{App, Randomness},
};

/// The one stage of the one flow. It proves nothing and needs no memory: a session is a name for the client alone, so there
/// is none to complete twice or to use elsewhere.
const DUMMY_STAGE: &str = "m.login.dummy";

/// Longest session name that is sent back, in bytes.
const SESSION_BYTES_MAX: usize = 255;

/// Random bytes of a session name.
const SESSION_BYTES: usize = 18;

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource(each("/register")).post(register))
        .service(web::resource(each("/register/available")).get(available));
    shared_secret::routes(config);
}

#[derive(Deserialize)]
struct RegisterQuery {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct RegisterBody {
    username: Option<String>,
    password: Option<Password>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    auth: Option<Auth>,
    /// Set by application services alone.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
}

#[derive(Deserialize)]
struct Auth {
    /// Absent when a client asks whether another client completed a stage.
    #[serde(rename = "type")]
    stage: Option<String>,
    session: Option<String>,
}

async fn register(
    query: Result<web::Query<RegisterQuery>, actix_web::Error>,
    address: ClientAddress,
    app: web::Data<App>,
    JsonBody(body): JsonBody<RegisterBody>,
) -> Result<HttpResponse, MatrixError> {
    let query = query.map_err(|_| MatrixError::invalid_param("kind"))?;
    check_kind(query.kind.as_deref(), body.kind.as_deref())?;
    check_open(&app)?;
    let user_id = match &body.username {
        Some(username) => free_user_id(&app, username).await?,
        None => drawn_user_id(&app)?,
    };
    let device = DeviceRequest { device_id: body.device_id, display_name: body.initial_device_display_name };
    device.check()?;
    if let Some(stages) = stages_to_do(body.auth, &*app.randomness) {
        return Ok(HttpResponse::Unauthorized().json(stages));
    }
    let password = body.password.ok_or_else(|| MatrixError::missing_param("password"))?;
    password.check()?;
    app.limits.registrations_by_address.take(&address.for_limits(), &*app.clock)?;
    let device = (!body.inhibit_login).then_some(device);
    let account = NewAccount { user_id, password, is_admin: false, display_name: None, device };
    Ok(registered(account.register(&app).await?))
}

async fn available(
    app: web::Data<App>,
    Ruma(request): Ruma<get_username_availability::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    check_open(&app)?;
    free_user_id(&app, &request.username).await?;
    answer(get_username_availability::v3::Response::new(true))
}

fn check_kind(query: Option<&str>, login_type: Option<&str>) -> Result<(), MatrixError> {
    if login_type.is_some() {
        return Err(MatrixError::forbidden("application services are not served"));
    }
    match query {
        None | Some("user") => Ok(()),
        Some("guest") => Err(MatrixError::forbidden("guests are not served")),
        Some(_) => Err(MatrixError::invalid_param("kind must be user or guest")),
    }
}

fn check_open(app: &App) -> Result<(), MatrixError> {
    if app.settings.open_registration { Ok(()) } else { Err(MatrixError::forbidden("registration is closed")) }
}

/// The user id of a name that nobody has. Said early as a courtesy; the commit decides.
async fn free_user_id(app: &App, username: &str) -> Result<OwnedUserId, MatrixError> {
    let user_id = username::user_id_of(username, app.server_name())?;
    match app.stores.accounts.user(&user_id).await? {
        None => Ok(user_id),
        Some(_) => Err(MatrixError::user_in_use()),
    }
}

fn drawn_user_id(app: &App) -> Result<OwnedUserId, MatrixError> {
    let mut drawn = [0; username::DRAWN_CHARACTERS];
    app.randomness.fill(&mut drawn);
    Ok(username::user_id_of(&username::drawn_localpart(drawn), app.server_name())?)
}

/// What is left to do before the request counts; `None`: nothing.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>
fn stages_to_do(auth: Option<Auth>, randomness: &dyn Randomness) -> Option<Value> {
    let (stage, session) = auth.map(|auth| (auth.stage, auth.session)).unwrap_or_default();
    if stage.as_deref() == Some(DUMMY_STAGE) {
        return None;
    }
    let session = session.filter(|session| session.len() <= SESSION_BYTES_MAX).unwrap_or_else(|| {
        let mut drawn = [0; SESSION_BYTES];
        randomness.fill(&mut drawn);
        URL_SAFE_NO_PAD.encode(drawn)
    });
    let mut body = json!({ "flows": [{ "stages": [DUMMY_STAGE] }], "params": {}, "session": session });
    if stage.is_some() {
        body["errcode"] = ErrorCode::Forbidden.as_str().into();
        body["error"] = "no flow has this stage".into();
    }
    Some(body)
}

fn registered(account: Registered) -> HttpResponse {
    let mut body = json!({ "user_id": account.user_id, "home_server": account.user_id.server_name() });
    if let Some((device_id, access_token)) = account.session {
        body["device_id"] = device_id.as_str().into();
        body["access_token"] = access_token.into();
    }
    HttpResponse::Ok().json(body)
}

impl From<UsernameRefusal> for MatrixError {
    fn from(refusal: UsernameRefusal) -> Self {
        match refusal {
            UsernameRefusal::NotAllowedCharacters => {
                Self::invalid_username("user names are made of a-z, 0-9 and any of ._=-/+")
            }
            UsernameRefusal::TooLong => Self::invalid_username("a user id has 255 bytes at most"),
            UsernameRefusal::Reserved => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::Exclusive,
                "names that begin with an underscore are kept for application services",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Randomness for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    fn auth(stage: Option<&str>, session: Option<&str>) -> Option<Auth> {
        Some(Auth { stage: stage.map(str::to_owned), session: session.map(str::to_owned) })
    }

    #[test]
    fn the_dummy_stage_is_the_only_way_through() {
        let todo = stages_to_do(None, &Fixed).unwrap();
        assert_eq!(
            todo,
            json!({ "flows": [{ "stages": ["m.login.dummy"] }], "params": {}, "session": "AAAAAAAAAAAAAAAAAAAAAAAA" })
        );
        assert!(stages_to_do(auth(Some("m.login.dummy"), Some("any")), &Fixed).is_none());
        assert!(stages_to_do(auth(Some("m.login.dummy"), None), &Fixed).is_none());
        assert_eq!(stages_to_do(auth(None, Some("mine")), &Fixed).unwrap()["session"], json!("mine"));
        for stage in ["", "m.login.password", "M.LOGIN.DUMMY", "m.login.registration_token"] {
            assert_eq!(
                stages_to_do(auth(Some(stage), None), &Fixed).unwrap()["errcode"],
                json!("M_FORBIDDEN"),
                "{stage}"
            );
        }
        let long = "s".repeat(256);
        assert_ne!(stages_to_do(auth(None, Some(&long)), &Fixed).unwrap()["session"], json!(long));
    }

    #[test]
    fn only_users_register() {
        for (query, login_type, status) in [
            (None, None, None),
            (Some("user"), None, None),
            (Some("guest"), None, Some(403)),
            (Some("other"), None, Some(400)),
            (None, Some("m.login.application_service"), Some(403)),
        ] {
            let outcome = check_kind(query, login_type).err().map(|error| error.status.as_u16());
            assert_eq!(outcome, status, "{query:?} {login_type:?}");
        }
    }
}
