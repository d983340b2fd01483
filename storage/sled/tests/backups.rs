//! Backups of a running server, and what comes back.
//! May not: trust a backup that changed.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, server_name};
use vestibule_storage::accounts::AccountChange;
use vestibule_storage::commit::{Commit, Stores};
use vestibule_storage::conformance::block_on;
use vestibule_storage::conformance::fixture::accounts::{device, user};
use vestibule_storage::conformance::fixture::local;
use vestibule_storage::device_keys::{KeyChange, ListNews, PublishedKey};
use vestibule_storage::outbox::{EduContent, QueuedEdu};

use super::place::{Place, assert_whole, commit, enqueue, talk};
use crate::backup::{BackupError, ExtraFile, check, restore};
use crate::index::Index;
use crate::journal::files::RealFiles;
use crate::keys::{Key, Table};
use crate::record::Changes;
use crate::{IndexReport, Options, SledStorage, verify::verify};

fn key_file() -> ExtraFile {
    ExtraFile { name: "signing.key".to_owned(), content: b"a secret".to_vec() }
}

#[test]
fn backup_of_a_running_server_comes_back_whole() {
    let place = Place::new();
    let options = Options { segment_bytes: 16 * 1024, ..place.options() };
    let opened = SledStorage::open(options).unwrap();
    let mut room = talk(&opened.stores, "before", 30);
    opened.handle.checkpoint().unwrap();
    let other = talk(&opened.stores, "other", 10);
    let target = place.dir.path().join("backup");
    let report = opened.handle.backup(&target, &[key_file()]).unwrap();
    assert_eq!(report.position.0, opened.stores.stream.position().0);
    let kept = room.clone();
    let creator = room.creator().to_owned();
    let later = room.message(&creator, "after the backup");
    commit(&opened.stores, later).unwrap();

    assert_eq!(check(&RealFiles, &target).unwrap(), report);
    let data_dir = place.dir.path().join("restored");
    restore(&place.options_at(&data_dir), &target).unwrap();
    assert_eq!(std::fs::read(data_dir.join("signing.key")).unwrap(), b"a secret");
    let again = SledStorage::open(place.options_at(&data_dir)).unwrap();
    assert_eq!(again.report.index, IndexReport::Kept { replayed: 1 }, "what restoring takes back");
    assert_whole(&again.stores, &kept);
    assert_whole(&again.stores, &other);
    assert_eq!(again.stores.stream.position().0, report.position.0 + 1);
    assert!(again.handle.verify().unwrap().is_sound());

    let twice = restore(&place.options_at(&data_dir), &target);
    assert!(twice.is_err());
}

#[test]
fn one_time_keys_do_not_come_back() {
    let place = Place::new();
    let opened = place.open();
    let (user_id, device_id) = (local("anna"), device(&local("anna"), "PHONE", 1).device_id);
    let change = |change| Commit::Accounts(vec![AccountChange::Keys(change)]);
    let key = |id: &str| PublishedKey { algorithm: "a".to_owned(), key_id: id.to_owned(), key: "{}".to_owned() };
    let keys = vec![key("1"), key("2")];
    let commits = [
        Commit::Accounts(vec![AccountChange::CreateUser(user("anna"))]),
        Commit::Accounts(vec![AccountChange::PutDevice(device(&user_id, "PHONE", 1))]),
        change(KeyChange::AddOneTimeKeys { user_id: user_id.clone(), device_id: device_id.clone(), keys }),
        change(KeyChange::PutFallbackKey { user_id: user_id.clone(), device_id: device_id.clone(), key: key("3") }),
    ];
    for commit in commits {
        block_on(enqueue(&opened.stores, commit)).unwrap();
    }
    let target = place.dir.path().join("backup");
    opened.handle.backup(&target, &[]).unwrap();
    let data_dir = place.dir.path().join("restored");
    restore(&place.options_at(&data_dir), &target).unwrap();
    let again = SledStorage::open(place.options_at(&data_dir)).unwrap();
    let keys = &again.stores.device_keys;
    assert_eq!(block_on(keys.one_time_keys(&user_id, &device_id)).unwrap(), []);
    assert_eq!(block_on(keys.fallback_keys(&user_id, &device_id)).unwrap().len(), 1, "made to be given out again");
    assert!(again.handle.verify().unwrap().is_sound());
}

#[test]
fn news_of_device_lists_after_a_restore_are_newer_than_all_before_it() {
    let place = Place::new();
    let (bob, carol, there) = (local("bob"), local("carol"), server_name!("there.example"));
    let changed = |user_id: &OwnedUserId| {
        let news = ListNews::Device { device_id: "PHONE".into(), destinations: [there.to_owned()].into() };
        Commit::Accounts(vec![AccountChange::Keys(KeyChange::ListChanged {
            user_id: user_id.clone(),
            wakes: BTreeSet::new(),
            news,
        })])
    };
    let say = |stores: &Stores, user_id| _ = block_on(enqueue(stores, changed(user_id))).unwrap();
    let stream_id = |stores: &Stores, user_id| block_on(stores.device_keys.list_stream_id(user_id)).unwrap().unwrap();
    let opened = place.open();
    say(&opened.stores, &bob);
    let mut backup = place.dir.path().join("backup0");
    opened.handle.backup(&backup, &[]).unwrap();
    let told = stream_id(&opened.stores, &bob);
    for _ in 0..20 {
        say(&opened.stores, &bob);
    }
    let mut newest = stream_id(&opened.stores, &bob);
    assert!(newest > told);
    for number in 1..3 {
        let data_dir = place.dir.path().join(format!("restored{number}"));
        restore(&place.options_at(&data_dir), &backup).unwrap();
        let again = SledStorage::open(place.options_at(&data_dir)).unwrap();
        let at_rest = stream_id(&again.stores, &bob);
        assert!(at_rest > newest, "whoever asks for the list hears so");
        // Of somebody who was not told of before the backup, too.
        for user_id in [&bob, &carol] {
            say(&again.stores, user_id);
            assert!(stream_id(&again.stores, user_id) > at_rest);
        }
        let queued = block_on(again.stores.outbox.edus(there, None, 100)).unwrap();
        let follows = |edu: &QueuedEdu| matches!(&edu.content, EduContent::DeviceList { user_id, previous, .. } if *user_id == bob && *previous == Some(at_rest));
        assert!(queued.iter().any(follows), "upon an id that nobody has seen: {queued:?}");
        newest = stream_id(&again.stores, &bob);
        assert!(newest < 1 << 53, "a number of canonical JSON");
        backup = place.dir.path().join(format!("backup{number}"));
        again.handle.backup(&backup, &[]).unwrap();
    }
}

#[test]
fn changed_backup_is_refused() {
    let place = Place::new();
    let opened = place.open();
    talk(&opened.stores, "changed", 10);
    let target = place.dir.path().join("backup");
    opened.handle.backup(&target, &[key_file()]).unwrap();
    let again = opened.handle.backup(&target, &[]);
    assert!(matches!(again, Err(BackupError::NotEmpty { .. })));

    std::fs::write(target.join("files/signing.key"), b"A secret").unwrap();
    let data_dir = place.dir.path().join("restored");
    let restored = restore(&place.options_at(&data_dir), &target);
    assert!(matches!(restored, Err(BackupError::Damaged { .. })), "{restored:?}");
    std::fs::remove_file(target.join("manifest.json")).unwrap();
    assert!(matches!(check(&RealFiles, &target), Err(BackupError::Damaged { .. })));
}

#[test]
fn backup_of_another_server_is_refused() {
    let place = Place::new();
    let opened = place.open();
    let target = place.dir.path().join("backup");
    opened.handle.backup(&target, &[]).unwrap();
    let data_dir = place.dir.path().join("restored");
    let other = Options { server_name: server_name!("there.example").to_owned(), ..place.options_at(&data_dir) };
    let restored = restore(&other, &target);
    assert!(matches!(restored, Err(BackupError::OtherServer { .. })));
}

#[test]
fn extra_files_cannot_leave_the_backup_or_replace_the_data() {
    let place = Place::new();
    let opened = place.open();
    for name in ["../key", "/key", "", "a/b", "journal", "format.json", "lock", "sled", "sled.set-aside"] {
        let file = ExtraFile { name: name.to_owned(), content: Vec::new() };
        let made = opened.handle.backup(&place.dir.path().join("backup"), &[file]);
        assert!(matches!(made, Err(BackupError::BadName { .. })), "{name}");
    }
}

#[test]
fn every_key_is_compared() {
    let place = Place::new();
    let opened = place.open();
    talk(&opened.stores, "compared", 5);
    opened.handle.close().unwrap();
    let (_, report) = verify(place.options()).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.commits, report.undecided), (6, 0));

    let index = Index::open(&place.data_dir().join("sled"), 1024 * 1024).unwrap();
    let mark = index.mark("here.example").unwrap().unwrap();
    let missing = index.under(&Key::of(Table::Timeline)).next().unwrap().unwrap().0.to_vec();
    let changed = index.under(&Key::of(Table::Counter)).next().unwrap().unwrap().0.to_vec();
    let surplus = Key::of(Table::Published).last("!nowhere:here.example").into_bytes();
    let damage = Changes::from([(missing, None), (changed, Some(vec![1])), (surplus, Some(Vec::new()))]);
    index.apply([&damage], mark).unwrap();
    drop(index);
    let (opened, report) = verify(place.options()).unwrap();
    assert_eq!(report.differing.len(), 3, "{opened:?} {report:?}");
}

#[test]
fn running_server_is_verified_while_it_writes() {
    let place = Place::new();
    let opened = place.open();
    talk(&opened.stores, "resting", 20);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| talk(&opened.stores, "writing", 100));
        for _ in 0..3 {
            let report = opened.handle.verify().unwrap();
            assert!(report.is_sound(), "{report:?}");
        }
        let room = writing.join().unwrap();
        assert_eq!(
            block_on(opened.stores.rooms.room(room.room_id())).unwrap().map(|row| row.current),
            Some(room.current())
        );
    });
    assert_eq!(opened.handle.verify().unwrap().undecided, 0);
}
