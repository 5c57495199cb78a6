//! Devices that a killed lvm left suspended, or with a table that is loaded but not in use.
//!
//! lvm loads another table for a device, suspends it, commits the metadata and resumes the device. If it is killed
//! in between, the device stays suspended: reads and writes on it block forever. If it is killed before that, only
//! the loaded table stays. `lvchange --refresh` and `vgchange --refresh` do not compare that table with the
//! metadata and switch to it (seen with lvm 2.03.16 and 2.03.31), although its new extents are free or belong to
//! another volume by then.
//!
//! The kernel shows both in the answer to an ioctl, so finding it needs no process, and works even when lvm itself would
//! hang on the device.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use quarry_exec::Command;

use crate::mutation::{Mutation, succeed};
use crate::uuid::{COW, REAL, device_prefix};
use crate::{Error, VgUuid, VolumeGroup, device_uuid, dm, vg_name_fits};

/// More than any real stack of devices.
const DEPTH: usize = 16;

/// A device-mapper device of a volume group that a killed lvm left suspended, or with a loaded table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suspended {
    /// How many devices of the volume group are below it, one on top of the other. Those must be resumed first: a
    /// resume may write to the devices below, and hangs while they are suspended.
    pub height: usize,
    /// The kernel's minor number.
    pub minor: u32,
    /// Its device-mapper name.
    pub name: String,
}

/// The devices of the volume group with that UUID that are suspended or have a loaded table that is not in use,
/// each after those below it. Starts no process and opens no device.
///
/// # Errors
/// Device-mapper does not answer.
pub fn suspended(group: VgUuid) -> io::Result<Vec<Suspended>> {
    Ok(suspended_of(Path::new("/sys/block"), dm::devices(group)?))
}

fn suspended_of(block: &Path, devices: Vec<dm::State>) -> Vec<Suspended> {
    let suspended = devices.into_iter().filter(|device| device.suspended || device.inactive_table);
    let mut found: Vec<_> = suspended
        .map(|device| {
            let folder = device.folder(block);
            let height = height(block, folder.file_name().unwrap_or_default(), DEPTH);
            Suspended { height, minor: device.number.1, name: device.name }
        })
        .collect();
    found.sort();
    found
}

/// The number of device-mapper devices below that one, one on top of the other.
fn height(block: &Path, device: &OsStr, depth: usize) -> usize {
    let Some(depth) = depth.checked_sub(1) else { return 0 };
    let below = fs::read_dir(block.join(device).join("slaves")).into_iter().flatten().flatten();
    let mapped = below.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes().starts_with(b"dm-"));
    mapped.map(|name| height(block, &name, depth) + 1).max().unwrap_or(0)
}

/// The layers that a killed lvm left although nothing uses them: the kernel's names of devices below a volume that has
/// no snapshots, and below a volume that is not a snapshot. lvm does not expect them, and fails when it needs their
/// names again. Starts no process and opens no device.
///
/// # Errors
/// Device-mapper does not answer.
pub fn stale_layers(group: &VolumeGroup) -> io::Result<Vec<String>> {
    Ok(stale_layers_of(Path::new("/sys/block"), group, dm::devices(group.uuid)?))
}

fn stale_layers_of(block: &Path, group: &VolumeGroup, devices: Vec<dm::State>) -> Vec<String> {
    let needed = |uuid: &str| {
        let volume = |end: &str| {
            let own = uuid.strip_suffix(end)?;
            Some(group.logical_volumes.iter().find(|volume| device_uuid(group.uuid, volume.uuid) == own))
        };
        match (volume(REAL), volume(COW)) {
            (Some(Some(origin)), _) => {
                group.logical_volumes.iter().any(|other| other.origin.as_deref() == Some(&origin.name))
            }
            (_, Some(Some(snapshot))) => snapshot.origin.is_some(),
            (Some(None), _) | (_, Some(None)) => false,
            // Another kind of layer, or a volume's own device.
            (None, None) => true,
        }
    };
    let is_used = |device: &dm::State| {
        fs::read_dir(device.folder(block).join("holders")).is_ok_and(|mut holders| holders.next().is_some())
    };
    let prefix = device_prefix(group.uuid);
    let own = devices.into_iter().filter(|device| device.uuid.starts_with(&prefix));
    let stale = own.filter(|device| !needed(&device.uuid) && !is_used(device));
    let mut found: Vec<_> = stale.map(|device| device.name).collect();
    found.sort();
    found
}

/// Removes stale layers from the kernel. It rejects that for a device that is open. Call this only while no lvm of
/// Quarry's is running on this volume group.
///
/// # Errors
/// dmsetup failed; the remaining layers are removed nevertheless.
pub async fn remove_stale(group: &VolumeGroup, layers: &[String]) -> Result<(), Error> {
    let mut result = Ok(());
    for layer in layers {
        tracing::warn!(layer, vg = group.name, "removing a device that a killed lvm left, and that nothing uses");
        let removed = succeed(Command::mutation("dmsetup").arg("remove").arg(layer).on(&group.scope.subject)).await;
        result = result.and(removed);
    }
    result
}

/// Resumes devices that no running lvm is working on, then makes every active device of the volume group
/// match the committed metadata.
///
/// The killed lvm may have loaded a new table without committing the metadata for it. A plain resume would
/// switch to that table, and the volume would then use extents that are free according to the metadata. So a
/// loaded but inactive table is cleared first; then lvm itself, which reads the committed metadata, loads the
/// right one.
///
/// Call this only while no lvm of Quarry's is running on this volume group: a running one suspends devices on
/// purpose.
///
/// # Errors
/// dmsetup or lvm failed; the remaining devices are resumed nevertheless.
pub async fn resume(group: &VolumeGroup, devices: &[Suspended]) -> Result<(), Error> {
    let vg = group.name.as_str();
    if !vg_name_fits(vg) {
        return Err(Error::Argument(format!("`{vg}` is not a valid name of a volume group")));
    }
    let dmsetup = |subcommand: &'static str, device: &Suspended| {
        succeed(Command::mutation("dmsetup").arg(subcommand).arg(&device.name).on(&group.scope.subject))
    };
    let mut result = Ok(());
    for device in devices {
        tracing::warn!(device = device.name, vg, "resuming a device that was left suspended, or with another table");
        let resumed = match dmsetup("clear", device).await {
            Ok(()) => dmsetup("resume", device).await,
            error => error,
        };
        result = result.and(resumed);
    }
    result?;
    Mutation::new("vgchange", group).args(["--refresh", vg]).run().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogicalVolume;
    use crate::uuid::testing::uuid;

    fn device(minor: u32, name: &str, uuid: String) -> dm::State {
        let (suspended, inactive_table) = (false, false);
        dm::State {
            name: name.into(),
            uuid,
            number: (253, minor),
            open_count: 0,
            suspended,
            inactive_table,
            status: None,
        }
    }

    #[test]
    fn suspended_devices_are_found_from_the_lowest_one() {
        let block = tempfile::tempdir().expect("dir");
        let uuid = |name: &str| device_uuid(uuid("vg"), uuid(name));
        let devices = || {
            vec![
                dm::State { suspended: true, ..device(10, "qvg-top", uuid("top")) },
                dm::State { suspended: true, ..device(2, "qvg-a-real", uuid("a") + "-real") },
                device(3, "qvg-b", uuid("b")),
                // Not suspended yet, or resumed already.
                dm::State { inactive_table: true, ..device(6, "qvg-loaded", uuid("loaded")) },
            ]
        };
        let names =
            || -> Vec<String> { suspended_of(block.path(), devices()).into_iter().map(|device| device.name).collect() };
        assert_eq!(names(), ["qvg-a-real", "qvg-loaded", "qvg-top"]);
        // The device below another one is resumed first, regardless of their numbers.
        fs::create_dir_all(block.path().join("dm-2/slaves/dm-6")).expect("dir");
        fs::create_dir_all(block.path().join("dm-6/slaves/dm-10")).expect("dir");
        fs::create_dir_all(block.path().join("dm-10/slaves/sda")).expect("dir");
        assert_eq!(names(), ["qvg-top", "qvg-loaded", "qvg-a-real"]);
    }

    #[test]
    fn only_unused_layers_without_a_snapshot_are_stale() {
        let block = tempfile::tempdir().expect("dir");
        let vg: VgUuid = uuid("vg");
        let lv = |name: &str, origin: Option<&str>| LogicalVolume {
            name: name.into(),
            uuid: uuid(name),
            origin: origin.map(str::to_owned),
            ..LogicalVolume::default()
        };
        let device = |minor: u32, name: &str, volume: &str, end: &str| {
            fs::create_dir_all(block.path().join(format!("dm-{minor}/holders"))).expect("dir");
            device(minor, name, device_uuid(vg, uuid(volume)) + end)
        };
        let devices = vec![
            device(0, "vg-a", "a", ""),
            device(1, "vg-a-real", "a", "-real"),
            device(2, "vg-s-cow", "s", "-cow"),
            device(3, "vg-b-real", "b", "-real"),
            device(4, "vg-left-cow", "left", "-cow"),
            device(5, "vg-gone-real", "gone", "-real"),
            device(6, "vg-held-real", "b2", "-real"),
            device(7, "vg-pool-tpool", "pool", "-tpool"),
        ];
        fs::create_dir_all(block.path().join("dm-6/holders/dm-9")).expect("dir");
        let logical_volumes =
            vec![lv("a", None), lv("s", Some("a")), lv("b", None), lv("left", None), lv("b2", None), lv("pool", None)];
        let group = VolumeGroup { name: "vg".into(), uuid: vg, logical_volumes, ..VolumeGroup::default() };
        let found = stale_layers_of(block.path(), &group, devices.clone());
        assert_eq!(found, ["vg-b-real", "vg-gone-real", "vg-left-cow"]);
        // Of another volume group.
        let other = VolumeGroup { uuid: uuid("other"), ..group };
        assert_eq!(stale_layers_of(block.path(), &other, devices), Vec::<String>::new());
    }
}
