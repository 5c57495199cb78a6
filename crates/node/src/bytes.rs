//! Exclusive access to a volume's bytes while they are wiped or zeroed.

use std::ops::Range;
use std::sync::Arc;

use quarry_pool::{Device, SimulatedDevice};
use quarry_volume::{Error, Result};

use crate::errors;
use crate::kernel::{HeldDevice, Kernel};

/// A device that is held exclusively: until this value is dropped, nothing else mounts, formats or wipes it.
/// Or its replacement in a simulated pool.
pub(crate) enum Bytes {
    Device(Arc<dyn HeldDevice>),
    Simulated(SimulatedDevice),
}

impl Bytes {
    /// Opens the device exclusively.
    ///
    /// # Errors
    /// `UnderWay` if it is in use.
    pub(crate) async fn hold(kernel: &Arc<dyn Kernel>, device: Device) -> Result<Self> {
        match device {
            Device::Node(path) => {
                let kernel = Arc::clone(kernel);
                Ok(Self::Device(errors::blocking(move || kernel.exclusive(&path)).await?))
            }
            Device::Simulated(device) => Ok(Self::Simulated(device)),
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
        }
    }
}
