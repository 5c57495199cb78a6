//! Physical volumes that lvm did not find, and how their return is noticed.
//!
//! If a disk answered with errors for a while and works again, there is no event, and no header on the other
//! disks changes. So while a physical volume is missing, its label is searched for: one small read of each
//! device that may have it, and no lvm process.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarry_lvm::{PvUuid, VolumeGroup};

use super::disks::LvmDisks;
use crate::EventCounts;

/// How soon lvm is run again if a label is visible but lvm does not find its physical volume; doubled each
/// time. The device may have come back just after lvm scanned it, or the host's settings may hide it.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The physical volumes that a report did not find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostVolumes {
    uuids: Vec<PvUuid>,
    /// The devices with their labels right after the report.
    visible: Vec<PathBuf>,
    pause: Duration,
    /// When lvm is run again, if their labels are visible, or a device does not answer.
    again: Instant,
}

impl LostVolumes {
    /// The physical volumes that a report did not find; `None` if it found all. `before`: the result for the
    /// previous report.
    pub(super) async fn of(
        group: &VolumeGroup,
        search: &Search,
        disks: &LvmDisks,
        counts: EventCounts,
        before: Option<&Self>,
    ) -> Option<Self> {
        let uuids = group.lost_physical_volumes();
        if uuids.is_empty() {
            return None;
        }
        let visible = search.find(&uuids, group, disks, counts).await;
        let pause = match before {
            Some(before) if before.uuids == uuids && before.visible == visible => {
                before.pause.saturating_mul(2).min(LONGEST_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        Some(Self { uuids, visible, pause, again: Instant::now() + pause })
    }

    /// Whether a new report may find one of them.
    pub(super) async fn may_have_returned(
        &self,
        group: &VolumeGroup,
        search: &Search,
        disks: &LvmDisks,
        counts: EventCounts,
    ) -> bool {
        let visible = search.find(&self.uuids, group, disks, counts).await;
        // A device that did not answer for the report may have answered since, and hold none of them.
        let may_differ = !visible.is_empty() || !group.silent.is_empty();
        visible != self.visible || (may_differ && Instant::now() >= self.again)
    }
}

/// Searches for the labels of physical volumes.
pub(super) struct Search {
    /// The kernel's folder of block devices.
    block: PathBuf,
    others: Mutex<OtherDevices>,
}

/// Devices that answered and do not have any of the labels. They are not read again until an event of any
/// device, so that a sleeping disk is not woken up.
#[derive(Default)]
struct OtherDevices {
    counts: EventCounts,
    devices: HashSet<PathBuf>,
}

impl Default for Search {
    fn default() -> Self {
        Self { block: "/sys/class/block".into(), others: Mutex::default() }
    }
}

impl Search {
    /// The devices, sorted, with the label of one of these physical volumes.
    async fn find(&self, uuids: &[PvUuid], group: &VolumeGroup, disks: &LvmDisks, counts: EventCounts) -> Vec<PathBuf> {
        let known: HashSet<PathBuf> = group.physical_volumes.iter().filter_map(|pv| pv.device.clone()).collect();
        let candidates = {
            let mut others = self.others.lock();
            if others.counts != counts {
                *others = OtherDevices { counts, devices: HashSet::new() };
            }
            let unknown = |device: &PathBuf| !known.contains(device) && !others.devices.contains(device);
            candidates(&self.block).into_iter().filter(unknown).collect()
        };
        let (mut visible, mut other) = (Vec::new(), Vec::new());
        for (device, label) in disks.labels(candidates).await {
            match label {
                Ok(Some(uuid)) if uuids.contains(&uuid) => visible.push(device),
                Ok(_) => other.push(device),
                // It may be the right one, with read errors.
                Err(_) => {}
            }
        }
        let mut others = self.others.lock();
        if others.counts == counts {
            others.devices.extend(other);
        }
        visible.sort();
        visible
    }
}

/// The devices that may have a physical volume: all that have a size and are not logical volumes themselves.
fn candidates(block: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(block) else { return Vec::new() };
    let device = |entry: fs::DirEntry| {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let logical = read("dm/uuid").starts_with("LVM-");
        let empty = matches!(read("size").trim(), "" | "0");
        let name = entry.file_name().to_str()?.replace('!', "/");
        (!logical && !empty).then(|| Path::new("/dev").join(name))
    };
    entries.flatten().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quarry_lvm::PhysicalVolume;

    use super::super::disks::double::FakeDisks;
    use super::*;

    const LOST: &str = "iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT";

    fn block(devices: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, size, dm) in devices {
            let entry = folder.path().join(name);
            fs::create_dir_all(entry.join("dm")).unwrap();
            fs::write(entry.join("size"), format!("{size}\n")).unwrap();
            if !dm.is_empty() {
                fs::write(entry.join("dm/uuid"), format!("{dm}\n")).unwrap();
            }
        }
        folder
    }

    #[test]
    fn logical_volumes_and_empty_drives_are_not_candidates() {
        let folder = block(&[
            ("vda", "8192", ""),
            ("sr0", "0", ""),
            ("dm-0", "8192", "LVM-x"),
            ("dm-1", "8192", "CRYPT-x"),
            ("cciss!c0d0", "8192", ""),
        ]);
        let mut found = candidates(folder.path());
        found.sort();
        assert_eq!(found, ["/dev/cciss/c0d0", "/dev/dm-1", "/dev/vda"].map(PathBuf::from));
    }

    #[tokio::test]
    async fn a_recovered_disk_is_noticed_and_others_are_read_once() {
        let folder = block(&[("vdb", "8192", ""), ("vdc", "8192", ""), ("vdd", "8192", ""), ("vde", "8192", "")]);
        let search = Search { block: folder.path().to_owned(), others: Mutex::default() };
        let [vdb, vdc, vdd, vde] = ["/dev/vdb", "/dev/vdc", "/dev/vdd", "/dev/vde"].map(PathBuf::from);
        let io = Arc::new(FakeDisks::default());
        io.change(|state| {
            state.labels.insert(vdc.clone(), LOST.parse().unwrap());
            state.failing.insert(vdc.clone());
            state.hanging.insert(vde.clone());
        });
        let disks = LvmDisks::over(Arc::clone(&io) as _, Duration::from_secs(1));
        let present = PhysicalVolume { device: Some(vdb.clone()), ..PhysicalVolume::default() };
        let lost = PhysicalVolume { uuid: LOST.parse().unwrap(), ..PhysicalVolume::default() };
        let group = VolumeGroup { physical_volumes: vec![present, lost], ..VolumeGroup::default() };

        let (none, one) = (EventCounts::default(), EventCounts { all: 1, disks: 0 });
        let before = LostVolumes::of(&group, &search, &disks, none, None).await.expect("one is lost");
        for _ in 0..5 {
            assert!(!before.may_have_returned(&group, &search, &disks, none).await, "it still fails");
        }
        let read = |device: &Path| io.change(|state| state.begun.iter().filter(|(_, read)| read == device).count());
        assert_eq!((read(&vdb), read(&vdd), read(&vde)), (0, 1, 1), "present, something else, hanging");
        assert_eq!(read(&vdc), 6);

        io.change(|state| state.failing.clear());
        assert!(before.may_have_returned(&group, &search, &disks, none).await);
        // lvm is run and still reports it as lost: the pauses become longer.
        let again = LostVolumes::of(&group, &search, &disks, none, Some(&before)).await.expect("still lost");
        assert_eq!((again.pause, again.visible.as_slice()), (FIRST_PAUSE, [vdc.clone()].as_slice()));
        assert!(!again.may_have_returned(&group, &search, &disks, none).await, "not at once");
        let third = LostVolumes::of(&group, &search, &disks, none, Some(&again)).await.expect("still lost");
        assert_eq!(third.pause, 2 * FIRST_PAUSE);
        let due = LostVolumes { again: Instant::now(), ..third };
        assert!(due.may_have_returned(&group, &search, &disks, none).await);
        // None is visible, but one did not answer.
        let silent = VolumeGroup { silent: vec![vde.clone()], ..group.clone() };
        let nothing = LostVolumes { visible: Vec::new(), again: Instant::now(), ..due.clone() };
        io.change(|state| state.labels.clear());
        assert!(!nothing.may_have_returned(&group, &search, &disks, none).await);
        assert!(nothing.may_have_returned(&silent, &search, &disks, none).await);
        // After an event of any device, all are read again.
        due.may_have_returned(&group, &search, &disks, one).await;
        assert_eq!(read(&vdd), 2);
        assert_eq!(read(&vde), 1, "still one request for the one that hangs");

        let whole = VolumeGroup { physical_volumes: group.physical_volumes[..1].to_vec(), ..VolumeGroup::default() };
        assert_eq!(LostVolumes::of(&whole, &search, &disks, one, None).await, None);
        io.change(|state| state.hanging.clear());
    }
}
