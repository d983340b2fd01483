//! Rules of the project as tests. Each failure names the file, the line, and why the rule is there.
//! May not: start the program, build anything, or have an opinion that these files do not state.
//!
//! A rule that has to give way gets an entry with its reason in the list of exceptions beside it, never a weaker rule.

#[cfg(test)]
#[path = "tidy/facts.rs"]
mod facts;
#[cfg(test)]
#[path = "tidy/hostile.rs"]
mod hostile;
#[cfg(test)]
#[path = "tidy/rust_text.rs"]
mod rust_text;
#[cfg(test)]
#[path = "tidy/sources.rs"]
mod sources;
#[cfg(test)]
#[path = "tidy/tree.rs"]
mod tree;
#[cfg(test)]
#[path = "tidy/workspace.rs"]
mod workspace;
