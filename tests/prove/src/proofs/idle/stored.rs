//! Rooms on the disk of a server that does not run, made by production room actors over the production engine.
//! May not: be handed a data directory that anybody else has open.

use std::{fs, path::Path, sync::Arc};

use actix_rt::{Arbiter, System};
use ruma::{CanonicalJsonObject, OwnedUserId, RoomVersionId, serde::Base64};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vestibule_actors::{
    CpuPool, CreateRoom, InitialEvent, Rooms, RoomsOptions, SyncNotifier, Typing, testing::ManualClock,
};
use vestibule_protocol::{
    clock::UnixMillis,
    membership::knock::KnockPolicy,
    signing::{Identity, SigningKey},
};
use vestibule_scenery::now_ms;
use vestibule_storage_sled::{Options, SledStorage};

/// Rooms made by one set of actors, which never leave memory.
const AT_ONCE: usize = 250;

/// So many rooms of a user on which anybody may knock; their ids.
///
/// # Errors
/// The directory is not that of a server, or the rooms are not taken.
pub fn rooms(data_dir: &Path, creator: &str, count: usize) -> Result<Vec<String>, String> {
    let creator: OwnedUserId = creator.try_into().map_err(|error| format!("{creator}: {error}"))?;
    let options = Options::new(data_dir, creator.server_name().to_owned(), 1);
    let identity = Arc::new(Identity::new(creator.server_name().to_owned(), key(data_dir)?));
    let opened = SledStorage::open(options).map_err(|error| error.to_string())?;
    let mut made = Vec::new();
    let making = System::new().block_on(async {
        let clock = Arc::new(ManualClock::at(UnixMillis(now_ms())));
        for first in (0..count).step_by(AT_ONCE) {
            let rooms = Rooms::new(RoomsOptions {
                identity: identity.clone(),
                clock: clock.clone(),
                stores: opened.stores.clone(),
                policy: KnockPolicy {
                    repeat_after: std::time::Duration::ZERO,
                    max_pending_per_room: 1,
                    max_pending_per_origin_in_room: 1,
                },
                rates: None,
                cpu: CpuPool::new(1),
                policy_signer: None,
                typing: Typing::new(SyncNotifier::default(), clock.clone()),
                arbiters: vec![Arbiter::current()],
                mailbox_capacity: 1_024,
                live_max: 2 * AT_ONCE,
                idle_timeout: std::time::Duration::from_mins(10),
                core_seed: 1,
            });
            let mut making = JoinSet::new();
            for number in first..count.min(first + AT_ONCE) {
                let (rooms, request) = (rooms.clone(), request(&creator, number));
                making.spawn_local(async move { rooms.create(request).await });
            }
            while let Some(room_id) = making.join_next().await {
                let room_id = room_id.map_err(|error| error.to_string())?;
                made.push(room_id.map_err(|error| format!("a room was not made: {error}"))?.to_string());
            }
            rooms.close();
        }
        Ok::<(), String>(())
    });
    opened.handle.close().map_err(|error| error.to_string())?;
    making.map(|()| made)
}

fn key(data_dir: &Path) -> Result<SigningKey, String> {
    let text = fs::read_to_string(data_dir.join("signing_key")).map_err(|error| format!("signing_key: {error}"))?;
    let mut words = text.split_whitespace().skip(1);
    let (version, seed) = words.next().zip(words.next()).ok_or("signing_key: three words")?;
    let seed = Base64::<ruma::serde::base64::Standard>::parse(seed).map_err(|error| error.to_string())?;
    let seed: &[u8; 32] = seed.as_bytes().try_into().map_err(|_| "signing_key: 32 bytes")?;
    SigningKey::from_seed(version, seed).map_err(|error| error.to_string())
}

fn request(creator: &OwnedUserId, number: usize) -> CreateRoom {
    let state = |kind: &str, content| InitialEvent {
        sender: creator.clone(),
        kind: kind.into(),
        state_key: Some(String::new()),
        content: object(content),
    };
    CreateRoom {
        creator: creator.clone(),
        room_version: RoomVersionId::V12,
        room_id: None,
        // A room's id is the hash of this.
        create_content: object(json!({ "test.number": number })),
        creator_content: CanonicalJsonObject::new(),
        initial: vec![
            state("m.room.power_levels", json!({ "users": {} })),
            state("m.room.join_rules", json!({ "join_rule": "knock" })),
        ],
    }
}

fn object(value: Value) -> CanonicalJsonObject {
    serde_json::from_value(value).unwrap_or_default()
}
