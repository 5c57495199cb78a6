//! Space that a pool has reserved for the expansion of a volume: a device of its own, with the bytes of previous
//! owners, until it joins the volume.

use std::path::PathBuf;

use quarry_mount::Device;
use quarry_volume::Gib;

use super::{Bytes, Disk, MAPPER, State, node};

/// Reserved space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tests) struct Reserved {
    /// The size that the volume will have, in bytes.
    pub(in crate::tests) size: u64,
    /// How much of it is zeroed, as recorded.
    pub(in crate::tests) zeroed: Gib,
}

/// The node of the space that is reserved for a volume.
pub(in crate::tests) fn space_node(volume: &str) -> PathBuf {
    node(&format!("{volume}.space"))
}

impl State {
    /// The size of a volume according to the pool. `created`: the size that it was created with.
    pub(in crate::tests) fn volume_size(&self, volume: &str, created: u64) -> u64 {
        self.sizes.get(volume).copied().unwrap_or(created)
    }

    /// Reserves space for a volume that has `old` bytes.
    pub(in crate::tests) fn reserve(&mut self, volume: &str, old: u64, size: u64) {
        if self.reserved.insert(volume.to_owned(), Reserved { size, zeroed: Gib(0) }).is_some() {
            self.violation("reserved space twice");
        }
        let number = Device { major: MAPPER, minor: self.next() };
        let mut disk = Disk::new(number, size - old, Bytes::remnants(size - old));
        disk.active = true;
        self.disks.insert(space_node(volume), disk);
    }

    /// Whether a program has the reserved space open.
    pub(in crate::tests) fn is_space_open(&self, volume: &str) -> bool {
        self.disks.get(&space_node(volume)).is_some_and(|disk| self.is_open(disk))
    }

    /// Releases reserved space, if there is any.
    pub(in crate::tests) fn release(&mut self, volume: &str) {
        self.reserved.remove(volume);
        self.disks.remove(&space_node(volume));
    }

    /// Adds the reserved space to the volume. Its device has the new size after [`Self::refresh`].
    pub(in crate::tests) fn join(&mut self, volume: &str, shows_bytes: bool) {
        let reserved = self.reserved.remove(volume);
        let (Some(reserved), Some(space)) = (reserved, self.disks.remove(&space_node(volume))) else {
            return self.violation("added space that is not reserved");
        };
        // What was not flushed may be missing after a power cut.
        if shows_bytes && space.durable.zeroed < space.size {
            self.violation("bytes of a previous owner joined a volume that is shown raw");
        }
        if !space.durable.signatures.is_empty() {
            self.violation("a signature of a previous owner joined a volume");
        }
        let created = self.disks.get(&node(volume)).map_or(0, |disk| disk.size);
        if self.volume_size(volume, created) > reserved.size {
            self.violation("a volume became smaller");
        }
        self.sizes.insert(volume.to_owned(), reserved.size);
    }

    /// Gives the device of a volume the size that the volume has.
    pub(in crate::tests) fn refresh(&mut self, volume: &str) {
        let Some(&size) = self.sizes.get(volume) else { return };
        let Some(disk) = self.disks.get_mut(&node(volume)) else { return };
        for bytes in [&mut disk.bytes, &mut disk.durable] {
            if bytes.zeroed == disk.size {
                bytes.zeroed = size;
            }
        }
        disk.size = size;
    }

    /// The volume is gone.
    pub(in crate::tests) fn forget(&mut self, volume: &str) {
        self.sizes.remove(volume);
    }

    /// Whether the device of a volume has another size than the volume.
    pub(in crate::tests) fn is_stale(&self, volume: &str) -> bool {
        let disk = self.disks.get(&node(volume));
        disk.is_some_and(|disk| disk.active && disk.size != self.volume_size(volume, disk.size))
    }
}
