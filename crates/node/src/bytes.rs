//! A volume's bytes, held by nobody else, while they are wiped or zeroed.

use std::sync::Arc;

use quarry_filesystem as filesystem;
use quarry_pool::{Device, SimulatedDevice};
use quarry_volume::{Error, Result};

use crate::errors;

/// An open device that nobody else mounts, formats or wipes while this value lives; or what stands for one in a
/// simulated pool.
pub(crate) enum Bytes {
    Device(Arc<filesystem::Exclusive>),
    Simulated(SimulatedDevice),
}

impl Bytes {
    /// Takes the device.
    ///
    /// # Errors
    /// `UnderWay` if somebody else has it.
    pub(crate) async fn hold(device: Device) -> Result<Self> {
        match device {
            Device::Node(path) => {
                let held = errors::blocking(move || filesystem::exclusive(&path).map_err(errors::filesystem)).await?;
                Ok(Self::Device(Arc::new(held)))
            }
            Device::Simulated(device) => Ok(Self::Simulated(device)),
        }
    }

    /// Zeroes everything by which a probe could take it for something, and flushes that.
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

    /// Brings what was written onto the disk.
    pub(crate) async fn flush(&self) -> Result<()> {
        match self {
            Self::Device(held) => {
                let held = Arc::clone(held);
                errors::blocking(move || {
                    held.sync_all().map_err(|error| {
                        Error::host(format!("flushing zeroes to the device: {error}; see the kernel log"))
                    })
                })
                .await
            }
            Self::Simulated(_) => Ok(()),
        }
    }
}
