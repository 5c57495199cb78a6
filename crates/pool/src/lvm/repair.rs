//! What an operator does about missing disks of a volume group, step by step.
//!
//! A command is printed only where nothing can be kept. lvm is never told to remove everything that is incomplete
//! (`vgreduce --removemissing --force`), because that also removes logical volumes that are not Quarry's.

use std::path::PathBuf;

use quarry_lvm::{LogicalVolume, PhysicalVolume, PvUuid, VolumeGroup};
use quarry_volume::some_of;

use crate::{Health, PoolVolume};

/// Commands for more volumes than this, or longer ones in bytes, are not printed one by one: texts on the wire are limited,
/// and a part of a command is dangerous.
const NAMED: usize = 16;
const LENGTH: usize = 1500;

/// The steps for this state of the volume group, with the commands in backticks. `volumes`: those of the pool. Empty if no
/// disk is missing.
pub(super) fn steps(group: &VolumeGroup, volumes: &[PoolVolume]) -> Vec<String> {
    let VolumeGroup { name, .. } = group;
    let missing: Vec<&PhysicalVolume> = group.physical_volumes.iter().filter(|pv| pv.missing).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    if let Some(step) = not_lost(group, &missing) {
        return vec![step];
    }
    let back = paths(missing.iter().filter_map(|pv| pv.device.as_ref()));
    if !back.is_empty() {
        // What is lost shows only when it is a part of the group again.
        let mut steps = Vec::new();
        if back.len() < missing.len() {
            steps.push("put back the other missing disks first, if they can come back: they may be newer".to_owned());
        }
        steps.push(format!(
            "a disk is back, but the volume group was changed without it: `vgextend --restoremissing {name} {}`",
            back.join(" ")
        ));
        steps.push(format!("for volumes in use: `vgchange --refresh {name}`. Then look again"));
        return steps;
    }
    let mut first =
        "put back every disk that can come back, and look again: the other steps give up what is missing now"
            .to_owned();
    if !group.failing.is_empty() {
        let failing = paths(&group.failing).join(", ");
        first = format!("{first}. {failing} cannot be read, and may be such a disk: the kernel's log says why");
    }
    let mut steps = vec![first];
    let degraded =
        of(group, volumes, |volume, health| matches!(health, Health::Degraded(_)) && lacks_any(group, volume));
    if !degraded.is_empty() {
        steps.push(format!("put in a new, empty disk: `vgextend {name} NEW_DEVICE`"));
        let commands = ["lvchange --activate y", "lvconvert --yes --repair"];
        steps.push(for_each("create the lost copies again", &commands, &degraded));
    }
    let partly = of(group, volumes, |volume, health| {
        matches!(health, Health::Lost(_)) && lacks_any(group, volume) && !lacks_all(group, volume)
    });
    if !partly.is_empty() {
        steps.push(format!(
            "a part of these volumes, or an old copy, is on other disks: copy what you need before you delete their \
             claims and remove them: {}",
            some_of(&partly)
        ));
    }
    let lost = of(group, volumes, |volume, health| matches!(health, Health::Lost(_)) && lacks_all(group, volume));
    if !lost.is_empty() {
        let why = "nothing is left of the data of these volumes: delete their claims, and remove them";
        steps.push(for_each(why, &["lvremove --yes"], &lost));
    }
    steps.push(format!(
        "remove the missing disk from the group: `vgreduce --removemissing {name}`. If volumes are left on it, the \
         command fails, names them, and removes none. Do not use --force, which would remove them"
    ));
    steps
}

/// What to do if missing disks are in this host, or may be: nothing is given up then.
fn not_lost(group: &VolumeGroup, missing: &[&PhysicalVolume]) -> Option<String> {
    const UNTIL: &str = "Until then, remove nothing and repair nothing";
    let hidden = paths(missing.iter().filter_map(|pv| pv.hidden_at.as_ref()));
    if !hidden.is_empty() {
        return Some(format!(
            "{} is in this host and can be read, but lvm does not use it{}. Correct that, or take the disk out if it is to \
             be given up, and look again. {UNTIL}",
            hidden.join(", "),
            group.hidden.iter().map(|why| format!("; {why}")).collect::<String>(),
        ));
    }
    let silent = paths(&group.silent);
    (!silent.is_empty()).then(|| {
        format!(
            "{} does not answer, and may be a missing disk: make it answer (the kernel's log says why it does not), or \
             take it out of this host, and look again. {UNTIL}",
            silent.join(", ")
        )
    })
}

fn paths<'a>(devices: impl IntoIterator<Item = &'a PathBuf>) -> Vec<String> {
    devices.into_iter().map(|device| device.display().to_string()).collect()
}

/// The names of the pool's volumes for which this holds.
fn of(group: &VolumeGroup, volumes: &[PoolVolume], holds: impl Fn(&LogicalVolume, &Health) -> bool) -> Vec<String> {
    let stored = |volume: &PoolVolume| group.logical_volumes.iter().find(|found| found.name == volume.stored_as);
    let chosen = volumes.iter().filter(|volume| stored(volume).is_some_and(|found| holds(found, &volume.health)));
    chosen.map(|volume| format!("{}/{}", group.name, volume.stored_as)).collect()
}

/// Whether one of the volume's disks is missing.
fn lacks_any(group: &VolumeGroup, volume: &LogicalVolume) -> bool {
    volume.lacks(group) || group.images_of(&volume.name).iter().any(|part| part.lacks(group))
}

/// Whether all of the volume's disks are missing.
fn lacks_all(group: &VolumeGroup, volume: &LogicalVolume) -> bool {
    let gone = |uuid: &PvUuid| group.physical_volume(*uuid).is_none_or(|pv| pv.missing);
    // A volume on other logical volumes has no disks of its own: nothing is known about those.
    let all = |part: &LogicalVolume| !part.physical_volumes.is_empty() && part.physical_volumes.iter().all(gone);
    let images = group.images_of(&volume.name);
    if images.is_empty() { all(volume) } else { images.into_iter().all(all) }
}

/// These commands for each of these volumes.
fn for_each(why: &str, commands: &[&str], volumes: &[String]) -> String {
    let of =
        |volume: &String| commands.iter().map(|command| format!("`{command} {volume}`")).collect::<Vec<_>>().join(", ");
    let all: Vec<String> = volumes.iter().map(of).collect();
    let text = format!("{why}: {}", all.join(", "));
    match all.first() {
        Some(first) if volumes.len() > NAMED || text.len() > LENGTH => {
            format!("{why} (each of {}; `quarry volumes --problems` lists them): {first}", volumes.len())
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quarry_volume::StorageId;

    use super::super::testing::uuid;
    use super::*;
    use crate::key::VolumeKey;
    use crate::{Health, Recorded};

    /// A group with the disks p (there), q (missing) and r (missing, or back), and a linear volume on these.
    fn group(on: &[&str], back: bool) -> VolumeGroup {
        let pv = |name: &str, missing: bool, device: bool| PhysicalVolume {
            uuid: uuid(name),
            missing,
            device: device.then(|| format!("/dev/{name}").into()),
            ..PhysicalVolume::default()
        };
        let volume = LogicalVolume {
            name: "a".into(),
            segment_types: BTreeSet::from(["linear".to_owned()]),
            physical_volumes: on.iter().map(|name| uuid(name)).collect(),
            ..LogicalVolume::default()
        };
        VolumeGroup {
            name: "vg".into(),
            physical_volumes: vec![pv("p", false, true), pv("q", true, false), pv("r", true, back)],
            logical_volumes: vec![volume],
            ..VolumeGroup::default()
        }
    }

    fn printed(group: &VolumeGroup) -> String {
        let volume = PoolVolume {
            name: "a".into(),
            stored_as: "a".into(),
            storage: StorageId::of("vg"),
            key: VolumeKey::Simulated { storage: "vg".into(), number: 1 },
            size: 1,
            record: Recorded::Broken("as configured".into()),
            health: Health::Lost("as configured".into()),
        };
        steps(group, &[volume]).join("\n")
    }

    #[test]
    fn only_what_is_wholly_lost_is_removed() {
        assert!(printed(&group(&["q", "r"], false)).contains("`lvremove --yes vg/a`"));
        for (on, back) in [(["p", "q"], false), (["q", "r"], true), (["p", "r"], true)] {
            let steps = printed(&group(&on, back));
            assert!(!steps.contains("lvremove"), "{on:?}: {steps}");
            assert_eq!(steps.contains("--restoremissing vg /dev/r`"), back, "{steps}");
            assert_eq!(steps.contains("copy what you need"), !back, "{steps}");
        }
        assert!(printed(&VolumeGroup::default()).is_empty());
    }

    #[test]
    fn what_is_in_the_host_is_not_given_up() {
        let lost = || group(&["q", "r"], false);
        let mut filtered = lost();
        filtered.physical_volumes[1].hidden_at = Some("/dev/q".into());
        filtered.hidden = vec!["lvm does not use /dev/q, because of devices/filter".into()];
        let mut hanging = lost();
        hanging.silent = vec!["/dev/z".into()];
        // One is back. The other one may be newer.
        let mut both = VolumeGroup { physical_volumes: group(&["q"], true).physical_volumes, ..filtered.clone() };
        both.physical_volumes[1].hidden_at = Some("/dev/q".into());
        for (group, named) in
            [(&filtered, "devices/filter"), (&hanging, "/dev/z does not answer"), (&both, "/dev/q is")]
        {
            let steps = printed(group);
            assert!(steps.contains(named), "{steps}");
            assert!(!steps.contains('`'), "a command: {steps}");
        }
        // One that returns errors may do so for ever.
        let failing = printed(&VolumeGroup { failing: vec!["/dev/y".into()], ..lost() });
        assert!(failing.contains("/dev/y cannot be read") && failing.contains("`lvremove --yes vg/a`"), "{failing}");
    }

    #[test]
    fn no_command_is_cut() {
        let volumes: Vec<String> = (0..10).map(|number| format!("vg/{number}{}", "x".repeat(300))).collect();
        let text = for_each("why", &["lvremove --yes"], &volumes);
        assert!(text.len() < LENGTH && text.matches("lvremove").count() == 1, "{text}");
    }
}
