//! The partitions of volumes that this process has open.
//!
//! A partition is kept open while it is in use. Otherwise udev, after a change event of the disk, would have
//! the kernel read the partition table again while a filesystem is being made or mounted. But as long as any
//! part of a disk is open, the kernel also keeps the page cache of the whole disk, and a copy of the disk
//! would contain stale bytes from before the filesystem was made. So a partition is closed as soon as it is
//! not in use.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::claim::DiskGuid;

use super::disks::Opened;

/// The open partitions, by the GUIDs of their disks.
#[derive(Default)]
pub(super) struct OpenPartitions {
    by_disk: Mutex<HashMap<DiskGuid, Entry>>,
}

struct Entry {
    opened: Opened,
    /// When its device was last requested.
    used: Instant,
    /// How often its device was requested since the volume was created. `None`: a request has opened the partition.
    uses: Option<u32>,
}

impl OpenPartitions {
    /// Keeps the partition of a new volume on that disk open.
    pub(super) fn keep_new(&self, disk: DiskGuid, opened: Opened) {
        self.by_disk().insert(disk, Entry { opened, used: Instant::now(), uses: Some(0) });
    }

    /// Keeps the partition of a volume on that disk open, whose device was requested.
    pub(super) fn keep(&self, disk: DiskGuid, opened: Opened) {
        self.by_disk().insert(disk, Entry { opened, used: Instant::now(), uses: None });
    }

    /// Records that a volume's device was requested. `false`: it is not open.
    pub(super) fn mark_used(&self, disk: DiskGuid) -> bool {
        let mut by_disk = self.by_disk();
        let entry = by_disk.get_mut(&disk);
        entry.is_some_and(|entry| {
            (entry.used, entry.uses) = (Instant::now(), entry.uses.map(|uses| uses.saturating_add(1)));
            true
        })
    }

    /// Removes the partition of a volume. Closing it may take the kernel a while.
    pub(super) fn take(&self, disk: DiskGuid) -> Option<Opened> {
        self.by_disk().remove(&disk).map(|entry| entry.opened)
    }

    /// The same, unless its device was requested after that.
    pub(super) fn take_unused(&self, disk: DiskGuid, since: Instant) -> Option<Opened> {
        let mut by_disk = self.by_disk();
        by_disk.get(&disk).filter(|entry| entry.used <= since)?;
        by_disk.remove(&disk).map(|entry| entry.opened)
    }

    /// The same for a volume that was created but never staged. Before CreateVolume returns, the node requests the
    /// device of each new volume once to prepare it, so only the second request may be a stage.
    pub(super) fn take_unstaged(&self, disk: DiskGuid) -> Option<Opened> {
        let mut by_disk = self.by_disk();
        by_disk.get(&disk).filter(|entry| entry.uses.is_some_and(|uses| uses <= 1))?;
        by_disk.remove(&disk).map(|entry| entry.opened)
    }

    /// Removes the partitions of volumes that are gone.
    pub(super) fn take_gone(&self, is_there: impl Fn(DiskGuid) -> bool) -> Vec<Opened> {
        self.by_disk().extract_if(|disk, _| !is_there(*disk)).map(|(_, entry)| entry.opened).collect()
    }

    fn by_disk(&self) -> MutexGuard<'_, HashMap<DiskGuid, Entry>> {
        self.by_disk.lock()
    }
}
