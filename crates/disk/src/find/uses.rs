//! The uses that the kernel's tables show: mounts, swap, loop devices, members of btrfs.
//!
//! They provide the reason for the operator, but are incomplete (mounts outside this container, a program
//! that has opened the disk). The exclusive open decides in the end ([`crate::try_exclusive_open`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use quarry_mount::{Device, Entry};

use super::names::{device_name, kernel_spelling};
use super::{Error, How, Roots, Use};

/// All uses of all devices.
#[derive(Debug, Default)]
pub(super) struct Uses(Vec<(UsedDevice, How)>);

/// The device that is used, as it is named in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum UsedDevice {
    Number(Device),
    Name(String),
}

impl Uses {
    /// Reads the tables.
    pub(super) fn read(roots: &Roots) -> Result<Self, Error> {
        let path = roots.proc.join("self/mountinfo");
        let table = fs::read(&path).map_err(|source| Error::Table { path, source })?;
        let mut uses: Vec<_> =
            quarry_mount::parse(&table).into_iter().filter_map(|entry| of_mount(roots, entry)).collect();
        let path = roots.proc.join("swaps");
        match fs::read(&path) {
            Ok(table) => {
                let swaps = swap_devices(&table).into_iter().filter_map(|swap| device_name(roots, &swap));
                uses.extend(swaps.map(|name| (UsedDevice::Name(name), How::Swap)));
            }
            // The kernel was built without swap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Table { path, source }),
        }
        uses.extend(loops(roots, &uses));
        uses.extend(btrfs_members(roots).into_iter().map(|name| (UsedDevice::Name(name), How::Btrfs)));
        Ok(Self(uses))
    }

    /// The uses of one disk or partition, without duplicates.
    pub(super) fn of(&self, name: &str, number: Device) -> Vec<Use> {
        let is = |device: &UsedDevice| match device {
            UsedDevice::Number(other) => *other == number,
            UsedDevice::Name(other) => other == name,
        };
        let mut of: BTreeSet<How> =
            self.0.iter().filter(|(device, _)| is(device)).map(|(_, how)| how.clone()).collect();
        // The mount by this member is the more useful reason.
        if of.iter().any(|how| matches!(how, How::Mounted { .. })) {
            of.remove(&How::Btrfs);
        }
        of.into_iter().map(|how| Use { device: name.to_owned(), how }).collect()
    }
}

fn of_mount(roots: &Roots, entry: Entry) -> Option<(UsedDevice, How)> {
    // A device node that is mounted on another path: nodes are on devtmpfs, or on a tmpfs if a container has
    // its own /dev.
    if matches!(entry.fstype.as_str(), "devtmpfs" | "tmpfs") && entry.root != Path::new("/") {
        let node = entry.root.as_os_str().as_bytes();
        let node = node.strip_suffix(b"//deleted").unwrap_or(node);
        let node = Path::new(OsStr::from_bytes(node)).strip_prefix("/").ok()?.to_owned();
        return Some((UsedDevice::Name(kernel_spelling(&node)?), How::Published { at: entry.target }));
    }
    let mounted = How::Mounted { at: entry.target };
    if entry.device.major != 0 {
        return Some((UsedDevice::Number(entry.device), mounted));
    }
    // btrfs uses anonymous device numbers for its mounts, so the source identifies the device.
    Some((UsedDevice::Name(device_name(roots, &entry.source)?), mounted))
}

/// The devices in `/proc/swaps`: one per line after the first, the path up to the first blank, spaces as
/// `\040`.
fn swap_devices(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|&byte| byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')).next());
    paths.filter(|path| path.starts_with(b"/")).map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
}

/// The files and devices behind loop devices. kubelet makes one for each raw block volume, over a mount of
/// the node.
fn loops(roots: &Roots, uses: &[(UsedDevice, How)]) -> Vec<(UsedDevice, How)> {
    let mut loops = Vec::new();
    for entry in fs::read_dir(roots.sys.join("block")).into_iter().flatten().flatten() {
        let Ok(mut path) = fs::read(entry.path().join("loop/backing_file")) else { continue };
        while path.last().is_some_and(u8::is_ascii_whitespace) {
            path.pop();
        }
        let path = path.strip_suffix(b" (deleted)").unwrap_or(&path);
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        let published = uses.iter().find(|(_, how)| matches!(how, How::Published { at } if *at == path));
        let device = match published {
            Some((device, _)) => Some(device.clone()),
            None => device_name(roots, &path).map(UsedDevice::Name),
        };
        if let (Some(device), Ok(name)) = (device, entry.file_name().into_string()) {
            loops.push((device, How::Loop { name }));
        }
    }
    loops
}

/// The kernel names of all members of mounted btrfs filesystems on the host.
fn btrfs_members(roots: &Roots) -> Vec<String> {
    let filesystems = fs::read_dir(roots.sys.join("fs/btrfs")).into_iter().flatten().flatten();
    let members = filesystems.flat_map(|one| fs::read_dir(one.path().join("devices")).into_iter().flatten().flatten());
    members.filter_map(|member| member.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn swap_is_read() {
        let table = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/sda3                               partition\t8388604\t\t0\t\t-2\n\
            /swap\\040file                          file\t\t1048572\t\t0\t\t-3\n";
        assert_eq!(swap_devices(table), [Path::new("/dev/sda3"), Path::new("/swap\\040file")]);
        assert!(swap_devices(b"Filename Type\n").is_empty());
        assert!(swap_devices(b"").is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_tables_do_not_panic(table in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = swap_devices(&table);
        }
    }
}
