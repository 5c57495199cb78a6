//! The partitions of volumes that this process has open.
//!
//! A partition is kept open while it is in use. Otherwise udev, after a change event of the disk, would have
//! the kernel read the partition table again while a filesystem is being made or mounted. But as long as any
//! part of a disk is open, the kernel also keeps the page cache of the whole disk, and a copy of the disk
//! would contain stale bytes from before the filesystem was made. So a partition is closed as soon as it is
//! not in use.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::disks::Opened;

/// The open partitions, by the GUIDs of their disks.
#[derive(Default)]
pub(super) struct OpenPartitions {
    by_volume: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    opened: Opened,
    /// When its device was last requested.
    used: Instant,
    /// How often it was requested.
    uses: u32,
}

impl OpenPartitions {
    /// Keeps a partition open.
    pub(super) fn keep(&self, volume: &str, opened: Opened) {
        let mut by_volume = self.by_volume();
        let uses = by_volume.get(volume).map_or(0, |entry| entry.uses + 1);
        by_volume.insert(volume.to_owned(), Entry { opened, used: Instant::now(), uses });
    }

    /// Records that a volume's device was requested. `false`: it is not open.
    pub(super) fn mark_used(&self, volume: &str) -> bool {
        let mut by_volume = self.by_volume();
        let entry = by_volume.get_mut(volume);
        entry.is_some_and(|entry| {
            (entry.used, entry.uses) = (Instant::now(), entry.uses + 1);
            true
        })
    }

    /// Removes the partition of a volume. Closing it may take the kernel a while.
    pub(super) fn take(&self, volume: &str) -> Option<Opened> {
        self.by_volume().remove(volume).map(|entry| entry.opened)
    }

    /// The same, unless its device was requested after that.
    pub(super) fn take_unused(&self, volume: &str, since: Instant) -> Option<Opened> {
        let mut by_volume = self.by_volume();
        by_volume.get(volume).filter(|entry| entry.used <= since)?;
        by_volume.remove(volume).map(|entry| entry.opened)
    }

    /// The same for a volume that was created but never staged: only its creation has requested the device.
    pub(super) fn take_unstaged(&self, volume: &str) -> Option<Opened> {
        let mut by_volume = self.by_volume();
        by_volume.get(volume).filter(|entry| entry.uses <= 1)?;
        by_volume.remove(volume).map(|entry| entry.opened)
    }

    /// Removes the partitions of volumes that are gone.
    pub(super) fn take_gone(&self, is_there: impl Fn(&str) -> bool) -> Vec<Opened> {
        self.by_volume().extract_if(|volume, _| !is_there(volume)).map(|(_, entry)| entry.opened).collect()
    }

    fn by_volume(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.by_volume.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
