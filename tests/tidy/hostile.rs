//! The table of known ways to do harm: each row names tests that are there, and each file of those tests has its row.
//! May not: say whether a test is a good one.

use super::tree::{self, Complaint, RustFile, none};

const TABLE: &str = "tests/it/hostile.rs";

/// The crates that the table names, and where they lie.
const CRATES: [(&str, &str); 5] = [
    ("protocol", "src/protocol"),
    ("federation", "src/federation"),
    ("api", "src/api"),
    ("vestibule", "src"),
    ("tidy", "tests/tidy"),
];

struct Row<'a> {
    line: usize,
    id: &'a str,
    what: &'a str,
    /// What stands between backquotes in the last column.
    held_by: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn read(index: usize, line: &'a str) -> Option<Self> {
        let mut cells = line.strip_prefix("//! |")?.split('|').map(str::trim);
        let (id, what, held_by) = (cells.next()?, cells.next()?, cells.next()?);
        let is_row = id.strip_prefix('V').is_some_and(|number| number.parse::<u32>().is_ok());
        is_row.then(|| Self { line: index + 1, id, what, held_by: held_by.split('`').skip(1).step_by(2).collect() })
    }

    /// The ids of advisories, as the names of tests have them.
    fn words(&self) -> Vec<String> {
        let ids = self.what.split_once(": ").map_or("", |(ids, _)| ids);
        let word = |id: &str| {
            let parts = id.split(|char: char| !char.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join("_").to_lowercase()
        };
        ids.split(", ").map(word).filter(|word| !word.is_empty()).collect()
    }

    fn check(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let words = self.words();
        // Each module, with the tests in it that have one of the ids in their names.
        let mut own: Vec<(&str, Vec<&str>)> = Vec::new();
        for name in &self.held_by {
            if let Some(part) = name.strip_prefix("bad/") {
                let path = format!("tests/interop/bad/{part}.py");
                let file = tree::texts().iter().find(|(known, _)| *known == path);
                if !file.is_some_and(|(_, lines)| lines.iter().any(|line| line.contains(self.id))) {
                    complaints.push(format!("{path} has no row of {}", self.id));
                }
                continue;
            }
            let tests: Vec<&str> = files_of(name).into_iter().flat_map(tests_in).collect();
            let is_there = match name.split_once("::") {
                Some((place, test)) if place != "crate" && folder(place).is_none() => tests.contains(&test),
                _ => !tests.is_empty(),
            };
            if !is_there {
                complaints.push(format!("there is no test {name}"));
            }
            if !name.contains("::") && !tests.is_empty() {
                let is_named = |test: &&str| words.iter().any(|word| test.contains(word.as_str()));
                own.push((name, tests.into_iter().filter(is_named).collect()));
            }
        }
        if self.held_by.is_empty() {
            complaints.push(format!("nothing holds {}", self.id));
        }
        if words.is_empty() || own.is_empty() {
            return complaints;
        }
        for (module, _) in own.iter().filter(|(_, tests)| tests.is_empty()) {
            complaints.push(format!("no test of {module} has {} in its name", words.join(" or ")));
        }
        let has = |word: &String| own.iter().any(|(_, tests)| tests.iter().any(|test| test.contains(word.as_str())));
        let unnamed = words.iter().filter(|word| !has(word));
        complaints.extend(unnamed.map(|word| format!("no test of these modules has {word} in its name")));
        complaints
    }
}

fn folder(name: &str) -> Option<&'static str> {
    CRATES.iter().find(|(known, _)| *known == name).map(|(_, folder)| *folder)
}

/// A module beside the table, one of the scenarios (`crate::`), a test of either by its name, or all of a crate that has the
/// word in its path.
fn files_of(name: &str) -> Vec<&'static RustFile> {
    let (place, rest) = name.split_once("::").unwrap_or(("", name));
    let is_it = |path: &str| match (place, folder(place)) {
        ("", _) => path == format!("tests/it/hostile/{rest}.rs"),
        ("crate", _) => path == format!("tests/it/{rest}.rs"),
        (_, None) => {
            [format!("tests/it/hostile/{place}.rs"), format!("tests/it/{place}.rs")].iter().any(|it| it == path)
        }
        (_, Some(folder)) => {
            let inner = path.strip_prefix(folder).and_then(|path| path.strip_prefix('/'));
            inner.is_some_and(|path| path.trim_end_matches(".rs").split('/').any(|part| part == rest))
        }
    };
    tree::rust_files().iter().filter(|file| is_it(&file.path)).collect()
}

/// The functions below an attribute that ends in `test`.
fn tests_in(file: &RustFile) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_marked = false;
    for (_, line) in file.tests() {
        let line = line.trim();
        is_marked |= line.starts_with("#[") && line.ends_with("test]");
        if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_marked) {
            found.extend(rest.split('(').next());
            is_marked = false;
        }
    }
    found
}

#[test]
fn every_row_of_the_hostile_table_names_tests_that_are_there() {
    let text = tree::read(TABLE);
    let rows: Vec<Row<'_>> = text.lines().enumerate().filter_map(|(index, line)| Row::read(index, line)).collect();
    assert!(!rows.is_empty(), "{TABLE}: the table is gone");
    let mut complaints = Vec::new();
    for row in &rows {
        complaints.extend(row.check().into_iter().map(|reason| Complaint::new(TABLE, row.line, reason)));
    }
    for file in tree::rust_files().iter().filter(|file| !tests_in(file).is_empty()) {
        let module = file.path.strip_prefix("tests/it/hostile/").map(|name| name.trim_end_matches(".rs"));
        if module.is_some_and(|module| !rows.iter().any(|row| row.held_by.contains(&module))) {
            complaints.push(Complaint::new(&file.path, 0, format!("no row of {TABLE} names it")));
        }
    }
    none(complaints);
}

#[test]
fn a_row_that_has_rotted_is_caught() {
    let complaints = |line: &str| Row::read(0, line).map(|row| row.check());
    assert_eq!(complaints("//! | row | what | held by |"), None);
    for (row, count) in [
        ("//! | V14 | CVE-2024-6299: a key | [`keys`], `bad/headers`, `federation::keyring` |", 0),
        ("//! | V13 | Synapse #18075: late | `elsewhere::an_invite_before_the_answer_to_the_knock_stands` |", 0),
        ("//! | V13 | Synapse #18075: late | `elsewhere::an_invite` |", 1),
        ("//! | V14 | CVE-2024-6299: a key | [`locks`], `bad/locks`, `federation::locks`, [`crate::locks`] |", 4),
        ("//! | V99 | a key | `bad/headers` |", 1),
        (
            "//! | V14 | CVE-2024-6299: a key | [`keys`], `sizes::an_event_has_65536_bytes_with_its_signature_and_none_more` |",
            0,
        ),
        ("//! | V14 | CVE-2024-6299: a key | [`keys`], [`sizes`] |", 1),
        ("//! | V14 | CVE-2024-6299, CVE-2026-24044: a key | [`keys`] |", 0),
        ("//! | V14 | CVE-2024-6299, CVE-1999-1: a key | [`keys`] |", 1),
        ("//! | V14 | CVE-1999-1: a key | [`keys`] |", 2),
        ("//! | V14 | CVE-2024-6299: a key | nobody |", 1),
    ] {
        assert_eq!(complaints(row).map(|complaints| complaints.len()), Some(count), "{row}");
    }
}
