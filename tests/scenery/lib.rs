//! What the scenarios are told with: a server as a process, its users, other servers, and waits with a deadline.
//! May not: know more of the server than its outside contract.
//!
//! The program is the one that `cargo test` built beside the scenario, or the one that [`TestServer::of`] names.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "scenery of tests: what does not hold must end the test where it shows"
)]

mod authority;
mod canary;
pub mod foul;
mod hosted_room;
mod http;
mod peer;
mod server;
mod trace;
mod user;
mod wait;

pub use self::{
    authority::{authority_pem, client_config},
    canary::{Canary, DENIED_HOST, disguises},
    http::{Answer, Connection, Http, encoded, request},
    peer::{FakePeer, SignedEvent, Template, now_ms, path_of, send_knock_target},
    server::{LIMITABLE, PASSWORD, TestServer, limit_files, send_signal},
    trace::{Trace, tracer},
    user::User,
    wait::until,
};
