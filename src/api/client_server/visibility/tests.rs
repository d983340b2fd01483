use serde_json::json;

use super::*;
use crate::client_server::testing::{Event, member};

use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
use MembershipState::{Ban, Invite, Join, Knock, Leave};

/// How a membership went, with the places of its changes.
type History = &'static [(i64, MembershipState)];

/// A user whose membership went so, with the place of each change; what is asked for stands at other places.
fn sight(history: &[(i64, MembershipState)]) -> Sight {
    Sight::of_history(ruma::user_id!("@me:x"), history)
}

/// An event of somebody else between the places 10, 20, 30: after the given place.
fn event_after(place: u32, visibility: &HistoryVisibility) -> StoredEvent {
    let number = place + 5;
    Event::at(number).stored(|stored| stored.visibility = visibility.clone()).build()
}

/// Which of the events after 0, 10, 20 and 30 are seen, as `1` and `0`.
fn seen(sight: &Sight, visibility: &HistoryVisibility) -> String {
    let places = [0, 10, 20, 30];
    places.into_iter().map(|place| if sight.may_see(&event_after(place, visibility)) { '1' } else { '0' }).collect()
}

#[test]
fn visibility_follows_the_membership() {
    // Membership changes at 10, 20, 30; columns: world_readable, shared, invited, joined.
    let table: [(History, [&str; 4]); 15] = [
        (&[], ["1111", "0000", "0000", "0000"]),
        (&[(10, Join)], ["1111", "1111", "0111", "0111"]),
        (&[(30, Join)], ["1111", "1111", "0001", "0001"]),
        (&[(10, Invite)], ["1111", "0000", "0111", "0000"]),
        (&[(10, Invite), (20, Join)], ["1111", "1111", "0111", "0011"]),
        (&[(10, Join), (20, Leave)], ["1111", "1100", "0100", "0100"]),
        (&[(10, Join), (20, Ban)], ["1111", "1100", "0100", "0100"]),
        (&[(10, Join), (20, Leave), (30, Join)], ["1111", "1111", "0101", "0101"]),
        (&[(10, Join), (20, Leave), (30, Invite)], ["1111", "1100", "0101", "0100"]),
        (&[(10, Join), (20, Leave), (30, Ban)], ["1111", "1100", "0100", "0100"]),
        (&[(10, Invite), (20, Leave)], ["1111", "0000", "0100", "0000"]),
        (&[(10, Knock)], ["1111", "0000", "0000", "0000"]),
        (&[(10, Knock), (20, Leave)], ["1111", "0000", "0000", "0000"]),
        (&[(10, Knock), (20, Invite), (30, Join)], ["1111", "1111", "0011", "0001"]),
        (&[(10, Join), (20, Leave), (30, Knock)], ["1111", "0000", "0000", "0000"]),
    ];
    for (history, expected) in table {
        let sight = sight(history);
        for (visibility, expected) in [WorldReadable, Shared, Invited, Joined].iter().zip(expected) {
            assert_eq!(seen(&sight, visibility), expected, "{history:?} {visibility}");
        }
    }
}

#[test]
fn unknown_visibility_is_shared() {
    let unknown = HistoryVisibility::from("org.example.odd");
    for history in [vec![], vec![(10, Join)], vec![(10, Join), (20, Leave)], vec![(10, Invite)]] {
        let sight = sight(&history);
        assert_eq!(seen(&sight, &unknown), seen(&sight, &Shared), "{history:?}");
    }
}

#[test]
fn own_member_events_are_seen_whatever_the_visibility() {
    let denied = sight(&[(10, Knock), (20, Leave)]);
    let own = Event::at(20)
        .with("sender", "@moderator:x")
        .state("m.room.member", "@me:x", json!({"membership": "leave", "reason": "no"}))
        .stored(|stored| stored.visibility = Joined)
        .build();
    assert!(denied.may_see(&own));
    assert_eq!(denied.membership_at(&own), Some(Leave));
    assert!(!denied.may_see(&member("@other:x", Leave, 20)));
}

#[test]
fn a_change_of_visibility_is_judged_by_the_wider_side() {
    let outside = sight(&[]);
    let change = |before: HistoryVisibility, after: &str| {
        let content = json!({"history_visibility": after});
        Event::at(5).state("m.room.history_visibility", "", content).stored(|stored| stored.visibility = before).build()
    };
    assert!(outside.may_see(&change(Joined, "world_readable")));
    assert!(outside.may_see(&change(WorldReadable, "joined")));
    assert!(!outside.may_see(&change(Joined, "shared")));
}

#[test]
fn events_outside_the_timeline_are_seen_by_nobody() {
    let inside = sight(&[(1, Join)]);
    let rejected = Event::at(5)
        .stored(|stored| {
            stored.order = None;
            stored.visibility = WorldReadable;
        })
        .build();
    assert!(!inside.may_see(&rejected));
}

#[test]
fn state_is_read_by_who_is_inside_or_as_it_was_at_leaving() {
    let until = |order: i64| Access::UntilLeft(TimelineOrder(order));
    let table: [(History, Access); 11] = [
        (&[], Access::Nothing),
        (&[(10, Invite)], Access::Nothing),
        (&[(10, Knock)], Access::Nothing),
        (&[(10, Knock), (20, Leave)], Access::Nothing),
        (&[(10, Invite), (20, Leave)], Access::Nothing),
        (&[(10, Join)], Access::Current),
        (&[(10, Join), (15, Join)], Access::Current),
        (&[(10, Join), (20, Leave)], until(20)),
        (&[(10, Join), (20, Leave), (30, Ban)], until(20)),
        (&[(10, Join), (20, Leave), (30, Invite)], until(20)),
        (&[(10, Join), (20, Leave), (30, Knock)], Access::Nothing),
    ];
    for (history, expected) in table {
        let mut sight = sight(history);
        assert_eq!(sight.access(), expected, "{history:?}");
        sight.is_world_readable = true;
        assert_eq!(sight.access(), Access::Current, "world readable, {history:?}");
    }
    let mut forgotten = sight(&[(10, Join), (20, Leave)]);
    forgotten.is_forgotten = true;
    assert_eq!(forgotten.access(), Access::Nothing);
    assert_eq!(seen(&forgotten, &Shared), "0000");
}

#[test]
fn membership_around_places_is_found() {
    let sight = sight(&[(10, Invite), (20, Join), (30, Leave)]);
    let after = |order: i64| sight.membership_after(TimelineOrder(order)).cloned();
    assert_eq!(
        [after(9), after(10), after(19), after(20), after(99)],
        [None, Some(Invite), Some(Invite), Some(Join), Some(Leave)]
    );
    let at = |place: u32| sight.membership_at(&event_after(place, &Shared));
    assert_eq!([at(0), at(10), at(20), at(30)], [Some(Leave), Some(Invite), Some(Join), Some(Leave)]);
    let inside = |order: Option<i64>| sight.was_inside_since(order.map(TimelineOrder));
    assert_eq!([inside(None), inside(Some(5)), inside(Some(25)), inside(Some(30))], [true, true, true, false]);
}

#[test]
fn a_membership_changed_by_state_resolution_is_noticed() {
    let history = [(TimelineOrder(10), Join)];
    assert!(!tells_more(&history, &Join));
    for now in [Ban, Leave, Invite, Knock] {
        assert!(tells_more(&history, &now), "{now}");
    }
    assert!(tells_more(&[], &Invite));
}
