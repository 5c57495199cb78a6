//! The new space of a volume whose disk became larger: bytes of a disk that is in use, so it has no device of its own.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use quarry_volume::{Error, Result};

/// Bytes of a disk. Nothing else cleans them until this value is dropped.
pub(crate) trait Space: Send + Sync {
    /// Zeroes these bytes, counted from the start of the space, without a flush. Blocks.
    fn zero(&self, bytes: Range<u64>) -> Result<()>;

    /// Flushes the disk. Blocks.
    fn flush(&self) -> Result<()>;
}

/// The bytes that will join a volume on a whole disk.
#[derive(Clone)]
pub struct DiskSpace {
    space: Arc<dyn Space>,
    length: u64,
}

impl DiskSpace {
    pub(super) fn new(space: Arc<dyn Space>, length: u64) -> Self {
        Self { space, length }
    }

    /// Zeroes these bytes, counted from the start of the space. Blocks; not flushed.
    ///
    /// # Errors
    /// The bytes are not all in the space, or an error of the disk.
    pub fn zero(&self, bytes: Range<u64>) -> Result<()> {
        if bytes.end > self.length {
            return Err(Error::host(format!(
                "cannot zero the bytes {} to {} of new space of {} bytes; please report it",
                bytes.start, bytes.end, self.length
            )));
        }
        self.space.zero(bytes)
    }

    /// Flushes the disk. Blocks.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn flush(&self) -> Result<()> {
        self.space.flush()
    }
}

impl fmt::Debug for DiskSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSpace").field("length", &self.length).finish_non_exhaustive()
    }
}
