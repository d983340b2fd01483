//! **backup**: a backup that is taken under load, restored elsewhere, holds what was acknowledged before it began.
//! May not: take a backup of a server that has nothing to do.

use std::fs;

use serde_json::{Value, json};
use vestibule_scenery::{PASSWORD, User};

use crate::{
    load::{Book, Stage, check, owner_on},
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

pub const PROOF: Proof = Proof {
    name: "backup",
    shows: "a live backup holds what was acknowledged before it began, and gives out no one-time key twice",
    full: 20,
    quick: 4,
    run: |settings| Outcome::of(settings, back_up_again_and_again),
    plants: &[&OLD_BACKUP, &KEY_KEPT],
};

static OLD_BACKUP: Plant = Plant { name: "old-backup", what: "the backup of the round before is restored", cases: 2 };

static KEY_KEPT: Plant =
    Plant { name: "key-kept", what: "the restored server still has the one-time key that was given out", cases: 2 };

/// Knocks from other servers in each round.
const THEIRS: usize = 300;
/// Answers before the backup begins.
const ANSWERS: usize = 60;

fn back_up_again_and_again(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let stage = Stage::usual()?;
    let sender = stage.server.register("keys");
    let mut books: Vec<Book> = Vec::new();
    let (mut knocks, mut claimed_keys) = (0, 0);
    for round in 0..settings.cases {
        let name = format!("backup{round}");
        upload_one_time_key(&sender, round)?;
        let (_, (begun, finished)) = stage.load(round, THEIRS, |book, progress| {
            progress.wait_for(ANSWERS);
            let begun = book.as_of_now();
            (begun, stage.server.run(&["backup", &name]))
        });
        let mut misses = Vec::new();
        if finished.code != Some(0) {
            misses.push(format!("`vestibule backup`: {finished:?}"));
        }
        // Given out after the backup began, so the restored server must not give it out again.
        let given = claim(&stage.owner, &sender)?;
        knocks += begun.acknowledged().0;
        books.push(begun);

        let restored_from = if settings.has(&OLD_BACKUP) { format!("backup{}", round.saturating_sub(1)) } else { name };
        let backup = stage.server.home().join(&restored_from);
        let mut restored = program::server()?;
        let finished = restored.run(&["restore", &backup.to_string_lossy()]);
        if finished.code != Some(0) {
            return Err(format!("backup {round}: `vestibule restore`: {finished:?}"));
        }
        restored.restart();
        let owner = owner_on(&restored);
        for book in &books {
            check_copy(&owner, book, &mut misses);
        }
        let again = if settings.has(&KEY_KEPT) {
            let sender = restored.log_in("keys", PASSWORD);
            upload_one_time_key(&sender, round)?;
            claim(&owner, &sender)?
        } else {
            claim(&owner, &sender)?
        };
        claimed_keys += u64::from(given.is_some());
        if given.is_some() && again == given {
            misses.push(format!("the one-time key {given:?} was given out twice"));
        }
        let verified = restored.run(&["verify"]);
        if verified.code != Some(0) {
            misses.push(format!("`vestibule verify`: {verified:?}"));
        }
        // Disks are not without an end.
        if round > 0 {
            let _ = fs::remove_dir_all(stage.server.home().join(format!("backup{}", round - 1)));
        }
        outcome.case();
        misses.into_iter().for_each(|miss| outcome.miss(format!("backup {round}: {miss}")));
    }
    outcome.count_at_least("acknowledged knocks looked for", knocks, settings.scaled(1_000));
    outcome.count_at_least("one-time keys given out meanwhile", claimed_keys, settings.scaled(20));
    Ok(())
}

/// Each restored server settles what was open in its own way.
fn check_copy(owner: &User, book: &Book, misses: &mut Vec<String>) {
    check(owner, &book.as_of_now(), misses);
}

fn upload_one_time_key(user: &User, number: u64) -> Result<(), String> {
    let key = json!({ "key": format!("key{number}") , "signatures": {} });
    let body = json!({ "one_time_keys": { format!("signed_curve25519:K{number}"): key } });
    let answer = user.try_post("/keys/upload", body);
    if answer.status == 200 { Ok(()) } else { Err(format!("keys/upload: {}", answer.text())) }
}

/// A one-time key of a user's device, if there is one to give.
fn claim(asks: &User, of: &User) -> Result<Option<Value>, String> {
    let body = json!({ "one_time_keys": { of.user_id.as_str(): { of.device_id.as_str(): "signed_curve25519" } } });
    let answer = asks.try_post("/keys/claim", body);
    if answer.status != 200 {
        return Err(format!("keys/claim: {}", answer.text()));
    }
    let found = answer.json()["one_time_keys"][of.user_id.as_str()][of.device_id.as_str()].take();
    Ok(Some(found).filter(|found| !found.is_null()))
}
