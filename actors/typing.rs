//! Who is typing in which room, here and now.
//! May not: outlive the process, grow without bound, or judge who may type; whoever calls has asked the room.
//!
//! What clients know of it is in the tokens that they hold: nothing in most of them, a serial in those that told of somebody.
//! So a client that saw somebody type is always told when that ends, also over a restart, and nobody else is told anything.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::Notify;
use vestibule_protocol::{
    clock::Clock,
    stream::{TypingSerial, UnknownSerial},
};

use crate::SyncNotifier;

/// Users who type in one room at once. Ours: clients show three names and count the others.
pub const TYPISTS_IN_ROOM_MAX: usize = 50;

/// Users who type anywhere at once. Ours: some 200 bytes each.
pub const TYPISTS_MAX: usize = 20_000;

/// Rooms in which somebody types or did lately. Ours: some 200 bytes each.
const ROOMS_MAX: usize = 10_000;

/// Other servers are told again of somebody who goes on typing, at most so often. Ours: they forget whom they have not heard
/// of for 30 to 60 s.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(15);

/// Who types where. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Typing {
    shared: Arc<Shared>,
}

struct Shared {
    inside: Mutex<Inside>,
    /// Rung when an end may be nearer than the one that is waited for.
    bell: Notify,
    notifier: SyncNotifier,
    clock: Arc<dyn Clock>,
}

struct Inside {
    rooms: BTreeMap<OwnedRoomId, Hall>,
    typists: usize,
    newest: TypingSerial,
    /// Of changes up to here it is not known in which rooms they were.
    forgotten: TypingSerial,
}

/// A room in which somebody types, or did lately.
struct Hall {
    typists: BTreeMap<OwnedUserId, Typist>,
    changed: TypingSerial,
}

struct Typist {
    /// In monotonic time.
    until: Duration,
    told_at: Duration,
}

/// Whether other servers must hear that a user of ours types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// They do not know, or may be about to forget it.
    ToTell,
    /// They know.
    Lately,
}

/// What a client does not know of who is typing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypingNews {
    /// For each room with news all who type in it, which may be nobody.
    pub rooms: BTreeMap<OwnedRoomId, Vec<OwnedUserId>>,
    /// What the client's next token says. `None`: nobody types in any of the rooms.
    pub serial: Option<TypingSerial>,
}

impl Typing {
    /// Nobody types. `notifier` wakes those who wait for news of a room.
    pub fn new(notifier: SyncNotifier, clock: Arc<dyn Clock>) -> Self {
        // Later than all serials of earlier lives, unless the wall clock was set back since.
        let newest = TypingSerial(clock.now().0);
        let inside = Inside { rooms: BTreeMap::new(), typists: 0, newest, forgotten: newest };
        Self { shared: Arc::new(Shared { inside: Mutex::new(inside), bell: Notify::new(), notifier, clock }) }
    }

    /// A user types for some time from now on, unless they go on or stop before. More than there is room for are not noted.
    pub fn start(&self, room_id: &RoomId, user_id: &UserId, time: Duration) -> Told {
        let now = self.shared.clock.monotonic();
        let until = now.saturating_add(time);
        let mut inside = self.lock();
        if let Some(typist) = inside.typist(room_id, user_id) {
            typist.until = until;
            let told = if now.saturating_sub(typist.told_at) >= TELL_AGAIN_AFTER { Told::ToTell } else { Told::Lately };
            if told == Told::ToTell {
                typist.told_at = now;
            }
            drop(inside);
            self.shared.bell.notify_one();
            return told;
        }
        if !inside.has_place(room_id) {
            return Told::Lately;
        }
        let serial = inside.next_serial();
        let hall = inside.rooms.entry(room_id.to_owned()).or_insert_with(|| Hall::empty(serial));
        hall.typists.insert(user_id.to_owned(), Typist { until, told_at: now });
        hall.changed = serial;
        inside.typists = inside.typists.saturating_add(1);
        drop(inside);
        self.shared.bell.notify_one();
        self.shared.notifier.wake_room(room_id);
        Told::ToTell
    }

    /// A user does not type any more; says whether they did.
    pub fn stop(&self, room_id: &RoomId, user_id: &UserId) -> bool {
        let mut inside = self.lock();
        let did = inside.remove(room_id, user_id);
        drop(inside);
        if did {
            self.shared.notifier.wake_room(room_id);
        }
        did
    }

    /// What is new in some rooms, each with what the client's token said of it. `None`: that nobody types there.
    pub fn news(&self, rooms: &[(OwnedRoomId, Option<TypingSerial>)]) -> TypingNews {
        let inside = self.lock();
        let mut news = TypingNews::default();
        for (room_id, since) in rooms {
            let hall = inside.rooms.get(room_id);
            let is_anybody = hall.is_some_and(|hall| !hall.typists.is_empty());
            let is_new = match since.map(|since| inside.knows(since)) {
                None => is_anybody,
                Some(Ok(since)) => hall.is_some_and(|hall| hall.changed > since),
                Some(Err(UnknownSerial)) => true,
            };
            if is_new {
                let typists = hall.into_iter().flat_map(|hall| hall.typists.keys());
                news.rooms.insert(room_id.clone(), typists.cloned().collect());
            }
            if is_anybody {
                news.serial = Some(inside.newest);
            }
        }
        news
    }

    /// Waits until somebody's time is up and takes them out; says who, and where.
    pub async fn ended(&self) -> Vec<(OwnedRoomId, OwnedUserId)> {
        loop {
            let now = self.shared.clock.monotonic();
            let (over, next) = self.lock().end(now);
            if !over.is_empty() {
                for (room_id, _) in &over {
                    self.shared.notifier.wake_room(room_id);
                }
                return over;
            }
            let rung = self.shared.bell.notified();
            match next {
                None => rung.await,
                Some(end) => {
                    tokio::select! {
                        biased;
                        () = rung => {}
                        () = tokio::time::sleep(end.saturating_sub(now)) => {}
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.shared.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn typist(&mut self, room_id: &RoomId, user_id: &UserId) -> Option<&mut Typist> {
        self.rooms.get_mut(room_id)?.typists.get_mut(user_id)
    }

    fn remove(&mut self, room_id: &RoomId, user_id: &UserId) -> bool {
        let Some(hall) = self.rooms.get_mut(room_id) else { return false };
        if hall.typists.remove(user_id).is_none() {
            return false;
        }
        self.typists = self.typists.saturating_sub(1);
        // The room stays, as one in which somebody was told to type.
        let serial = self.next_serial();
        if let Some(hall) = self.rooms.get_mut(room_id) {
            hall.changed = serial;
        }
        true
    }

    /// Whether one more can be noted; makes a place by forgetting the room that has been quiet for the longest time.
    fn has_place(&mut self, room_id: &RoomId) -> bool {
        if self.typists >= TYPISTS_MAX {
            return false;
        }
        if let Some(hall) = self.rooms.get(room_id) {
            return hall.typists.len() < TYPISTS_IN_ROOM_MAX;
        }
        if self.rooms.len() < ROOMS_MAX {
            return true;
        }
        let quiet = self.rooms.iter().filter(|(_, hall)| hall.typists.is_empty());
        let oldest = quiet.min_by_key(|(_, hall)| hall.changed).map(|(room_id, hall)| (room_id.clone(), hall.changed));
        let Some((oldest, changed)) = oldest else { return false };
        self.rooms.remove(&oldest);
        self.forgotten = self.forgotten.max(changed);
        true
    }

    fn next_serial(&mut self) -> TypingSerial {
        self.newest = TypingSerial(self.newest.0.saturating_add(1));
        self.newest
    }

    /// The serial of a token, if everything that changed since is known.
    fn knows(&self, since: TypingSerial) -> Result<TypingSerial, UnknownSerial> {
        if since >= self.forgotten && since <= self.newest { Ok(since) } else { Err(UnknownSerial) }
    }

    /// Takes out those whose time is up; says who and where, and when the next one's is.
    fn end(&mut self, now: Duration) -> (Vec<(OwnedRoomId, OwnedUserId)>, Option<Duration>) {
        let all =
            self.rooms.iter().flat_map(|(room_id, hall)| hall.typists.iter().map(move |typist| (room_id, typist)));
        let over = all.filter(|(_, (_, typist))| typist.until <= now);
        let over: Vec<_> = over.map(|(room_id, (user_id, _))| (room_id.clone(), user_id.clone())).collect();
        for (room_id, user_id) in &over {
            self.remove(room_id, user_id);
        }
        (over, self.rooms.values().flat_map(|hall| hall.typists.values()).map(|typist| typist.until).min())
    }
}

impl Hall {
    fn empty(changed: TypingSerial) -> Self {
        Self { typists: BTreeMap::new(), changed }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use vestibule_protocol::clock::UnixMillis;

    use super::*;

    /// Follows the runtime's clock, which is paused.
    struct RuntimeClock(tokio::time::Instant, u64);

    impl Clock for RuntimeClock {
        fn now(&self) -> UnixMillis {
            UnixMillis(self.1)
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }

    const TIME: Duration = Duration::from_secs(30);

    fn typing_since(start: u64) -> (Typing, SyncNotifier) {
        let notifier = SyncNotifier::default();
        let clock = Arc::new(RuntimeClock(tokio::time::Instant::now(), start));
        (Typing::new(notifier.clone(), clock), notifier)
    }

    fn room(name: &str) -> OwnedRoomId {
        RoomId::parse(format!("!{name}:x")).unwrap()
    }

    fn user(name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:x")).unwrap()
    }

    fn news(
        typing: &Typing,
        name: &str,
        since: Option<TypingSerial>,
    ) -> (Option<Vec<OwnedUserId>>, Option<TypingSerial>) {
        let mut news = typing.news(&[(room(name), since)]);
        (news.rooms.remove(&room(name)), news.serial)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_without_a_serial_learns_of_typists_and_one_with_it_of_changes() {
        let (typing, _) = typing_since(1_000);
        assert_eq!(news(&typing, "a", None), (None, None));
        assert_eq!(typing.start(&room("a"), &user("ann"), TIME), Told::ToTell);
        let (told, first) = news(&typing, "a", None);
        assert_eq!(told, Some(vec![user("ann")]));
        assert!(first.is_some());
        assert_eq!(news(&typing, "b", None), (None, None), "another room");
        assert_eq!(news(&typing, "a", first), (None, first));
        assert_eq!(typing.start(&room("a"), &user("ann"), TIME), Told::Lately);
        assert_eq!(news(&typing, "a", first), (None, first), "going on is no news");
        typing.start(&room("a"), &user("bob"), TIME);
        let (told, second) = news(&typing, "a", first);
        assert_eq!(told, Some(vec![user("ann"), user("bob")]));
        assert!(typing.stop(&room("a"), &user("ann")) && typing.stop(&room("a"), &user("bob")));
        assert!(!typing.stop(&room("a"), &user("bob")));
        assert_eq!(news(&typing, "a", second), (Some(Vec::new()), None), "the end is told to who knew");
        assert_eq!(news(&typing, "a", None), (None, None), "and to nobody else");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_another_life_learn_where_nobody_types_any_more() {
        let (typing, _) = typing_since(1_000);
        typing.start(&room("a"), &user("ann"), TIME);
        let (_, serial) = news(&typing, "a", None);
        for start in [2_000, 500] {
            let (next, _) = typing_since(start);
            assert_eq!(news(&next, "a", serial), (Some(Vec::new()), None), "wall clock at {start}");
            assert_eq!(news(&next, "a", None), (None, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn typing_ends_by_itself_and_wakes_the_room() {
        let (typing, notifier) = typing_since(1_000);
        let mut watch = notifier.watch(&user("carol"), &[room("a")]);
        let mut elsewhere = notifier.watch(&user("dan"), &[room("b")]);
        typing.start(&room("a"), &user("ann"), TIME);
        assert!(watch.changed().now_or_never().is_some());
        typing.start(&room("a"), &user("bob"), TIME * 2);
        assert!(watch.changed().now_or_never().is_some());
        assert!(typing.ended().now_or_never().is_none());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(typing.start(&room("a"), &user("ann"), TIME), Told::ToTell, "others may be about to forget");
        assert!(watch.changed().now_or_never().is_none(), "going on is no news");
        assert_eq!(typing.ended().await, [(room("a"), user("ann"))]);
        assert!(watch.changed().now_or_never().is_some());
        let (told, _) = news(&typing, "a", None);
        assert_eq!(told, Some(vec![user("bob")]));
        assert_eq!(typing.ended().await, [(room("a"), user("bob"))]);
        assert!(elsewhere.changed().now_or_never().is_none(), "who is not in the room sleeps on");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_end_is_not_slept_over() {
        let (typing, _) = typing_since(1_000);
        typing.start(&room("a"), &user("ann"), TIME);
        let (waiting, typing_too) = (typing.clone(), typing.clone());
        let ended = tokio::spawn(async move { waiting.ended().await });
        tokio::task::yield_now().await;
        typing_too.start(&room("b"), &user("bob"), Duration::from_secs(1));
        assert_eq!(ended.await.unwrap(), [(room("b"), user("bob"))]);
    }

    #[tokio::test(start_paused = true)]
    async fn typists_and_rooms_are_bounded() {
        let (typing, _) = typing_since(1_000);
        for number in 0..TYPISTS_IN_ROOM_MAX + 10 {
            typing.start(&room("a"), &user(&format!("u{number}")), TIME);
        }
        let (told, serial) = news(&typing, "a", None);
        assert_eq!(told.unwrap().len(), TYPISTS_IN_ROOM_MAX);
        for number in 0..ROOMS_MAX + 10 {
            let room_id = room(&format!("r{number}"));
            typing.start(&room_id, &user("ann"), TIME);
            typing.stop(&room_id, &user("ann"));
        }
        assert!(typing.lock().rooms.len() <= ROOMS_MAX);
        // What was forgotten may have been anywhere, so the client is told how it is now.
        assert_eq!(news(&typing, "r0", serial).0, Some(Vec::new()));
        for number in 0..ROOMS_MAX {
            for name in ["ann", "bob", "carol"] {
                typing.start(&room(&format!("r{number}")), &user(name), TIME);
            }
        }
        assert_eq!(typing.lock().typists, TYPISTS_MAX);
    }
}
