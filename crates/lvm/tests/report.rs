//! Parses recorded reports of real volume groups (lvm 2.03.16), and arbitrary input.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;

use proptest::prelude::*;
use quarry_lvm::{LogicalVolume, VolumeGroup, parse};
use quarry_volume::{ExtentSize, Extents, Layout};

const HEALTHY: &str = include_str!("fixtures/healthy.json");
const LOST_DISK: &str = include_str!("fixtures/lost-disk.json");
const WRITTEN_OFF: &str = include_str!("fixtures/disk-back-but-written-off.json");
const TWO_GROUPS: &str = include_str!("fixtures/two-groups-one-exported.json");
const NOTHING: &str = include_str!("fixtures/nothing.json");
const RAID1: &str = include_str!("fixtures/raid1.json");
const RAID1_CUT_OFF: &str = include_str!("fixtures/raid1-cut-off.json");
const RAID1_LOST_DISK: &str = include_str!("fixtures/raid1-lost-disk.json");
/// A volume with a snapshot of Quarry's and one of an operator, and a snapshot whose creation was interrupted.
const SNAPSHOTS: &str = include_str!("fixtures/snapshots.json");
const ALL: [&str; 9] =
    [HEALTHY, LOST_DISK, WRITTEN_OFF, TWO_GROUPS, NOTHING, RAID1, RAID1_CUT_OFF, RAID1_LOST_DISK, SNAPSHOTS];

fn only(report: &str) -> VolumeGroup {
    let mut groups = parse(report.as_bytes()).expect("a report");
    assert_eq!(groups.len(), 1);
    groups.remove(0)
}

fn volume<'a>(group: &'a VolumeGroup, name: &str) -> &'a LogicalVolume {
    group.logical_volume(name).expect(name)
}

#[test]
fn a_healthy_group() {
    let group = only(HEALTHY);
    assert_eq!((group.name.as_str(), &*group.uuid.to_string()), ("pool-a", "rGRJnx-BLI6-SPJr-Gz7c-1cfU-svOi-iLJDEc"));
    assert_eq!(group.extent_size, ExtentSize(4 << 20));
    assert_eq!((group.extent_count, group.free_extents), (Extents(765), Extents(487)));
    assert_eq!((group.metadata_size, group.metadata_free, group.seqno), (1_044_480, 519_168, 7));
    assert_eq!(group.tags, ["b", "site=a"]);
    assert!(!group.partial && !group.exported && !group.read_only && group.missing_pvs == 0);

    let [first, second, third] = group.physical_volumes.as_slice() else { panic!("{group:?}") };
    assert_eq!(first.device.as_deref(), Some("/dev/loop41".as_ref()));
    assert_eq!((first.size, first.extent_count, first.free_extents), (1_069_547_520, Extents(255), Extents(236)));
    assert_eq!(first.free_fragments, [(Extents(10), Extents(5)), (Extents(24), Extents(231))]);
    assert!(first.allocatable && !first.missing && first.metadata_areas == 1);
    assert_eq!((second.free_extents, second.free_fragments.len()), (Extents::NONE, 0));
    assert!(!third.allocatable);
    let devices: Vec<PathBuf> = ["/dev/loop41", "/dev/loop42", "/dev/loop43"].map(PathBuf::from).into();
    assert_eq!(group.metadata_devices(), devices);

    let one = volume(&group, "one");
    assert_eq!((one.size, one.segments, one.stripes), (10 * (4 << 20), 1, 1));
    assert_eq!(one.tags, ["quarry=1/s=new", "x"]);
    assert_eq!(one.device, PathBuf::from("/dev/mapper/pool--a-one"));
    assert_eq!(one.device, group.mapper_path("one"));
    // Recorded without device-mapper in the kernel, so lvm could not determine it.
    assert_eq!((one.active, one.open, one.suspended, one.device_number), (None, None, false, None));
    assert_eq!(one.physical_volumes.iter().collect::<Vec<_>>(), [&first.uuid]);
    let striped = volume(&group, "str");
    assert_eq!((striped.stripes, striped.stripe_size, striped.physical_volumes.len()), (2, 65536, 2));
    let wide = volume(&group, "wide");
    assert_eq!((wide.segments, wide.physical_volumes.len()), (2, 2));
    assert!(group.logical_volumes.iter().all(|volume| !volume.lacks(&group)));
}

#[test]
fn a_snapshot_is_recognized_by_its_origin() {
    let group = only(SNAPSHOTS);
    let source = volume(&group, "a");
    let names = |found: Vec<&LogicalVolume>| found.iter().map(|volume| volume.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(group.snapshots_of(source).collect()), ["s", "theirs"]);
    assert_eq!(names(group.removed_with(source)), ["s", "theirs"]);
    let snapshot = volume(&group, "s");
    assert_eq!((snapshot.origin.as_deref(), snapshot.size), (Some("a"), 20 << 20));
    assert!(snapshot.segment_types.iter().eq(["linear"]) && snapshot.parent.is_none() && !snapshot.internal);
    assert_eq!(group.removed_with(snapshot), Vec::<&LogicalVolume>::new());
    assert_eq!(volume(&group, "half").origin, None);
}

#[test]
fn a_lost_disk_is_known_by_its_uuid() {
    let group = only(LOST_DISK);
    assert!(group.partial);
    assert_eq!((group.missing_pvs, group.physical_volumes.len()), (1, 3));
    let lost: Vec<_> = group.physical_volumes.iter().filter(|volume| volume.missing).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!((&*lost[0].uuid.to_string(), &lost[0].device), ("IpUwod-OdsH-FtGR-8E32-m3WM-xAxb-9TM3t6", &None));
    assert_eq!(group.metadata_devices().len(), 2);
    let lacking: Vec<&str> =
        group.volumes().filter(|volume| volume.lacks(&group)).map(|volume| volume.name.as_str()).collect();
    assert_eq!(lacking, ["str"]);
    assert_eq!(volume(&group, "str").health, "partial");
    assert_eq!(volume(&group, "one").health, "");
}

#[test]
fn a_disk_that_was_written_off_stays_missing_when_it_is_back() {
    let group = only(WRITTEN_OFF);
    let back =
        group.physical_volume("IpUwod-OdsH-FtGR-8E32-m3WM-xAxb-9TM3t6".parse().expect("a UUID")).expect("listed");
    assert!(back.missing && back.device.is_some());
    assert!(group.partial && volume(&group, "str").lacks(&group));
}

#[test]
fn several_groups_and_none() {
    let groups = parse(TWO_GROUPS.as_bytes()).expect("a report");
    let names: Vec<(&str, bool, usize)> =
        groups.iter().map(|group| (group.name.as_str(), group.exported, group.logical_volumes.len())).collect();
    assert_eq!(names, [("pool-a", false, 3), ("void", true, 0)]);
    assert_eq!(parse(NOTHING.as_bytes()), Ok(vec![]));
}

#[test]
fn a_raid_and_its_parts() {
    let group = only(RAID1);
    let raid = volume(&group, "r");
    assert_eq!((raid.active, raid.suspended, raid.activation_skip, raid.internal), (Some(true), false, false, false));
    assert_eq!((raid.stripes, raid.sync_percent, raid.physical_volumes.len()), (2, Some(10_000), 2));
    assert!(raid.device_number.is_some());
    assert_eq!(group.volumes().count(), 1);
    assert_eq!(group.parts_of("r").count(), 4);
    let part = volume(&group, "r_rmeta_0");
    assert!(part.internal && part.parent.as_deref() == Some("r") && part.physical_volumes.len() == 1);
    // lvm gives the raid's tags to its metadata volumes: they must not count as volumes.
    assert_eq!(part.tags, raid.tags);
    assert_eq!(group.incompleteness(raid, &Layout::Raid1 { mirrors: 1 }), None);
    assert!(group.incompleteness(raid, &Layout::Raid1 { mirrors: 2 }).is_some());
    assert!(group.incompleteness(raid, &Layout::Linear).is_some());
}

#[test]
fn a_raid_whose_creation_was_cut_off() {
    let group = only(RAID1_CUT_OFF);
    let whole = volume(&group, "k");
    assert!(whole.activation_skip && whole.active == Some(false));
    assert_eq!(whole.tags, ["x=1"]);
    let part = volume(&group, "k_rmeta_0");
    assert!(!part.internal && part.tags == ["x=1"], "visible, and tagged: {part:?}");
    let names: Vec<&str> = group.volumes().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["k", "r"]);
    let why = group.incompleteness(whole, &Layout::Raid1 { mirrors: 1 }).expect("incomplete");
    assert!(why.contains("interrupted"), "{why}");
    assert_eq!(group.incompleteness(volume(&group, "r"), &Layout::Raid1 { mirrors: 1 }), None);
    // Even without the flag, the loose parts show it.
    let mut group = group;
    group.logical_volumes.iter_mut().for_each(|volume| volume.activation_skip = false);
    assert!(group.incompleteness(volume(&group, "k"), &Layout::Raid1 { mirrors: 1 }).is_some());
}

#[test]
fn a_raid_that_lost_a_disk_stays_usable() {
    let group = only(RAID1_LOST_DISK);
    let raid = volume(&group, "r");
    assert!(raid.lacks(&group) && raid.active == Some(true) && raid.health == "partial");
    assert_eq!(group.incompleteness(raid, &Layout::Raid1 { mirrors: 1 }), None);
    assert!(volume(&group, "l").lacks(&group) && volume(&group, "l").active == Some(false));
    assert!(!volume(&group, "ok").lacks(&group));
}

#[test]
fn differing_layouts_are_detected() {
    let group = only(HEALTHY);
    let shape = |name: &str, layout| group.incompleteness(volume(&group, name), &layout);
    assert_eq!(shape("one", Layout::Linear), None);
    assert_eq!(shape("wide", Layout::Linear), None);
    assert_eq!(shape("str", Layout::Striped { stripes: 2, stripe_size: 65536 }), None);
    assert!(shape("str", Layout::Striped { stripes: 2, stripe_size: 4096 }).is_some());
    assert!(shape("str", Layout::Striped { stripes: 3, stripe_size: 65536 }).is_some());
    assert!(shape("str", Layout::Linear).is_some());
}

/// The output of newer versions with `json_std`: numbers, nulls, and lists as arrays.
#[test]
fn numbers_and_arrays_are_read() {
    let mut report: serde_json::Value = serde_json::from_str(HEALTHY).expect("json");
    let group = &mut report["report"][0];
    group["vg"][0]["vg_extent_size"] = serde_json::json!(4_194_304);
    group["vg"][0]["vg_tags"] = serde_json::json!(["b", "site=a"]);
    group["vg"][0]["vg_partial"] = serde_json::json!(0);
    group["lv"][0]["lv_suspended"] = serde_json::json!(null);
    group["lv"][0]["lv_kernel_major"] = serde_json::json!(254);
    group["lv"][0]["lv_kernel_minor"] = serde_json::json!(3);
    group["lv"][0]["sync_percent"] = serde_json::json!(7.5);
    group["pv"][0]["pv_allocatable"] = serde_json::json!(true);
    let read = only(&report.to_string());
    assert_eq!(volume(&read, "one").device_number, Some((254, 3)));
    assert_eq!(volume(&read, "one").sync_percent, Some(750));
    let mut expected = only(HEALTHY);
    let one = expected.logical_volumes.iter_mut().find(|volume| volume.name == "one").expect("one");
    (one.device_number, one.sync_percent) = (Some((254, 3)), Some(750));
    assert_eq!(read, expected);
}

/// Only a complete report can show that a volume does not exist.
#[test]
fn incomplete_reports_are_rejected() {
    let without = |change: fn(&mut serde_json::Value)| {
        let mut report: serde_json::Value = serde_json::from_str(HEALTHY).expect("json");
        change(&mut report["report"][0]);
        parse(report.to_string().as_bytes())
    };
    assert!(without(|_| ()).is_ok());
    for table in ["pv", "lv", "pvseg", "seg"] {
        let mut report: serde_json::Value = serde_json::from_str(HEALTHY).expect("json");
        report["report"][0].as_object_mut().expect("object").remove(table);
        assert!(parse(report.to_string().as_bytes()).is_err(), "{table}");
    }
    assert!(without(|group| drop(group["lv"].as_array_mut().expect("rows").remove(0))).is_err());
    assert!(without(|group| drop(group["pv"].as_array_mut().expect("rows").remove(0))).is_err());
    assert!(without(|group| group["seg"].as_array_mut().expect("rows").clear()).is_err());
    assert!(without(|group| group["vg"][0]["vg_extent_size"] = serde_json::json!("0")).is_err());
    assert!(without(|group| group["vg"][0]["vg_extent_size"] = serde_json::json!("4 MiB")).is_err());
    let why = without(|group| group["lv"][0]["lv_uuid"] = serde_json::json!("x")).expect_err("not a UUID");
    assert!(why.to_string().contains("column lv_uuid: `x` is not a UUID"), "{why}");
    assert!(without(|group| drop(group["lv"][0].as_object_mut().expect("row").remove("lv_tags"))).is_err());
    assert!(parse(b"").is_err() && parse(b"[]").is_err() && parse(b"{\"report\":1}").is_err());
    assert!(parse(&HEALTHY.as_bytes()[..HEALTHY.len() / 2]).is_err());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        "[0-9]{1,25}".prop_map(Into::into),
        "\\[?[a-c](_rmeta_0)?\\]?".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Into::into))
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    /// A real report in which some values are replaced by arbitrary ones.
    #[test]
    fn arbitrary_values_do_not_panic(
        which in 0..ALL.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..6),
    ) {
        let mut report: serde_json::Value = serde_json::from_str(ALL[which]).expect("json");
        for (place, value) in changes {
            let mut cells: Vec<&mut serde_json::Value> = report["report"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .filter_map(serde_json::Value::as_object_mut)
                .flat_map(|section| section.values_mut())
                .filter_map(serde_json::Value::as_array_mut)
                .flatten()
                .filter_map(serde_json::Value::as_object_mut)
                .flat_map(|row| row.values_mut())
                .collect();
            if cells.is_empty() { continue }
            let index = place.index(cells.len());
            *cells[index] = value;
        }
        if let Ok(groups) = parse(report.to_string().as_bytes()) {
            for group in groups {
                // The code that uses the result must not panic either.
                let largest = quarry_lvm::capacity::largest(&group, &Layout::Raid1 { mirrors: 1 }, 1);
                prop_assert!(largest.extents == Extents::NONE || largest.reason.is_none());
                for volume in group.volumes() {
                    let _ = (volume.lacks(&group), group.incompleteness(volume, &Layout::Linear));
                }
            }
        }
    }
}
