//! The readers that are fuzzed, in the order they run, and how many cases each needs.
//! May not: hold a target itself.

mod acl;
mod canonical;
mod config;
mod journal;
mod keys;
mod names;
mod pdu;
mod stripped;
mod template;
mod transaction;
mod well_known;
mod x_matrix;

use super::Entry;
use crate::proof::Plant;

/// All readers. Source of the numbers: SECURITY G10.
pub const TARGETS: &[Entry] = &[
    Entry { name: "x-matrix", cases: 1_000_000, make: x_matrix::make, plants: &[&x_matrix::FIRST_OF_TWO] },
    Entry { name: "names", cases: 1_000_000, make: names::make, plants: &[&names::SLOW] },
    Entry { name: "pdu", cases: 300_000, make: pdu::make, plants: &[&pdu::HASH_UNSEEN] },
    Entry {
        name: "canonical",
        cases: 1_000_000,
        make: canonical::make,
        plants: &[&canonical::UTF16, &canonical::LONE_SURROGATE],
    },
    Entry { name: "acl", cases: 1_000_000, make: acl::make, plants: &[&acl::UNANCHORED] },
    Entry { name: "keys", cases: 1_000_000, make: keys::make, plants: &[&keys::UNSIGNED] },
    Entry { name: "well-known", cases: 1_000_000, make: well_known::make, plants: &[&well_known::ANY_SCHEME] },
    Entry { name: "template", cases: 1_000_000, make: template::make, plants: &[&template::ANY_USER] },
    Entry { name: "stripped", cases: 1_000_000, make: stripped::make, plants: &[&stripped::ALL_TYPES] },
    Entry { name: "transaction", cases: 1_000_000, make: transaction::make, plants: &[&transaction::BELIEVED] },
    Entry { name: "config", cases: 1_000_000, make: config::make, plants: &[&config::SECRET_TOLD] },
    Entry {
        name: "journal",
        cases: 1_000_000,
        make: journal::make,
        plants: &[&journal::LENGTH_BELIEVED, &journal::UNCHECKED],
    },
];

/// Of all targets, in a full run.
pub const CASES: u64 = 11_300_000;

/// Of all targets.
pub const PLANTS: &[&Plant] = &[
    &x_matrix::FIRST_OF_TWO,
    &names::SLOW,
    &pdu::HASH_UNSEEN,
    &canonical::UTF16,
    &canonical::LONE_SURROGATE,
    &acl::UNANCHORED,
    &keys::UNSIGNED,
    &well_known::ANY_SCHEME,
    &template::ANY_USER,
    &stripped::ALL_TYPES,
    &transaction::BELIEVED,
    &config::SECRET_TOLD,
    &journal::LENGTH_BELIEVED,
    &journal::UNCHECKED,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_list() {
        assert_eq!(CASES, TARGETS.iter().map(|entry| entry.cases).sum::<u64>());
        let plants: Vec<&str> = TARGETS.iter().flat_map(|entry| entry.plants).map(|plant| plant.name).collect();
        assert_eq!(plants, PLANTS.iter().map(|plant| plant.name).collect::<Vec<_>>());
    }
}
