//! The table from facts to Matrix errors: every refusal and failure, with its status and errcode.
//! May not: be bypassed. No handler names a status or an errcode for what a lower crate found out.
//!
//! Words that leave the server are fixed here: a failure never shows its cause, and a knock that is forbidden by the
//! room reads the same whichever rule forbade it, so that nobody learns of bans or join rules by asking.

mod table;

use std::{fmt, time::Duration};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use ruma::{RoomVersionId, api::error::ErrorCode};
use serde_json::{Map, Value};
use vestibule_protocol::clock::millis;

/// What a caller gets in place of an answer: `{"errcode", "error"}` and, for some errcodes, more keys.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The errcode.
    pub errcode: ErrorCode,
    /// Words for a person.
    pub error: String,
    /// Further keys that the errcode asks for.
    pub extra: Map<String, Value>,
    /// When to try again; sent as the header `Retry-After` too.
    pub retry_after: Option<Duration>,
}

/// The words for a knock that the room does not want, whatever the reason. Source: SECURITY T18.
const KNOCK_FORBIDDEN: &str = "this user may not knock on this room";

impl MatrixError {
    /// An error without further keys. For facts that a handler itself finds; what a lower crate refuses has its row in the
    /// table.
    pub fn new(status: StatusCode, errcode: ErrorCode, error: impl Into<String>) -> Self {
        Self { status, errcode, error: error.into(), extra: Map::new(), retry_after: None }
    }

    /// The same with one more key in the body.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// No endpoint has this path.
    pub fn unrecognized_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::Unrecognized, "no such endpoint")
    }

    /// The endpoint does not have this method.
    pub fn unrecognized_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unrecognized, "the endpoint does not have this method")
    }

    /// The body is no JSON.
    pub fn not_json(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::NotJson, format!("not JSON: {what}"))
    }

    /// The body is JSON of the wrong shape.
    pub fn bad_json(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadJson, what.to_string())
    }

    /// A parameter that must be there is not.
    pub fn missing_param(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::MissingParam, what.to_string())
    }

    /// A parameter has a value that it cannot have.
    pub fn invalid_param(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidParam, what.to_string())
    }

    /// Larger than we take.
    pub fn too_large(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, what.to_string())
    }

    /// The body did not come within its time.
    pub fn body_too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unknown, "the body did not arrive in time")
    }

    /// A body of a kind that no endpoint here takes.
    pub fn unsupported_media_type() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::NotJson, "the body must be application/json")
    }

    /// A server's request is not proven to be its own.
    pub fn unauthorized(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, what.to_string())
    }

    /// A user's request has no access token.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::MissingToken, "missing access token")
    }

    /// A user's access token is nobody's.
    pub fn unknown_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::UnknownToken, "unknown access token").with("soft_logout", false)
    }

    /// The caller may not do this.
    pub fn forbidden(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, what.to_string())
    }

    /// What was asked for is not here.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, what.to_string())
    }

    /// The room is not here.
    pub fn room_not_here() -> Self {
        Self::not_found("unknown room")
    }

    /// Over a rate. `retry_after` says when the next attempt counts.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::LimitExceeded, "too many requests")
            .with("retry_after_ms", millis(retry_after));
        error.retry_after = Some(retry_after);
        error
    }

    /// The room version is none that the caller speaks.
    pub fn incompatible_room_version(room_version: &RoomVersionId) -> Self {
        let words = "the room has a version that the caller did not offer";
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::IncompatibleRoomVersion, words)
            .with("room_version", room_version.as_str())
    }

    /// The room version is none in which rooms can be made here.
    pub fn unsupported_room_version() -> Self {
        let words = "rooms of this version cannot be made here";
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::UnsupportedRoomVersion, words)
    }

    /// A signature on a key does not verify.
    pub fn invalid_signature(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::from("M_INVALID_SIGNATURE"), what.to_string())
    }

    /// The user id is taken.
    pub fn user_in_use() -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::UserInUse, "this user id is taken")
    }

    /// The name cannot be a user's.
    pub fn invalid_username(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidUsername, what.to_string())
    }

    /// The room cannot be in its current state for this.
    pub fn bad_state(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadState, what.to_string())
    }

    /// Another server failed, or said what makes no sense.
    pub fn bad_gateway(what: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, what.to_string())
    }

    /// We failed. The words are fixed: what failed is in our log, not in the answer.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, "internal server error")
    }

    /// Storage cannot do it at the moment, and has not done it.
    pub fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unknown, "storage is not available at the moment")
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let mut body = self.extra.clone();
        body.insert("errcode".to_owned(), self.errcode.as_str().into());
        body.insert("error".to_owned(), self.error.clone().into());
        Value::Object(body)
    }

    /// A knock is forbidden by the room, its history, or its rules. One body for all of it.
    fn knock_forbidden() -> Self {
        Self::forbidden(KNOCK_FORBIDDEN)
    }
}

impl fmt::Display for MatrixError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.status.as_u16(), self.errcode, self.error)
    }
}

impl std::error::Error for MatrixError {}

impl ResponseError for MatrixError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(retry_after) = self.retry_after {
            // Whole seconds, rounded up: a caller that obeys must not come too early.
            let seconds = millis(retry_after).div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.json(self.body())
    }
}
