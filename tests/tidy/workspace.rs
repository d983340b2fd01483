//! Crates as walls: who may name whom, what each floor may depend on, and what the manifests must say.
//! May not: look at code; a wall that is not in a manifest is in `sources`.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::tree::{self, Complaint};

/// The one line of crates, from the floor up: a crate names only those before it.
const LINE: [&str; 6] = ["src/protocol", "storage", "actors", "src/federation", "src/api", "."];

/// Storage engines hang off this place of the line and are named by the root alone.
const ENGINES: [&str; 1] = ["storage/sled"];
const ENGINES_HANG_OFF: &str = "storage";

/// Crates beside the line: they ship nothing, and may name every crate of it. Each is named by those after it, and by the
/// program's own tests.
const BESIDE: [&str; 3] = ["tests/scenery", "tests/prove", "tests/bench"];

/// What lies beside the sources at the top. Dot-files may too.
const TOP_LEVEL: [&str; 9] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "actors", "config.toml", "src", "storage", "tests"];

/// All that the floor may ship with: pure libraries, each without async, clock, randomness, log and IO of its own accord.
const PROTOCOL_MAY_DEPEND_ON: [&str; 10] =
    ["base64", "ed25519-dalek", "equivalent", "imbl", "ipnet", "ruma", "serde", "serde_json", "sha2", "thiserror"];

/// Beginnings of the names of crates that speak HTTP or reach the network.
const NETWORK: [&str; 15] = [
    "actix-files",
    "actix-http",
    "actix-server",
    "actix-web",
    "awc",
    "h2",
    "hickory",
    "http",
    "hyper",
    "quinn",
    "reqwest",
    "rustls",
    "tokio-rustls",
    "tower",
    "ureq",
];

/// Crates that one crate of ours alone may ship with, and why.
const OWNED: [(&str, &str, &str); 5] = [
    ("sled", "storage/sled", "an engine is known by its own crate only"),
    ("hickory-resolver", "src/federation", "only federation looks other servers up"),
    ("hyper", "src/federation", "only federation sends requests, through its address filter"),
    ("hyper-util", "src/federation", "only federation sends requests, through its address filter"),
    ("clap", ".", "only the program has a command line"),
];

/// Lints that the workspace must set, and how.
const LINTS: [(&str, &str, &str); 10] = [
    ("rust", "unsafe_code", "forbid"),
    ("rustdoc", "broken_intra_doc_links", "deny"),
    ("clippy", "unwrap_used", "deny"),
    ("clippy", "expect_used", "deny"),
    ("clippy", "panic", "deny"),
    ("clippy", "todo", "deny"),
    ("clippy", "dbg_macro", "deny"),
    ("clippy", "as_conversions", "deny"),
    ("clippy", "allow_attributes", "deny"),
    ("clippy", "wildcard_imports", "deny"),
];

/// Crates whose public items must all be documented.
const DOCUMENTED: [&str; 3] = ["src/protocol", "storage", "actors"];

/// Crates of the table that may be there in a second version, because others pull it in.
const SECOND_VERSIONS: [(&str, &str); 2] = [
    ("getrandom", "older releases come with ring and with the hashers of actix"),
    ("http", "actix-web speaks 0.2, ruma and hyper speak 1"),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Shipped,
    Dev,
}

struct Manifest {
    dir: String,
    path: String,
    text: String,
    table: Table,
}

struct Dependency {
    /// The name of the package, whatever it is called inside.
    package: String,
    kind: Kind,
    is_from_workspace: bool,
    line: usize,
}

impl Manifest {
    fn read(dir: &str) -> Self {
        let path = if dir == "." { "Cargo.toml".to_owned() } else { format!("{dir}/Cargo.toml") };
        Self::parse(dir, &path, tree::read(&path))
    }

    fn parse(dir: &str, path: &str, text: String) -> Self {
        let table = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { dir: dir.to_owned(), path: path.to_owned(), text, table }
    }

    fn package(&self) -> &str {
        self.table["package"]["name"].as_str().unwrap()
    }

    fn line_of(&self, key: &str) -> usize {
        tree::line_of(&self.text, |line| line.trim_start().starts_with(key))
    }

    /// Dependencies of every kind and target. `renamed`: packages of the workspace's table by the names given to them.
    fn dependencies(&self, renamed: &BTreeMap<String, String>) -> Vec<Dependency> {
        let mut found = Vec::new();
        let mut tables = vec![&self.table];
        let targets = self.table.get("target").and_then(Value::as_table);
        tables.extend(targets.into_iter().flat_map(|targets| targets.values()).filter_map(Value::as_table));
        for table in tables {
            for (section, kind) in [
                ("dependencies", Kind::Shipped),
                ("build-dependencies", Kind::Shipped),
                ("dev-dependencies", Kind::Dev),
            ] {
                for (name, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                    let own_name = value.get("package").and_then(Value::as_str);
                    let package = own_name.or(renamed.get(name).map(String::as_str)).unwrap_or(name);
                    let is_from_workspace = value.get("workspace").and_then(Value::as_bool) == Some(true);
                    let line = self.line_of(name);
                    found.push(Dependency { package: package.to_owned(), kind, is_from_workspace, line });
                }
            }
        }
        found
    }
}

struct Workspace {
    manifests: Vec<Manifest>,
    renamed: BTreeMap<String, String>,
}

impl Workspace {
    fn read() -> Self {
        let root = Manifest::read(".");
        let members: Vec<String> = root.table["workspace"]["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| member.as_str().unwrap().to_owned())
            .collect();
        Self::of(members.iter().map(|dir| Manifest::read(dir)).collect())
    }

    fn of(manifests: Vec<Manifest>) -> Self {
        let mut renamed = BTreeMap::new();
        for root in manifests.iter().filter(|manifest| manifest.dir == ".") {
            let table = root.table.get("workspace").and_then(|workspace| workspace.get("dependencies"));
            for (name, value) in table.and_then(Value::as_table).into_iter().flatten() {
                if let Some(package) = value.get("package").and_then(Value::as_str) {
                    renamed.insert(name.clone(), package.to_owned());
                }
            }
        }
        Self { manifests, renamed }
    }

    fn root(&self) -> &Manifest {
        self.manifests.iter().find(|manifest| manifest.dir == ".").unwrap()
    }

    fn dependencies(&self) -> impl Iterator<Item = (&Manifest, Dependency)> {
        self.manifests.iter().flat_map(|manifest| {
            manifest.dependencies(&self.renamed).into_iter().map(move |dependency| (manifest, dependency))
        })
    }

    fn arrows(&self) -> Vec<Complaint> {
        let dirs: BTreeMap<&str, &str> =
            self.manifests.iter().map(|manifest| (manifest.package(), manifest.dir.as_str())).collect();
        let mut complaints = Vec::new();
        for (manifest, dependency) in self.dependencies() {
            let Some(named) = dirs.get(dependency.package.as_str()) else { continue };
            if !may_name(&manifest.dir, named, dependency.kind) {
                let reason =
                    format!("{} may not name {named}: arrows point down the line {}", manifest.dir, LINE.join(" ← "));
                complaints.push(Complaint::new(&manifest.path, dependency.line, reason));
            }
        }
        complaints
    }

    fn outsiders(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let ours: BTreeSet<&str> = self.manifests.iter().map(Manifest::package).collect();
        for (manifest, dependency) in self.dependencies() {
            let name = dependency.package.as_str();
            if !dependency.is_from_workspace {
                let reason = format!("`{name}` stands outside the workspace's one table of versions");
                complaints.push(Complaint::new(&manifest.path, dependency.line, reason));
            }
            let ships = dependency.kind == Kind::Shipped && !BESIDE.contains(&manifest.dir.as_str());
            if !ships || ours.contains(name) {
                continue;
            }
            let reason = match manifest.dir.as_str() {
                "src/protocol" if !PROTOCOL_MAY_DEPEND_ON.contains(&name) => {
                    format!("the floor is pure: `{name}` is not among what it may ship with")
                }
                "actors" if NETWORK.iter().any(|network| name.starts_with(network)) => {
                    format!("a room never waits for the network, so actors cannot name `{name}`")
                }
                _ => match OWNED.iter().find(|(owned, ..)| *owned == name) {
                    Some((_, owner, reason)) if *owner != manifest.dir => {
                        format!("`{name}` belongs to {owner}: {reason}")
                    }
                    _ => continue,
                },
            };
            complaints.push(Complaint::new(&manifest.path, dependency.line, reason));
        }
        complaints
    }
}

fn may_name(who: &str, whom: &str, kind: Kind) -> bool {
    let place = |dir: &str| LINE.iter().position(|place| *place == dir);
    let beside = |dir: &str| BESIDE.iter().position(|place| *place == dir);
    match (beside(who), beside(whom)) {
        (Some(who), whom) => return whom.is_none_or(|whom| who > whom),
        (None, Some(_)) => return who == "." && kind == Kind::Dev,
        (None, None) => {}
    }
    if ENGINES.contains(&whom) {
        return who == ".";
    }
    let Some(whom) = place(whom) else { return false };
    if ENGINES.contains(&who) { place(ENGINES_HANG_OFF) >= Some(whom) } else { place(who) > Some(whom) }
}

/// Packages of the program, for the picture in the README.
pub fn package_names() -> BTreeSet<String> {
    let workspace = Workspace::read();
    let shipped = workspace.manifests.iter().filter(|manifest| !BESIDE.contains(&manifest.dir.as_str()));
    shipped.map(|manifest| manifest.package().to_owned()).collect()
}

#[test]
fn crates_name_only_those_below_them() {
    tree::none(Workspace::read().arrows());
}

#[test]
fn floors_keep_out_what_they_may_not_do() {
    tree::none(Workspace::read().outsiders());
}

#[test]
fn every_crate_has_its_place() {
    let members: BTreeSet<String> = Workspace::read().manifests.into_iter().map(|manifest| manifest.dir).collect();
    let expected: BTreeSet<String> = LINE.iter().chain(&ENGINES).chain(&BESIDE).map(|dir| (*dir).to_owned()).collect();
    assert_eq!(members, expected, "a crate is added to this file when it is added to the workspace");
    let manifests: Vec<String> = tree::files()
        .into_iter()
        .filter_map(|path| Some(path.strip_suffix("Cargo.toml")?.trim_end_matches('/').to_owned()))
        .map(|dir| if dir.is_empty() { ".".to_owned() } else { dir })
        .filter(|dir| !members.contains(dir))
        .collect();
    assert!(manifests.is_empty(), "a folder with a Cargo.toml is a crate of the workspace: {manifests:?}");
}

#[test]
fn a_wrong_arrow_and_an_outsider_are_caught() {
    let manifest = |dir: &str, package: &str, rest: &str| {
        Manifest::parse(dir, &format!("{dir}/Cargo.toml"), format!("[package]\nname = \"{package}\"\n{rest}"))
    };
    let workspace = Workspace::of(vec![
        manifest(
            ".",
            "r",
            "[workspace.dependencies]\nalias = { package = \"api\" }\n[dependencies]\nengine.workspace = true",
        ),
        manifest(
            "src/protocol",
            "protocol",
            "[dependencies]\ntokio.workspace = true\n[dev-dependencies]\nrand.workspace = true",
        ),
        manifest("storage", "storage", "[dev-dependencies]\nengine.workspace = true"),
        manifest(
            "storage/sled",
            "engine",
            "[dependencies]\nstorage.workspace = true\nactors.workspace = true\nsled.workspace = true",
        ),
        manifest("actors", "actors", "[dependencies]\nalias.workspace = true\nhyper-util.workspace = true"),
        manifest(
            "tests/prove",
            "prove",
            "[dependencies]\nengine.workspace = true\nclap.workspace = true\nrand = \"0.10\"",
        ),
        manifest("src/api", "api", "[target.'cfg(unix)'.dependencies]\nsled = \"0.34\"\nactors.workspace = true"),
    ]);
    let seen = |complaints: Vec<Complaint>| -> Vec<String> {
        complaints.into_iter().map(|complaint| format!("{}:{}", complaint.path, complaint.line)).collect()
    };
    assert_eq!(seen(workspace.arrows()), ["storage/Cargo.toml:4", "storage/sled/Cargo.toml:5", "actors/Cargo.toml:4"]);
    assert_eq!(
        seen(workspace.outsiders()),
        [
            "src/protocol/Cargo.toml:4",
            "actors/Cargo.toml:5",
            "tests/prove/Cargo.toml:6",
            "src/api/Cargo.toml:4",
            "src/api/Cargo.toml:4"
        ]
    );
}

#[test]
fn the_top_level_holds_only_what_it_may() {
    let ignored = tree::ignored_at_top();
    let strangers = tree::names_in(&tree::root())
        .into_iter()
        .filter(|name| !name.starts_with('.') && !ignored.contains(name) && !TOP_LEVEL.contains(&name.as_str()));
    tree::none(strangers.map(|name| Complaint::new(&name, 0, "the top level holds fixed names only")).collect());
    for name in TOP_LEVEL {
        assert!(tree::root().join(name).exists(), "{name} is missing at the top level");
    }
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let text = tree::read("Cargo.toml");
    let mut complaints = Vec::new();
    let mut is_in_table = false;
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            is_in_table = line == "[workspace.dependencies]";
        }
        let is_dependency = is_in_table && line.starts_with(|char: char| char.is_ascii_alphabetic());
        if is_dependency && !line.starts_with("vestibule-") {
            let own_reason = line.rsplit_once(" # ").is_some_and(|(_, reason)| !reason.trim().is_empty());
            if !own_reason && !before.starts_with("# ") {
                complaints.push(Complaint::new(
                    "Cargo.toml",
                    index + 1,
                    "a dependency carries its reason as a comment",
                ));
            }
        }
        before = line;
    }
    tree::none(complaints);
}

#[test]
fn ruma_is_pinned() {
    let workspace = Workspace::read();
    let version = workspace.root().table["workspace"]["dependencies"]["ruma"]["version"].as_str().unwrap();
    assert!(
        version.starts_with('='),
        "Cargo.toml: ruma {version}: earlier releases authorized knocks wrongly, later ones are read first"
    );
}

#[test]
fn no_crate_of_the_table_is_there_twice() {
    let lock: Table = tree::read("Cargo.lock").parse().unwrap();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        versions.entry(package["name"].as_str().unwrap()).or_default().push(package["version"].as_str().unwrap());
    }
    let workspace = Workspace::read();
    let table = workspace.root().table["workspace"]["dependencies"].as_table().unwrap();
    let doubled: BTreeSet<&str> = table
        .keys()
        .map(String::as_str)
        .filter(|name| versions.get(name).is_some_and(|found| found.len() > 1))
        .collect();
    let known: BTreeSet<&str> = SECOND_VERSIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        doubled, known,
        "Cargo.lock: a second version of a crate that we name, or an exception that is no longer one"
    );
}

/// `cargo deny` says the same, where it is there.
#[test]
fn versions_that_had_an_advisory_are_not_in_use() {
    let deny: Table = tree::read(".deny.toml").parse().unwrap();
    let lock: Table = tree::read("Cargo.lock").parse().unwrap();
    let text = |table: &Value, key: &str| table[key].as_str().unwrap().to_owned();
    let numbers = |version: &str| -> Vec<u64> {
        let plain = version.split(['-', '+']).next().unwrap();
        plain.split('.').map(|number| number.parse().unwrap()).collect()
    };
    let packages = lock["package"].as_array().unwrap();
    let mut named = BTreeSet::new();
    for refused in deny["bans"]["deny"].as_array().unwrap() {
        let (name, range) = (text(refused, "name"), text(refused, "version"));
        let good_from = numbers(range.strip_prefix('<').expect("versions before one"));
        for package in packages.iter().filter(|package| text(package, "name") == name) {
            let version = text(package, "version");
            assert!(numbers(&version) >= good_from, "Cargo.lock: {name} {version}: {}", text(refused, "reason"));
        }
        named.insert(name);
    }
    for name in ["actix-http", "ed25519-dalek", "h2", "hickory-proto", "idna", "ruma-state-res", "rustls"] {
        assert!(named.contains(name), ".deny.toml: earlier versions of {name} had an advisory (SECURITY V89, V90)");
    }
}

#[test]
fn every_crate_has_the_lints() {
    let workspace = Workspace::read();
    let lints = &workspace.root().table["workspace"]["lints"];
    let mut complaints = Vec::new();
    for (tool, lint, level) in LINTS {
        if lints.get(tool).and_then(|tool| tool.get(lint)).and_then(Value::as_str) != Some(level) {
            complaints.push(Complaint::new(
                "Cargo.toml",
                0,
                format!("[workspace.lints.{tool}] sets {lint} = \"{level}\""),
            ));
        }
    }
    for manifest in &workspace.manifests {
        let takes_them = manifest.table.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
        if takes_them != Some(true) {
            complaints.push(Complaint::new(&manifest.path, 0, "every crate has [lints] workspace = true"));
        }
        if manifest.table["package"].get("build").and_then(Value::as_bool) != Some(false) {
            complaints.push(Complaint::new(&manifest.path, 0, "no crate has a build script: build = false"));
        }
    }
    for dir in DOCUMENTED {
        let path = format!("{dir}/lib.rs");
        if !tree::read(&path).lines().any(|line| line == "#![warn(missing_docs)]") {
            complaints.push(Complaint::new(&path, 0, "this crate warns of public items without documentation"));
        }
    }
    tree::none(complaints);
}
