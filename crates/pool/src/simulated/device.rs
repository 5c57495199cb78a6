//! The device of a simulated volume.

use std::fmt;
use std::sync::Arc;

use quarry_volume::{Error, Result};

use super::disks::Slot;
use super::{Inner, Operation};

/// The data of a volume in a simulated pool, as far as it is simulated: what was zeroed, and whether it was
/// wiped.
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

    /// Records that `length` bytes from `offset` were zeroed. Only ranges that continue the zeroes at the
    /// beginning count.
    ///
    /// # Errors
    /// The configured failures.
    pub async fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.write(|slot| {
            if offset <= slot.zeroed {
                slot.zeroed = slot.zeroed.max(offset.saturating_add(length));
            }
        })
        .await
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
