//! Resolves the devices of a volume: the one that its pool provides, and the one through which it is used.

use std::path::PathBuf;
use std::sync::Arc;

use quarry_pool::{Device, Pool, PoolVolume};
use quarry_volume::{Result, VolumeId};

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
    /// The node of the topmost layer on `raw`. A volume has no layers yet, so this is `raw` itself.
    pub(crate) top: PathBuf,
}

impl VolumeDevice {
    /// The only place that determines which device is on top of a pool's device.
    fn on(raw: PathBuf) -> Self {
        Self { top: raw.clone(), raw }
    }
}

/// Makes the volume's device appear, and returns it.
///
/// # Errors
/// `Precondition` if the volume is simulated; otherwise as [`Pool::activate`].
pub(crate) async fn activate(pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<VolumeDevice> {
    Ok(VolumeDevice::on(pool.activate(volume).await?.node()?))
}

/// Like [`activate`], for callers that need only the bytes of the volume, which can be simulated: returns
/// `top`.
///
/// # Errors
/// As [`Pool::activate`].
pub(crate) async fn activate_bytes(pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<Device> {
    Ok(match pool.activate(volume).await? {
        Device::Node(raw) => Device::Node(VolumeDevice::on(raw).top),
        other @ (Device::Simulated(_) | Device::Space(_)) => other,
    })
}

/// The volume's device according to its pool. `None`: the volume is not active.
///
/// # Errors
/// As [`Pool::device`].
pub(crate) fn active(pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<Option<VolumeDevice>> {
    Ok(pool.device(volume)?.map(VolumeDevice::on))
}

/// The volume's device according to the kernel alone, which does not show those of all kinds of pools. `None`:
/// the kernel does not show it, or cannot be asked.
pub(crate) fn active_in_kernel(mounts: &dyn Mounts, id: &VolumeId) -> Option<VolumeDevice> {
    mounts.active_volume(id).map(VolumeDevice::on)
}
