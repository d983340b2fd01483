//! **enospc**: the disk takes no more under load, and takes again later.
//! May not: fill a disk that anybody else uses.
//!
//! Half of the rounds run on a file system of 64 MiB. It is filled by the load itself, until `storage.min_free` is reached: then
//! every read is answered. Or somebody else takes it to its last byte: then the look-up store may fail where it stands, and what
//! cannot be read gets 503 too. In the other half the limit on file sizes of the process is 0, so that every write to a file
//! fails; all rounds are of this kind where no file system can be mounted. Some end by a kill before there is room again.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::json;
use vestibule_scenery::{LIMITABLE, encoded, limit_files, send_signal, until};

use crate::{
    disk::SmallDisk,
    load::{Book, Said, Stage, check},
    program,
    proof::{Outcome, Plant, Proof, Settings},
};

pub const PROOF: Proof = Proof {
    name: "enospc",
    shows: "on a full disk writes get 503 and reads work, it goes on by itself when there is room, and nothing is lost",
    full: 20,
    quick: 4,
    run: |settings| Outcome::of(settings, fill_disks),
    plants: &[&TAKEN_FOR_GRANTED, &STAYS_FULL],
};

static TAKEN_FOR_GRANTED: Plant =
    Plant { name: "taken-for-granted", what: "one knock that got 503 counts as acknowledged", cases: 1 };
static STAYS_FULL: Plant =
    Plant { name: "stays-full", what: "the server never gets room again and should write all the same", cases: 1 };

/// Knocks from other servers in each round.
const THEIRS: usize = 400;
/// Answers before the disk fills up.
const ANSWERS: usize = 40;
/// What the load may still write where it fills the disk itself: 5 % of 64 MiB, which the server keeps free, and some commits.
const LEFT_TO_THE_LOAD: u64 = 64 * 1024 * 1024 / 20 + 384 * 1024;
/// Reads of each kind while it is full.
const READS: usize = 10;
/// After which a server whose disk has room again must write.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How a disk becomes full, and what happens then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filling {
    /// The load itself reaches `storage.min_free`.
    ByTheLoad,
    /// Somebody else takes everything.
    BySomebody,
    /// The same, and the program is killed before there is room again.
    ThenKilled,
}

const ON_SMALL_DISK: [Filling; 5] =
    [Filling::ByTheLoad, Filling::BySomebody, Filling::ThenKilled, Filling::ByTheLoad, Filling::BySomebody];
const UNDER_LIMIT: [Filling; 5] =
    [Filling::BySomebody, Filling::ThenKilled, Filling::BySomebody, Filling::ThenKilled, Filling::BySomebody];

fn fill_disks(settings: &Settings, outcome: &mut Outcome) -> Result<(), String> {
    let mut counts = Counts::default();
    // In full as many rounds of a stage as fit on a small disk.
    let most = u64::try_from(ON_SMALL_DISK.len()).unwrap_or(1);
    let rounds_of_stage = settings.cases.div_ceil(2).clamp(1, most);
    for stage in 0..settings.cases.div_ceil(rounds_of_stage) {
        let rounds = rounds_of_stage.min(settings.cases - stage * rounds_of_stage);
        fill_again_and_again(settings, stage, rounds, &mut counts, outcome)?;
    }
    outcome.count_at_least("acknowledged knocks", counts.knocks, settings.scaled(1_000));
    outcome.count_at_least("knocks that got 503", counts.refused, settings.scaled(2_000));
    outcome.count("answers 500", counts.failed);
    outcome.count_at_least("reads meanwhile", counts.reads, settings.scaled(400));
    outcome.count("of them 503", counts.unread);
    outcome.count("rounds on a disk of 64 MiB", counts.on_small_disk);
    outcome.count("ms until it wrote again at most", u64::try_from(counts.slowest.as_millis()).unwrap_or(u64::MAX));
    Ok(())
}

#[derive(Default)]
struct Counts {
    knocks: u64,
    refused: u64,
    failed: u64,
    reads: u64,
    unread: u64,
    on_small_disk: u64,
    slowest: Duration,
}

/// What fills up.
enum Disk {
    Small(SmallDisk),
    Limit,
}

impl Disk {
    fn fill(&self, pid: u32, filling: Filling) -> Result<(), String> {
        match self {
            Self::Small(disk) => {
                let left = if filling == Filling::ByTheLoad { LEFT_TO_THE_LOAD } else { 0 };
                disk.fill(left).map_err(|error| format!("the small disk cannot be filled: {error}"))
            }
            Self::Limit => {
                limit_files(pid, "0");
                Ok(())
            }
        }
    }

    fn give_back(&self, pid: u32) -> Result<(), String> {
        match self {
            Self::Small(disk) => disk.give_back().map_err(|error| format!("the small disk cannot be emptied: {error}")),
            Self::Limit => {
                limit_files(pid, "unlimited");
                Ok(())
            }
        }
    }
}

fn fill_again_and_again(
    settings: &Settings,
    number: u64,
    rounds: u64,
    counts: &mut Counts,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let server = program::server()?;
    let data_dir = server.data_dir();
    fs::create_dir(&data_dir).map_err(|error| format!("{}: {error}", data_dir.display()))?;
    let small = if number.is_multiple_of(2) { SmallDisk::mount(&data_dir) } else { Err(String::new()) };
    let (disk, wrapper, fillings) = match small {
        Ok(disk) => {
            let wrapper = disk.wrapper(server.home());
            (Disk::Small(disk), wrapper, ON_SMALL_DISK)
        }
        Err(why) => {
            if !why.is_empty() {
                eprintln!("no file system of 64 MiB can be mounted here ({why}): file sizes are limited instead");
            }
            (Disk::Limit, LIMITABLE.map(str::to_owned).to_vec(), UNDER_LIMIT)
        }
    };
    let mut stage = Stage::set(server.under(&wrapper.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut books: Vec<Book> = Vec::new();
    for (round, filling) in (0..rounds).zip(fillings) {
        let mut misses = Vec::new();
        let book = fill_once(settings, &mut stage, (&disk, filling), round, counts, &mut misses)?;
        check(&stage.owner, &book, &mut misses);
        books.push(book);
        counts.on_small_disk += u64::from(matches!(disk, Disk::Small(_)));
        outcome.case();
        misses.into_iter().for_each(|miss| outcome.miss(format!("filling {round} of stage {number}: {miss}")));
    }
    stage.server.stop();
    let verified = stage.server.run(&["verify"]);
    stage.server.restart();
    let mut misses = Vec::new();
    books.iter().for_each(|book| _ = check(&stage.owner, book, &mut misses));
    misses.into_iter().for_each(|miss| outcome.miss(format!("in the end of stage {number}: {miss}")));
    if verified.code != Some(0) {
        outcome.miss(format!("`vestibule verify`: {verified:?}"));
    }
    counts.knocks += books.iter().map(|book| book.acknowledged().0).sum::<u64>();
    // Before the disk under it goes.
    stage.server.kill();
    Ok(())
}

fn fill_once(
    settings: &Settings,
    stage: &mut Stage,
    (disk, filling): (&Disk, Filling),
    round: u64,
    counts: &mut Counts,
    misses: &mut Vec<String>,
) -> Result<Book, String> {
    let pid = stage.server.pid();
    let (book, filled) = stage.load(round, THEIRS, |_, progress| {
        progress.wait_for(ANSWERS);
        let filled = disk.fill(pid, filling);
        // All that is left of the load meets a disk that is full or fills up.
        progress.wait_for(usize::MAX);
        filled
    });
    filled?;
    for case in book.cases().values() {
        match case.knock {
            Said::Refused(503) => counts.refused += 1,
            Said::Failed(_) => counts.failed += 1,
            _ => {}
        }
    }
    read_and_write(stage, &book, filling, counts, misses);
    if settings.has(&TAKEN_FOR_GRANTED) {
        let mut cases = book.cases();
        let case = cases.values_mut().find(|case| case.knock == Said::Refused(503));
        case.into_iter().for_each(|case| case.knock = Said::Acknowledged);
    }
    if filling == Filling::ThenKilled {
        send_signal("KILL", pid);
        stage.server.ended();
        if let Disk::Small(small) = disk {
            let verified = stage.server.run(&["verify"]);
            if verified.code != Some(1) {
                misses.push(format!("`vestibule verify` on a full disk: {verified:?}"));
            }
            small.give_back().map_err(|error| format!("the small disk cannot be emptied: {error}"))?;
        }
        stage.server.restart();
        return Ok(book);
    }
    let stays_full = settings.has(&STAYS_FULL);
    if !stays_full {
        disk.give_back(pid)?;
    }
    let begun = Instant::now();
    while say(stage, &book, "again") != 200 && begun.elapsed() < 2 * RESUMES_WITHIN {
        thread::park_timeout(TRY_AGAIN);
    }
    counts.slowest = counts.slowest.max(begun.elapsed());
    if begun.elapsed() > RESUMES_WITHIN {
        misses.push(format!("it did not write again within {RESUMES_WITHIN:?}"));
    }
    if stays_full {
        disk.give_back(pid)?;
        until("it writes again", || (say(stage, &book, "late") == 200).then_some(()));
    }
    Ok(book)
}

/// What a full disk must not keep anybody from, and what it does.
fn read_and_write(stage: &Stage, book: &Book, filling: Filling, counts: &mut Counts, misses: &mut Vec<String>) {
    let room = encoded(&book.room_id);
    let reads =
        [format!("/rooms/{room}/members"), format!("/rooms/{room}/messages?dir=b&limit=20"), "/sync".to_owned()];
    for target in reads.iter().cycle().take(reads.len() * READS) {
        let read = stage.owner.try_get(target);
        counts.reads += 1;
        counts.unread += u64::from(read.status == 503);
        let may_fail = filling != Filling::ByTheLoad;
        if read.status != 200 && !(may_fail && read.status == 503) {
            misses.push(format!("GET {target} while the disk was full got {}: {}", read.status, read.text()));
        }
    }
    let written = say(stage, book, "full");
    if written != 503 {
        misses.push(format!("a write while the disk was full got {written}"));
    }
}

/// Says something in the room; the status.
fn say(stage: &Stage, book: &Book, transaction: &str) -> u16 {
    let target = format!("/rooms/{}/send/m.room.message/{transaction}", encoded(&book.room_id));
    stage.owner.try_put(&target, json!({ "msgtype": "m.text", "body": transaction })).status
}
