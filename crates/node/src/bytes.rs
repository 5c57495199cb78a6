//! Exclusive access to a volume's bytes while they are wiped or zeroed.

use std::sync::Arc;

use quarry_filesystem as filesystem;
use quarry_pool::{Device, SimulatedDevice};
use quarry_volume::{Error, Result};

use crate::errors;

/// A device that is held exclusively: until this value is dropped, nothing else mounts, formats or wipes it.
/// Or its replacement in a simulated pool.
pub(crate) enum Bytes {
    Device(Arc<filesystem::Exclusive>),
    Simulated(SimulatedDevice),
}

impl Bytes {
    /// Opens the device exclusively.
    ///
    /// # Errors
    /// `UnderWay` if it is in use.
    pub(crate) async fn hold(device: Device) -> Result<Self> {
        match device {
            Device::Node(path) => {
                let held = errors::blocking(move || filesystem::exclusive(&path).map_err(errors::filesystem)).await?;
                Ok(Self::Device(Arc::new(held)))
            }
            Device::Simulated(device) => Ok(Self::Simulated(device)),
        }
    }

    /// Zeroes everything that a probe could recognize, and flushes.
    pub(crate) async fn wipe(&self) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || filesystem::wipe_signatures(&held).map_err(errors::zeroing)).await
            }
            Self::Simulated(device) => device.wipe().await,
        }
    }

    /// Zeroes `length` bytes from `offset`; not flushed.
    pub(crate) async fn zero(&self, offset: u64, length: u64) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || filesystem::zero_range(&held, offset, length).map_err(errors::zeroing)).await
            }
            Self::Simulated(device) => device.zero(offset, length).await,
        }
    }

    /// Flushes all writes to the disk.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || {
                    held.sync_all().map_err(|error| {
                        Error::host(format!("cannot flush the zeros to the device: {error}; see the kernel log"))
                    })
                })
                .await
            }
            Self::Simulated(_) => Ok(()),
        }
    }
}
