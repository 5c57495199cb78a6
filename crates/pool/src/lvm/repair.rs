//! What an operator does about missing disks of a volume group, step by step.
//!
//! lvm is never told to remove everything that is incomplete (`vgreduce --removemissing --force`), because that also removes
//! logical volumes that are not Quarry's.

use quarry_lvm::{PhysicalVolume, VolumeGroup};

use crate::{Health, PoolVolume};

/// With more volumes than this, one stands for all: a step is a text for people.
const NAMED: usize = 16;

/// The steps for this state of the volume group, with the commands in backticks. `volumes`: those of the pool. Empty if no
/// disk is missing.
pub(super) fn steps(group: &VolumeGroup, volumes: &[PoolVolume]) -> Vec<String> {
    let VolumeGroup { name, .. } = group;
    let missing: Vec<&PhysicalVolume> = group.physical_volumes.iter().filter(|pv| pv.missing).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let back: Vec<String> =
        missing.iter().filter_map(|pv| pv.device.as_ref()).map(|device| device.display().to_string()).collect();
    if !back.is_empty() {
        steps.push(format!(
            "the disk is back, but the volume group was changed without it: `vgextend --restoremissing {name} {}`",
            back.join(" ")
        ));
        steps.push(format!("volumes in use: `vgchange --refresh {name}`"));
    }
    if back.len() == missing.len() {
        return steps;
    }
    steps.push("if the disk can come back: put it back into this host, and skip the other steps".to_owned());
    let lacking = |volume: &&PoolVolume| {
        let found = group.logical_volumes.iter().find(|found| found.name == volume.stored_as);
        found.is_some_and(|found| found.lacks(group) || group.images_of(&found.name).iter().any(|one| one.lacks(group)))
    };
    let of = |health: fn(&Health) -> bool| -> Vec<String> {
        let chosen = volumes.iter().filter(|volume| health(&volume.health)).filter(lacking);
        chosen.map(|volume| format!("{name}/{}", volume.stored_as)).collect()
    };
    let degraded = of(|health| matches!(health, Health::Degraded(_)));
    if !degraded.is_empty() {
        steps.push(format!(
            "if it will never come back: put in a new, empty disk, and run `vgextend {name} NEW_DEVICE`"
        ));
        steps.push(for_each("create the lost copies again", "lvconvert --yes --repair", &degraded));
    }
    let lost = of(|health| matches!(health, Health::Lost(_)));
    if !lost.is_empty() {
        steps.push(for_each(
            "if it will never come back, the data of these volumes is lost: delete their claims, and run",
            "lvremove --yes",
            &lost,
        ));
    }
    steps.push(format!(
        "when nothing is left on it: `vgreduce --removemissing {name}`. It refuses, and names what is left, if there are \
         other logical volumes on the disk"
    ));
    steps
}

/// A command for each of these volumes.
fn for_each(why: &str, command: &str, volumes: &[String]) -> String {
    if volumes.len() > NAMED {
        let first = volumes.first().map_or("", String::as_str);
        return format!(
            "{why} (for each of {}; `quarry volumes --problems` lists them): `{command} {first}`",
            volumes.len()
        );
    }
    let commands: Vec<String> = volumes.iter().map(|volume| format!("`{command} {volume}`")).collect();
    format!("{why}: {}", commands.join(", "))
}
