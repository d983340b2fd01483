//! What happened in a simulation, in order, as one number; and the part of it that people read.
//! May not: hold anything that two runs of a seed could differ in, such as real time or an address in memory.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher as _},
};

/// What happened so far.
pub struct Trace {
    hash: DefaultHasher,
    entries: u64,
    /// What was asked for, as it happened.
    pub steps: Vec<String>,
}

impl Trace {
    pub fn new() -> Self {
        // Its keys are constants.
        Self { hash: DefaultHasher::new(), entries: 0, steps: Vec::new() }
    }

    /// Something happened.
    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.entries += 1;
        self.hash.write(what.to_string().as_bytes());
        self.hash.write_u8(b'\n');
    }

    /// Something happened that people want to read when the seed fails.
    pub fn step(&mut self, what: String) {
        self.note(format_args!("{what}"));
        self.steps.push(what);
    }

    /// The whole of it, and how many entries it has.
    pub fn sum(&self) -> (u64, u64) {
        (self.hash.finish(), self.entries)
    }
}

/// Bytes as one number.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    hash.write(bytes);
    hash.finish()
}
