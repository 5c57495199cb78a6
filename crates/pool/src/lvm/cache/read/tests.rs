//! A volume group is read from disks that change, hang and fail. These tests need no lvm.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use quarry_lvm::metadata::{Area, Disk};
use quarry_lvm::{Locator, PhysicalVolume, Scope};

use super::*;
use crate::Uevents;
use crate::lvm::disks::LvmDisks;
use crate::lvm::disks::double::FakeDisks;
use crate::lvm::testing::uuid;

const NAME: &str = "quarry-no-such-group";
const DEVICE: &str = "/dev/vdb";

/// The metadata of the volume group with that sequence number and no volumes, as lvm writes it.
fn text(seqno: u64) -> Vec<u8> {
    let (group, pv) = (uuid::<quarry_lvm::VgUuid>("vg"), uuid::<quarry_lvm::PvUuid>("pv"));
    format!(
        "{NAME} {{\nid = \"{group}\"\nseqno = {seqno}\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n\
         flags = []\nextent_size = 8192\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\nphysical_volumes {{\n\npv0 {{\n\
         id = \"{pv}\"\ndevice = \"{DEVICE}\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = 2097152\n\
         pe_start = 2048\npe_count = 255\n}}\n}}\n\n}}\ncontents = \"Text Format Volume Group\"\nversion = 1\n\0"
    )
    .into_bytes()
}

fn disk(seqno: u64) -> Disk {
    let area = Area { size: 1_044_480, text: Some(text(seqno)), precommitted: false };
    Disk { device: DEVICE.into(), uuid: uuid("pv"), areas: vec![area], fingerprint: [0; 32] }
}

/// A host with one disk and its cache, and the volume group of the last report.
fn host() -> (Arc<FakeDisks>, Arc<Cache>, Arc<VolumeGroup>) {
    let io = Arc::new(FakeDisks::default());
    let disks = LvmDisks::over(Arc::clone(&io) as _, Duration::from_secs(1));
    let pv = PhysicalVolume { device: Some(DEVICE.into()), uuid: uuid("pv"), ..PhysicalVolume::default() };
    let last = VolumeGroup {
        name: NAME.to_owned(),
        uuid: uuid("vg"),
        seqno: 7,
        physical_volumes: vec![pv],
        // A folder that every machine has, without a lock of this group: lvm's own is missing where lvm never ran.
        scope: Scope::default().with_locks(std::env::temp_dir()),
        ..VolumeGroup::default()
    };
    (io, Cache::new(NAME, Locator::new(NAME, 1, BTreeSet::new()), Uevents::default(), disks), Arc::new(last))
}

fn write(io: &FakeDisks, seqno: u64) {
    io.change(|state| state.metadata.insert(DEVICE.into(), disk(seqno)));
}

#[tokio::test]
async fn the_group_is_read_from_its_disks() {
    let (io, cache, last) = host();
    write(&io, 8);
    io.change(|state| state.generations.insert(DEVICE.into(), 3));
    let read = cache.read_disks(&last).await.expect("readable");
    assert_eq!((read.group.seqno, read.group.extent_count.0), (8, 255));
    assert_eq!(read.fingerprints, [(PathBuf::from(DEVICE), Some([3; 32]))]);
    let begun = io.change(|state| std::mem::take(&mut state.begun));
    assert_eq!(begun.iter().map(|(request, _)| *request).collect::<Vec<_>>(), ["metadata", "read"]);
}

#[tokio::test]
async fn a_change_meanwhile_is_read_again_and_endless_changes_need_lvm() {
    let (io, cache, last) = host();
    write(&io, 8);
    // The disk changes after each of the first reads.
    io.change(|state| state.changes_after_reads = 2);
    assert_eq!(cache.read_disks(&last).await.expect("readable").group.seqno, 8);
    let begun = io.change(|state| std::mem::take(&mut state.begun));
    assert_eq!(begun.iter().filter(|(request, _)| *request == "metadata").count(), 3);
    io.change(|state| state.changes_after_reads = usize::MAX);
    let why = cache.read_disks(&last).await.err();
    assert!(
        matches!(&why, Some(Fallback::Disks(NeedsReport::Changed(device))) if device == Path::new(DEVICE)),
        "{why:?}"
    );
}

#[tokio::test]
async fn a_disk_that_hangs_or_fails_is_named() {
    let (io, cache, last) = host();
    write(&io, 8);
    io.change(|state| state.failing.insert(DEVICE.into()));
    let why = cache.read_disks(&last).await.err();
    assert!(matches!(&why, Some(Fallback::Disks(NeedsReport::Unreadable { .. }))), "{why:?}");
    io.change(|state| state.hanging.insert(DEVICE.into()));
    let why = cache.read_disks(&last).await.err();
    assert!(matches!(&why, Some(Fallback::Unresponsive(disk)) if disk.disk == DEVICE), "{why:?}");
    io.change(|state| (state.hanging.clear(), state.failing.clear()));
}

#[tokio::test]
async fn a_group_with_a_lost_disk_or_without_a_report_needs_lvm() {
    let (io, cache, last) = host();
    write(&io, 8);
    let mut lost = VolumeGroup::clone(&last);
    lost.physical_volumes[0].device = None;
    let why = cache.read_disks(&Arc::new(lost)).await.err();
    assert!(matches!(&why, Some(Fallback::Disks(NeedsReport::Missing(_)))), "{why:?}");
    assert!(matches!(cache.read().await, Err(Fallback::NoReport("first"))));
    let none = VolumeGroup { physical_volumes: Vec::new(), ..VolumeGroup::clone(&last) };
    let why = cache.read_disks(&Arc::new(none)).await.err();
    assert!(matches!(&why, Some(Fallback::Disks(NeedsReport::NoMetadata))), "{why:?}");
}

#[test]
fn a_difference_counts_if_it_lasts() {
    let found = |line: &str| Some(line.to_owned());
    assert_eq!(lasting(&[]), None);
    assert_eq!(lasting(&[None, None, None, None, found("7")]), None, "a volume was active for a moment");
    assert_eq!(lasting(&[None, found("8"), found("7")]), None, "two moments");
    assert_eq!(lasting(&[found("7"), found("7"), None]), None, "the volume group changed since");
    assert_eq!(lasting(&[None, found("7"), found("7")]), Some("7"));
}

#[test]
fn a_difference_names_the_volume() {
    let (_, _, read) = host();
    let mut report = (*read).clone();
    assert_eq!(difference(&report, &read), "");
    report.seqno += 1;
    let shown = difference(&report, &read);
    assert!(shown.contains(&format!("(name: \"{NAME}\",): `seqno: 8,`, read `seqno: 7,`")), "{shown}");
}
