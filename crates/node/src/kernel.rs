//! Whose volume a device is, by the kernel's own word.
//!
//! Device-mapper has in sysfs what the identifier of a volume on LVM is made of. Where they agree, no pool has to be asked,
//! and a pool that does not answer stops nothing. Where they do not, the volume may still be this one (an operator renamed
//! it, or it is a whole disk): then the pool has the last word.

use quarry_mount as mount;
use quarry_volume::VolumeId;

use crate::read_only;

/// Whether the kernel's word proves that the device is that volume, or a read-only mapping of it.
pub(crate) fn is_volume(device: mount::Device, id: &VolumeId) -> bool {
    if std::fs::read_to_string(format!("/sys/dev/block/{device}/dm/uuid")).is_ok_and(|uuid| read_only::is_of(&uuid, id))
    {
        return true;
    }
    let active = quarry_pool::active(&id.storage, &id.volume);
    matches!(active, Ok(Some(active)) if mount::Device::of_node(&active.node) == Some(device))
}

/// Whether the kernel's word proves that what is mounted there is that volume: its filesystem, or the node of its device.
pub(crate) fn is_mounted(entry: &mount::Entry, id: &VolumeId) -> bool {
    let device = match entry.device.major {
        // btrfs numbers its mounts anonymously: there the source's node has to tell.
        0 if entry.source.is_absolute() => mount::Device::of_node(&entry.source),
        0 => entry.node_device(),
        _ => Some(entry.device),
    };
    device.is_some_and(|device| is_volume(device, id))
}
