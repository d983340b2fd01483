//! Target `journal`: segments of a journal as a bad disk gives them back, and the stored forms inside its records.
//! May not: write to a real disk.

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use vestibule_storage_sled::{
    journal::{Journal, JournalOptions, JournalPosition, error::JournalError, faults::FaultyFiles},
    stored_forms::{FORMS, Form},
};

use super::super::{
    Target, Verdict,
    drawing::{Input, mutate},
};
use crate::{
    journal_file::{fit_checksums, fit_header},
    proof::{Plant, Settings},
};

pub static LENGTH_BELIEVED: Plant =
    Plant { name: "length-believed", what: "a reader makes room for as much as a length says", cases: 20_000 };
pub static UNCHECKED: Plant =
    Plant { name: "unchecked-bytes", what: "changed bytes come with checksums that fit them", cases: 10_000 };

const DIR: &str = "/journal";
const IDENTITY: &str = "peer.test";
/// Journals that are damaged.
const JOURNALS: u64 = 12;

/// What an input is.
enum Part {
    /// A segment of a journal, with checksums as they were, or made to fit.
    Segment { journal: usize, file: usize, checksums: Checksums },
    /// A value in a record, or a record.
    Form(Form),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checksums {
    AsTheyWere,
    Fitted,
}

/// A sound journal.
struct Sound {
    salt: u64,
    files: Vec<(PathBuf, Vec<u8>)>,
    records: Vec<Vec<u8>>,
}

struct Journals {
    journals: Vec<Sound>,
    parts: Vec<Part>,
    examples: Vec<Vec<u8>>,
}

pub fn make() -> Result<Box<dyn Target>, String> {
    let journals: Vec<Sound> = (0..JOURNALS).map(sound).collect::<Result<_, _>>()?;
    let mut parts = Vec::new();
    for (journal, sound) in journals.iter().enumerate() {
        for (file, _) in sound.files.iter().enumerate() {
            for checksums in [Checksums::AsTheyWere, Checksums::AsTheyWere, Checksums::Fitted] {
                parts.push(Part::Segment { journal, file, checksums });
            }
        }
    }
    parts.extend(FORMS.iter().chain(&FORMS).map(|form| Part::Form(*form)));
    let examples = FORMS.iter().map(example).collect();
    Ok(Box::new(Journals { journals, parts, examples }))
}

fn options(salt: u64) -> JournalOptions {
    JournalOptions { segment_bytes: 700, ..JournalOptions::new(IDENTITY, salt) }
}

fn sound(number: u64) -> Result<Sound, String> {
    let mut random = StdRng::seed_from_u64(number);
    let (disk, salt) = (FaultyFiles::new(), random.random());
    let words = |error: &dyn std::error::Error| error.to_string();
    let mut journal =
        Journal::create(Arc::new(disk.clone()), Path::new(DIR), options(salt)).map_err(|error| words(&error))?;
    let mut records = Vec::new();
    for _ in 0..random.random_range(1..8) {
        for _ in 0..random.random_range(1..4) {
            let record: Vec<u8> = (0..random.random_range(0..200)).map(|_| random.random()).collect();
            journal.append(&record).map_err(|error| words(&error))?;
            records.push(record);
        }
        journal.sync().map_err(|error| words(&error))?;
    }
    let paths = disk.paths().into_iter();
    let files = paths.filter_map(|path| disk.content(&path).map(|content| (path, content))).collect();
    Ok(Sound { salt, files, records })
}

impl Target for Journals {
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut input = Input::new(Vec::new(), random);
        match input.choose(&self.parts) {
            None => {}
            Some(Part::Form(form)) => {
                input.bytes = example(form);
                if random.random_ratio(7, 8) {
                    mutate(&mut input.bytes, &self.examples, random);
                }
            }
            Some(Part::Segment { journal, file, checksums }) => {
                let sound = &self.journals[*journal];
                let (_, content) = &sound.files[*file];
                input.bytes.clone_from(content);
                if random.random_ratio(7, 8) {
                    let others: Vec<Vec<u8>> = sound.files.iter().map(|(_, content)| content.clone()).collect();
                    mutate(&mut input.bytes, &others, random);
                }
                if *checksums == Checksums::Fitted {
                    fit_header(&mut input.bytes);
                    fit_checksums(&mut input.bytes, sound.salt);
                }
            }
        }
        input
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        match input.choose(&self.parts).ok_or("nothing to damage")? {
            Part::Form(form) => judge_form(form, &input.bytes, settings),
            Part::Segment { journal, file, checksums } => {
                let sound = &self.journals[*journal];
                let mut bytes = input.bytes.clone();
                if settings.has(&UNCHECKED) {
                    fit_checksums(&mut bytes, sound.salt);
                }
                let disk = FaultyFiles::new();
                for (number, (path, content)) in sound.files.iter().enumerate() {
                    disk.put(path, if number == *file { bytes.clone() } else { content.clone() });
                }
                // By the last bit: whether somebody knows how far the journal went.
                let knows_end = input.choice >> 63 == 1;
                judge_journal(sound, &disk, *checksums, knows_end)
            }
        }
    }
}

fn judge_form(form: &Form, bytes: &[u8], settings: &Settings) -> Result<Verdict, String> {
    if settings.has(&LENGTH_BELIEVED)
        && let Some(length) = bytes.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    {
        black_box(Vec::<u8>::with_capacity(usize::try_from(length).unwrap_or(0).min(1 << 27)));
    }
    let Some(written) = (form.rewrite)(bytes) else { return Ok(Verdict::Refused) };
    if (form.rewrite)(&written).as_ref() != Some(&written) {
        return Err(format!("{}: written as {} it is read otherwise", form.name, written.escape_ascii()));
    }
    if form.is_newest && bytes == example(form) && written != bytes {
        return Err(format!("{}: the example is written otherwise", form.name));
    }
    Ok(Verdict::Taken)
}

/// What is served is what was written, from the beginning, and as much of it as somebody knows to have been durable.
fn judge_journal(sound: &Sound, disk: &FaultyFiles, checksums: Checksums, knows_end: bool) -> Result<Verdict, String> {
    let Ok(served) = records(disk, sound.salt, if knows_end { sound.records.len() } else { 0 }) else {
        return Ok(Verdict::Refused);
    };
    if checksums == Checksums::AsTheyWere {
        let written = sound.records.get(..served.len()).unwrap_or_default();
        if let Some(at) = served.iter().zip(written).position(|(served, written)| served != written) {
            return Err(format!("record {} is served as {}", at + 1, served[at].escape_ascii()));
        }
        if served.len() > sound.records.len() || (knows_end && served.len() < sound.records.len()) {
            return Err(format!("{} records are served, and {} were written", served.len(), sound.records.len()));
        }
    }
    match records(disk, sound.salt, served.len()) {
        Ok(again) if again == served => Ok(Verdict::Taken),
        Ok(again) => Err(format!("{} records are served, and {} when it is opened again", served.len(), again.len())),
        Err(error) => Err(format!("opened once, and then: {error}")),
    }
}

/// Opens a journal and reads it from the beginning.
fn records(disk: &FaultyFiles, salt: u64, known_durable: usize) -> Result<Vec<Vec<u8>>, JournalError> {
    let known_durable = JournalPosition(u64::try_from(known_durable).unwrap_or(u64::MAX));
    let options = JournalOptions { known_durable, ..options(salt) };
    let (journal, _) = Journal::open(Arc::new(disk.clone()), Path::new(DIR), options)?;
    let mut replay = journal.replay(JournalPosition(1))?;
    let mut records = Vec::new();
    while let Some(record) = replay.next_record()? {
        records.push(record.payload.to_vec());
    }
    Ok(records)
}

fn example(form: &Form) -> Vec<u8> {
    let digits: Vec<u32> = form.example.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}
