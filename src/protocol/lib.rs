//! The Matrix rules as pure functions: room versions, events, authorization, state resolution, membership.
//!
//! May not: wait, log, read a clock, draw randomness, or touch a file or a socket. Whatever a rule needs is an argument,
//! so that oracles, fuzzing, simulation and benchmarks call exactly what production calls.

#![warn(missing_docs)]

pub mod auth;
pub mod canonical_json;
pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod fixture;
pub mod key_signatures;
pub mod membership;
pub mod pdu;
pub mod policy_server;
pub mod recipients;
pub mod room_graph;
pub mod room_upgrade;
pub mod room_version;
pub mod server_acl;
pub mod server_reads;
pub mod signing;
pub mod state;
pub mod stream;

pub use ruma;
