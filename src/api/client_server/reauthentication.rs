//! A user proves again who they are before something that cannot be undone: by the password.
//! May not: remember a proof; each request brings its own.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{UserId, api::error::ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::password::{self, Password};
use crate::{
    error::MatrixError,
    extract::Caller,
    state::{App, Randomness},
};

/// The one stage of the one flow.
const PASSWORD_STAGE: &str = "m.login.password";

/// Longest session name that is sent back, in bytes.
const SESSION_BYTES_MAX: usize = 255;

/// Random bytes of a session name.
const SESSION_BYTES: usize = 18;

/// What a request brings as proof.
#[derive(Debug, Deserialize)]
pub struct Proof {
    #[serde(rename = "type")]
    stage: Option<String>,
    session: Option<String>,
    password: Option<Password>,
    identifier: Option<Identifier>,
    /// From before there were identifiers.
    user: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    user: Option<String>,
}

/// What came of a proof.
#[derive(Debug)]
pub enum Proven {
    /// It is the user.
    Yes,
    /// The body of the 401 that says what is left to do.
    NotYet(Value),
}

/// Judges a proof. A wrong password counts as a failed log-in.
///
/// # Errors
/// 429 when there were too many wrong ones; 400 when the proof is one for somebody else.
pub async fn prove(app: &App, caller: &Caller, proof: Option<Proof>) -> Result<Proven, MatrixError> {
    let Some(proof) = proof else { return Ok(Proven::NotYet(left_to_do(None, None, &*app.randomness))) };
    let session = proof.session.clone();
    if proof.stage.as_deref() != Some(PASSWORD_STAGE) {
        let why = proof.stage.is_some().then_some("no flow has this stage");
        return Ok(Proven::NotYet(left_to_do(session, why, &*app.randomness)));
    }
    if !is_about(&proof, &caller.user_id) {
        return Err(MatrixError::invalid_param("the proof is for another user"));
    }
    let Some(given) = proof.password else { return Err(MatrixError::missing_param("auth.password")) };
    app.limits.failed_logins_by_user.peek(&caller.user_id, &*app.clock)?;
    let account = app.stores.accounts.user(&caller.user_id).await?;
    if password::verify(&app.cpu, given, account.and_then(|account| account.password_hash)).await? {
        return Ok(Proven::Yes);
    }
    app.limits.failed_logins_by_user.take(&caller.user_id, &*app.clock)?;
    Ok(Proven::NotYet(left_to_do(session, Some("wrong password"), &*app.randomness)))
}

/// Whether the proof names nobody, or this user by name or id.
fn is_about(proof: &Proof, user_id: &UserId) -> bool {
    let named = proof.identifier.as_ref().and_then(|identifier| identifier.user.as_ref()).or(proof.user.as_ref());
    named.is_none_or(|named| {
        named.eq_ignore_ascii_case(user_id.as_str()) || named.eq_ignore_ascii_case(user_id.localpart())
    })
}

fn left_to_do(session: Option<String>, why: Option<&str>, randomness: &dyn Randomness) -> Value {
    let session = session.filter(|session| session.len() <= SESSION_BYTES_MAX).unwrap_or_else(|| {
        let mut drawn = [0; SESSION_BYTES];
        randomness.fill(&mut drawn);
        URL_SAFE_NO_PAD.encode(drawn)
    });
    let mut body = json!({ "flows": [{ "stages": [PASSWORD_STAGE] }], "params": {}, "session": session });
    if let Some(why) = why {
        body["errcode"] = ErrorCode::Forbidden.as_str().into();
        body["error"] = why.into();
    }
    body
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    struct Fixed;

    impl Randomness for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    #[test]
    fn what_is_left_is_the_password_and_the_session_comes_back() {
        let first = left_to_do(None, None, &Fixed);
        assert_eq!(first["flows"], json!([{ "stages": ["m.login.password"] }]));
        assert_eq!(first["session"], json!("AAAAAAAAAAAAAAAAAAAAAAAA"));
        assert!(first.get("errcode").is_none());
        let again = left_to_do(Some("mine".to_owned()), Some("wrong password"), &Fixed);
        assert_eq!((&again["session"], &again["errcode"]), (&json!("mine"), &json!("M_FORBIDDEN")));
        assert_ne!(left_to_do(Some("s".repeat(256)), None, &Fixed)["session"], json!("s".repeat(256)));
    }

    #[test]
    fn proofs_are_about_oneself() {
        let alice = user_id!("@alice:example.org");
        for (proof, expected) in [
            (json!({}), true),
            (json!({ "user": "alice" }), true),
            (json!({ "user": "@Alice:example.org" }), true),
            (json!({ "identifier": { "type": "m.id.user", "user": "@alice:example.org" } }), true),
            (json!({ "identifier": { "type": "m.id.user", "user": "bob" } }), false),
            (json!({ "user": "@alice:other.org" }), false),
        ] {
            let read: Proof = serde_json::from_value(proof.clone()).unwrap();
            assert_eq!(is_about(&read, alice), expected, "{proof}");
        }
    }
}
