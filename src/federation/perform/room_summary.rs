//! What a room elsewhere is, for a user who thinks of asking to be let in.
//! May not: walk through a space; of the hierarchy only the room itself is taken.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>

use ruma::{OwnedServerName, RoomId};
use serde::Deserialize;
use serde_json::Value;

use super::{Federation, PerformError};
use crate::endpoints;

/// Servers asked for one summary. Ours: somebody waits for it, and it is only to look at.
const SUMMARY_SERVERS_MAX: usize = 3;

/// Bytes of an answer. Ours: the room, and the children of a large space, which come along.
const SUMMARY_REPLY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Answer {
    room: Value,
}

impl Federation {
    /// Asks servers, one after the other, what a room is. Whatever one answers is that server's word.
    ///
    /// # Errors
    /// [`PerformError`]: what the last server that was asked said.
    pub async fn room_summary(&self, room_id: &RoomId, via: &[OwnedServerName]) -> Result<Value, PerformError> {
        let mut refusal = PerformError::NoServers;
        for server in via.iter().take(SUMMARY_SERVERS_MAX) {
            let limits = self.limits(SUMMARY_REPLY_BYTES_MAX);
            let reply = self.inner.client.request(server, endpoints::hierarchy(room_id), limits).await;
            match reply.and_then(|reply| reply.json::<Answer>()) {
                Ok(answer) => return Ok(answer.room),
                Err(error) => {
                    log::debug!(destination:% = server, room_id:%, error:%; "summary not had");
                    refusal = PerformError::of(&error);
                }
            }
        }
        Err(refusal)
    }
}
