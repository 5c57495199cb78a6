//! Real metadata with damage, commits that are not complete, and disks that are missing.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod recording;

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proptest::prelude::*;
use quarry_lvm::metadata::{Disk, DiskProblem, NeedsReport, read_disk, volume_group};
use quarry_lvm::{VolumeGroup, metadata_fingerprint};
use recording::{AREA, COMMITTED, PRECOMMITTED, Recording, linear, next};

#[test]
fn a_commit_counts_once_it_is_on_all_disks() {
    let recording = linear();
    let before = recording.group().expect("readable");
    let changed = next(&recording.text());
    // lvm writes the text to each disk, then its position to each header, then makes it the valid one on each disk.
    for disk in 0..3 {
        recording.write_text(disk, changed.as_bytes(), 8192, PRECOMMITTED);
        assert!(matches!(recording.group(), Err(NeedsReport::Precommitted(_))));
        let disks = recording.read().expect("readable");
        assert!(disks[disk].areas[0].precommitted);
        assert_eq!(disks[disk].areas[0].text, disks[2].areas[0].text, "the old text is valid");
    }
    for disk in 0..3 {
        recording.write_text(disk, changed.as_bytes(), 8192, COMMITTED);
        recording.change_header(disk, |header| header[PRECOMMITTED..PRECOMMITTED + 24].fill(0));
        if disk < 2 {
            assert!(recording.group().is_err(), "only {disk} disks have it");
        }
    }
    assert_eq!(recording.group().expect("readable"), VolumeGroup { seqno: 15, ..before });
}

#[test]
fn one_stale_copy_needs_the_report() {
    for disk in 0..3 {
        let recording = linear();
        let changed = next(&recording.text());
        recording.write_text(disk, changed.as_bytes(), 8192, COMMITTED);
        let why = recording.group().expect_err("copies differ");
        assert!(matches!(why, NeedsReport::CopiesDiffer { .. }), "{why}");
    }
    // The second copy on one disk, which is at its end.
    let recording = Recording::load("bookworm", "two-areas");
    let changed = recording.text().replacen("seqno = 2", "seqno = 1", 1);
    recording.write_text(0, changed.as_bytes(), 8192, COMMITTED);
    assert!(matches!(recording.group(), Err(NeedsReport::CopiesDiffer { .. })));
}

#[test]
fn a_text_may_begin_anywhere_in_its_area() {
    let recording = linear();
    let (before, text) = (recording.group().expect("readable"), recording.text());
    let (size, length) = (recording.area_size(0), text.len() as u64);
    for offset in [512, 5120, size - length, size - length + 1, size - 4096, size - 512, size - 1] {
        for disk in 0..3 {
            recording.write_text(disk, text.as_bytes(), offset, COMMITTED);
        }
        assert_eq!(recording.group().unwrap_or_else(|why| panic!("at {offset}: {why}")), before, "at {offset}");
    }
    for (offset, length) in [(511, 10), (size, 10), (size + 1, 10), (512, size - 511), (512, 0), (u64::MAX, u64::MAX)] {
        recording.change_header(1, |header| {
            header[COMMITTED..COMMITTED + 8].copy_from_slice(&offset.to_le_bytes());
            header[COMMITTED + 8..COMMITTED + 16].copy_from_slice(&length.to_le_bytes());
        });
        assert_eq!(problem(&recording), DiskProblem::TextPlace, "{length} bytes at {offset}");
    }
}

fn problem(recording: &Recording) -> DiskProblem {
    match recording.group() {
        Err(NeedsReport::Disk { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_is_found_by_checksums() {
    // The UUID in the label, the position in the header, and a digit of the text.
    let text = u64::from_le_bytes(linear().read_at(1, AREA + COMMITTED as u64, 8).try_into().expect("8 bytes"));
    for (offset, found) in [
        (512 + 40, DiskProblem::LabelChecksum),
        (AREA + 41, DiskProblem::AreaChecksum),
        (AREA + text + 100, DiskProblem::TextChecksum),
        (512, DiskProblem::Label),
    ] {
        let recording = linear();
        let byte = recording.read_at(1, offset, 1)[0];
        recording.open(1).write_all_at(&[byte ^ 1], offset).expect("write");
        assert_eq!(problem(&recording), found, "at {offset}");
    }
    // A second label, an area with another magic number, another version, or another flag.
    let recording = linear();
    let label = recording.read_at(1, 512, 512);
    recording.open(1).write_all_at(&label, 1024).expect("write");
    assert_eq!(problem(&recording), DiskProblem::Label);
    for at in [5, 20, 24, 32, 60] {
        let recording = linear();
        recording.change_header(1, |header| header[at] ^= 2);
        assert_eq!(problem(&recording), DiskProblem::AreaHeader, "at {at}");
    }
}

#[test]
fn a_change_after_reading_is_noticed() {
    let recording = linear();
    let disk = read_disk(&recording.disks[0].0).expect("readable");
    let now = || metadata_fingerprint(&disk.device).expect("readable");
    assert_eq!(now(), disk.fingerprint);
    recording.write_text(0, next(&recording.text()).as_bytes(), 8192, COMMITTED);
    assert_ne!(now(), disk.fingerprint);
    assert!(matches!(read_disk(Path::new("/dev/quarry-no-such-disk")), Err(NeedsReport::Unreadable { .. })));
}

#[test]
fn all_disks_of_the_group_are_needed_and_no_others() {
    let recording = linear();
    let disks = recording.read().expect("readable");
    let read =
        |disks: &[Disk]| volume_group(disks, &recording.devices()).expect_err("not the disks of the group").label();
    assert_eq!(read(&disks[1..]), "missing");
    assert_eq!(read(&[]), "no-metadata");
    let again = Disk { device: "/dev/vdx".into(), ..disks[0].clone() };
    assert_eq!(read(&[disks.as_slice(), std::slice::from_ref(&again)].concat()), "duplicate");
    let foreign = Disk { uuid: "0".repeat(32).parse().expect("a UUID"), areas: Vec::new(), ..again };
    assert_eq!(read(&[disks.as_slice(), &[foreign]].concat()), "foreign");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// If a disk returns any byte of label, header or text wrongly, the result is not another group.
    #[test]
    fn no_wrong_byte_leads_to_another_group(
        disk in 0_usize..3,
        part in 0_u8..3,
        at in any::<prop::sample::Index>(),
        bits in 1_u8..,
    ) {
        let recording = linear();
        let before = recording.group().expect("readable");
        let header = recording.read_at(disk, AREA + COMMITTED as u64, 16);
        let field = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let (start, length) = match part {
            0 => (512, 512),
            1 => (AREA, 512),
            _ => (AREA + field(0), usize::try_from(field(8)).expect("a length")),
        };
        let offset = start + at.index(length) as u64;
        let byte = recording.read_at(disk, offset, 1)[0];
        recording.open(disk).write_all_at(&[byte ^ bits], offset).expect("write");
        match recording.group() {
            Ok(group) => prop_assert_eq!(group, before),
            Err(why) => prop_assert_ne!(why.to_string(), ""),
        }
    }
}
