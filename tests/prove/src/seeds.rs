//! Randomness that can be had again: every case draws from its own generator, made from the run's seed and its number.
//! May not: draw from anything else once there is a seed.

use rand::{SeedableRng, rngs::StdRng};
use vestibule_storage_sled::journal::faults::Draw;

/// A new seed. Short, because people copy it. `None` when the system has no randomness to give.
pub fn draw() -> Option<u64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).ok()?;
    Some(u32::from_le_bytes(bytes).into())
}

/// The generator of one case: cases do not depend on how many ran before them.
pub fn of_case(seed: u64, case: u64) -> StdRng {
    StdRng::seed_from_u64(mixed(seed, case))
}

/// The same with the generator of the disks that fail.
pub fn draw_of_case(seed: u64, case: u64) -> Draw {
    Draw(mixed(seed, case))
}

/// The number of one case. An odd constant spreads neighbours; the generators mix the rest.
pub fn mixed(seed: u64, case: u64) -> u64 {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ case
}
