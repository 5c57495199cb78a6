//! Devices that a killed lvm left suspended, or with a table that is loaded but not in use.
//!
//! lvm loads another table for a device, suspends it, commits the metadata and resumes the device. If it is killed
//! in between, the device stays suspended: reads and writes on it block forever. If it is killed before that, only
//! the loaded table stays. `lvchange --refresh` and `vgchange --refresh` do not compare that table with the
//! metadata and switch to it (seen with lvm 2.03.16 and 2.03.31), although its new extents are free or belong to
//! another volume by then.
//!
//! The kernel shows both in sysfs and in the answer to an ioctl, so finding it needs no process, and works even
//! when lvm itself would hang on the device.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use quarry_exec::Command;

use crate::mutation::{Mutation, succeed};
use crate::uuid::{COW, REAL};
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
/// `/sys/block` cannot be read.
pub fn suspended(group: VgUuid) -> io::Result<Vec<Suspended>> {
    suspended_in(Path::new("/sys/block"), group, dm::has_inactive_table)
}

fn suspended_in(block: &Path, group: VgUuid, is_loaded: impl Fn(&str) -> bool) -> io::Result<Vec<Suspended>> {
    let mut found = Vec::new();
    for (folder, uuid) in dm::devices_in(block, group)? {
        let node = folder.file_name().unwrap_or_default();
        let Some(minor) = node.to_str().and_then(|name| name.strip_prefix("dm-")?.parse().ok()) else { continue };
        let (state, name) = (dm::attribute(&folder, "dm/suspended")?, dm::attribute(&folder, "dm/name")?);
        // A device that disappears meanwhile is not suspended.
        let (Some(state), Some(name)) = (state, name) else { continue };
        if state == "1" || is_loaded(&uuid) {
            found.push(Suspended { height: height(block, node, DEPTH), minor, name });
        }
    }
    found.sort();
    Ok(found)
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
/// `/sys/block` cannot be read.
pub fn stale_layers(group: &VolumeGroup) -> io::Result<Vec<String>> {
    stale_layers_in(Path::new("/sys/block"), group)
}

fn stale_layers_in(block: &Path, group: &VolumeGroup) -> io::Result<Vec<String>> {
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
    let mut found = Vec::new();
    for (folder, uuid) in dm::devices_in(block, group.uuid)? {
        let is_used = || fs::read_dir(folder.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
        if let Some(name) = dm::attribute(&folder, "dm/name")?
            && !needed(&uuid)
            && !is_used()
        {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
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

    #[test]
    fn only_the_groups_own_suspended_devices_are_found() {
        let block = tempfile::tempdir().expect("dir");
        let device = |node: &str, uuid: &str, suspended: &str, name: &str| {
            let directory = block.path().join(node).join("dm");
            fs::create_dir_all(&directory).expect("dir");
            for (file, text) in [("uuid", uuid), ("suspended", suspended), ("name", name)] {
                fs::write(directory.join(file), format!("{text}\n")).expect("file");
            }
        };
        let own = "LVM-2vs5Vm9AXs3AGCF6wlkcm13euzdhP3rr5qqtdghiGDX5mLvipAGs81bx0GZiDN2l";
        device("dm-10", own, "1", "qvg-top");
        device("dm-2", &format!("{own}-real"), "1", "qvg-a-real");
        device("dm-3", own, "0", "qvg-b");
        device("dm-4", "LVM-XXs5Vm9AXs3AGCF6wlkcm13euzdhP3rr5qqtdghiGDX5mLvipAGs81bx0GZiDN2l", "1", "other-a");
        device("dm-5", "CRYPT-LUKS2-x", "1", "luks");
        // Not suspended yet, or resumed already.
        let loaded = own.replace("ghiGDX", "loaded");
        device("dm-6", &loaded, "0", "qvg-loaded");
        fs::create_dir_all(block.path().join("sda")).expect("dir");
        fs::create_dir_all(block.path().join("dm-77")).expect("dir");
        let group = "2vs5Vm-9AXs-3AGC-F6wl-kcm1-3euz-dhP3rr".parse().expect("a UUID");
        let found = suspended_in(block.path(), group, |uuid| uuid == loaded).expect("read");
        let names: Vec<&str> = found.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["qvg-a-real", "qvg-loaded", "qvg-top"]);
        // The device below another one is resumed first, regardless of their numbers.
        fs::create_dir_all(block.path().join("dm-2/slaves/dm-6")).expect("dir");
        fs::create_dir_all(block.path().join("dm-6/slaves/dm-10")).expect("dir");
        fs::create_dir_all(block.path().join("dm-10/slaves/sda")).expect("dir");
        let found = suspended_in(block.path(), group, |uuid| uuid == loaded).expect("read");
        let names: Vec<&str> = found.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["qvg-top", "qvg-loaded", "qvg-a-real"]);
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
        let device = |node: &str, name: &str, volume: &str, end: &str, holder: Option<&str>| {
            let folder = block.path().join(node);
            fs::create_dir_all(folder.join("dm")).expect("dir");
            fs::create_dir_all(folder.join("holders").join(holder.unwrap_or_default())).expect("dir");
            fs::write(folder.join("dm/uuid"), format!("{}{end}\n", device_uuid(vg, uuid(volume)))).expect("file");
            fs::write(folder.join("dm/name"), format!("{name}\n")).expect("file");
        };
        device("dm-0", "vg-a", "a", "", None);
        device("dm-1", "vg-a-real", "a", "-real", None);
        device("dm-2", "vg-s-cow", "s", "-cow", None);
        device("dm-3", "vg-b-real", "b", "-real", None);
        device("dm-4", "vg-left-cow", "left", "-cow", None);
        device("dm-5", "vg-gone-real", "gone", "-real", None);
        device("dm-6", "vg-held-real", "b2", "-real", Some("dm-9"));
        device("dm-7", "vg-pool-tpool", "pool", "-tpool", None);
        let logical_volumes =
            vec![lv("a", None), lv("s", Some("a")), lv("b", None), lv("left", None), lv("b2", None), lv("pool", None)];
        let group = VolumeGroup { name: "vg".into(), uuid: vg, logical_volumes, ..VolumeGroup::default() };
        let found = stale_layers_in(block.path(), &group).expect("read");
        assert_eq!(found, ["vg-b-real", "vg-gone-real", "vg-left-cow"]);
        // Of another volume group.
        let other = VolumeGroup { uuid: uuid("other"), ..group };
        assert_eq!(stale_layers_in(block.path(), &other).expect("read"), Vec::<String>::new());
    }
}
