//! Requests to the endpoints of other servers: their paths, every part of them percent-encoded once.
//! May not: send anything, or build a body.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/>

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{EventId, RoomAliasId, RoomId, RoomVersionId, UserId};

use crate::client::ServerRequest;

/// What RFC 3986 calls unreserved stays as it is; all else is encoded, so that no server reads a part in another way.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const FEDERATION: &str = "/_matrix/federation";

/// A transaction.
pub(crate) fn send(transaction_id: &str, body: String) -> ServerRequest {
    ServerRequest::put(path("v1/send", &[transaction_id]), body)
}

/// An event for the policy server of its room.
pub(crate) fn policy_sign(body: String) -> ServerRequest {
    ServerRequest::post("/_matrix/policy/v1/sign", body)
}

/// An invite for a user of the destination.
pub(crate) fn invite(room_id: &RoomId, event_id: &EventId, body: String) -> ServerRequest {
    ServerRequest::put(path("v2/invite", &[room_id.as_str(), event_id.as_str()]), body)
}

/// The template of a knock, join or leave. `offered`: the room versions that we know; leaves have none.
pub(crate) fn make(what: Made, room_id: &RoomId, user_id: &UserId, offered: &[RoomVersionId]) -> ServerRequest {
    let base = match what {
        Made::Knock => "v1/make_knock",
        Made::Join => "v1/make_join",
        Made::Leave => "v1/make_leave",
    };
    let versions = offered.iter().map(|version| ("ver", version.as_str()));
    ServerRequest::get(with_query(path(base, &[room_id.as_str(), user_id.as_str()]), versions))
}

/// What a template is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    Knock,
    Join,
    Leave,
}

/// A signed knock.
pub(crate) fn send_knock(room_id: &RoomId, event_id: &EventId, body: String) -> ServerRequest {
    ServerRequest::put(path("v1/send_knock", &[room_id.as_str(), event_id.as_str()]), body)
}

/// A signed join, asking for the whole state.
pub(crate) fn send_join(room_id: &RoomId, event_id: &EventId, body: String) -> ServerRequest {
    ServerRequest::put(path("v2/send_join", &[room_id.as_str(), event_id.as_str()]), body)
}

/// A signed leave.
pub(crate) fn send_leave(form: SendLeaveForm, room_id: &RoomId, event_id: &EventId, body: String) -> ServerRequest {
    let base = match form {
        SendLeaveForm::V2 => "v2/send_leave",
        SendLeaveForm::V1 => "v1/send_leave",
    };
    ServerRequest::put(path(base, &[room_id.as_str(), event_id.as_str()]), body)
}

/// Which of the two endpoints takes a leave. The first one left the specification in 1.18; old servers have only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendLeaveForm {
    V2,
    V1,
}

/// Where a room alias leads.
pub(crate) fn query_directory(alias: &RoomAliasId) -> ServerRequest {
    ServerRequest::get(with_query(path("v1/query/directory", &[]), [("room_alias", alias.as_str())]))
}

/// A user's profile, or one field of it.
pub(crate) fn query_profile(user_id: &UserId, field: Option<&str>) -> ServerRequest {
    let user = [("user_id", user_id.as_str())];
    ServerRequest::get(with_query(
        path("v1/query/profile", &[]),
        user.into_iter().chain(field.map(|field| ("field", field))),
    ))
}

/// A page of a room directory, by the form that takes a filter.
pub(crate) fn public_rooms(body: String) -> ServerRequest {
    ServerRequest::post(path("v1/publicRooms", &[]), body)
}

/// A room and, if it is a space, what is in it.
pub(crate) fn hierarchy(room_id: &RoomId) -> ServerRequest {
    ServerRequest::get(path("v1/hierarchy", &[room_id.as_str()]))
}

/// One event.
pub(crate) fn event(event_id: &EventId) -> ServerRequest {
    ServerRequest::get(path("v1/event", &[event_id.as_str()]))
}

/// What lies between the events that we have and those that we were sent.
pub(crate) fn get_missing_events(room_id: &RoomId, body: String) -> ServerRequest {
    ServerRequest::post(path("v1/get_missing_events", &[room_id.as_str()]), body)
}

/// The ids of the state before an event and of what authorizes it.
pub(crate) fn state_ids(room_id: &RoomId, event_id: &EventId) -> ServerRequest {
    ServerRequest::get(with_query(path("v1/state_ids", &[room_id.as_str()]), [("event_id", event_id.as_str())]))
}

/// The state before an event and what authorizes it.
pub(crate) fn state(room_id: &RoomId, event_id: &EventId) -> ServerRequest {
    ServerRequest::get(with_query(path("v1/state", &[room_id.as_str()]), [("event_id", event_id.as_str())]))
}

/// Events that come before one.
pub(crate) fn backfill(room_id: &RoomId, before: &EventId, limit: usize) -> ServerRequest {
    let limit = limit.to_string();
    let pairs = [("v", before.as_str()), ("limit", limit.as_str())];
    ServerRequest::get(with_query(path("v1/backfill", &[room_id.as_str()]), pairs))
}

/// Keys of users and their devices.
pub(crate) fn user_keys_query(body: String) -> ServerRequest {
    ServerRequest::post(path("v1/user/keys/query", &[]), body)
}

/// Keys for one use.
pub(crate) fn user_keys_claim(body: String) -> ServerRequest {
    ServerRequest::post(path("v1/user/keys/claim", &[]), body)
}

fn path(base: &str, parts: &[&str]) -> String {
    let mut path = format!("{FEDERATION}/{base}");
    for part in parts {
        path.push('/');
        path.extend(utf8_percent_encode(part, ENCODED));
    }
    path
}

fn with_query<'a>(mut path: String, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    for (number, (name, value)) in pairs.into_iter().enumerate() {
        path.push(if number == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        path.extend(utf8_percent_encode(value, ENCODED));
    }
    path
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_alias_id, room_id, user_id};

    use super::*;

    #[test]
    fn every_part_is_encoded_once_and_versions_are_repeated() {
        let (room, user) = (room_id!("!r/ä:hs2:8448"), user_id!("@a%b:hs1"));
        let make = make(Made::Knock, room, user, &[RoomVersionId::V7, RoomVersionId::V12]);
        assert_eq!(
            make.path_and_query,
            "/_matrix/federation/v1/make_knock/%21r%2F%C3%A4%3Ahs2%3A8448/%40a%25b%3Ahs1?ver=7&ver=12"
        );
        assert_eq!(
            query_directory(room_alias_id!("#a&b:hs2")).path_and_query,
            "/_matrix/federation/v1/query/directory?room_alias=%23a%26b%3Ahs2"
        );
        assert_eq!(
            query_profile(user, None).path_and_query,
            "/_matrix/federation/v1/query/profile?user_id=%40a%25b%3Ahs1"
        );
        let send = send_knock(room_id!("!r:h"), event_id!("$a-b_c"), "{}".to_owned());
        assert_eq!(send.path_and_query, "/_matrix/federation/v1/send_knock/%21r%3Ah/%24a-b_c");
    }
}
