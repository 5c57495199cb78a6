use std::collections::BTreeSet;

use quarry_lvm::{ExtentRange, PhysicalVolume, PvUuid};
use quarry_volume::ExtentSize;

use super::super::{testing::uuid, volume};
use super::*;

const EXTENT: u64 = 4 << 20;
const RAID1: Layout = Layout::Raid1 { mirrors: 1 };

fn range(pv: &str, first: u64, extents: u64) -> ExtentRange {
    ExtentRange { pv: uuid(pv), first: Extents(first), extents: Extents(extents) }
}

fn lv(name: &str, kind: &str, ranges: &[ExtentRange]) -> LogicalVolume {
    LogicalVolume {
        name: name.into(),
        uuid: uuid(name),
        size: EXTENT * ranges.iter().map(|range| range.extents.0).sum::<u64>(),
        segment_types: BTreeSet::from([kind.to_owned()]),
        stripes: 1,
        ranges: ranges.iter().map(|range| vec![*range]).collect(),
        physical_volumes: ranges.iter().map(|range| range.pv).collect(),
        ..LogicalVolume::default()
    }
}

/// The volume `v` of 10 extents on /dev/a, and these others.
fn group(others: Vec<LogicalVolume>) -> VolumeGroup {
    let tag = format!("quarry1/s=ready/n=v/b={}/a=m/f=ext4/l=l/p=x", 10 * EXTENT);
    let volume = LogicalVolume { tags: vec![tag], ..lv("v", "linear", &[range("a", 0, 10)]) };
    let pv = |name: &str| PhysicalVolume {
        uuid: uuid(name),
        device: Some(format!("/dev/{name}").into()),
        free_fragments: vec![(Extents(100), Extents(50))],
        allocatable: true,
        ..PhysicalVolume::default()
    };
    VolumeGroup {
        name: "vg".into(),
        uuid: uuid("u"),
        extent_size: ExtentSize(EXTENT),
        physical_volumes: ["a", "b"].map(pv).into(),
        logical_volumes: std::iter::once(volume).chain(others).collect(),
        ..VolumeGroup::default()
    }
}

/// The same volume as a mirror on /dev/a and /dev/b.
fn mirror() -> VolumeGroup {
    let image = |number: u32, pv: &str| LogicalVolume {
        internal: true,
        parent: Some("v".into()),
        ..lv(&format!("v_rimage_{number}"), "linear", &[range(pv, 0, 10)])
    };
    let mut group = group(vec![image(0, "a"), image(1, "b")]);
    let volume = &mut group.logical_volumes[0];
    volume.segment_types = BTreeSet::from(["raid1".to_owned()]);
    volume.stripes = 2;
    volume.physical_volumes = BTreeSet::from([uuid("a"), uuid("b")]);
    volume.raid = Some("raid1 2 AA 100/100 idle 0 0 -".parse().unwrap());
    group
}

fn check(group: &VolumeGroup) -> Result<Layout> {
    check_expandable("p", group, &volume::named(group, "v").unwrap(), &group.logical_volumes[0])
}

fn refused(group: &VolumeGroup, reason: Reason, words: &str) {
    let error = check(group).unwrap_err();
    assert_eq!(error.reason, reason, "{error}");
    assert!(error.message.contains(words), "{error}");
}

#[test]
fn the_layout_is_the_current_one() {
    assert_eq!(check(&group(Vec::new())).unwrap(), Layout::Linear);
    // It was mirrored by hand: its record says linear.
    assert_eq!(check(&mirror()).unwrap(), RAID1);
    let mut cached = group(Vec::new());
    cached.logical_volumes[0].segment_types = BTreeSet::from(["linear".to_owned(), "striped".to_owned()]);
    refused(&cached, Reason::SizeOutOfRange, "41943040 bytes is the largest size");
}

#[test]
fn a_volume_with_dependents_or_under_change_is_not_expanded() {
    let snapshot = LogicalVolume { origin: Some("v".into()), ..lv("s", "linear", &[range("a", 20, 1)]) };
    refused(&group(vec![snapshot]), Reason::Precondition, "vg/s (its snapshot)");
    let mut moving = group(Vec::new());
    moving.logical_volumes[0].locked = true;
    refused(&moving, Reason::UnderWay, "lvconvert");
}

#[test]
fn a_mirror_is_expanded_only_while_its_copies_are_intact() {
    let with = |line: &str| {
        let mut group = mirror();
        group.logical_volumes[0].raid = Some(line.parse().unwrap());
        group
    };
    refused(&with("raid1 2 AD 100/100 idle 0 0 -"), Reason::Unavailable, "refresh needed");
    refused(&with("raid1 2 Aa 40/100 recover 0 0 -"), Reason::UnderWay, "(recover)");
    refused(&with("raid1 2 AA 40/100 check 0 0 -"), Reason::UnderWay, "(check)");
    assert_eq!(check(&with("raid1 2 AA 100/100 idle 128 0 -")).unwrap(), RAID1, "mismatches do not matter");
    let mut shared = mirror();
    shared.logical_volumes[2].physical_volumes = BTreeSet::from([uuid("a")]);
    refused(&shared, Reason::Unavailable, "share the disk /dev/a");
    let mut removed = mirror();
    removed.logical_volumes[2].segment_types = BTreeSet::from(["error".to_owned()]);
    removed.logical_volumes[2].physical_volumes.clear();
    refused(&removed, Reason::Unavailable, "repair needed");
    let mut inactive = mirror();
    inactive.logical_volumes[0].raid = None;
    assert_eq!(check(&inactive).unwrap(), RAID1);
}

#[test]
fn only_the_same_expansion_continues_with_its_scratch_volume() {
    let scratch = |name: &str, of: &str, size: u64, ranges: &[ExtentRange]| LogicalVolume {
        tags: vec![ScratchRecord::new(uuid::<LvUuid>(of).to_string(), size).to_string()],
        ..lv(name, "linear", ranges)
    };
    let target = 14 * EXTENT;
    let find = |others: Vec<LogicalVolume>| {
        let group = group(others);
        let volume = &group.logical_volumes[0];
        suitable(&group, volume, &Layout::Linear, target, Extents(4)).map(|found| found.logical.name.clone())
    };
    let space = [range("b", 7, 3), range("a", 20, 1)];
    assert_eq!(find(vec![scratch("s", "v", target, &space)]).as_deref(), Some("s"));
    assert_eq!(find(vec![scratch("s", "other", target, &space)]), None);
    assert_eq!(find(vec![scratch("s", "v", target + EXTENT, &space)]), None);
    assert_eq!(find(vec![scratch("s", "v", target, &space[..1])]), None, "too small");
    let two = vec![scratch("s", "v", target, &space), scratch("t", "v", target, &[range("a", 40, 4)])];
    assert_eq!(find(two), None);
    // Its extents are not known.
    let unknown = LogicalVolume { ranges: vec![Vec::new()], ..scratch("s", "v", target, &space) };
    assert_eq!(find(vec![unknown]), None);
    // On the disks of a mirror, each copy has its part.
    let mut mirror = mirror();
    let size = 12 * EXTENT;
    mirror.logical_volumes.push(scratch("s", "v", size, &[range("b", 50, 2), range("a", 60, 1), range("a", 70, 1)]));
    let find = |mirror: &VolumeGroup| {
        suitable(mirror, &mirror.logical_volumes[0], &RAID1, size, Extents(2)).map(|found| found.ranges())
    };
    let found = find(&mirror).unwrap();
    let pieces: Vec<(PvUuid, u64)> =
        expansion::pieces(&found, &RAID1).unwrap().iter().map(|piece| (piece.pv, piece.extents.0)).collect();
    assert_eq!(pieces, [(uuid("a"), 1), (uuid("b"), 1), (uuid("a"), 1), (uuid("b"), 1)]);
    // A copy was moved to another disk meanwhile.
    mirror.logical_volumes[2].ranges = vec![vec![range("c", 0, 10)]];
    assert_eq!(find(&mirror), None);
}

/// RESOURCE_EXHAUSTED would keep external-resizer from a lower request, and FAILED_PRECONDITION from retrying while
/// the volume is in use.
#[test]
fn errors_of_lvm_have_the_codes_of_an_expansion() {
    for (reason, expected) in [
        (Reason::NoSpace, Reason::SizeOutOfRange),
        (Reason::InUse, Reason::UnderWay),
        (Reason::Unavailable, Reason::Unavailable),
        (Reason::Host, Reason::Host),
    ] {
        let error = for_expansion(Error::new(reason, "why"));
        assert_eq!((error.reason, error.message.as_str()), (expected, "why"));
    }
}
