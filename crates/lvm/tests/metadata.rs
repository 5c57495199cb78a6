//! Reads the metadata of real volume groups, and compares the result with lvm's report of the same moment.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod recording;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use quarry_lvm::VolumeGroup;
use quarry_lvm::metadata::{Disk, NeedsReport, follows, volume_group};
use recording::Recording;

const GUESTS: [&str; 2] = ["bookworm", "trixie"];

/// The metadata of these has everything that the report has.
const SAME: [&str; 21] = [
    // Every kind of tag, name, flag and segment that lvcreate makes; active, inactive, open, suspended.
    "linear",
    "empty",
    "striped",
    "raid1",
    // All other levels of raid.
    "raids",
    // A linear volume that became a raid1, and one with an odd name.
    "converted",
    // A disk of a raid failed.
    "raid1-failed",
    "raid1-skipped",
    // Of linear volumes and of a raid; one became full, one is inactive.
    "snapshots",
    "sparse",
    // Two pools, snapshots of snapshots, an external origin.
    "thin",
    "thin-raid1",
    "thin-full",
    "thin-off",
    // Two areas on a disk, none, and one of another size; then with `--metadataignore`, then `--vgmetadatacopies 1`.
    "two-areas",
    "ignored-areas",
    "one-copy",
    // Other alignment, a bootloader area, a smaller size than the disk's, a label in another sector.
    "geometry",
    // The text continues at the beginning of its area.
    "wrap",
    "exported",
    "read-only",
];

/// These need the report, for that reason.
const NEEDED: [(&str, &str); 15] = [
    // A change that did not reach a disk.
    ("back-but-old", "copies-differ"),
    ("missing", "missing"),
    ("missing-changed", "missing"),
    ("degraded", "missing"),
    // What `vgreduce --removemissing` leaves of a raid.
    ("error-segments", "unknown"),
    ("merging", "unknown"),
    ("pvmove", "unknown"),
    ("mirror", "unknown"),
    ("raid1-tracked", "unknown"),
    ("virtual-origin", "unknown"),
    ("cache", "unknown"),
    ("writecache", "unknown"),
    ("integrity", "unknown"),
    ("history", "unknown"),
    ("shared", "unknown"),
];

/// lvm reports `system-id` only on its own host. Only [`follows`] can see whose it is.
const OWNED: [(&str, usize); 2] = [("system-id", 1), ("other-system-id", 0)];

#[test]
fn the_metadata_is_read_as_lvm_reports_it() {
    for (guest, name) in GUESTS.iter().flat_map(|guest| SAME.map(|name| (guest, name))) {
        let recording = Recording::load(guest, name);
        let group = recording.group().unwrap_or_else(|why| panic!("{guest} {name}: {why}"));
        assert_eq!(recording.report, [group], "{guest} {name}");
    }
}

#[test]
fn what_only_lvm_can_judge_needs_the_report() {
    for (guest, (name, label)) in GUESTS.iter().flat_map(|guest| NEEDED.map(|needed| (guest, needed))) {
        let why = Recording::load(guest, name).group().expect_err(name);
        assert_eq!(why.label(), label, "{guest} {name}: {why}");
    }
}

#[test]
fn a_group_of_another_host_does_not_follow_an_own_one() {
    for (guest, (name, reports)) in GUESTS.iter().flat_map(|guest| OWNED.map(|owned| (guest, owned))) {
        let recording = Recording::load(guest, name);
        let group = recording.group().unwrap_or_else(|why| panic!("{guest} {name}: {why}"));
        assert_eq!((group.system_id.as_str(), recording.report.len()), ("node-7", reports), "{guest} {name}");
        assert!(recording.report.iter().all(|report| *report == group), "{guest} {name}");
        let before = VolumeGroup { system_id: String::new(), ..group.clone() };
        assert!(matches!(follows(&before, group.clone()), Err(NeedsReport::Other(_))));
        assert_eq!(follows(&group, group.clone()).expect("the same owner"), group);
    }
}

#[test]
fn every_recording_is_used() {
    for guest in GUESTS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metadata").join(guest);
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut found: Vec<String> =
            entries.filter_map(|name| Some(name.to_str()?.strip_suffix(".disks.json")?.into())).collect();
        let names = SAME.into_iter().chain(NEEDED.map(|(name, _)| name)).chain(OWNED.map(|(name, _)| name));
        let mut expected: Vec<&str> = names.collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{guest}");
    }
}

#[test]
fn what_the_recordings_contain_is_what_they_are_for() {
    let group = |name| Recording::load("bookworm", name).group().expect(name);
    let linear = group("linear");
    let volume = |name: &str| linear.logical_volume(name).expect(name);
    assert_eq!(volume("a-b--c").tags.len(), 2);
    assert_eq!((volume("held").suspended, volume("two").open, volume("two").segments), (true, Some(true), 2));
    assert_eq!((volume("off").active, volume("off").open, volume("off").device_number), (Some(false), None, None));
    assert!(volume("skipped").activation_skip && !linear.physical_volumes[2].allocatable);
    assert_eq!(linear.tags, ["b", "site=a"]);
    let areas = |name| group(name).physical_volumes.iter().map(|pv| pv.metadata_areas).collect::<Vec<_>>();
    assert_eq!((areas("two-areas"), areas("ignored-areas")), (vec![2, 2, 0, 1], vec![0, 2, 0, 1]));
    assert_eq!(areas("one-copy").iter().sum::<u64>(), 1);
    assert_eq!(group("raid1-failed").logical_volume("a").expect("a").health, "refresh needed");
    assert_eq!(group("thin-full").logical_volume("pool").expect("pool").health, "out_of_data");
    assert!(group("exported").exported && group("read-only").read_only);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Texts with right checksums that lvm did not write.
    #[test]
    fn no_text_makes_the_reader_panic(
        name in prop::sample::select(SAME.to_vec()),
        from in any::<prop::sample::Index>(),
        length in 0_usize..200,
        into in any::<prop::sample::Index>(),
    ) {
        let recording = Recording::load("bookworm", name);
        let disks = recording.read().expect("readable");
        let mut text = recording.text().into_bytes();
        // Moves some lines to another place.
        let from = from.index(text.len());
        let moved: Vec<u8> = text.drain(from..(from + length).min(text.len())).collect();
        let into = into.index(text.len().max(1));
        text.splice(into..into, moved);
        let changed = |mut disk: Disk| {
            for area in &mut disk.areas {
                area.text = Some(text.clone());
            }
            disk
        };
        let disks: Vec<Disk> = disks.into_iter().map(changed).collect();
        if let Err(why) = volume_group(&disks, &recording.devices()) {
            prop_assert_ne!(why.to_string(), "");
        }
    }
}
