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

use std::fs;
use std::io;
use std::path::Path;

use quarry_exec::Command;

use crate::mutation::{Mutation, succeed};
use crate::uuid::device_prefix;
use crate::{Error, VgUuid, VolumeGroup, dm, vg_name_fits};

/// A device-mapper device of a volume group that a killed lvm left suspended, or with a loaded table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suspended {
    /// The kernel's minor number. Devices below another one usually have lower numbers.
    pub minor: u32,
    /// Its device-mapper name.
    pub name: String,
}

/// The devices of the volume group with that UUID that are suspended or have a loaded table that is not in use,
/// lowest number first. Starts no process and opens no device.
///
/// # Errors
/// `/sys/block` cannot be read.
pub fn suspended(group: VgUuid) -> io::Result<Vec<Suspended>> {
    suspended_in(Path::new("/sys/block"), group, dm::has_inactive_table)
}

fn suspended_in(block: &Path, group: VgUuid, is_loaded: impl Fn(&str) -> bool) -> io::Result<Vec<Suspended>> {
    // The UUID of a volume's layer begins with the UUID of the volume.
    let prefix = device_prefix(group);
    let mut found = Vec::new();
    for entry in fs::read_dir(block)? {
        let entry = entry?;
        let Some(minor) = entry.file_name().to_str().and_then(|name| name.strip_prefix("dm-")?.parse().ok()) else {
            continue;
        };
        let directory = entry.path().join("dm");
        // A device that disappears meanwhile is not suspended.
        let read = |file: &str| fs::read_to_string(directory.join(file)).map(|text| text.trim().to_owned());
        let (Ok(uuid), Ok(state), Ok(name)) = (read("uuid"), read("suspended"), read("name")) else { continue };
        if uuid.starts_with(&prefix) && (state == "1" || is_loaded(&uuid)) {
            found.push(Suspended { minor, name });
        }
    }
    found.sort();
    Ok(found)
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
        succeed(Command::mutation("dmsetup").arg(subcommand).arg(&device.name).on(vg))
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
    }
}
