//! **oracle**: what rooms decide is what a second reading of the specification, written as plain data, decides.
//! May not: know how production decides; the two meet only in the cases.

mod acl;

use crate::proof::{Outcome, Proof, Settings};

pub const PROOF: Proof = Proof {
    name: "oracle",
    shows: "membership rules and server ACLs decide as a second implementation does",
    full: 50_000,
    quick: 10_000,
    run,
    plants: &[&acl::UNANCHORED],
};

fn run(settings: &Settings) -> Outcome {
    let mut outcome = Outcome::default();
    acl::compare(settings, &mut outcome);
    outcome
}
