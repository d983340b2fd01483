//! Puts messages into the inboxes of our users' devices.
//! May not: let anybody fill a disk: an inbox that nobody empties takes no more.

use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde_json::{Map, Value, json};
use vestibule_storage::{accounts::AccountChange, device_keys::KeyChange, error::StorageError};

use crate::state::App;

/// Bytes of a message's content. Source: the size of an event.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// Messages that wait for one device. Ours: far more than a device that is used misses in months.
pub const INBOX_MESSAGES_MAX: u64 = 20_000;

/// Stands for all devices of a user.
const ALL_DEVICES: &str = "*";

/// What delivers messages of `sender` to a user's devices, as they are named: one by one, or all of them. Devices that are
/// not there are passed over.
///
/// # Errors
/// When the store cannot be read.
pub async fn deliver(
    app: &App,
    sender: &UserId,
    kind: &str,
    user_id: &UserId,
    by_device: &Map<String, Value>,
) -> Result<Vec<AccountChange>, StorageError> {
    let mut changes = Vec::new();
    for (device_id, content) in by_device {
        let devices: Vec<OwnedDeviceId> = if device_id == ALL_DEVICES {
            let devices = app.stores.accounts.devices(user_id).await?;
            devices.into_iter().map(|device| device.device_id).collect()
        } else {
            vec![device_id.as_str().into()]
        };
        let event = json!({ "content": content, "sender": sender, "type": kind }).to_string();
        for device_id in devices {
            if !is_full(app, user_id, &device_id).await? {
                let (user_id, event) = (user_id.to_owned(), event.clone());
                changes.push(AccountChange::Keys(KeyChange::SendToDevice { user_id, device_id, event }));
            }
        }
    }
    Ok(changes)
}

async fn is_full(app: &App, user_id: &UserId, device_id: &DeviceId) -> Result<bool, StorageError> {
    let is_full = app.stores.inboxes.waiting(user_id, device_id).await? >= INBOX_MESSAGES_MAX;
    if is_full {
        log::warn!(user_id:%; "an inbox is full: a message for a device is dropped");
    }
    Ok(is_full)
}
