//! One row for each fact that a lower crate reports. Every match is exhaustive: a new fact does not compile without its row.
//! May not: put a cause of ours into words that leave the server.

use std::time::Duration;

use actix_web::http::StatusCode;
use chrono::{DateTime, SecondsFormat};
use ruma::api::error::{DeserializationError, ErrorCode, FromHttpRequestError};
use vestibule_actors::AskError;
use vestibule_federation::{
    keyring::{KeyError, VerifyRequestError},
    perform::PerformError,
};
use vestibule_protocol::{
    canonical_json::JsonRefusal,
    clock::UnixMillis,
    membership::{
        CreateRefusal, HandshakeRefusal, ImportRefusal, InviteRefusal, JoinRefusal, KnockElsewhereRefusal,
        KnockRefusal, LeaveRefusal, MembershipRefusal, ReadRefusal, SendRefusal,
    },
};
use vestibule_storage::{
    commit::{CommitError, Conflict, NoSlot},
    error::StorageError,
};

use super::MatrixError;

/// What a client waits when a mailbox or the writer is full. Ours: both drain in far less.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that another server can lay upon our clients. Ours.
const FOREIGN_PAUSE_MAX: Duration = Duration::from_hours(1);

/// SPEC 2.5, 2.6 and 3 (D3, D11, D25, D28), DESIGN 3.12, SECURITY T18.
impl From<KnockRefusal> for MatrixError {
    fn from(refusal: KnockRefusal) -> Self {
        match refusal {
            KnockRefusal::ServerNotInRoom => Self::room_not_here(),
            KnockRefusal::ServerDenied => Self::forbidden("this server is denied by the room"),
            KnockRefusal::VersionNotOffered { room_version } => Self::incompatible_room_version(&room_version),
            KnockRefusal::VersionCannotKnock
            | KnockRefusal::JoinRuleForbids { .. }
            | KnockRefusal::Banned
            | KnockRefusal::NotFederated
            | KnockRefusal::NotAuthorized { .. } => Self::knock_forbidden(),
            KnockRefusal::AlreadyInvited => Self::forbidden("this user is invited already"),
            KnockRefusal::AlreadyJoined => Self::forbidden("this user is in the room already"),
            KnockRefusal::AlreadyKnocking { again_from } => Self::forbidden(format!(
                "this user's knock is pending; another one counts from {}",
                in_words(again_from)
            )),
            KnockRefusal::TooManyPendingInRoom => Self::forbidden("too many knocks are pending in this room"),
            KnockRefusal::TooManyPendingFromOrigin => {
                Self::forbidden("too many knocks of this server are pending in this room")
            }
            KnockRefusal::OverRate { retry_after, .. } => Self::limit_exceeded(retry_after),
            KnockRefusal::UnknownPrevEvents { .. } => Self::invalid_param("prev_events holds unknown events"),
            KnockRefusal::UnknownAuthEvents { .. } => Self::invalid_param("auth_events holds unknown events"),
            KnockRefusal::TooLarge => Self::too_large("the event is too large"),
            KnockRefusal::BadContent { what } => Self::bad_json(what),
        }
    }
}

/// SPEC 2.6 and section 3 (D12, D17), SECURITY T4 and T13.
impl From<HandshakeRefusal> for MatrixError {
    fn from(refusal: HandshakeRefusal) -> Self {
        match refusal {
            HandshakeRefusal::TooLarge => Self::too_large("the event is too large"),
            HandshakeRefusal::ContentTooLarge => Self::too_large("the content of the event is too large"),
            HandshakeRefusal::BadFormat { what } => Self::bad_json(what),
            HandshakeRefusal::RoomMismatch => Self::invalid_param("room_id differs from the path"),
            HandshakeRefusal::EventIdMismatch => Self::invalid_param("the event's id differs from the path"),
            HandshakeRefusal::NotAMemberEvent => Self::invalid_param("type must be m.room.member"),
            HandshakeRefusal::WrongMembership => Self::invalid_param("membership is not that of this endpoint"),
            HandshakeRefusal::NotAStateEvent => Self::invalid_param("the event has no state_key"),
            HandshakeRefusal::SenderNotOfOrigin => Self::invalid_param("the sender is no user of the calling server"),
            HandshakeRefusal::StateKeyMismatch => Self::invalid_param("state_key differs from the sender"),
            HandshakeRefusal::TimestampAhead => Self::invalid_param("origin_server_ts lies too far ahead"),
            HandshakeRefusal::SignatureInvalid { .. } => Self::invalid_param("the event's signature does not verify"),
        }
    }
}

/// SPEC 2.9.
impl From<LeaveRefusal> for MatrixError {
    fn from(refusal: LeaveRefusal) -> Self {
        match refusal {
            LeaveRefusal::ServerNotInRoom => Self::room_not_here(),
            LeaveRefusal::ServerDenied => Self::forbidden("this server is denied by the room"),
            LeaveRefusal::NotAMember => Self::forbidden("this user is not in the room and has no knock or invite"),
            LeaveRefusal::NotAuthorized { .. } => Self::forbidden("this user may not leave this room"),
            LeaveRefusal::UnknownPrevEvents { .. } => Self::invalid_param("prev_events holds unknown events"),
            LeaveRefusal::UnknownAuthEvents { .. } => Self::invalid_param("auth_events holds unknown events"),
        }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid> and
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>, SPEC 2.2.
impl From<JoinRefusal> for MatrixError {
    fn from(refusal: JoinRefusal) -> Self {
        match refusal {
            JoinRefusal::ServerNotInRoom => Self::room_not_here(),
            JoinRefusal::ServerDenied => Self::forbidden("this server is denied by the room"),
            JoinRefusal::VersionNotOffered { room_version } => Self::incompatible_room_version(&room_version),
            JoinRefusal::NotAuthorized { .. } => Self::forbidden("this user may not join this room"),
            JoinRefusal::UnableToAuthorise => {
                let words = "this server cannot tell whether the user is in a room whose members may join";
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::UnableToAuthorizeJoin, words)
            }
            JoinRefusal::UnableToGrant => {
                let words = "nobody of this server may vouch for the join";
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::UnableToGrantJoin, words)
            }
            JoinRefusal::UnknownPrevEvents { .. } => Self::invalid_param("prev_events holds unknown events"),
            JoinRefusal::UnknownAuthEvents { .. } => Self::invalid_param("auth_events holds unknown events"),
            JoinRefusal::TooLarge => Self::too_large("the event is too large"),
            JoinRefusal::BadContent { what } => Self::bad_json(what),
        }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>, SPEC section 6.
impl From<InviteRefusal> for MatrixError {
    fn from(refusal: InviteRefusal) -> Self {
        match refusal {
            InviteRefusal::TooLarge => Self::too_large("the event is too large"),
            InviteRefusal::ContentTooLarge => Self::too_large("the content of the event is too large"),
            InviteRefusal::BadFormat { what } => Self::bad_json(what),
            InviteRefusal::RoomMismatch => Self::invalid_param("room_id differs from the path"),
            InviteRefusal::EventIdMismatch => Self::invalid_param("the event's id differs from the path"),
            InviteRefusal::NotAMemberEvent => Self::invalid_param("type must be m.room.member"),
            InviteRefusal::NotAStateEvent => Self::invalid_param("the event has no state_key"),
            InviteRefusal::WrongMembership => Self::invalid_param("membership must be invite"),
            InviteRefusal::SenderNotOfOrigin => Self::invalid_param("the sender is no user of the calling server"),
            InviteRefusal::NotOurUser => Self::invalid_param("the invited user is not of this server"),
            InviteRefusal::TimestampAhead => Self::invalid_param("origin_server_ts lies too far ahead"),
            InviteRefusal::SignatureInvalid { .. } => Self::invalid_param("the event's signature does not verify"),
            InviteRefusal::NoCreateEvent => Self::missing_param("invite_room_state lacks the create event"),
            InviteRefusal::BadInviteState { what } => Self::invalid_param(format!("invite_room_state: {what}")),
            InviteRefusal::VersionNotKnown { room_version } => {
                let words = "rooms of this version are not known here";
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::IncompatibleRoomVersion, words)
                    .with("room_version", room_version.as_str())
            }
            InviteRefusal::NoSuchUser => Self::not_found("no such user"),
            InviteRefusal::AlreadyJoined => Self::forbidden("this user is in the room already"),
            InviteRefusal::Banned => Self::forbidden("this user is banned from the room"),
            InviteRefusal::ServerDenied => Self::forbidden("this server is denied by the room"),
            InviteRefusal::NotCosigned { why } => {
                log::error!(error = why; "an invite cannot be signed");
                Self::internal()
            }
        }
    }
}

/// SECURITY V11 and V42.
impl From<ReadRefusal> for MatrixError {
    fn from(refusal: ReadRefusal) -> Self {
        match refusal {
            ReadRefusal::ServerNotInRoom => Self::room_not_here(),
            ReadRefusal::ReaderNotInRoom => Self::forbidden("this server is not in the room"),
            ReadRefusal::ServerDenied => Self::forbidden("this server is denied by the room"),
        }
    }
}

/// SPEC 2.9 and 2.10: what our own users ask.
impl From<MembershipRefusal> for MatrixError {
    fn from(refusal: MembershipRefusal) -> Self {
        match refusal {
            MembershipRefusal::NotAuthorized { reason } => Self::forbidden(reason),
            MembershipRefusal::NotInRoom => Self::forbidden("not in this room"),
            // Where a user can go another way, the caller goes it; nobody else is in a room that we are not in.
            MembershipRefusal::NotResident => Self::room_not_here(),
            MembershipRefusal::Knock(refusal) => refusal.into(),
            MembershipRefusal::Banned => Self::forbidden("banned from this room"),
            MembershipRefusal::TooLarge => Self::too_large("the event is too large"),
            MembershipRefusal::BadContent { what } => Self::bad_json(what),
        }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>, SECURITY V52.
impl From<SendRefusal> for MatrixError {
    fn from(refusal: SendRefusal) -> Self {
        match refusal {
            SendRefusal::NotAuthorized { reason } => Self::forbidden(reason),
            SendRefusal::TooLarge => Self::too_large("the event is too large"),
            SendRefusal::FieldTooLong => Self::too_large("type, state_key or sender is too long"),
            SendRefusal::BadContent { what } => Self::bad_json(what),
            SendRefusal::UnknownRedactionTarget => Self::not_found("the event to redact is not in this room"),
        }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
impl From<CreateRefusal> for MatrixError {
    fn from(refusal: CreateRefusal) -> Self {
        match refusal {
            CreateRefusal::VersionNotHosted => Self::unsupported_room_version(),
            CreateRefusal::NotAuthorized { reason } => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRoomState, reason)
            }
            CreateRefusal::TooLarge => Self::too_large("an event of the room is too large"),
            CreateRefusal::FieldTooLong => Self::too_large("type, state_key or sender is too long"),
            CreateRefusal::BadContent { what } => Self::bad_json(what),
            CreateRefusal::TooMuch => Self::too_large("the room has more state and bans than a new one can start with"),
            CreateRefusal::RoomExists => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::RoomInUse, "the room exists already")
            }
        }
    }
}

/// STYLE 14, 15: a refusal is the asker's, a failure is ours.
impl<R: Into<MatrixError>> From<AskError<R>> for MatrixError {
    fn from(error: AskError<R>) -> Self {
        match error {
            AskError::Refused(refusal) => refusal.into(),
            AskError::RoomNotHere => Self::room_not_here(),
            AskError::Overloaded => Self::limit_exceeded(OVERLOAD_PAUSE),
            AskError::Storage(error) => error.into(),
            AskError::Failed => Self::internal(),
        }
    }
}

/// SPEC D32, SECURITY G16: what did not happen and may soon be possible is 503. The cause is logged, never sent.
impl From<StorageError> for MatrixError {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::DiskFull => Self::unavailable(),
            // The engine has told what is wrong, once.
            StorageError::NotWritten { .. } | StorageError::Unavailable { .. } => {
                log::debug!(error:%; "storage is not available");
                Self::unavailable()
            }
            StorageError::OutcomeUnknown { .. } | StorageError::Corrupt { .. } => {
                log::error!(error:%; "storage failed under a request");
                Self::internal()
            }
        }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias> (409) and others.
impl From<CommitError> for MatrixError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            // A commit before it was not written, so this one was not either.
            CommitError::PredecessorMissing => Self::unavailable(),
            CommitError::Conflict(conflict) => match conflict {
                Conflict::UserExists => Self::user_in_use(),
                Conflict::NoSuchUser => Self::not_found("no such user"),
                Conflict::AliasExists => Self::new(StatusCode::CONFLICT, ErrorCode::Unknown, "this alias is taken"),
                Conflict::NoSuchAlias => Self::not_found("no such alias"),
                Conflict::NoSuchDevice => Self::not_found("no such device"),
                Conflict::NoSuchKey => Self::not_found("no such key"),
                // Whoever sends a message again is told that it was taken; this is for those who do not look.
                Conflict::AlreadySeen => {
                    Self::new(StatusCode::CONFLICT, ErrorCode::Unknown, "this message came before")
                }
                Conflict::RoomExists => {
                    Self::new(StatusCode::BAD_REQUEST, ErrorCode::RoomInUse, "the room exists already")
                }
                Conflict::NoSuchRoom => Self::room_not_here(),
            },
        }
    }
}

/// SECURITY T23 and G16.
impl From<NoSlot> for MatrixError {
    fn from(no_slot: NoSlot) -> Self {
        match no_slot {
            NoSlot::Busy => Self::limit_exceeded(OVERLOAD_PAUSE),
            NoSlot::Refused => Self::unavailable(),
        }
    }
}

/// SPEC 4.3: body not JSON or not an object, judged before authentication.
impl From<JsonRefusal> for MatrixError {
    fn from(refusal: JsonRefusal) -> Self {
        match refusal {
            JsonRefusal::NotJson(what) => Self::not_json(what),
            JsonRefusal::NotCanonical(what) => Self::bad_json(what),
        }
    }
}

/// SPEC 4.3: whatever is wrong is 401, never 5xx; SECURITY T16: 429 before any name is resolved.
impl From<VerifyRequestError> for MatrixError {
    fn from(error: VerifyRequestError) -> Self {
        match error {
            VerifyRequestError::Keys(KeyError::OverBudget) => Self::limit_exceeded(OVERLOAD_PAUSE),
            VerifyRequestError::Keys(
                KeyError::RecentlyFailed { .. }
                | KeyError::NoUsableKey
                | KeyError::Fetch(_)
                | KeyError::UnfitDocument(_)
                | KeyError::Busy
                | KeyError::GivenUp,
            ) => Self::unauthorized("no usable key of the origin"),
            VerifyRequestError::DestinationMismatch => Self::unauthorized("the request is for another server"),
            VerifyRequestError::SignatureCount { .. } => Self::unauthorized("too few or too many signatures"),
            VerifyRequestError::BadSignature { .. } => Self::unauthorized("the signature does not verify"),
            VerifyRequestError::NoCanonicalForm => Self::unauthorized("the request has no canonical form"),
        }
    }
}

/// What other servers answered when our user wanted something there. DESIGN section 5, STYLE 17: what they say reaches the
/// client as far as it is about the client's request; their own troubles are 502.
impl From<PerformError> for MatrixError {
    fn from(error: PerformError) -> Self {
        match error {
            PerformError::NoServers | PerformError::NotFound => {
                Self::not_found("not found by the servers that were asked")
            }
            PerformError::Refused { status, errcode } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                Self::new(status, errcode, "refused by the other server")
            }
            PerformError::VersionNotKnown { room_version: Some(room_version) } => {
                Self::incompatible_room_version(&room_version)
            }
            PerformError::VersionNotKnown { room_version: None } => {
                let words = "the room has a version that cannot be used from here";
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::IncompatibleRoomVersion, words)
            }
            PerformError::OverRate { retry_after } => {
                Self::limit_exceeded(retry_after.unwrap_or(OVERLOAD_PAUSE).min(FOREIGN_PAUSE_MAX))
            }
            PerformError::AllFailed { .. } => Self::bad_gateway("no other server gave a usable answer"),
            PerformError::TimedOut => Self::bad_gateway("no other server answered in time"),
            PerformError::NotBegun(KnockElsewhereRefusal::AlreadyInvited) => {
                Self::forbidden("this user is invited already")
            }
            // It happens when two users of ours do this at once; the next attempt finds the room here.
            PerformError::NotBegun(KnockElsewhereRefusal::LivedIn)
            | PerformError::NotImported(ImportRefusal::LivedIn) => Self::limit_exceeded(OVERLOAD_PAUSE),
            PerformError::NotImported(ImportRefusal::Left) => Self::forbidden("this user has left the room meanwhile"),
            PerformError::NotImported(
                ImportRefusal::NoCreateEvent | ImportRefusal::JoinNotAuthorized { .. } | ImportRefusal::OtherRoom,
            ) => Self::bad_gateway("the other server's answer does not let this user in"),
            PerformError::TooLarge => Self::too_large("the event is too large"),
            PerformError::BadContent { what } => Self::bad_json(what),
            PerformError::Overloaded => Self::limit_exceeded(OVERLOAD_PAUSE),
            PerformError::Storage(error) => error.into(),
            PerformError::Failed => Self::internal(),
        }
    }
}

/// Client requests that ruma's types do not accept. Source: the errcodes' own definitions,
/// <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
impl From<FromHttpRequestError> for MatrixError {
    fn from(error: FromHttpRequestError) -> Self {
        match error {
            FromHttpRequestError::MethodMismatch { .. } => Self::unrecognized_method(),
            FromHttpRequestError::Deserialization(error) => error.into(),
            // The library may add kinds; they are the caller's fault all the same.
            other => Self::bad_json(other),
        }
    }
}

impl From<DeserializationError> for MatrixError {
    fn from(error: DeserializationError) -> Self {
        let words = error.to_string();
        match error {
            DeserializationError::Json(error) if error.classify() != serde_json::error::Category::Data => {
                Self::not_json(words)
            }
            DeserializationError::Json(_) | DeserializationError::Query(_) if words.starts_with("missing field") => {
                Self::missing_param(words)
            }
            DeserializationError::Json(_) => Self::bad_json(words),
            DeserializationError::Header(_) => Self::missing_param(words),
            // Path and query alike.
            _ => Self::invalid_param(words),
        }
    }
}

/// A time as people and programs both read it.
fn in_words(time: UnixMillis) -> String {
    i64::try_from(time.0)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .map_or_else(|| format!("{} ms", time.0), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests;
