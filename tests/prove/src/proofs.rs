//! The list of proofs, one module each.
//! May not: hold a proof itself.

pub mod backup;
pub mod badinput;
pub mod crash;
pub mod drain;
pub mod egress;
pub mod enospc;
pub mod evil_resident;
pub mod faults;
pub mod flood;
pub mod fuzz;
pub mod idle;
pub mod images;
pub mod linear;
pub mod oracle;
pub mod recovery;
pub mod sim;
pub mod slow;
pub mod syncorder;

use crate::proof::Proof;

/// All proofs, in the order they run.
pub const PROOFS: &[&Proof] = &[
    &oracle::PROOF,
    &fuzz::PROOF,
    &linear::PROOF,
    &images::PROOF,
    &crash::PROOF,
    &recovery::PROOF,
    &syncorder::PROOF,
    &faults::PROOF,
    &enospc::PROOF,
    &drain::PROOF,
    &backup::PROOF,
    &badinput::PROOF,
    &evil_resident::PROOF,
    &egress::PROOF,
    &flood::PROOF,
    &slow::PROOF,
    &idle::PROOF,
];

/// Proofs that find what is not mended yet: they run when they are named, and are no part of what is promised.
pub const UNMET: &[&Proof] = &[&sim::PROOF];
