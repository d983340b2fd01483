//! What handlers take from a request: typed bodies, the calling server, the calling user, the client's address.
//! May not: ask rooms, or answer anything but errors.

pub mod access_token;
pub mod body;
pub mod client_address;
pub mod json_object;
pub mod path;
pub mod ruma_request;
pub mod x_matrix;

pub use self::{
    access_token::Caller,
    body::BodyBytesMax,
    client_address::ClientAddress,
    path::PathArguments,
    ruma_request::{Ruma, answer},
    x_matrix::{ProvenOrigin, Signed},
};
