//! Readers see whole commits while the writer goes on.
//! May not: stop the writer for a reader's sake.

use std::sync::atomic::{AtomicBool, Ordering};

use ruma::events::room::member::MembershipState;
use vestibule_storage::commit::Commit;
use vestibule_storage::conformance::block_on;
use vestibule_storage::conformance::fixture::{RoomFixture, local};

use super::place::{Place, commit, enqueue};

#[test]
fn snapshots_are_of_one_moment() {
    let place = Place::new();
    let opened = place.open();
    let (mut room, first) = RoomFixture::create("busy");
    commit(&opened.stores, first).unwrap();
    let room_id = room.room_id().to_owned();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        let snapshot = block_on(opened.stores.rooms.snapshot(&room_id)).unwrap().unwrap();
                        let members = snapshot.state.iter().filter(|event| event.membership().is_some()).count();
                        let counts = snapshot.row.counts;
                        let counted = counts.join + counts.invite + counts.knock + counts.leave + counts.ban;
                        assert_eq!(u64::try_from(members).unwrap(), counted);
                        assert_eq!(u64::try_from(snapshot.knocks.len()).unwrap(), counts.knock);
                        assert_eq!(snapshot.extremities.len(), 1);
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for number in 0..100 {
            let user_id = local(&format!("user{number}"));
            let knock = room.knock(&user_id, "let me in");
            enqueue(&opened.stores, Commit::Room(Box::new(knock)));
            let invite = room.member(&user_id, MembershipState::Invite);
            commit(&opened.stores, invite).unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
