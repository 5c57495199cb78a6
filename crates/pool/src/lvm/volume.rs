//! From a logical volume in a report to a volume of ours.

use quarry_lvm::{LogicalVolume, VolumeGroup};
use quarry_volume::StorageId;

use crate::record::{Record, State, Tag};
use crate::{Health, PoolVolume, Recorded};

/// The volumes of a volume group that carry our mark.
pub(crate) fn all(group: &VolumeGroup) -> Vec<PoolVolume> {
    group.volumes().filter_map(|volume| ours(group, volume)).collect()
}

/// The logical volume as a volume of ours; `None` if it does not carry our mark.
pub(crate) fn ours(group: &VolumeGroup, volume: &LogicalVolume) -> Option<PoolVolume> {
    if volume.internal {
        return None;
    }
    let mut records = volume.tags.iter().map(|tag| Record::parse(tag)).filter(|tag| *tag != Tag::Foreign);
    let record = match (records.next()?, records.next()) {
        (_, Some(_)) => Recorded::Broken("it carries several records".to_owned()),
        (Tag::Record(record), None) => Recorded::Here(record),
        (Tag::Newer { version }, None) => Recorded::Newer(version),
        (Tag::Broken { why }, None) => Recorded::Broken(why),
        (Tag::Foreign, None) => return None,
    };
    let health = health(group, volume, &record);
    Some(PoolVolume {
        name: volume.name.clone(),
        storage: StorageId::of(&group.uuid),
        group: group.uuid.clone(),
        uuid: volume.uuid.clone(),
        size: volume.size,
        record,
        health,
    })
}

/// What is wrong with the storage under a volume.
fn health(group: &VolumeGroup, volume: &LogicalVolume, record: &Recorded) -> Health {
    if volume.lacks(group) {
        let lost: Vec<&str> = volume
            .physical_volumes
            .iter()
            .filter(|uuid| group.physical_volume(uuid).is_none_or(|pv| pv.missing))
            .map(String::as_str)
            .collect();
        let lost = lost.join(", ");
        let images: Vec<_> = group.parts_of(&volume.name).filter(|part| part.name.contains("_rimage_")).collect();
        let bears =
            volume.segment_types.iter().all(|kind| kind == "raid1") && images.iter().any(|image| !image.lacks(group));
        return if bears {
            Health::Degraded(format!(
                "volume {} has lost a copy with physical volume {lost} of volume group {}, and goes on with the rest; \
                 replace the disk and repair it (lvconvert --repair)",
                volume.name, group.name
            ))
        } else {
            Health::Lost(format!(
                "volume {} has bytes on physical volume {lost}, which is missing from volume group {}; bring the disk \
                 back",
                volume.name, group.name
            ))
        };
    }
    match record {
        Recorded::Here(record) if record.state == State::New => match incomplete(group, volume, record) {
            Some(why) => Health::Incomplete(format!("the creation of volume {} was interrupted: {why}", volume.name)),
            None => Health::Whole,
        },
        // An operator may convert or move a volume in use as LVM permits.
        _ => Health::Whole,
    }
}

/// Why a `new` volume is not laid out as it should be: where LVM commits more than once, its tags prove no completion.
fn incomplete(group: &VolumeGroup, volume: &LogicalVolume, record: &Record) -> Option<String> {
    if volume.size < record.size {
        return Some(format!("it has {} of {} bytes", volume.size, record.size));
    }
    group.incompleteness(volume, &record.layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_lvm::PhysicalVolume;
    use std::collections::BTreeSet;

    const NEW: &str = "quarry1/s=new/n=a/b=4096/a=m/f=ext4/l=l/p=x";
    const READY: &str = "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x";
    const RAID: &str = "quarry1/s=new/n=a/b=4096/a=m/f=ext4/l=r1.1/p=x";

    fn pv(uuid: &str, missing: bool) -> PhysicalVolume {
        PhysicalVolume { uuid: uuid.into(), missing, ..PhysicalVolume::default() }
    }

    fn lv(name: &str, kind: &str, tag: Option<&str>, pvs: &[&str]) -> LogicalVolume {
        LogicalVolume {
            name: name.into(),
            uuid: format!("uuid-{name}"),
            size: 4096,
            tags: tag.into_iter().map(str::to_owned).collect(),
            segment_types: BTreeSet::from([kind.to_owned()]),
            stripes: if kind == "raid1" { 2 } else { 1 },
            physical_volumes: pvs.iter().map(|uuid| (*uuid).to_owned()).collect(),
            ..LogicalVolume::default()
        }
    }

    fn part(name: &str, pvs: &[&str]) -> LogicalVolume {
        LogicalVolume { internal: true, parent: Some("a".into()), ..lv(name, "linear", None, pvs) }
    }

    fn group(pvs: Vec<PhysicalVolume>, lvs: Vec<LogicalVolume>) -> VolumeGroup {
        VolumeGroup {
            name: "vg".into(),
            uuid: "u".into(),
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
    fn what_does_not_carry_our_mark_is_not_ours() {
        let group = group(
            vec![pv("p", false)],
            vec![
                lv("root", "linear", None, &["p"]),
                lv("other", "linear", Some("quarry"), &["p"]),
                LogicalVolume { internal: true, ..lv("part", "linear", Some(NEW), &["p"]) },
                // A raid's metadata carries the raid's tags, and is visible where the creation was cut off.
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
    fn a_lost_disk_is_borne_by_raid1_alone() {
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
    fn a_new_volume_whose_layout_is_not_whole_is_incomplete() {
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
        // A `ready` volume is in use: it is never taken for an unfinished one.
        assert_eq!(health(vec![LogicalVolume { size: 512, ..lv("a", "linear", Some(READY), &["p"]) }]), Health::Whole);
    }
}
