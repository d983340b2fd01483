//! Facts about how far users have read.
//! May not: expect the engine to know which of two events is further on.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use vestibule_protocol::{clock::UnixMillis, stream::StreamPosition};

use super::{
    Reopening, World,
    fixture::{local, receipt, remote},
};
use crate::{
    commit::{Announcement, Commit},
    receipts::{Receipt, ReceiptCommit, ReceiptKind, ReceiptSlot, ReceiptThread, StoredReceipt},
};

const ALL: usize = 10_000;
const START: StreamPosition = StreamPosition::START;

fn room(label: &str) -> OwnedRoomId {
    RoomId::parse(format!("!{label}:here.example")).unwrap()
}

async fn set(world: &World, room_id: &OwnedRoomId, set: Vec<Receipt>) -> StreamPosition {
    commit(world, ReceiptCommit { room_id: room_id.clone(), removed: Vec::new(), set }).await
}

async fn commit(world: &World, commit: ReceiptCommit) -> StreamPosition {
    world.commit(Commit::Receipts(commit)).await.unwrap()
}

async fn since(world: &World, room_id: &OwnedRoomId, since: StreamPosition) -> Vec<StoredReceipt> {
    let rooms = [(room_id.clone(), since)];
    let mut found = world.stores().receipts.receipts_since(&rooms, ALL).await.unwrap();
    found.remove(room_id).unwrap_or_default()
}

async fn of_user(world: &World, room_id: &OwnedRoomId, user_id: &OwnedUserId) -> Vec<StoredReceipt> {
    world.stores().receipts.receipts_of(room_id, user_id).await.unwrap()
}

fn stored(receipt: &Receipt, position: StreamPosition) -> StoredReceipt {
    StoredReceipt { receipt: receipt.clone(), position }
}

/// Each user, kind and thread has a receipt of its own, with all that was said of it.
pub async fn receipt_reads_back_by_its_slot(world: &mut World) {
    let lobby = room("lobby");
    let (ann, ann_too, bob) = (local("ann"), local("anna"), remote("bob"));
    let root = OwnedEventId::try_from("$root").unwrap();
    let mut expected = Vec::new();
    for user_id in [&ann, &ann_too, &bob] {
        for kind in [ReceiptKind::Public, ReceiptKind::Private] {
            for thread in [ReceiptThread::Unthreaded, ReceiptThread::Main, ReceiptThread::Root(root.clone())] {
                let slot = ReceiptSlot { user_id: user_id.clone(), kind, thread };
                let event_id = format!("$event{}", expected.len()).try_into().unwrap();
                let at = UnixMillis(u64::try_from(expected.len()).unwrap());
                let receipt = Receipt { slot, event_id, at };
                let position = set(world, &lobby, vec![receipt.clone()]).await;
                expected.push(stored(&receipt, position));
            }
        }
    }
    assert_eq!(of_user(world, &lobby, &ann).await, expected[..6]);
    assert_eq!(of_user(world, &lobby, &ann_too).await, expected[6..12]);
    assert_eq!(of_user(world, &lobby, &bob).await, expected[12..]);
    expected.reverse();
    assert_eq!(since(world, &lobby, START).await, expected);
}

/// Who reads on is told of once, where they are now.
pub async fn receipt_replaces_the_one_before_it(world: &mut World) {
    let lobby = room("lobby");
    let first = set(world, &lobby, vec![receipt(&local("ann"), "$one"), receipt(&local("bob"), "$one")]).await;
    let again = receipt(&local("ann"), "$two");
    let second = set(world, &lobby, vec![again.clone()]).await;
    let bob = stored(&receipt(&local("bob"), "$one"), first);
    assert_eq!(since(world, &lobby, START).await, [stored(&again, second), bob]);
    assert_eq!(since(world, &lobby, first).await, [stored(&again, second)]);
    assert_eq!(since(world, &lobby, second).await, []);
    assert_eq!(since(world, &lobby, StreamPosition(u64::MAX)).await, []);
    // Set twice in one commit, the last one counts.
    let (earlier, later) = (receipt(&local("ann"), "$three"), receipt(&local("ann"), "$four"));
    let third = set(world, &lobby, vec![earlier, later.clone()]).await;
    assert_eq!(since(world, &lobby, second).await, [stored(&later, third)]);
    assert_eq!(of_user(world, &lobby, &local("ann")).await, [stored(&later, third)]);
}

/// A sync asks for all its rooms at once, and of each for no more than it can take.
pub async fn receipts_of_several_rooms_are_read_at_once(world: &mut World) {
    // Names that begin alike, and one without receipts.
    let (lobby, hall, empty) = (room("lobby"), room("lobby2"), room("empty"));
    let mut expected: BTreeMap<OwnedRoomId, Vec<StoredReceipt>> = BTreeMap::new();
    for number in 0..5 {
        for room_id in [&lobby, &hall] {
            let receipt = receipt(&local(&format!("user{number}")), "$one");
            let position = set(world, room_id, vec![receipt.clone()]).await;
            expected.entry(room_id.clone()).or_default().insert(0, stored(&receipt, position));
        }
    }
    let rooms = [(lobby.clone(), START), (empty, START), (hall.clone(), expected[&hall][2].position)];
    let receipts = &world.stores().receipts;
    let mut found = receipts.receipts_since(&rooms, ALL).await.unwrap();
    assert_eq!(found.remove(&lobby).unwrap(), expected[&lobby]);
    assert_eq!(found.remove(&hall).unwrap(), expected[&hall][..2]);
    assert!(found.is_empty());
    let newest = receipts.receipts_since(&rooms, 1).await.unwrap();
    assert_eq!(newest[&lobby], expected[&lobby][..1]);
    assert!(receipts.receipts_since(&rooms, 0).await.unwrap().is_empty());
    assert!(receipts.receipts_since(&[], ALL).await.unwrap().is_empty());
}

/// Receipts that are given up make room for others.
pub async fn removed_receipts_are_gone(world: &mut World) {
    let lobby = room("lobby");
    let (ann, bob) = (receipt(&local("ann"), "$one"), receipt(&local("bob"), "$one"));
    let first = set(world, &lobby, vec![ann.clone(), bob.clone()]).await;
    let nobody = receipt(&local("nobody"), "$one").slot;
    let carol = receipt(&local("carol"), "$one");
    let removed = vec![ann.slot, nobody];
    let second = commit(world, ReceiptCommit { room_id: lobby.clone(), removed, set: vec![carol.clone()] }).await;
    assert_eq!(since(world, &lobby, START).await, [stored(&carol, second), stored(&bob, first)]);
    assert_eq!(of_user(world, &lobby, &local("ann")).await, []);
    let (removed, again) = (vec![bob.slot.clone()], receipt(&local("bob"), "$two"));
    let third = commit(world, ReceiptCommit { room_id: lobby.clone(), removed, set: vec![again.clone()] }).await;
    assert_eq!(since(world, &lobby, first).await, [stored(&again, third), stored(&carol, second)]);
}

/// Private receipts wake nobody but their user.
pub async fn announcement_names_who_learns_of_receipts(world: &mut World) {
    let lobby = room("lobby");
    let private = |name: &str| {
        let mut receipt = receipt(&local(name), "$one");
        receipt.slot.kind = ReceiptKind::Private;
        receipt
    };
    let position = set(world, &lobby, vec![receipt(&remote("eve"), "$one")]).await;
    let news = Announcement { position, room_id: Some(lobby.clone()), ..Announcement::default() };
    assert_eq!(world.heard().pop(), Some(news));
    let position = set(world, &lobby, vec![private("ann"), private("bob")]).await;
    let news = Announcement { position, users: vec![local("ann"), local("bob")], ..Announcement::default() };
    assert_eq!(world.heard().pop(), Some(news));
    let position = set(world, &lobby, vec![private("ann"), receipt(&local("ann"), "$one")]).await;
    let news =
        Announcement { position, room_id: Some(lobby.clone()), users: vec![local("ann")], ..Announcement::default() };
    assert_eq!(world.heard().pop(), Some(news));
}

/// What was read stays read.
pub async fn receipts_go_on_after_reopening(world: &mut World) {
    let lobby = room("lobby");
    let first = set(world, &lobby, vec![receipt(&local("ann"), "$one"), receipt(&local("bob"), "$one")]).await;
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    assert_eq!(since(world, &lobby, START).await.len(), 2);
    let again = receipt(&local("ann"), "$two");
    let second = set(world, &lobby, vec![again.clone()]).await;
    assert_eq!(since(world, &lobby, first).await, [stored(&again, second)]);
    assert_eq!(since(world, &lobby, START).await.len(), 2);
}
