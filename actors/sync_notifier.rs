//! Wakes those who wait for news of a user or a room.
//! May not: say what happened; whoever wakes reads storage, which is the truth.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::Notify;
use vestibule_storage::commit::{Announcement, CommitListener};

/// Who waits for what. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SyncNotifier {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiters: Mutex<Waiters>,
    next_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiters {
    by_user: HashMap<OwnedUserId, HashMap<u64, Arc<Notify>>>,
    by_room: HashMap<OwnedRoomId, HashMap<u64, Arc<Notify>>>,
}

impl SyncNotifier {
    /// Starts listening for changes of the user and of the rooms. Call it before reading storage: what happens between the
    /// two then still wakes.
    pub fn watch(&self, user_id: &UserId, rooms: &[OwnedRoomId]) -> Watch {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let mut waiters = self.shared.lock();
        waiters.by_user.entry(user_id.to_owned()).or_default().insert(id, notify.clone());
        for room_id in rooms {
            waiters.by_room.entry(room_id.clone()).or_default().insert(id, notify.clone());
        }
        drop(waiters);
        Watch { id, notify, user_id: user_id.to_owned(), rooms: rooms.to_vec(), shared: self.shared.clone() }
    }

    /// Wakes those who wait for news of a room, for what no commit tells of.
    pub fn wake_room(&self, room_id: &RoomId) {
        let waiters = self.shared.lock();
        for notify in waiters.by_room.get(room_id).into_iter().flat_map(HashMap::values) {
            notify.notify_one();
        }
    }

    /// How many wait, for a gauge.
    pub fn waiting(&self) -> usize {
        self.shared.lock().by_user.values().map(HashMap::len).sum()
    }
}

impl CommitListener for SyncNotifier {
    fn committed(&self, announcement: &Announcement) {
        let waiters = self.shared.lock();
        let of_room = announcement.room_id.as_ref().and_then(|room_id| waiters.by_room.get(room_id));
        let of_users = announcement.users.iter().filter_map(|user_id| waiters.by_user.get(user_id));
        for notify in of_room.into_iter().chain(of_users).flat_map(HashMap::values) {
            notify.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits. Dropping it stops listening.
#[derive(Debug)]
pub struct Watch {
    id: u64,
    notify: Arc<Notify>,
    user_id: OwnedUserId,
    rooms: Vec<OwnedRoomId>,
    shared: Arc<Shared>,
}

impl Watch {
    /// Resolves once something may have changed since the watch began or since it last resolved; at once if it already did.
    pub async fn changed(&mut self) {
        self.notify.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiters = self.shared.lock();
        forget(&mut waiters.by_user, &self.user_id, self.id);
        for room_id in &self.rooms {
            forget(&mut waiters.by_room, room_id, self.id);
        }
    }
}

fn forget<K: Eq + Hash>(waiters: &mut HashMap<K, HashMap<u64, Arc<Notify>>>, key: &K, id: u64) {
    if let Some(of_key) = waiters.get_mut(key) {
        of_key.remove(&id);
        if of_key.is_empty() {
            waiters.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::user_id;
    use vestibule_protocol::stream::StreamPosition;

    use super::*;

    fn news(room: Option<&str>, user: Option<&str>) -> Announcement {
        Announcement {
            position: StreamPosition(1),
            room_id: room.map(|room| RoomId::parse(room).unwrap()),
            users: user.map(|user| UserId::parse(user).unwrap()).into_iter().collect(),
            destinations: Vec::new(),
        }
    }

    #[test]
    fn only_what_concerns_the_watch_wakes_it() {
        let notifier = SyncNotifier::default();
        let mut watch = notifier.watch(user_id!("@a:x"), &[RoomId::parse("!r:x").unwrap()]);
        notifier.committed(&news(Some("!other:x"), Some("@b:x")));
        assert!(watch.changed().now_or_never().is_none());
        notifier.committed(&news(Some("!r:x"), None));
        assert!(watch.changed().now_or_never().is_some(), "news before the wait still wakes");
        notifier.committed(&news(None, Some("@a:x")));
        assert!(watch.changed().now_or_never().is_some());
        assert!(watch.changed().now_or_never().is_none());
        drop(watch);
        assert_eq!(notifier.waiting(), 0);
        assert!(notifier.shared.lock().by_room.is_empty());
    }
}
