//! `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`: messages from device to device, past all rooms.
//! May not: deliver a transaction twice, or say 200 before every message is kept.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid>

use actix_web::{HttpResponse, web};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use vestibule_storage::{
    accounts::AccountChange,
    commit::{Commit, CommitError, Conflict},
    device_keys::{KeyChange, MessageSource},
};

use super::{json_body::JsonBody, paths::each};
use crate::{
    device_keys::{inbox, outbound, shape},
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// Bytes of an event type, and of a transaction id. Spec: as for events; opaque identifiers.
const NAME_BYTES_MAX: usize = 255;

/// Messages in one request. Ours: clients send some hundreds at most; the body's size bounds them anyway.
const MESSAGES_MAX: usize = 5_000;

/// Mounts the endpoint.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource(each("/sendToDevice/{event_type}/{txn_id}")).put(send));
}

#[derive(Deserialize)]
struct SendBody {
    messages: Option<Value>,
}

async fn send(
    caller: Caller,
    path: PathArguments,
    app: web::Data<App>,
    JsonBody(body): JsonBody<SendBody>,
) -> Result<HttpResponse, MatrixError> {
    let (kind, transaction_id) = (path.get(0), path.get(1));
    let is_name = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
    if !is_name(kind) || !is_name(transaction_id) {
        return Err(MatrixError::invalid_param("event type and transaction id have 1 to 255 bytes"));
    }
    let messages = messages(body.messages.as_ref())?;
    let seen = KeyChange::SeeMessage {
        source: MessageSource::Device(caller.user_id.clone(), caller.device_id.clone()),
        message_id: format!("{kind}/{transaction_id}"),
    };
    let mut changes = vec![AccountChange::Keys(seen)];
    for (user_id, by_device) in &messages {
        if app.is_ours(user_id.server_name()) {
            changes.extend(inbox::deliver(&app, &caller.user_id, kind, user_id, by_device).await?);
        }
    }
    let elsewhere = messages.iter().filter(|(user_id, _)| !app.is_ours(user_id.server_name()));
    let elsewhere = elsewhere.map(|(user_id, by_device)| (user_id, by_device));
    changes.extend(outbound::queue(&caller.user_id, kind, elsewhere, &*app.randomness));
    let slot = app.stores.writer.reserve()?;
    match app.stores.writer.enqueue(slot, Commit::Accounts(changes)).await {
        // The client did not hear that it was taken, and says it again.
        Ok(_) | Err(CommitError::Conflict(Conflict::AlreadySeen)) => Ok(HttpResponse::Ok().json(json!({}))),
        Err(error) => Err(error.into()),
    }
}

/// Contents by device, for each user.
type Messages = Vec<(OwnedUserId, Map<String, Value>)>;

fn messages(value: Option<&Value>) -> Result<Messages, MatrixError> {
    let mut count: usize = 0;
    let mut messages = Vec::new();
    for (user_id, by_device) in shape::users(value, "messages")? {
        let by_device = messages_of(&user_id, by_device)?;
        count = count.saturating_add(by_device.len());
        messages.push((user_id, by_device));
    }
    if count > MESSAGES_MAX {
        return Err(MatrixError::too_large(format!("{MESSAGES_MAX} messages at most are sent at once")));
    }
    Ok(messages)
}

fn messages_of(user_id: &UserId, by_device: &Value) -> Result<Map<String, Value>, MatrixError> {
    let wrong = |what: &str| MatrixError::bad_json(format!("messages for {user_id}: {what}"));
    let by_device = by_device.as_object().ok_or_else(|| wrong("must be an object"))?;
    for content in by_device.values() {
        if !content.is_object() {
            return Err(wrong("the content of a message must be an object"));
        }
        if content.to_string().len() > inbox::CONTENT_BYTES_MAX {
            return Err(MatrixError::too_large("the content of a message has 64 KiB at most"));
        }
    }
    Ok(by_device.clone())
}
