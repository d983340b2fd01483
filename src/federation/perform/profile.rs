//! Profiles of other servers' users.
//! May not: believe what a profile says about another user, or pass on an answer that is no object.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile>

use ruma::UserId;
use serde_json::{Map, Value};

use super::{Federation, PerformError};
use crate::endpoints;

/// Bytes of an answer. The specification bounds a whole profile to 64 KiB.
pub const PROFILE_REPLY_BYTES_MAX: usize = 64 * 1024;

impl Federation {
    /// Asks the user's server for the profile, or for one field of it. Whatever it answers is that server's word.
    ///
    /// # Errors
    /// [`PerformError`]: `NotFound` when that server knows no such user or field.
    pub async fn profile(&self, user_id: &UserId, field: Option<&str>) -> Result<Map<String, Value>, PerformError> {
        let server = user_id.server_name();
        let request = endpoints::query_profile(user_id, field);
        let reply = self.inner.client.request(server, request, self.limits(PROFILE_REPLY_BYTES_MAX)).await;
        reply.and_then(|reply| reply.json()).map_err(|error| {
            log::debug!(destination:% = server, error:%; "profile not had");
            PerformError::of(&error)
        })
    }
}
