//! Queued EDUs as they go onto the wire: whole ones as they are, news of devices as things stand when they are sent.
//! May not: tell other servers what a device is called.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management> and
//! <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>

use ruma::{DeviceId, UserId};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use vestibule_storage::{
    commit::Stores,
    error::StorageError,
    outbox::{EduContent, QueuedEdu},
};

use crate::user_keys::{Asker, user_keys};

/// What is sent for a queued EDU. `None`: there is nothing left to say.
pub(super) async fn written(stores: &Stores, edu: &QueuedEdu) -> Result<Option<Box<RawValue>>, StorageError> {
    let value = match &edu.content {
        EduContent::Whole(text) => return Ok(RawValue::from_string(text.clone()).ok()),
        EduContent::DeviceList { user_id, device_id, stream_id, previous } => {
            let mut content = device(stores, user_id, device_id).await?;
            content["device_id"] = device_id.as_str().into();
            content["prev_id"] = previous.iter().copied().collect();
            content["stream_id"] = (*stream_id).into();
            content["user_id"] = user_id.as_str().into();
            json!({ "content": content, "edu_type": "m.device_list_update" })
        }
        EduContent::SigningKeys { user_id } => {
            let keys = user_keys(stores, user_id, &[], Asker::Server).await?;
            let mut content = json!({ "user_id": user_id });
            for (name, key) in [("master_key", keys.master), ("self_signing_key", keys.self_signing)] {
                if let Some(key) = key {
                    content[name] = key;
                }
            }
            json!({ "content": content, "edu_type": "m.signing_key_update" })
        }
    };
    Ok(to_raw_value(&value).ok())
}

async fn device(stores: &Stores, user_id: &UserId, device_id: &DeviceId) -> Result<Value, StorageError> {
    if stores.accounts.device(user_id, device_id).await?.is_none() {
        return Ok(json!({ "deleted": true }));
    }
    let device_ids = [device_id.to_owned()];
    let mut keys = user_keys(stores, user_id, &device_ids, Asker::Server).await?;
    Ok(keys.devices.remove(device_id).map_or_else(|| json!({}), |keys| json!({ "keys": keys })))
}
