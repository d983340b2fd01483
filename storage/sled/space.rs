//! How much room the disk has.
//! May not: decide what happens when there is none.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Space on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub available_bytes: u64,
    /// What the disk holds in all.
    pub total_bytes: u64,
}

/// Measures the disk under the data directory.
pub trait FreeSpace: fmt::Debug + Send + Sync {
    /// What there is now.
    ///
    /// # Errors
    /// The disk cannot be asked; writes then go on, because their own errors tell.
    fn measure(&self) -> io::Result<Space>;
}

/// The disk of a directory.
#[derive(Clone, Debug)]
pub struct DiskSpace {
    /// The directory.
    pub dir: PathBuf,
}

impl FreeSpace for DiskSpace {
    fn measure(&self) -> io::Result<Space> {
        let stats = fs4::statvfs(&self.dir)?;
        Ok(Space { available_bytes: stats.available_space(), total_bytes: stats.total_space() })
    }
}

/// The part of the disk below which writes are refused if it is smaller than what is configured (DESIGN section 6, `storage.min_free`): 5 %.
const MIN_FREE_DISK_FRACTION: u64 = 20;

/// A disk with the bound below which it counts as full.
#[derive(Clone, Debug)]
pub(crate) struct SpaceGuard {
    pub(crate) disk: Arc<dyn FreeSpace>,
    pub(crate) min_free_bytes: u64,
}

impl SpaceGuard {
    pub(crate) fn is_full(&self) -> bool {
        self.disk.measure().is_ok_and(|space| {
            space.available_bytes < self.min_free_bytes.min(space.total_bytes / MIN_FREE_DISK_FRACTION)
        })
    }
}
