//! Facts about checkpoints, alone and together with the journal they let shrink.
//! May not: touch the machine's disk.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::CheckpointError;
use super::format::BLOCK_BYTES;
use super::{Checkpoint, Checkpoints, Found, Inspection};
use crate::journal::error::JournalError;
use crate::journal::faults::{Draw, Fault, FaultyFiles, Operation};
use crate::journal::{Journal, JournalOptions, JournalPosition};

const DIR: &str = "journal";
const IDENTITY: &str = "knock.example";

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn checkpoints(files: &FaultyFiles) -> Checkpoints<'_> {
    Checkpoints { files, dir: Path::new(DIR), identity: IDENTITY }
}

fn write(files: &FaultyFiles, position: u64, pairs: &Pairs) -> Result<Checkpoint, CheckpointError> {
    checkpoints(files).write(JournalPosition(position), pairs.iter().map(Ok::<_, Infallible>))
}

fn read(files: &FaultyFiles, position: u64) -> Result<Pairs, CheckpointError> {
    let mut reader = checkpoints(files).read(JournalPosition(position))?;
    let mut pairs = Pairs::new();
    while let Some(entry) = reader.next_entry()? {
        pairs.insert(entry.key.to_vec(), entry.value.to_vec());
    }
    assert!(reader.next_entry()?.is_none(), "the end stays the end");
    assert_eq!(reader.checkpoint().entries, u64::try_from(pairs.len()).unwrap());
    Ok(pairs)
}

fn find(files: &FaultyFiles) -> Found {
    checkpoints(files).find(Inspection::Whole).unwrap()
}

fn newest(files: &FaultyFiles) -> Option<u64> {
    find(files).newest.map(|checkpoint| checkpoint.position.0)
}

fn path(position: u64) -> PathBuf {
    Path::new(DIR).join(format!("{position:020}.checkpoint"))
}

fn pairs(draw: &mut Draw, count: u64, value_bytes: u64) -> Pairs {
    let bytes = |draw: &mut Draw, length: u64| (0..length).map(|_| draw.bits().to_le_bytes()[0]).collect::<Vec<u8>>();
    (0..count)
        .map(|_| {
            let (key_length, value_length) = (draw.below(20), draw.below(value_bytes));
            (bytes(draw, key_length), bytes(draw, value_length))
        })
        .collect()
}

#[test]
fn what_is_written_is_read_back() {
    let files = FaultyFiles::new();
    let mut draw = Draw(5);
    let mut large = pairs(&mut draw, 3000, 600);
    large.insert(b"large".to_vec(), vec![7; BLOCK_BYTES * 2]);
    large.insert(Vec::new(), Vec::new());
    for (position, pairs) in [(0, Pairs::new()), (3, pairs(&mut draw, 10, 10)), (9, large)] {
        let checkpoint = write(&files, position, &pairs).unwrap();
        assert_eq!(checkpoint.bytes, u64::try_from(files.content(&path(position)).unwrap().len()).unwrap());
        assert!(read(&files, position).unwrap() == pairs);
        assert_eq!(find(&files).newest, Some(checkpoint));
    }
    assert_eq!(checkpoints(&files).remove_older(JournalPosition(9)).unwrap(), 2);
    assert_eq!(files.paths(), [path(9)]);
}

#[test]
fn entries_that_fail_or_are_unsorted_make_no_checkpoint() {
    let files = FaultyFiles::new();
    write(&files, 1, &Pairs::new()).unwrap();
    for twice in [[b"a", b"a"], [b"b", b"a"]] {
        let entries = twice.map(|key| Ok::<_, Infallible>((key, b"")));
        let refused = checkpoints(&files).write(JournalPosition(2), entries).unwrap_err();
        assert!(matches!(refused, CheckpointError::NotSorted { entry: 2 }), "{refused}");
    }
    let entries = [Ok((b"a", b"")), Err("the store is gone")];
    let refused = checkpoints(&files).write(JournalPosition(2), entries).unwrap_err();
    assert!(matches!(refused, CheckpointError::Entries { .. }), "{refused}");
    assert_eq!(files.paths(), [path(1)]);
    assert_eq!(newest(&files), Some(1));
}

#[test]
fn another_identity_and_a_newer_format_are_refused() {
    let files = FaultyFiles::new();
    write(&files, 1, &Pairs::new()).unwrap();
    let other = Checkpoints { identity: "other.example", ..checkpoints(&files) };
    assert!(matches!(other.find(Inspection::Ends), Err(CheckpointError::WrongIdentity { .. })));
    let mut bytes = files.content(&path(1)).unwrap();
    bytes[8] = 2;
    let preamble = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&preamble.to_le_bytes());
    files.put(&path(1), bytes);
    let refused = checkpoints(&files).find(Inspection::Ends).unwrap_err();
    assert!(matches!(refused, CheckpointError::NewerFormat { found: 2, supported: 1, .. }), "{refused}");
}

#[test]
fn every_bit_flip_and_truncation_is_found_and_the_older_checkpoint_used() {
    let files = FaultyFiles::new();
    let mut draw = Draw(6);
    let kept = pairs(&mut draw, 4, 10);
    write(&files, 1, &kept).unwrap();
    write(&files, 2, &pairs(&mut draw, 8, 40)).unwrap();
    let bytes = files.content(&path(2)).unwrap();
    let mut broken: Vec<Vec<u8>> = (0..bytes.len()).map(|cut| bytes[..cut].to_vec()).collect();
    broken.extend((0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    }));
    broken.push([&bytes[..], b"x"].concat());
    for (number, content) in broken.into_iter().enumerate() {
        let image = files.copy();
        image.put(&path(2), content);
        assert!(matches!(read(&image, 2), Err(CheckpointError::Damaged { .. })), "number {number}");
        let found = find(&image);
        assert_eq!(found.newest.unwrap().position, JournalPosition(1), "number {number}");
        assert_eq!(found.damaged.len(), 1);
        assert_eq!(found.damaged[0].0, JournalPosition(2));
    }
}

#[test]
fn ends_show_a_cut_file_without_reading_it() {
    let files = FaultyFiles::new();
    let mut draw = Draw(7);
    write(&files, 2, &pairs(&mut draw, 2000, 600)).unwrap();
    let before = files.trace().len();
    assert!(checkpoints(&files).find(Inspection::Ends).unwrap().newest.is_some());
    assert_eq!(files.trace()[before..].iter().filter(|(operation, _)| *operation == Operation::Read).count(), 2);
    let mut bytes = files.content(&path(2)).unwrap();
    bytes.truncate(bytes.len() / 2);
    files.put(&path(2), bytes);
    assert!(checkpoints(&files).find(Inspection::Ends).unwrap().newest.is_none());
}

#[test]
fn swapped_blocks_and_blocks_of_another_checkpoint_are_found() {
    let files = FaultyFiles::new();
    let block =
        |fill: u8, count: u8| (0..count).map(|key| (vec![key], vec![fill; BLOCK_BYTES - 40])).collect::<Pairs>();
    write(&files, 1, &block(1, 2)).unwrap();
    write(&files, 2, &block(2, 2)).unwrap();
    let (one, two) = (files.content(&path(1)).unwrap(), files.content(&path(2)).unwrap());
    let block_bytes = BLOCK_BYTES - 40 + 1 + 8 + 8;
    let header_bytes = one.len() - 32 - 2 * block_bytes;
    let (first, second) =
        (header_bytes..header_bytes + block_bytes, header_bytes + block_bytes..header_bytes + 2 * block_bytes);
    let swapped = [&two[..header_bytes], &two[second.clone()], &two[first.clone()], &two[second.end..]].concat();
    let mixed = [&two[..header_bytes], &two[first.clone()], &one[second.clone()], &two[second.end..]].concat();
    let dropped = [&two[..first.end], &two[second.end..]].concat();
    for content in [swapped, mixed, dropped] {
        files.put(&path(2), content);
        assert_eq!(newest(&files), Some(1));
    }
}

#[test]
fn each_failing_call_and_each_crash_leaves_a_valid_newest_checkpoint() {
    let mut draw = Draw(9);
    let (old, new) = (pairs(&mut draw, 40, 300), pairs(&mut draw, 60, 10_000));
    let base = FaultyFiles::new();
    write(&base, 4, &old).unwrap();
    let mut runs = 0;
    for fault in Fault::ALL {
        for call in 0.. {
            let files = base.copy();
            files.fail_call(call, fault);
            let written = write(&files, 8, &new).is_ok();
            let met = files.calls() > call;
            files.heal();
            let images: Vec<FaultyFiles> = (0..20).map(|_| files.crash(draw.bits())).chain([files.clone()]).collect();
            for (number, image) in images.iter().enumerate() {
                let found = find(image);
                let position = found.newest.unwrap().position.0;
                assert!(found.damaged.is_empty());
                assert!(
                    position == 8 || (position == 4 && !written),
                    "{fault:?} at call {call}, image {number}: {position}"
                );
                assert!(read(image, position).unwrap() == if position == 8 { new.clone() } else { old.clone() });
                assert!(
                    image.paths().iter().all(|path| path.extension().unwrap() != "new"),
                    "half-written files are removed"
                );
                write(image, 9, &old).unwrap();
                runs += 1;
            }
            if !met {
                assert!(written);
                break;
            }
        }
    }
    assert!(runs > 500, "{runs}");
}

/// State and journal as an engine keeps them: a record is a key and a value.
struct Engine {
    journal: Journal,
    pairs: Pairs,
}

impl Engine {
    fn open(files: &FaultyFiles) -> Result<Self, JournalError> {
        let found = find(files);
        let position = found.newest.map_or(JournalPosition(0), |checkpoint| checkpoint.position);
        let mut pairs = if position.0 > 0 { read(files, position.0).unwrap() } else { Pairs::new() };
        let options = JournalOptions {
            first_needed: position.next(),
            known_durable: position,
            segment_bytes: 500,
            ..JournalOptions::new(IDENTITY, 1)
        };
        let (journal, _) = Journal::open(Arc::new(files.clone()), Path::new(DIR), options)?;
        let mut replay = journal.replay(position.next())?;
        while let Some(record) = replay.next_record()? {
            pairs.insert(record.payload[..1].to_vec(), record.payload[1..].to_vec());
        }
        Ok(Self { journal, pairs })
    }
}

#[test]
fn checkpoint_and_shrunk_journal_together_hold_everything_after_any_crash() {
    for seed in 0..300_u64 {
        let mut draw = Draw(seed);
        let mut files = FaultyFiles::new();
        let mut checkpoints_written = 0;
        for life in 0..3 {
            let mut engine = Engine::open(&files).unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            for _ in 0..draw.below(30) {
                let (key, value) = (draw.below(30).to_le_bytes()[0], draw.bits().to_le_bytes());
                let payload = [&[key][..], &value, &[key; 60]].concat();
                engine.journal.append(&payload).unwrap();
                engine.journal.sync().unwrap();
                engine.pairs.insert(vec![key], payload[1..].to_vec());
                if draw.one_in(6) {
                    if draw.one_in(2) {
                        engine.journal.rotate().unwrap();
                    }
                    if draw.one_in(3) {
                        files.fail_call(files.calls() + draw.below(8), Fault::Io);
                    }
                    let durable = engine.journal.durable();
                    if write(&files, durable.0, &engine.pairs).is_ok() {
                        checkpoints_written += 1;
                        let _ = engine.journal.remove_below(durable);
                        let _ = checkpoints(&files).remove_older(durable);
                    }
                    files.heal();
                }
            }
            let expected = engine.pairs.clone();
            drop(engine);
            for image in 0..4 {
                let crashed = files.crash(draw.bits());
                let context = format!("seed {seed}, life {life}, image {image}, {checkpoints_written} checkpoints");
                let reopened = Engine::open(&crashed).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(reopened.pairs == expected, "{context}");
                if image == 3 {
                    files = crashed;
                }
            }
        }
    }
}

#[test]
fn format_one_stays_as_it_is() {
    let files = FaultyFiles::new();
    let pairs = Pairs::from([(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new())]);
    write(&files, 5, &pairs).unwrap();
    let hex: String = files.content(&path(5)).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, FROZEN_CHECKPOINT);
    let frozen = FaultyFiles::new();
    let bytes = (0..FROZEN_CHECKPOINT.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&FROZEN_CHECKPOINT[at..at + 2], 16).unwrap());
    frozen.put(&path(5), bytes.collect());
    assert_eq!(read(&frozen, 5).unwrap(), pairs);
}

const FROZEN_CHECKPOINT: &str = "56535442434b505401000000016deb912f00000005000000000000000d006b6e6f636b2e6578616d706c65c77f\
    79b26a9f22f013000000010000000100000061310100000000000000625653544243454e44010000000000000002000000000000008a839f99f0ac0726";
