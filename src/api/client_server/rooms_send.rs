//! `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}` and `…/redact/{eventId}/{txnId}`.
//! May not: make two events of one transaction; the room keeps the transaction with the event, in one commit.

use actix_web::{HttpResponse, web, web::Data};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedTransactionId, RoomId,
    api::client::{message::send_message_event, redact::redact_event},
    events::TimelineEventType,
};
use vestibule_actors::SendEvent;
use vestibule_protocol::{canonical_json, room_version::RoomVersion};
use vestibule_storage::room::ClientTransaction;

use super::{member_content::reason_content, paths::each};
use crate::{
    error::MatrixError,
    extract::{Caller, Ruma, answer},
    state::App,
};

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for room in each("/rooms/{room_id}") {
        config
            .service(web::resource(format!("{room}/send/{{event_type}}/{{txn_id}}")).put(send))
            .service(web::resource(format!("{room}/redact/{{event_id}}/{{txn_id}}")).put(redact));
    }
}

async fn send(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<send_message_event::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let mut content = canonical_json::parse_object(request.body.json().get().as_bytes())?;
    let kind = TimelineEventType::from(request.event_type.to_string());
    let redacts = if kind == TimelineEventType::RoomRedaction {
        Some(taken_redacts(&app, &request.room_id, &mut content).await?)
    } else {
        None
    };
    let endpoint = format!("/_matrix/client/v3/rooms/{}/send/{kind}", request.room_id);
    let made = Made { room_id: request.room_id, endpoint, transaction_id: request.txn_id, kind, content, redacts };
    answer(send_message_event::v3::Response::new(made.send(&app, caller).await?))
}

/// What a redaction sent as an event names in its content. Room versions that keep it outside the content lose it there;
/// the room puts it where the version has it.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomredaction>
async fn taken_redacts(
    app: &App,
    room_id: &RoomId,
    content: &mut CanonicalJsonObject,
) -> Result<OwnedEventId, MatrixError> {
    let named = content.get("redacts").and_then(|redacts| redacts.as_str());
    let Some(named) = named else { return Err(MatrixError::missing_param("content.redacts must name an event")) };
    let redacts =
        OwnedEventId::try_from(named).map_err(|error| MatrixError::invalid_param(format!("redacts: {error}")))?;
    let room = app.stores.rooms.room(room_id).await?.ok_or_else(not_in_room)?;
    let stands_in_content =
        RoomVersion::lookup(&room.room_version).is_some_and(|version| version.rules().redaction.content_field_redacts);
    if !stands_in_content {
        content.remove("redacts");
    }
    Ok(redacts)
}

async fn redact(
    caller: Caller,
    app: Data<App>,
    Ruma(request): Ruma<redact_event::v3::Request>,
) -> Result<HttpResponse, MatrixError> {
    let endpoint = format!("/_matrix/client/v3/rooms/{}/redact/{}", request.room_id, request.event_id);
    let made = Made {
        room_id: request.room_id,
        endpoint,
        transaction_id: request.txn_id,
        kind: TimelineEventType::RoomRedaction,
        content: reason_content(request.reason),
        redacts: Some(request.event_id),
    };
    answer(redact_event::v3::Response::new(made.send(&app, caller).await?))
}

/// An event as a client made it.
struct Made {
    room_id: OwnedRoomId,
    endpoint: String,
    transaction_id: OwnedTransactionId,
    kind: TimelineEventType,
    content: CanonicalJsonObject,
    redacts: Option<OwnedEventId>,
}

impl Made {
    async fn send(self, app: &App, caller: Caller) -> Result<OwnedEventId, MatrixError> {
        let transaction = ClientTransaction {
            user_id: caller.user_id.clone(),
            device_id: caller.device_id,
            endpoint: self.endpoint,
            transaction_id: self.transaction_id,
        };
        // A repeat gets its answer also when the user has left meanwhile. The room looks again, in its turn.
        if let Some(event_id) = app.stores.rooms.transaction(&transaction).await? {
            return Ok(event_id);
        }
        app.limits.messages_by_user.take(&caller.user_id, &*app.clock)?;
        let message = SendEvent {
            sender: caller.user_id,
            kind: self.kind,
            state_key: None,
            content: self.content,
            redacts: self.redacts,
            transaction: Some(transaction),
        };
        app.rooms.ask(&self.room_id, message).await.map_err(hidden_room)
    }
}

/// What somebody outside is told who acts on a room: the same whether it exists or not.
pub fn not_in_room() -> MatrixError {
    MatrixError::forbidden("not in this room")
}

/// The error of a room as the client gets it: an unknown room reads as one that the user is not in.
pub fn hidden_room<E: Into<MatrixError>>(error: E) -> MatrixError {
    let error = error.into();
    if error == MatrixError::room_not_here() { not_in_room() } else { error }
}
