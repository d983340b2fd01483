//! Keys of end-to-end encryption as clients and other servers ask for them and upload them.
//! May not: serve a URL, or hold a private key; what comes here is public, and who signed what is all that is known of it.

pub mod claims;
pub mod inbox;
pub mod outbound;
pub mod remote;
pub mod shape;
pub mod sharing;

pub use self::claims::Claims;

#[cfg(test)]
mod tests;
