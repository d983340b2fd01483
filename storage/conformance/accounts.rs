//! Facts about users, devices, filters, account data, aliases, the directory and other servers' keys.
//! May not: use a real password or token.

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use vestibule_protocol::stream::StreamPosition;

use super::{
    World,
    fixture::{
        RoomFixture,
        accounts::{alias_id, device, server_keys, token_hash, user},
        local,
    },
};
use crate::{
    accounts::{AccountChange, AccountData, Alias, Device, User},
    commit::{Commit, CommitError, Conflict},
    server_keys::StoredServerKeys,
};

const ALL: usize = 10_000;

fn room_id(label: &str) -> OwnedRoomId {
    RoomFixture::create(label).0.room_id().to_owned()
}

fn alias(name: &str, room_id: &OwnedRoomId) -> Alias {
    Alias { alias: alias_id(name), room_id: room_id.clone(), creator: local("creator") }
}

fn data(room_id: Option<&OwnedRoomId>, kind: &str, content: &str) -> AccountChange {
    let (user_id, room_id) = (local("bob"), room_id.cloned());
    AccountChange::PutAccountData { user_id, room_id, kind: kind.to_owned(), content: content.to_owned() }
}

fn conflict(conflict: Conflict) -> Result<StreamPosition, CommitError> {
    Err(CommitError::Conflict(conflict))
}

/// A made user is there.
pub async fn user_reads_back(world: &mut World) {
    let accounts = world.stores().accounts.clone();
    assert_eq!(accounts.user(&local("bob")).await.unwrap(), None);
    world.accounts(vec![AccountChange::CreateUser(user("bob"))]).await;
    assert_eq!(accounts.user(&local("bob")).await.unwrap(), Some(user("bob")));
    assert_eq!(accounts.user(&local("bo")).await.unwrap(), None);
    let bare = User { password_hash: None, is_admin: true, profile: BTreeMap::new(), ..user("carol") };
    world.accounts(vec![AccountChange::CreateUser(bare.clone())]).await;
    assert_eq!(accounts.user(&local("carol")).await.unwrap(), Some(bare));
}

/// Names are given once, also to those who try at the same moment.
pub async fn second_user_of_the_same_name_is_a_conflict(world: &mut World) {
    let other = User { is_admin: true, ..user("bob") };
    let first = world.enqueue(Commit::Accounts(vec![AccountChange::CreateUser(user("bob"))])).await;
    let second = world.enqueue(Commit::Accounts(vec![AccountChange::CreateUser(other)])).await;
    assert!(first.await.is_ok());
    assert_eq!(second.await, conflict(Conflict::UserExists));
    assert_eq!(world.stores().accounts.user(&local("bob")).await.unwrap(), Some(user("bob")));
}

/// A user's row is replaced as a whole.
pub async fn user_is_replaced(world: &mut World) {
    world.accounts(vec![AccountChange::CreateUser(user("bob"))]).await;
    let gone = User { password_hash: None, is_deactivated: true, profile: BTreeMap::new(), ..user("bob") };
    world.accounts(vec![AccountChange::UpdateUser(gone.clone())]).await;
    assert_eq!(world.stores().accounts.user(&local("bob")).await.unwrap(), Some(gone));
}

/// Nobody is made by being changed.
pub async fn change_of_a_missing_user_is_a_conflict(world: &mut World) {
    let update = AccountChange::UpdateUser(user("bob"));
    assert_eq!(world.try_accounts(vec![update]).await, conflict(Conflict::NoSuchUser));
    for value in [Some("\"Bob\"".to_owned()), None] {
        let set = AccountChange::SetProfileField { user_id: local("bob"), field: "displayname".to_owned(), value };
        assert_eq!(world.try_accounts(vec![set]).await, conflict(Conflict::NoSuchUser));
    }
    assert_eq!(world.stores().accounts.user(&local("bob")).await.unwrap(), None);
}

/// Fields change one by one.
pub async fn profile_fields_are_set_and_removed(world: &mut World) {
    world.accounts(vec![AccountChange::CreateUser(user("bob"))]).await;
    let set = |field: &str, value: Option<&str>| AccountChange::SetProfileField {
        user_id: local("bob"),
        field: field.to_owned(),
        value: value.map(ToOwned::to_owned),
    };
    world.accounts(vec![set("avatar_url", Some("\"mxc://a/b\"")), set("displayname", Some("\"Robert\""))]).await;
    world.accounts(vec![set("org.example", Some("{\"a\":[1]}")), set("avatar_url", None), set("missing", None)]).await;
    let found = world.stores().accounts.user(&local("bob")).await.unwrap().unwrap();
    let expected = [("displayname", "\"Robert\""), ("org.example", "{\"a\":[1]}")];
    let expected = expected.map(|(field, value)| (field.to_owned(), value.to_owned()));
    assert_eq!(found, User { profile: BTreeMap::from(expected), ..user("bob") });
}

/// Users are listed for admins page by page.
pub async fn users_page_in_the_order_of_their_ids(world: &mut World) {
    let names = ["zoe", "bob", "bobby", "anna", "b"];
    for name in names {
        world.accounts(vec![AccountChange::CreateUser(user(name))]).await;
    }
    let mut expected = names.map(local).to_vec();
    expected.sort();
    let accounts = &world.stores().accounts;
    let mut paged: Vec<User> = Vec::new();
    loop {
        let page = accounts.users(paged.last().map(|user| &*user.user_id), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
        assert!(paged.len() <= expected.len(), "pages repeat rows: {paged:?}");
    }
    assert_eq!(paged.iter().map(|user| user.user_id.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(accounts.users(None, ALL).await.unwrap(), paged);
    let after_bo = accounts.users(Some(&local("bo")), 1).await.unwrap();
    let next = expected.iter().find(|user_id| **user_id > local("bo")).unwrap();
    assert_eq!(after_bo[0].user_id, *next);
}

/// A request finds its device.
pub async fn device_is_found_by_its_token(world: &mut World) {
    let bob = local("bob");
    let (phone, laptop) = (device(&bob, "PHONE", 1), device(&bob, "LAPTOP", 2));
    let same_name = device(&local("bobby"), "PHONE", 3);
    let changes = [&phone, &laptop, &same_name].map(|device| AccountChange::PutDevice(device.clone()));
    world.accounts(changes.to_vec()).await;
    let accounts = &world.stores().accounts;
    for device in [&phone, &laptop, &same_name] {
        assert_eq!(accounts.device_by_token(&device.token_hash).await.unwrap().as_ref(), Some(device));
        assert_eq!(accounts.device(&device.user_id, &device.device_id).await.unwrap().as_ref(), Some(device));
    }
    assert_eq!(accounts.device_by_token(&token_hash(4)).await.unwrap(), None);
    assert_eq!(accounts.device(&bob, "TABLET".into()).await.unwrap(), None);
    let mut devices = accounts.devices(&bob).await.unwrap();
    devices.sort_by(|left, right| left.device_id.cmp(&right.device_id));
    assert_eq!(devices, [laptop, phone]);
}

/// A new log-in on a device ends the one before.
pub async fn replaced_device_s_old_token_stops_working(world: &mut World) {
    let bob = local("bob");
    world.accounts(vec![AccountChange::PutDevice(device(&bob, "PHONE", 1))]).await;
    let renamed = Device { display_name: None, ..device(&bob, "PHONE", 2) };
    world.accounts(vec![AccountChange::PutDevice(renamed.clone())]).await;
    let accounts = &world.stores().accounts;
    assert_eq!(accounts.device_by_token(&token_hash(1)).await.unwrap(), None);
    assert_eq!(accounts.device_by_token(&token_hash(2)).await.unwrap(), Some(renamed.clone()));
    assert_eq!(accounts.devices(&bob).await.unwrap(), std::slice::from_ref(&renamed));
    // Only the name changes: the token goes on.
    let named = Device { display_name: Some("new name".to_owned()), ..renamed };
    world.accounts(vec![AccountChange::PutDevice(named.clone())]).await;
    assert_eq!(accounts.device_by_token(&token_hash(2)).await.unwrap(), Some(named));
}

/// After logging out nothing is left to log in with.
pub async fn deleted_device_s_token_stops_working(world: &mut World) {
    let bob = local("bob");
    let changes = [("PHONE", 1), ("LAPTOP", 2)].map(|(id, token)| AccountChange::PutDevice(device(&bob, id, token)));
    world.accounts(changes.to_vec()).await;
    world.accounts(vec![AccountChange::DeleteDevice { user_id: bob.clone(), device_id: "PHONE".into() }]).await;
    let accounts = &world.stores().accounts;
    assert_eq!(accounts.device_by_token(&token_hash(1)).await.unwrap(), None);
    assert_eq!(accounts.device(&bob, "PHONE".into()).await.unwrap(), None);
    assert_eq!(accounts.devices(&bob).await.unwrap(), [device(&bob, "LAPTOP", 2)]);
    assert_eq!(accounts.device_by_token(&token_hash(2)).await.unwrap(), Some(device(&bob, "LAPTOP", 2)));
}

/// Logging out twice is fine.
pub async fn deleting_a_missing_device_is_no_conflict(world: &mut World) {
    let bob = local("bob");
    world.accounts(vec![AccountChange::DeleteDevice { user_id: bob.clone(), device_id: "PHONE".into() }]).await;
    world.accounts(vec![AccountChange::DeleteDevices { user_id: bob, except: None }]).await;
}

/// Changing the password logs all others out.
pub async fn all_devices_but_one_are_deleted(world: &mut World) {
    let (bob, bobby) = (local("bob"), local("bobby"));
    let mut changes: Vec<_> =
        (1..=4).map(|token| AccountChange::PutDevice(device(&bob, &format!("D{token}"), token))).collect();
    changes.push(AccountChange::PutDevice(device(&bobby, "D1", 9)));
    world.accounts(changes).await;
    let accounts = &world.stores().accounts;
    world.accounts(vec![AccountChange::DeleteDevices { user_id: bob.clone(), except: Some("D3".into()) }]).await;
    assert_eq!(accounts.devices(&bob).await.unwrap(), [device(&bob, "D3", 3)]);
    for token in 1..=4 {
        let found = accounts.device_by_token(&token_hash(token)).await.unwrap();
        assert_eq!(found.is_some(), token == 3, "token {token}");
    }
    world.accounts(vec![AccountChange::DeleteDevices { user_id: bob.clone(), except: None }]).await;
    assert_eq!(accounts.devices(&bob).await.unwrap(), []);
    assert_eq!(accounts.device_by_token(&token_hash(3)).await.unwrap(), None);
    assert_eq!(accounts.device_by_token(&token_hash(9)).await.unwrap(), Some(device(&bobby, "D1", 9)));
}

/// A filter belongs to who made it.
pub async fn filters_read_back_for_their_user(world: &mut World) {
    let put = |filter_id: &str, filter: &str| AccountChange::PutFilter {
        user_id: local("bob"),
        filter_id: filter_id.to_owned(),
        filter: filter.to_owned(),
    };
    world.accounts(vec![put("1", "{}"), put("11", "{\"room\":{}}")]).await;
    let accounts = &world.stores().accounts;
    assert_eq!(accounts.filter(&local("bob"), "1").await.unwrap().as_deref(), Some("{}"));
    assert_eq!(accounts.filter(&local("bob"), "11").await.unwrap().as_deref(), Some("{\"room\":{}}"));
    assert_eq!(accounts.filter(&local("bob"), "2").await.unwrap(), None);
    assert_eq!(accounts.filter(&local("bobby"), "1").await.unwrap(), None);
}

/// Global data and that of rooms are apart.
pub async fn account_data_is_kept_by_room_and_type(world: &mut World) {
    let (first, second) = (room_id("a"), room_id("b"));
    world.accounts(vec![data(None, "m.direct", "{}"), data(Some(&first), "m.direct", "{\"a\":1}")]).await;
    let position = world.accounts(vec![data(Some(&first), "m.tag", "{\"old\":1}")]).await;
    let newer = world.accounts(vec![data(Some(&first), "m.tag", "{\"new\":1}")]).await;
    assert_eq!(newer, position.next());
    let accounts = &world.stores().accounts;
    let bob = local("bob");
    let content = async |room_id: Option<&OwnedRoomId>, kind: &str| {
        let row = accounts.account_data(&bob, room_id.map(|id| &**id), kind).await.unwrap();
        row.map(|row| row.content)
    };
    assert_eq!(content(None, "m.direct").await.as_deref(), Some("{}"));
    assert_eq!(content(Some(&first), "m.direct").await.as_deref(), Some("{\"a\":1}"));
    assert_eq!(content(Some(&second), "m.direct").await, None);
    assert_eq!(content(None, "m.tag").await, None);
    let row = accounts.account_data(&bob, Some(&first), "m.tag").await.unwrap();
    let expected = AccountData {
        room_id: Some(first.clone()),
        kind: "m.tag".to_owned(),
        content: "{\"new\":1}".to_owned(),
        position: newer,
    };
    assert_eq!(row, Some(expected));
    assert_eq!(accounts.account_data(&local("bobby"), None, "m.direct").await.unwrap(), None);
}

/// Sync asks what is new; what was replaced comes once, at its new position.
pub async fn account_data_since_a_position(world: &mut World) {
    let room = room_id("a");
    let first = world.accounts(vec![data(None, "m.a", "1"), data(Some(&room), "m.a", "2")]).await;
    let second = world.accounts(vec![data(None, "m.b", "3")]).await;
    let third = world.accounts(vec![data(None, "m.a", "4")]).await;
    let accounts = &world.stores().accounts;
    let since = async |position: StreamPosition| {
        let mut contents = Vec::new();
        for row in accounts.account_data_since(&local("bob"), position).await.unwrap() {
            assert!(row.position > position);
            contents.push(row.content);
        }
        contents.sort();
        contents
    };
    assert_eq!(since(StreamPosition::START).await, ["2", "3", "4"]);
    assert_eq!(since(first).await, ["3", "4"]);
    assert_eq!(since(second).await, ["4"]);
    assert_eq!(since(third).await, Vec::<String>::new());
    assert_eq!(accounts.account_data_since(&local("bobby"), StreamPosition::START).await.unwrap(), []);
}

/// The user's other devices wake up.
pub async fn announcement_names_whose_account_data_changed(world: &mut World) {
    let position = world.accounts(vec![data(None, "m.direct", "{}")]).await;
    let news = world.heard().pop().unwrap();
    assert_eq!((news.position, news.room_id, news.users), (position, None, vec![local("bob")]));
}

/// An alias leads to its room.
pub async fn alias_reads_back(world: &mut World) {
    let made = alias("lobby", &room_id("a"));
    let accounts = world.stores().accounts.clone();
    assert_eq!(accounts.alias(&made.alias).await.unwrap(), None);
    world.accounts(vec![AccountChange::CreateAlias(made.clone())]).await;
    assert_eq!(accounts.alias(&made.alias).await.unwrap(), Some(made.clone()));
    world.accounts(vec![AccountChange::DeleteAlias(made.alias.clone())]).await;
    assert_eq!(accounts.alias(&made.alias).await.unwrap(), None);
    assert_eq!(accounts.aliases_of(&made.room_id).await.unwrap(), []);
}

/// An alias cannot be taken over.
pub async fn taken_alias_is_a_conflict(world: &mut World) {
    let made = alias("lobby", &room_id("a"));
    world.accounts(vec![AccountChange::CreateAlias(made.clone())]).await;
    let thief = alias("lobby", &room_id("b"));
    let taken = AccountChange::CreateAlias(thief.clone());
    assert_eq!(world.try_accounts(vec![taken.clone()]).await, conflict(Conflict::AliasExists));
    let accounts = world.stores().accounts.clone();
    assert_eq!(accounts.alias(&made.alias).await.unwrap(), Some(made.clone()));
    assert_eq!(accounts.aliases_of(&thief.room_id).await.unwrap(), []);
    world.accounts(vec![AccountChange::DeleteAlias(made.alias.clone()), taken]).await;
    assert_eq!(accounts.alias(&made.alias).await.unwrap(), Some(thief));
}

/// What is not there cannot go.
pub async fn missing_alias_cannot_be_deleted(world: &mut World) {
    let missing = AccountChange::DeleteAlias(alias_id("nowhere"));
    assert_eq!(world.try_accounts(vec![missing]).await, conflict(Conflict::NoSuchAlias));
}

/// A room knows its names.
pub async fn aliases_of_a_room_are_listed(world: &mut World) {
    let (first, second) = (room_id("a"), room_id("b"));
    let made = [alias("one", &first), alias("two", &first), alias("three", &second)];
    world.accounts(made.iter().cloned().map(AccountChange::CreateAlias).collect()).await;
    let accounts = &world.stores().accounts;
    let mut of_first = accounts.aliases_of(&first).await.unwrap();
    of_first.sort_by(|left, right| left.alias.cmp(&right.alias));
    assert_eq!(of_first, made[..2]);
    assert_eq!(accounts.aliases_of(&second).await.unwrap(), made[2..]);
    assert_eq!(accounts.aliases_of(&room_id("c")).await.unwrap(), []);
}

/// The public directory pages by room id.
pub async fn published_rooms_page_in_the_order_of_their_ids(world: &mut World) {
    let mut expected = Vec::new();
    for label in ["m", "a", "z", "b", "hidden"] {
        let (fixture, commit) = RoomFixture::create(label);
        world.room(commit).await;
        let room_id = fixture.room_id().to_owned();
        let publish = |is_published| AccountChange::SetPublished { room_id: room_id.clone(), is_published };
        world.accounts(vec![publish(true)]).await;
        if label == "hidden" {
            world.accounts(vec![publish(false)]).await;
            assert!(!world.stores().accounts.is_published(&room_id).await.unwrap());
        } else {
            assert!(world.stores().accounts.is_published(&room_id).await.unwrap());
            expected.push(room_id);
        }
    }
    expected.sort();
    let accounts = &world.stores().accounts;
    assert_eq!(accounts.published(None, ALL).await.unwrap(), expected);
    let mut paged = Vec::new();
    loop {
        let after: Option<&OwnedRoomId> = paged.last();
        let page = accounts.published(after.map(|room_id| &**room_id), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
        assert!(paged.len() <= expected.len(), "pages repeat rows: {paged:?}");
    }
    assert_eq!(paged, expected);
}

/// A commit's changes are made one after the other.
pub async fn later_changes_of_a_commit_see_the_earlier(world: &mut World) {
    let bob = local("bob");
    let made = alias("lobby", &room_id("a"));
    let name = AccountChange::SetProfileField {
        user_id: bob.clone(),
        field: "displayname".to_owned(),
        value: Some("\"Robert\"".to_owned()),
    };
    world
        .accounts(vec![
            AccountChange::CreateUser(user("bob")),
            name,
            AccountChange::PutDevice(device(&bob, "PHONE", 1)),
            AccountChange::PutDevice(device(&bob, "PHONE", 2)),
            AccountChange::PutDevice(device(&bob, "LAPTOP", 3)),
            AccountChange::DeleteDevices { user_id: bob.clone(), except: Some("PHONE".into()) },
            AccountChange::CreateAlias(made.clone()),
            AccountChange::DeleteAlias(made.alias.clone()),
            AccountChange::CreateAlias(made.clone()),
        ])
        .await;
    let accounts = &world.stores().accounts;
    let found = accounts.user(&bob).await.unwrap().unwrap();
    assert_eq!(found.profile["displayname"], "\"Robert\"");
    assert_eq!(accounts.devices(&bob).await.unwrap(), [device(&bob, "PHONE", 2)]);
    for token in 1..=3 {
        assert_eq!(accounts.device_by_token(&token_hash(token)).await.unwrap().is_some(), token == 2);
    }
    assert_eq!(accounts.alias(&made.alias).await.unwrap(), Some(made));
    let twice = vec![AccountChange::CreateUser(user("carol")), AccountChange::CreateUser(user("carol"))];
    assert_eq!(world.try_accounts(twice).await, conflict(Conflict::UserExists));
    assert_eq!(accounts.user(&local("carol")).await.unwrap(), None);
}

/// All or nothing.
pub async fn conflict_of_the_last_change_undoes_the_first(world: &mut World) {
    let bob = local("bob");
    let (fixture, commit) = RoomFixture::create("a");
    world.room(commit).await;
    let room_id = fixture.room_id().to_owned();
    world
        .accounts(vec![AccountChange::CreateUser(user("bob")), AccountChange::PutDevice(device(&bob, "OLD", 1))])
        .await;
    let before = world.stores().stream.position();
    let refused = vec![
        AccountChange::CreateUser(user("carol")),
        AccountChange::UpdateUser(User { is_admin: true, ..user("bob") }),
        AccountChange::PutDevice(device(&bob, "NEW", 2)),
        AccountChange::DeleteDevice { user_id: bob.clone(), device_id: "OLD".into() },
        AccountChange::PutFilter { user_id: bob.clone(), filter_id: "1".to_owned(), filter: "{}".to_owned() },
        data(None, "m.direct", "{}"),
        AccountChange::CreateAlias(alias("lobby", &room_id)),
        AccountChange::SetPublished { room_id: room_id.clone(), is_published: true },
        AccountChange::SetForgotten { user_id: local("creator"), room_id: room_id.clone(), is_forgotten: true },
        AccountChange::DeleteAlias(alias_id("nowhere")),
    ];
    assert_eq!(world.try_accounts(refused).await, conflict(Conflict::NoSuchAlias));
    let accounts = &world.stores().accounts;
    assert_eq!(accounts.users(None, ALL).await.unwrap(), [user("bob")]);
    assert_eq!(accounts.devices(&bob).await.unwrap(), [device(&bob, "OLD", 1)]);
    assert!(accounts.device_by_token(&token_hash(1)).await.unwrap().is_some());
    assert_eq!(accounts.device_by_token(&token_hash(2)).await.unwrap(), None);
    assert_eq!(accounts.filter(&bob, "1").await.unwrap(), None);
    assert_eq!(accounts.account_data_since(&bob, StreamPosition::START).await.unwrap(), []);
    assert_eq!(accounts.alias(&alias_id("lobby")).await.unwrap(), None);
    assert_eq!(accounts.published(None, ALL).await.unwrap(), Vec::<OwnedRoomId>::new());
    let membership = world.stores().rooms.membership(&local("creator"), &room_id).await.unwrap().unwrap();
    assert!(!membership.forgotten);
    assert_eq!(world.stores().stream.position(), before);
}

/// Nothing to change is no error.
pub async fn empty_commit_is_made(world: &mut World) {
    let first = world.accounts(Vec::new()).await;
    assert_eq!(world.accounts(Vec::new()).await, first.next());
}

/// Keys survive as they were accepted.
pub async fn server_keys_read_back(world: &mut World) {
    let keys = server_keys("there.example", 1);
    let store = world.stores().server_keys.clone();
    assert_eq!(store.lookup(&keys.server_name).await.unwrap(), None);
    store.store(keys.clone()).await.unwrap();
    assert_eq!(store.lookup(&keys.server_name).await.unwrap(), Some(keys));
    assert_eq!(store.lookup("there.example:8448".try_into().unwrap()).await.unwrap(), None);
}

/// One document for each server.
pub async fn server_keys_are_replaced(world: &mut World) {
    let store = world.stores().server_keys.clone();
    let newer = StoredServerKeys { old_verify_keys: BTreeMap::new(), ..server_keys("there.example", 2) };
    for keys in [server_keys("there.example", 1), server_keys("other.example", 7), newer.clone()] {
        store.store(keys).await.unwrap();
    }
    assert_eq!(store.lookup(&newer.server_name).await.unwrap(), Some(newer));
    let other = server_keys("other.example", 7);
    assert_eq!(store.lookup(&other.server_name).await.unwrap(), Some(other));
}

/// A commit of keys is a commit like all others.
pub async fn server_keys_come_through_the_writer_too(world: &mut World) {
    let first = world.accounts(Vec::new()).await;
    let keys = server_keys("there.example", 1);
    let second = world.commit(Commit::ServerKeys(Box::new(keys.clone()))).await.unwrap();
    assert_eq!(second, first.next());
    assert_eq!(world.stores().server_keys.lookup(&keys.server_name).await.unwrap(), Some(keys));
    let news = world.heard().pop().unwrap();
    assert_eq!((news.position, news.room_id, news.users), (second, None, Vec::new()));
}
