//! Room directories of other servers.
//! May not: judge what a directory lists; who shows it reads it.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#public-room-directory>

use ruma::{ServerName, directory::Filter};
use serde::Serialize;
use serde_json::Value;

use super::{Federation, PerformError};
use crate::{client::RemoteError, endpoints};

/// Bytes of an answer. Ours: a page of the largest size we ask for, with long topics.
const DIRECTORY_REPLY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What is asked of a directory.
#[derive(Clone, Debug, Serialize)]
pub struct DirectoryQuestion {
    /// Rooms of a page at most.
    pub limit: usize,
    /// Where to go on: a token that the same server gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which rooms.
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
}

impl Federation {
    /// Asks a server for a page of its room directory. Whatever it answers is that server's word.
    ///
    /// # Errors
    /// [`PerformError`].
    pub async fn public_rooms(&self, server: &ServerName, question: DirectoryQuestion) -> Result<Value, PerformError> {
        let asked = async {
            let body = serde_json::to_string(&question)
                .map_err(|error| RemoteError::UnfitRequest { detail: error.to_string() })?;
            let limits = self.limits(DIRECTORY_REPLY_BYTES_MAX);
            self.inner.client.request(server, endpoints::public_rooms(body), limits).await?.json()
        };
        asked.await.map_err(|error| {
            log::debug!(destination:% = server, error:%; "room directory not had");
            PerformError::of(&error)
        })
    }
}
