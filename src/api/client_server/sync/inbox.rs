//! The messages for the caller's device that a sync tells, and how many of them fit.
//! May not: remove a message that no later sync has acknowledged.

use ruma::OwnedDeviceId;
use serde_json::value::RawValue;
use vestibule_protocol::stream::{StreamPosition, SyncToken};
use vestibule_storage::{accounts::AccountChange, commit::Commit, device_keys::KeyChange, error::StorageError};

use crate::{extract::Caller, state::App};

/// Messages in one sync. Those of one commit stay together; for a device these are one or two. Source: Synapse.
const MESSAGES_MAX: usize = 100;

/// Bytes of messages after which a sync tells no further ones. Ours.
const MESSAGES_BYTES_MAX: usize = 1024 * 1024;

/// What a sync tells.
pub struct InboxNews {
    /// The events.
    pub events: Vec<Box<RawValue>>,
    /// All messages up to here were told, by this sync or before.
    pub told_up_to: StreamPosition,
}

/// Messages after those that the token's holder has, and not after `until`.
///
/// # Errors
/// When the store cannot be read.
pub async fn news(
    app: &App,
    caller: &Caller,
    since: Option<SyncToken>,
    until: StreamPosition,
) -> Result<InboxNews, StorageError> {
    let after = since.map_or(StreamPosition::START, |token| token.inbox);
    let inboxes = &app.stores.inboxes;
    let messages = inboxes.messages(&caller.user_id, &caller.device_id, after, until, MESSAGES_MAX).await?;
    // There may be more, also of the last commit that was read.
    let cut_at = messages.last().filter(|_| messages.len() == MESSAGES_MAX).map(|last| last.position);
    let mut news = InboxNews { events: Vec::new(), told_up_to: until };
    let mut bytes: usize = 0;
    let mut last = after;
    for message in messages {
        let is_too_much = cut_at == Some(message.position) || bytes >= MESSAGES_BYTES_MAX;
        if message.position != last && is_too_much {
            news.told_up_to = last;
            break;
        }
        last = message.position;
        bytes = bytes.saturating_add(message.event.len());
        news.events.extend(RawValue::from_string(message.event).ok());
    }
    Ok(news)
}

/// The client has what the token's sync told, so it is removed. A failure only means that it is removed later.
pub async fn acknowledge(app: &App, caller: &Caller, token: SyncToken) {
    let inboxes = &app.stores.inboxes;
    let (user_id, device_id): (_, OwnedDeviceId) = (caller.user_id.clone(), caller.device_id.clone());
    let told = inboxes.messages(&user_id, &device_id, StreamPosition::START, token.inbox, 1).await;
    if told.is_ok_and(|told| told.is_empty()) {
        return;
    }
    let change = KeyChange::AcknowledgeToDevice { user_id, device_id, up_to: token.inbox };
    let Ok(slot) = app.stores.writer.reserve() else { return };
    let removed = app.stores.writer.enqueue(slot, Commit::Accounts(vec![AccountChange::Keys(change)])).await;
    if let Err(error) = removed {
        log::debug!(error:%; "messages that a device has are not removed yet");
    }
}
