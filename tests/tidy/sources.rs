//! Source files: heads, names, words that may not be there, and walls that manifests cannot build.
//! May not: know what the code does.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{self, Complaint, RustFile, none};

/// Names without a noun. What belongs nowhere has no home yet.
const HOMELESS: [&str; 9] = ["common", "helper", "helpers", "misc", "shared", "types", "util", "utils", "stuff"];

/// Parts of type names that say nothing.
const EMPTY_NOUNS: [&str; 2] = ["Manager", "Service"];

/// Names that hold such a part because somebody else's vocabulary does.
const GIVEN_NAMES: [(&str, &str); 5] = [
    ("ServiceRecord", "what DNS calls an SRV record"),
    ("BadAuthorisedVia", "join_authorised_via_users_server, for short"),
    ("UnableToAuthorise", "the errcode M_UNABLE_TO_AUTHORISE_JOIN"),
    ("authorised_via", "join_authorised_via_users_server, for short"),
    ("join_authorised_via_users_server", "the specification's own key, in British spelling"),
];

/// Parts of names in British spelling; the specification's is American.
const BRITISH: [&str; 10] = [
    "authoris",
    "behaviour",
    "canonicalis",
    "cancelled_",
    "colour",
    "initialis",
    "normalis",
    "organis",
    "recognis",
    "serialis",
];

/// What stands where work is left over. In pieces, because this file is read too.
const UNFINISHED: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("TO", "DO"),
    concat!("#[ign", "ore"),
];

/// The one version of the specification.
const SPEC_HOST: &str = concat!("spec.matrix", ".org");
const SPEC_VERSION: &str = "/v1.19/";

/// Names of what the standard library does beyond computing.
const IMPURE: [&str; 15] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "OsRng",
    "thread_rng",
    "async fn",
    ".await",
    "println!",
    "eprintln!",
];

/// Names by which a room could reach files or the network.
const OUTSIDE: [&str; 9] = [
    "std::fs",
    "std::process",
    "tokio::fs",
    "tokio::net",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
];

/// Files whose maps without order are private look-ups: never signed, stored, sent, compared or walked for an answer.
const UNORDERED: [(&str, &str); 8] = [
    ("actors/limits.rs", "token buckets by key; nothing but the key's own bucket is looked at"),
    ("actors/registry.rs", "actors by room id, on every message"),
    ("actors/sync_notifier.rs", "waiting clients by user and by room"),
    ("src/federation/discovery.rs", "searches in flight by server name"),
    ("src/federation/egress.rs", "known routes by authority"),
    ("src/federation/generations.rs", "a bounded cache by key"),
    ("src/federation/keyring.rs", "key fetches in flight by server name"),
    ("src/protocol/state/resolution.rs", "ruma's resolution takes and gives hash sets; what leaves is ordered again"),
];

/// How text could become markup or code, or a page could reach another server.
const NOT_IN_PAGES: [&str; 16] = [
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "setHTMLUnsafe",
    "createContextualFragment",
    "DOMParser",
    "srcdoc",
    "document.write",
    "eval(",
    "new Function",
    "javascript:",
    "style=\"",
    "<style",
    "<script>",
    "@import",
    "url(",
];

/// The file that names an engine. Besides, the engine itself and the proofs of what it promises may.
const NAMES_ENGINE: &str = "src/lib.rs";

fn shipped_lines(files: &[RustFile]) -> impl Iterator<Item = (&RustFile, usize, &str)> {
    files.iter().flat_map(|file| file.shipped().into_iter().map(move |(line, code)| (file, line, code)))
}

/// Whether `word` stands in `code` with no letter, digit or underscore before it.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !word.starts_with(|char: char| char.is_alphanumeric())
            || !before.is_some_and(|char| char.is_alphanumeric() || char == '_')
    })
}

#[test]
fn every_file_says_its_job_and_what_it_may_not_do() {
    let mut complaints = Vec::new();
    for file in tree::rust_files().iter().filter(|file| !file.is_test) {
        let head: Vec<&str> =
            file.text.raw.iter().map(String::as_str).take_while(|line| line.starts_with("//!")).collect();
        let job = head.first().and_then(|line| line.strip_prefix("//! ")).unwrap_or("");
        if job.split_whitespace().count() < 2 {
            complaints.push(Complaint::new(&file.path, 1, "begins with `//! ` and the file's job"));
        }
        let prohibitions =
            head.iter().filter(|line| line.strip_prefix("//! May not: ").is_some_and(|what| what.len() > 4));
        if prohibitions.count() != 1 {
            complaints.push(Complaint::new(
                &file.path,
                1,
                "its head has one line `//! May not: ` with what it must never do",
            ));
        }
    }
    none(complaints);
}

/// What browsers and Node read, with what begins a line of its first comment.
fn page_texts() -> impl Iterator<Item = (&'static str, &'static [String], &'static str)> {
    tree::texts().iter().filter_map(|(path, lines)| {
        let comment = match path.rsplit_once('.')?.1 {
            "js" | "mjs" => "// ",
            "css" | "html" => "",
            _ => return None,
        };
        Some((path.as_str(), lines.as_slice(), comment))
    })
}

#[test]
fn pages_say_their_job_too() {
    let mut complaints = Vec::new();
    let mut met = BTreeSet::new();
    for (path, lines, comment) in page_texts() {
        met.insert(path.rsplit_once('.').map(|(_, kind)| kind));
        let is_comment = |line: &str| match comment {
            "" => !line.is_empty(),
            comment => line.starts_with(comment),
        };
        let head: Vec<&str> = lines.iter().map(String::as_str).take_while(|line| is_comment(line)).collect();
        let prohibition = format!("{comment}May not: ");
        if !head.iter().any(|line| line.trim_start().starts_with(&prohibition)) {
            let reason = format!("its head says its job and has a line `{prohibition}` with what it must never do");
            complaints.push(Complaint::new(path, 1, reason));
        }
    }
    assert!(met.len() >= 4, "of the four kinds of files only {met:?} were met");
    none(complaints);
}

#[test]
fn pages_make_no_markup_of_text_and_ask_nobody_else() {
    let mut complaints = Vec::new();
    for (path, lines, _) in page_texts().filter(|(path, ..)| path.starts_with("src/")) {
        for (index, line) in lines.iter().enumerate() {
            for word in NOT_IN_PAGES.iter().filter(|word| has_word(line, word)) {
                complaints.push(Complaint::new(path, index + 1, format!("`{word}`: what strangers wrote stays text")));
            }
            let is_comment = line.trim_start().starts_with("//");
            let address = ["http://", "https://"].iter().any(|scheme| line.contains(scheme));
            let handler = path.ends_with(".html")
                && line.split_whitespace().any(|word| word.starts_with("on") && word.contains("=\""));
            if (address && !is_comment) || handler {
                let reason = "a page loads from its own server alone, and its handlers are in its modules";
                complaints.push(Complaint::new(path, index + 1, reason));
            }
        }
    }
    none(complaints);
}

#[test]
fn names_have_a_noun() {
    let mut complaints = Vec::new();
    for path in tree::files().iter().filter(|path| !path.starts_with('.')) {
        let parts = path.split('/').map(|part| part.split('.').next().unwrap_or(part));
        for part in parts.filter(|part| HOMELESS.contains(part)) {
            complaints.push(Complaint::new(path, 0, format!("`{part}` says nothing about what is inside")));
        }
    }
    for file in tree::rust_files() {
        for (index, code) in file.text.code.iter().enumerate() {
            let words: Vec<&str> = code
                .split(|char: char| !char.is_alphanumeric() && char != '_')
                .filter(|word| !word.is_empty() && !GIVEN_NAMES.iter().any(|(given, _)| given == word))
                .collect();
            for pair in
                words.windows(2).filter(|pair| ["struct", "enum", "trait", "type", "union", "mod"].contains(&pair[0]))
            {
                let name = pair[1];
                if EMPTY_NOUNS.iter().any(|noun| name.contains(noun)) || (pair[0] == "mod" && HOMELESS.contains(&name))
                {
                    complaints.push(Complaint::new(&file.path, index + 1, format!("`{name}`: name what it is")));
                }
            }
            for word in words.iter().filter(|word| BRITISH.iter().any(|part| word.to_lowercase().contains(part))) {
                complaints.push(Complaint::new(
                    &file.path,
                    index + 1,
                    format!("`{word}`: names are spelled as the specification spells them"),
                ));
            }
        }
    }
    none(complaints);
}

#[test]
fn specification_links_carry_the_one_version() {
    let mut complaints = Vec::new();
    for (path, lines) in tree::texts() {
        for (index, line) in lines.iter().enumerate() {
            let is_pinned = |at: usize| line[at + SPEC_HOST.len()..].starts_with(SPEC_VERSION);
            let loose = line.match_indices(SPEC_HOST).any(|(at, _)| !is_pinned(at));
            if (loose && !line.contains("concat!(")) || line.contains(concat!("matrix.org/docs/", "spec")) {
                let reason = format!(
                    "a link to the specification begins with {SPEC_HOST}{SPEC_VERSION}, so that it still says the same later"
                );
                complaints.push(Complaint::new(path, index + 1, reason));
            }
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_left_over() {
    let mut complaints = Vec::new();
    for (path, lines) in tree::texts().iter().filter(|(path, _)| path != "LICENSE" && path != "Cargo.lock") {
        for (index, line) in lines.iter().enumerate() {
            for word in UNFINISHED.iter().filter(|word| has_word(line, word)) {
                complaints.push(Complaint::new(
                    path,
                    index + 1,
                    format!("`{word}`: work that is not done is not in the tree"),
                ));
            }
            let comment = line.trim_start().strip_prefix("//").unwrap_or("").trim_start();
            let is_code =
                ["pub ", "use ", "mod ", "let ", "fn ", "impl ", "#["].iter().any(|start| comment.starts_with(start));
            if path.ends_with(".rs")
                && is_code
                && (comment.ends_with(';') || comment.ends_with('{') || comment.ends_with(']'))
            {
                complaints.push(Complaint::new(path, index + 1, "code in a comment is neither code nor comment"));
            }
        }
    }
    none(complaints);
}

/// Where a sleep is no wait for something to have happened, and why.
const SLEEPERS: [(&str, &str); 2] = [
    ("tests/prove/src/proofs/sim/", "its runtime starts with paused time: a sleep is a step of virtual time"),
    ("tests/bench/src/load.rs", "at a fixed rate a request is sent when it is due"),
];

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let mut complaints = Vec::new();
    for file in tree::rust_files() {
        if SLEEPERS.iter().any(|(place, _)| file.path.starts_with(place)) {
            continue;
        }
        let mut time_is_virtual = false;
        for (line, code) in file.tests() {
            if code.contains("#[") && code.contains("test") {
                // On paused time a sleep is a statement about deadlines and takes no time.
                time_is_virtual = code.contains("start_paused = true");
            }
            time_is_virtual |= code.contains("tokio::time::pause()");
            if has_word(code, "sleep(") && !time_is_virtual {
                complaints.push(Complaint::new(
                    &file.path,
                    line,
                    "a test that sleeps is slow on good days and fails on bad ones",
                ));
            }
        }
    }
    for (path, lines) in tree::texts().iter().filter(|(path, _)| path.ends_with(".py") || path.ends_with(".sh")) {
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| {
            ["sleep(", "sleep "].iter().any(|word| has_word(line, word)) && !line.trim_start().starts_with('#')
        }) {
            let reason = format!("a test that sleeps is slow on good days and fails on bad ones: {}", line.trim());
            complaints.push(Complaint::new(path, index + 1, reason));
        }
    }
    none(complaints);
}

#[test]
fn maps_without_order_are_private_look_ups() {
    let files = tree::rust_files();
    let mut complaints = Vec::new();
    let mut met = BTreeSet::new();
    for (file, line, code) in
        shipped_lines(files).filter(|(_, _, code)| has_word(code, "HashMap") || has_word(code, "HashSet"))
    {
        if UNORDERED.iter().any(|(path, _)| *path == file.path) {
            met.insert(file.path.as_str());
            let is_public = code.trim_start().starts_with("pub ") && !code.contains(" use ");
            if is_public {
                complaints.push(Complaint::new(&file.path, line, "a map without order leaves its module"));
            }
        } else {
            complaints.push(Complaint::new(
                &file.path,
                line,
                "ordered maps in all that is signed, stored, sent or compared",
            ));
        }
    }
    for (path, _) in UNORDERED.iter().filter(|(path, _)| !met.contains(path)) {
        complaints.push(Complaint::new(path, 0, "stands among the exceptions and needs none"));
    }
    none(complaints);
}

#[test]
fn only_the_wiring_names_an_engine() {
    let files = tree::rust_files();
    let strangers = files
        .iter()
        .filter(|file| file.path != NAMES_ENGINE && !["storage/sled", "tests/prove"].contains(&file.crate_dir()))
        .flat_map(|file| file.text.code.iter().enumerate().map(move |(index, code)| (file, index + 1, code)))
        .filter(|(file, _, code)| {
            has_word(code, "vestibule_storage_sled") || (!file.is_test && has_word(code, "sled::"))
        });
    none(
        strangers
            .map(|(file, line, _)| Complaint::new(&file.path, line, format!("only {NAMES_ENGINE} names an engine")))
            .collect(),
    );
}

#[test]
fn the_floor_only_computes_and_rooms_stay_inside() {
    let files = tree::rust_files();
    let mut complaints = Vec::new();
    // `use std::{fs, io}` names `std::fs` too.
    let mut imports: BTreeMap<(&str, usize), Vec<String>> = BTreeMap::new();
    for file in files {
        for (line, path) in file.text.imports() {
            imports.entry((file.path.as_str(), line)).or_default().push(path);
        }
    }
    for (file, line, code) in shipped_lines(files) {
        let (words, reason): (&[&str], &str) = match file.crate_dir() {
            "src/protocol" => (&IMPURE, "decisions are pure: no IO, no clock, no randomness, no waiting"),
            "actors" => (&OUTSIDE, "a room reaches neither files nor the network"),
            _ => continue,
        };
        let imports = imports.get(&(file.path.as_str(), line)).map_or(&[][..], Vec::as_slice);
        for word in words.iter().filter(|word| has_word(code, word) || imports.iter().any(|path| has_word(path, word)))
        {
            complaints.push(Complaint::new(&file.path, line, format!("`{word}`: {reason}")));
        }
    }
    none(complaints);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let mut complaints = Vec::new();
    for file in tree::rust_files() {
        for (index, code) in file.text.code.iter().enumerate() {
            if has_word(code, "#[allow(") || has_word(code, "#![allow(") {
                complaints.push(Complaint::new(
                    &file.path,
                    index + 1,
                    "an exception from a lint is an `expect` with its proof",
                ));
            }
            if has_word(code, "#[expect(") || has_word(code, "#![expect(") {
                let attribute: Vec<&str> = file.text.code[index..]
                    .iter()
                    .map(String::as_str)
                    .scan(false, |ended, line| {
                        let line_counts = !*ended;
                        *ended |= line.contains(")]");
                        line_counts.then_some(line)
                    })
                    .collect();
                if !attribute.iter().any(|line| line.contains("reason =")) {
                    complaints.push(Complaint::new(
                        &file.path,
                        index + 1,
                        "an exception from a lint carries its reason",
                    ));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn no_file_knows_where_it_lies() {
    let here = tree::root().to_str().unwrap().to_owned() + "/";
    let mut complaints = Vec::new();
    for (path, lines) in tree::texts() {
        for (index, _) in lines.iter().enumerate().filter(|(_, line)| line.contains(&here)) {
            complaints.push(Complaint::new(path, index + 1, "the path of one machine"));
        }
    }
    none(complaints);
}
