//! Facts about what must still reach other servers.
//! May not: send anything, or expect an order between two destinations.

use std::collections::BTreeSet;

use ruma::{OwnedServerName, ServerName};
use vestibule_protocol::stream::StreamPosition;

use super::{
    World,
    fixture::{RoomFixture, local, remote, sent_to},
};
use crate::{
    commit::{Announcement, Commit, CommitError},
    outbox::{Delivery, OutboxDone, OutboxEntry, OutboxPlace, OutboxRow},
    room::RoomCommit,
};

const ALL: usize = 10_000;

fn server(name: &str) -> OwnedServerName {
    name.try_into().unwrap()
}

async fn room(world: &World, label: &str) -> RoomFixture {
    let (fixture, commit) = RoomFixture::create(label);
    world.room(commit).await;
    fixture
}

async fn pending(world: &World, destination: &str) -> Vec<OutboxRow> {
    world.stores().outbox.pending(&server(destination), None, ALL).await.unwrap()
}

async fn destinations(world: &World) -> Vec<OwnedServerName> {
    world.stores().outbox.destinations(None, ALL).await.unwrap()
}

async fn done(world: &World, destination: &str, places: &[OutboxPlace]) -> StreamPosition {
    let done = OutboxDone { destination: server(destination), places: places.to_vec() };
    world.commit(Commit::OutboxDone(done)).await.unwrap()
}

/// The row of the newest event as the first of its commit.
fn row(fixture: &RoomFixture, position: StreamPosition) -> OutboxRow {
    OutboxRow {
        place: OutboxPlace { position, index: 0 },
        room_id: fixture.room_id().to_owned(),
        event_id: fixture.newest().to_owned(),
        delivery: Delivery::Transaction,
    }
}

/// A message of the creator to some servers, made; with its row.
async fn send(world: &World, fixture: &mut RoomFixture, body: &str, destinations: &[&str]) -> OutboxRow {
    let position = world.room(sent_to(fixture.message(&local("creator"), body), destinations)).await;
    row(fixture, position)
}

/// A destination hears of things in the order in which they happened, over all rooms.
pub async fn rows_come_in_the_order_of_their_commits(world: &mut World) {
    let mut first = room(world, "a").await;
    let mut second = room(world, "b").await;
    assert_eq!(pending(world, "there.example").await, []);
    let mut expected = Vec::new();
    for number in 0..6 {
        let fixture = if number % 2 == 0 { &mut second } else { &mut first };
        expected.push(send(world, fixture, &number.to_string(), &["there.example"]).await);
        send(world, fixture, "for others", &["elsewhere.example"]).await;
        world.room(fixture.message(&local("creator"), "for nobody")).await;
    }
    assert_eq!(pending(world, "there.example").await, expected);
    assert_eq!(pending(world, "elsewhere.example").await.len(), 6);
}

/// Several events of one commit keep their order too.
pub async fn entries_of_one_commit_are_numbered(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let mut commit = sent_to(fixture.message(&local("creator"), "first"), &["a.example", "b.example"]);
    let first = fixture.newest().to_owned();
    let second = sent_to(fixture.message(&local("creator"), "second"), &["b.example"]);
    let second_id = fixture.newest().to_owned();
    fixture.next_life();
    commit.events.extend(second.events);
    commit.extremities_added = second.extremities_added;
    commit.outbox.extend(second.outbox);
    let position = world.room(commit).await;
    let places = |rows: Vec<OutboxRow>| rows.into_iter().map(|row| (row.place, row.event_id)).collect::<Vec<_>>();
    let place = |index| OutboxPlace { position, index };
    assert_eq!(places(pending(world, "a.example").await), [(place(0), first.clone())]);
    assert_eq!(places(pending(world, "b.example").await), [(place(0), first), (place(1), second_id)]);
}

/// One server that is away holds up no other.
pub async fn event_for_two_destinations_is_two_rows(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let sent = send(world, &mut fixture, "hello", &["a.example", "b.example"]).await;
    assert_eq!(pending(world, "a.example").await, std::slice::from_ref(&sent));
    assert_eq!(pending(world, "b.example").await, std::slice::from_ref(&sent));
    done(world, "a.example", &[sent.place]).await;
    assert_eq!(pending(world, "a.example").await, []);
    assert_eq!(pending(world, "b.example").await, [sent]);
    assert_eq!(destinations(world).await, [server("b.example")]);
}

/// One item that cannot be delivered holds up no other.
pub async fn rows_are_removed_one_by_one(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let mut expected = Vec::new();
    for number in 0..6 {
        expected.push(send(world, &mut fixture, &number.to_string(), &["there.example"]).await);
    }
    done(world, "there.example", &[expected.remove(3).place]).await;
    assert_eq!(pending(world, "there.example").await, expected);
    let (first, last) = (expected.remove(0), expected.pop().unwrap());
    done(world, "there.example", &[last.place, first.place]).await;
    assert_eq!(pending(world, "there.example").await, expected);
    let places: Vec<_> = expected.iter().map(|row| row.place).collect();
    done(world, "there.example", &places).await;
    assert_eq!(pending(world, "there.example").await, []);
    assert!(destinations(world).await.is_empty());
}

/// Whoever delivered and does not know whether that was noted says so again.
pub async fn row_that_is_not_there_is_no_conflict(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let sent = send(world, &mut fixture, "hello", &["there.example"]).await;
    let unknown = OutboxPlace { position: StreamPosition(999), index: 7 };
    done(world, "there.example", &[unknown]).await;
    done(world, "elsewhere.example", &[sent.place]).await;
    done(world, "there.example", &[]).await;
    assert_eq!(pending(world, "there.example").await, std::slice::from_ref(&sent));
    done(world, "there.example", &[sent.place, unknown, sent.place]).await;
    done(world, "there.example", &[sent.place]).await;
    assert_eq!(pending(world, "there.example").await, []);
}

/// A worker reads as much as goes into one transaction, and goes on behind it.
pub async fn rows_page_within_their_destination(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let mut expected = Vec::new();
    for number in 0..7 {
        // Names that begin alike, and one that follows.
        let sent = send(world, &mut fixture, &number.to_string(), &["b.example", "b.example.org", "c.example"]).await;
        expected.push(sent);
    }
    for limit in [1, 3, 7, ALL] {
        let mut paged: Vec<OutboxRow> = Vec::new();
        loop {
            let after = paged.last().map(|row| row.place);
            let page = world.stores().outbox.pending(&server("b.example"), after, limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
            assert!(paged.len() <= expected.len(), "pages repeat rows");
        }
        assert_eq!(paged, expected);
    }
    // A place need not be there any more to go on behind it.
    done(world, "b.example", &[expected[2].place]).await;
    let rest = world.stores().outbox.pending(&server("b.example"), Some(expected[2].place), ALL).await.unwrap();
    assert_eq!(rest, expected[3..]);
    assert_eq!(world.stores().outbox.pending(&server("b.example"), None, 0).await.unwrap(), []);
    assert_eq!(pending(world, "b").await, []);
}

/// After a start the sender learns whom it owes something.
pub async fn destinations_page_in_the_order_of_their_names(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let mut expected: BTreeSet<OwnedServerName> = BTreeSet::new();
    for name in ["b.example", "b.example.org", "b.example:8448", "[::1]", "10.0.0.1", "a.example", "z.example"] {
        for body in ["one", "two"] {
            send(world, &mut fixture, body, &[name]).await;
        }
        expected.insert(server(name));
    }
    let expected: Vec<_> = expected.into_iter().collect();
    assert_eq!(destinations(world).await, expected);
    let outbox = &world.stores().outbox;
    for limit in [1, 2, 3, ALL] {
        let mut paged: Vec<OwnedServerName> = Vec::new();
        loop {
            let page = outbox.destinations(paged.last().map(|name| &**name), limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
            assert!(paged.len() <= expected.len(), "pages repeat destinations: {paged:?}");
        }
        assert_eq!(paged, expected);
    }
    let after_a_stranger: &ServerName = &server("b.exa");
    let after: Vec<_> = expected.iter().filter(|name| ***name > *after_a_stranger).cloned().collect();
    assert_eq!(outbox.destinations(Some(after_a_stranger), ALL).await.unwrap(), after);
    assert!(outbox.destinations(None, 0).await.unwrap().is_empty());
}

/// A row says how it gets there and for whom.
pub async fn every_way_of_delivery_reads_back(world: &mut World) {
    let mut fixture = room(world, "a").await;
    let ways = [Delivery::Transaction, Delivery::Invite, Delivery::Leave { user_id: local("bob") }];
    for delivery in ways {
        let mut commit = sent_to(fixture.message(&local("creator"), "hello"), &["there.example"]);
        commit.outbox[0].delivery = delivery.clone();
        let position = world.room(commit).await;
        let expected = OutboxRow { delivery, ..row(&fixture, position) };
        assert_eq!(pending(world, "there.example").await.pop(), Some(expected));
    }
}

/// Nothing is sent of what did not happen.
pub async fn failed_commits_leave_no_rows(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit.clone()).await;
    let again = RoomCommit { incarnation: 2, ..sent_to(commit, &["there.example"]) };
    assert!(world.try_room(again).await.is_err());
    fixture.next_life();
    fixture.next_life();
    let _never_made = fixture.message(&local("creator"), "lost");
    let after_the_gap = sent_to(fixture.message(&local("creator"), "after the gap"), &["there.example"]);
    assert_eq!(world.try_room(after_the_gap).await, Err(CommitError::PredecessorMissing));
    assert_eq!(pending(world, "there.example").await, []);
    assert!(destinations(world).await.is_empty());
}

/// The sender is woken for whom there is something, and for nobody else.
pub async fn announcement_names_the_destinations(world: &mut World) {
    let mut fixture = room(world, "a").await;
    assert!(world.heard().pop().unwrap().destinations.is_empty());
    let mut commit = sent_to(fixture.knock(&remote("eve"), "let me in"), &["b.example", "a.example"]);
    commit.outbox.push(OutboxEntry {
        event_id: fixture.newest().to_owned(),
        delivery: Delivery::Invite,
        destinations: BTreeSet::from([server("c.example"), server("a.example")]),
    });
    let position = world.room(commit).await;
    let mut news = world.heard().pop().unwrap();
    news.destinations.sort();
    assert_eq!(news.destinations, ["a.example", "b.example", "c.example"].map(server));
    assert_eq!((news.position, news.room_id.as_deref()), (position, Some(fixture.room_id())));
    // What is done with is a change like any other, and concerns nobody.
    let place = OutboxPlace { position, index: 0 };
    let next = done(world, "a.example", &[place]).await;
    assert_eq!(next, position.next());
    assert_eq!(world.heard().pop(), Some(Announcement { position: next, ..Announcement::default() }));
}
