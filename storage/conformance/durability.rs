//! Facts about what is there after the engine was closed and opened again.
//! May not: crash the engine; its own tests do that at named points.

use std::collections::BTreeSet;

use ruma::{OwnedDeviceId, RoomVersionId, ServerName, events::room::member::MembershipState};

use super::{
    Reopening, World,
    fixture::{
        RoomFixture, THERE,
        accounts::{alias_id, device, server_keys, token_hash, user},
        content, local, receipt, remote, sent_to, transaction,
    },
    survey::{Questions, survey},
};
use crate::{
    accounts::{AccountChange, Alias},
    commit::{Commit, CommitError, Conflict},
    device_keys::{KeyChange, KeySignature, KeyUsage, ListNews, PublishedKey, RemoteKeys},
    outbox::{OutboxDone, OutboxPlace},
    receipts::ReceiptCommit,
    room::{Progress, RoomCommit},
};

/// Two rooms with everything in them that a room can have.
async fn full_rooms(world: &World) -> Vec<RoomFixture> {
    let mut fixtures = Vec::new();
    for label in ["a", "b"] {
        let (mut fixture, commit) = RoomFixture::create(label);
        world.room(commit).await;
        let (bob, carol) = (local("bob"), local("carol"));
        world.room(fixture.member(&bob, MembershipState::Join)).await;
        world.room(fixture.knock(&carol, "let me in")).await;
        world.room(fixture.knock_beside_newest(&remote("eve"), "me too")).await;
        world.room(fixture.member(&carol, MembershipState::Invite)).await;
        world.room(fixture.state_event("m.room.topic", "", content(&[("topic", "secret")]))).await;
        let topic = fixture.newest().to_owned();
        world.room(fixture.redact(&topic)).await;
        world.room(fixture.message_that_removes("m.room.topic", "")).await;
        fixture.copy_state_fully_next();
        world.room(fixture.message_of_client(&transaction(&bob, label), "hello")).await;
        world.room(fixture.soft_failed(&remote("eve"), "not shown")).await;
        world.room(fixture.backfilled(&remote("eve"), "long ago")).await;
        world.room(fixture.history(&remote("eve"), &["before that", "and after"])).await;
        world.room(fixture.refusal(&remote("fred"), "join_rule_forbids")).await;
        let sent = sent_to(fixture.message(&local("creator"), "to all"), &["there.example", "other.example"]);
        let position = world.room(sent).await;
        let (destination, places) = ("other.example".try_into().unwrap(), vec![OutboxPlace { position, index: 0 }]);
        world.commit(Commit::OutboxDone(OutboxDone { destination, places })).await.unwrap();
        let (room_id, removed) = (fixture.room_id().to_owned(), Vec::new());
        let set = vec![receipt(&bob, fixture.newest().as_str()), receipt(&remote("eve"), "$elsewhere")];
        world.commit(Commit::Receipts(ReceiptCommit { room_id, removed, set })).await.unwrap();
        world.room(fixture.leave(&bob)).await;
        world.room(fixture.message_beside_newest(&local("creator"), "a fork stays open")).await;
        fixtures.push(fixture);
    }
    fixtures
}

/// A room elsewhere with a knock, an invite, a knock that is being asked for and one that was taken back.
async fn full_elsewhere(world: &World) -> RoomFixture {
    let mut fixture = RoomFixture::elsewhere(&RoomVersionId::V12, "elsewhere");
    for (name, membership, progress) in [
        ("anna", MembershipState::Knock, Progress::Settled),
        ("bob", MembershipState::Invite, Progress::Settled),
        ("carol", MembershipState::Knock, Progress::Asking),
        ("dora", MembershipState::Knock, Progress::Settled),
    ] {
        world.room(fixture.out_of_band(&local(name), membership, progress)).await;
    }
    world.room(fixture.leave_out_of_band(&local("dora"))).await;
    fixture
}

async fn full_accounts(world: &World, room: &RoomFixture, questions: &mut Questions) {
    let bob = local("bob");
    let room_id = room.room_id().to_owned();
    let alias = Alias { alias: alias_id("lobby"), room_id: room_id.clone(), creator: bob.clone() };
    world
        .accounts(vec![
            AccountChange::CreateUser(user("bob")),
            AccountChange::PutDevice(device(&bob, "PHONE", 1)),
            AccountChange::PutDevice(device(&bob, "PHONE", 2)),
            AccountChange::PutFilter { user_id: bob.clone(), filter_id: "1".to_owned(), filter: "{}".to_owned() },
            AccountChange::CreateAlias(alias),
            AccountChange::SetPublished { room_id: room_id.clone(), is_published: true },
            AccountChange::SetForgotten { user_id: bob.clone(), room_id: room_id.clone(), is_forgotten: true },
        ])
        .await;
    for place in [None, Some(room_id)] {
        let (user_id, kind, content) = (bob.clone(), "m.data".to_owned(), "{\"a\":1}".to_owned());
        world.accounts(vec![AccountChange::PutAccountData { user_id, room_id: place, kind, content }]).await;
    }
    world.stores().server_keys.store(server_keys("there.example", 3)).await.unwrap();
    questions.devices.insert("PHONE".into());
    questions.tokens.extend([token_hash(1), token_hash(2)]);
    questions.filters.insert("1".to_owned());
    questions.aliases.insert(alias_id("lobby"));
    questions.data_kinds.insert("m.data".to_owned());
    questions.servers.insert("there.example".try_into().unwrap());
}

/// Everything that Bob's phone, which is there, needs to encrypt, and what other servers must hear of it.
async fn full_keys(world: &World, questions: &mut Questions) {
    let (bob, dan) = (local("bob"), remote("dan"));
    let device_id: OwnedDeviceId = "PHONE".into();
    let key = |algorithm: &str, key_id: &str| PublishedKey {
        algorithm: algorithm.to_owned(),
        key_id: key_id.to_owned(),
        key: "\"key\"".to_owned(),
    };
    let destinations = BTreeSet::from([THERE.try_into().unwrap()]);
    let (fallback, claimed) = (key("curve", "f"), key("curve", "b"));
    let as_of = world.stores().stream.position();
    questions.users.extend([bob.clone(), dan.clone()]);
    let signature = KeySignature {
        target: bob.clone(),
        target_key: "master".to_owned(),
        signer: bob.clone(),
        key_id: "ed25519:PHONE".to_owned(),
        signature: "signature".to_owned(),
    };
    let one_time = vec![key("other", "a"), claimed.clone(), key("curve", "a")];
    let changes = vec![
        KeyChange::PutDeviceKeys { user_id: bob.clone(), device_id: device_id.clone(), keys: "{}".to_owned() },
        KeyChange::AddOneTimeKeys { user_id: bob.clone(), device_id: device_id.clone(), keys: one_time },
        KeyChange::ClaimOneTimeKey {
            user_id: bob.clone(),
            device_id: device_id.clone(),
            algorithm: claimed.algorithm,
            key_id: claimed.key_id,
        },
        KeyChange::PutFallbackKey { user_id: bob.clone(), device_id: device_id.clone(), key: fallback.clone() },
        KeyChange::UseFallbackKey {
            user_id: bob.clone(),
            device_id: device_id.clone(),
            algorithm: fallback.algorithm,
            key_id: fallback.key_id,
        },
        KeyChange::PutCrossSigningKey { user_id: bob.clone(), usage: KeyUsage::Master, key: "{}".to_owned() },
        KeyChange::PutSignature(signature),
        KeyChange::ListChanged {
            user_id: bob.clone(),
            wakes: BTreeSet::new(),
            news: ListNews::Device { device_id: device_id.clone(), destinations: destinations.clone() },
        },
        KeyChange::PutRemoteKeys { user_id: dan, keys: RemoteKeys { keys: "{}".to_owned(), as_of } },
        KeyChange::SendToDevice { user_id: bob, device_id, event: "{}".to_owned() },
        KeyChange::SendEdu { destinations, edu: "{}".to_owned() },
    ];
    world.accounts(changes.into_iter().map(AccountChange::Keys).collect()).await;
}

/// Closing loses nothing and changes nothing.
pub async fn everything_is_there_after_reopening(world: &mut World) {
    let fixtures = full_rooms(world).await;
    let mut questions = Questions::of_rooms(&fixtures);
    questions.add_room(&full_elsewhere(world).await);
    full_accounts(world, &fixtures[0], &mut questions).await;
    full_keys(world, &mut questions).await;
    let end = world.stores().stream.position();
    let halfway = vestibule_protocol::stream::StreamPosition(end.0 / 2);
    questions.positions.extend([halfway, end]);
    let before = survey(world.stores(), &questions).await;
    for round in 0..2 {
        if world.reopen().await == Reopening::Impossible {
            return;
        }
        assert_eq!(survey(world.stores(), &questions).await, before, "round {round}");
        assert_eq!(world.stores().stream.position(), end);
    }
}

/// Tokens that clients hold stay good, and no position is given twice.
pub async fn positions_go_on_after_reopening(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let created = world.room(commit).await;
    let last = world.accounts(vec![AccountChange::CreateUser(user("bob"))]).await;
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    assert_eq!(world.stores().stream.position(), last);
    fixture.next_life();
    let next = world.room(fixture.message(&local("creator"), "hello")).await;
    assert_eq!(next, last.next());
    let newest = world.stores().rooms.timeline_at(fixture.room_id(), last).await.unwrap().unwrap();
    assert_eq!(newest.position, created);
    assert_eq!(world.heard().last().map(|news| news.position), Some(next));
}

/// A room goes on where it stood.
pub async fn rooms_go_on_after_reopening(world: &mut World) {
    let mut fixtures = full_rooms(world).await;
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    for fixture in &mut fixtures {
        fixture.next_life();
        world.room(fixture.knock(&remote("late"), "hello")).await;
        world.room(fixture.member(&remote("late"), MembershipState::Invite)).await;
        world.room(fixture.message(&local("creator"), "hello")).await;
        let snapshot = world.stores().rooms.snapshot(fixture.room_id()).await.unwrap().unwrap();
        assert_eq!(snapshot.row.current, fixture.current());
        assert_eq!(snapshot.row.counts, fixture.counts());
        assert_eq!(snapshot.delta_entries, fixture.delta_entries());
        assert_eq!(snapshot.knocks, *fixture.knocks());
        assert_eq!(snapshot.extremities.len(), fixture.extremities().len());
        for (version, state) in fixture.states() {
            let stored = world.stores().rooms.state_at(fixture.room_id(), *version).await.unwrap().unwrap();
            let expected = state.iter().map(|(key, event)| (key.clone(), event.event_id().to_owned())).collect();
            assert_eq!(stored, expected);
        }
    }
}

/// What a peer took is not sent again, and what it did not take is; a room elsewhere can still come here.
pub async fn what_others_must_hear_goes_on_after_reopening(world: &mut World) {
    let mut fixture = full_elsewhere(world).await;
    let there: &ServerName = THERE.try_into().unwrap();
    let sent = world.stores().outbox.pending(there, None, 10).await.unwrap();
    assert_eq!(sent.len(), 1);
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    assert_eq!(world.stores().outbox.pending(there, None, 10).await.unwrap(), sent);
    let done = OutboxDone { destination: there.to_owned(), places: vec![sent[0].place] };
    world.commit(Commit::OutboxDone(done)).await.unwrap();
    fixture.next_life();
    let bob = local("bob");
    let next = sent_to(fixture.import(&bob), &[THERE]);
    let count = next.outbox.len();
    let position = world.room(next).await;
    world.reopen().await;
    let pending = world.stores().outbox.pending(there, None, 1000).await.unwrap();
    assert_eq!(pending.len(), count);
    assert!(pending.iter().all(|row| row.place.position == position), "no place is given twice");
    let rooms = &world.stores().rooms;
    assert_eq!(rooms.out_of_band_of(&bob, fixture.room_id()).await.unwrap(), None);
    let asking = rooms.out_of_band_of(&local("carol"), fixture.room_id()).await.unwrap().unwrap();
    assert_eq!(asking.progress, Progress::Asking);
    fixture.next_life();
    world.room(fixture.message(&bob, "hello")).await;
}

/// What is taken stays taken.
pub async fn conflicts_are_known_after_reopening(world: &mut World) {
    let (fixture, commit) = RoomFixture::create("a");
    world.room(commit.clone()).await;
    let alias = Alias { alias: alias_id("lobby"), room_id: fixture.room_id().to_owned(), creator: local("bob") };
    let make = vec![AccountChange::CreateUser(user("bob")), AccountChange::CreateAlias(alias)];
    world.accounts(make.clone()).await;
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    let again = RoomCommit { incarnation: 2, ..commit };
    assert_eq!(world.try_room(again).await, Err(CommitError::Conflict(Conflict::RoomExists)));
    for (change, conflict) in make.into_iter().zip([Conflict::UserExists, Conflict::AliasExists]) {
        assert_eq!(world.try_accounts(vec![change]).await, Err(CommitError::Conflict(conflict)));
    }
}

/// What was reported as not made never appears later.
pub async fn refused_commits_do_not_appear_after_reopening(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let made = fixture.clone();
    let _never_made = fixture.message(&local("creator"), "lost");
    assert!(world.try_room(fixture.knock(&remote("eve"), "after the gap")).await.is_err());
    let refused = vec![AccountChange::CreateUser(user("bob")), AccountChange::DeleteAlias(alias_id("nowhere"))];
    assert!(world.try_accounts(refused).await.is_err());
    let mut questions = Questions::of_rooms([&made, &fixture]);
    questions.users.insert(local("bob"));
    let before = survey(world.stores(), &questions).await;
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    assert_eq!(survey(world.stores(), &questions).await, before);
    assert_eq!(world.stores().accounts.user(&local("bob")).await.unwrap(), None);
    assert_eq!(world.stores().rooms.pending_knocks(None, None, 1).await.unwrap(), []);
}

/// Closing with commits on their way keeps the first of them in order, and all that were answered.
pub async fn unawaited_commits_are_all_there_or_a_prefix_of_them_after_reopening(world: &mut World) {
    let (mut fixture, commit) = RoomFixture::create("a");
    let mut tickets = vec![world.enqueue(Commit::Room(Box::new(commit))).await];
    let mut ids = vec![fixture.newest().to_owned()];
    for number in 0..40 {
        let commit = fixture.message(&local("creator"), &number.to_string());
        ids.push(fixture.newest().to_owned());
        tickets.push(world.enqueue(Commit::Room(Box::new(commit))).await);
    }
    if world.reopen().await == Reopening::Impossible {
        return;
    }
    let stored = world.stores().rooms.events(fixture.room_id(), &ids).await.unwrap();
    let kept = stored.iter().take_while(|stored| stored.is_some()).count();
    assert!(stored[kept..].iter().all(Option::is_none), "a commit is there without the one before it");
    for (number, ticket) in tickets.into_iter().enumerate() {
        match ticket.await {
            Ok(position) => {
                assert!(number < kept, "commit {number} was answered and is gone");
                assert_eq!(stored[number].as_ref().unwrap().position, position);
            }
            Err(error) => assert!(matches!(error, CommitError::Storage(_)), "{error}"),
        }
    }
}
