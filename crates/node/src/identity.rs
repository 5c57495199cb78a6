//! Checks in sysfs which volume a device belongs to.
//!
//! For some kinds of pools, the kernel shows everything that a volume ID consists of (see
//! [`quarry_pool::device_in_kernel`]). If they match, no pool has to be asked, so an unresponsive pool blocks
//! nothing. If they do not match, the device can still be this volume (an operator renamed it, or the kernel
//! does not show this kind): then the pool decides.

use quarry_mount::{Device, Entry};
use quarry_volume::VolumeId;

use crate::kernel::Mounts;
use crate::{device, read_only};

/// Whether sysfs proves that the device is that volume, its dm-crypt device, or a read-only mapping of it.
pub(crate) fn is_volume(mounts: &dyn Mounts, number: Device, id: &VolumeId) -> bool {
    let is_own = |uuid: String| read_only::is_of(&uuid, id) || quarry_encryption::is_of(&uuid, &id.to_string());
    if mounts.mapper_uuid(number).is_some_and(is_own) {
        return true;
    }
    device::active_in_kernel(mounts, id).is_some_and(|active| mounts.number(&active.top) == Some(number))
}

/// Whether the kernel proves that this is a mount of that volume: of its filesystem, or of its device node.
pub(crate) fn is_mounted(mounts: &dyn Mounts, entry: &Entry, id: &VolumeId) -> bool {
    let device = match entry.device.major {
        // btrfs mounts have anonymous device numbers: use the source's device node instead.
        0 if entry.source.is_absolute() => mounts.number(&entry.source),
        0 => mounts.node_device(entry),
        _ => Some(entry.device),
    };
    device.is_some_and(|device| is_volume(mounts, device, id))
}
