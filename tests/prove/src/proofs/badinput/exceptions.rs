//! Where an endpoint rightly answers otherwise than its kind of fault does, each with the reason.
//! May not: stand unused. What never happened in a full run is a miss, so that the list does not outlive its reasons.

use std::collections::BTreeSet;

use super::malformed::Right;

/// What is so at some routes.
pub struct Exception {
    /// Stands in method and pattern.
    route: &'static str,
    /// Stands in the kind of fault.
    kind: &'static str,
    pub verdict: Verdict,
    pub why: &'static str,
}

#[derive(Clone, Copy)]
pub enum Verdict {
    /// These answers are right too.
    Also(Right),
    /// There it is no fault, so nothing is sent.
    NoFault,
}

use Verdict::{Also, NoFault};

/// The answer speaks of each part by itself; the state must be as before all the same.
const PASSED_OVER: Verdict = Also(&[(200, &[""])]);

pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        route: "/rooms/{room_id}/state",
        kind: "a longer path",
        verdict: NoFault,
        why: "a state key may have slashes",
    },
    Exception {
        route: "/federation/v1/invite/",
        kind: "",
        verdict: Also(&[(400, &["M_INCOMPATIBLE_ROOM_VERSION"])]),
        why: "such invites are of rooms of version 1 or 2, which are not known here, whatever else they say",
    },
    Exception {
        route: "/federation/v2/invite/",
        kind: "%21 for {roomId}",
        verdict: Also(&[(400, &["M_BAD_JSON"])]),
        why: "its event is looked at before the room, which need not be known",
    },
    Exception {
        route: "/federation/v1/make_",
        kind: "the query `",
        verdict: Also(&[(400, &["M_INCOMPATIBLE_ROOM_VERSION"])]),
        why: "a version that is none is not the room's; who offers none knows version 1 alone",
    },
    Exception {
        route: "/federation/v1/query/profile",
        kind: "elsewhere.test",
        verdict: Also(&[(404, &["M_NOT_FOUND"])]),
        why: "a user of another server is none of ours",
    },
    Exception {
        route: "/register/available",
        kind: "the query `username=",
        verdict: Also(&[(400, &["M_INVALID_USERNAME"])]),
        why: "a name that is none has an errcode of its own",
    },
    Exception {
        route: "/room_keys/keys/{room_id}",
        kind: " for {room_id}",
        verdict: Also(&[(404, &["M_NOT_FOUND"])]),
        why: "nobody has a backup here, whatever room is named",
    },
    Exception {
        route: "/createRoom",
        kind: "-1 at /power_level_content_override/ban",
        verdict: NoFault,
        why: "a level may be negative",
    },
    Exception {
        route: "/createRoom",
        kind: " at /",
        verdict: Also(&[(400, &["M_INVALID_ROOM_STATE"])]),
        why: "the errcode for a wish that makes no room: levels and flags are judged by the room's rules",
    },
    Exception {
        route: "/keys/signatures/upload",
        kind: " at /",
        verdict: PASSED_OVER,
        why: "the answer names each key that was not signed",
    },
    Exception {
        route: "/keys/query",
        kind: "{} at /device_keys/",
        verdict: PASSED_OVER,
        why: "old clients and servers say {} where they mean all devices; Synapse reads it so",
    },
    Exception {
        route: "PUT /_matrix/federation/v1/send/",
        kind: " at /origin",
        verdict: PASSED_OVER,
        why: "who sends it is what the signature says; when is nobody's concern, and Synapse does not look either",
    },
    Exception {
        route: "PUT /_matrix/federation/v1/send/",
        kind: "] at /",
        verdict: PASSED_OVER,
        why: "one entry that is no event does not lose the others; the specification fails no transaction for one",
    },
    Exception {
        route: "PUT /_matrix/federation/v1/send/",
        kind: "no pdus",
        verdict: PASSED_OVER,
        why: "servers leave out what is empty (matrix-spec issue 705)",
    },
    Exception {
        route: "/keys/upload",
        kind: "\"x\" at /one_time_keys/",
        verdict: NoFault,
        why: "a key that is not signed is text; which algorithm has which form is between clients, and Synapse takes both",
    },
    Exception {
        route: "PUT /_matrix/federation/",
        kind: "no state_key",
        verdict: Also(&[(400, &["M_INVALID_PARAM"])]),
        why: "an event has an id without it, but another than the path's",
    },
    Exception {
        route: "PUT /_matrix/federation/",
        kind: " at /origin",
        verdict: NoFault,
        why: "no event format has a key `origin`, so nothing is said of its type",
    },
];

/// Those of a kind of fault at a route: the first one counts.
pub fn exception(route: &str, kind: &str) -> Option<usize> {
    EXCEPTIONS.iter().position(|exception| route.contains(exception.route) && kind.contains(exception.kind))
}

/// What never happened.
pub fn unused(used: &BTreeSet<usize>) -> impl Iterator<Item = String> {
    let unused = EXCEPTIONS.iter().enumerate().filter(|(place, _)| !used.contains(place));
    unused
        .map(|(_, Exception { route, kind, why, .. })| format!("no exception is needed for `{kind}` at {route}: {why}"))
}
