//! Thin pools in reports.

use std::collections::BTreeSet;

use quarry_lvm::commands::CreateLv;
use quarry_lvm::{PhysicalVolume, ThinPoolStatus};
use quarry_volume::{AccessTypes, ContentSource, ExtentSize, Extents, Filesystem, Gib};

use super::make::{Step, steps};
use super::*;
use crate::lvm::testing::uuid;
use crate::lvm::{snapshot as snapshots, volume};
use crate::{CreateThinPool, ExtendThinPool, ThinPoolSize};

const MIB: u64 = 1 << 20;
const DATA: &str = "quarry2/k=thin-pool/p=data/n=pool";
const METADATA: &str = "quarry2/k=thin-pool/p=metadata/n=pool";
const THIN: &str = "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=t/p=x";
const PLAIN: &str = "quarry1/s=ready/n=b/b=4096/a=m/f=ext4/l=l/p=x";
const SNAPSHOT: &str = "quarry2/k=snapshot/s=ready/n=snap/o=v1:abcdefghij:n:a/t=7/a=m/f=ext4";

fn lv(name: &str, kind: &str, tag: &str, size: u64) -> LogicalVolume {
    LogicalVolume {
        name: name.into(),
        uuid: uuid(name),
        size,
        tags: Some(tag).filter(|tag| !tag.is_empty()).map(str::to_owned).into_iter().collect(),
        segment_types: BTreeSet::from([kind.to_owned()]),
        stripes: 1,
        ..LogicalVolume::default()
    }
}

fn status(data: u64, metadata: u64) -> ThinPoolStatus {
    let (data, metadata) = ((data, 100), (metadata, 100));
    ThinPoolStatus { mode: ThinPoolMode::Writable, needs_check: false, data, metadata }
}

fn thin(name: &str, tag: &str) -> LogicalVolume {
    LogicalVolume { pool: Some("pool".into()), ..lv(name, "thin", tag, 40 * MIB) }
}

/// A thin pool of 100 MiB with these volumes, in a volume group with 1000 MiB free.
fn group(volumes: Vec<LogicalVolume>) -> VolumeGroup {
    let part = |name: &str, size| LogicalVolume {
        internal: true,
        parent: Some("pool".into()),
        physical_volumes: BTreeSet::from([uuid("p")]),
        ..lv(name, "linear", "", size)
    };
    let pool = LogicalVolume {
        data_part: Some("pool_tdata".into()),
        metadata_part: Some("pool_tmeta".into()),
        zeroes: Some(true),
        chunk_size: 64 << 10,
        errors_when_full: Some(false),
        thin_pool: Some(status(10, 10)),
        ..lv("pool", "thin-pool", "", 100 * MIB)
    };
    let parts = [pool, part("pool_tdata", 100 * MIB), part("pool_tmeta", 4 * MIB)];
    VolumeGroup { logical_volumes: parts.into_iter().chain(volumes).collect(), ..empty_group() }
}

/// A volume group with one disk.
fn empty_group() -> VolumeGroup {
    let pv = PhysicalVolume {
        uuid: uuid("p"),
        device: Some("/dev/vdb".into()),
        allocatable: true,
        extent_count: Extents(260),
        free_extents: Extents(250),
        free_fragments: vec![(Extents(10), Extents(250))],
        ..PhysicalVolume::default()
    };
    VolumeGroup {
        name: "vg".into(),
        uuid: uuid("u"),
        extent_size: ExtentSize(4 * MIB),
        extent_count: Extents(260),
        metadata_size: 1 << 20,
        metadata_free: 1 << 19,
        physical_volumes: vec![pv],
        ..VolumeGroup::default()
    }
}

fn pool_of(group: &mut VolumeGroup) -> &mut LogicalVolume {
    group.logical_volumes.iter_mut().find(|volume| volume.name == "pool").unwrap()
}

fn config() -> ThinPoolConfig {
    ThinPoolConfig { name: "pool".into(), create: None, overprovision: 150, error_when_full: None, extend: None }
}

fn created(size: ThinPoolSize, layout: Layout) -> ThinPoolConfig {
    let create = CreateThinPool { size, layout, chunk_size: None, metadata_size: None };
    ThinPoolConfig { create: Some(create), ..config() }
}

fn names(found: &[PoolVolume]) -> Vec<&str> {
    found.iter().map(|volume| volume.name.as_str()).collect()
}

#[test]
fn each_pool_of_a_volume_group_has_its_own_volumes() {
    let snapshot = LogicalVolume { origin: Some("a".into()), ..thin("s", SNAPSHOT) };
    let other = LogicalVolume { pool: Some("other".into()), ..thin("c", &THIN.replace("n=a/", "n=c/")) };
    let group = group(vec![
        thin("a", THIN),
        lv("b", "linear", PLAIN, 40 * MIB),
        lv("other", "thin-pool", "", 100 * MIB),
        other,
        snapshot,
        thin("theirs", ""),
    ]);
    let own = thin_storage_of(group.uuid, uuid("pool"));
    let plain = volume::storage_of(group.uuid);
    assert_eq!(names(&volume::all_on(&group, &own)), ["a"]);
    assert_eq!(names(&volume::all_on(&group, &plain)), ["b"]);
    assert_eq!(names(&volume::all_on(&group, &thin_storage_of(group.uuid, uuid("other")))), ["c"]);
    assert!(volume::named_on(&group, &plain, "a").is_none() && volume::named_on(&group, &own, "b").is_none());
    let found = snapshots::all_on(&group, &own);
    assert_eq!((found.len(), found[0].size, &found[0].health), (1, 40 * MIB, &SnapshotHealth::Whole));
    assert!(snapshots::all_on(&group, &plain).is_empty());
    // Its parts are not of a newer Quarry.
    assert_eq!(volume::not_volumes(&group), None);
}

#[test]
fn a_volume_that_was_converted_by_hand_is_not_lost() {
    // From an ordinary volume to a thin one: it stays in its pool.
    let to_thin = group(vec![thin("b", PLAIN)]);
    assert_eq!(names(&volume::all_on(&to_thin, &volume::storage_of(to_thin.uuid))), ["b"]);
    assert_eq!(volume::converted(&to_thin, "b"), None);
    // From a thin volume: its pool does not have it any more, and says where it is.
    let to_plain = group(vec![lv("a", "linear", THIN, 40 * MIB)]);
    assert!(volume::all_on(&to_plain, &thin_storage_of(to_plain.uuid, uuid("pool"))).is_empty());
    assert_eq!(volume::converted(&to_plain, "a").as_deref(), Some("vg/a"));
}

#[test]
fn the_ratio_limits_the_sum_of_all_sizes() {
    let left = |volumes| {
        let group = group(volumes);
        room(&group, group.thin_pool("pool").unwrap(), &config()).0 * 4
    };
    assert_eq!(left(vec![]), 148);
    // Snapshots, and what is not Quarry's, can fill it as well.
    let snapshot = LogicalVolume { origin: Some("a".into()), ..thin("s", SNAPSHOT) };
    assert_eq!(left(vec![thin("a", THIN), snapshot, thin("theirs", "")]), 28);
    assert_eq!(left(vec![thin("a", THIN), thin("c", ""), thin("d", ""), thin("e", "")]), 0);
}

#[test]
fn nothing_is_created_in_a_pool_that_does_not_work() {
    let closed = |change: fn(&mut LogicalVolume)| {
        let mut group = group(vec![]);
        change(pool_of(&mut group));
        closed(&group, group.thin_pool("pool").unwrap()).unwrap_or_default()
    };
    assert_eq!(closed(|_| {}), "");
    assert_eq!(closed(|pool| pool.thin_pool = Some(status(99, 74))), "");
    for (change, words) in [
        ((|pool| pool.thin_pool = Some(status(1, 75))) as fn(&mut LogicalVolume), "uses 75 % of its metadata"),
        (|pool| pool.thin_pool = None, "is not active"),
        (|pool| pool.zeroes = Some(false), "lvchange --zero y vg/pool"),
        (|pool| pool.zeroes = None, "lvchange --zero y vg/pool"),
        (|pool| pool.chunk_size = 192 << 10, "chunks of 196608 bytes"),
        (|pool| pool.chunk_size = 8 << 20, "chunks of 8388608 bytes"),
        (
            |pool| {
                let mode = ThinPoolMode::OutOfDataSpace;
                pool.thin_pool = Some(ThinPoolStatus { mode, ..status(100, 1) });
            },
            "is full",
        ),
        (
            |pool| pool.thin_pool = Some(ThinPoolStatus { needs_check: true, ..status(1, 1) }),
            "lvconvert --repair vg/pool",
        ),
    ] {
        let why = closed(change);
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_pool_that_can_become_full_is_a_problem_of_its_volumes() {
    let health = |volumes: Vec<LogicalVolume>, status| {
        let mut group = group(volumes);
        pool_of(&mut group).thin_pool = Some(status);
        volume::all_on(&group, &thin_storage_of(group.uuid, uuid("pool"))).remove(0).health
    };
    let fits = || vec![thin("a", THIN), thin("c", "")];
    let too_much = || vec![thin("a", THIN), thin("c", ""), thin("d", "")];
    assert_eq!(health(too_much(), status(89, 1)), Health::Whole);
    assert!(matches!(health(too_much(), status(90, 1)), Health::Degraded(why) if why.contains("uses 90 %")));
    assert_eq!(health(fits(), status(100, 1)), Health::Whole, "it cannot become full");
    let full = ThinPoolStatus { mode: ThinPoolMode::OutOfDataSpace, ..status(100, 1) };
    assert!(matches!(health(too_much(), full), Health::Degraded(why) if why.contains("fail after a minute")));
    let failed = ThinPoolStatus { mode: ThinPoolMode::ReadOnly, ..status(1, 100) };
    assert!(matches!(health(fits(), failed), Health::Lost(why) if why.contains("lvconvert --repair")));
    let mut lost = group(fits());
    lost.physical_volumes[0].missing = true;
    let found = volume::all_on(&lost, &thin_storage_of(lost.uuid, uuid("pool")));
    assert!(matches!(&found[0].health, Health::Lost(why) if why.contains("pool_tdata")), "{:?}", found[0].health);
}

#[test]
fn a_copy_is_incomplete_until_its_contents_are() {
    let health = |zeroed: &str, origin: Option<&str>| {
        let tag = format!("quarry2/s=new/n=a/b=4096/a=m/f=ext4/l=t/p=x{zeroed}/i=s1:abcdefghij:n:s");
        let volume = LogicalVolume { origin: origin.map(str::to_owned), ..thin("a", &tag) };
        let group = group(vec![volume]);
        volume::all_on(&group, &thin_storage_of(group.uuid, uuid("pool"))).remove(0).health
    };
    assert!(matches!(health("", Some("s")), Health::Incomplete(why) if why.contains("one instant")));
    assert_eq!(health("/z=1", Some("s")), Health::Whole);
    // It was created empty, and is filled by copying.
    assert_eq!(health("", None), Health::Whole);
}

#[test]
fn a_new_thin_volume_contains_only_zeros() {
    let record = |spec: &VolumeSpec| Record::new_thin(spec, 3 << 30);
    let mount = record(&VolumeSpec::mount("a", 1, Filesystem::Ext4));
    assert!(mount.state == State::New && mount.wiped && mount.thin);
    assert_eq!(record(&VolumeSpec::block("a", 1)).state, State::Ready);
    let both = VolumeSpec { access: AccessTypes::Both, ..VolumeSpec::mount("a", 1, Filesystem::Ext4) };
    assert_eq!((record(&both).state, record(&both).zeroed), (State::New, Gib(3)));
    // One that is filled has no contents yet.
    let source: ContentSource = "s1:abcdefghij:n:s".parse().unwrap();
    for spec in [both, VolumeSpec::block("a", 1), VolumeSpec::mount("a", 1, Filesystem::Ext4)] {
        let filling = record(&spec.filled_from(source.clone()));
        assert_eq!((filling.state, filling.zeroed, filling.wiped), (State::New, Gib::NONE, false));
    }
    for layout in [Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }] {
        let error = supports("p", &VolumeSpec::block("a", 1).with_layout(layout)).unwrap_err();
        assert_eq!(error.reason, quarry_volume::Reason::NoSpace);
    }
}

/// The first step that is possible, with the status in the report, which is the kernel's while the pool is active.
fn next<'a>(group: &'a VolumeGroup, reserve: u64, config: &ThinPoolConfig) -> Result<Option<Step<'a>>, String> {
    let status = group.thin_pool(&config.name).and_then(|pool| pool.thin_pool);
    let (possible, impossible): (Vec<_>, Vec<_>) =
        steps(group, reserve, config, status).into_iter().partition(Result::is_ok);
    possible.into_iter().chain(impossible).next().transpose()
}

#[test]
fn the_metadata_is_extended_first_and_to_the_limit_of_lvm() {
    let mut group = group(vec![]);
    group.extent_size = ExtentSize(1 << 30);
    let extend = ThinPoolConfig { extend: Some(ExtendThinPool { at: 80, by: 50 }), ..config() };
    // The kernel counts metadata in blocks of 4 KiB.
    let blocks = |size: u64| ThinPoolStatus { metadata: (size * 9 / 10 / 4096, size / 4096), ..status(90, 0) };
    let mut more = |gib: u64| {
        pool_of(&mut group).thin_pool = Some(blocks(gib << 30));
        next(&group, 0, &extend).map(|step| match step {
            Some(Step::ExtendMetadata(_, more)) => more >> 30,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!([more(4), more(12)], [Ok(2), Ok(3)]);
    pool_of(&mut group).thin_pool = Some(ThinPoolStatus { data: (1, 100), ..blocks(15 << 30) });
    assert!(next(&group, 0, &extend).unwrap_err().contains("the largest size"));
}

#[test]
fn a_pool_is_made_in_steps() {
    let config = created(ThinPoolSize::Bytes(200 * MIB), Layout::Linear);
    let mut group = empty_group();
    let step = |group: &VolumeGroup| format!("{:?}", next(group, 0, &config).unwrap());
    let Some(Step::Create(CreateLv { name, extents, tags, .. })) = next(&group, 0, &config).unwrap() else {
        panic!("{}", step(&group))
    };
    assert_eq!((name.as_str(), extents, tags), ("pool", Extents(50), vec![DATA.to_owned()]));
    let with_range = |volume: LogicalVolume| LogicalVolume { segments: 1, ..volume };
    group.logical_volumes.push(with_range(lv("pool", "linear", DATA, 200 * MIB)));
    assert!(make::is_half_made(&group, &config));
    let Some(Step::Create(CreateLv { name, extents, tags, .. })) = next(&group, 0, &config).unwrap() else {
        panic!("{}", step(&group))
    };
    assert_eq!((name.as_str(), extents, tags), ("quarry_metadata_pool", Extents(1), vec![METADATA.to_owned()]));
    group.logical_volumes.push(with_range(lv("quarry_metadata_pool", "linear", METADATA, 4 * MIB)));
    assert!(step(&group).starts_with("Some(Make("), "{}", step(&group));
    // A part that lvm has not completed is created again.
    group.logical_volumes[1].activation_skip = true;
    assert!(step(&group).starts_with("Some(Remove("), "{}", step(&group));
    group.logical_volumes.truncate(1);
    group.logical_volumes[0].activation_skip = true;
    assert!(step(&group).starts_with("Some(Remove("), "{}", step(&group));
    // Somebody's volume of that name is left alone, and so is a half-made pool that is not wanted any more.
    group.logical_volumes[0].tags.clear();
    assert_eq!(step(&group), "None");
    group.logical_volumes[0].tags.push(DATA.to_owned());
    assert_eq!(next(&group, 0, &super::tests::config()), Ok(None));
}

#[test]
fn the_size_of_a_pool_includes_its_metadata() {
    let data = |size, layout, reserve| match next(&empty_group(), reserve, &created(size, layout)) {
        Ok(Some(Step::Create(CreateLv { extents, .. }))) => Ok(extents.0),
        Ok(other) => panic!("{other:?}"),
        Err(why) => Err(why),
    };
    // Half of 260 extents, without one for the metadata and one for its spare.
    assert_eq!(data(ThinPoolSize::Percent(50), Layout::Linear, 0), Ok(128));
    assert_eq!(data(ThinPoolSize::Bytes(248 * 4 * MIB), Layout::Linear, 0), Ok(248));
    for (size, reserve) in [(249, 0), (248, 1)] {
        let why = data(ThinPoolSize::Bytes(size * 4 * MIB), Layout::Linear, reserve).unwrap_err();
        assert!(why.contains("bytes are possible now"), "{why}");
    }
    let why = data(ThinPoolSize::Percent(10), Layout::Raid1 { mirrors: 1 }, 0).unwrap_err();
    assert!(why.contains("needs 2 disks"), "{why}");
}

#[test]
fn a_pool_is_activated_set_and_extended() {
    let mut group = group(vec![]);
    for name in ["pool_tdata", "pool_tmeta"] {
        let part = group.logical_volumes.iter_mut().find(|volume| volume.name == name).unwrap();
        let range = quarry_lvm::ExtentRange { pv: uuid("p"), first: Extents(0), extents: Extents(1) };
        part.ranges = vec![vec![range]];
    }
    let step = |group: &VolumeGroup, config: &ThinPoolConfig| next(group, 0, config).map(|step| format!("{step:?}"));
    assert_eq!(step(&group, &config()), Ok("None".to_owned()));
    let fail = ThinPoolConfig { error_when_full: Some(true), ..config() };
    assert!(step(&group, &fail).unwrap().starts_with("Some(SetErrorWhenFull("));
    let extend = ThinPoolConfig { extend: Some(ExtendThinPool { at: 80, by: 20 }), ..config() };
    assert_eq!(step(&group, &extend), Ok("None".to_owned()));
    pool_of(&mut group).thin_pool = Some(status(80, 10));
    let Ok(Some(Step::ExtendData { size, ranges, .. })) = next(&group, 0, &extend) else {
        panic!("{:?}", step(&group, &extend))
    };
    assert_eq!((size, ranges.len()), (Extents(30), 1));
    // As far as there is space.
    group.physical_volumes[0].free_fragments = vec![(Extents(10), Extents(2))];
    let Ok(Some(Step::ExtendData { size, .. })) = next(&group, 0, &extend) else { panic!("no step") };
    assert_eq!(size, Extents(27));
    group.physical_volumes[0].free_fragments.clear();
    assert!(step(&group, &extend).unwrap_err().contains("add a disk"));
    pool_of(&mut group).thin_pool = Some(status(1, 80));
    let Ok(Some(Step::ExtendMetadata(_, more))) = next(&group, 0, &extend) else { panic!("no step") };
    assert_eq!(more, 4 * MIB);
    // Long before the pool takes nothing new.
    for (metadata, extended) in [(64, false), (65, true)] {
        pool_of(&mut group).thin_pool = Some(status(1, metadata));
        assert_eq!(matches!(next(&group, 0, &extend), Ok(Some(Step::ExtendMetadata(..)))), extended, "{metadata} %");
    }
    // What is not possible does not prevent what is, and is reported otherwise.
    pool_of(&mut group).thin_pool = Some(status(80, 80));
    assert!(matches!(next(&group, 0, &extend), Ok(Some(Step::ExtendMetadata(..)))), "there is no space for data");
    group.physical_volumes[0].free_fragments = vec![(Extents(10), Extents(2))];
    let metadata = group.logical_volumes.iter_mut().find(|volume| volume.name == "pool_tmeta").unwrap();
    metadata.segment_types = BTreeSet::from(["raid1".to_owned()]);
    assert!(matches!(next(&group, 0, &extend), Ok(Some(Step::ExtendData { .. }))), "metadata is mirrored");
    pool_of(&mut group).thin_pool = Some(status(1, 80));
    assert!(step(&group, &extend).unwrap_err().contains("by hand"));
    pool_of(&mut group).thin_pool = None;
    assert!(step(&group, &config()).unwrap().starts_with("Some(Activate("));
    // The report still has the status from before somebody deactivated it: it is neither extended nor activated.
    pool_of(&mut group).thin_pool = Some(status(80, 80));
    assert_eq!(steps(&group, 0, &extend, None), []);
    // A broken pool is repaired by hand.
    pool_of(&mut group).thin_pool = Some(ThinPoolStatus { needs_check: true, ..status(99, 99) });
    assert_eq!(step(&group, &extend), Ok("None".to_owned()));
}

#[test]
fn a_pool_that_is_extended_never_stays_closed() {
    let mut group = group(vec![]);
    for at in 1..100 {
        let extend = ThinPoolConfig { extend: Some(ExtendThinPool { at, by: 20 }), ..config() };
        for metadata in 0..=100 {
            pool_of(&mut group).thin_pool = Some(status(1, metadata));
            let closed = closed(&group, group.thin_pool("pool").unwrap()).is_some();
            let step = next(&group, 0, &extend).unwrap();
            assert!(!closed || matches!(step, Some(Step::ExtendMetadata(..))), "at {at}: {metadata} %, {step:?}");
        }
    }
}

/// More chunks than the default metadata is for.
#[test]
fn the_default_chunks_of_a_large_pool_divide_an_extent() {
    const TIB: u64 = 1 << 40;
    for (extent, size, expected) in [
        (4 * MIB, TIB, 64 << 10),
        (4 * MIB, 2 * TIB, 128 << 10),
        (4 * MIB, 80 * TIB, 4 * MIB),
        (16 * MIB, 80 * TIB, 8 * MIB),
        (3 * MIB, 80 * TIB, MIB),
        (64 << 10, 80 * TIB, 64 << 10),
    ] {
        let config = created(ThinPoolSize::Bytes(size), Layout::Linear);
        let mut group = empty_group();
        group.extent_size = ExtentSize(extent);
        let extents = Extents(100 * TIB / extent);
        let pv = &mut group.physical_volumes[0];
        (pv.extent_count, pv.free_extents, pv.free_fragments) = (extents, extents, vec![(Extents(0), extents)]);
        group.extent_count = extents;
        let mut parts = 0;
        let chunk = loop {
            match next(&group, 0, &config) {
                Ok(Some(Step::Create(CreateLv { name, extents, tags, .. }))) => {
                    let part = lv(&name, "linear", &tags[0], group.extent_size.bytes(extents));
                    group.logical_volumes.push(LogicalVolume { segments: 1, ..part });
                    parts += 1;
                }
                Ok(Some(Step::Make(request))) => break request.chunk_size,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((parts, chunk), (2, expected), "extents of {extent} bytes");
        // So it can be used.
        let pool = LogicalVolume {
            zeroes: Some(true),
            chunk_size: chunk,
            thin_pool: Some(status(0, 0)),
            ..lv("pool", "thin-pool", "", size)
        };
        assert_eq!(closed(&group, &pool), None);
    }
}

/// Copied bytes take space at once, unlike those that a pod may write later.
#[test]
fn nothing_is_copied_into_a_pool_that_it_could_fill() {
    // A pool of 100 MiB.
    let full_with = |config: &ThinPoolConfig, percent, bytes: u64| {
        let mut group = group(vec![thin("a", THIN)]);
        pool_of(&mut group).thin_pool = Some(status(percent, 1));
        nearly_full(&group, group.thin_pool("pool").unwrap(), config, bytes)
    };
    let full = |percent, bytes| full_with(&config(), percent, bytes);
    assert_eq!(full(89, 80 * MIB), None);
    let why = full(90, 11 * MIB).unwrap();
    assert!(why.contains("uses 90 % of its data") && why.contains("lvextend --size +SIZE vg/pool"), "{why}");
    assert_eq!(full(90, 9 * MIB), None, "there is room for it");
    assert!(full(100, MIB).is_some());
    // The copy is what lets it be extended.
    let extend = ThinPoolConfig { extend: Some(ExtendThinPool { at: 95, by: 20 }), ..config() };
    let full = |percent| full_with(&extend, percent, 80 * MIB).is_some();
    assert_eq!([94, 95].map(full), [false, true]);
}

#[test]
fn a_part_of_a_pool_that_is_not_configured_is_shown() {
    let part = |name: &str, tag: &str| lv(name, "linear", tag, 64 * MIB);
    let left = |pools: &[&str], volumes: Vec<LogicalVolume>| {
        let group = VolumeGroup { logical_volumes: volumes, ..empty_group() };
        parts_left(&group, &pools.iter().map(|&pool| pool.to_owned()).collect::<Vec<_>>())
    };
    let parts = || vec![part("pool", DATA), part("quarry_metadata_pool", METADATA), part("other", "")];
    let hint = left(&["another"], parts()).unwrap();
    assert!(hint.contains("vg/pool is a part of thin pool pool") && hint.contains("`lvremove vg/pool`"), "{hint}");
    assert!(hint.contains("`lvremove vg/quarry_metadata_pool`") && !hint.contains("vg/other"), "{hint}");
    assert_eq!(left(&["pool"], parts()), None);
    // A complete pool is not a part, whatever tags it kept.
    assert_eq!(left(&[], vec![lv("pool", "thin-pool", DATA, 64 * MIB)]), None);
}
