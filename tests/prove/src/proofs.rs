//! The list of proofs, one module each.
//! May not: hold a proof itself.

pub mod oracle;

use crate::proof::Proof;

/// All proofs, in the order they run.
pub const PROOFS: &[&Proof] = &[&oracle::PROOF];
