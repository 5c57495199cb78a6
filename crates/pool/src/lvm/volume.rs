//! Converts logical volumes in a report to Quarry volumes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use quarry_lvm::{LogicalVolume, LvUuid, VgUuid, VolumeGroup};
use quarry_volume::{StorageId, safe_name};

use super::health::{PartsOf, health};
use crate::key::VolumeKey;
use crate::record::{NotVolume, Record, Tag};
use crate::{PoolVolume, Recorded};

/// The storage ID of a volume group.
pub(crate) fn storage_of(group: VgUuid) -> StorageId {
    StorageId::of(&group.to_string())
}

/// The storage ID of a thin pool in a volume group.
pub(crate) fn thin_storage_of(group: VgUuid, pool: LvUuid) -> StorageId {
    StorageId::of(&format!("{group} {pool}"))
}

/// The storage IDs of a volume group and its thin pools. Each is computed once, however many volumes have it.
pub(super) struct Storages<'a> {
    pub(super) group: &'a VolumeGroup,
    /// By the names of the thin pools.
    computed: RefCell<BTreeMap<Option<&'a str>, StorageId>>,
}

impl<'a> Storages<'a> {
    pub(super) fn new(group: &'a VolumeGroup) -> Self {
        Self { group, computed: RefCell::default() }
    }

    /// That of the thin pool that a thin volume is in, otherwise of the volume group.
    pub(super) fn under(&self, volume: &'a LogicalVolume) -> StorageId {
        self.of(volume.pool.as_deref().filter(|_| volume.is_thin()))
    }

    fn of(&self, pool: Option<&'a str>) -> StorageId {
        let group = self.group.uuid;
        let compute = || match pool.and_then(|pool| self.group.thin_pool(pool)) {
            Some(pool) => thin_storage_of(group, pool.uuid),
            None => storage_of(group),
        };
        self.computed.borrow_mut().entry(pool).or_insert_with(compute).clone()
    }
}

/// The storage ID of the thin pool that a thin volume is in, otherwise of the volume group.
pub(super) fn storage_under(group: &VolumeGroup, volume: &LogicalVolume) -> StorageId {
    Storages::new(group).under(volume)
}

/// The volumes on that storage, which is a volume group or a thin pool in it, that have Quarry's mark, without
/// duplicates.
pub(crate) fn all_on(group: &VolumeGroup, storage: &StorageId) -> Vec<PoolVolume> {
    let parts = group.parts();
    let parts = |name: &str| parts.get(name).cloned().unwrap_or_default();
    let storages = Storages::new(group);
    let found = group.volumes().filter_map(|volume| with_parts(&storages, volume, &parts));
    merge_duplicates(group, found.filter(|volume| volume.storage == *storage).collect())
}

/// The volume on that storage with that name in its ID, whatever the name of its logical volume is now.
pub(crate) fn named_on(group: &VolumeGroup, storage: &StorageId, name: &str) -> Option<PoolVolume> {
    // Only the records are read of all volumes: their health takes much longer.
    let of_that_name =
        |logical: &&LogicalVolume| recorded(logical).is_some_and(|record| name_in_id(logical, &record) == name);
    let found = group.volumes().filter(of_that_name).filter_map(|logical| from_logical(group, logical));
    merge_duplicates(group, found.filter(|volume| volume.storage == *storage).collect()).pop()
}

/// A volume of that name that an operator has converted to or from a thin volume, so that no pool has it any more.
pub(crate) fn converted(group: &VolumeGroup, name: &str) -> Option<String> {
    let volumes = group.volumes().filter_map(|logical| Some((logical, from_logical(group, logical)?)));
    let mut found = volumes.filter(|(_, volume)| volume.name == name);
    found.find_map(|(logical, volume)| {
        let is_converted = volume.record().is_ok_and(|record| record.thin && !logical.is_thin());
        is_converted.then(|| format!("{}/{}", group.name, logical.name))
    })
}

#[cfg(test)]
pub(super) fn all(group: &VolumeGroup) -> Vec<PoolVolume> {
    all_on(group, &storage_of(group.uuid))
}

#[cfg(test)]
pub(super) fn named(group: &VolumeGroup, name: &str) -> Option<PoolVolume> {
    named_on(group, &storage_of(group.uuid), name)
}

/// Merges logical volumes with the record of the same volume into one that is ambiguous. It is represented by
/// the one with the volume's own name.
fn merge_duplicates(group: &VolumeGroup, mut volumes: Vec<PoolVolume>) -> Vec<PoolVolume> {
    let path = |volume: &PoolVolume| format!("{}/{}", group.name, volume.stored_as);
    let renamed = |volume: &PoolVolume| volume.stored_as != volume.name;
    volumes.sort_by(|one, other| (&one.name, renamed(one)).cmp(&(&other.name, renamed(other))));
    volumes.dedup_by(|other, first| {
        if other.name != first.name {
            return false;
        }
        let own = path(first);
        match &mut first.record {
            Recorded::Ambiguous(names) => names.push(path(other)),
            record => *record = Recorded::Ambiguous(vec![own, path(other)]),
        }
        true
    });
    volumes
}

/// The logical volume that has the record of that volume and is a hidden part of another one: an operator has
/// made it a cache, an image or a snapshot. A raid's own metadata has the raid's record as well, and does not
/// count.
pub(crate) fn hidden<'a>(group: &'a VolumeGroup, name: &str) -> Option<&'a LogicalVolume> {
    group.logical_volumes.iter().find(|volume| {
        let records = || volume.tags.iter().filter_map(|tag| name_in_tag(tag));
        volume.internal && !volume.is_raid_part() && records().any(|found| found == name)
    })
}

/// Whether a logical volume of any pool, or a part of one, has the record of a volume with that name.
pub(super) fn is_recorded(group: &VolumeGroup, name: &str) -> bool {
    let tags = group.logical_volumes.iter().flat_map(|volume| &volume.tags);
    tags.filter_map(|tag| name_in_tag(tag)).any(|found| found == name)
}

/// The name in the ID of a volume with this tag; `None` if the tag is not a readable record.
pub(crate) fn name_in_tag(tag: &str) -> Option<String> {
    match Record::parse(tag) {
        Tag::Record(record) => Some(safe_name(&record.name)),
        _ => None,
    }
}

/// The object in a logical volume that a newer Quarry stored, if it is not a volume. It is not listed.
pub(crate) fn not_volume(volume: &LogicalVolume) -> Option<NotVolume> {
    match other_record_on(volume) {
        Tag::Scratch(_) | Tag::Snapshot(_) | Tag::ThinPool(_) => None,
        other => other.not_volume(),
    }
}

/// The record on a logical volume that is not one of a volume: new space, a snapshot, a part of a thin pool, or an object
/// of a newer Quarry. The record of a volume is not even parsed, because almost all of thousands are volumes.
pub(super) fn other_record_on(volume: &LogicalVolume) -> Tag {
    match volume.tags.iter().any(|tag| Record::has_kind(tag)) {
        true => record_on(volume),
        false => Tag::Foreign,
    }
}

/// The record on a logical volume.
pub(super) fn record_on(volume: &LogicalVolume) -> Tag {
    let mut records = volume.tags.iter().map(|tag| Record::parse(tag)).filter(|tag| *tag != Tag::Foreign);
    match (records.next(), records.next()) {
        (None, _) => Tag::Foreign,
        (Some(record), None) => record,
        (Some(_), Some(_)) => Tag::Broken { why: "it has several records".to_owned() },
    }
}

/// The tag with this record on the logical volume. An operator may have written it in another form than Quarry does.
pub(super) fn tag_of(volume: &LogicalVolume, record: &Record) -> String {
    let is_it = |tag: &&String| matches!(Record::parse(tag), Tag::Record(found) if *found == *record);
    volume.tags.iter().find(is_it).cloned().unwrap_or_else(|| record.to_string())
}

/// The objects of a newer Quarry in this volume group that are not volumes, as a note for the operator: they use
/// space.
pub(crate) fn not_volumes(group: &VolumeGroup) -> Option<String> {
    let describe =
        |volume: &LogicalVolume| not_volume(volume).map(|other| format!("{}/{} is {other}", group.name, volume.name));
    let found: Vec<String> = group.volumes().filter_map(describe).collect();
    (!found.is_empty()).then(|| {
        format!(
            "not everything here is a volume: {}; it uses space and is left alone: upgrade Quarry on this node to \
             manage it",
            quarry_volume::some_of(found)
        )
    })
}

/// The record of a volume; `None` if the logical volume does not have Quarry's mark, or is not a volume.
fn recorded(volume: &LogicalVolume) -> Option<Recorded> {
    match record_on(volume) {
        Tag::Record(record) => Some(Recorded::Here(record)),
        Tag::Newer { version } => Some(Recorded::Newer(version)),
        Tag::Broken { why } => Some(Recorded::Broken(why)),
        Tag::Foreign | Tag::Scratch(_) | Tag::Snapshot(_) | Tag::ThinPool(_) | Tag::NotVolume(_) => None,
    }
}

/// The name in the ID of the volume with this record.
fn name_in_id(volume: &LogicalVolume, record: &Recorded) -> String {
    match record {
        Recorded::Here(record) => safe_name(&record.name),
        Recorded::Newer(_) | Recorded::Broken(_) | Recorded::Ambiguous(_) => volume.name.clone(),
    }
}

/// Converts a logical volume; `None` if it does not have Quarry's mark, or is not a volume.
pub(crate) fn from_logical(group: &VolumeGroup, volume: &LogicalVolume) -> Option<PoolVolume> {
    with_parts(&Storages::new(group), volume, &|name| group.parts_of(name).collect())
}

/// Like [`from_logical`], for many volumes of a volume group whose parts are found otherwise.
fn with_parts<'a>(storages: &Storages<'a>, volume: &'a LogicalVolume, parts: &PartsOf<'a>) -> Option<PoolVolume> {
    let group = storages.group;
    if volume.internal {
        return None;
    }
    let record = recorded(volume)?;
    // An operator may have converted an ordinary volume to a thin one. It stays in its pool.
    let storage = match &record {
        Recorded::Here(record) if !record.thin => storages.of(None),
        _ => storages.under(volume),
    };
    let health = health(group, volume, &record, parts);
    Some(PoolVolume {
        name: name_in_id(volume, &record),
        stored_as: volume.name.clone(),
        storage,
        key: VolumeKey::Logical { group: group.uuid, volume: volume.uuid },
        size: volume.size,
        record,
        health,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::uuid;
    use super::*;
    use crate::Health;
    use nix::time::{ClockId, clock_gettime};
    use quarry_lvm::{PhysicalVolume, Used};
    use quarry_volume::Extents;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const NEW: &str = "quarry1/s=new/n=a/b=4096/a=m/f=ext4/l=l/p=x";
    const READY: &str = "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x";
    const ARCHIVE: &str = "quarry2/k=archive/s=ready/n=old-1/o=v1:abcdefghij:node-1:a";
    const RAID: &str = "quarry1/s=new/n=a/b=4096/a=m/f=ext4/l=r1.1/p=x";

    fn pv(name: &str, missing: bool) -> PhysicalVolume {
        PhysicalVolume { uuid: uuid(name), missing, ..PhysicalVolume::default() }
    }

    fn lv(name: &str, kind: &str, tag: Option<&str>, pvs: &[&str]) -> LogicalVolume {
        LogicalVolume {
            name: name.into(),
            uuid: uuid(name),
            size: 4096,
            tags: tag.into_iter().map(str::to_owned).collect(),
            segment_types: BTreeSet::from([kind.to_owned()]),
            stripes: if kind == "raid1" { 2 } else { 1 },
            physical_volumes: pvs.iter().map(|name| uuid(name)).collect(),
            ..LogicalVolume::default()
        }
    }

    fn part(name: &str, pvs: &[&str]) -> LogicalVolume {
        LogicalVolume { internal: true, parent: Some("a".into()), ..lv(name, "linear", None, pvs) }
    }

    fn group(pvs: Vec<PhysicalVolume>, lvs: Vec<LogicalVolume>) -> VolumeGroup {
        VolumeGroup {
            name: "vg".into(),
            uuid: uuid("u"),
            physical_volumes: pvs,
            logical_volumes: lvs,
            ..VolumeGroup::default()
        }
    }

    fn only(group: &VolumeGroup) -> PoolVolume {
        let mut volumes = all(group);
        assert_eq!(volumes.len(), 1);
        volumes.remove(0)
    }

    #[test]
    fn volumes_without_quarrys_mark_are_ignored() {
        let group = group(
            vec![pv("p", false)],
            vec![
                lv("root", "linear", None, &["p"]),
                lv("other", "linear", Some("quarry"), &["p"]),
                LogicalVolume { internal: true, ..lv("part", "linear", Some(NEW), &["p"]) },
                // A raid's metadata has the raid's tags, and is visible if the creation was interrupted.
                lv("a_rmeta_0", "linear", Some(NEW), &["p"]),
                lv("a", "linear", Some(NEW), &["p"]),
            ],
        );
        assert_eq!(only(&group).name, "a");
    }

    #[test]
    fn newer_broken_and_double_records_are_listed_and_not_changed() {
        for (tags, newer) in [(vec!["quarry2/x"], true), (vec!["quarry1/x"], false), (vec![NEW, READY], false)] {
            let mut volume = lv("a", "linear", None, &["p"]);
            volume.tags = tags.into_iter().map(str::to_owned).collect();
            let found = only(&group(vec![pv("p", false)], vec![volume]));
            assert_eq!(matches!(found.record, Recorded::Newer(2)), newer);
            assert!(found.record().is_err());
        }
    }

    #[test]
    fn the_records_of_volumes_are_not_parsed_to_find_others() {
        let on = |tags: &[&str]| LogicalVolume {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..lv("a", "linear", None, &["p"])
        };
        for others in [
            &[ARCHIVE] as &[&str],
            &["quarry2/k=expansion/v=x/b=8192"],
            &["quarry2/k=thin-pool/p=data/n=pool"],
            &[ARCHIVE, READY],
            &["someone", ARCHIVE],
        ] {
            assert_eq!(other_record_on(&on(others)), record_on(&on(others)), "{others:?}");
            assert_ne!(record_on(&on(others)), Tag::Foreign, "{others:?}");
        }
        for volumes in [&[READY] as &[&str], &[NEW, READY], &["quarry2/x"], &["team/k=x"], &[]] {
            assert_eq!(other_record_on(&on(volumes)), Tag::Foreign, "{volumes:?}");
        }
    }

    #[test]
    fn what_is_not_a_volume_is_neither_listed_nor_found() {
        // It has the activation-skip flag, and its name may be any.
        let archive = |name: &str| LogicalVolume {
            activation_skip: true,
            origin: Some("a".into()),
            ..lv(name, "linear", Some(ARCHIVE), &["p"])
        };
        let pvs = vec![pv("p", false)];
        let around = group(pvs.clone(), vec![lv("a", "linear", Some(READY), &["p"]), archive("old-1")]);
        assert_eq!(only(&around).name, "a");
        assert!(named(&around, "old-1").is_none() && hidden(&around, "old-1").is_none());
        // Nor is new space for a volume, which this version knows.
        let scratch = lv("quarry-expansion-x", "linear", Some("quarry2/k=expansion/v=x/b=8192"), &["p"]);
        let expanding = group(pvs.clone(), vec![lv("a", "linear", Some(READY), &["p"]), scratch]);
        assert_eq!(only(&expanding).name, "a");
        assert!(named(&expanding, "quarry-expansion-x").is_none() && not_volumes(&expanding).is_none());
        let hint = not_volumes(&around).unwrap();
        assert!(hint.contains("vg/old-1 is a \"archive\" of a newer Quarry"), "{hint}");
        // It does not make a volume ambiguous whose name it has.
        let renamed = group(pvs.clone(), vec![lv("a-parked", "linear", Some(READY), &["p"]), archive("a")]);
        assert!(named(&renamed, "a").is_some_and(|found| found.stored_as == "a-parked" && found.record().is_ok()));
        // With a second record, its kind is unknown: it is listed, but not changed.
        let mut both = archive("a");
        both.tags.push(READY.to_owned());
        let found = only(&group(pvs.clone(), vec![both]));
        assert!(matches!(found.record, Recorded::Broken(_)), "{found:?}");
        assert_eq!(not_volumes(&group(pvs, vec![lv("a", "linear", Some(READY), &["p"])])), None);
    }

    /// A group of that many volumes on one disk.
    fn large(volumes: usize, state: &str) -> VolumeGroup {
        let name = |number: usize| format!("pvc-{number}");
        let tag = |number: usize| format!("quarry1/s={state}/n={}/b=4096/a=m/f=ext4/l=l/p=x", name(number));
        let lvs: Vec<LogicalVolume> =
            (0..volumes).map(|number| lv(&name(number), "linear", Some(&tag(number)), &["p"])).collect();
        let used = |(index, volume): (usize, &LogicalVolume)| Used {
            start: Extents(index as u64),
            extents: Extents(1),
            volume: volume.uuid,
        };
        let used = lvs.iter().enumerate().map(used).collect();
        let disk = PhysicalVolume { used, extent_count: Extents(volumes as u64), ..pv("p", false) };
        group(vec![disk], lvs)
    }

    #[test]
    fn the_time_to_find_a_volume_grows_with_the_number_of_volumes_and_not_faster() {
        // Other programs do not count.
        let clock = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let fastest = |of: &dyn Fn()| {
            let once = || {
                let began = clock();
                of();
                clock() - began
            };
            (0..5).map(|_| once()).min().unwrap()
        };
        for state in ["ready", "new"] {
            let groups = [large(250, state), large(2000, state)];
            // Eight times the volumes: 8 is linear, 64 quadratic.
            let ratio = |of: &dyn Fn(&VolumeGroup)| {
                let [few, many] = groups.each_ref().map(|group| fastest(&|| of(group)).as_secs_f64());
                many / few
            };
            let find = ratio(&|group| assert!(named(group, "pvc-99").is_some()));
            let list = ratio(&|group| assert!(all(group).len() >= 250));
            assert!(
                find < 24.0 && list < 24.0,
                "eight times {state} volumes: {find:.0} times as long, to list {list:.0}"
            );
        }
    }

    #[test]
    fn a_renamed_volume_keeps_its_name() {
        let group = group(vec![pv("p", false)], vec![lv("a-parked", "linear", Some(READY), &["p"])]);
        let found = named(&group, "a").unwrap();
        assert_eq!((found.name.as_str(), found.stored_as.as_str()), ("a", "a-parked"));
        assert!(found.renamed().is_some_and(|why| why.contains("a-parked")));
        assert_eq!(named(&group, "a-parked").map(|volume| volume.name), None);
        assert_eq!(only(&group).renamed(), found.renamed());
    }

    #[test]
    fn swapped_names_lead_to_the_volumes_in_the_records() {
        let swapped = vec![
            lv("b", "linear", Some(READY), &["p"]),
            lv("a", "linear", Some(&READY.replace("n=a/", "n=b/")), &["p"]),
        ];
        let group = group(vec![pv("p", false)], swapped);
        assert_eq!(named(&group, "a").map(|volume| volume.stored_as), Some("b".to_owned()));
        assert_eq!(named(&group, "b").map(|volume| volume.stored_as), Some("a".to_owned()));
    }

    #[test]
    fn two_volumes_with_the_same_record_are_ambiguous() {
        let copies = vec![
            lv("copy", "linear", Some(NEW), &["p"]),
            lv("a", "linear", Some(READY), &["p"]),
            lv("other", "linear", Some(&READY.replace("n=a/", "n=b/")), &["p"]),
            lv("third", "linear", Some(READY), &["p"]),
        ];
        let group = group(vec![pv("p", false)], copies);
        let found = named(&group, "a").unwrap();
        assert_eq!((found.logical().unwrap(), found.renamed()), ((uuid("u"), uuid("a")), None));
        let error = found.record().unwrap_err();
        assert!(!error.reason.is_final() && error.message.starts_with("vg/a, vg/copy, vg/third all have"), "{error}");
        let names: Vec<String> = all(&group).into_iter().map(|volume| volume.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_volume_that_became_a_part_of_another_is_found() {
        let group = group(
            vec![pv("p", false)],
            vec![
                LogicalVolume { tags: vec![READY.to_owned()], ..part("b_cvol", &["p"]) },
                LogicalVolume { tags: vec![RAID.replace("n=a/", "n=r/")], ..part("r_rmeta_0", &["p"]) },
            ],
        );
        assert!(named(&group, "a").is_none());
        assert_eq!(hidden(&group, "a").map(|volume| volume.name.as_str()), Some("b_cvol"));
        assert_eq!(hidden(&group, "r"), None);
    }

    #[test]
    fn only_raid1_tolerates_a_lost_disk() {
        let pvs = || vec![pv("p", false), pv("q", true)];
        let linear = |on: &str| only(&group(pvs(), vec![lv("a", "linear", Some(READY), &[on])])).health;
        assert_eq!(linear("p"), Health::Whole);
        assert!(matches!(linear("q"), Health::Lost(why) if why.contains('q')));
        let raid = |images: [&str; 2]| {
            let lvs = vec![
                lv("a", "raid1", Some(&RAID.replace("new", "ready")), &images),
                part("a_rimage_0", &images[..1]),
                part("a_rimage_1", &images[1..]),
            ];
            only(&group(pvs(), lvs)).health
        };
        assert!(matches!(raid(["p", "q"]), Health::Degraded(_)));
        assert!(matches!(raid(["q", "q"]), Health::Lost(_)));
    }

    #[test]
    fn a_new_volume_with_an_incomplete_layout_is_incomplete() {
        let pvs = || vec![pv("p", false), pv("q", false)];
        let health = |lvs: Vec<LogicalVolume>| only(&group(pvs(), lvs)).health;
        let parts = || {
            vec![
                part("a_rimage_0", &["p"]),
                part("a_rimage_1", &["q"]),
                part("a_rmeta_0", &["p"]),
                part("a_rmeta_1", &["q"]),
            ]
        };
        let raid = || lv("a", "raid1", Some(RAID), &["p", "q"]);
        let with =
            |first: LogicalVolume, rest: Vec<LogicalVolume>| std::iter::once(first).chain(rest).collect::<Vec<_>>();
        assert_eq!(health(with(raid(), parts())), Health::Whole);
        // It was expanded before its first use.
        let expanded = LogicalVolume { size: 8192, segments: 2, ..raid() };
        assert_eq!(health(with(expanded, parts())), Health::Whole);
        let broken = [
            with(LogicalVolume { activation_skip: true, ..raid() }, parts()),
            with(raid(), parts().into_iter().skip(1).collect()),
            with(lv("a", "linear", Some(RAID), &["p"]), Vec::new()),
            with(lv("a", "error", Some(NEW), &["p"]), Vec::new()),
            with(LogicalVolume { size: 512, ..lv("a", "linear", Some(NEW), &["p"]) }, Vec::new()),
            with(lv("a", "linear", Some(NEW), &["p"]), parts()),
        ];
        for lvs in broken {
            assert!(matches!(health(lvs.clone()), Health::Incomplete(_)), "{lvs:#?}");
        }
    }

    /// A volume that may hold data never counts as unfinished: CreateVolume would remove it and create it again.
    #[test]
    fn only_a_new_volume_of_this_version_is_incomplete() {
        let health = |tag: &str, change: fn(&mut LogicalVolume)| {
            let mut volume = lv("a", "linear", Some(tag), &["p"]);
            change(&mut volume);
            only(&group(vec![pv("p", false)], vec![volume])).health
        };
        let signs: [fn(&mut LogicalVolume); 3] = [
            // Snapshots of thin volumes have it.
            |volume| volume.activation_skip = true,
            |volume| volume.size = 512,
            |volume| volume.segment_types = BTreeSet::from(["thin".to_owned()]),
        ];
        for sign in signs {
            assert!(matches!(health(NEW, sign), Health::Incomplete(_)));
            for tag in [READY, "quarry2/s=new/n=a/b=4096/a=m/f=ext4/l=l/p=x", "quarry1/s=new/n=a"] {
                assert_eq!(health(tag, sign), Health::Whole, "{tag}");
            }
        }
    }
}
