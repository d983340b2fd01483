//! Reads the published position.
//! May not: publish.

use std::sync::Arc;

use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::stream::StreamReader;

use crate::views::Views;

/// Reads the position that the writer published.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) views: Arc<Views>,
}

impl StreamReader for Stream {
    fn position(&self) -> StreamPosition {
        self.views.published()
    }
}
