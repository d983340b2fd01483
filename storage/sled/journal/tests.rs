//! Facts about the journal, each under faults, crashes and damage.
//! May not: touch the machine's disk, but for the tests of [`RealFiles`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{AppendError, JournalError, SyncError};
use super::faults::{Draw, Fault, FaultyFiles, Operation};
use super::files::RealFiles;
use super::segment::{self, FRAME_BYTES, Header, RECORD_BYTES_MAX};
use super::{BATCH_BYTES_MAX, Journal, JournalOptions, JournalPosition, Recovery};

const DIR: &str = "journal";
const IDENTITY: &str = "knock.example";

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 700, ..JournalOptions::new(IDENTITY, 0x5eed) }
}

fn open_with(files: &FaultyFiles, options: JournalOptions) -> Result<(Journal, Recovery), JournalError> {
    Journal::open(Arc::new(files.clone()), Path::new(DIR), options)
}

fn open(files: &FaultyFiles) -> (Journal, Recovery) {
    open_with(files, options()).unwrap()
}

fn records(journal: &Journal, from: u64) -> Vec<(u64, Vec<u8>)> {
    let mut replay = journal.replay(JournalPosition(from)).unwrap();
    let mut all = Vec::new();
    while let Some(record) = replay.next_record().unwrap() {
        all.push((record.position.0, record.payload.to_vec()));
    }
    all
}

fn payloads(journal: &Journal) -> Vec<Vec<u8>> {
    let first = journal.first().0;
    let all = records(journal, first);
    for (index, (position, _)) in all.iter().enumerate() {
        assert_eq!(*position, first + u64::try_from(index).unwrap(), "positions have no gap");
    }
    all.into_iter().map(|(_, payload)| payload).collect()
}

/// A payload that no other draw of the same test repeats.
fn payload(draw: &mut Draw) -> Vec<u8> {
    let length = match draw.below(12) {
        0 => 0,
        1..=8 => draw.below(120),
        9 | 10 => draw.below(900),
        _ => draw.below(9000),
    };
    let mut bytes = draw.bits().to_le_bytes().to_vec();
    bytes.extend((0..length).map(|_| draw.bits().to_le_bytes()[0]));
    bytes
}

fn segment_path(number: u64) -> PathBuf {
    Path::new(DIR).join(segment::file_name(number))
}

fn segment_numbers(files: &FaultyFiles) -> Vec<u64> {
    let names = files.paths();
    names
        .iter()
        .filter_map(|path| match segment::parse_file_name(path.file_name()?.to_str()?) {
            Some(segment::Named::Segment(number)) => Some(number),
            _ => None,
        })
        .collect()
}

fn header(files: &FaultyFiles, number: u64) -> Header {
    let file = super::files::JournalFiles::open(files, &segment_path(number)).unwrap();
    Header::read(file).unwrap().unwrap()
}

#[test]
fn new_journal_is_empty_and_starts_at_one() {
    let files = FaultyFiles::new();
    let (mut journal, recovery) = open(&files);
    assert_eq!(
        recovery,
        Recovery {
            first: JournalPosition(1),
            last: JournalPosition(0),
            records: 0,
            segments: 0,
            torn: None,
            leftovers_removed: 0
        }
    );
    assert_eq!(journal.append(b"first"), Ok(JournalPosition(1)));
    assert_eq!(journal.append(b"second"), Ok(JournalPosition(2)));
    assert_eq!(journal.durable(), JournalPosition(0));
    assert_eq!(payloads(&journal), Vec::<Vec<u8>>::new(), "what is not durable is not replayed");
    assert_eq!(journal.sync().unwrap(), JournalPosition(2));
    assert_eq!(payloads(&journal), [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn synced_records_survive_reopening_from_any_position() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    let mut draw = Draw(1);
    let written: Vec<Vec<u8>> = (0..60).map(|_| payload(&mut draw)).collect();
    for (index, bytes) in written.iter().enumerate() {
        journal.append(bytes).unwrap();
        if index % 3 == 2 {
            journal.sync().unwrap();
        }
    }
    assert!(segment_numbers(&files).len() > 3, "several segments");
    drop(journal);
    let (journal, recovery) = open(&files);
    assert_eq!((recovery.first.0, recovery.last.0, recovery.records, recovery.torn), (1, 60, 60, None));
    assert_eq!(payloads(&journal), written);
    for from in 1..=61 {
        let tail: Vec<Vec<u8>> = records(&journal, from).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(tail, written[usize::try_from(from).unwrap() - 1..], "from {from}");
    }
    assert!(matches!(journal.replay(JournalPosition(62)), Err(JournalError::Missing { .. })));
    assert!(matches!(journal.replay(JournalPosition(0)), Err(JournalError::Missing { .. })));
}

#[test]
fn batch_is_one_write_and_one_sync() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    let before = files.trace().len();
    for number in 0..20_u8 {
        journal.append(&[number; 30]).unwrap();
    }
    assert_eq!(files.trace().len(), before, "append does no IO");
    journal.sync().unwrap();
    let calls: Vec<Operation> = files.trace()[before..].iter().map(|(operation, _)| *operation).collect();
    assert_eq!(calls, [Operation::Write, Operation::SyncData]);
    journal.sync().unwrap();
    assert_eq!(files.trace().len(), before + 2, "nothing to sync is no IO");

    journal.append(b"goes to a new segment").unwrap();
    journal.sync().unwrap();
    let calls: Vec<Operation> = files.trace()[before + 2..].iter().map(|(operation, _)| *operation).collect();
    use Operation::{CreateNew, Rename, SyncData, SyncDir, Write};
    assert_eq!(calls, [CreateNew, Write, SyncData, Rename, SyncDir]);
}

#[test]
fn records_and_batches_have_limits() {
    let (mut journal, _) = open(&FaultyFiles::new());
    let too_large = vec![0; RECORD_BYTES_MAX + 1];
    assert_eq!(journal.append(&too_large), Err(AppendError::TooLarge { bytes: RECORD_BYTES_MAX + 1 }));
    let half = vec![0; BATCH_BYTES_MAX / 2];
    assert_eq!(journal.append(&half), Ok(JournalPosition(1)));
    assert_eq!(journal.append(&half), Err(AppendError::BatchFull));
    journal.sync().unwrap();
    assert_eq!(journal.append(&half), Ok(JournalPosition(2)));
}

#[test]
fn record_larger_than_a_batch_and_a_read_chunk_is_kept() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    let large: Vec<u8> = (0..BATCH_BYTES_MAX + 4321).map(|index| index.to_le_bytes()[1]).collect();
    journal.append(&large).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let (journal, _) = open(&files);
    assert!(payloads(&journal) == [large]);
}

#[test]
fn another_identity_and_a_newer_format_are_refused_untouched() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"kept").unwrap();
    journal.sync().unwrap();
    let other = JournalOptions { identity: "other.example".to_owned(), ..options() };
    let calls = files.calls();
    let refused = open_with(&files, other).unwrap_err();
    assert!(matches!(&refused, JournalError::WrongIdentity { found, .. } if found == IDENTITY), "{refused}");

    let path = segment_path(1);
    let mut bytes = files.content(&path).unwrap();
    bytes[8..12].copy_from_slice(&(segment::FORMAT + 1).to_le_bytes());
    let preamble = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&preamble.to_le_bytes());
    files.put(&path, bytes);
    let refused = open_with(&files, options()).unwrap_err();
    assert!(matches!(refused, JournalError::NewerFormat { segment: 1, found: 2, supported: 1 }), "{refused}");
    let reads = [Operation::Open, Operation::Read, Operation::List];
    let calls = usize::try_from(calls).unwrap();
    assert!(files.trace()[calls..].iter().all(|(operation, _)| reads.contains(operation)), "nothing was changed");

    let long = JournalOptions { identity: "x".repeat(segment::IDENTITY_BYTES_MAX + 1), ..options() };
    assert!(matches!(open_with(&files, long), Err(JournalError::IdentityTooLong { .. })));
}

#[test]
fn foreign_files_are_left_alone_and_unfinished_segments_removed() {
    let files = FaultyFiles::new();
    files.put(&Path::new(DIR).join("README"), b"mine".to_vec());
    files.put(&Path::new(DIR).join("7.journal"), b"not canonical".to_vec());
    files.put(&Path::new(DIR).join(segment::unfinished_file_name(9)), b"half a head".to_vec());
    let (_, recovery) = open(&files);
    assert_eq!(recovery.leftovers_removed, 1);
    assert_eq!(segment_numbers(&files), [10], "a number that was tried is not tried again");
    assert_eq!(files.content(&Path::new(DIR).join("README")).unwrap(), b"mine");
    assert!(files.content(&Path::new(DIR).join("7.journal")).is_some());
}

#[test]
fn failed_sync_refuses_until_recovered_and_never_touches_the_old_file_again() {
    for operation in [Operation::Write, Operation::SyncData] {
        for fault in Fault::ALL {
            if (operation, fault) == (Operation::Write, Fault::Short) {
                continue; // not a failure: the rest is written by a second call
            }
            let files = FaultyFiles::new();
            let (mut journal, _) = open(&files);
            journal.append(b"good").unwrap();
            journal.sync().unwrap();
            journal.append(b"lost one").unwrap();
            journal.append(b"lost two").unwrap();
            files.fail_next(operation, fault);
            let Err(SyncError::OutcomeUnknown { unknown, .. }) = journal.sync() else {
                panic!("{operation:?} {fault:?} was not noticed")
            };
            assert_eq!(unknown, JournalPosition(2)..=JournalPosition(3));
            assert!(journal.is_refusing());
            assert_eq!(journal.append(b"refused"), Err(AppendError::Refused));
            assert!(matches!(journal.sync(), Err(SyncError::Refused)));
            assert_eq!(payloads(&journal), [b"good".to_vec()], "reads go on");

            files.fail_changes(Some(Fault::NoSpace));
            for _ in 0..3 {
                assert!(matches!(journal.recover(), Err(JournalError::Io { .. })));
                assert_eq!(journal.append(b"refused"), Err(AppendError::Refused));
            }
            files.fail_changes(None);
            let before = files.trace().len();
            assert_eq!(journal.recover().unwrap(), Some(JournalPosition(2)..=JournalPosition(3)));
            assert_eq!(journal.recover().unwrap(), None);
            assert_eq!(journal.append(b"after"), Ok(JournalPosition(2)));
            journal.sync().unwrap();
            let touched: BTreeSet<PathBuf> = files.trace()[before..].iter().map(|(_, path)| path.clone()).collect();
            assert!(!touched.contains(&segment_path(1)), "{operation:?} {fault:?} touched the failed segment");
            drop(journal);
            let (journal, _) = open(&files);
            assert_eq!(payloads(&journal), [b"good".to_vec(), b"after".to_vec()]);
        }
    }
}

#[test]
fn short_write_is_continued() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"in two parts").unwrap();
    files.fail_next(Operation::Write, Fault::Short);
    assert_eq!(journal.sync().unwrap(), JournalPosition(1));
    drop(journal);
    assert_eq!(payloads(&open(&files).0), [b"in two parts".to_vec()]);
}

#[test]
fn whole_record_after_a_stated_limit_is_not_part_of_the_journal() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"good").unwrap();
    journal.sync().unwrap();
    journal.append(b"reported as not written").unwrap();
    files.fail_next(Operation::SyncData, Fault::Io);
    journal.sync().unwrap_err();
    journal.recover().unwrap();
    let old = files.content(&segment_path(1)).unwrap();
    let needle = b"reported as not written";
    assert!(old.windows(needle.len()).any(|window| window == needle), "the record is whole in the old file");
    for after in [&[][..], &[b"new".to_vec()][..]] {
        for bytes in after {
            journal.append(bytes).unwrap();
            journal.sync().unwrap();
        }
        let (reopened, recovery) = open(&files.copy());
        assert_eq!(payloads(&reopened), [&[b"good".to_vec()], after].concat());
        assert_eq!(recovery.torn, None);
    }
}

#[test]
fn segments_of_failed_attempts_do_not_count() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(&[1; 900]).unwrap();
    journal.sync().unwrap();
    // The batch goes into a new segment whose name cannot be synced and which cannot be removed: it stays, whole, under its name.
    journal.append(b"reported as not written").unwrap();
    files.fail_next(Operation::SyncDir, Fault::Io);
    files.fail_next(Operation::Remove, Fault::Io);
    let calls = files.calls();
    files.fail_call(calls + 6, Fault::Io);
    journal.sync().unwrap_err();
    assert_eq!(segment_numbers(&files), [1, 2]);
    journal.recover().unwrap();
    journal.append(b"later").unwrap();
    journal.sync().unwrap();
    drop(journal);
    let (journal, recovery) = open(&files);
    assert_eq!(payloads(&journal), [vec![1; 900], b"later".to_vec()]);
    assert!(recovery.leftovers_removed > 0);
    assert!(!segment_numbers(&files).contains(&2));
}

#[test]
fn records_that_were_only_in_the_page_cache_are_made_durable_by_opening() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"durable").unwrap();
    journal.sync().unwrap();
    journal.append(b"its sync failed").unwrap();
    files.fail_next(Operation::SyncData, Fault::Io);
    journal.sync().unwrap_err();
    drop(journal);
    // The process ended before it could recover; the kernel still shows the record, so the new process serves it.
    let (journal, _) = open(&files);
    let served = payloads(&journal);
    assert_eq!(served, [b"durable".to_vec(), b"its sync failed".to_vec()]);
    for seed in 0..50 {
        assert_eq!(payloads(&open(&files.crash(seed)).0), served, "seed {seed}");
    }
}

#[test]
fn opening_copies_the_last_batch_alone() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    for bytes in [&[1; 200][..], &[2; 100], &[3; 50]] {
        journal.append(bytes).unwrap();
        journal.append(b"second of its batch").unwrap();
        journal.sync().unwrap();
    }
    drop(journal);
    let (journal, _) = open(&files);
    let extents = journal.extents();
    assert_eq!(extents.len(), 2);
    let newest = header(&files, 2);
    assert_eq!((newest.predecessor, newest.predecessor_bytes, newest.first_position), (1, extents[0].bytes, 5));
    assert_eq!(newest.born_bytes, extents[1].bytes);
    assert_eq!(payloads(&journal).len(), 6);
}

#[test]
fn restarts_do_not_add_segments() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"one").unwrap();
    journal.sync().unwrap();
    for _ in 0..5 {
        drop(open(&files));
        let (mut journal, _) = open(&files);
        journal.rotate().unwrap();
    }
    assert!(segment_numbers(&files).len() <= 2, "{:?}", segment_numbers(&files));
    assert_eq!(payloads(&open(&files).0), [b"one".to_vec()]);
}

#[test]
fn removal_keeps_what_the_checkpoint_does_not_hold() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    for number in 1..=40_u8 {
        journal.append(&[number; 200]).unwrap();
        journal.sync().unwrap();
    }
    let checkpoint = JournalPosition(17);
    let before = journal.bytes();
    assert!(journal.remove_below(checkpoint).unwrap() > 0);
    assert!(journal.bytes() < before);
    let first = journal.first();
    assert!(first.0 > 1 && first <= checkpoint.next());
    assert!(matches!(journal.replay(JournalPosition(1)), Err(JournalError::Missing { .. })));
    assert_eq!(records(&journal, 18).len(), 23);
    drop(journal);

    let (journal, recovery) =
        open_with(&files.copy(), JournalOptions { first_needed: checkpoint.next(), ..options() }).unwrap();
    assert_eq!(recovery.last, JournalPosition(40));
    assert_eq!(records(&journal, 18).len(), 23);
    drop(journal);
    let refused = open_with(&files, options()).unwrap_err();
    assert!(matches!(refused, JournalError::Missing { needed: JournalPosition(1), .. }), "{refused}");

    let (mut journal, _) =
        open_with(&files, JournalOptions { first_needed: JournalPosition(41), ..options() }).unwrap();
    journal.rotate().unwrap();
    journal.remove_below(JournalPosition(40)).unwrap();
    assert_eq!(segment_numbers(&files).len(), 1, "after a rotation everything below a checkpoint goes");
    assert_eq!(journal.append(b"next"), Ok(JournalPosition(41)));
}

#[test]
fn journal_that_lacks_what_is_needed_is_refused() {
    let nothing = FaultyFiles::new();
    for (first_needed, known_durable) in [(5, 0), (1, 4), (5, 4)] {
        let wanted = JournalOptions {
            first_needed: JournalPosition(first_needed),
            known_durable: JournalPosition(known_durable),
            ..options()
        };
        assert!(matches!(open_with(&nothing, wanted), Err(JournalError::Missing { .. })));
    }
    assert!(nothing.paths().is_empty());
    let restored = JournalOptions { first_needed: JournalPosition(5), ..options() };
    let mut journal = Journal::create(Arc::new(nothing.clone()), Path::new(DIR), restored.clone()).unwrap();
    assert_eq!(journal.append(b"five"), Ok(JournalPosition(5)));
    journal.sync().unwrap();
    assert!(Journal::create(Arc::new(nothing.clone()), Path::new(DIR), restored.clone()).is_err());
    drop(journal);
    assert_eq!(records(&open_with(&nothing, restored).unwrap().0, 5), [(5, b"five".to_vec())]);

    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    for number in 1..=20_u8 {
        journal.append(&[number; 200]).unwrap();
        journal.sync().unwrap();
    }
    let numbers = segment_numbers(&files);
    for missing in &numbers[..numbers.len() - 1] {
        let gap = files.copy();
        super::files::JournalFiles::remove(&gap, &segment_path(*missing)).unwrap();
        assert!(matches!(open_with(&gap, options()), Err(JournalError::Missing { .. })), "without {missing}");
    }
    let ahead = JournalOptions { known_durable: JournalPosition(21), ..options() };
    assert!(matches!(open_with(&files, ahead), Err(JournalError::Missing { needed: JournalPosition(21), .. })));
}

#[test]
fn torn_tail_is_damage_when_the_caller_knows_it_was_durable() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"one").unwrap();
    journal.sync().unwrap();
    journal.append(b"two").unwrap();
    journal.sync().unwrap();
    drop(journal);
    let mut bytes = files.content(&segment_path(1)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    files.put(&segment_path(1), bytes);
    let (_, recovery) =
        open_with(&files.copy(), JournalOptions { known_durable: JournalPosition(1), ..options() }).unwrap();
    assert_eq!(recovery.last, JournalPosition(1));
    assert!(recovery.torn.is_some());
    let refused = open_with(&files, JournalOptions { known_durable: JournalPosition(2), ..options() }).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { segment: 1, .. }), "{refused}");
}

#[test]
fn sealed_journal_has_no_torn_tail() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"only").unwrap();
    journal.rotate().unwrap();
    drop(journal);
    let path = segment_path(1);
    let length = files.content(&path).unwrap().len();
    for byte in 0..length {
        let image = files.copy();
        let mut bytes = files.content(&path).unwrap();
        bytes[byte] ^= 0x10;
        image.put(&path, bytes);
        assert!(matches!(open_with(&image, options()), Err(JournalError::Damaged { segment: 1, .. })), "byte {byte}");
        let mut bytes = files.content(&path).unwrap();
        bytes.truncate(byte);
        image.put(&path, bytes);
        assert!(matches!(open_with(&image, options()), Err(JournalError::Damaged { segment: 1, .. })), "cut at {byte}");
    }
}

#[test]
fn copied_extents_are_the_journal() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    let mut draw = Draw(8);
    for _ in 0..20 {
        journal.append(&payload(&mut draw)).unwrap();
        journal.sync().unwrap();
    }
    let durable = payloads(&journal);
    let extents = journal.extents();
    journal.append(b"after the backup began").unwrap();
    journal.sync().unwrap();
    let backup = FaultyFiles::new();
    for extent in extents {
        let mut bytes = files.content(&Path::new(DIR).join(&extent.file_name)).unwrap();
        bytes.truncate(usize::try_from(extent.bytes).unwrap());
        backup.put(&Path::new(DIR).join(&extent.file_name), bytes);
    }
    let (restored, recovery) = open(&backup);
    assert_eq!(recovery.torn, None);
    assert_eq!(payloads(&restored), durable);
}

/// A journal of several segments whose newest has a carried batch and more, and where its last batch begins.
fn damaged_fixture() -> (FaultyFiles, Vec<Vec<u8>>, u64) {
    let files = FaultyFiles::new();
    let mut draw = Draw(77);
    let mut written = Vec::new();
    let mut append = |journal: &mut Journal, lengths: &[usize]| {
        let before = journal.extents().last().unwrap().bytes;
        for length in lengths {
            let bytes: Vec<u8> = (0..*length).map(|_| draw.bits().to_le_bytes()[0]).collect();
            journal.append(&bytes).unwrap();
            written.push(bytes);
        }
        journal.sync().unwrap();
        before
    };
    let (mut journal, _) = open(&files);
    for lengths in [[100, 0, 300], [250, 60, 20], [90, 30, 70], [10, 20, 30]] {
        append(&mut journal, &lengths);
    }
    drop(journal);
    let (mut journal, _) = open(&files);
    append(&mut journal, &[40, 0, 25]);
    append(&mut journal, &[1, 33]);
    let last_batch = append(&mut journal, &[17, 0, 44]);
    (files, written, last_batch)
}

/// Offsets where the records of a segment end, as the file itself says.
fn record_ends(bytes: &[u8], header: &Header) -> Vec<u64> {
    let mut at = usize::try_from(header.bytes()).unwrap();
    let mut ends = Vec::new();
    while at < bytes.len() {
        at += FRAME_BYTES + usize::try_from(u32::from_le_bytes(*bytes[at + 4..].first_chunk().unwrap())).unwrap();
        ends.push(u64::try_from(at).unwrap());
    }
    ends
}

#[test]
fn every_truncation_of_the_newest_segment_keeps_exactly_the_whole_records() {
    let (files, written, _) = damaged_fixture();
    let newest = *segment_numbers(&files).last().unwrap();
    let header = header(&files, newest);
    let bytes = files.content(&segment_path(newest)).unwrap();
    let ends = record_ends(&bytes, &header);
    let earlier = usize::try_from(header.first_position).unwrap() - 1;
    assert!(header.born_bytes > header.bytes(), "the fixture has a carried batch");
    assert_eq!(earlier + ends.len(), written.len());
    for cut in 0..=bytes.len() {
        let image = files.copy();
        image.put(&segment_path(newest), bytes[..cut].to_vec());
        let cut = u64::try_from(cut).unwrap();
        if cut < header.born_bytes {
            // These bytes were synced before the file got its name, so no crash cuts here.
            let refused = open_with(&image, options()).unwrap_err();
            assert!(
                matches!(refused, JournalError::Damaged { segment, .. } if segment == newest),
                "cut at {cut}: {refused}"
            );
            continue;
        }
        let (journal, recovery) = open(&image);
        let whole = earlier + ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(payloads(&journal), written[..whole], "cut at {cut}");
        let good_end = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(header.bytes());
        assert_eq!(recovery.torn.map_or(0, |torn| torn.bytes), cut - good_end, "cut at {cut}");
        drop(journal);
        let (mut journal, recovery) = open(&image);
        assert_eq!(recovery.torn, None, "the tail is cut once");
        journal.append(b"goes on").unwrap();
        journal.sync().unwrap();
    }
}

#[test]
fn every_bit_flip_is_cut_or_reported_and_never_served() {
    let (files, written, last_batch) = damaged_fixture();
    let numbers = segment_numbers(&files);
    let newest = *numbers.last().unwrap();
    let mut damaged = 0;
    let mut torn = 0;
    let counted: u64 = open(&files.copy()).1.records;
    assert_eq!(counted, u64::try_from(written.len()).unwrap());
    for number in &numbers {
        let header = header(&files, *number);
        let bytes = files.content(&segment_path(*number)).unwrap();
        // The part that counts: all of the newest, and of the others what their successor says.
        let successor =
            numbers.iter().map(|after| self::header(&files, *after)).find(|after| after.predecessor == *number);
        let end = successor.map_or(bytes.len(), |after| usize::try_from(after.predecessor_bytes).unwrap());
        let ends = record_ends(&bytes[..end], &header);
        for bit in 0..end * 8 {
            let byte = bit / 8;
            // All bits of heads, one bit of each byte of the payloads.
            if bit % 8 != byte % 8 && byte > 200 {
                continue;
            }
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1 << (bit % 8);
            let image = files.copy();
            image.put(&segment_path(*number), flipped);
            let at = u64::try_from(byte).unwrap();
            let record = ends.iter().filter(|end| **end <= at).count();
            let record_offset = if record == 0 { header.bytes() } else { ends[record - 1] };
            let record_offset = if at < header.bytes() { 0 } else { record_offset };
            match open_with(&image, options()) {
                Ok((journal, recovery)) => {
                    torn += 1;
                    assert!(*number == newest && at >= last_batch, "segment {number} byte {byte}");
                    let cut = recovery.torn.expect("a cut is reported");
                    assert_eq!(cut.offset, record_offset, "byte {byte}");
                    let kept = usize::try_from(header.first_position).unwrap() - 1 + record;
                    assert_eq!(payloads(&journal), written[..kept], "byte {byte}");
                }
                Err(JournalError::Damaged { segment, offset }) => {
                    damaged += 1;
                    assert!(*number != newest || at < last_batch, "segment {number} byte {byte}");
                    assert_eq!((segment, offset), (*number, record_offset), "segment {number} byte {byte}");
                }
                Err(other) => panic!("segment {number} byte {byte}: {other}"),
            }
        }
    }
    assert!(damaged > 1000 && torn > 100, "{damaged} {torn}");
}

/// What a caller of the journal was told.
#[derive(Clone, Default)]
struct Ledger {
    /// Acknowledged, by position from 1.
    durable: Vec<Vec<u8>>,
    /// In a batch that was not acknowledged and not reported as not written.
    unknown: Vec<Vec<u8>>,
    /// Reported as not written.
    not_written: BTreeSet<Vec<u8>>,
}

impl Ledger {
    /// What a journal holds that was opened after a crash, a kill, or nothing at all.
    fn check(&self, held: &[Vec<u8>], context: &str) {
        assert!(
            held.len() >= self.durable.len(),
            "{context}: {} of {} durable records",
            held.len(),
            self.durable.len()
        );
        let (durable, more) = held.split_at(self.durable.len());
        assert!(durable == self.durable, "{context}: a durable record changed");
        assert!(self.unknown.starts_with(more), "{context}: {} records from nowhere", more.len());
        assert!(
            held.iter().all(|payload| !self.not_written.contains(payload)),
            "{context}: what was reported as not written is back"
        );
    }

    /// Opening has served these, so from now on they are durable.
    fn opened(&mut self, held: Vec<Vec<u8>>, context: &str) {
        self.check(&held, context);
        self.durable = held;
        self.unknown.clear();
    }

    fn synced(&mut self, result: Result<JournalPosition, SyncError>, context: &str) {
        match result {
            Ok(position) => {
                self.durable.append(&mut self.unknown);
                assert_eq!(position.0, u64::try_from(self.durable.len()).unwrap(), "{context}");
            }
            Err(SyncError::OutcomeUnknown { unknown, .. }) => {
                let first = u64::try_from(self.durable.len()).unwrap() + 1;
                let last = first + u64::try_from(self.unknown.len()).unwrap() - 1;
                assert_eq!(unknown, JournalPosition(first)..=JournalPosition(last), "{context}");
            }
            Err(SyncError::SegmentNotStarted { .. }) => self.durable.append(&mut self.unknown),
            Err(SyncError::Refused) => {}
        }
    }

    fn recovered(&mut self) {
        self.not_written.extend(std::mem::take(&mut self.unknown));
    }
}

/// One drawn life of a journal: appends, syncs, failures, recoveries, rotations and kills.
fn live(files: &FaultyFiles, draw: &mut Draw, ledger: &mut Ledger, context: &str) {
    let (mut journal, _) = open(files);
    ledger.opened(payloads(&journal), context);
    for _ in 0..draw.below(40) {
        match draw.below(20) {
            0..=7 => {
                let bytes = payload(draw);
                if journal.append(&bytes).is_ok() {
                    ledger.unknown.push(bytes);
                }
            }
            8..=13 => {
                if !journal.is_refusing() && draw.one_in(5) {
                    let operations = [Operation::Write, Operation::SyncData, Operation::SyncDir, Operation::Rename];
                    let operation = operations[usize::try_from(draw.below(4)).unwrap()];
                    files.fail_next(operation, Fault::ALL[usize::try_from(draw.below(4)).unwrap()]);
                }
                let result = journal.sync();
                ledger.synced(result, context);
                if draw.one_in(2) {
                    files.heal();
                }
            }
            14 | 15 => {
                let was_refusing = journal.is_refusing();
                if journal.recover().is_ok() && was_refusing {
                    ledger.recovered();
                }
            }
            16 => {
                let result = journal.rotate();
                ledger.synced(result, context);
            }
            17 => {
                files.heal();
                drop(journal);
                journal = open(files).0;
                ledger.opened(payloads(&journal), context);
            }
            _ => {
                let held = payloads(&journal);
                assert_eq!(held, ledger.durable, "{context}: the running journal serves what is durable");
            }
        }
    }
    files.heal();
}

#[test]
fn crash_images_keep_what_was_synced_and_nothing_that_was_reported_as_failed() {
    let mut torn = 0;
    for seed in 0..1200_u64 {
        let mut draw = Draw(seed);
        let mut ledger = Ledger::default();
        let mut files = FaultyFiles::new();
        for life in 0..3 {
            live(&files, &mut draw, &mut ledger, &format!("seed {seed}, life {life}"));
            // Several images of one moment; the last one is lived on.
            for image in 0..3 {
                let context = format!("seed {seed}, life {life}, image {image}");
                let crashed = files.crash(draw.bits());
                let opened = open_with(&crashed, options());
                let (journal, recovery) = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
                torn += u32::from(recovery.torn.is_some());
                let held = payloads(&journal);
                ledger.check(&held, &context);
                drop(journal);
                if image == 2 {
                    files = crashed;
                }
            }
        }
    }
    assert!(torn > 100, "torn tails are among the images: {torn}");
}

#[test]
fn crash_while_opening_loses_nothing() {
    for seed in 0..40_u64 {
        let mut draw = Draw(seed);
        let mut ledger = Ledger::default();
        let files = FaultyFiles::new();
        live(&files, &mut draw, &mut ledger, &format!("seed {seed}"));
        let crashed = files.crash(draw.bits());
        let held = payloads(&open(&crashed.copy()).0);
        ledger.check(&held, &format!("seed {seed}"));
        for fault in Fault::ALL {
            for call in 0.. {
                let image = crashed.copy();
                image.fail_call(call, fault);
                let opened = open_with(&image, options());
                let done = image.calls() <= call;
                image.heal();
                match opened {
                    Ok((journal, _)) => assert_eq!(payloads(&journal), held, "seed {seed}, {fault:?} at call {call}"),
                    Err(JournalError::Io { .. }) => {}
                    Err(other) => panic!("seed {seed}, {fault:?} at call {call}: {other}"),
                }
                let again = image.crash(draw.bits());
                assert_eq!(payloads(&open(&again).0), held, "seed {seed}, {fault:?} at call {call}, crashed");
                assert_eq!(payloads(&open(&image).0), held, "seed {seed}, {fault:?} at call {call}, again");
                if done {
                    break;
                }
            }
        }
    }
}

/// A fixed life with everything in it, that handles failures as the engine does. Returns whether it met any.
fn scripted_life(files: &FaultyFiles, ledger: &mut Ledger, context: &str) -> bool {
    let mut failures = 0;
    let mut draw = Draw(4);
    for life in 0..2 {
        let mut journal = loop {
            match open_with(files, options()) {
                Ok((journal, _)) => break journal,
                Err(JournalError::Io { .. }) => failures += 1,
                Err(other) => panic!("{context}: {other}"),
            }
        };
        let held = loop {
            // Replays fail too; they are made again.
            let read = || -> Result<Vec<Vec<u8>>, JournalError> {
                let mut replay = journal.replay(journal.first())?;
                let mut held = Vec::new();
                while let Some(record) = replay.next_record()? {
                    held.push(record.payload.to_vec());
                }
                Ok(held)
            };
            match read() {
                Ok(held) => break held,
                Err(JournalError::Io { .. }) => failures += 1,
                Err(other) => panic!("{context}: {other}"),
            }
        };
        ledger.opened(held, context);
        for step in 0..14_u64 {
            for _ in 0..1 + step % 3 {
                let mut bytes = payload(&mut draw);
                bytes.truncate(300);
                journal.append(&bytes).unwrap();
                ledger.unknown.push(bytes);
            }
            let result = if step == 9 { journal.rotate() } else { journal.sync() };
            ledger.synced(result, context);
            if journal.is_refusing() {
                failures += 1;
                assert_eq!(journal.append(b"refused"), Err(AppendError::Refused), "{context}");
                let image = files.crash(draw.bits());
                image.heal();
                ledger.check(&payloads(&open(&image).0), &format!("{context}, crashed while refusing"));
                while journal.recover().is_err() {
                    failures += 1;
                }
                ledger.recovered();
            }
            if step % 5 == 4 {
                let image = files.crash(draw.bits());
                ledger.check(&payloads(&open(&image).0), &format!("{context}, life {life}, step {step}"));
            }
        }
        assert!(!journal.is_refusing());
    }
    failures > 0
}

#[test]
fn each_failing_call_is_survived_without_a_false_acknowledgement() {
    let healthy = FaultyFiles::new();
    let mut ledger = Ledger::default();
    assert!(!scripted_life(&healthy, &mut ledger, "healthy"));
    let appended = ledger.durable.len();
    let mut runs = 0;
    for call in 0..healthy.calls() {
        for fault in Fault::ALL {
            let files = FaultyFiles::new();
            files.fail_call(call, fault);
            let mut ledger = Ledger::default();
            scripted_life(&files, &mut ledger, &format!("{fault:?} at call {call}"));
            assert_eq!(ledger.durable.len() + ledger.not_written.len(), appended, "{fault:?} at call {call}");
            runs += 1;
        }
    }
    assert!(runs >= 300, "{runs}");
}

#[test]
fn content_that_looks_like_a_record_is_not_one() {
    // A peer that knows positions but not the salt writes what looks like a record of a later batch, which must not turn a torn tail into damage.
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    let mut forged = Vec::new();
    segment::Frame { position: 3, batch_index: 0, payload: b"forged" }.encode(segment::seed(0, 1), &mut forged);
    segment::Frame { position: 1, batch_index: 0, payload: b"forged" }.encode(segment::seed(0, 1), &mut forged);
    journal.append(&forged).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let mut bytes = files.content(&segment_path(1)).unwrap();
    let start = usize::try_from(header(&files, 1).bytes()).unwrap();
    bytes[start] ^= 1;
    files.put(&segment_path(1), bytes);
    let (journal, recovery) = open(&files);
    assert_eq!(payloads(&journal), Vec::<Vec<u8>>::new());
    assert!(recovery.torn.is_some());
}

#[test]
fn format_one_stays_as_it_is() {
    let files = FaultyFiles::new();
    let (mut journal, _) = open(&files);
    journal.append(b"knock").unwrap();
    journal.append(b"").unwrap();
    journal.sync().unwrap();
    let bytes = files.content(&segment_path(1)).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, FROZEN_SEGMENT);

    let frozen = FaultyFiles::new();
    let bytes =
        (0..FROZEN_SEGMENT.len()).step_by(2).map(|at| u8::from_str_radix(&FROZEN_SEGMENT[at..at + 2], 16).unwrap());
    frozen.put(&segment_path(1), bytes.collect());
    assert_eq!(payloads(&open(&frozen).0), [b"knock".to_vec(), Vec::new()]);
}

const FROZEN_SEGMENT: &str = "565354424a524e4c010000009f10ae1557000000010000000000000001000000000000000000000000000000000000000000\
    00005700000000000000ed5e0000000000000d006b6e6f636b2e6578616d706c654ff49481e44948c6050000000100000000\
    000000000000006b6e6f636b2672f9ba00000000020000000000000001000000";

#[test]
fn the_real_disk_keeps_a_journal() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data/journal");
    let files = Arc::new(RealFiles);
    let mut written = Vec::new();
    let mut draw = Draw(3);
    for life in 0..4 {
        let (mut journal, recovery) = Journal::open(files.clone(), &dir, options()).unwrap();
        assert_eq!(recovery.torn.is_some(), life == 3);
        assert_eq!(payloads(&journal), written);
        for _ in 0..30 {
            let bytes = payload(&mut draw);
            journal.append(&bytes).unwrap();
            journal.sync().unwrap();
            written.push(bytes);
        }
        if life == 2 {
            let newest = dir.join(journal.extents().last().unwrap().file_name.clone());
            drop(journal);
            let file = std::fs::OpenOptions::new().write(true).open(newest).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
            written.pop();
        }
    }
    #[cfg(unix)]
    for entry in std::fs::read_dir(&dir).unwrap() {
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.unwrap().metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
