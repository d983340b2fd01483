//! Facts about keys, lists of devices, inboxes, and what other servers must hear of them.
//! May not: hold a real key.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, OwnedServerName, OwnedUserId, UserId};
use vestibule_protocol::stream::StreamPosition;

use super::{
    World,
    fixture::{accounts::device, local, remote},
};
use crate::{
    accounts::AccountChange,
    commit::{Commit, CommitError, Conflict},
    device_keys::{
        FallbackKey, KeyChange, KeySignature, KeyUsage, ListNews, MessageSource, PublishedKey, RemoteKeys,
        SEEN_PER_SOURCE, news_stream_id,
    },
    outbox::{EduContent, OutboxDone, OutboxPlace, QueuedEdu},
    to_device::ToDeviceMessage,
};

const ALL: usize = 10_000;
const NEVER: StreamPosition = StreamPosition(u64::MAX);

fn server(name: &str) -> OwnedServerName {
    name.try_into().unwrap()
}

fn servers(names: &[&str]) -> BTreeSet<OwnedServerName> {
    names.iter().map(|name| server(name)).collect()
}

fn phone() -> &'static DeviceId {
    "PHONE".into()
}

fn laptop() -> &'static DeviceId {
    "LAPTOP".into()
}

fn key(key_id: &str) -> PublishedKey {
    key_of("signed_curve25519", key_id)
}

fn key_of(algorithm: &str, key_id: &str) -> PublishedKey {
    PublishedKey { algorithm: algorithm.to_owned(), key_id: key_id.to_owned(), key: format!("\"{key_id}\"") }
}

fn conflict(conflict: Conflict) -> Result<StreamPosition, CommitError> {
    Err(CommitError::Conflict(conflict))
}

async fn try_keys(world: &World, changes: Vec<KeyChange>) -> Result<StreamPosition, CommitError> {
    world.try_accounts(changes.into_iter().map(AccountChange::Keys).collect()).await
}

async fn keys(world: &World, changes: Vec<KeyChange>) -> StreamPosition {
    try_keys(world, changes).await.unwrap()
}

/// Two devices of Bob, and one of Bobby with the name of one of them.
async fn devices(world: &World) -> OwnedUserId {
    let bob = local("bob");
    let devices = [device(&bob, "PHONE", 1), device(&bob, "LAPTOP", 2), device(&local("bobby"), "PHONE", 3)];
    world.accounts(devices.map(AccountChange::PutDevice).to_vec()).await;
    bob
}

fn add(user_id: &UserId, device_id: &DeviceId, keys: Vec<PublishedKey>) -> KeyChange {
    KeyChange::AddOneTimeKeys { user_id: user_id.to_owned(), device_id: device_id.to_owned(), keys }
}

fn claim(user_id: &UserId, key: &PublishedKey) -> KeyChange {
    let (user_id, device_id) = (user_id.to_owned(), phone().to_owned());
    KeyChange::ClaimOneTimeKey { user_id, device_id, algorithm: key.algorithm.clone(), key_id: key.key_id.clone() }
}

fn send(user_id: &UserId, device_id: &DeviceId, event: &str) -> KeyChange {
    let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
    KeyChange::SendToDevice { user_id, device_id, event: event.to_owned() }
}

fn put_keys(user_id: &UserId, device_id: &DeviceId, keys: &str) -> KeyChange {
    let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
    KeyChange::PutDeviceKeys { user_id, device_id, keys: keys.to_owned() }
}

fn signature(target: &UserId, target_key: &str, signer: &UserId) -> KeySignature {
    KeySignature {
        target: target.to_owned(),
        target_key: target_key.to_owned(),
        signer: signer.to_owned(),
        key_id: "ed25519:x".to_owned(),
        signature: format!("{signer} signed {target_key}"),
    }
}

fn changed(user_id: &UserId, news: ListNews) -> KeyChange {
    KeyChange::ListChanged { user_id: user_id.to_owned(), wakes: BTreeSet::new(), news }
}

fn told(device_id: &DeviceId, names: &[&str]) -> ListNews {
    ListNews::Device { device_id: device_id.to_owned(), destinations: servers(names) }
}

async fn one_time_ids(world: &World, user_id: &UserId) -> Vec<String> {
    let keys = world.stores().device_keys.one_time_keys(user_id, phone()).await.unwrap();
    keys.into_iter().map(|key| format!("{}:{}", key.algorithm, key.key_id)).collect()
}

async fn inbox(world: &World, user_id: &UserId, device_id: &DeviceId) -> Vec<String> {
    let inboxes = &world.stores().inboxes;
    let messages = inboxes.messages(user_id, device_id, StreamPosition::START, NEVER, ALL).await.unwrap();
    assert_eq!(inboxes.waiting(user_id, device_id).await.unwrap(), u64::try_from(messages.len()).unwrap());
    messages.into_iter().map(|message| message.event).collect()
}

async fn edus(world: &World, destination: &str) -> Vec<QueuedEdu> {
    world.stores().outbox.edus(&server(destination), None, ALL).await.unwrap()
}

/// Each device has its keys.
pub async fn device_keys_read_back(world: &mut World) {
    let bob = devices(world).await;
    keys(world, vec![put_keys(&bob, phone(), "1"), put_keys(&bob, laptop(), "2")]).await;
    keys(world, vec![put_keys(&bob, phone(), "3"), put_keys(&local("bobby"), phone(), "4")]).await;
    let expected = BTreeMap::from([(laptop().to_owned(), "2".to_owned()), (phone().to_owned(), "3".to_owned())]);
    assert_eq!(world.stores().device_keys.device_keys(&bob).await.unwrap(), expected);
}

/// What belongs to a device needs the device.
pub async fn keys_of_a_missing_device_are_a_conflict(world: &mut World) {
    let bob = devices(world).await;
    let device_id: ruma::OwnedDeviceId = "TABLET".into();
    let name = KeyChange::NameDevice { user_id: bob.clone(), device_id: device_id.clone(), display_name: None };
    let fallback = KeyChange::PutFallbackKey { user_id: bob.clone(), device_id: device_id.clone(), key: key("a") };
    for change in [put_keys(&bob, &device_id, "1"), add(&bob, &device_id, vec![key("a")]), fallback, name] {
        assert_eq!(try_keys(world, vec![change]).await, conflict(Conflict::NoSuchDevice));
    }
    // A message may come too late; that is nobody's fault.
    keys(world, vec![send(&bob, &device_id, "1")]).await;
    assert_eq!(inbox(world, &bob, &device_id).await, [""; 0]);
}

/// A device gets another name and stays the same otherwise.
pub async fn device_is_named_anew(world: &mut World) {
    let bob = devices(world).await;
    let display_name = Some("the new phone".to_owned());
    let change = KeyChange::NameDevice {
        user_id: bob.clone(),
        device_id: phone().to_owned(),
        display_name: display_name.clone(),
    };
    keys(world, vec![change]).await;
    let found = world.stores().accounts.device(&bob, phone()).await.unwrap().unwrap();
    assert_eq!(found, crate::accounts::Device { display_name, ..device(&bob, "PHONE", 1) });
}

/// Keys are given out in the order in which they came.
pub async fn one_time_keys_keep_the_order_of_their_uploads(world: &mut World) {
    let bob = devices(world).await;
    keys(world, vec![add(&bob, phone(), vec![key("z"), key("b"), key("z"), key_of("other", "m")])]).await;
    // A name that is taken: what came first stays.
    let other = PublishedKey { key: "\"other\"".to_owned(), ..key("z") };
    keys(world, vec![add(&bob, phone(), vec![key("a"), other]), add(&bob, laptop(), vec![key("l")])]).await;
    let expected = ["other:m", "signed_curve25519:z", "signed_curve25519:b", "signed_curve25519:a"];
    assert_eq!(one_time_ids(world, &bob).await, expected);
    let stored = world.stores().device_keys.one_time_keys(&bob, phone()).await.unwrap();
    assert_eq!(stored[1], key("z"));
    assert_eq!(one_time_ids(world, &local("bobby")).await, [""; 0]);
}

/// A key is given to one of all who ask at the same moment.
pub async fn one_time_key_is_claimed_once(world: &mut World) {
    let bob = devices(world).await;
    keys(world, vec![add(&bob, phone(), vec![key("a"), key("b")])]).await;
    let claim_commit = |name| Commit::Accounts(vec![AccountChange::Keys(claim(&bob, &key(name)))]);
    let mut tickets = Vec::new();
    for _ in 0..5 {
        tickets.push(world.enqueue(claim_commit("a")).await);
    }
    let mut outcomes = Vec::new();
    for ticket in tickets {
        outcomes.push(ticket.await);
    }
    assert!(outcomes[0].is_ok());
    assert!(outcomes[1..].iter().all(|outcome| *outcome == conflict(Conflict::NoSuchKey)), "{outcomes:?}");
    assert_eq!(one_time_ids(world, &bob).await, ["signed_curve25519:b"]);
    // A claim that cannot be made takes its commit with it.
    let both = vec![claim(&bob, &key("b")), claim(&bob, &key("a"))];
    assert_eq!(try_keys(world, both).await, conflict(Conflict::NoSuchKey));
    assert_eq!(one_time_ids(world, &bob).await, ["signed_curve25519:b"]);
}

/// The fallback key stays, and is known as used until another comes.
pub async fn fallback_key_is_marked_as_used(world: &mut World) {
    let bob = devices(world).await;
    let put = |name| KeyChange::PutFallbackKey { user_id: bob.clone(), device_id: phone().to_owned(), key: key(name) };
    let using = |name: &str| KeyChange::UseFallbackKey {
        user_id: bob.clone(),
        device_id: phone().to_owned(),
        algorithm: "signed_curve25519".to_owned(),
        key_id: name.to_owned(),
    };
    let fallback = async || world.stores().device_keys.fallback_keys(&bob, phone()).await.unwrap();
    assert_eq!(fallback().await, []);
    keys(world, vec![put("a")]).await;
    assert_eq!(fallback().await, [FallbackKey { key: key("a"), is_used: false }]);
    keys(world, vec![using("a")]).await;
    keys(world, vec![using("a")]).await;
    assert_eq!(fallback().await, [FallbackKey { key: key("a"), is_used: true }]);
    keys(world, vec![put("b")]).await;
    assert_eq!(try_keys(world, vec![using("a")]).await, conflict(Conflict::NoSuchKey));
    assert_eq!(fallback().await, [FallbackKey { key: key("b"), is_used: false }]);
}

/// A user has one key for each usage.
pub async fn cross_signing_keys_read_back(world: &mut World) {
    let put =
        |user_id: OwnedUserId, usage, key: &str| KeyChange::PutCrossSigningKey { user_id, usage, key: key.to_owned() };
    let bob = local("bob");
    let all = [(KeyUsage::Master, "m"), (KeyUsage::SelfSigning, "s"), (KeyUsage::UserSigning, "u")];
    keys(world, all.map(|(usage, key)| put(bob.clone(), usage, key)).to_vec()).await;
    keys(world, vec![put(local("bobby"), KeyUsage::Master, "b"), put(bob.clone(), KeyUsage::UserSigning, "v")]).await;
    let expected = [(KeyUsage::Master, "m"), (KeyUsage::SelfSigning, "s"), (KeyUsage::UserSigning, "v")];
    let expected = BTreeMap::from(expected.map(|(usage, key)| (usage, key.to_owned())));
    assert_eq!(world.stores().device_keys.cross_signing_keys(&bob).await.unwrap(), expected);
}

/// Signatures go with what they sign.
pub async fn signatures_go_with_the_keys_of_the_device(world: &mut World) {
    let bob = devices(world).await;
    let anna = local("anna");
    let of_phone = signature(&bob, "PHONE", &bob);
    let of_master = [signature(&bob, "master", &anna), signature(&bob, "master", &bob)];
    let of_dan = signature(&remote("dan"), "PHONE", &bob);
    let all = of_master.iter().chain([&of_phone, &of_dan]);
    keys(world, all.map(|signature| KeyChange::PutSignature(signature.clone())).collect()).await;
    let signatures = async |user_id: &UserId| {
        let mut signatures = world.stores().device_keys.signatures(user_id).await.unwrap();
        signatures.sort();
        signatures
    };
    assert_eq!(signatures(&bob).await, [of_phone.clone(), of_master[0].clone(), of_master[1].clone()]);
    keys(world, vec![put_keys(&bob, phone(), "new")]).await;
    assert_eq!(signatures(&bob).await, of_master);
    keys(world, vec![KeyChange::PutSignature(of_phone.clone())]).await;
    let (user_id, device_id) = (bob.clone(), phone().to_owned());
    world.accounts(vec![AccountChange::DeleteDevice { user_id, device_id }]).await;
    assert_eq!(signatures(&bob).await, of_master);
    assert_eq!(signatures(&remote("dan")).await, [of_dan]);
}

/// With a device goes all that is its own, and nothing of another's, whether it goes alone or with others.
pub async fn deleted_device_leaves_nothing(world: &mut World) {
    let (bob, bobby) = (devices(world).await, local("bobby"));
    let seen = KeyChange::SeeMessage {
        source: MessageSource::Device(bob.clone(), phone().to_owned()),
        message_id: "m".to_owned(),
    };
    let own = |user_id: &OwnedUserId, device_id: &DeviceId| {
        let (user, device_id) = (user_id.clone(), device_id.to_owned());
        let fallback = KeyChange::PutFallbackKey { user_id: user, device_id: device_id.clone(), key: key("f") };
        let (keys, added) = (put_keys(user_id, &device_id, "1"), add(user_id, &device_id, vec![key("a")]));
        vec![keys, added, fallback, send(user_id, &device_id, "hello")]
    };
    keys(world, own(&bobby, phone())).await;
    keys(world, own(&bob, laptop())).await;
    let (user_id, device_id) = (bob.clone(), phone().to_owned());
    let alone = AccountChange::DeleteDevice { user_id: user_id.clone(), device_id };
    let with_others = AccountChange::DeleteDevices { user_id, except: Some(laptop().to_owned()) };
    for deletion in [alone, with_others] {
        keys(world, [own(&bob, phone()), vec![seen.clone()]].concat()).await;
        world.accounts(vec![deletion]).await;
        world.accounts(vec![AccountChange::PutDevice(device(&bob, "PHONE", 9))]).await;
        let device_keys = world.stores().device_keys.clone();
        let of_laptop = BTreeMap::from([(laptop().to_owned(), "1".to_owned())]);
        assert_eq!(device_keys.device_keys(&bob).await.unwrap(), of_laptop);
        assert_eq!(device_keys.fallback_keys(&bob, phone()).await.unwrap(), []);
        assert_eq!(one_time_ids(world, &bob).await, [""; 0]);
        assert_eq!(inbox(world, &bob, phone()).await, [""; 0]);
        assert_eq!(device_keys.one_time_keys(&bob, laptop()).await.unwrap(), [key("a")]);
        assert_eq!(inbox(world, &bob, laptop()).await, ["hello"]);
    }
    keys(world, vec![seen]).await;
    assert_eq!(one_time_ids(world, &bobby).await.len(), 1);
    assert_eq!(inbox(world, &bobby, phone()).await, ["hello"]);
}

/// A message waits until the device says that it has it.
pub async fn messages_wait_until_they_are_acknowledged(world: &mut World) {
    let bob = devices(world).await;
    let first = keys(world, vec![send(&bob, phone(), "1"), send(&bob, phone(), "2")]).await;
    let second = keys(world, vec![send(&bob, phone(), "3"), send(&bob, laptop(), "4")]).await;
    let inboxes = world.stores().inboxes.clone();
    let between = async |after, up_to, limit| inboxes.messages(&bob, phone(), after, up_to, limit).await.unwrap();
    let message = |position, event: &str| ToDeviceMessage { position, event: event.to_owned() };
    assert_eq!(between(StreamPosition::START, first, ALL).await, [message(first, "1"), message(first, "2")]);
    assert_eq!(between(first, NEVER, ALL).await, [message(second, "3")]);
    assert_eq!(between(StreamPosition::START, NEVER, 1).await, [message(first, "1")]);
    let acknowledge = |up_to| {
        let (user_id, device_id) = (bob.clone(), phone().to_owned());
        KeyChange::AcknowledgeToDevice { user_id, device_id, up_to }
    };
    keys(world, vec![acknowledge(StreamPosition::START)]).await;
    assert_eq!(inbox(world, &bob, phone()).await, ["1", "2", "3"]);
    keys(world, vec![acknowledge(first)]).await;
    assert_eq!(inbox(world, &bob, phone()).await, ["3"]);
    keys(world, vec![acknowledge(second)]).await;
    assert_eq!(inbox(world, &bob, phone()).await, [""; 0]);
    // What comes and is acknowledged in one commit is gone too, whatever position that gets.
    keys(world, vec![send(&bob, phone(), "5"), acknowledge(NEVER)]).await;
    assert_eq!(inbox(world, &bob, phone()).await, [""; 0]);
    assert_eq!(inbox(world, &bob, laptop()).await, ["4"]);
    assert_eq!(between(first, first, ALL).await, []);
    assert_eq!(between(NEVER, NEVER, ALL).await, []);
}

/// A message that comes again changes nothing.
pub async fn message_is_seen_once(world: &mut World) {
    let bob = devices(world).await;
    let see = |source: MessageSource, id: &str| KeyChange::SeeMessage { source, message_id: id.to_owned() };
    let there = MessageSource::Server(server("there.example"));
    let again = vec![see(there.clone(), "1"), send(&bob, phone(), "hello")];
    keys(world, again.clone()).await;
    assert_eq!(try_keys(world, again).await, conflict(Conflict::AlreadySeen));
    assert_eq!(inbox(world, &bob, phone()).await, ["hello"]);
    for other in [
        MessageSource::Server(server("other.example")),
        MessageSource::Device(bob.clone(), phone().to_owned()),
        MessageSource::Device(bob.clone(), laptop().to_owned()),
    ] {
        keys(world, vec![see(other, "1")]).await;
    }
    // Far more than a source repeats is remembered, and no more.
    let later = (2..=SEEN_PER_SOURCE).map(|number| see(there.clone(), &number.to_string()));
    keys(world, later.collect()).await;
    assert_eq!(try_keys(world, vec![see(there.clone(), "1")]).await, conflict(Conflict::AlreadySeen));
    keys(world, vec![see(there.clone(), "one more")]).await;
    keys(world, vec![see(there.clone(), "1")]).await;
    assert_eq!(try_keys(world, vec![see(there, "3")]).await, conflict(Conflict::AlreadySeen));
}

/// A list is told once for each stretch, by its newest change.
pub async fn changed_lists_are_found_by_position(world: &mut World) {
    let (anna, bob, dan) = (local("anna"), local("bob"), remote("dan"));
    let one = keys(world, vec![changed(&bob, ListNews::Untold), changed(&anna, ListNews::Untold)]).await;
    let two = keys(world, vec![changed(&dan, ListNews::Untold)]).await;
    let lists = world.stores().device_keys.clone();
    let between = async |after, up_to| lists.changed_lists(after, up_to).await.unwrap();
    assert_eq!(between(StreamPosition::START, two).await, [anna.clone(), bob.clone(), dan.clone()]);
    assert_eq!(between(one, two).await, std::slice::from_ref(&dan));
    assert_eq!(between(StreamPosition::START, one).await, [anna.clone(), bob.clone()]);
    assert_eq!(between(two, one).await, [""; 0]);
    let three = keys(world, vec![changed(&bob, ListNews::Untold), changed(&bob, ListNews::Untold)]).await;
    assert_eq!(between(StreamPosition::START, NEVER).await, [anna, dan, bob.clone()]);
    assert_eq!(between(two, three).await, [bob]);
    assert_eq!(between(three, three).await, [""; 0]);
}

/// What other servers hear of a user's list has ids that name the news before.
pub async fn news_of_a_list_follow_one_another(world: &mut World) {
    let bob = devices(world).await;
    let lists = world.stores().device_keys.clone();
    assert_eq!(lists.list_stream_id(&bob).await.unwrap(), None);
    keys(world, vec![changed(&bob, ListNews::Untold)]).await;
    assert_eq!(lists.list_stream_id(&bob).await.unwrap(), None);
    let signing = ListNews::SigningKeys { destinations: servers(&["there.example"]) };
    let changes = vec![
        changed(&bob, told(phone(), &["there.example", "other.example"])),
        changed(&bob, signing),
        changed(&bob, told(laptop(), &["there.example"])),
    ];
    let position = keys(world, changes).await;
    let (first, second) = (news_stream_id(position, 0), news_stream_id(position, 2));
    assert!(first < second);
    assert_eq!(lists.list_stream_id(&bob).await.unwrap(), Some(second));
    let queued = |index, content| QueuedEdu { place: OutboxPlace { position, index }, content };
    let news = |device_id: &DeviceId, stream_id, previous| {
        let (user_id, device_id) = (bob.clone(), device_id.to_owned());
        EduContent::DeviceList { user_id, device_id, stream_id, previous }
    };
    let of_phone = queued(0, news(phone(), first, None));
    let of_signing = queued(1, EduContent::SigningKeys { user_id: bob.clone() });
    let of_laptop = queued(2, news(laptop(), second, Some(first)));
    assert_eq!(edus(world, "there.example").await, [of_phone.clone(), of_signing, of_laptop]);
    assert_eq!(edus(world, "other.example").await, [of_phone]);
    assert_eq!(world.heard().last().unwrap().destinations, [server("other.example"), server("there.example")]);
}

/// EDUs are taken one by one, and are a reason to call on a server.
pub async fn edus_wait_beside_the_rows(world: &mut World) {
    let edu = |names: &[&str], text: &str| KeyChange::SendEdu { destinations: servers(names), edu: text.to_owned() };
    let first = keys(world, vec![edu(&["b.example"], "1"), edu(&["a.example", "b.example"], "2")]).await;
    let second = keys(world, vec![edu(&["b.example"], "3")]).await;
    let texts = |edus: Vec<QueuedEdu>| edus.into_iter().map(|edu| (edu.place, edu.content)).collect::<Vec<_>>();
    let place = |position, index| OutboxPlace { position, index };
    let whole = |text: &str| EduContent::Whole(text.to_owned());
    let of_b = [(place(first, 0), whole("1")), (place(first, 1), whole("2")), (place(second, 0), whole("3"))];
    assert_eq!(texts(edus(world, "b.example").await), of_b);
    let outbox = world.stores().outbox.clone();
    let page = outbox.edus(&server("b.example"), Some(place(first, 0)), 1).await.unwrap();
    assert_eq!(texts(page), [(place(first, 1), whole("2"))]);
    assert_eq!(outbox.pending(&server("b.example"), None, ALL).await.unwrap(), []);
    assert_eq!(outbox.destinations(None, ALL).await.unwrap(), [server("a.example"), server("b.example")]);
    let done = |destination: &str, places| OutboxDone { destination: server(destination), places };
    world.commit(Commit::EdusDone(done("b.example", vec![place(first, 1), place(first, 9)]))).await.unwrap();
    world.commit(Commit::OutboxDone(done("b.example", vec![place(first, 0)]))).await.unwrap();
    assert_eq!(texts(edus(world, "b.example").await), [of_b[0].clone(), of_b[2].clone()]);
    world.commit(Commit::EdusDone(done("a.example", vec![place(first, 1)]))).await.unwrap();
    assert_eq!(outbox.destinations(None, ALL).await.unwrap(), [server("b.example")]);
}

/// What another server said counts until it says that something changed.
pub async fn keys_of_remote_users_count_until_their_list_changes(world: &mut World) {
    let dan = remote("dan");
    let put = |keys: &str, as_of| {
        let keys = RemoteKeys { keys: keys.to_owned(), as_of };
        KeyChange::PutRemoteKeys { user_id: dan.clone(), keys }
    };
    let device_keys = world.stores().device_keys.clone();
    let found = async || device_keys.remote_keys(&dan).await.unwrap().map(|keys| keys.keys);
    assert_eq!(found().await, None);
    let asked = keys(world, vec![put("1", StreamPosition::START)]).await;
    assert_eq!(found().await.as_deref(), Some("1"));
    let change = keys(world, vec![changed(&dan, ListNews::Untold)]).await;
    assert_eq!(found().await, None);
    // The answer was on its way when the change came.
    keys(world, vec![put("2", asked)]).await;
    assert_eq!(found().await, None);
    keys(world, vec![put("3", change)]).await;
    assert_eq!(found().await.as_deref(), Some("3"));
}

/// Whoever waits for news hears of these too.
pub async fn announcement_names_whose_keys_and_messages_changed(world: &mut World) {
    let bob = devices(world).await;
    keys(world, vec![send(&bob, phone(), "hello"), send(&local("anna"), phone(), "nobody")]).await;
    assert_eq!(world.heard().last().unwrap().users, std::slice::from_ref(&bob));
    let wakes = BTreeSet::from([local("anna"), bob.clone()]);
    keys(world, vec![KeyChange::ListChanged { user_id: remote("dan"), wakes, news: ListNews::Untold }]).await;
    assert_eq!(world.heard().last().unwrap().users, [local("anna"), bob]);
}

/// What devices need is there after a restart, and what was given out is not given out again.
pub async fn keys_and_inboxes_go_on_after_reopening(world: &mut World) {
    let bob = devices(world).await;
    let source = MessageSource::Server(server("there.example"));
    let seen = KeyChange::SeeMessage { source, message_id: "m".to_owned() };
    let news = changed(&bob, told(phone(), &["there.example"]));
    let changes = vec![add(&bob, phone(), vec![key("a"), key("b")]), send(&bob, phone(), "hello"), seen.clone(), news];
    keys(world, changes).await;
    keys(world, vec![claim(&bob, &key("a"))]).await;
    let queued = edus(world, "there.example").await;
    if world.reopen().await == super::Reopening::Impossible {
        return;
    }
    assert_eq!(one_time_ids(world, &bob).await, ["signed_curve25519:b"]);
    assert_eq!(inbox(world, &bob, phone()).await, ["hello"]);
    assert_eq!(edus(world, "there.example").await, queued);
    assert_eq!(try_keys(world, vec![seen]).await, conflict(Conflict::AlreadySeen));
    assert_eq!(try_keys(world, vec![claim(&bob, &key("a"))]).await, conflict(Conflict::NoSuchKey));
}
