//! Facts about the graph, and the drawn forks.
//! May not: judge states by the graph's own code; the oracle does.

pub(crate) mod drawn_forks;
pub(crate) mod oracle;
