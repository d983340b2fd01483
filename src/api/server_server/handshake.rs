//! What `make_*` and `send_*` share: refusals at the door, the keys of an event, and what is worth waiting for.
//! May not: decide about membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{OwnedServerName, RoomId, ServerName, signatures::PublicKeyMap};
use vestibule_actors::AskError;
use vestibule_protocol::{
    membership::{
        HandshakeRefusal, KnockRefusal,
        handshake::{Handshake, HandshakeShape},
    },
    pdu::Pdu,
    room_version::RoomVersion,
};

use crate::{error::MatrixError, state::App};

/// Pause before a room whose mailbox is full is asked again. Ours: a mailbox drains in far less.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(500);

/// Why a knock is refused before any room is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoorRefusal {
    /// The query names no `ver`.
    NoVersionsOffered,
    /// The user is one of another server than the one that calls.
    UserNotOfOrigin,
}

impl DoorRefusal {
    /// The fact in snake_case, as counters name it.
    fn name(self) -> &'static str {
        match self {
            Self::NoVersionsOffered => "no_versions_offered",
            Self::UserNotOfOrigin => "user_not_of_origin",
        }
    }
}

/// SPEC 2.5 and section 3: D10, D12.
impl From<DoorRefusal> for MatrixError {
    fn from(refusal: DoorRefusal) -> Self {
        match refusal {
            DoorRefusal::NoVersionsOffered => Self::missing_param("missing query parameter ver"),
            DoorRefusal::UserNotOfOrigin => Self::invalid_param("the user is no user of the calling server"),
        }
    }
}

/// Counts a refusal of the door and gives its answer.
pub(super) fn refuse_at_door(app: &App, refusal: DoorRefusal) -> MatrixError {
    app.rooms.gauges().knock_refused(refusal.name());
    refusal.into()
}

/// The answer to a knock that the room refused for good, held or not. The room counts all but rates, over which it may be
/// asked again.
pub(super) fn refuse_by_room(app: &App, error: AskError<KnockRefusal>) -> MatrixError {
    if let AskError::Refused(refusal @ KnockRefusal::OverRate { .. }) = &error {
        app.rooms.gauges().knock_refused(refusal.name());
    }
    error.into()
}

/// Asks the room whether the server may knock at all; a denial is counted. Held while the room's mailbox is full.
pub(super) async fn check_door_for_knock(
    app: &App,
    room_id: &RoomId,
    origin: &ServerName,
) -> Result<RoomVersion, MatrixError> {
    check_door(app, room_id, origin).await.map_err(|error| {
        if let AskError::Refused(refusal) = &error {
            app.rooms.gauges().knock_refused(refusal.name());
        }
        error.into()
    })
}

/// Asks the room whether the server may come to its door, and of which version it is.
pub(super) async fn check_door(
    app: &App,
    room_id: &RoomId,
    origin: &ServerName,
) -> Result<RoomVersion, AskError<KnockRefusal>> {
    let attempt = || app.rooms.check_door(room_id, origin);
    app.limits.hold_until(&*app.clock, attempt, overload_pause).await
}

/// Counts a refusal of a knock's body and gives its answer.
pub(super) fn refuse_body(app: &App, refusal: HandshakeRefusal) -> MatrixError {
    app.rooms.gauges().knock_refused(refusal.name());
    refusal.into()
}

/// How long to hold a knock before the room is asked again; `None`: the refusal is final. Source: DESIGN 3.12.
pub(super) fn knock_pause(error: &AskError<KnockRefusal>) -> Option<Duration> {
    match error {
        AskError::Refused(KnockRefusal::OverRate { retry_after, .. }) => Some(*retry_after),
        other => overload_pause(other),
    }
}

/// The same for handshakes without a rate of their own.
pub(super) fn overload_pause<R>(error: &AskError<R>) -> Option<Duration> {
    matches!(error, AskError::Overloaded).then_some(OVERLOAD_PAUSE)
}

/// The keys with which the event may have been signed at its time. A key that cannot be had is left out, and the
/// signature that needs it will not verify.
pub(super) async fn keys_of_event(
    app: &App,
    shape: &HandshakeShape,
    expected: &Handshake<'_>,
) -> Result<PublicKeyMap, HandshakeRefusal> {
    Ok(keys_of_signers(app, shape.required_signatures()?, shape.pdu(), expected.version).await)
}

/// The same for any event, from what its shape says about who must have signed it.
pub(super) async fn keys_of_signers(
    app: &App,
    signers: BTreeMap<OwnedServerName, BTreeSet<String>>,
    event: &Pdu,
    version: &RoomVersion,
) -> PublicKeyMap {
    app.keyring.keys_of_event(&signers, version, event.origin_server_ts()).await
}
