//! What bad peers get.
//! May not: be a list of ideas; each row names the test that holds it.

mod addresses;
mod denials;
mod gaps;
mod ground;
mod guest;
mod handshakes;
mod joins;
mod keys;
mod readers;
mod replies;
mod rules;
mod sizes;
mod stripped_state;
mod templates;
mod transactions;
