//! What the scenarios are told with: a server as a process, its users, other servers, and waits with a deadline.
//! May not: know more of the server than its outside contract.

mod authority;
mod hosted_room;
mod http;
mod peer;
mod server;
mod user;
mod wait;

pub use self::{
    authority::client_config,
    http::{Answer, Http, encoded},
    peer::{FakePeer, SignedEvent, Template, now_ms, path_of, send_knock_target},
    server::{PASSWORD, TestServer, send_signal},
    user::User,
    wait::until,
};
