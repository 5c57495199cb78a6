//! Keeps the filesystem of a volume and its raw device from being used at the same time. Only a volume that was created
//! for both access types can be used in both ways; its data would be damaged.
//!
//! A pod may mount a filesystem on its raw device where the host sees it. So what is published raw already stays usable.

use quarry_mount::{Device, Entry};
use quarry_volume::{Error, Result, VolumeId};

use crate::kernel::Mounts;
use crate::read_only;

/// Where the volume is published raw. `number`: its device.
pub(crate) fn raw_publications(mounts: &dyn Mounts, id: &VolumeId, number: Device) -> Result<Vec<Entry>> {
    let mut entries = mounts.publications_of_block(number)?;
    entries.extend(read_only::publications(mounts, id)?);
    Ok(entries)
}

/// Fails if the filesystem on the device is mounted, before the device is used raw.
pub(crate) fn require_unmounted(mounts: &dyn Mounts, number: Device) -> Result<()> {
    match mounts.mounts_of_device(number)?.first() {
        None => Ok(()),
        Some(first) => Err(Error::precondition(format!(
            "its filesystem is mounted at {:?}, and would be damaged if its device were used raw meanwhile; end the pods \
             that use its filesystem, and retry when it is unpublished and unstaged",
            first.target
        ))),
    }
}

/// Fails if the volume is published raw, before its filesystem is mounted. Removes read-only mappings that are published
/// nowhere first.
pub(crate) fn require_not_raw(mounts: &dyn Mounts, id: &VolumeId, number: Device) -> Result<()> {
    read_only::clean(mounts, id, None)?;
    match raw_publications(mounts, id, number)?.first() {
        None => Ok(()),
        Some(first) => Err(Error::precondition(format!(
            "it is published as a raw block device at {:?}, and its filesystem would be damaged if it were mounted \
             meanwhile; end the pods that use the device, and retry when it is unpublished and unstaged",
            first.target
        ))),
    }
}
