//! Keys of other servers' users: from what is kept while we hear of changes, else from their servers, all at once.
//! May not: wait longer for one server than for all, or trust what is kept of a user with whom nobody shared a room all along.

use std::{collections::BTreeMap, future::Future, time::Duration};

use futures_util::{StreamExt as _, stream};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vestibule_federation::{PerformError, user_keys::UserKeys};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{
    accounts::AccountChange,
    device_keys::{KeyChange, RemoteKeys},
    error::StorageError,
};

use super::claims::{Claimed, Wanted};
use crate::{client_server::commit, state::App};

/// Servers that are asked at once for one client. Ours.
const SERVERS_AT_ONCE: usize = 32;

/// Bytes of one user's keys that are kept. Ours: those of some hundred devices.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// By server, why there is no answer.
pub type Failures = BTreeMap<OwnedServerName, Value>;

/// What is kept of a user.
#[derive(Deserialize, Serialize)]
struct Kept {
    devices: BTreeMap<String, Value>,
    master: Option<Value>,
    self_signing: Option<Value>,
}

/// The keys of users of other servers, as a user of ours gets them.
///
/// # Errors
/// When the store cannot be read. A server that does not answer is among the failures.
pub async fn query(
    app: &App,
    caller: &UserId,
    users: Vec<OwnedUserId>,
    deadline: Duration,
) -> Result<(BTreeMap<OwnedUserId, UserKeys>, Failures), StorageError> {
    // Before anything is asked: what changes from here on makes what is kept void.
    let as_of = app.stores.stream.position();
    let shared = SharedRooms::of(app, caller).await?;
    let mut found = BTreeMap::new();
    let mut unknown: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
    for user_id in users {
        match kept(app, &shared, &user_id).await? {
            Some(keys) => {
                found.insert(user_id, keys);
            }
            None => unknown.entry(user_id.server_name().to_owned()).or_default().push(user_id),
        }
    }
    let asked = unknown.into_iter().map(|(server, users)| async move {
        let keys = app.federation.user_keys(&server, &users, deadline).await;
        (server, keys)
    });
    let (answers, failures) = all(asked).await;
    let mut changes = Vec::new();
    for (user_id, keys) in answers.into_iter().flatten() {
        if shared.with_since(app, &user_id, as_of).await? {
            changes.extend(keep(&user_id, &keys, as_of));
        }
        found.insert(user_id, keys);
    }
    if !changes.is_empty()
        && let Err(error) = commit::commit(&app.stores, changes).await
    {
        log::debug!(error:%; "keys of other servers' users are not kept");
    }
    Ok((found, failures))
}

/// Keys for one use of devices elsewhere.
pub async fn claim(app: &App, wanted: Wanted, deadline: Duration) -> (Claimed, Failures) {
    let mut by_server: BTreeMap<OwnedServerName, Wanted> = BTreeMap::new();
    for (user_id, devices) in wanted {
        by_server.entry(user_id.server_name().to_owned()).or_default().insert(user_id, devices);
    }
    let asked = by_server.into_iter().map(|(server, wanted)| async move {
        let claimed = app.federation.claim_keys(&server, &wanted, deadline).await;
        (server, claimed)
    });
    let (answers, failures) = all(asked).await;
    (answers.into_iter().flatten().collect(), failures)
}

async fn all<T, F>(asked: impl Iterator<Item = F>) -> (Vec<T>, Failures)
where
    F: Future<Output = (OwnedServerName, Result<T, PerformError>)>,
{
    let outcomes: Vec<_> = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE).collect().await;
    let mut answers = Vec::new();
    let mut failures = Failures::new();
    for (server, outcome) in outcomes {
        match outcome {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                failures.insert(server, json!({ "message": error.to_string() }));
            }
        }
    }
    (answers, failures)
}

/// The rooms of a user of ours, and since when the user is in each.
struct SharedRooms(Vec<(OwnedRoomId, StreamPosition)>);

impl SharedRooms {
    async fn of(app: &App, user_id: &UserId) -> Result<Self, StorageError> {
        let memberships = app.stores.rooms.memberships_of(user_id).await?;
        let joined = memberships.into_iter().filter(|membership| membership.membership == MembershipState::Join);
        Ok(Self(joined.map(|membership| (membership.room_id, membership.position)).collect()))
    }

    /// Whether the two have been in some room together without a break since a position: all that time the other's server
    /// tells us of changes.
    async fn with_since(&self, app: &App, other: &UserId, since: StreamPosition) -> Result<bool, StorageError> {
        let rooms = &app.stores.rooms;
        for (room_id, _) in self.0.iter().filter(|(_, joined_at)| *joined_at <= since) {
            let event = rooms.current_state_event(room_id, &StateEventType::RoomMember, other.as_str()).await?;
            let is_joined_since = event.is_some_and(|event| {
                event.event.membership() == Some(MembershipState::Join) && event.position <= since
            });
            if is_joined_since {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

async fn kept(app: &App, shared: &SharedRooms, user_id: &UserId) -> Result<Option<UserKeys>, StorageError> {
    let Some(keys) = app.stores.device_keys.remote_keys(user_id).await? else { return Ok(None) };
    if !shared.with_since(app, user_id, keys.as_of).await? {
        return Ok(None);
    }
    let Ok(kept) = serde_json::from_str::<Kept>(&keys.keys) else { return Ok(None) };
    Ok(Some(UserKeys {
        devices: kept.devices.into_iter().map(|(device_id, keys)| (device_id.into(), keys)).collect(),
        master: kept.master,
        self_signing: kept.self_signing,
        user_signing: None,
    }))
}

fn keep(user_id: &UserId, keys: &UserKeys, as_of: StreamPosition) -> Option<AccountChange> {
    let kept = Kept {
        devices: keys.devices.iter().map(|(device_id, keys)| (device_id.to_string(), keys.clone())).collect(),
        master: keys.master.clone(),
        self_signing: keys.self_signing.clone(),
    };
    let keys = serde_json::to_string(&kept).ok().filter(|text| text.len() <= KEPT_BYTES_MAX)?;
    let (user_id, keys) = (user_id.to_owned(), RemoteKeys { keys, as_of });
    Some(AccountChange::Keys(KeyChange::PutRemoteKeys { user_id, keys }))
}
