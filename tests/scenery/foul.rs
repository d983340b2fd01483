//! What no honest server says, ready to be said: lies in templates, rooms that are not proven, odd things shown of them, and
//! replies that are none.
//! May not: judge. What must come of it is said where it is used.

pub mod replies;
pub mod rooms;
pub mod shown;
pub mod templates;

use serde_json::Value;

/// Makes another answer of the honest one.
pub type Change = fn(&mut Value);

/// Sets what a JSON pointer leads to; the last step may be a new key.
pub fn put_at(value: &mut Value, pointer: &str, new: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    value.pointer_mut(parent).unwrap()[key] = new;
}
