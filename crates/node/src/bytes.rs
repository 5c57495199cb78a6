//! Exclusive access to a volume's bytes while they are wiped or zeroed.

use std::ops::Range;
use std::sync::Arc;

use quarry_pool::{Device, DiskSpace, SimulatedDevice};
use quarry_volume::{Error, Result};

use crate::errors;
use crate::kernel::{HeldDevice, Kernel};

/// A device that is held exclusively: until this value is dropped, nothing else mounts, formats or wipes it.
/// Or its replacement in a simulated pool.
pub(crate) enum Bytes {
    Device(Arc<dyn HeldDevice>),
    Simulated(SimulatedDevice),
    /// New space on a disk that is in use. The pool holds it.
    Space(DiskSpace),
}

impl Bytes {
    /// Holds the device exclusively during `work`. Then it is closed, so that it can be opened again: on a thread of its
    /// own, because that takes as long as its disk hangs.
    ///
    /// # Errors
    /// `UnderWay` if it is in use. Otherwise the error of `work`.
    pub(crate) async fn held<T>(
        kernel: &Arc<dyn Kernel>,
        device: Device,
        work: impl AsyncFnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let bytes = Self::hold(kernel, device).await?;
        let result = work(&bytes).await;
        match bytes {
            Self::Device(_) | Self::Space(_) => errors::dropped(bytes).await,
            Self::Simulated(_) => {}
        }
        result
    }

    async fn hold(kernel: &Arc<dyn Kernel>, device: Device) -> Result<Self> {
        match device {
            Device::Node(path) => {
                let kernel = Arc::clone(kernel);
                Ok(Self::Device(errors::blocking(move || kernel.exclusive(&path)).await?))
            }
            Device::Simulated(device) => Ok(Self::Simulated(device)),
            Device::Space(space) => Ok(Self::Space(space)),
        }
    }

    /// Zeroes everything that a probe could recognize, and flushes.
    pub(crate) async fn wipe(&self) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || held.wipe_signatures()).await
            }
            Self::Simulated(device) => device.wipe().await,
            Self::Space(_) => Err(Error::host("only the edges of new space are wiped; please report it")),
        }
    }

    /// Zeroes these bytes; not flushed.
    pub(crate) async fn zero(&self, bytes: Range<u64>) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || held.zero_range(bytes)).await
            }
            Self::Simulated(device) => device.zero(bytes).await,
            Self::Space(space) => {
                let space = space.clone();
                errors::blocking(move || space.zero(bytes)).await
            }
        }
    }

    /// Flushes all writes to the disk.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || {
                    held.flush().map_err(|error| {
                        Error::host(format!("cannot flush the zeros to the device: {error}; see the kernel log"))
                    })
                })
                .await
            }
            Self::Simulated(_) => Ok(()),
            Self::Space(space) => {
                let space = space.clone();
                errors::blocking(move || space.flush()).await
            }
        }
    }
}
