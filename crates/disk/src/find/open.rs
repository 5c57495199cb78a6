//! Opens a disk, and checks that it is the right one.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use quarry_mount::Device;

use super::{Disk, Error, Roots, sysfs};

/// Opens a disk for reading. Never open it for writing: when a writer closes the device, udev reports a
/// change, and that event would trigger the next check, forever.
///
/// # Errors
/// The node cannot be opened or belongs to another device, or the disk is gone.
pub fn open(roots: &Roots, disk: &Disk) -> Result<File, Error> {
    open_with(roots, disk, 0)
}

/// Like [`open`], with additional flags of open(2).
pub(crate) fn open_with(roots: &Roots, disk: &Disk, flags: i32) -> Result<File, Error> {
    let failed = |source| Error::Open { node: disk.node.clone(), source };
    let file = File::options().read(true).custom_flags(flags).open(&disk.node).map_err(failed)?;
    if !is_node_of(&file.metadata().map_err(failed)?, disk.number) {
        return Err(Error::OtherNode { node: disk.node.clone(), disk: disk.name.clone(), number: disk.number });
    }
    // A device number may be reused for another disk. An open file keeps its disk, so check after opening.
    if !sysfs::is_same_disk(roots, disk) {
        return Err(Error::Gone { disk: disk.name.clone() });
    }
    Ok(file)
}

fn is_node_of(node: &Metadata, number: Device) -> bool {
    node.file_type().is_block_device() && Device::from_stat(node.rdev()) == number
}
