//! The suite that every engine passes.
//! May not: hold anything of its own.

vestibule_storage::conformance!(super::place::TemporarySled::new());
