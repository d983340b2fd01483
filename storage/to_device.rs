//! Inboxes of devices: messages that wait until the device says that it has them.
//! May not: drop what was not acknowledged, unless the device goes.

use ruma::{DeviceId, UserId};
use vestibule_protocol::stream::StreamPosition;

use crate::Read;

/// A message in an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToDeviceMessage {
    /// The commit that brought it.
    pub position: StreamPosition,
    /// The event as JSON text.
    pub event: String,
}

/// Reads inboxes.
pub trait InboxReader: Send + Sync {
    /// Messages for a device that came after a position and not after another, oldest first.
    fn messages<'a>(
        &'a self,
        user_id: &'a UserId,
        device_id: &'a DeviceId,
        after: StreamPosition,
        up_to: StreamPosition,
        limit: usize,
    ) -> Read<'a, Vec<ToDeviceMessage>>;

    /// How many messages wait in an inbox.
    fn waiting<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, u64>;
}
