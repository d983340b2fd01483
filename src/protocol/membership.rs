//! Who may be in which membership: the decisions of the handshakes and of the client API.
//! May not: be asked with anything but states that the room's actor holds; nothing is loaded or awaited here.

pub mod answer;
pub mod change;
pub mod crossing;
pub mod handshake;
pub mod invite;
pub mod knock;
pub mod leave;
#[cfg(test)]
mod rule_table;
pub mod template;

use std::time::Duration;

use ruma::{OwnedEventId, RoomVersionId, room::JoinRuleKind};
use thiserror::Error;

use crate::clock::UnixMillis;

/// The reason of a `NotAuthorized` for a member event whose template is older than what stands in its place: every state
/// allows it, and the room's state after it would not hold it.
pub const OVERTAKEN: &str = "it was made before something that stands in its place";

/// Why the body of a `send_knock`, `send_leave` or `send_join` is refused before the room is asked.
///
/// Source of order and statuses: SPEC 2.6.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandshakeRefusal {
    /// The event is larger than 65,536 bytes, or its type, sender, room id or state key than 255.
    #[error("the event is too large")]
    TooLarge,
    /// Its content is larger than [`handshake::HANDSHAKE_CONTENT_BYTES_MAX`].
    #[error("the content is too large")]
    ContentTooLarge,
    /// Not of the room version's event format.
    #[error("bad event: {what}")]
    BadFormat {
        /// What is wrong.
        what: String,
    },
    /// `room_id` is not the one in the path.
    #[error("the event is of another room")]
    RoomMismatch,
    /// The event's hash is not the id in the path.
    #[error("the event id in the path is not that of the event")]
    EventIdMismatch,
    /// `type` is not `m.room.member`.
    #[error("not a member event")]
    NotAMemberEvent,
    /// There is no `state_key`.
    #[error("not a state event")]
    NotAStateEvent,
    /// `content.membership` is not what the endpoint takes.
    #[error("wrong membership for this endpoint")]
    WrongMembership,
    /// The sender is a user of another server than the one that calls.
    #[error("the sender is not a user of the calling server")]
    SenderNotOfOrigin,
    /// `state_key` is not the sender.
    #[error("state_key is not the sender")]
    StateKeyMismatch,
    /// `origin_server_ts` lies more than [`handshake::TIMESTAMP_AHEAD_MAX`] in the future.
    #[error("origin_server_ts is too far in the future")]
    TimestampAhead,
    /// A required signature is missing or wrong.
    #[error("signature not verified: {why}")]
    SignatureInvalid {
        /// For the log.
        why: String,
    },
}

impl HandshakeRefusal {
    /// The fact in snake_case, as counters name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::ContentTooLarge => "content_too_large",
            Self::BadFormat { .. } => "bad_format",
            Self::RoomMismatch => "room_mismatch",
            Self::EventIdMismatch => "event_id_mismatch",
            Self::NotAMemberEvent => "not_a_member_event",
            Self::NotAStateEvent => "not_a_state_event",
            Self::WrongMembership => "wrong_membership",
            Self::SenderNotOfOrigin => "sender_not_of_origin",
            Self::StateKeyMismatch => "state_key_mismatch",
            Self::TimestampAhead => "timestamp_ahead",
            Self::SignatureInvalid { .. } => "signature_invalid",
        }
    }
}

/// Which bucket of knocks ran dry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KnockBucket {
    /// All knocks on the room.
    Room,
    /// Knocks of one server on the room.
    OriginInRoom,
    /// Knocks of one server.
    Origin,
    /// Knocks from one network.
    Network,
    /// Knocks of one user on the room.
    UserInRoom,
    /// Knocks of one user.
    User,
}

/// Why a knock is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KnockRefusal {
    /// Nobody of this server is in the room any more: what we know of it is a dead copy.
    #[error("nobody of this server is in the room")]
    ServerNotInRoom,
    /// The room's ACL denies the server.
    #[error("the server is denied by the room's ACL")]
    ServerDenied,
    /// The calling server does not know the room's version.
    #[error("the room's version {room_version} was not offered")]
    VersionNotOffered {
        /// The room's version.
        room_version: RoomVersionId,
    },
    /// Rooms of this version have no knocks.
    #[error("rooms of this version cannot be knocked on")]
    VersionCannotKnock,
    /// The join rule is none that lets knock.
    #[error("the join rule does not let anybody knock")]
    JoinRuleForbids {
        /// The rule, if it can be read.
        rule: Option<JoinRuleKind>,
    },
    /// The user is banned.
    #[error("the user is banned")]
    Banned,
    /// The user is invited: accept the invite instead.
    #[error("the user is invited already")]
    AlreadyInvited,
    /// The user is in the room.
    #[error("the user is in the room already")]
    AlreadyJoined,
    /// The room does not federate.
    #[error("the room does not federate")]
    NotFederated,
    /// The user's knock is pending and younger than `knock.repeat_after`.
    #[error("the user's knock is pending")]
    AlreadyKnocking {
        /// From when a new one counts.
        again_from: UnixMillis,
    },
    /// Another authorization rule refuses.
    #[error("not authorized: {reason}")]
    NotAuthorized {
        /// For the log.
        reason: String,
    },
    /// `knock.max_pending_per_room` knocks are pending.
    #[error("too many knocks are pending in the room")]
    TooManyPendingInRoom,
    /// `knock.max_pending_per_origin_in_room` knocks of the server are pending.
    #[error("too many knocks of the server are pending in the room")]
    TooManyPendingFromOrigin,
    /// A rate limit.
    #[error("too many knocks, try again in {retry_after:?}")]
    OverRate {
        /// Which bucket.
        bucket: KnockBucket,
        /// When it holds a token again.
        retry_after: Duration,
    },
    /// The event cites events that we do not have.
    #[error("the event cites unknown prev_events")]
    UnknownPrevEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
    /// The event is authorized by events that we do not have.
    #[error("the event cites unknown auth_events")]
    UnknownAuthEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
    /// The event would be larger than 65,536 bytes.
    #[error("the event is too large")]
    TooLarge,
    /// The content cannot be that of a knock.
    #[error("bad content: {what}")]
    BadContent {
        /// What is wrong.
        what: String,
    },
}

impl KnockRefusal {
    /// The fact in snake_case, as the actor stats and the audit name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ServerNotInRoom => "server_not_in_room",
            Self::ServerDenied => "server_denied",
            Self::VersionNotOffered { .. } => "version_not_offered",
            Self::VersionCannotKnock => "version_cannot_knock",
            Self::JoinRuleForbids { .. } => "join_rule_forbids",
            Self::Banned => "banned",
            Self::AlreadyInvited => "already_invited",
            Self::AlreadyJoined => "already_joined",
            Self::NotFederated => "not_federated",
            Self::AlreadyKnocking { .. } => "already_knocking",
            Self::NotAuthorized { .. } => "not_authorized",
            Self::TooManyPendingInRoom => "too_many_pending_in_room",
            Self::TooManyPendingFromOrigin => "too_many_pending_from_origin",
            Self::OverRate { .. } => "over_rate",
            Self::UnknownPrevEvents { .. } => "unknown_prev_events",
            Self::UnknownAuthEvents { .. } => "unknown_auth_events",
            Self::TooLarge => "too_large",
            Self::BadContent { .. } => "bad_content",
        }
    }
}

/// Why another server's user cannot leave.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LeaveRefusal {
    /// Nobody of this server is in the room any more.
    #[error("nobody of this server is in the room")]
    ServerNotInRoom,
    /// The room's ACL denies the server.
    #[error("the server is denied by the room's ACL")]
    ServerDenied,
    /// The user is neither in the room, nor invited, nor knocking.
    #[error("the user has nothing to leave")]
    NotAMember,
    /// The rules refuse.
    #[error("not authorized: {reason}")]
    NotAuthorized {
        /// For the log.
        reason: String,
    },
    /// The event cites events that we do not have.
    #[error("the event cites unknown prev_events")]
    UnknownPrevEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
    /// The event is authorized by events that we do not have.
    #[error("the event cites unknown auth_events")]
    UnknownAuthEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
}

/// Why another server may not read a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadRefusal {
    /// Nobody of this server is in the room any more.
    #[error("nobody of this server is in the room")]
    ServerNotInRoom,
    /// Nobody of the server that wants to read is in the room; who knocks or is invited is not.
    #[error("nobody of the reading server is in the room")]
    ReaderNotInRoom,
    /// The room's ACL denies the server.
    #[error("the server is denied by the room's ACL")]
    ServerDenied,
}

/// Why another server's user cannot join.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinRefusal {
    /// Nobody of this server is in the room any more.
    #[error("nobody of this server is in the room")]
    ServerNotInRoom,
    /// The room's ACL denies the server.
    #[error("the server is denied by the room's ACL")]
    ServerDenied,
    /// The calling server does not know the room's version.
    #[error("the room's version {room_version} was not offered")]
    VersionNotOffered {
        /// The room's version.
        room_version: RoomVersionId,
    },
    /// The rules refuse: banned, not invited, or the room is closed to other servers.
    #[error("not authorized: {reason}")]
    NotAuthorized {
        /// For the log.
        reason: String,
    },
    /// A restricted room, and we cannot judge whether the user meets its condition. Another server may.
    #[error("we cannot judge the condition of the restricted room")]
    UnableToAuthorise,
    /// A restricted room whose condition the user meets, but nobody of ours may invite. Another server may.
    #[error("nobody of this server may vouch for the join")]
    UnableToGrant,
    /// The event cites events that we do not have.
    #[error("the event cites unknown prev_events")]
    UnknownPrevEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
    /// The event is authorized by events that we do not have.
    #[error("the event cites unknown auth_events")]
    UnknownAuthEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
    /// The event would be larger than 65,536 bytes.
    #[error("the event is too large")]
    TooLarge,
    /// The content cannot be that of a join.
    #[error("bad content: {what}")]
    BadContent {
        /// What is wrong.
        what: String,
    },
}

/// Why an invite from another server is not taken: first what its body is judged by, then what the invited user's server
/// holds against it.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InviteRefusal {
    /// The event is larger than 65,536 bytes.
    #[error("the event is too large")]
    TooLarge,
    /// Its content is larger than [`handshake::HANDSHAKE_CONTENT_BYTES_MAX`].
    #[error("the content is too large")]
    ContentTooLarge,
    /// Not of the room version's event format.
    #[error("bad event: {what}")]
    BadFormat {
        /// What is wrong.
        what: String,
    },
    /// `room_id` is not the one in the path.
    #[error("the event is of another room")]
    RoomMismatch,
    /// The event's hash is not the id in the path.
    #[error("the event id in the path is not that of the event")]
    EventIdMismatch,
    /// `type` is not `m.room.member`.
    #[error("not a member event")]
    NotAMemberEvent,
    /// There is no `state_key`.
    #[error("not a state event")]
    NotAStateEvent,
    /// `content.membership` is not `invite`.
    #[error("not an invite")]
    WrongMembership,
    /// The sender is a user of another server than the one that calls.
    #[error("the sender is not a user of the calling server")]
    SenderNotOfOrigin,
    /// `state_key` is no user of this server.
    #[error("the invited user is not of this server")]
    NotOurUser,
    /// `origin_server_ts` lies more than [`handshake::TIMESTAMP_AHEAD_MAX`] in the future.
    #[error("origin_server_ts is too far in the future")]
    TimestampAhead,
    /// A required signature is missing or wrong.
    #[error("signature not verified: {why}")]
    SignatureInvalid {
        /// For the log.
        why: String,
    },
    /// The room's id is the hash of its create event, and `invite_room_state` holds no create event.
    #[error("invite_room_state lacks the create event")]
    NoCreateEvent,
    /// `invite_room_state` cannot be read, or shows the create event of another room.
    #[error("bad invite_room_state: {what}")]
    BadInviteState {
        /// What is wrong.
        what: String,
    },
    /// We cannot be in a room of this version.
    #[error("rooms of version {room_version} are not known here")]
    VersionNotKnown {
        /// The version in the request.
        room_version: RoomVersionId,
    },
    /// The invited user does not exist.
    #[error("no such user")]
    NoSuchUser,
    /// The user is in the room.
    #[error("the user is in the room already")]
    AlreadyJoined,
    /// We are in the room, and the user is banned from it.
    #[error("the user is banned")]
    Banned,
    /// We are in the room, and its ACL denies the calling server.
    #[error("the server is denied by the room's ACL")]
    ServerDenied,
    /// Our signature could not be added.
    #[error("not cosigned: {why}")]
    NotCosigned {
        /// For the log.
        why: String,
    },
}

/// Invites are judged like the bodies of handshakes, and are about somebody else than their sender.
impl From<HandshakeRefusal> for InviteRefusal {
    fn from(refusal: HandshakeRefusal) -> Self {
        match refusal {
            HandshakeRefusal::TooLarge => Self::TooLarge,
            HandshakeRefusal::ContentTooLarge => Self::ContentTooLarge,
            HandshakeRefusal::BadFormat { what } => Self::BadFormat { what },
            HandshakeRefusal::RoomMismatch => Self::RoomMismatch,
            HandshakeRefusal::EventIdMismatch => Self::EventIdMismatch,
            HandshakeRefusal::NotAMemberEvent => Self::NotAMemberEvent,
            HandshakeRefusal::NotAStateEvent => Self::NotAStateEvent,
            HandshakeRefusal::WrongMembership => Self::WrongMembership,
            HandshakeRefusal::SenderNotOfOrigin => Self::SenderNotOfOrigin,
            HandshakeRefusal::StateKeyMismatch => Self::NotOurUser,
            HandshakeRefusal::TimestampAhead => Self::TimestampAhead,
            HandshakeRefusal::SignatureInvalid { why } => Self::SignatureInvalid { why },
        }
    }
}

/// Why a room does not take an event that another server sent in a transaction or in answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReceiveRefusal {
    /// Nobody of this server is in the room any more.
    #[error("nobody of this server is in the room")]
    ServerNotInRoom,
    /// The room's ACL denies the server that sent it.
    #[error("the server is denied by the room's ACL")]
    ServerDenied,
    /// Events that it cites are not here: fetch them, then ask again.
    #[error("the event cites unknown events")]
    MissingEvents {
        /// Which.
        event_ids: Vec<OwnedEventId>,
    },
    /// The event is of another room.
    #[error("the event is of another room")]
    NotOfThisRoom,
    /// We are not in the room, and nothing that a user of ours asked for is answered by it.
    #[error("nobody asked for this event")]
    Unsolicited,
}

/// Why the template that another server answered to a `make_*` request is thrown away, unsigned.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateRefusal {
    /// `event` is missing or no object.
    #[error("the answer holds no event")]
    NotAnObject,
    /// `room_version` is none of those offered, or is missing where it must be there.
    #[error("the room version was not offered")]
    VersionNotOffered,
    /// `room_version` was offered, and yet we know no such rooms.
    #[error("rooms of version {room_version} are not known here")]
    VersionNotKnown {
        /// Which.
        room_version: RoomVersionId,
    },
    /// `room_id` is not the room asked for.
    #[error("the template is of another room")]
    WrongRoom,
    /// `type` is not `m.room.member`.
    #[error("the template is no member event")]
    WrongType,
    /// `sender` is not the user asked for.
    #[error("the template is of another sender")]
    WrongSender,
    /// `state_key` is not the user asked for.
    #[error("the template is about another user")]
    WrongStateKey,
    /// `content.membership` is not the one asked for.
    #[error("the template is of another membership")]
    WrongMembership,
    /// The place in the graph is unusable.
    #[error("bad place in the graph: {what}")]
    BadPlace {
        /// What is wrong.
        what: &'static str,
    },
    /// `join_authorised_via_users_server` is there and no user id of another server.
    #[error("the authorizing user is no user of another server")]
    BadAuthorisedVia,
}

/// Why a knock on a room of another server is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KnockElsewhereRefusal {
    /// This server is in the room: the knock is the room's to judge.
    #[error("this server is in the room")]
    LivedIn,
    /// The user is invited: accept the invite instead.
    #[error("the user is invited already")]
    AlreadyInvited,
}

/// Why what another server answered to our join does not make its room ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImportRefusal {
    /// There is no create event in it, or none that the rules allow.
    #[error("the state has no create event")]
    NoCreateEvent,
    /// The rules do not allow the join in that state.
    #[error("the join is not authorized: {reason}")]
    JoinNotAuthorized {
        /// For the log.
        reason: String,
    },
    /// It is about another room, or a room of another version.
    #[error("the join is one of another room")]
    OtherRoom,
    /// Somebody of this server joined meanwhile: the join is one event more of a room that we are in.
    #[error("this server is in the room already")]
    LivedIn,
    /// The user has left the room, or declined the invite, while the join was under way.
    #[error("the user has left meanwhile")]
    Left,
}

/// Why a membership is not changed for a user of this server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MembershipRefusal {
    /// The rules refuse.
    #[error("not authorized: {reason}")]
    NotAuthorized {
        /// For the log and for our own client.
        reason: String,
    },
    /// The one who acts, or the one acted upon, is not in the room.
    #[error("not in the room")]
    NotInRoom,
    /// Others are in the room and nobody of this server: one of theirs must be asked.
    #[error("this server is not in the room")]
    NotResident,
    /// The target is banned.
    #[error("the user is banned")]
    Banned,
    /// The knock was refused.
    #[error(transparent)]
    Knock(KnockRefusal),
    /// The event would be too large.
    #[error("the event is too large")]
    TooLarge,
    /// The content cannot be that of a member event.
    #[error("bad content: {what}")]
    BadContent {
        /// What is wrong.
        what: String,
    },
}

/// Why an event of a user of this server is not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendRefusal {
    /// The rules refuse.
    #[error("not authorized: {reason}")]
    NotAuthorized {
        /// For the log and for our own client.
        reason: String,
    },
    /// The event would be larger than 65,536 bytes.
    #[error("the event is too large")]
    TooLarge,
    /// Type or state key are longer than 255 bytes.
    #[error("type or state key too long")]
    FieldTooLong,
    /// The content cannot be that of such an event.
    #[error("bad content: {what}")]
    BadContent {
        /// What is wrong.
        what: String,
    },
    /// The event to be redacted is not here.
    #[error("the event to be redacted is unknown")]
    UnknownRedactionTarget,
}

/// Why a room is not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateRefusal {
    /// Rooms of this version are not made here.
    #[error("rooms of this version are not made here")]
    VersionNotHosted,
    /// One of the initial events is against the rules.
    #[error("not authorized: {reason}")]
    NotAuthorized {
        /// For the log and for our own client.
        reason: String,
    },
    /// One of the initial events would be too large.
    #[error("an event is too large")]
    TooLarge,
    /// Type or state key of an initial event are longer than 255 bytes.
    #[error("type or state key too long")]
    FieldTooLong,
    /// The content of an initial event cannot be that of such an event.
    #[error("bad content: {what}")]
    BadContent {
        /// What is wrong.
        what: String,
    },
    /// The room that it replaces has more to take along than the first commit of a room holds.
    #[error("too much to take along")]
    TooMuch,
    /// The drawn room id is taken.
    #[error("room exists")]
    RoomExists,
}
