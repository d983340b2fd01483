//! Room aliases of other servers.
//! May not: keep what was found; an alias may lead elsewhere the next moment.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory>

use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId};
use serde::Deserialize;

use super::{Federation, PerformError};
use crate::endpoints;

/// Servers taken from an answer. Ours: more than a join or knock ever asks.
pub const ALIAS_SERVERS_MAX: usize = 50;

/// Bytes of an answer. Ours: a room id and many server names.
const ALIAS_REPLY_BYTES_MAX: usize = 64 * 1024;

/// Where an alias leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedAlias {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that are said to be in it, the alias's own first, none twice.
    pub servers: Vec<OwnedServerName>,
}

#[derive(Deserialize)]
struct Answer {
    room_id: OwnedRoomId,
    #[serde(default)]
    servers: Vec<serde_json::Value>,
}

impl Federation {
    /// Asks the alias's server where it leads.
    ///
    /// # Errors
    /// [`PerformError`]: `NotFound` when that server knows no such alias.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<ResolvedAlias, PerformError> {
        let server = alias.server_name();
        let request = endpoints::query_directory(alias);
        let reply = self.inner.client.request(server, request, self.limits(ALIAS_REPLY_BYTES_MAX)).await;
        let answer = reply.and_then(|reply| reply.json::<Answer>()).map_err(|error| {
            log::debug!(destination:% = server, error:%; "alias not resolved");
            PerformError::of(&error)
        })?;
        let named = answer.servers.iter().filter_map(|name| OwnedServerName::try_from(name.as_str()?).ok());
        let mut servers = vec![server.to_owned()];
        for name in named {
            if servers.len() < ALIAS_SERVERS_MAX && !servers.contains(&name) {
                servers.push(name);
            }
        }
        Ok(ResolvedAlias { room_id: answer.room_id, servers })
    }
}
