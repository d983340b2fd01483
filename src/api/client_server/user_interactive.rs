//! User-interactive authentication by password, for what may lock a user out or let another in.
//! May not: remember a session. The password comes with the request that it is for, so there is none to complete twice or
//! to use elsewhere.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use actix_web::HttpResponse;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::password::{self, Password};
use crate::{error::MatrixError, extract::Caller, state::App};

/// The one stage of the one flow.
const PASSWORD_STAGE: &str = "m.login.password";

/// Longest session name that is sent back, in bytes.
const SESSION_BYTES_MAX: usize = 255;

/// Random bytes of a session name.
const SESSION_BYTES: usize = 18;

/// What a client says in `auth`.
#[derive(Deserialize)]
pub struct Proof {
    #[serde(rename = "type")]
    stage: Option<String>,
    session: Option<String>,
    identifier: Option<Identifier>,
    /// How clients of before r0.4 say who.
    user: Option<String>,
    password: Option<Password>,
}

#[derive(Deserialize)]
struct Identifier {
    user: Option<String>,
}

/// Asks for the caller's password. `Some`: what the client has to do first; `None`: it was proven.
///
/// # Errors
/// 429 after too many wrong passwords; 500 when storage fails.
pub async fn prove(app: &App, caller: &Caller, proof: Option<Proof>) -> Result<Option<HttpResponse>, MatrixError> {
    let Some(proof) = proof else { return Ok(Some(to_do(app, None, None))) };
    if proof.stage.as_deref() != Some(PASSWORD_STAGE) {
        // Without a stage a client asks whether another client completed one.
        let wrong = proof.stage.is_some().then(|| MatrixError::forbidden("no flow has this stage"));
        return Ok(Some(to_do(app, proof.session, wrong)));
    }
    let named = proof.identifier.and_then(|identifier| identifier.user).or(proof.user);
    let is_caller = named.is_none_or(|named| named == caller.user_id.as_str() || named == caller.user_id.localpart());
    let Some(password) = proof.password.filter(|_| is_caller) else {
        return Ok(Some(to_do(app, proof.session, Some(wrong_password()))));
    };
    let limit = &app.limits.failed_logins_by_user;
    limit.peek(&caller.user_id, &*app.clock)?;
    let account = app.stores.accounts.user(&caller.user_id).await?;
    if password::verify(&app.cpu, password, account.and_then(|account| account.password_hash)).await? {
        return Ok(None);
    }
    limit.take(&caller.user_id, &*app.clock)?;
    Ok(Some(to_do(app, proof.session, Some(wrong_password()))))
}

fn wrong_password() -> MatrixError {
    MatrixError::forbidden("wrong user name or password")
}

fn to_do(app: &App, session: Option<String>, wrong: Option<MatrixError>) -> HttpResponse {
    let session = session.filter(|session| session.len() <= SESSION_BYTES_MAX).unwrap_or_else(|| {
        let mut drawn = [0; SESSION_BYTES];
        app.randomness.fill(&mut drawn);
        URL_SAFE_NO_PAD.encode(drawn)
    });
    let mut body = wrong.map_or_else(|| json!({}), |wrong| wrong.body());
    body["flows"] = json!([{ "stages": [PASSWORD_STAGE] }]);
    body["params"] = Value::Object(serde_json::Map::new());
    body["session"] = session.into();
    HttpResponse::Unauthorized().json(body)
}
