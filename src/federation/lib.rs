//! Everything that talks to other servers: finding them, reaching them safely, and knowing their keys.
//! May not: decide rules, write rooms, or open a connection by any other way than [`egress`].
//!
//! From the outside in: [`client`] makes signed and unsigned requests, asks [`discovery`] for a route, and sends along it
//! through [`egress`]; [`keyring`] fetches keys through the client and verifies what other servers sign.

#![warn(missing_docs)]

pub mod client;
pub mod discovery;
pub mod egress;
mod generations;
pub mod keyring;

#[cfg(test)]
mod testing;
