//! The device of a simulated volume.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use quarry_volume::{Error, Result};

use super::disks::Slot;
use super::{Inner, Operation};

/// The data of a volume or a snapshot in a simulated pool, as far as it is simulated: what was zeroed or copied, and
/// whether it was wiped.
#[derive(Clone)]
pub struct SimulatedDevice {
    inner: Arc<Inner>,
    volume: String,
}

impl SimulatedDevice {
    pub(super) fn new(inner: &Arc<Inner>, volume: &str) -> Self {
        Self { inner: Arc::clone(inner), volume: volume.to_owned() }
    }

    /// Records that its signatures were wiped.
    ///
    /// # Errors
    /// The configured failures.
    pub async fn wipe(&self) -> Result<()> {
        self.write(|slot| slot.wiped = true).await
    }

    /// Records that these bytes were zeroed. Only ranges that continue the zeroes at the beginning count.
    ///
    /// # Errors
    /// The configured failures.
    pub async fn zero(&self, bytes: Range<u64>) -> Result<()> {
        self.write(|slot| {
            if bytes.start <= slot.zeroed {
                slot.zeroed = slot.zeroed.max(bytes.end);
            }
        })
        .await
    }

    /// Copies these bytes from another device to the same place, and flushes them. Only ranges that continue the copy
    /// at the beginning count. When all bytes of the source are copied, this device has its contents.
    ///
    /// # Errors
    /// The configured failures.
    pub async fn copy_from(&self, source: &Self, bytes: Range<u64>) -> Result<()> {
        let read = source.inner.disks().get(&source.volume).map(|slot| (slot.size, slot.contents));
        let Some((size, contents)) = read else {
            return Err(Error::host(format!("the device of {} no longer exists", source.volume)));
        };
        self.write(|slot| {
            if bytes.start <= slot.copied {
                slot.copied = slot.copied.max(bytes.end);
            }
            if slot.copied >= size {
                slot.contents = contents;
            }
        })
        .await
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// It no longer exists.
    pub fn size(&self) -> Result<u64> {
        let size = self.inner.disks().get(&self.volume).map(|slot| slot.size);
        size.ok_or_else(|| Error::host(format!("the device of {} no longer exists", self.volume)))
    }

    async fn write(&self, note: impl FnOnce(&mut Slot)) -> Result<()> {
        let write = |inner: &Inner| match inner.disks().get_mut(&self.volume) {
            Some(slot) => {
                note(slot);
                Ok(())
            }
            None => Err(Error::host(format!("the device of volume {} no longer exists", self.volume))),
        };
        self.inner.run(Operation::Write, write).await
    }
}

impl fmt::Debug for SimulatedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimulatedDevice").field(&self.volume).finish()
    }
}
