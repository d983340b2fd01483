//! What bad peers get.
//! May not: be a list of ideas; each row names the test that holds it.

mod ground;
mod handshakes;
mod readers;
mod rules;
mod transactions;
