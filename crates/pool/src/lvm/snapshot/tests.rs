//! Snapshots in reports.

use std::collections::BTreeSet;

use quarry_lvm::PhysicalVolume;
use quarry_volume::{ExtentSize, Reason};

use super::change::check_source;
use super::*;
use crate::lvm::testing::uuid;

const SOURCE: &str = "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x";
const NEW: &str = "quarry2/k=snapshot/s=new/n=snap/o=v1:abcdefghij:n:a/a=m/f=ext4";
const READY: &str = "quarry2/k=snapshot/s=ready/n=snap/o=v1:abcdefghij:n:a/t=7/a=m/f=ext4";
const FOR_CLONE: &str = "quarry2/k=snapshot/s=ready/n=snap/o=v1:abcdefghij:n:a/t=7/a=m/f=ext4/i=1";
const FILLING: &str = "quarry2/s=new/n=a/b=4096/a=m/f=ext4/l=l/p=x/i=s1:abcdefghij:n:s";
const MIB: u64 = 1 << 20;

fn lv(name: &str, tag: &str, origin: Option<&str>) -> LogicalVolume {
    LogicalVolume {
        name: name.into(),
        uuid: uuid(name),
        size: 40 * MIB,
        tags: vec![tag.to_owned()],
        origin: origin.map(str::to_owned),
        segment_types: BTreeSet::from(["linear".to_owned()]),
        stripes: 1,
        physical_volumes: BTreeSet::from([uuid("p")]),
        ..LogicalVolume::default()
    }
}

fn group(logical_volumes: Vec<LogicalVolume>) -> VolumeGroup {
    let pv = |name: &str| PhysicalVolume { uuid: uuid(name), ..PhysicalVolume::default() };
    VolumeGroup {
        name: "vg".into(),
        uuid: uuid("u"),
        extent_size: ExtentSize(4 * MIB),
        physical_volumes: vec![pv("p"), pv("q")],
        logical_volumes,
        ..VolumeGroup::default()
    }
}

/// A volume `a` with a snapshot `s`.
fn with(snapshot: LogicalVolume) -> VolumeGroup {
    group(vec![lv("a", SOURCE, None), snapshot])
}

fn only(group: &VolumeGroup) -> PoolSnapshot {
    let mut found = all(group);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn source_in(group: &VolumeGroup) -> PoolVolume {
    volume::named(group, "a").unwrap()
}

#[test]
fn a_snapshot_is_recognized_by_its_record_only() {
    let group = group(vec![
        lv("a", SOURCE, None),
        LogicalVolume { size: 44 * MIB, ..lv("any-name", READY, Some("a")) },
        lv("theirs", "backup", Some("a")),
        LogicalVolume { name: name_for("other"), ..lv("other", "x", Some("a")) },
        LogicalVolume { internal: true, ..lv("merging", READY, Some("a")) },
        LogicalVolume { tags: vec![READY.to_owned(), SOURCE.to_owned()], ..lv("two", "", Some("a")) },
    ]);
    let found = only(&group);
    assert_eq!((found.name.as_str(), found.size, found.allocated), ("snap", 40 * MIB, 44 * MIB));
    assert_eq!((&found.storage, found.health), (&volume::storage_of(uuid("u")), SnapshotHealth::Whole));
    assert_eq!(found.key, VolumeKey::Logical { group: uuid("u"), volume: uuid("any-name") });
    // It is neither a volume nor unknown.
    let volumes: Vec<_> = volume::all(&group).into_iter().map(|volume| volume.stored_as).collect();
    assert_eq!(volumes, ["a", "two"]);
    assert_eq!(volume::not_volumes(&group), None);
}

/// A copy that is being made, the snapshot that serves it, and a complete copy.
const COPYING: &str = "quarry2/k=copy/s=new/n=snap/o=v1:abcdefghij:n:a/t=7/a=m/f=ext4/z=16";
const SERVING: &str = "quarry2/k=snapshot/s=ready/n=snap/o=v1:abcdefghij:n:a/t=7/a=m/f=ext4/i=copy";
const COPY: &str = "quarry2/k=copy/s=ready/n=snap/o=v1:abcdefghij:n:a/t=7/a=m/f=ext4";

#[test]
fn a_full_copy_needs_its_snapshot_until_it_is_ready() {
    let health = |copy: &str, serving: Vec<LogicalVolume>| {
        let group = group([vec![lv("a", SOURCE, None), lv("c", copy, None)], serving].concat());
        let found = all(&group).into_iter().find(|found| found.name == "snap").unwrap();
        assert_eq!((found.size, found.allocated), (40 * MIB, 40 * MIB));
        // It is never removed without a request.
        assert!(left_over(&group).iter().all(|left| left.name != "snap"), "{:?}", found.record);
        found.health
    };
    let serving = || lv("s", SERVING, Some("a"));
    assert_eq!(health(COPYING, vec![serving()]), SnapshotHealth::Whole);
    let full = LogicalVolume { snapshot: Some(SnapshotStatus::Invalid), ..serving() };
    for lost in
        [vec![], vec![full], vec![lv("s", SERVING, None)], vec![lv("s", &SERVING.replace("i=copy", "i=1"), Some("a"))]]
    {
        assert!(matches!(health(COPYING, lost), SnapshotHealth::Invalid(why) if why.contains("never be complete")));
    }
    assert_eq!(health(COPY, vec![]), SnapshotHealth::Whole);
    assert_eq!(health(&format!("{}/e=1", COPYING.replace("/z=16", "")), vec![]), SnapshotHealth::Whole);
    let mut lost = group(vec![lv("a", SOURCE, None), lv("c", COPY, None)]);
    lost.physical_volumes[0].missing = true;
    assert!(matches!(only(&lost).health, SnapshotHealth::Lost(_)));
    // Only the snapshot that serves it holds the source.
    let copying = group(vec![lv("a", SOURCE, None), lv("c", COPYING, None), serving()]);
    let error = check_none("p", &copying, &source_in(&copying), "removed").unwrap_err();
    assert!(error.reason == Reason::UnderWay && error.message.contains("snapshot snap is being copied"), "{error}");
    let copied = group(vec![lv("a", SOURCE, None), lv("c", COPY, None)]);
    check_none("p", &copied, &source_in(&copied), "removed").unwrap();
    assert_eq!((volume::all(&copied).len(), volume::not_volumes(&copied)), (1, None));
}

#[test]
fn names_of_snapshots_are_no_names_of_volumes() {
    let names = ["a", "for clone a", "snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11"].map(name_for);
    for name in &names {
        // Otherwise a request could need it.
        assert_ne!(&safe_name(name), name);
        assert!(quarry_volume::is_plain_name(name) && name.replace('-', "--").len() <= 60, "{name}");
    }
    assert_eq!(BTreeSet::from(names).len(), 3);
}

#[test]
fn what_an_interruption_leaves_is_not_whole() {
    let health = |tag: &str, origin| only(&with(lv("s", tag, origin))).health;
    assert!(matches!(health(NEW, None), SnapshotHealth::Incomplete(_)));
    assert!(matches!(health(NEW, Some("a")), SnapshotHealth::Incomplete(_)));
    // Only what never was a snapshot is removed without a request.
    let left = |tag: &str, origin| left_over(&with(lv("s", tag, origin))).len();
    assert_eq!([left(NEW, None), left(NEW, Some("a")), left(READY, None), left("x", None)], [1, 0, 0, 0]);
    // Its removal was interrupted: never restored from, and not taken again.
    assert!(matches!(health(READY, None), SnapshotHealth::Invalid(why) if why.contains("delete it")));
    // Of another volume than its record says.
    let other = READY.replace(":n:a/", ":n:b/");
    assert!(matches!(health(&other, Some("a")), SnapshotHealth::Invalid(why) if why.contains("not of volume b")));
    assert_eq!(health(READY, Some("a")), SnapshotHealth::Whole);
    // The source was renamed by hand.
    let renamed = group(vec![lv("parked", SOURCE, None), lv("s", READY, Some("parked"))]);
    assert_eq!(only(&renamed).health, SnapshotHealth::Whole);
}

#[test]
fn a_full_snapshot_is_invalid_and_a_lost_disk_is_not() {
    let with_status = |status| with(LogicalVolume { snapshot: status, ..lv("s", READY, Some("a")) });
    assert_eq!(only(&with_status(Some(SnapshotStatus::Used(100)))).health, SnapshotHealth::Whole);
    let full = with_status(Some(SnapshotStatus::Invalid));
    assert!(matches!(only(&full).health, SnapshotHealth::Invalid(why) if why.contains("became full")));
    let mut lost = with_status(None);
    lost.physical_volumes[0].missing = true;
    assert!(matches!(only(&lost).health, SnapshotHealth::Lost(_)));
    // The source is mirrored: one copy is enough.
    let image = |name: &str, pv: &str| LogicalVolume {
        internal: true,
        parent: Some("a".into()),
        physical_volumes: BTreeSet::from([uuid(pv)]),
        ..lv(name, "", None)
    };
    let snapshot = LogicalVolume { physical_volumes: BTreeSet::from([uuid("q")]), ..lv("s", READY, Some("a")) };
    let source = LogicalVolume { physical_volumes: BTreeSet::from([uuid("p"), uuid("q")]), ..lv("a", SOURCE, None) };
    let mut mirror = group(vec![source, image("a_rimage_0", "p"), image("a_rimage_1", "q"), snapshot]);
    mirror.physical_volumes[0].missing = true;
    assert_eq!(only(&mirror).health, SnapshotHealth::Whole);
    mirror.physical_volumes[1].missing = true;
    assert!(matches!(only(&mirror).health, SnapshotHealth::Lost(_)));
}

#[test]
fn a_volume_with_snapshots_is_not_changed() {
    let check = |group: &VolumeGroup| check_none("p", group, &source_in(group), "removed");
    let error = check(&with(lv("s", READY, Some("a")))).unwrap_err();
    assert!(error.reason == Reason::Precondition && error.message.contains("delete snap first"), "{error}");
    let clone = format!("{READY}/i=1");
    let error = check(&with(lv("s", &clone, Some("a")))).unwrap_err();
    assert!(error.reason == Reason::UnderWay && error.message.contains("while snap is being cloned"), "{error}");
    // Without an origin, it does not depend on the volume. An operator's snapshot is checked elsewhere.
    check(&with(lv("s", READY, None))).unwrap();
    check(&with(lv("s", "backup", Some("a")))).unwrap();
}

#[test]
fn only_plain_volumes_have_snapshots() {
    let check = |change: fn(&mut LogicalVolume)| {
        let mut source = lv("a", SOURCE, None);
        change(&mut source);
        let group = group(vec![source]);
        check_source("p", &group, &source_in(&group), &group.logical_volumes[0])
    };
    check(|_| {}).unwrap();
    let error = check(|source| source.tags = vec![FILLING.to_owned()]).unwrap_err();
    assert!(error.reason == Reason::UnderWay && error.message.contains("still being filled"), "{error}");
    let error = check(|source| source.segment_types = BTreeSet::from(["cache".to_owned()])).unwrap_err();
    assert!(error.reason == Reason::Precondition && error.message.contains("of type cache"), "{error}");
    assert_eq!(check(|source| source.locked = true).unwrap_err().reason, Reason::UnderWay);
    let error = check(|source| source.physical_volumes = BTreeSet::from([uuid("gone")])).unwrap_err();
    assert_eq!(error.reason, Reason::Precondition, "{error}");
}

#[test]
fn problems_and_a_lack_of_space_are_shown_to_the_operator() {
    let hint = |size: u64, status| {
        let group = with(LogicalVolume { size, snapshot: status, ..lv("s", READY, Some("a")) });
        hint(&group, &volume::storage_of(group.uuid))
    };
    assert_eq!(hint(20 * MIB, None), None);
    assert_eq!(hint(20 * MIB, Some(SnapshotStatus::Used(79))), None);
    let text = hint(20 * MIB, Some(SnapshotStatus::Used(80))).unwrap();
    assert!(text.contains("snapshot snap of volume a (vg/s) uses 80 % of its space"), "{text}");
    // It can never become full.
    assert_eq!(hint(44 * MIB, Some(SnapshotStatus::Used(95))), None);
    // It is listed with its problem; the temporary snapshot of a clone is not.
    assert_eq!(hint(44 * MIB, Some(SnapshotStatus::Invalid)), None);
    let invalid = LogicalVolume { snapshot: Some(SnapshotStatus::Invalid), ..lv("s", FOR_CLONE, Some("a")) };
    let group = with(invalid);
    let hint = super::hint(&group, &volume::storage_of(group.uuid)).unwrap();
    assert!(hint.contains("its contents are lost"));
}
