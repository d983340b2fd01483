//! EDUs about devices: messages for devices of our users, and news of other servers' users and their devices.
//! May not: believe a server about users of another one (SECURITY V16), or let a transaction be answered before its messages
//! are kept.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging> and
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::collections::BTreeSet;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, ServerName, UserId};
use serde_json::{Map, Value};
use vestibule_storage::{
    accounts::AccountChange,
    commit::{Commit, CommitError, Conflict},
    device_keys::{KeyChange, MessageSource},
};

use crate::{
    device_keys::{inbox, sharing::Circle},
    error::MatrixError,
    state::App,
};

/// Bytes of an event type and of a message id. The specification has 32 characters for the id; some send more.
const NAME_BYTES_MAX: usize = 255;

/// Messages in one EDU. Ours: as for our own clients.
const MESSAGES_MAX: usize = 5_000;

/// Takes those EDUs of a transaction that are about devices. What is wrong in itself is passed over.
///
/// # Errors
/// When storage cannot be read or written: the server has to come again with all of it.
pub async fn take(app: &App, origin: &ServerName, edus: &[CanonicalJsonValue]) -> Result<(), MatrixError> {
    let mut changed = BTreeSet::new();
    for edu in edus.iter().filter_map(CanonicalJsonValue::as_object) {
        let Some(content) = edu.get("content").and_then(CanonicalJsonValue::as_object) else { continue };
        match text(edu, "edu_type") {
            Some("m.direct_to_device") => take_message(app, origin, content).await?,
            // What exactly changed is asked for when somebody wants to know.
            Some("m.device_list_update" | "m.signing_key_update" | "org.matrix.signing_key_update") => {
                changed.extend(user_of(origin, content, "user_id"));
            }
            _ => {}
        }
    }
    note_changed(app, changed).await
}

async fn take_message(app: &App, origin: &ServerName, content: &CanonicalJsonObject) -> Result<(), MatrixError> {
    let name = |key| text(content, key).filter(|text| !text.is_empty() && text.len() <= NAME_BYTES_MAX);
    let sender = user_of(origin, content, "sender");
    let messages = content.get("messages").and_then(CanonicalJsonValue::as_object);
    let (Some(sender), Some(kind), Some(message_id), Some(messages)) =
        (sender, name("type"), name("message_id"), messages)
    else {
        log::debug!(origin:%; "a malformed message for devices is passed over");
        return Ok(());
    };
    let source = MessageSource::Server(origin.to_owned());
    let seen = KeyChange::SeeMessage { source, message_id: message_id.to_owned() };
    let mut changes = vec![AccountChange::Keys(seen)];
    let mut count: usize = 0;
    for (user_id, by_device) in messages {
        let user_id = UserId::parse(user_id).ok().filter(|user_id| app.is_ours(user_id.server_name()));
        let (Some(user_id), Some(by_device)) = (user_id, by_device.as_object()) else { continue };
        let by_device: Map<String, Value> = by_device.iter().filter_map(message).collect();
        count = count.saturating_add(by_device.len());
        if count > MESSAGES_MAX {
            log::debug!(origin:%; "a message for too many devices is passed over");
            return Ok(());
        }
        changes.extend(inbox::deliver(app, &sender, kind, &user_id, &by_device).await?);
    }
    let slot = app.stores.writer.reserve()?;
    match app.stores.writer.enqueue(slot, Commit::Accounts(changes)).await {
        Ok(_) | Err(CommitError::Conflict(Conflict::AlreadySeen)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn message((device_id, content): (&String, &CanonicalJsonValue)) -> Option<(String, Value)> {
    let content: Value = content.as_object().map(|content| CanonicalJsonValue::Object(content.clone()).into())?;
    let is_small = content.to_string().len() <= inbox::CONTENT_BYTES_MAX;
    is_small.then(|| (device_id.clone(), content))
}

/// Notes that users' keys are to be asked for again. Users with whom nobody here shares a room are nobody's business.
async fn note_changed(app: &App, users: BTreeSet<OwnedUserId>) -> Result<(), MatrixError> {
    let mut changes = Vec::new();
    for user_id in users {
        let circle = Circle::of_remote(app, &user_id).await?;
        if !circle.users.is_empty() {
            changes.push(circle.list_changed_here(&user_id));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let slot = app.stores.writer.reserve()?;
    app.stores.writer.enqueue(slot, Commit::Accounts(changes)).await?;
    Ok(())
}

/// A user whom the content names, if the server may speak for them.
fn user_of(origin: &ServerName, content: &CanonicalJsonObject, key: &str) -> Option<OwnedUserId> {
    UserId::parse(text(content, key)?).ok().filter(|user_id| user_id.server_name() == origin)
}

fn text<'a>(object: &'a CanonicalJsonObject, key: &str) -> Option<&'a str> {
    object.get(key).and_then(CanonicalJsonValue::as_str)
}
