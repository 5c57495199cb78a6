//! Identifies a disk while this process runs.

use quarry_disk::Disk;

/// Identifies a disk, as distinct from another one that got its name or number later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DiskKey {
    /// The kernel's name, such as `sdb`.
    pub(super) name: String,
    number: (u64, u64),
    /// The kernel's sequence number of the disk; `None` before Linux 5.15.
    pub(super) sequence: Option<u64>,
}

impl DiskKey {
    pub(super) fn of(disk: &Disk) -> Self {
        Self { name: disk.name.clone(), number: (disk.number.major, disk.number.minor), sequence: disk.sequence }
    }
}
