//! Problems of the storage under a logical volume, and how to repair them.
//!
//! The copies of a mirrored volume are checked one by one: in lvm's report (its disk is missing, or was
//! removed) and with the kernel (it failed, or is being rebuilt). The volume counts as usable only while an
//! intact copy is left.

use quarry_lvm::{ImageState, LogicalVolume, PvUuid, VolumeGroup};

use crate::record::State;
use crate::{Health, Recorded};

/// Finds the parts of the logical volume with that name. See [`VolumeGroup::parts_of`] for one volume, and
/// [`VolumeGroup::parts`] for all of them.
pub(super) type PartsOf<'a> = dyn Fn(&str) -> Vec<&'a LogicalVolume> + 'a;

/// The health of the storage under a volume.
pub(super) fn health<'a>(
    group: &'a VolumeGroup,
    volume: &LogicalVolume,
    record: &Recorded,
    parts: &PartsOf<'a>,
) -> Health {
    if let Some(why) = unfinished(group, volume, record, parts) {
        return Health::Incomplete(why);
    }
    if volume.is_thin() {
        return super::thin::health(group, volume);
    }
    let health = part_health(group, volume);
    match (health, lost_snapshots(group, volume)) {
        (Health::Whole, Some(why)) => Health::Degraded(why),
        (Health::Degraded(first), Some(why)) => Health::Degraded(format!("{first}; {why}")),
        (health, _) => health,
    }
}

/// The health of the disks under a logical volume, which may be a part of another one.
pub(super) fn part_health(group: &VolumeGroup, volume: &LogicalVolume) -> Health {
    match is_mirror(volume) {
        true => mirror_health(group, volume),
        false => lost(group, volume).map_or(Health::Whole, Health::Lost),
    }
}

/// The problem of a volume with snapshots on a missing disk. It works while it is active, but lvm does not activate it
/// again.
fn lost_snapshots(group: &VolumeGroup, volume: &LogicalVolume) -> Option<String> {
    // This is asked of every volume, and to find the snapshots of one takes all logical volumes.
    if group.physical_volumes.iter().all(|pv| !pv.missing) {
        return None;
    }
    let lost = group.snapshots_of(volume).filter(|snapshot| snapshot.lacks(group));
    let names: Vec<String> = lost.map(|snapshot| format!("{}/{}", group.name, snapshot.name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "lvm does not activate volume {} again, because its snapshot {} has extents on a physical volume that is \
             missing; bring the disk back, or remove the snapshot (lvremove)",
            volume.name,
            names.join(", ")
        )
    })
}

fn is_mirror(volume: &LogicalVolume) -> bool {
    !volume.segment_types.is_empty() && volume.segment_types.iter().all(|kind| kind == "raid1")
}

/// Why an unmirrored volume lacks data.
fn lost(group: &VolumeGroup, volume: &LogicalVolume) -> Option<String> {
    let LogicalVolume { name, .. } = volume;
    let missing = missing(group, volume);
    if !missing.is_empty() {
        return Some(format!(
            "volume {name} has extents on physical volume {}, which is missing from volume group {}; bring the disk \
             back",
            missing.join(", "),
            group.name
        ));
    }
    let short: Vec<String> = group.cut_off_under(volume).map(|pv| group.show_disk(pv.uuid)).collect();
    (!short.is_empty()).then(|| {
        format!(
            "volume {name} has extents beyond the end of {}, which is smaller than its physical volume says; restore \
             the disk's size",
            short.join(", ")
        )
    })
}

/// The physical volumes of a volume that are missing, as text.
fn missing(group: &VolumeGroup, volume: &LogicalVolume) -> Vec<String> {
    let gone = |uuid: &&PvUuid| group.physical_volume(**uuid).is_none_or(|pv| pv.missing);
    volume.physical_volumes.iter().filter(gone).map(ToString::to_string).collect()
}

/// One copy of a mirrored volume.
enum Copy {
    Whole,
    /// Its disk is missing, or too small.
    Missing(String),
    /// Its disk is missing for lvm, but is in this host, or may be.
    Hidden(String),
    /// An operator removed its disk from the volume group.
    Removed,
    /// It failed, and has not been written since.
    OutOfDate(String),
    Rebuilding(String),
}

fn mirror_health(group: &VolumeGroup, volume: &LogicalVolume) -> Health {
    let images = group.images_of(&volume.name);
    let copies: Vec<Copy> = images.iter().enumerate().map(|(index, image)| copy(group, volume, image, index)).collect();
    let whole = copies.iter().filter(|copy| matches!(copy, Copy::Whole)).count();
    let full_name = format!("{}/{}", group.name, volume.name);
    if whole == 0 && !copies.is_empty() {
        let each: Vec<String> = copies.iter().filter_map(Copy::describe).collect();
        return Health::Lost(format!(
            "volume {} has no intact copy left: {}; bring back the disk that was written last, and repair nothing \
             before that",
            volume.name,
            each.join(", ")
        ));
    }
    let broken: Vec<String> = copies.iter().filter_map(|copy| copy.degraded(&full_name)).collect();
    if !broken.is_empty() {
        return Health::Degraded(format!(
            "volume {} runs on {whole} of {} copies: {}",
            volume.name,
            copies.len(),
            broken.join("; ")
        ));
    }
    let shared = group.shared_by_images(volume);
    if !shared.is_empty() {
        return Health::Degraded(shared_disks(volume, &full_name, copies.len(), &shared));
    }
    health_from_report(volume, &full_name)
}

/// The problem of a mirror whose copies are on too few disks. lvm adds no copy to a mirror that was created without a first
/// synchronization, as Quarry's are. So the mirror is made again.
fn shared_disks(volume: &LogicalVolume, full_name: &str, copies: usize, shared: &[String]) -> String {
    let mirrored = match copies {
        2 => "is not mirrored, because its copies",
        _ => "has fewer disks than copies, because some of its copies",
    };
    format!(
        "volume {} {mirrored} share the disk {}; when enough other disks have space, run `lvconvert --type linear \
         {full_name}`, which leaves one copy for a while, then `lvconvert --type raid1 --mirrors {} {full_name}`",
        volume.name,
        shared.join(", "),
        copies.saturating_sub(1).max(1)
    )
}

/// The health of a mirror whose copies are all intact, from lvm's report and the last check.
fn health_from_report(volume: &LogicalVolume, full_name: &str) -> Health {
    let LogicalVolume { name, raid, health, .. } = volume;
    match raid {
        Some(status) if status.mismatches > 0 => Health::Degraded(format!(
            "mismatches exist: a check found {} sectors of volume {name} that differ between its copies. Bytes that \
             were never written may differ; `lvchange --syncaction repair {full_name}` makes the copies identical",
            status.mismatches
        )),
        // The kernel's status is newer than the report's.
        Some(_) => Health::Whole,
        None if health.contains("needed") => Health::Degraded(format!(
            "{health}: lvm reports this state of volume {name}; see `lvs -a -o +lv_health_status,devices \
             {full_name}`, and `lvchange --refresh {full_name}` or `lvconvert --repair {full_name}`"
        )),
        None => Health::Whole,
    }
}

fn copy(group: &VolumeGroup, volume: &LogicalVolume, image: &LogicalVolume, index: usize) -> Copy {
    let mut disks: Vec<String> = image.physical_volumes.iter().map(|uuid| group.show_disk(*uuid)).collect();
    disks.sort_unstable();
    let disks = disks.join(", ");
    let absent = missing(group, image);
    if !absent.is_empty() {
        let is_hidden =
            |pv: &quarry_lvm::PhysicalVolume| pv.hidden_at.is_some() && image.physical_volumes.contains(&pv.uuid);
        let why = format!("physical volume {} is missing", absent.join(", "));
        return match !group.silent.is_empty() || group.physical_volumes.iter().any(is_hidden) {
            true => Copy::Hidden(why),
            false => Copy::Missing(why),
        };
    }
    if image.segment_types.contains("error") {
        return Copy::Removed;
    }
    if group.cut_off_under(image).next().is_some() {
        return Copy::Missing(format!("{disks} is smaller than its physical volume says"));
    }
    match volume.raid.as_ref().and_then(|raid| raid.images.get(index)) {
        Some(ImageState::Failed | ImageState::Absent) => Copy::OutOfDate(disks),
        // After an unclean stop, all copies are compared, and all are equally valid.
        Some(ImageState::Rebuilding) if volume.raid.as_ref().is_none_or(|raid| raid.action != "resync") => {
            let percent = volume.raid.as_ref().map_or(0, |raid| raid.in_step / 100);
            Copy::Rebuilding(format!("{disks}, {percent} %"))
        }
        Some(ImageState::Rebuilding | ImageState::InStep) | None => Copy::Whole,
    }
}

impl Copy {
    /// A description of the problem; `None` without a problem.
    fn describe(&self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Missing(why) | Self::Hidden(why) => Some(why.clone()),
            Self::Removed => Some("one copy was removed together with its disk".to_owned()),
            Self::OutOfDate(disks) => Some(format!("the copy on {disks} failed and is out of date")),
            Self::Rebuilding(disks) => Some(format!("the copy on {disks} was not rebuilt completely")),
        }
    }

    /// The same with the remedy, while another copy is intact.
    fn degraded(&self, full_name: &str) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Missing(why) => Some(format!(
                "{why}; bring the disk back, or replace it and repair the volume (`lvconvert --repair {full_name}`)"
            )),
            Self::Hidden(why) => {
                Some(format!("{why}, but may be in this host: `quarry doctor` says where, and what to do"))
            }
            Self::Removed => Some(format!(
                "repair needed: one copy was removed together with its disk; when another disk has space, `lvconvert \
                 --repair {full_name}` creates a new copy"
            )),
            Self::OutOfDate(disks) => Some(format!(
                "refresh needed: the copy on {disks} failed and is out of date; once the disk works again, `lvchange \
                 --refresh {full_name}` resynchronizes it. If it does not, deactivate and activate the volume (delete \
                 its pod: unstage and stage do that), or replace the disk (`lvconvert --replace`)"
            )),
            Self::Rebuilding(disks) => Some(format!("a copy is being rebuilt ({disks}); wait until it has finished")),
        }
    }
}

/// Why the layout of a `new` volume is incomplete: if LVM commits more than once, its tags do not prove that
/// it is complete.
fn unfinished<'a>(
    group: &'a VolumeGroup,
    volume: &LogicalVolume,
    record: &Recorded,
    parts: &PartsOf<'a>,
) -> Option<String> {
    let Recorded::Here(record) = record else { return None };
    // A used volume may have been converted or moved by an operator, within LVM's limits.
    if record.state != State::New || volume.lacks(group) {
        return None;
    }
    let why = if volume.size < record.size {
        format!("it has {} of {} bytes", volume.size, record.size)
    } else if record.thin {
        super::thin::incompleteness(volume, record)?
    } else {
        group.incompleteness_of(volume, &record.layout, &parts(&volume.name))?
    };
    Some(format!("the creation of volume {} was interrupted: {why}", volume.name))
}

#[cfg(test)]
mod tests {
    use super::super::testing::uuid;
    use super::*;
    use crate::record::{Record, Tag};
    use quarry_lvm::{PhysicalVolume, RaidStatus, Used};
    use quarry_volume::{ExtentSize, Extents};
    use std::collections::BTreeSet;

    fn part(name: &str, kind: &str, pv: &str) -> LogicalVolume {
        LogicalVolume {
            name: name.into(),
            uuid: uuid(name),
            internal: true,
            parent: Some("a".into()),
            segment_types: BTreeSet::from([kind.to_owned()]),
            physical_volumes: BTreeSet::from([uuid(pv)]),
            ..LogicalVolume::default()
        }
    }

    /// A raid1 `vg/a` with one image each on /dev/p and /dev/q.
    fn mirror() -> VolumeGroup {
        let pv = |name: &str| PhysicalVolume {
            uuid: uuid(name),
            device: Some(format!("/dev/{name}").into()),
            extent_count: Extents(10),
            ..PhysicalVolume::default()
        };
        let parts = ["p", "q"].into_iter().enumerate().flat_map(|(number, pv)| {
            [part(&format!("a_rimage_{number}"), "linear", pv), part(&format!("a_rmeta_{number}"), "linear", pv)]
        });
        let top = LogicalVolume {
            internal: false,
            parent: None,
            physical_volumes: BTreeSet::from([uuid("p"), uuid("q")]),
            stripes: 2,
            ..part("a", "raid1", "p")
        };
        VolumeGroup {
            name: "vg".into(),
            extent_size: ExtentSize(4 << 20),
            physical_volumes: vec![pv("p"), pv("q")],
            logical_volumes: parts.chain([top]).collect(),
            ..VolumeGroup::default()
        }
    }

    fn lv<'a>(group: &'a mut VolumeGroup, name: &str) -> &'a mut LogicalVolume {
        group.logical_volumes.iter_mut().find(|volume| volume.name == name).unwrap()
    }

    fn health_of(group: &VolumeGroup, state: &str) -> Health {
        let record: Tag = Record::parse(&format!("quarry1/s={state}/n=a/b=0/a=m/f=ext4/l=r1.1/p=x"));
        let Tag::Record(record) = record else { panic!("{record:?}") };
        let parts = |name: &str| group.parts_of(name).collect();
        let found = health(group, group.logical_volume("a").unwrap(), &Recorded::Here(record.clone()), &parts);
        let all = group.parts();
        let indexed = |name: &str| all.get(name).cloned().unwrap_or_default();
        let again = health(group, group.logical_volume("a").unwrap(), &Recorded::Here(record), &indexed);
        assert_eq!(found, again, "the parts of one volume, and of all");
        found
    }

    fn with_status(line: &str) -> VolumeGroup {
        let mut group = mirror();
        lv(&mut group, "a").raid = Some(line.parse::<RaidStatus>().unwrap());
        group
    }

    fn degraded(group: &VolumeGroup) -> String {
        let health = health_of(group, "ready");
        let Health::Degraded(why) = health else { panic!("{health:?}") };
        why
    }

    #[test]
    fn a_failed_copy_needs_a_refresh() {
        assert_eq!(health_of(&with_status("raid1 2 AA 100/100 idle 0 0 -"), "ready"), Health::Whole);
        let why = degraded(&with_status("raid1 2 AD 100/100 idle 0 0 -"));
        assert!(why.contains("refresh needed: the copy on /dev/q") && why.contains("lvchange --refresh vg/a"), "{why}");
        let why = degraded(&with_status("raid1 2 Aa 40/100 recover 0 0 -"));
        assert!(why.contains("being rebuilt (/dev/q, 40 %)"), "{why}");
        // After an unclean stop, all copies are equally valid.
        assert_eq!(health_of(&with_status("raid1 2 aa 40/100 resync 0 0 -"), "ready"), Health::Whole);
        // lvm's state from the report is older than the kernel's, and counts only if the kernel has none.
        let mut group = with_status("raid1 2 AA 100/100 idle 0 0 -");
        lv(&mut group, "a").health = "refresh needed".into();
        assert_eq!(health_of(&group, "ready"), Health::Whole);
        lv(&mut group, "a").raid = None;
        assert!(degraded(&group).contains("refresh needed"));
    }

    #[test]
    fn the_remaining_copy_is_checked() {
        let mut group = with_status("raid1 2 AA 100/100 idle 0 0 -");
        group.physical_volumes[0].missing = true;
        let missing = format!("runs on 1 of 2 copies: physical volume {} is missing", uuid::<PvUuid>("p"));
        assert!(degraded(&group).contains(&missing));
        assert!(degraded(&group).contains("lvconvert --repair"));
        // Its disk is in this host, or may be.
        let hidden = |group: &mut VolumeGroup| group.physical_volumes[0].hidden_at = Some("/dev/p".into());
        for change in [hidden, |group: &mut VolumeGroup| group.silent = vec!["/dev/z".into()]] {
            let mut group = group.clone();
            change(&mut group);
            let why = degraded(&group);
            assert!(why.contains("may be in this host") && !why.contains("lvconvert"), "{why}");
        }
        // The remaining copy had failed before.
        let mut group = with_status("raid1 2 AD 100/100 idle 0 0 -");
        group.physical_volumes[0].missing = true;
        let Health::Lost(why) = health_of(&group, "ready") else { panic!() };
        assert!(why.contains("no intact copy left") && why.contains("/dev/q failed and is out of date"), "{why}");
        // Or it was being rebuilt from the missing one.
        let mut group = with_status("raid1 2 Aa 40/100 recover 0 0 -");
        group.physical_volumes[0].missing = true;
        assert!(matches!(health_of(&group, "ready"), Health::Lost(why) if why.contains("not rebuilt completely")));
    }

    #[test]
    fn a_snapshot_on_a_missing_disk_is_a_problem_of_its_source() {
        let mut group = with_status("raid1 2 AA 100/100 idle 0 0 -");
        let snapshot = LogicalVolume { internal: false, parent: None, ..part("s", "linear", "p") };
        group.logical_volumes.push(LogicalVolume { origin: Some("a".into()), ..snapshot });
        assert_eq!(health_of(&group, "ready"), Health::Whole);
        group.physical_volumes[0].missing = true;
        let why = degraded(&group);
        assert!(why.contains("runs on 1 of 2 copies") && why.contains("its snapshot vg/s has extents"), "{why}");
    }

    #[test]
    fn a_removed_copy_needs_a_repair() {
        let mut group = mirror();
        for name in ["a_rimage_1", "a_rmeta_1"] {
            lv(&mut group, name).segment_types = BTreeSet::from(["error".to_owned()]);
            lv(&mut group, name).physical_volumes.clear();
        }
        let why = degraded(&group);
        assert!(why.contains("repair needed") && why.contains("lvconvert --repair vg/a"), "{why}");
    }

    #[test]
    fn mismatches_are_reported_with_the_command_that_repairs_them() {
        let why = degraded(&with_status("raid1 2 AA 100/100 idle 128 0 -"));
        assert!(why.contains("128 sectors") && why.contains("lvchange --syncaction repair vg/a"), "{why}");
    }

    #[test]
    fn copies_on_one_disk_are_not_a_mirror() {
        let mut group = mirror();
        lv(&mut group, "a_rimage_1").physical_volumes = BTreeSet::from([uuid("p")]);
        let why = degraded(&group);
        assert!(why.contains("not mirrored") && why.contains("/dev/p") && why.contains("--mirrors 1 vg/a`"), "{why}");
        // A volume that was never handed out is created again.
        assert!(matches!(health_of(&group, "new"), Health::Incomplete(why) if why.contains("share a disk")));
        // Two of three.
        let parts = [part("a_rimage_2", "linear", "q"), part("a_rmeta_2", "linear", "q")];
        group.logical_volumes.extend(parts);
        let why = degraded(&group);
        assert!(why.contains("fewer disks than copies") && why.contains("--mirrors 2 vg/a`"), "{why}");
        assert_eq!(health_of(&mirror(), "new"), Health::Whole);
    }

    #[test]
    fn extents_past_the_end_of_a_disk_are_lost() {
        let mut group = mirror();
        group.logical_volumes.retain(|volume| volume.name == "a");
        lv(&mut group, "a").segment_types = BTreeSet::from(["linear".to_owned()]);
        let used = |start| vec![Used { start: Extents(start), extents: Extents(2), volume: uuid("a") }];
        group.physical_volumes[1].device_size = Some(8 * (4 << 20));
        group.physical_volumes[1].used = used(6);
        assert_eq!(health_of(&group, "ready"), Health::Whole);
        group.physical_volumes[1].used = used(7);
        assert!(matches!(health_of(&group, "ready"), Health::Lost(why) if why.contains("beyond the end of /dev/q")));
        // A mirror tolerates it.
        let mut group = mirror();
        group.physical_volumes[1].device_size = Some(8 * (4 << 20));
        group.physical_volumes[1].used =
            vec![Used { start: Extents(7), extents: Extents(2), volume: uuid("a_rimage_1") }];
        assert!(degraded(&group).contains("/dev/q is smaller than its physical volume says"));
    }
}
