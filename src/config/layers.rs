//! Lays file, environment and command line over the built-in defaults, and reads the result.
//! May not: know a key; the structs do.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize as _;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::{Config, ConfigError, SetBy};

/// What an environment variable starts with to be ours.
const VARIABLE_PREFIX: &str = "VESTIBULE_";

/// What separates tables in an environment variable's name.
const VARIABLE_SEPARATOR: &str = "__";

/// Settings whose keys are chosen by the user: a new value replaces the old one instead of adding to it.
const USER_KEYED: [&[&str]; 1] = [&["federation", "server_addresses"]];

/// One key set from outside the file.
#[derive(Debug)]
pub(super) struct Override {
    path: Vec<String>,
    text: String,
    set_by: SetBy,
}

/// Collects the overrides, the weakest first.
///
/// # Errors
/// When a variable or an argument cannot be taken apart.
pub(super) fn overrides<E>(environment: E, set: &[String]) -> Result<Vec<Override>, ConfigError>
where
    E: IntoIterator<Item = (OsString, OsString)>,
{
    let mut overrides = Vec::new();
    for (name, value) in environment {
        overrides.extend(of_variable(&name, value)?);
    }
    // The order of the environment means nothing: outer keys come before what is inside them, list entries in order.
    overrides.sort_by(|left, right| compare_paths(&left.path, &right.path));
    for argument in set {
        overrides.push(of_argument(argument)?);
    }
    Ok(overrides)
}

/// Reads the defaults with `file` (its name and text) and then `overrides` laid over them.
///
/// # Errors
/// Names the key that does not exist or whose value does not fit.
pub(super) fn merge(
    defaults: &str,
    file: Option<(&Path, &str)>,
    overrides: Vec<Override>,
) -> Result<Config, ConfigError> {
    let mut layered = parse(Path::new("built-in config.toml"), defaults)?;
    if let Some((path, text)) = file {
        lay_over(&mut layered, parse(path, text)?, &mut Vec::new());
    }
    let file = file.map(|(path, _)| SetBy::File(path.to_owned()));
    // A value that reads as TOML of a kind the key does not take may be meant as text: `rooms.default_version=10`.
    let mut taken_as_text = BTreeSet::new();
    let mut first_error = None;
    loop {
        let mut table = layered.clone();
        for (number, change) in overrides.iter().enumerate() {
            change.apply(&mut table, taken_as_text.contains(&number))?;
        }
        let (path, problem) = match deserialize(table) {
            Ok(config) => return Ok(config),
            Err(refused) => refused,
        };
        let culprit = overrides.iter().enumerate().rev().find(|(_, change)| change.concerns(&path));
        let set_by = culprit.map(|(_, change)| change.set_by.clone()).or_else(|| file.clone());
        let error = first_error.unwrap_or(ConfigError::Key { key: dotted(&path), problem, set_by });
        match culprit {
            Some((number, change)) if change.path == path && taken_as_text.insert(number) => first_error = Some(error),
            _ => return Err(error),
        }
    }
}

impl Override {
    /// Puts the value at its place.
    fn apply(&self, table: &mut Table, as_text: bool) -> Result<(), ConfigError> {
        let value = match self.text.trim().parse::<Value>() {
            Ok(value) if !as_text => value,
            _ => Value::String(self.text.trim().to_owned()),
        };
        let refused = |depth: usize, problem: String| {
            let key = dotted(self.path.get(..depth).unwrap_or(&self.path));
            ConfigError::Key { key, problem, set_by: Some(self.set_by.clone()) }
        };
        let Some((first, rest)) = self.path.split_first() else {
            return Ok(());
        };
        let mut place = table.entry(first.as_str()).or_insert_with(|| Value::Table(Table::new()));
        for (depth, key) in rest.iter().enumerate() {
            place = match place {
                Value::Table(table) => table.entry(key.as_str()).or_insert_with(|| Value::Table(Table::new())),
                Value::Array(array) => {
                    let length = array.len();
                    let problem = || format!("expected the number of a list entry, 0 to {length}");
                    let index: usize = key.parse().map_err(|_| refused(depth + 2, problem()))?;
                    if index == length {
                        array.push(Value::Table(Table::new()));
                    }
                    array.get_mut(index).ok_or_else(|| refused(depth + 2, problem()))?
                }
                other => {
                    return Err(refused(
                        depth + 1,
                        format!("this is a {}, so nothing can be set inside it", other.type_str()),
                    ));
                }
            };
        }
        match (place, value) {
            (Value::Table(old), Value::Table(new)) if !is_user_keyed(&self.path) => {
                lay_over(old, new, &mut self.path.clone())
            }
            (place, value) => *place = value,
        }
        Ok(())
    }

    /// Whether it set what is at `path`, or something around or inside it.
    fn concerns(&self, path: &[String]) -> bool {
        path.starts_with(&self.path) || (!path.is_empty() && self.path.starts_with(path))
    }
}

fn of_variable(name: &OsString, value: OsString) -> Result<Option<Override>, ConfigError> {
    let printable = name.to_string_lossy();
    if !printable.starts_with(VARIABLE_PREFIX) {
        return Ok(None);
    }
    let bad = || ConfigError::BadVariable { name: printable.to_string() };
    let key = name.to_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX)).ok_or_else(bad)?;
    let path: Vec<String> = key.split(VARIABLE_SEPARATOR).map(str::to_lowercase).collect();
    if path.iter().any(String::is_empty) {
        return Err(bad());
    }
    let text = value.into_string().map_err(|_| bad())?;
    Ok(Some(Override { path, text, set_by: SetBy::Variable(printable.to_string()) }))
}

fn of_argument(argument: &str) -> Result<Override, ConfigError> {
    // Only the key is shown on error: the value may be a secret.
    let (key, text) = split_at_equals(argument);
    let bad = || ConfigError::BadSet { argument: key.to_owned() };
    let text = text.ok_or_else(bad)?;
    let path = path_of_key(key).ok_or_else(bad)?;
    Ok(Override { path, text: text.to_owned(), set_by: SetBy::Argument })
}

/// Splits at the first `=` that is not inside quotes.
fn split_at_equals(argument: &str) -> (&str, Option<&str>) {
    let mut quote = None;
    for (at, char) in argument.char_indices() {
        match (quote, char) {
            (None, '=') => return (&argument[..at], Some(&argument[at + 1..])),
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            _ => {}
        }
    }
    (argument, None)
}

/// Lets TOML take a dotted key apart, quotes included.
fn path_of_key(key: &str) -> Option<Vec<String>> {
    let mut table = format!("{key} = 0").parse::<Table>().ok()?;
    let mut path = Vec::new();
    loop {
        let mut entries = table.into_iter();
        let (key, value) = entries.next()?;
        // More than one entry: the text was more than a key.
        if entries.next().is_some() {
            return None;
        }
        path.push(key);
        match value {
            Value::Table(inner) => table = inner,
            Value::Integer(0) => return Some(path),
            _ => return None,
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[line_start..].chars().count() + 1;
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            problem: error.message().to_owned(),
        }
    })
}

/// Tables are merged key by key; everything else, lists too, is replaced.
fn lay_over(below: &mut Table, above: Table, path: &mut Vec<String>) {
    for (key, value) in above {
        path.push(key.clone());
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) if !is_user_keyed(path) => lay_over(below, above, path),
            (_, value) => {
                below.insert(key, value);
            }
        }
        path.pop();
    }
}

fn is_user_keyed(path: &[String]) -> bool {
    USER_KEYED.iter().any(|keyed| path.iter().eq(keyed.iter()))
}

/// The settings, or the path of what is wrong and the problem there.
fn deserialize(table: Table) -> Result<Config, (Vec<String>, String)> {
    if let Some(path) = required_but_missing(&table) {
        return Err((path, "is required".to_owned()));
    }
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(Value::Table(table), &mut track);
    Config::deserialize(tracked).map_err(|error| {
        let path = track.path();
        let path = path.iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        });
        (path.collect(), error.message().to_owned())
    })
}

/// Looked for here since serde names the table that lacks a key, and we name the key.
fn required_but_missing(table: &Table) -> Option<Vec<String>> {
    let listeners = table.get("listener")?.as_array()?.iter().enumerate();
    let of_listeners = listeners.filter_map(|(index, listener)| {
        let listener = listener.as_table()?;
        let missing = ["address", "serves"].into_iter().find(|key| !listener.contains_key(*key))?;
        Some(vec!["listener".to_owned(), index.to_string(), missing.to_owned()])
    });
    of_listeners.into_iter().next()
}

/// The key as `--set` takes it.
fn dotted(path: &[String]) -> String {
    let quoted = |key: &String| {
        let is_bare =
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if is_bare { key.clone() } else { format!("{key:?}") }
    };
    path.iter().map(quoted).collect::<Vec<_>>().join(".")
}

/// Numbers by value, so that entry 10 of a list comes after entry 9.
fn compare_paths(left: &[String], right: &[String]) -> Ordering {
    let rank = |key: &String| (key.parse::<u64>().ok(), key.clone());
    left.iter().map(rank).cmp(right.iter().map(rank))
}
