//! Resolves the devices of a volume: the one that its pool provides, and the one through which it is used.

use std::path::PathBuf;
use std::sync::Arc;

use quarry_encryption::Layer;
use quarry_pool::{Device, Pool, PoolVolume, Record};
use quarry_volume::{Error, Result, VolumeId};

use crate::kernel::Mounts;

/// The devices of an active volume.
///
/// Use `top` to mount, measure, format, zero or publish a volume, and to check whether it is used. `raw` is only
/// for what concerns the pool's own device: whether the volume is active, and what keeps the pool from removing
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeDevice {
    /// The node of the device that the pool provides.
    pub(crate) raw: PathBuf,
    /// The node of the topmost layer on `raw`: `raw` itself, unless the volume is encrypted and open.
    pub(crate) top: PathBuf,
    /// The dm-crypt device on `raw`.
    pub(crate) layer: Option<Layer>,
}

impl VolumeDevice {
    /// The only place that determines which device is on top of a pool's device.
    pub(crate) fn on(mounts: &dyn Mounts, raw: PathBuf) -> Self {
        let layer = mounts.layer_on(&raw);
        Self { top: layer.as_ref().map_or_else(|| raw.clone(), |layer| layer.node.clone()), raw, layer }
    }

    /// The node through which the volume is used.
    ///
    /// # Errors
    /// `Precondition` if it is encrypted and not open: then `top` is its storage, which nothing may use.
    pub(crate) fn usable(self, record: &Record) -> Result<PathBuf> {
        match (record.encryption, self.layer) {
            (Some(_), None) => Err(Error::precondition("it is encrypted, and it is not open: stage it first")),
            _ => Ok(self.top),
        }
    }
}

/// Makes the volume's device appear, and returns it.
///
/// # Errors
/// `Precondition` if the volume is simulated; otherwise as [`Pool::activate`].
pub(crate) async fn activate(mounts: &dyn Mounts, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<VolumeDevice> {
    Ok(VolumeDevice::on(mounts, pool.activate(volume).await?.node()?))
}

/// Like [`activate`], for callers that need only the bytes on the storage of the volume, which can be simulated: returns
/// `raw`. There, a volume is read or written that is not encrypted, or was never used, or is copied with its encryption.
///
/// # Errors
/// As [`Pool::activate`].
pub(crate) async fn activate_bytes(pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<Device> {
    pool.activate(volume).await
}

/// The volume's device according to its pool. `None`: the volume is not active.
///
/// # Errors
/// As [`Pool::device`].
pub(crate) fn active(mounts: &dyn Mounts, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<Option<VolumeDevice>> {
    Ok(pool.device(volume)?.map(|raw| VolumeDevice::on(mounts, raw)))
}

/// The volume's device according to the kernel alone, which does not show those of all kinds of pools. `None`:
/// the kernel does not show it, or cannot be asked.
pub(crate) fn active_in_kernel(mounts: &dyn Mounts, id: &VolumeId) -> Option<VolumeDevice> {
    mounts.active_volume(id).map(|raw| VolumeDevice::on(mounts, raw))
}
