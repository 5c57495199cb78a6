//! Capacity of artificial volume groups. Real volume groups are tested in virtual nodes.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;

use proptest::prelude::*;
use quarry_lvm::capacity::{choose_for_snapshot, closed, hints, largest, space, withheld};
use quarry_lvm::{LogicalVolume, PhysicalVolume, VolumeGroup};
use quarry_volume::{ExtentSize, Extents, Layout};

const EXTENT: u64 = 4 << 20;
const STRIPED2: Layout = Layout::Striped { stripes: 2, stripe_size: 65536 };
const STRIPED3: Layout = Layout::Striped { stripes: 3, stripe_size: 65536 };
const RAID1: Layout = Layout::Raid1 { mirrors: 1 };

fn group(free: &[u64]) -> VolumeGroup {
    let disk = |(number, free): (usize, &u64)| PhysicalVolume {
        device: Some(PathBuf::from(format!("/dev/sd{}", char::from(b'a' + u8::try_from(number).expect("few"))))),
        uuid: format!("{number:032}").parse().expect("a UUID"),
        extent_count: Extents(1000),
        free_extents: Extents(*free),
        allocatable: true,
        metadata_areas: 1,
        ..PhysicalVolume::default()
    };
    VolumeGroup {
        name: "vg".to_owned(),
        extent_size: ExtentSize(EXTENT),
        extent_count: Extents(1000 * u64::try_from(free.len()).expect("few")),
        free_extents: Extents(free.iter().sum()),
        metadata_size: 1_044_480,
        metadata_free: 520_000,
        physical_volumes: free.iter().enumerate().map(disk).collect(),
        ..VolumeGroup::default()
    }
}

fn extents(group: &VolumeGroup, layout: Layout, reserve: u64) -> u64 {
    let largest = largest(group, &layout, reserve);
    assert_eq!(largest.bytes, group.extent_size.bytes(largest.extents));
    assert_eq!(largest.extents == Extents::NONE, largest.reason.is_some(), "{largest:?}");
    largest.extents.0
}

fn choose(group: &VolumeGroup, layout: &Layout, extents: u64, reserve: u64) -> Option<Vec<PathBuf>> {
    quarry_lvm::capacity::choose(group, layout, Extents(extents), reserve, None)
}

fn devices(names: &[&str]) -> Option<Vec<PathBuf>> {
    Some(names.iter().map(PathBuf::from).collect())
}

#[test]
fn sizes_by_layout() {
    let group = group(&[100, 70, 40]);
    assert_eq!(extents(&group, Layout::Linear, 0), 210);
    assert_eq!(extents(&group, STRIPED2, 0), 140);
    assert_eq!(extents(&group, STRIPED3, 0), 120);
    // One extent of each disk is for the image's own metadata.
    assert_eq!(extents(&group, RAID1, 0), 69);
    assert_eq!(extents(&group, Layout::Raid1 { mirrors: 2 }, 0), 39);
    assert_eq!(extents(&group, Layout::Raid1 { mirrors: 3 }, 0), 0);
    assert_eq!(space(&group, 0).available(), 210 * EXTENT);
}

#[test]
fn a_reserve_is_left_free() {
    let group = group(&[100, 70, 40]);
    assert_eq!(extents(&group, Layout::Linear, 10 * EXTENT), 200);
    assert_eq!(extents(&group, Layout::Linear, 10 * EXTENT + 1), 199);
    assert_eq!(space(&group, 10 * EXTENT + 1).available(), 199 * EXTENT);
    // It is first taken from the extents that the layout cannot use.
    assert_eq!(extents(&group, STRIPED2, 70 * EXTENT), 140);
    assert_eq!(extents(&group, STRIPED2, 71 * EXTENT), 138);
    assert_eq!(extents(&group, RAID1, 72 * EXTENT), 68);
    assert_eq!(extents(&group, Layout::Linear, 210 * EXTENT), 0);
    assert_eq!(extents(&group, RAID1, u64::MAX), 0);
}

#[test]
fn disks_are_chosen() {
    let group = group(&[100, 70, 40]);
    // The smallest disk that is large enough, so that the volume is on one disk and large areas are kept.
    assert_eq!(choose(&group, &Layout::Linear, 30, 0), devices(&["/dev/sdc"]));
    assert_eq!(choose(&group, &Layout::Linear, 41, 0), devices(&["/dev/sdb"]));
    assert_eq!(choose(&group, &Layout::Linear, 100, 0), devices(&["/dev/sda"]));
    assert_eq!(choose(&group, &Layout::Linear, 101, 0), devices(&["/dev/sda", "/dev/sdb", "/dev/sdc"]));
    assert_eq!(choose(&group, &Layout::Linear, 211, 0), None);
    assert_eq!(choose(&group, &Layout::Linear, 0, 0), None);
    assert_eq!(choose(&group, &STRIPED2, 140, 0), devices(&["/dev/sda", "/dev/sdb"]));
    assert_eq!(choose(&group, &STRIPED2, 139, 0), None, "not a whole row of stripes");
    assert_eq!(choose(&group, &STRIPED2, 142, 0), None);
    assert_eq!(choose(&group, &RAID1, 69, 0), devices(&["/dev/sda", "/dev/sdb"]));
    assert_eq!(choose(&group, &RAID1, 70, 0), None);
    assert_eq!(choose(&group, &Layout::Linear, 205, 6 * EXTENT), None);
}

#[test]
fn a_linear_clone_leaves_the_disk_of_its_source_to_the_snapshot() {
    let mut group = group(&[100, 70, 40]);
    let source = LogicalVolume {
        name: "source".to_owned(),
        physical_volumes: [group.physical_volumes[2].uuid].into(),
        ..LogicalVolume::default()
    };
    group.logical_volumes.push(source.clone());
    let clone = |extents| {
        quarry_lvm::capacity::choose(&group, &Layout::Linear, Extents(extents), 0, Some(&source)).expect("it fits")
    };
    assert_eq!(clone(30), [PathBuf::from("/dev/sdb")]);
    assert_eq!(clone(71), [PathBuf::from("/dev/sda")]);
    // There is no other disk.
    for pv in &mut group.physical_volumes[..2] {
        pv.free_extents = Extents(10);
    }
    let chosen = quarry_lvm::capacity::choose(&group, &Layout::Linear, Extents(30), 0, Some(&source));
    assert_eq!(chosen, devices(&["/dev/sdc"]));
}

#[test]
fn disks_that_must_not_be_used_do_not_count() {
    let mut group = group(&[100, 70, 40]);
    group.physical_volumes[0].allocatable = false;
    assert_eq!(extents(&group, Layout::Linear, 0), 110);
    assert_eq!(extents(&group, STRIPED2, 0), 80);
    assert_eq!(choose(&group, &RAID1, 39, 0), devices(&["/dev/sdb", "/dev/sdc"]));
}

#[test]
fn a_closed_group_has_no_space_and_a_reason() {
    let reason = |change: fn(&mut VolumeGroup)| {
        let mut group = group(&[100, 70]);
        change(&mut group);
        assert_eq!(extents(&group, Layout::Linear, 0), 0);
        assert_eq!(choose(&group, &Layout::Linear, 1, 0), None);
        closed(&group).expect("a reason")
    };
    let missing = reason(|group| {
        group.physical_volumes[1].missing = true;
        group.missing_pvs = 1;
    });
    assert!(
        missing.contains("000000-0000-0000-0000-0000-0000-000001") && missing.contains("restoremissing"),
        "{missing}"
    );
    assert!(reason(|group| group.partial = true).contains("partial"));
    assert!(reason(|group| group.exported = true).contains("exported"));
    assert!(reason(|group| group.read_only = true).contains("read-only"));
    assert!(reason(|group| group.lock_type = "sanlock".to_owned()).contains("sanlock"));
    let full = reason(|group| group.metadata_free = group.metadata_size / 20 - 1);
    assert!(full.contains("metadata area"), "{full}");
    let counted = reason(|group| {
        group.max_lv = 1;
        group.logical_volumes = vec![LogicalVolume::default()];
    });
    assert!(counted.contains("limit of 1 logical volumes"), "{counted}");
    assert_eq!(closed(&group(&[1])), None);
    let mut nearly = group(&[1]);
    nearly.metadata_free = nearly.metadata_size / 20;
    assert_eq!(closed(&nearly), None);
}

#[test]
fn layouts_that_do_not_suit_the_extents() {
    let mut group = group(&[100, 70]);
    group.extent_size = ExtentSize(64 << 10);
    assert!(largest(&group, &RAID1, 0).reason.expect("refused").contains("extents of at least"));
    let wide = Layout::Striped { stripes: 2, stripe_size: 128 << 10 };
    assert!(largest(&group, &wide, 0).reason.expect("refused").contains("larger than an extent"));
    assert_eq!(extents(&group, STRIPED2, 0), 140);
}

proptest! {
    /// Every size that is reported as possible fits on the chosen disks, and one step more fits on no disks.
    #[test]
    fn the_largest_size_fits_and_nothing_larger(
        free in prop::collection::vec(0_u64..50, 1..6),
        width in 1_u32..5,
        striped in any::<bool>(),
        reserve in 0_u64..40,
    ) {
        let group = group(&free);
        let layout = match (width, striped) {
            (1, _) => Layout::Linear,
            (stripes, true) => Layout::Striped { stripes, stripe_size: 65536 },
            (width, false) => Layout::Raid1 { mirrors: width - 1 },
        };
        let (each, overhead) = match layout {
            Layout::Striped { stripes, .. } => (u64::from(stripes), 0),
            Layout::Raid1 { .. } => (1, 1),
            _ => (1, 0),
        };
        let most = extents(&group, layout, reserve * EXTENT);
        prop_assert_eq!(choose(&group, &layout, most + each, reserve * EXTENT), None);
        if most > 0 {
            let chosen = choose(&group, &layout, most, reserve * EXTENT).expect("the largest fits");
            let free_on = |device: &PathBuf| {
                group.physical_volumes.iter().find(|disk| disk.device.as_ref() == Some(device)).map_or(0, |disk| disk.free_extents.0)
            };
            let used = if layout == Layout::Linear {
                prop_assert!(chosen.iter().map(free_on).sum::<u64>() >= most);
                most
            } else {
                prop_assert_eq!(chosen.len(), usize::try_from(width).expect("few"));
                let per_disk = most / each + overhead;
                prop_assert!(chosen.iter().all(|device| free_on(device) >= per_disk));
                per_disk * u64::from(width)
            };
            prop_assert!(free.iter().sum::<u64>() - used >= reserve);
        }
        // One step more would need more on one disk than the fullest choice has, or would use the reserve.
        let mut sorted = free.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let step = (most + each) / each + overhead;
        let total = free.iter().sum::<u64>().saturating_sub(reserve);
        let fits = match layout {
            Layout::Linear => most < total,
            _ => sorted.get(usize::try_from(width).expect("few") - 1).is_some_and(|least| *least >= step)
                && step * u64::from(width) <= total,
        };
        prop_assert!(!fits);
    }

    /// The controller's computation from a node's report matches the node's decision: there are disks for a
    /// size that the space allows, and none for a size that it does not allow.
    #[test]
    fn reported_space_and_choice_agree(
        free in prop::collection::vec((0_u64..50, any::<bool>()), 0..6),
        width in 1_u32..5,
        striped in any::<bool>(),
        reserve in 0_u64..40,
        extents in 0_u64..120,
    ) {
        let mut group = group(&free.iter().map(|(free, _)| *free).collect::<Vec<_>>());
        for (disk, (_, allocatable)) in group.physical_volumes.iter_mut().zip(&free) {
            disk.allocatable = *allocatable;
        }
        let layout = match (width, striped) {
            (1, _) => Layout::Linear,
            (stripes, true) => Layout::Striped { stripes, stripe_size: 65536 },
            (width, false) => Layout::Raid1 { mirrors: width - 1 },
        };
        let space = space(&group, reserve * EXTENT);
        prop_assert!(space.free.is_sorted_by(|one, next| one >= next));
        let promised = extents > 0
            && Extents(extents) <= space.largest(&layout).extents
            && (extents * EXTENT).is_multiple_of(space.unit(&layout));
        prop_assert_eq!(choose(&group, &layout, extents, reserve * EXTENT).is_some(), promised);
    }
}

#[test]
fn a_disk_on_two_devices_closes_the_group_and_both_are_named() {
    let mut group = group(&[10, 20]);
    group.physical_volumes[1].duplicates = vec!["/dev/sdq".into()];
    let why = closed(&group).expect("closed");
    assert!(why.contains("/dev/sdb and /dev/sdq") && why.contains("vgimportclone"), "{why}");
    assert_eq!(choose(&group, &Layout::Linear, 1, 0), None);
    assert!(space(&group, 0).closed.is_some());
}

#[test]
fn a_disk_that_cannot_be_written_closes_the_group_only_with_metadata_on_it() {
    let mut group = group(&[10, 20]);
    group.physical_volumes[1].device_read_only = true;
    assert!(closed(&group).expect("closed").contains("writes to /dev/sdb"));
    group.physical_volumes[1].metadata_areas = 0;
    assert_eq!(closed(&group), None);
    assert_eq!(space(&group, 0).free, [Extents(10)]);
    assert!(withheld(&group)[0].contains("/dev/sdb"));
    assert_eq!(choose(&group, &Layout::Linear, 20, 0), None);
}

#[test]
fn a_shrunk_disk_is_withheld_and_a_grown_one_is_hinted_at() {
    let mut group = group(&[10, 20]);
    let end = 1000 * EXTENT + (1 << 20);
    for pv in &mut group.physical_volumes {
        pv.extents_offset = 1 << 20;
        pv.device_size = Some(end);
    }
    assert_eq!((withheld(&group), hints(&group)), (vec![], vec![]));
    group.physical_volumes[1].device_size = Some(end - 512);
    assert_eq!(space(&group, 0).free, [Extents(10)]);
    assert!(withheld(&group)[0].contains("999 of 1000 extents"), "{:?}", withheld(&group));
    assert_eq!(extents(&group, RAID1, 0), 0);
    // On most disks, alignment leaves some unused space after the last extent.
    group.physical_volumes[1].device_size = Some(end + (31 << 20));
    assert_eq!((withheld(&group), hints(&group)), (vec![], vec![]));
    group.physical_volumes[1].device_size = Some(end + (32 << 20));
    assert!(hints(&group)[0].contains("pvresize /dev/sdb"), "{:?}", hints(&group));
    assert_eq!(space(&group, 0).free, [Extents(20), Extents(10)]);
}

/// A snapshot is placed on disks of its source only.
#[test]
fn a_snapshot_stays_on_the_disks_of_its_source() {
    let uuid = |label: &str| format!("{label:0<32}").parse().expect("a UUID");
    let pv = |label: &str, free: u64| PhysicalVolume {
        uuid: uuid(label),
        device: Some(format!("/dev/{label}").into()),
        allocatable: true,
        extent_count: Extents(100),
        free_extents: Extents(free),
        ..PhysicalVolume::default()
    };
    let lv = |name: &str, pvs: &[&str]| LogicalVolume {
        name: name.to_owned(),
        physical_volumes: pvs.iter().map(|label| uuid(label)).collect(),
        ..LogicalVolume::default()
    };
    let image = |name: &str, pv: &str| LogicalVolume { parent: Some("m".to_owned()), ..lv(name, &[pv]) };
    let group = VolumeGroup {
        extent_size: ExtentSize(4 << 20),
        physical_volumes: vec![pv("p", 10), pv("q", 20), pv("r", 90)],
        logical_volumes: vec![
            lv("a", &["p"]),
            lv("wide", &["p", "q"]),
            lv("m", &["p", "q"]),
            image("m_rimage_0", "p"),
            image("m_rimage_1", "q"),
        ],
        ..VolumeGroup::default()
    };
    let choose = |name: &str, extents: u64, reserve: u64| {
        let source = group.logical_volume(name).expect("a volume");
        choose_for_snapshot(&group, source, Extents(extents), reserve << 22)
    };
    let on = |devices: &[&str]| Ok(devices.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(choose("a", 10, 0), on(&["/dev/p"]));
    assert_eq!(choose("a", 11, 0), Err(Extents(10)));
    assert_eq!(choose("a", 0, 0), Err(Extents(10)));
    // One disk if that is enough, the smallest such.
    assert_eq!(choose("wide", 10, 0), on(&["/dev/p"]));
    assert_eq!(choose("wide", 11, 0), on(&["/dev/q"]));
    assert_eq!(choose("wide", 30, 0), on(&["/dev/q", "/dev/p"]));
    assert_eq!(choose("wide", 31, 0), Err(Extents(30)));
    // Only one copy's disk.
    assert_eq!(choose("m", 20, 0), on(&["/dev/q"]));
    assert_eq!(choose("m", 21, 0), Err(Extents(20)));
    // The reserve stays free.
    assert_eq!(choose("wide", 30, 90), on(&["/dev/q", "/dev/p"]));
    assert_eq!(choose("wide", 30, 91), Err(Extents(29)));
}
