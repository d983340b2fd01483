//! `GET`, `POST /_synapse/admin/v1/register`: accounts for whoever knows the shared secret, in Synapse's way, so that
//! existing tools work.
//! May not: exist when no secret is set.
//!
//! A `user_type` is covered by the code and else ignored: there is one type of users here.

use actix_web::{HttpResponse, http::StatusCode, web};
use ruma::api::error::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    new_account::NewAccount,
    nonces::{Covered, NONCE_BYTES},
    registered, username,
};
use crate::{
    client_server::{json_body::JsonBody, password::Password, profile::field, session::DeviceRequest},
    error::MatrixError,
    extract::ClientAddress,
    state::App,
};

/// The kinds of users that Synapse knows.
const USER_TYPES: [&str; 2] = ["bot", "support"];

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/_synapse/admin/v1/register").get(nonce).post(register));
}

async fn nonce(app: web::Data<App>) -> Result<HttpResponse, MatrixError> {
    secret(&app)?;
    let mut drawn = [0; NONCE_BYTES];
    app.randomness.fill(&mut drawn);
    let nonce = app.registration_nonces.give(drawn, app.clock.monotonic());
    Ok(HttpResponse::Ok().json(json!({ "nonce": nonce })))
}

#[derive(Deserialize)]
struct SharedSecretBody {
    nonce: String,
    username: String,
    password: Password,
    mac: String,
    #[serde(default)]
    admin: Option<bool>,
    user_type: Option<String>,
    displayname: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
}

async fn register(
    address: ClientAddress,
    app: web::Data<App>,
    body: Result<JsonBody<SharedSecretBody>, MatrixError>,
) -> Result<HttpResponse, MatrixError> {
    let secret = secret(&app)?;
    let JsonBody(body) = body?;
    body.check()?;
    let is_nonce_good = app.registration_nonces.take(&body.nonce, app.clock.monotonic());
    if !is_nonce_good {
        let words = "unknown nonce, or used, or too old";
        return Err(MatrixError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, words));
    }
    let address = address.for_limits();
    app.limits.registrations_by_address.peek(&address, &*app.clock)?;
    if !body.covered().is_signed(secret.as_bytes(), &body.mac) {
        // Those who know the secret register as fast as they like; those who guess it do not.
        app.limits.registrations_by_address.take(&address, &*app.clock)?;
        return Err(MatrixError::forbidden("the HMAC is wrong"));
    }
    let user_id = username::user_id_of(&body.username, app.server_name())?;
    let display_name = match &body.displayname {
        Some(name) => field::kept_text("displayname", &Value::from(name.as_str()))?,
        None => None,
    };
    let device = DeviceRequest { device_id: body.device_id, display_name: body.initial_device_display_name };
    device.check()?;
    let account = NewAccount {
        user_id,
        password: body.password,
        is_admin: body.admin.unwrap_or_default(),
        display_name,
        device: (!body.inhibit_login).then_some(device),
    };
    Ok(registered(account.register(&app).await?))
}

fn secret(app: &App) -> Result<&str, MatrixError> {
    let secret = app.settings.registration_shared_secret.as_ref().ok_or_else(MatrixError::unrecognized_path)?;
    Ok(secret.expose())
}

impl SharedSecretBody {
    /// NUL separates the fields under the code, so none may hold it.
    fn check(&self) -> Result<(), MatrixError> {
        let holds_nul = [&self.nonce, &self.username].into_iter().any(|field| field.contains('\0'))
            || self.password.as_str().contains('\0');
        if holds_nul {
            return Err(MatrixError::invalid_param("nonce, username and password must not hold NUL"));
        }
        if self.user_type.as_deref().is_some_and(|user_type| !USER_TYPES.contains(&user_type)) {
            return Err(MatrixError::invalid_param("user_type must be bot or support"));
        }
        self.password.check()
    }

    fn covered(&self) -> Covered<'_> {
        Covered {
            nonce: &self.nonce,
            username: &self.username,
            password: self.password.as_str(),
            is_admin: self.admin.unwrap_or_default(),
            user_type: self.user_type.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_server::json_body::parse;

    fn check(more: Value) -> Result<bool, MatrixError> {
        let mut body = json!({ "nonce": "n", "username": "alice", "password": "sesame", "mac": "00" });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let body: SharedSecretBody = parse(body.to_string().as_bytes())?;
        body.check().map(|()| body.covered().is_admin)
    }

    #[test]
    fn fields_are_judged_before_the_nonce_is_used_up() {
        assert!(!check(json!({})).unwrap());
        assert!(!check(json!({ "admin": null, "user_type": null })).unwrap());
        assert!(check(json!({ "admin": true, "user_type": "bot" })).unwrap());
        for (more, errcode) in [
            (json!({ "nonce": 7 }), ErrorCode::BadJson),
            (json!({ "username": "a\0b" }), ErrorCode::InvalidParam),
            (json!({ "password": "a\0b" }), ErrorCode::InvalidParam),
            (json!({ "password": "" }), ErrorCode::WeakPassword),
            (json!({ "password": "p".repeat(513) }), ErrorCode::InvalidParam),
            (json!({ "user_type": "king" }), ErrorCode::InvalidParam),
            (json!({ "admin": "yes" }), ErrorCode::BadJson),
        ] {
            assert_eq!(check(more.clone()).unwrap_err().errcode, errcode, "{more}");
        }
    }
}
