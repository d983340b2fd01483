//! Keys of other servers' users and their devices, from their servers.
//! May not: believe a server about users of another one, or pass on more for a device than was asked for.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>

use std::{collections::BTreeMap, time::Duration};

use ruma::{OwnedDeviceId, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Federation, PerformError};
use crate::{
    client::{Limits, ServerRequest},
    endpoints,
    user_keys::UserKeys,
};

/// Bytes of an answer. Ours: the keys of some thousands of devices.
pub const USER_KEYS_REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a server may take when the client does not say. Spec: `timeout` of `/keys/query`, 10 s is recommended.
pub const USER_KEYS_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct QueryBody<'a> {
    device_keys: BTreeMap<&'a OwnedUserId, [(); 0]>,
}

#[derive(Deserialize)]
struct QueryAnswer {
    #[serde(default)]
    device_keys: BTreeMap<String, Value>,
    #[serde(default)]
    master_keys: BTreeMap<String, Value>,
    #[serde(default)]
    self_signing_keys: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct ClaimBody<'a> {
    one_time_keys: &'a BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>,
}

#[derive(Deserialize)]
struct ClaimAnswer {
    #[serde(default)]
    one_time_keys: BTreeMap<String, Value>,
}

impl Federation {
    /// All keys of some users of one server. Users whom it says nothing about have no keys.
    ///
    /// # Errors
    /// [`PerformError`].
    pub async fn user_keys(
        &self,
        server: &ServerName,
        users: &[OwnedUserId],
        deadline: Duration,
    ) -> Result<BTreeMap<OwnedUserId, UserKeys>, PerformError> {
        let device_keys = users.iter().map(|user_id| (user_id, [])).collect();
        let body = serde_json::to_string(&QueryBody { device_keys });
        let mut answer: QueryAnswer = self.ask(server, body, endpoints::user_keys_query, deadline).await?;
        let keys = users.iter().map(|user_id| {
            let is_about = |key: &Value| key.get("user_id").and_then(Value::as_str) == Some(user_id.as_str());
            let devices = answer.device_keys.remove(user_id.as_str());
            let devices =
                devices.and_then(|devices| if let Value::Object(devices) = devices { Some(devices) } else { None });
            let devices = devices.into_iter().flatten().filter(|(device_id, keys)| {
                is_about(keys) && keys.get("device_id").and_then(Value::as_str) == Some(device_id)
            });
            let keys = UserKeys {
                devices: devices.map(|(device_id, keys)| (device_id.into(), keys)).collect(),
                master: answer.master_keys.remove(user_id.as_str()).filter(is_about),
                self_signing: answer.self_signing_keys.remove(user_id.as_str()).filter(is_about),
                user_signing: None,
            };
            (user_id.clone(), keys)
        });
        Ok(keys.collect())
    }

    /// Keys for one use of devices of one server, each by its whole name.
    ///
    /// # Errors
    /// [`PerformError`]; some keys may then be used up.
    pub async fn claim_keys(
        &self,
        server: &ServerName,
        wanted: &BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>,
        deadline: Duration,
    ) -> Result<BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>, PerformError> {
        let body = serde_json::to_string(&ClaimBody { one_time_keys: wanted });
        let answer: ClaimAnswer = self.ask(server, body, endpoints::user_keys_claim, deadline).await?;
        let mut claimed: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>> = BTreeMap::new();
        for (user_id, devices) in wanted {
            let Some(found) = answer.one_time_keys.get(user_id.as_str()) else { continue };
            for (device_id, algorithm) in devices {
                let keys = found.get(device_id.as_str()).and_then(Value::as_object);
                let key = keys.and_then(|keys| keys.iter().find(|(name, _)| is_of(name, algorithm)));
                if let Some((name, key)) = key {
                    let key = Value::Object(Map::from_iter([(name.clone(), key.clone())]));
                    claimed.entry(user_id.clone()).or_default().insert(device_id.clone(), key);
                }
            }
        }
        Ok(claimed)
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        server: &ServerName,
        body: Result<String, serde_json::Error>,
        endpoint: fn(String) -> ServerRequest,
        deadline: Duration,
    ) -> Result<T, PerformError> {
        let body = body.map_err(|_| PerformError::AllFailed { asked: 0 })?;
        let deadline = deadline.min(self.inner.settings.request_timeout);
        let limits = Limits { reply_bytes_max: USER_KEYS_REPLY_BYTES_MAX, deadline };
        let reply = self.inner.client.request(server, endpoint(body), limits).await;
        reply.and_then(|reply| reply.json()).map_err(|error| {
            log::debug!(destination:% = server, error:%; "keys of users not had");
            PerformError::of(&error)
        })
    }
}

fn is_of(name: &str, algorithm: &str) -> bool {
    name.split_once(':').is_some_and(|(found, _)| found == algorithm)
}
