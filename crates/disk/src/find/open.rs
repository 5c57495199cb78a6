//! Opening a disk, and being sure that it is that disk.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use quarry_mount::Device;

use super::{Disk, Error, Roots, sysfs};

/// Opens a disk to read it, and never to write: udev takes the end of every opening for writing as a change, and its
/// event would call for the next look, for ever.
///
/// # Errors
/// The node cannot be opened, is another device's, or the disk that was found has gone meanwhile.
pub fn open(roots: &Roots, disk: &Disk) -> Result<File, Error> {
    open_with(roots, disk, 0)
}

/// [`open`], with more flags of open(2).
pub(crate) fn open_with(roots: &Roots, disk: &Disk, flags: i32) -> Result<File, Error> {
    let failed = |source| Error::Open { node: disk.node.clone(), source };
    let file = File::options().read(true).custom_flags(flags).open(&disk.node).map_err(failed)?;
    if !leads_to(&file.metadata().map_err(failed)?, disk.number) {
        return Err(Error::OtherNode { node: disk.node.clone(), disk: disk.name.clone(), number: disk.number });
    }
    // A number may be given to another disk. What is open cannot change any more, so this comes after the opening.
    if !sysfs::still_there(roots, disk) {
        return Err(Error::Gone { disk: disk.name.clone() });
    }
    Ok(file)
}

fn leads_to(node: &Metadata, number: Device) -> bool {
    node.file_type().is_block_device() && Device::from_stat(node.rdev()) == number
}
