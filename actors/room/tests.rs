//! What a room promises, asked through its door and looked up in storage afterwards.
//! May not: sleep, or look only at memory where storage is the truth.

mod admission;
mod any_order;
mod elsewhere;
mod expiry;
mod forks;
mod joining;
mod memberships;
mod out_of_band;
mod pipeline;
mod policy;
mod refusals;
mod sending;
pub(crate) mod support;
