//! The repository as files: what git would keep, read once for all rules.
//! May not: follow links, or look at what is ignored.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::rust_text::RustText;

/// Directories that are no part of the project, wherever they lie.
const IGNORED_DIRS: [&str; 2] = [".git", "__pycache__"];

/// A rule that is broken: where, and why that matters.
pub struct Complaint {
    pub path: String,
    /// From 1; 0 speaks of the whole file.
    pub line: usize,
    pub reason: String,
}

impl Complaint {
    pub fn new(path: &str, line: usize, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, reason: reason.into() }
    }
}

/// Fails the test with one line for each complaint.
#[track_caller]
pub fn none(complaints: Vec<Complaint>) {
    let lines: Vec<String> = complaints
        .iter()
        .map(
            |Complaint { path, line, reason }| {
                if *line == 0 { format!("{path}: {reason}") } else { format!("{path}:{line}: {reason}") }
            },
        )
        .collect();
    assert!(lines.is_empty(), "{} broken:\n{}\n", lines.len(), lines.join("\n"));
}

/// A Rust file of the workspace.
pub struct RustFile {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// The whole file is compiled for tests only.
    pub is_test: bool,
    pub text: RustText,
}

impl RustFile {
    /// Numbers and code of all lines that ship.
    pub fn shipped(&self) -> Vec<(usize, &str)> {
        if self.is_test { Vec::new() } else { self.text.shipped().collect() }
    }

    /// Numbers and code of all lines of tests.
    pub fn tests(&self) -> Vec<(usize, &str)> {
        if self.is_test {
            self.text.code.iter().enumerate().map(|(index, line)| (index + 1, line.as_str())).collect()
        } else {
            self.text.tests().collect()
        }
    }

    /// The folder of the crate, as the workspace names it; `.` for the root.
    pub fn crate_dir(&self) -> &'static str {
        const INNER_FIRST: [&str; 8] = [
            "src/protocol",
            "src/federation",
            "src/api",
            "storage/sled",
            "storage",
            "actors",
            "tests/scenery",
            "tests/prove",
        ];
        INNER_FIRST.into_iter().find(|dir| self.path.starts_with(&format!("{dir}/"))).unwrap_or(".")
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What git ignores at the top level, by the lines of `.gitignore` that begin with a slash.
pub fn ignored_at_top() -> BTreeSet<String> {
    read(".gitignore")
        .lines()
        .filter_map(|line| line.strip_prefix('/'))
        .map(|name| name.trim_end_matches('/').to_owned())
        .collect()
}

/// Every text file of the project, from the root, in order.
pub fn files() -> Vec<String> {
    let ignored = ignored_at_top();
    let mut found = Vec::new();
    for name in names_in(&root()) {
        if !ignored.contains(&name) {
            walk(&root().join(&name), &name, &mut found);
        }
    }
    found
}

pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn walk(path: &Path, name: &str, found: &mut Vec<String>) {
    if IGNORED_DIRS.contains(&path.file_name().unwrap().to_str().unwrap()) {
        return;
    }
    if path.is_dir() && !path.is_symlink() {
        for inner in names_in(path) {
            walk(&path.join(&inner), &format!("{name}/{inner}"), found);
        }
    } else {
        found.push(name.to_owned());
    }
}

/// Text files with their lines; what is not UTF-8 is left out.
pub fn texts() -> &'static [(String, Vec<String>)] {
    static READ: LazyLock<Vec<(String, Vec<String>)>> = LazyLock::new(read_texts);
    &READ
}

/// Every Rust file. Files under `tests`, and modules that their parent declares for tests, are tests with all below them.
pub fn rust_files() -> &'static [RustFile] {
    static READ: LazyLock<Vec<RustFile>> = LazyLock::new(read_rust_files);
    &READ
}

fn read_texts() -> Vec<(String, Vec<String>)> {
    files()
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(root().join(&path)).ok()?;
            Some((path, text.lines().map(str::to_owned).collect()))
        })
        .collect()
}

fn read_rust_files() -> Vec<RustFile> {
    let mut files: Vec<RustFile> = files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| RustFile { is_test: path.starts_with("tests/"), text: RustText::parse(&read(&path)), path })
        .collect();
    let declared: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let dir = module_dir(&file.path);
            file.text.test_modules().into_iter().map(move |name| format!("{dir}/{name}"))
        })
        .collect();
    for file in &mut files {
        file.is_test |= declared
            .iter()
            .any(|module| file.path == format!("{module}.rs") || file.path.starts_with(&format!("{module}/")));
    }
    files
}

/// Where the files of a module's own modules lie.
fn module_dir(path: &str) -> String {
    let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => dir.to_owned(),
        _ => path.trim_end_matches(".rs").to_owned(),
    }
}

/// The number of the first line that satisfies the condition; 0 when none does.
pub fn line_of(text: &str, is_it: impl Fn(&str) -> bool) -> usize {
    text.lines().position(is_it).map_or(0, |index| index + 1)
}
