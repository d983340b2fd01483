//! Facts about the engine as a whole.
//! May not: wait for time to pass.

mod backups;
mod conformance;
mod crashes;
mod failures;
mod frozen;
mod index;
mod openings;
mod place;
mod views;
