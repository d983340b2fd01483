//! Facts that are written down in two places: refusals and their answers, settings, messages, and what the README tells.
//! May not: repeat what a type checks; it compares texts where no compiler looks.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::{
    tree::{self, Complaint, RustFile, none},
    workspace,
};

/// What the settings must be, one path each. Source: the outside contract.
const SETTINGS: [&str; 47] = [
    "server_name",
    "data_dir",
    "trusted_proxies",
    "well_known_client",
    "well_known_server",
    "listener.address",
    "listener.serves",
    "listener.tls",
    "listener.tls_certificate",
    "listener.tls_private_key",
    "registration.open",
    "registration.shared_secret",
    "registration.shared_secret_file",
    "federation.trusted_ca_files",
    "federation.denied_ip_ranges",
    "federation.allowed_ip_ranges",
    "federation.server_addresses",
    "federation.denied_servers",
    "federation.banned_keys",
    "federation.notaries",
    "federation.request_timeout",
    "federation.retry_backoff_min",
    "federation.retry_backoff_max",
    "rooms.default_version",
    "knock.repeat_after",
    "knock.max_pending_per_room",
    "knock.max_pending_per_origin_in_room",
    "knock.reason_bytes_max",
    "knock.expire_after",
    "knock.auto_join_accepted",
    "actors.mailbox_capacity",
    "actors.live_max",
    "actors.idle_timeout",
    "storage.cache",
    "storage.min_free",
    "rate_limit.enabled",
    "rate_limit.knocks_in_room",
    "rate_limit.knocks_by_origin_in_room",
    "rate_limit.knocks_by_origin",
    "rate_limit.knocks_by_network",
    "rate_limit.knocks_by_user_in_room",
    "rate_limit.knocks_by_user",
    "rate_limit.new_origins_by_network",
    "rate_limit.requests_by_origin",
    "rate_limit.queries_by_origin",
    "rate_limit.logins_by_address",
    "rate_limit.messages_by_user",
];

/// Where the table from facts to Matrix errors is, and its tests.
const ERROR_TABLE: &str = "src/api/error/table.rs";
const ERROR_TABLE_TESTS: &str = "src/api/error/table/tests.rs";

/// What lower crates report to handlers: the file, and the enums that have their rows in the table.
const REPORTED: [(&str, &[&str]); 7] = [
    (
        "src/protocol/membership.rs",
        &[
            "KnockRefusal",
            "HandshakeRefusal",
            "LeaveRefusal",
            "ReadRefusal",
            "JoinRefusal",
            "InviteRefusal",
            "MembershipRefusal",
            "SendRefusal",
            "CreateRefusal",
        ],
    ),
    ("src/protocol/canonical_json.rs", &["JsonRefusal"]),
    ("storage/error.rs", &["StorageError"]),
    ("storage/commit.rs", &["CommitError", "Conflict", "NoSlot"]),
    ("actors/registry.rs", &["AskError"]),
    ("src/federation/keyring.rs", &["KeyError"]),
    ("src/federation/keyring/x_matrix.rs", &["VerifyRequestError"]),
];

/// Refusals that never reach a handler, and what they have become by then.
const INNER_REFUSALS: [(&str, &str); 8] = [
    ("AnswerRefusal", "ReceiveRefusal::Unsolicited"),
    ("ImportRefusal", "what the join elsewhere failed with"),
    ("KnockElsewhereRefusal", "what the knock elsewhere failed with"),
    ("ReceiveRefusal", "the error of one event in the answer to a transaction"),
    ("ShapeRefusal", "a HandshakeRefusal or an InviteRefusal names the same fact"),
    ("SignatureRefusal", "HandshakeRefusal::SignatureInvalid or InviteRefusal::SignatureInvalid"),
    ("TemplateRefusal", "one server less to ask"),
    ("BuildRefusal", "the refusal of the operation that built the event"),
];

/// Where a knock's refusals get the names that counters and the README show: the file and the enum.
const NAMED_REFUSALS: [(&str, &str); 3] = [
    ("src/protocol/membership.rs", "KnockRefusal"),
    ("src/protocol/membership.rs", "HandshakeRefusal"),
    ("src/api/server_server/handshake.rs", "DoorRefusal"),
];

fn rust_file(path: &str) -> &'static RustFile {
    tree::rust_files().iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is gone"))
}

/// The lines of the item whose first line begins with one of `starts`, up to the closing brace in the first column.
fn item<'a>(lines: &'a [String], starts: &[String]) -> Vec<(usize, &'a str)> {
    let first = lines.iter().position(|line| starts.iter().any(|start| line.starts_with(start.as_str())));
    let Some(first) = first else { return Vec::new() };
    let length = lines[first..].iter().position(|line| line.starts_with('}')).map_or(0, |end| end + 1);
    lines.iter().enumerate().skip(first).take(length).map(|(index, line)| (index + 1, line.as_str())).collect()
}

/// The variants of an enum with their lines. Variants stand one to a line, four columns in.
fn variants(file: &RustFile, name: &str) -> Vec<(usize, String)> {
    let starts = ["pub enum", "pub(super) enum", "pub(crate) enum", "enum"]
        .iter()
        .flat_map(|start| [" {", "<"].map(|end| format!("{start} {name}{end}")))
        .collect::<Vec<_>>();
    let found: Vec<(usize, String)> = item(&file.text.code, &starts)
        .into_iter()
        .filter_map(|(line, code)| {
            let name = code.strip_prefix("    ").filter(|rest| rest.starts_with(char::is_uppercase))?;
            Some((line, name.chars().take_while(|char| char.is_alphanumeric()).collect()))
        })
        .collect();
    assert!(!found.is_empty(), "{}: enum {name} is gone", file.path);
    found
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for char in name.chars() {
        if char.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(char.to_lowercase());
    }
    snake
}

/// The names between backquotes in the first column of the tables below a heading, with their lines.
fn first_column(markdown: &str, heading: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut is_below = false;
    for (index, line) in markdown.lines().enumerate() {
        if line.starts_with('#') {
            is_below = line.trim_start_matches('#').trim() == heading;
        } else if is_below && let Some((name, _)) = line.strip_prefix("| `").and_then(|row| row.split_once('`')) {
            found.insert(name.to_owned(), index + 1);
        }
    }
    assert!(!found.is_empty(), "README.md: no table below “{heading}”");
    found
}

#[test]
fn every_fact_has_its_row_in_the_error_table() {
    let table = rust_file(ERROR_TABLE);
    let tests = tree::read(ERROR_TABLE_TESTS);
    let rows = table.text.code.join("\n");
    let mut complaints = Vec::new();
    for (path, enums) in REPORTED {
        let file = rust_file(path);
        for name in enums {
            for (line, variant) in variants(file, name) {
                let fact = format!("{name}::{variant}");
                let is_in = |text: &str| {
                    text.match_indices(&fact).any(|(at, _)| {
                        !text[at + fact.len()..].starts_with(|char: char| char.is_alphanumeric() || char == '_')
                    })
                };
                if !is_in(&rows) {
                    complaints.push(Complaint::new(path, line, format!("{fact} has no row in {ERROR_TABLE}")));
                }
                if !is_in(&tests) {
                    complaints.push(Complaint::new(path, line, format!("{fact} has no row in {ERROR_TABLE_TESTS}")));
                }
            }
            let start = format!("impl From<{name}> for MatrixError");
            for (line, code) in item(&table.text.code, &[start]) {
                if code.trim_start().starts_with("_ =>") {
                    complaints.push(Complaint::new(
                        ERROR_TABLE,
                        line,
                        format!("a new variant of {name} would slip through here"),
                    ));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn every_refusal_of_a_lower_crate_is_known_here() {
    let known: BTreeSet<&str> = REPORTED
        .iter()
        .flat_map(|(_, enums)| enums.iter().copied())
        .chain(INNER_REFUSALS.iter().map(|(name, _)| *name))
        .collect();
    let mut complaints = Vec::new();
    for file in
        tree::rust_files().iter().filter(|file| ["src/protocol", "storage", "actors"].contains(&file.crate_dir()))
    {
        for (line, code) in file.shipped() {
            let name: String = code
                .strip_prefix("pub enum ")
                .unwrap_or("")
                .chars()
                .take_while(|char| char.is_alphanumeric())
                .collect();
            if name.ends_with("Refusal") && !known.contains(name.as_str()) {
                complaints.push(Complaint::new(
                    &file.path,
                    line,
                    format!("{name} is neither reported to handlers nor an inner refusal"),
                ));
            }
        }
    }
    none(complaints);
}

#[test]
fn errcodes_are_named_by_the_error_module_alone() {
    let mut complaints = Vec::new();
    for file in tree::rust_files()
        .iter()
        .filter(|file| file.crate_dir() == "src/api" && !file.path.starts_with("src/api/error"))
    {
        let shipped: BTreeSet<usize> = file.shipped().into_iter().map(|(line, _)| line).collect();
        for (index, line) in file.text.quoted.iter().enumerate() {
            if shipped.contains(&(index + 1)) && line.contains("\"M_") {
                complaints.push(Complaint::new(&file.path, index + 1, "an errcode is chosen by the error module"));
            }
        }
    }
    none(complaints);
}

#[test]
fn refusals_are_named_by_their_variants_and_explained_in_the_readme() {
    let explained = first_column(&tree::read("README.md"), "Why a knock is refused");
    let mut complaints = Vec::new();
    let mut names = BTreeSet::new();
    for (path, refusal) in NAMED_REFUSALS {
        let file = rust_file(path);
        let given = item(&file.text.quoted, &[format!("impl {refusal} {{")]);
        for (line, variant) in variants(file, refusal) {
            let name = snake_case(&variant);
            let arm = format!("Self::{variant}");
            let is_named = given.iter().any(|(_, line)| {
                let is_arm = line.trim_start().strip_prefix(&arm).is_some_and(|rest| rest.starts_with(' '));
                is_arm && line.contains(&format!("=> \"{name}\""))
            });
            if !is_named {
                complaints.push(Complaint::new(path, line, format!("name() of {refusal}::{variant} is \"{name}\"")));
            }
            if !explained.contains_key(&name) {
                complaints.push(Complaint::new(path, line, format!("README.md does not explain `{name}`")));
            }
            names.insert(name);
        }
    }
    for (name, line) in explained.iter().filter(|(name, _)| !names.contains(*name)) {
        complaints.push(Complaint::new("README.md", *line, format!("nothing is refused as `{name}`")));
    }
    none(complaints);
}

#[test]
fn the_readme_draws_exactly_the_crates_that_exist() {
    let readme = tree::read("README.md");
    let section = readme.split_once("\n## Architecture\n").expect("README.md has a section “Architecture”").1;
    let picture = section.split("```").nth(1).expect("README.md: the architecture begins with a picture");
    let drawn: BTreeSet<String> = picture
        .split(|char: char| !char.is_ascii_alphanumeric() && char != '-')
        .filter(|word| *word == "vestibule" || word.starts_with("vestibule-"))
        .map(str::to_owned)
        .collect();
    assert_eq!(drawn, workspace::package_names(), "README.md: the picture shows the crates of the workspace");
}

#[test]
fn the_readme_tells_all_commands_and_metrics() {
    let readme = tree::read("README.md");
    let mut complaints = Vec::new();
    let commands = variants(rust_file("src/args.rs"), "Command");
    let told = first_column(&readme, "Commands");
    for (line, variant) in commands {
        let name = snake_case(&variant).replace('_', "-");
        if !told.keys().any(|command| command.split(' ').next() == Some(&name)) {
            complaints.push(Complaint::new(
                "src/args.rs",
                line,
                format!("README.md has no row for the command `{name}`"),
            ));
        }
    }
    let path = "src/api/admin/metrics.rs";
    for (index, line) in rust_file(path).text.quoted.iter().enumerate() {
        for name in line.split('"').filter(|text| {
            text.starts_with("vestibule_") && text.chars().all(|char| char.is_ascii_lowercase() || char == '_')
        }) {
            if !readme.contains(&format!("`{name}")) {
                complaints.push(Complaint::new(
                    path,
                    index + 1,
                    format!("README.md does not name the metric `{name}`"),
                ));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_setting_of_the_contract_is_in_the_shipped_configuration() {
    let text = tree::read("config.toml");
    let table: Table = text.parse().unwrap();
    let is_explained = |key: &str| {
        // Settings without a default stand as a comment: `# key = …`, or in the list of a listener's keys: `#   key   …`.
        text.lines().filter_map(|line| line.strip_prefix('#')).any(|comment| {
            let mut words = comment.split_whitespace();
            words.next() == Some(key) && (words.next() == Some("=") || comment.starts_with("   "))
        })
    };
    let mut missing = Vec::new();
    for setting in SETTINGS {
        let (section, key) = setting.rsplit_once('.').unwrap_or(("", setting));
        let section = match section {
            "" => Some(&table),
            "listener" => table["listener"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_table)
                .find(|table| table.contains_key(key)),
            name => table.get(name).and_then(Value::as_table),
        };
        if !section.is_some_and(|section| section.contains_key(key)) && !is_explained(key) {
            missing.push(Complaint::new("config.toml", 0, format!("the setting {setting} is missing")));
        }
    }
    none(missing);
}

#[test]
fn every_message_of_a_room_has_its_file_and_its_name() {
    let mut complaints = Vec::new();
    for file in tree::rust_files().iter().filter(|file| file.crate_dir() == "actors") {
        let stem = file.path.rsplit('/').next().unwrap_or("").trim_end_matches(".rs");
        let messages: Vec<(usize, String)> = file
            .shipped()
            .into_iter()
            .filter_map(|(line, code)| {
                Some((line, code.strip_prefix("impl RoomMessage for ")?.trim_end_matches([' ', '{']).to_owned()))
            })
            .collect();
        for (line, message) in &messages {
            if snake_case(message) != stem {
                complaints.push(Complaint::new(
                    &file.path,
                    *line,
                    format!("{message} has the file {}.rs to itself", snake_case(message)),
                ));
            }
            if !file
                .text
                .quoted
                .iter()
                .any(|code| code.contains("const KIND") && code.contains(&format!("\"{}\"", snake_case(message))))
            {
                complaints.push(Complaint::new(
                    &file.path,
                    *line,
                    format!("the actor stats call it \"{}\"", snake_case(message)),
                ));
            }
        }
    }
    none(complaints);
}

/// Tests that the README names, as `file::test`, are what a reader goes by, and what fails when the thing is gone.
#[test]
fn tests_that_the_readme_names_are_there() {
    let readme = tree::read("README.md");
    let named: BTreeSet<(&str, &str)> = readme
        .split('`')
        .filter_map(|word| word.split_once("::"))
        .filter(|(file, _)| file.contains('/') && (file.ends_with(".rs") || file.ends_with(".py")))
        .collect();
    assert!(named.len() >= 10, "only {} are named", named.len());
    let missing = named.into_iter().filter(|(file, name)| {
        let text = tree::read(file);
        !["fn ", "def "].iter().any(|start| text.contains(&format!("{start}{name}(")))
    });
    none(
        missing
            .map(|(file, name)| Complaint::new(file, 0, format!("has no test `{name}`, which README.md names")))
            .collect(),
    );
}
