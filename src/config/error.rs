//! Why a configuration is refused: which key, what was expected there, and who set it.
//! May not: quote a line of the file, which may hold a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::private_file;

/// A refused configuration. The program ends with code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration file {path} cannot be read")]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is not TOML.
    #[error("configuration file {path}, line {line}, column {column}: {problem}")]
    Syntax { path: PathBuf, line: usize, column: usize, problem: String },
    /// A key that does not exist, or a value that it cannot have.
    #[error("{}", Key { key, problem, set_by: set_by.as_ref() })]
    Key { key: String, problem: String, set_by: Option<SetBy> },
    /// The secret file that a key names cannot be used.
    #[error("{key}: the secret file cannot be used")]
    SecretFile { key: &'static str, source: private_file::ReadError },
    /// `--set` without `=`, or with a key that TOML cannot read.
    #[error(
        "--set {argument}: expected KEY=VALUE with a dotted key such as knock.repeat_after, listener.0.address or federation.server_addresses.\"hs1:8448\""
    )]
    BadSet { argument: String },
    /// An environment variable that starts with `VESTIBULE_` and names no key.
    #[error(
        "environment variable {name}: expected VESTIBULE_ and a key whose tables are separated by __, such as VESTIBULE_KNOCK__REPEAT_AFTER, and a value in UTF-8"
    )]
    BadVariable { name: String },
}

/// Who set a key last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetBy {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// The command line.
    Argument,
}

impl ConfigError {
    /// A value that is wrong beside others.
    pub(super) fn of_value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Key { key: key.into(), problem: problem.into(), set_by: None }
    }

    /// The dotted key that the error is about, if it is about one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Key { key, .. } => Some(key),
            Self::SecretFile { key, .. } => Some(key),
            Self::Unreadable { .. } | Self::Syntax { .. } | Self::BadSet { .. } | Self::BadVariable { .. } => None,
        }
    }
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "set by environment variable {name}"),
            Self::Argument => f.write_str("set by --set"),
        }
    }
}

/// The text of [`ConfigError::Key`].
struct Key<'a> {
    key: &'a str,
    problem: &'a str,
    set_by: Option<&'a SetBy>,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration key {}: {}", self.key, self.problem)?;
        match self.set_by {
            Some(set_by) => write!(f, " ({set_by})"),
            None => Ok(()),
        }
    }
}
