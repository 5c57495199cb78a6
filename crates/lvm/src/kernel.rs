//! Facts from the kernel about the disks, raids, snapshots and thin pools of a volume group. A report does not have
//! them, or they change without any change of lvm's metadata. Reading them starts no process and reads no disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::raid::{RaidStatus, raid_status};
use crate::snapshot::{SnapshotStatus, snapshot_status};
use crate::thin::{ThinPoolStatus, thin_pool_status};
use crate::types::VolumeGroup;
use crate::{LvUuid, PvUuid};

/// The kernel's facts about the parts of a volume group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    disks: BTreeMap<PvUuid, Disk>,
    raids: BTreeMap<LvUuid, RaidStatus>,
    snapshots: BTreeMap<LvUuid, SnapshotStatus>,
    thin_pools: BTreeMap<LvUuid, ThinPoolStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    size: u64,
    read_only: bool,
}

/// Asks the kernel. `before` is the previous result: an inactive raid, snapshot or thin pool keeps its last known
/// state from there, because the kernel knows nothing about it.
#[must_use]
pub fn facts(group: &VolumeGroup, before: &Facts) -> Facts {
    let disks = group.physical_volumes.iter().filter_map(|pv| {
        let disk = disk(Path::new("/sys/dev/block"), pv.device.as_deref()?)?;
        Some((pv.uuid, disk))
    });
    let raids = group.volumes().filter(|volume| volume.segment_types.iter().any(|kind| kind.starts_with("raid")));
    let raids = raids.filter_map(|volume| {
        let status = raid_status(group.uuid, volume.uuid).or_else(|| before.raids.get(&volume.uuid).cloned())?;
        Some((volume.uuid, status))
    });
    let snapshots = group.logical_volumes.iter().filter(|volume| volume.origin.is_some() && volume.pool.is_none());
    let snapshots = snapshots.filter_map(|volume| {
        let status =
            snapshot_status(group.uuid, volume.uuid).or_else(|| before.snapshots.get(&volume.uuid).copied())?;
        Some((volume.uuid, status))
    });
    let pools = group.logical_volumes.iter().filter(|volume| volume.is_thin_pool());
    let pools = pools.filter_map(|volume| {
        let status =
            thin_pool_status(group.uuid, volume.uuid).or_else(|| before.thin_pools.get(&volume.uuid).copied())?;
        Some((volume.uuid, status))
    });
    Facts {
        disks: disks.collect(),
        raids: raids.collect(),
        snapshots: snapshots.collect(),
        thin_pools: pools.collect(),
    }
}

impl Facts {
    /// The states of the snapshots.
    pub fn snapshots(&self) -> impl Iterator<Item = (LvUuid, SnapshotStatus)> {
        self.snapshots.iter().map(|(volume, status)| (*volume, *status))
    }

    /// Replaces the state of a snapshot.
    pub fn set_snapshot(&mut self, volume: LvUuid, status: SnapshotStatus) {
        self.snapshots.insert(volume, status);
    }

    /// Adds the facts to the volume group.
    pub fn apply(&self, group: &mut VolumeGroup) {
        for pv in &mut group.physical_volumes {
            let disk = self.disks.get(&pv.uuid);
            pv.device_size = disk.map(|disk| disk.size);
            pv.device_read_only = disk.is_some_and(|disk| disk.read_only);
        }
        for volume in &mut group.logical_volumes {
            volume.raid = self.raids.get(&volume.uuid).cloned();
            volume.snapshot = self.snapshots.get(&volume.uuid).copied();
            volume.thin_pool = self.thin_pools.get(&volume.uuid).copied();
        }
    }
}

/// Size and write protection of a device, by its number in sysfs.
fn disk(sysfs: &Path, device: &Path) -> Option<Disk> {
    let number = fs::metadata(device).ok()?.rdev();
    let folder = sysfs.join(format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number)));
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    // The kernel counts in sectors of 512 bytes, whatever the disk's own size is. A disk that is being
    // removed has size 0.
    let size = read("size").filter(|sectors| *sectors > 0)?.checked_mul(512)?;
    Some(Disk { size, read_only: read("ro") == Some(1) })
}

#[cfg(test)]
mod tests {
    use quarry_volume::{ExtentSize, Extents};

    use super::*;
    use crate::types::PhysicalVolume;

    /// `/dev/null` is 1:3 everywhere, and stands for a disk here.
    fn sysfs(size: &str, read_only: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("1:3")).unwrap();
        fs::write(folder.path().join("1:3/size"), format!("{size}\n")).unwrap();
        fs::write(folder.path().join("1:3/ro"), format!("{read_only}\n")).unwrap();
        folder
    }

    #[test]
    fn size_and_write_protection_come_from_the_kernel() {
        let null = Path::new("/dev/null");
        let seen = |size, ro| disk(sysfs(size, ro).path(), null);
        assert_eq!(seen("2048", "0"), Some(Disk { size: 1 << 20, read_only: false }));
        assert_eq!(seen("2048", "1"), Some(Disk { size: 1 << 20, read_only: true }));
        assert_eq!(seen("0", "0"), None);
        assert_eq!(disk(Path::new("/no-such-folder"), null), None);
    }

    #[test]
    fn extents_past_the_end_of_the_device_are_detected() {
        let pv = PhysicalVolume { extent_count: Extents(10), extents_offset: 1 << 20, ..PhysicalVolume::default() };
        let extent_size = ExtentSize(4 << 20);
        let mut group = VolumeGroup { extent_size, physical_volumes: vec![pv], ..VolumeGroup::default() };
        let mut with = |size: u64| {
            let disks = BTreeMap::from([(PvUuid::default(), Disk { size, read_only: false })]);
            Facts { disks, ..Facts::default() }.apply(&mut group);
            let pv = &group.physical_volumes[0];
            (pv.extents_on_device(extent_size).0, pv.is_cut_off(extent_size), pv.unused_tail(extent_size))
        };
        assert_eq!(with(41 << 20), (10, false, 0));
        assert_eq!(with((41 << 20) - 512), (9, true, 0));
        assert_eq!(with(0), (0, true, 0));
        assert_eq!(with(50 << 20), (10, false, 9 << 20));
    }
}
