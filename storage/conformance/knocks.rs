//! Facts about pending knocks and the audit rows of what became of them.
//! May not: judge a knock; the room's actor does.

use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState};

use super::{
    World,
    fixture::{RoomFixture, local, remote},
};
use crate::room::{Decision, DecisionAction, KnockRow};

const ALL: usize = 10_000;

async fn room(world: &World, label: &str) -> RoomFixture {
    let (fixture, commit) = RoomFixture::create(label);
    world.room(commit).await;
    fixture
}

fn rows_of(fixture: &RoomFixture) -> Vec<KnockRow> {
    let knocks = fixture.knocks().iter();
    knocks
        .map(|(user_id, knock)| KnockRow {
            room_id: fixture.room_id().to_owned(),
            user_id: user_id.clone(),
            knock: knock.clone(),
        })
        .collect()
}

async fn pending(world: &World, fixture: &RoomFixture) -> Vec<KnockRow> {
    let of_room = world.stores().rooms.pending_knocks(Some(fixture.room_id()), None, ALL).await.unwrap();
    let snapshot = world.stores().rooms.snapshot(fixture.room_id()).await.unwrap().unwrap();
    let in_snapshot: Vec<_> = snapshot.knocks.into_iter().collect();
    let of_list: Vec<_> = of_room.iter().map(|row| (row.user_id.clone(), row.knock.clone())).collect();
    assert_eq!(in_snapshot, of_list, "the snapshot and the list agree");
    of_room
}

async fn page_through(world: &World, room: Option<&RoomFixture>, limit: usize) -> Vec<KnockRow> {
    let mut rows: Vec<KnockRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| (&*row.room_id, &*row.user_id));
        let room_id = room.map(RoomFixture::room_id);
        let page = world.stores().rooms.pending_knocks(room_id, after, limit).await.unwrap();
        assert!(page.len() <= limit);
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
        assert!(rows.len() < ALL, "pages repeat knocks");
    }
}

async fn decisions(world: &World) -> Vec<Decision> {
    let numbered = world.stores().rooms.decisions(None, ALL).await.unwrap();
    numbered.into_iter().map(|(_, decision)| decision).collect()
}

/// The desk shows who knocks, why and since when.
pub async fn pending_knock_appears_with_its_reason(world: &mut World) {
    let mut fixture = room(world, "a").await;
    assert_eq!(pending(world, &fixture).await, []);
    world.room(fixture.knock(&remote("eve"), "let me in")).await;
    let rows = pending(world, &fixture).await;
    assert_eq!(rows, rows_of(&fixture));
    assert_eq!(rows[0].knock.reason.as_deref(), Some("let me in"));
    assert_eq!(rows[0].knock.event_id, fixture.newest());
    assert_eq!(world.stores().rooms.pending_knocks(None, None, ALL).await.unwrap(), rows);
}

/// One user, one knock.
pub async fn repeated_knock_replaces_the_first(world: &mut World) {
    let mut fixture = room(world, "a").await;
    world.room(fixture.knock(&remote("eve"), "first")).await;
    world.room(fixture.knock(&remote("eve"), "second")).await;
    let rows = pending(world, &fixture).await;
    assert_eq!(rows, rows_of(&fixture));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].knock.reason.as_deref(), Some("second"));
}

/// Accepted, denied, banned or taken back: it does not pend any more.
pub async fn knock_ends_with_any_other_membership(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let names = ["accepted", "denied", "banned", "retracted", "waits"];
    for name in names {
        world.room(fixture.knock(&remote(name), name)).await;
    }
    world.room(fixture.member(&remote("accepted"), MembershipState::Invite)).await;
    world.room(fixture.member(&remote("denied"), MembershipState::Leave)).await;
    world.room(fixture.member(&remote("banned"), MembershipState::Ban)).await;
    world.room(fixture.leave(&remote("retracted"))).await;
    let rows = pending(world, &fixture).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows, rows_of(&fixture));
    assert_eq!(rows[0].user_id, remote("waits"));
    let ends: Vec<_> = decisions(world).await.into_iter().take(4).map(|row| (row.user_id, row.action)).collect();
    let expected = [
        (remote("retracted"), DecisionAction::Retracted),
        (remote("banned"), DecisionAction::Banned),
        (remote("denied"), DecisionAction::Denied),
        (remote("accepted"), DecisionAction::Accepted),
    ];
    assert_eq!(ends, expected);
}

/// All knocks of the server, page by page, everything once.
pub async fn pending_knocks_page_in_order_across_rooms(world: &mut World) {
    let mut expected: Vec<KnockRow> = Vec::new();
    for label in ["m", "a", "z"] {
        let mut fixture = room(world, label).await;
        for name in ["zoe", "bob", "bobby", "anna"] {
            world.room(fixture.knock(&remote(name), label)).await;
            world.room(fixture.knock(&local(name), label)).await;
        }
        expected.extend(rows_of(&fixture));
    }
    expected.sort_by(|left, right| (&left.room_id, &left.user_id).cmp(&(&right.room_id, &right.user_id)));
    assert_eq!(expected.len(), 24);
    for limit in [1, 5, 8, ALL] {
        assert_eq!(page_through(world, None, limit).await, expected);
    }
}

/// The knocks of one room do not run into the next.
pub async fn pending_knocks_of_one_room_page_in_order(world: &mut World) {
    let mut fixtures = Vec::new();
    for label in ["a", "b", "c"] {
        let mut fixture = room(world, label).await;
        for name in ["carol", "anna", "bob"] {
            world.room(fixture.knock(&remote(name), label)).await;
        }
        fixtures.push(fixture);
    }
    for fixture in &fixtures {
        for limit in [1, 2, ALL] {
            assert_eq!(page_through(world, Some(fixture), limit).await, rows_of(fixture));
        }
    }
}

/// Many knocks cite the same events; that is the normal case.
pub async fn knocks_made_from_one_template_all_pend(world: &mut World) {
    let mut fixture = room(world, "a").await;
    world.room(fixture.knock(&remote("user0"), "hello")).await;
    for number in 1..30 {
        world.room(fixture.knock_beside_newest(&remote(&format!("user{number}")), "hello")).await;
    }
    let rows = pending(world, &fixture).await;
    assert_eq!(rows.len(), 30);
    assert_eq!(rows, rows_of(&fixture));
    let snapshot = world.stores().rooms.snapshot(fixture.room_id()).await.unwrap().unwrap();
    assert_eq!(snapshot.extremities.len(), 30);
    assert_eq!(snapshot.row.counts.knock, 30);
}

/// The audit trail begins with what just happened, over all rooms.
pub async fn decisions_come_newest_first(world: &mut World) {
    let mut first = room(world, "a").await;
    let mut second = room(world, "b").await;
    let mut expected = Vec::new();
    world.room(first.knock(&remote("eve"), "let me in")).await;
    expected.extend(first.decisions().last().cloned());
    world.room(second.knock(&remote("eve"), "or here")).await;
    expected.extend(second.decisions().last().cloned());
    world.room(first.member(&remote("eve"), MembershipState::Leave)).await;
    expected.extend(first.decisions().last().cloned());
    // Several rows of one commit keep their order too.
    let mut commit = first.refusal(&remote("fred"), "banned");
    let mut later = commit.decisions[0].clone();
    later.user_id = remote("gina");
    commit.decisions.push(later.clone());
    expected.push(commit.decisions[0].clone());
    expected.push(later);
    world.room(commit).await;
    expected.reverse();
    assert_eq!(decisions(world).await, expected);
}

/// Pages of the audit trail fit together, also while rows are added.
pub async fn decisions_page_without_gaps_or_repeats(world: &mut World) {
    let mut fixture = room(world, "a").await;
    for number in 0..11 {
        world.room(fixture.refusal(&remote(&format!("user{number}")), "join_rule_forbids")).await;
    }
    let mut expected = fixture.decisions().to_vec();
    expected.reverse();
    let rooms = &world.stores().rooms;
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = rooms.decisions(before, 4).await.unwrap();
        assert!(page.len() <= 4);
        let Some((number, _)) = page.last() else { break };
        before = Some(*number);
        paged.extend(page.into_iter().map(|(_, decision)| decision));
        assert!(paged.len() <= expected.len(), "pages repeat decisions: {paged:?}");
        world.room(fixture.refusal(&remote("late"), "too_many")).await;
    }
    assert_eq!(paged, expected);
    assert_eq!(rooms.decisions(None, 0).await.unwrap(), []);
}

/// Who is refused does not get into the room's tables.
pub async fn refusal_leaves_an_audit_row_and_nothing_else(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let before = world.stores().rooms.room(fixture.room_id()).await.unwrap();
    world.room(fixture.refusal(&local("eve"), "join_rule_forbids")).await;
    assert_eq!(pending(world, &fixture).await, []);
    assert_eq!(world.stores().rooms.room(fixture.room_id()).await.unwrap(), before);
    assert_eq!(world.stores().rooms.memberships_of(&local("eve")).await.unwrap(), []);
    let row = decisions(world).await.remove(0);
    let place: (OwnedRoomId, OwnedUserId) = (row.room_id, row.user_id);
    assert_eq!(place, (fixture.room_id().to_owned(), local("eve")));
    assert_eq!((row.action, row.by, row.event_id), (DecisionAction::Refused, None, None));
    assert_eq!(row.reason.as_deref(), Some("join_rule_forbids"));
}
