//! Where keys and tokens get bytes that nobody can guess.
//! May not: be seeded; what tests need to repeat takes a generator of its own.

use std::io;

/// Fills a buffer with bytes that nobody can guess.
pub type FillRandom<'a> = &'a dyn Fn(&mut [u8]) -> io::Result<()>;

/// The operating system's randomness.
///
/// # Errors
/// When it has none to give.
pub fn os_random(buffer: &mut [u8]) -> io::Result<()> {
    getrandom::fill(buffer).map_err(io::Error::other)
}
