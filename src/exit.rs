//! How the program ends: one number for each kind of ending, and the one line that says why.
//! May not: decide anything; whoever refuses names the kind.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::logger::escape;

/// How a run of the program ended. The numbers are part of the outside contract; scripts and service managers read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything that was asked for was done.
    Success,
    /// 1: it was not done, and trying again may help.
    Failure,
    /// 2: the command line could not be understood.
    Usage,
    /// 75: another process holds the data directory (`EX_TEMPFAIL` of sysexits).
    Locked,
    /// 78: configuration, key or data are wrong and stay wrong until a person acts (`EX_CONFIG` of sysexits).
    Refused,
}

impl Exit {
    /// The number that the operating system sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Locked => 75,
            Self::Refused => 78,
        }
    }

    /// Prints one line on stderr, whatever the log level, and gives the ending back.
    #[must_use]
    pub fn because(self, error: &dyn Error) -> Self {
        eprintln!("vestibule: {}", escape(&chain(error)));
        self
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The error and its causes, from the outside in, joined by `: `.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_contract() {
        let codes = [Exit::Success, Exit::Failure, Exit::Usage, Exit::Locked, Exit::Refused].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 75, 78]);
    }

    #[test]
    fn chain_names_every_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
    }
}
