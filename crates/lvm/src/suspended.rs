//! Devices that a dead lvm left suspended: whoever reads or writes them waits for ever.
//!
//! lvm suspends a device to put another table under it. When it is killed in between, the device stays suspended. The
//! kernel shows it in sysfs, so finding it takes no process, and works when lvm itself would hang on the device.

use std::fs;
use std::io;
use std::path::Path;

use quarry_exec::Command;

use crate::mutation::{Mutation, succeed};
use crate::{Error, VolumeGroup, vg_name_fits};

/// A suspended device-mapper device of a volume group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suspended {
    /// The kernel's minor number; what lies below another device was mostly made before it.
    pub minor: u32,
    /// Its device-mapper name.
    pub name: String,
}

/// The suspended devices of the volume group with that UUID, lowest first. No process is started, no device opened.
///
/// # Errors
/// `/sys/block` cannot be read.
pub fn suspended(vg_uuid: &str) -> io::Result<Vec<Suspended>> {
    suspended_in(Path::new("/sys/block"), vg_uuid)
}

fn suspended_in(block: &Path, vg_uuid: &str) -> io::Result<Vec<Suspended>> {
    // lvm's devices have the UUID "LVM-", the volume group's and the logical volume's without hyphens, and a layer.
    let prefix = format!("LVM-{}", vg_uuid.replace('-', ""));
    let mut found = Vec::new();
    for entry in fs::read_dir(block)? {
        let entry = entry?;
        let Some(minor) = entry.file_name().to_str().and_then(|name| name.strip_prefix("dm-")?.parse().ok()) else {
            continue;
        };
        let directory = entry.path().join("dm");
        // A device that vanishes while we look is not suspended.
        let read = |file: &str| fs::read_to_string(directory.join(file)).map(|text| text.trim().to_owned());
        let (Ok(uuid), Ok(state), Ok(name)) = (read("uuid"), read("suspended"), read("name")) else { continue };
        if uuid.starts_with(&prefix) && state == "1" {
            found.push(Suspended { minor, name });
        }
    }
    found.sort();
    Ok(found)
}

/// Resumes devices that no living lvm is working on, then makes every active device of the volume group agree with the
/// committed metadata.
///
/// The dead lvm may have loaded a new table without committing the metadata that goes with it. A plain resume would
/// switch to it, and the volume would reach into extents that the metadata calls free. So a waiting table is thrown
/// away first; then lvm itself, which knows what was committed, loads what is right.
///
/// Only for when no lvm of ours is running on this volume group: a live one holds devices suspended for good reason.
///
/// # Errors
/// dmsetup or lvm failed; the remaining devices are resumed all the same.
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
        tracing::warn!(device = device.name, vg, "resuming a device that was left suspended");
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
    fn finds_only_what_is_suspended_and_ours() {
        let block = tempfile::tempdir().expect("dir");
        let device = |node: &str, uuid: &str, suspended: &str, name: &str| {
            let directory = block.path().join(node).join("dm");
            fs::create_dir_all(&directory).expect("dir");
            for (file, text) in [("uuid", uuid), ("suspended", suspended), ("name", name)] {
                fs::write(directory.join(file), format!("{text}\n")).expect("file");
            }
        };
        let ours = "LVM-2vs5Vm9AXs3AGCF6wlkcm13euzdhP3rr5qqtdghiGDX5mLvipAGs81bx0GZiDN2l";
        device("dm-10", ours, "1", "qvg-top");
        device("dm-2", &format!("{ours}-real"), "1", "qvg-a-real");
        device("dm-3", ours, "0", "qvg-b");
        device("dm-4", "LVM-XXs5Vm9AXs3AGCF6wlkcm13euzdhP3rr5qqtdghiGDX5mLvipAGs81bx0GZiDN2l", "1", "other-a");
        device("dm-5", "CRYPT-LUKS2-x", "1", "luks");
        fs::create_dir_all(block.path().join("sda")).expect("dir");
        fs::create_dir_all(block.path().join("dm-77")).expect("dir");
        let found = suspended_in(block.path(), "2vs5Vm-9AXs-3AGC-F6wl-kcm1-3euz-dhP3rr").expect("read");
        let names: Vec<&str> = found.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["qvg-a-real", "qvg-top"]);
    }
}
