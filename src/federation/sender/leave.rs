//! A leave of one of our users for a room that we are not in: a knock taken back, an invite declined.
//! May not: send a leave to a room in which the user has become something else meanwhile.
//!
//! For the user it has happened already. Spec: <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_actors::{AskError, HandOnLeave, SettleLeave};
use vestibule_protocol::{
    membership::{
        handshake::member_content,
        template::{Template, TemplateRequest, read_template},
    },
    pdu::{Pdu, event_builder::EventDraft},
    room_version::RoomVersion,
};
use vestibule_storage::{error::StorageError, outbox::OutboxRow, room::OutOfBand};

use super::{
    Inner,
    destination::{Failure, Lane},
    handshakes::{Delivered, succeeded},
};
use crate::{
    client::{Limits, RemoteError, Reply, ServerRequest},
    endpoints::{self, Made, SendLeaveForm},
};

/// Bytes of a `make_leave` or `send_leave` answer. Source: SECURITY T21, as for `make_knock`.
const LEAVE_REPLY_BYTES_MAX: usize = 256 * 1024;

/// Has the server's room hear of it; if the server does not let us, another server of the room is to be asked.
pub(super) async fn deliver(inner: &Inner, lane: &Lane, row: &OutboxRow, user_id: &UserId) -> Delivered {
    let left = match still_left(inner, &row.room_id, user_id).await {
        Ok(Still::Left(left)) => left,
        Ok(Still::Otherwise) => return Delivered::Done,
        Err(error) => return error.into(),
    };
    match leave(inner, lane, row, user_id, left.as_ref()).await {
        Ok(None) => Delivered::Done,
        Ok(Some((version, leave))) => {
            succeeded(inner, lane);
            settle(inner, row, user_id, &version, leave).await
        }
        Err(Stop::Remote(error)) => match Failure::of(&error) {
            // 403 and 404: the room knows of nothing that could be left, or the server says so although it is not true.
            Failure::Refused(_) | Failure::NotForThem => {
                log::debug!(destination:% = lane.server(), room_id:% = row.room_id, error:%; "leave refused");
                hand_on(inner, lane, row, user_id, left.as_ref()).await
            }
            Failure::NotNow { .. } | Failure::NoAnswer => Delivered::Failed(error),
        },
        Err(Stop::Storage(error)) => error.into(),
        Err(Stop::Unusable(why)) => {
            log::debug!(destination:% = lane.server(), room_id:% = row.room_id, error = why; "no leave can be made of what the server gives");
            hand_on(inner, lane, row, user_id, left.as_ref()).await
        }
    }
}

/// Asks the next server too, since this one has not taken it for long and may be gone for good. Whether the row of this one
/// stays: it does if it is the server that took the knock or sent the invite, of which others need not have heard, and if
/// nobody else is left.
pub(super) async fn waits_on(inner: &Inner, lane: &Lane, row: &OutboxRow, user_id: &UserId) -> Result<bool, String> {
    let left = match still_left(inner, &row.room_id, user_id).await {
        Ok(Still::Left(left)) => left,
        Ok(Still::Otherwise) => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    let next = next_server(inner, lane, row, user_id, left.as_ref()).await?;
    let is_first = left.is_some_and(|left| left.via.first() == Some(lane.server()));
    Ok(is_first || next.is_none())
}

/// Leaves it to the next server, for good. Nobody is left to ask: it is given up.
async fn hand_on(inner: &Inner, lane: &Lane, row: &OutboxRow, user_id: &UserId, left: Option<&OutOfBand>) -> Delivered {
    next_server(inner, lane, row, user_id, left).await.map_or_else(Delivered::OwnFailure, |_| Delivered::Done)
}

/// Puts it into the queue of the next server that may be in the room. `None`: there is none.
async fn next_server(
    inner: &Inner,
    lane: &Lane,
    row: &OutboxRow,
    user_id: &UserId,
    left: Option<&OutOfBand>,
) -> Result<Option<OwnedServerName>, String> {
    let version = left.and_then(|left| RoomVersion::lookup(&left.room_version));
    let Some(version) = version else { return Ok(None) };
    let (event_id, from) = (row.event_id.clone(), lane.server().clone());
    let message = HandOnLeave { user_id: user_id.to_owned(), event_id, from };
    let next = match inner.parts.rooms.ask_out_of_band(&row.room_id, &version, message).await {
        Ok(next) => next,
        Err(AskError::Refused(_) | AskError::RoomNotHere) => None,
        Err(error) => return Err(error.to_string()),
    };
    let told = next.as_deref().map(ServerName::as_str);
    log::debug!(destination:% = lane.server(), room_id:% = row.room_id, next:? = told; "leave not taken here");
    Ok(next)
}

/// What the user is to the room by now.
enum Still {
    /// Gone; with what we remember of it.
    Left(Option<OutOfBand>),
    /// Knocking again, invited again, or in the room: a leave now would end that.
    Otherwise,
}

enum Stop {
    Remote(RemoteError),
    /// What the server gave us leads to no leave that we would sign, and asking again would not change it.
    Unusable(String),
    Storage(StorageError),
}

impl From<RemoteError> for Stop {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

async fn still_left(inner: &Inner, room_id: &RoomId, user_id: &UserId) -> Result<Still, StorageError> {
    let has_ended = |membership: &MembershipState| [MembershipState::Leave, MembershipState::Ban].contains(membership);
    let out_of_band = inner.parts.stores.rooms.out_of_band_of(user_id, room_id).await?;
    if let Some(out_of_band) = out_of_band {
        let is_left = has_ended(&out_of_band.membership);
        return Ok(if is_left { Still::Left(Some(out_of_band)) } else { Still::Otherwise });
    }
    let membership = inner.parts.stores.rooms.membership(user_id, room_id).await?;
    let is_left = membership.is_none_or(|membership| has_ended(&membership.membership));
    Ok(if is_left { Still::Left(None) } else { Still::Otherwise })
}

async fn leave(
    inner: &Inner,
    lane: &Lane,
    row: &OutboxRow,
    user_id: &UserId,
    left: Option<&OutOfBand>,
) -> Result<Option<(RoomVersion, Arc<Pdu>)>, Stop> {
    let unusable = |error: &dyn std::fmt::Display| Stop::Unusable(error.to_string());
    let Template { version, place, .. } = template(inner, lane, &row.room_id, user_id, left).await?;
    let reason = left.and_then(|left| left.event.reason());
    let reason = reason.map(|reason| ("reason".to_owned(), CanonicalJsonValue::String(reason)));
    let content: CanonicalJsonObject = reason.into_iter().collect();
    let draft = EventDraft {
        kind: TimelineEventType::RoomMember,
        state_key: Some(user_id.to_string()),
        sender: user_id.to_owned(),
        content: member_content(content, &MembershipState::Leave),
        redacts: None,
    };
    let built = draft.build_for_handshake(&place, &version, &inner.parts.identity);
    let (event, object) = built.map_err(|error| unusable(&error))?;
    let body = serde_json::to_string(&object).map_err(|error| unusable(&error))?;
    // An invite may have come while the template did.
    match still_left(inner, &row.room_id, user_id).await {
        Ok(Still::Left(_)) => {}
        Ok(Still::Otherwise) => return Ok(None),
        Err(error) => return Err(Stop::Storage(error)),
    }
    let send = |form| endpoints::send_leave(form, &row.room_id, event.event_id(), body.clone());
    match request(inner, lane, send(SendLeaveForm::V2)).await {
        Err(error) if error.is_unknown_endpoint() => drop(request(inner, lane, send(SendLeaveForm::V1)).await?),
        Err(RemoteError::ReplyTooLarge { status, .. }) if status.is_success() => {}
        answered => drop(answered?),
    };
    Ok(Some((version, event.into())))
}

/// The room of ours hears of it: an invite that crossed the leave on the way, and that the leave ends, is over for the user.
async fn settle(inner: &Inner, row: &OutboxRow, user_id: &UserId, version: &RoomVersion, leave: Arc<Pdu>) -> Delivered {
    let message = SettleLeave { user_id: user_id.to_owned(), event_id: row.event_id.clone(), leave };
    Delivered::of(inner.parts.rooms.ask_out_of_band(&row.room_id, version, message).await)
}

async fn template(
    inner: &Inner,
    lane: &Lane,
    room_id: &RoomId,
    user_id: &UserId,
    left: Option<&OutOfBand>,
) -> Result<Template, Stop> {
    let reply = request(inner, lane, endpoints::make(Made::Leave, room_id, user_id, &[])).await?;
    let known: Vec<RoomVersionId> = RoomVersion::known();
    let wanted = TemplateRequest {
        room_id,
        user_id,
        membership: MembershipState::Leave,
        offered: &known,
        fallback_version: left.map(|left| &left.room_version),
    };
    let object = reply.canonical_object()?;
    read_template(&object, &wanted, inner.parts.clock.now()).map_err(|error| Stop::Unusable(error.to_string()))
}

async fn request(inner: &Inner, lane: &Lane, request: ServerRequest) -> Result<Reply, RemoteError> {
    let limits = Limits { reply_bytes_max: LEAVE_REPLY_BYTES_MAX, deadline: inner.parts.settings.request_timeout };
    let _place = inner.place(lane).await;
    inner.parts.client.request(lane.server(), request, limits).await
}
