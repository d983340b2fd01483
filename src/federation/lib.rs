//! Everything that talks to other servers: finding them, reaching them safely, and knowing their keys.
//! May not: decide rules, write rooms, or open a connection by any other way than [`egress`].
//!
//! From the outside in: [`client`] makes signed and unsigned requests, asks [`discovery`] for a route, and sends along it
//! through [`egress`]; [`keyring`] fetches keys through the client and verifies what other servers sign. On top of them,
//! [`perform`] does what takes several requests, and [`sender`] brings our events to other servers. [`user_keys`] is what
//! anybody is told of our users' keys.

#![warn(missing_docs)]

#[cfg(feature = "testing")]
pub mod answers;
pub mod client;
pub mod denied_servers;
pub mod discovery;
pub mod egress;
mod endpoints;
mod generations;
pub mod keyring;
pub mod perform;
pub mod policy;
pub mod sender;
pub mod user_keys;

pub use crate::{
    perform::{Federation, FederationParts, FederationSettings, PerformError},
    sender::{OutboundQueue, Sender},
};

#[cfg(test)]
mod testing;
