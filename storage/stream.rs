//! Where the sequence of durable changes stands.
//! May not: hand out a position whose change cannot be read yet.

use vestibule_protocol::stream::StreamPosition;

/// Reads the position up to which every change is readable.
pub trait StreamReader: Send + Sync {
    /// The newest published position; every change at or before it is readable.
    fn position(&self) -> StreamPosition;
}
