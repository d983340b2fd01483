use std::collections::BTreeMap;

use actix_web::{ResponseError as _, body::to_bytes, http::header};
use ruma::{RoomVersionId, owned_event_id, room::JoinRuleKind};
use vestibule_federation::{client::RemoteError, keyring::DocumentError};
use vestibule_protocol::membership::KnockBucket;

use super::*;

/// Status, errcode, and where it is written.
type Row<T> = (T, u16, &'static str, &'static str);

fn check<T: Into<MatrixError> + std::fmt::Debug>(table: Vec<Row<T>>) {
    for (fact, status, errcode, source) in table {
        let shown = format!("{fact:?} ({source})");
        let error: MatrixError = fact.into();
        assert_eq!((error.status.as_u16(), error.errcode.as_str()), (status, errcode), "{shown}");
        assert!(!error.error.is_empty(), "{shown}");
    }
}

fn reason() -> String {
    "rule 5.7: secret words".to_owned()
}

fn unknown_events() -> Vec<ruma::OwnedEventId> {
    vec![owned_event_id!("$unknown")]
}

fn over_rate() -> KnockRefusal {
    KnockRefusal::OverRate { bucket: KnockBucket::Room, retry_after: Duration::from_millis(1500) }
}

#[test]
fn knocks() {
    check(vec![
        (KnockRefusal::ServerNotInRoom, 404, "M_NOT_FOUND", "SPEC 2.5"),
        (KnockRefusal::ServerDenied, 403, "M_FORBIDDEN", "SPEC 2.11"),
        (
            KnockRefusal::VersionNotOffered { room_version: RoomVersionId::V10 },
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "SPEC 2.5, D11",
        ),
        (KnockRefusal::VersionCannotKnock, 403, "M_FORBIDDEN", "SPEC 2.5"),
        (KnockRefusal::JoinRuleForbids { rule: Some(JoinRuleKind::Invite) }, 403, "M_FORBIDDEN", "SPEC 2.5"),
        (KnockRefusal::Banned, 403, "M_FORBIDDEN", "SPEC 2.4"),
        (KnockRefusal::AlreadyInvited, 403, "M_FORBIDDEN", "SPEC 2.4, D25"),
        (KnockRefusal::AlreadyJoined, 403, "M_FORBIDDEN", "SPEC 2.4, D25"),
        (KnockRefusal::NotFederated, 403, "M_FORBIDDEN", "D28"),
        (KnockRefusal::AlreadyKnocking { again_from: UnixMillis(0) }, 403, "M_FORBIDDEN", "D3"),
        (KnockRefusal::NotAuthorized { reason: reason() }, 403, "M_FORBIDDEN", "SPEC 2.5"),
        (KnockRefusal::TooManyPendingInRoom, 403, "M_FORBIDDEN", "DESIGN 3.12"),
        (KnockRefusal::TooManyPendingFromOrigin, 403, "M_FORBIDDEN", "DESIGN 3.12"),
        (over_rate(), 429, "M_LIMIT_EXCEEDED", "DESIGN 3.12"),
        (KnockRefusal::UnknownPrevEvents { event_ids: unknown_events() }, 400, "M_INVALID_PARAM", "SPEC 2.6"),
        (KnockRefusal::UnknownAuthEvents { event_ids: unknown_events() }, 400, "M_INVALID_PARAM", "SPEC 2.6"),
        (KnockRefusal::TooLarge, 413, "M_TOO_LARGE", "SPEC 2.6"),
        (KnockRefusal::BadContent { what: "x".to_owned() }, 400, "M_BAD_JSON", "SPEC 2.6"),
    ]);
}

#[test]
fn handshakes() {
    check(vec![
        (HandshakeRefusal::TooLarge, 413, "M_TOO_LARGE", "SPEC 2.6"),
        (HandshakeRefusal::ContentTooLarge, 413, "M_TOO_LARGE", "SECURITY T4"),
        (HandshakeRefusal::BadFormat { what: "x".to_owned() }, 400, "M_BAD_JSON", "SPEC 2.6"),
        (HandshakeRefusal::RoomMismatch, 400, "M_INVALID_PARAM", "SPEC 2.6, V04"),
        (HandshakeRefusal::EventIdMismatch, 400, "M_INVALID_PARAM", "D17, V04"),
        (HandshakeRefusal::NotAMemberEvent, 400, "M_INVALID_PARAM", "SPEC 2.6"),
        (HandshakeRefusal::WrongMembership, 400, "M_INVALID_PARAM", "SPEC 2.6"),
        (HandshakeRefusal::NotAStateEvent, 400, "M_INVALID_PARAM", "SPEC 2.6"),
        (HandshakeRefusal::SenderNotOfOrigin, 400, "M_INVALID_PARAM", "D12, T10"),
        (HandshakeRefusal::StateKeyMismatch, 400, "M_INVALID_PARAM", "SPEC 2.6"),
        (HandshakeRefusal::TimestampAhead, 400, "M_INVALID_PARAM", "SECURITY T13"),
        (HandshakeRefusal::SignatureInvalid { why: reason() }, 400, "M_INVALID_PARAM", "SPEC 2.6, V03"),
    ]);
}

#[test]
fn leaves() {
    check(vec![
        (LeaveRefusal::ServerNotInRoom, 404, "M_NOT_FOUND", "SPEC 2.5"),
        (LeaveRefusal::ServerDenied, 403, "M_FORBIDDEN", "SPEC 2.11"),
        (LeaveRefusal::NotAMember, 403, "M_FORBIDDEN", "SPEC 2.9"),
        (LeaveRefusal::NotAuthorized { reason: reason() }, 403, "M_FORBIDDEN", "SPEC 2.9"),
        (LeaveRefusal::UnknownPrevEvents { event_ids: unknown_events() }, 400, "M_INVALID_PARAM", "SPEC 2.9"),
        (LeaveRefusal::UnknownAuthEvents { event_ids: unknown_events() }, 400, "M_INVALID_PARAM", "SPEC 2.9"),
    ]);
}

#[test]
fn joins() {
    check(vec![
        (JoinRefusal::ServerNotInRoom, 404, "M_NOT_FOUND", "SS make_join"),
        (JoinRefusal::ServerDenied, 403, "M_FORBIDDEN", "SPEC 2.11"),
        (
            JoinRefusal::VersionNotOffered { room_version: RoomVersionId::V10 },
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "SS make_join",
        ),
        (JoinRefusal::NotAuthorized { reason: reason() }, 403, "M_FORBIDDEN", "SS make_join"),
        (JoinRefusal::UnableToAuthorise, 400, "M_UNABLE_TO_AUTHORISE_JOIN", "SS make_join"),
        (JoinRefusal::UnableToGrant, 400, "M_UNABLE_TO_GRANT_JOIN", "SS make_join"),
        (JoinRefusal::UnknownPrevEvents { event_ids: unknown_events() }, 400, "M_INVALID_PARAM", "SS send_join"),
        (JoinRefusal::UnknownAuthEvents { event_ids: unknown_events() }, 400, "M_INVALID_PARAM", "SS send_join"),
        (JoinRefusal::TooLarge, 413, "M_TOO_LARGE", "V52"),
        (JoinRefusal::BadContent { what: "x".to_owned() }, 400, "M_BAD_JSON", "SS send_join"),
    ]);
}

#[test]
fn invites() {
    check(vec![
        (InviteRefusal::TooLarge, 413, "M_TOO_LARGE", "V52"),
        (InviteRefusal::ContentTooLarge, 413, "M_TOO_LARGE", "SECURITY T4"),
        (InviteRefusal::BadFormat { what: "x".to_owned() }, 400, "M_BAD_JSON", "SPEC 2.6"),
        (InviteRefusal::RoomMismatch, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::EventIdMismatch, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::NotAMemberEvent, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::NotAStateEvent, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::WrongMembership, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::SenderNotOfOrigin, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::NotOurUser, 400, "M_INVALID_PARAM", "V02"),
        (InviteRefusal::TimestampAhead, 400, "M_INVALID_PARAM", "SECURITY T13"),
        (InviteRefusal::SignatureInvalid { why: reason() }, 400, "M_INVALID_PARAM", "V03"),
        (InviteRefusal::NoCreateEvent, 400, "M_MISSING_PARAM", "V12"),
        (InviteRefusal::BadInviteState { what: "x".to_owned() }, 400, "M_INVALID_PARAM", "V12"),
        (
            InviteRefusal::VersionNotKnown { room_version: RoomVersionId::V1 },
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "SPEC 6",
        ),
        (InviteRefusal::NoSuchUser, 404, "M_NOT_FOUND", "SS invite"),
        (InviteRefusal::AlreadyJoined, 403, "M_FORBIDDEN", "SS invite"),
        (InviteRefusal::Banned, 403, "M_FORBIDDEN", "SS invite"),
        (InviteRefusal::ServerDenied, 403, "M_FORBIDDEN", "SPEC 2.11"),
        (InviteRefusal::NotCosigned { why: reason() }, 500, "M_UNKNOWN", "D32"),
    ]);
    let told = MatrixError::from(InviteRefusal::VersionNotKnown { room_version: RoomVersionId::V1 });
    assert_eq!(told.body()["room_version"], "1");
}

#[test]
fn reads_of_other_servers() {
    check(vec![
        (ReadRefusal::ServerNotInRoom, 404, "M_NOT_FOUND", "V42"),
        (ReadRefusal::ReaderNotInRoom, 403, "M_FORBIDDEN", "V11"),
        (ReadRefusal::ServerDenied, 403, "M_FORBIDDEN", "SPEC 2.11"),
    ]);
}

#[test]
fn what_our_own_users_ask() {
    check(vec![
        (MembershipRefusal::NotAuthorized { reason: reason() }, 403, "M_FORBIDDEN", "SPEC 2.9"),
        (MembershipRefusal::NotInRoom, 403, "M_FORBIDDEN", "SPEC 2.9"),
        (MembershipRefusal::NotResident, 404, "M_NOT_FOUND", "SPEC 2.10"),
        (MembershipRefusal::Knock(KnockRefusal::Banned), 403, "M_FORBIDDEN", "SPEC 2.10"),
        (MembershipRefusal::Knock(over_rate()), 429, "M_LIMIT_EXCEEDED", "SPEC 2.10"),
        (MembershipRefusal::Banned, 403, "M_FORBIDDEN", "SPEC 2.4"),
        (MembershipRefusal::TooLarge, 413, "M_TOO_LARGE", "V52"),
        (MembershipRefusal::BadContent { what: "x".to_owned() }, 400, "M_BAD_JSON", "CS errors"),
    ]);
    check(vec![
        (SendRefusal::NotAuthorized { reason: reason() }, 403, "M_FORBIDDEN", "CS sending events"),
        (SendRefusal::TooLarge, 413, "M_TOO_LARGE", "V52"),
        (SendRefusal::FieldTooLong, 413, "M_TOO_LARGE", "V52"),
        (SendRefusal::BadContent { what: "x".to_owned() }, 400, "M_BAD_JSON", "V49"),
        (SendRefusal::UnknownRedactionTarget, 404, "M_NOT_FOUND", "CS redactions"),
    ]);
    check(vec![
        (CreateRefusal::VersionNotHosted, 400, "M_UNSUPPORTED_ROOM_VERSION", "CS createRoom"),
        (CreateRefusal::NotAuthorized { reason: reason() }, 400, "M_INVALID_ROOM_STATE", "CS createRoom"),
        (CreateRefusal::TooLarge, 413, "M_TOO_LARGE", "V52"),
        (CreateRefusal::FieldTooLong, 413, "M_TOO_LARGE", "V52"),
        (CreateRefusal::BadContent { what: "x".to_owned() }, 400, "M_BAD_JSON", "CS createRoom"),
        (CreateRefusal::TooMuch, 413, "M_TOO_LARGE", "ours"),
        (CreateRefusal::RoomExists, 400, "M_ROOM_IN_USE", "CS createRoom"),
    ]);
}

#[test]
fn rooms_and_stores() {
    let asked = |error: AskError<KnockRefusal>| MatrixError::from(error);
    check(vec![
        (asked(AskError::Refused(KnockRefusal::Banned)), 403, "M_FORBIDDEN", "SPEC 2.4"),
        (asked(AskError::RoomNotHere), 404, "M_NOT_FOUND", "SPEC 2.5"),
        (asked(AskError::Overloaded), 429, "M_LIMIT_EXCEEDED", "T23, DESIGN 3.12"),
        (asked(AskError::Failed), 500, "M_UNKNOWN", "D32"),
        (asked(AskError::Storage(CommitError::PredecessorMissing)), 503, "M_UNKNOWN", "G16"),
    ]);
    let text = || "/data/journal: broken".to_owned();
    check(vec![
        (StorageError::NotWritten { reason: text() }, 503, "M_UNKNOWN", "G16"),
        (StorageError::OutcomeUnknown { reason: text() }, 500, "M_UNKNOWN", "D32"),
        (StorageError::Unavailable { reason: text() }, 503, "M_UNKNOWN", "G16"),
        (StorageError::Corrupt { what: text() }, 500, "M_UNKNOWN", "D32"),
        (StorageError::DiskFull, 503, "M_UNKNOWN", "G16"),
    ]);
    check(vec![
        (CommitError::Storage(StorageError::DiskFull), 503, "M_UNKNOWN", "G16"),
        (CommitError::PredecessorMissing, 503, "M_UNKNOWN", "G16"),
        (CommitError::Conflict(Conflict::UserExists), 400, "M_USER_IN_USE", "CS register"),
        (CommitError::Conflict(Conflict::NoSuchUser), 404, "M_NOT_FOUND", "CS profile"),
        (CommitError::Conflict(Conflict::AliasExists), 409, "M_UNKNOWN", "CS directory"),
        (CommitError::Conflict(Conflict::NoSuchAlias), 404, "M_NOT_FOUND", "CS directory"),
        (CommitError::Conflict(Conflict::NoSuchDevice), 404, "M_NOT_FOUND", "CS devices"),
        (CommitError::Conflict(Conflict::NoSuchKey), 404, "M_NOT_FOUND", "CS keys/claim"),
        (CommitError::Conflict(Conflict::AlreadySeen), 409, "M_UNKNOWN", "CS sendToDevice"),
        (CommitError::Conflict(Conflict::RoomExists), 400, "M_ROOM_IN_USE", "CS createRoom"),
        (CommitError::Conflict(Conflict::NoSuchRoom), 404, "M_NOT_FOUND", "CS errors"),
    ]);
    check(vec![(NoSlot::Busy, 429, "M_LIMIT_EXCEEDED", "T23"), (NoSlot::Refused, 503, "M_UNKNOWN", "G16")]);
}

#[test]
fn requests_of_servers() {
    let keys = |error: KeyError| VerifyRequestError::Keys(error);
    let key_id = || ruma::ServerSigningKeyId::parse("ed25519:1").unwrap();
    check(vec![
        (VerifyRequestError::DestinationMismatch, 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (VerifyRequestError::SignatureCount { count: 9 }, 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (VerifyRequestError::BadSignature { key_id: key_id() }, 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (VerifyRequestError::NoCanonicalForm, 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::NoUsableKey), 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::RecentlyFailed { retry_after: Duration::ZERO }), 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::Fetch(RemoteError::DestinationIsUs)), 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::UnfitDocument(DocumentError::WrongServer)), 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::Busy), 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::GivenUp), 401, "M_UNAUTHORIZED", "SPEC 4.3"),
        (keys(KeyError::OverBudget), 429, "M_LIMIT_EXCEEDED", "SECURITY T16"),
    ]);
    check(vec![
        (JsonRefusal::NotJson("x".to_owned()), 400, "M_NOT_JSON", "SPEC 4.3"),
        (JsonRefusal::NotCanonical("x".to_owned()), 400, "M_BAD_JSON", "SPEC 4.3"),
    ]);
}

#[test]
fn banned_and_not_knockable_read_the_same() {
    // SECURITY T18: not even the length of a body tells which rule it was.
    let facts = [
        KnockRefusal::Banned,
        KnockRefusal::VersionCannotKnock,
        KnockRefusal::NotFederated,
        KnockRefusal::JoinRuleForbids { rule: None },
        KnockRefusal::JoinRuleForbids { rule: Some(JoinRuleKind::Public) },
        KnockRefusal::NotAuthorized { reason: reason() },
    ];
    let bodies: BTreeMap<String, ()> =
        facts.into_iter().map(|fact| (MatrixError::from(fact).body().to_string(), ())).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[test]
fn causes_of_ours_stay_inside() {
    let secret = "/data/journal: broken";
    let error = MatrixError::from(StorageError::Corrupt { what: secret.to_owned() });
    assert!(!error.body().to_string().contains("journal"));
    let error = MatrixError::from(HandshakeRefusal::SignatureInvalid { why: reason() });
    assert!(!error.body().to_string().contains("secret"));
    let error = MatrixError::from(KnockRefusal::NotAuthorized { reason: reason() });
    assert!(!error.body().to_string().contains("secret"));
}

#[actix_web::test]
async fn bodies_and_headers_are_complete() {
    let limited = MatrixError::from(over_rate()).error_response();
    assert_eq!(limited.headers().get(header::RETRY_AFTER).unwrap(), "2", "rounded up");
    let body: serde_json::Value = serde_json::from_slice(&to_bytes(limited.into_body()).await.unwrap()).unwrap();
    assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
    assert_eq!(body["retry_after_ms"], 1500);
    let version = MatrixError::from(KnockRefusal::VersionNotOffered { room_version: RoomVersionId::V11 });
    assert_eq!(version.body()["room_version"], "11");
    let again = MatrixError::from(KnockRefusal::AlreadyKnocking { again_from: UnixMillis(1_790_000_000_000) });
    assert!(again.error.ends_with("2026-09-21T14:13:20.000Z"), "{}", again.error);
    let answer = MatrixError::missing_token().error_response();
    assert_eq!(answer.headers().get(header::CONTENT_TYPE).unwrap(), "application/json");
}

#[test]
fn what_other_servers_answered() {
    let forbidden = || PerformError::Refused { status: 403, errcode: ErrorCode::Forbidden };
    check(vec![
        (PerformError::NoServers, 404, "M_NOT_FOUND", "SPEC 2.12"),
        (PerformError::NotFound, 404, "M_NOT_FOUND", "DESIGN 5"),
        (forbidden(), 403, "M_FORBIDDEN", "DESIGN 5"),
        (
            PerformError::Refused { status: 400, errcode: ErrorCode::UnableToAuthorizeJoin },
            400,
            "M_UNABLE_TO_AUTHORISE_JOIN",
            "STYLE 17",
        ),
        (PerformError::VersionNotKnown { room_version: None }, 400, "M_INCOMPATIBLE_ROOM_VERSION", "DESIGN 5"),
        (
            PerformError::VersionNotKnown { room_version: Some(RoomVersionId::V1) },
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "DESIGN 5",
        ),
        (PerformError::OverRate { retry_after: None }, 429, "M_LIMIT_EXCEEDED", "DESIGN 5"),
        (PerformError::AllFailed { asked: 3 }, 502, "M_UNKNOWN", "DESIGN 5"),
        (PerformError::TimedOut, 502, "M_UNKNOWN", "DESIGN 5"),
        (PerformError::NotBegun(KnockElsewhereRefusal::AlreadyInvited), 403, "M_FORBIDDEN", "SPEC 2.4"),
        (PerformError::NotBegun(KnockElsewhereRefusal::LivedIn), 429, "M_LIMIT_EXCEEDED", "a race of two users"),
        (PerformError::NotImported(ImportRefusal::LivedIn), 429, "M_LIMIT_EXCEEDED", "a race of two users"),
        (PerformError::NotImported(ImportRefusal::NoCreateEvent), 502, "M_UNKNOWN", "STYLE 17"),
        (
            PerformError::NotImported(ImportRefusal::JoinNotAuthorized { reason: reason() }),
            502,
            "M_UNKNOWN",
            "STYLE 17",
        ),
        (PerformError::NotImported(ImportRefusal::OtherRoom), 502, "M_UNKNOWN", "STYLE 17"),
        (PerformError::NotImported(ImportRefusal::Left), 403, "M_FORBIDDEN", "CS 10.4: the user is not in the room"),
        (PerformError::TooLarge, 413, "M_TOO_LARGE", "SECURITY V52"),
        (PerformError::BadContent { what: "x".to_owned() }, 400, "M_BAD_JSON", "SPEC 2.12"),
        (PerformError::Overloaded, 429, "M_LIMIT_EXCEEDED", "SECURITY T23"),
        (PerformError::Storage(CommitError::Storage(StorageError::DiskFull)), 503, "M_UNKNOWN", "SECURITY G16"),
        (PerformError::Failed, 500, "M_UNKNOWN", "STYLE 14"),
    ]);
    let years = PerformError::OverRate { retry_after: Some(Duration::from_hours(100_000)) };
    assert_eq!(MatrixError::from(years).retry_after, Some(Duration::from_hours(1)));
    let known = MatrixError::from(PerformError::VersionNotKnown { room_version: Some(RoomVersionId::V1) });
    assert_eq!(known.extra.get("room_version"), Some(&"1".into()));
}
