//! Finds what holds a block device open, as far as this process can see.
//!
//! The kernel lists what is built on a device (device-mapper, md, bcache), but not loop devices, swap or
//! processes. Those are checked one by one.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::mountinfo::{Device, Entry, table};

/// The maximum number of reported holders.
const MOST: usize = 5;
/// How many levels of stacked devices are followed.
const DEPTH: usize = 3;

/// Describes what holds the block device open: stacked devices, loop devices with their backing files, swap,
/// processes. Empty if nothing is visible: in a container, processes outside of it are not.
/// [`crate::mounts_of_device`] lists mounts of the device itself.
#[must_use]
pub fn holders(device: Device) -> Vec<String> {
    let Some(name) = device.kernel_name() else { return Vec::new() };
    let host = Host { sys: "/sys".into(), proc: "/proc".into(), mounts: table().unwrap_or_default() };
    let name = OsStr::new(&name);
    let mut found = host.built_on(name, DEPTH);
    found.extend(host.processes(name));
    found.truncate(MOST);
    found
}

/// The kernel's directories and the mounts.
struct Host {
    sys: PathBuf,
    proc: PathBuf,
    mounts: Vec<Entry>,
}

impl Host {
    /// The devices that are built on the device with that name, with the holders of each.
    fn built_on(&self, name: &OsStr, depth: usize) -> Vec<String> {
        let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
        let mut found: Vec<String> = Vec::new();
        for holder in names(&self.sys.join("class/block").join(name).join("holders")) {
            found.push(self.with_users(self.describe(&holder), &holder, depth));
        }
        for (device, file) in self.loops().into_iter().filter(|(_, file)| self.is(file, name)) {
            let what = format!("{} (backing file {})", device.display(), file.display());
            found.push(self.with_users(what, &device, depth));
        }
        if self.swaps().iter().any(|file| self.is(file, name)) {
            found.push("swap".to_owned());
        }
        found
    }

    /// Adds mounts and stacked devices to a device's description.
    fn with_users(&self, what: String, name: &OsStr, depth: usize) -> String {
        let mut users = self.built_on(name, depth);
        if let Some(number) = self.number(name)
            && let Some(entry) = self.mounts.iter().find(|entry| entry.is_of_device(number))
        {
            users.push(format!("the mount at {:?}", entry.target));
        }
        if users.is_empty() { what } else { format!("{what}, which is held by {}", users.join(" and ")) }
    }

    /// Describes a stacked device.
    fn describe(&self, name: &OsStr) -> String {
        let shown = name.display();
        let read = |file: &str| self.read(name, file);
        match (read("dm/name"), read("dm/uuid")) {
            (Some(mapped), Some(uuid)) if uuid.starts_with("LVM-") => format!("the logical volume {mapped} ({shown})"),
            (Some(mapped), _) => format!("the device-mapper device {mapped} ({shown})"),
            (None, _) if name.as_encoded_bytes().starts_with(b"md") => format!("the md array {shown}"),
            (None, _) => shown.to_string(),
        }
    }

    fn read(&self, name: &OsStr, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.sys.join("class/block").join(name).join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn number(&self, name: &OsStr) -> Option<Device> {
        let text = self.read(name, "dev")?;
        let (major, minor) = text.split_once(':')?;
        Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The loop devices and their backing files.
    fn loops(&self) -> Vec<(OsString, PathBuf)> {
        let file = |name: OsString| self.read(&name, "loop/backing_file").map(|file| (name, PathBuf::from(file)));
        names(&self.sys.join("class/block")).into_iter().filter_map(file).collect()
    }

    /// The devices and files that the host swaps to.
    fn swaps(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(PathBuf::from).collect()
    }

    /// Whether the path is a node of the device of that name. A node that was bind-mounted elsewhere and is gone is
    /// recognized by its name. Only paths in `/dev` are looked at: a file on a dead network mount would hang.
    fn is(&self, path: &Path, name: &OsStr) -> bool {
        self.is_by(path, name, |path| Device::of_node(path).and_then(Device::kernel_name))
    }

    /// The same. `kernel_name` looks at a path in `/dev`.
    fn is_by(&self, path: &Path, name: &OsStr, kernel_name: impl Fn(&Path) -> Option<String>) -> bool {
        let is_node = |path: &Path| {
            path.file_name() == Some(name)
                || path.starts_with("/dev") && kernel_name(path).is_some_and(|found| name == found.as_str())
        };
        // kubelet mounts the node of a raw block volume below /var, and attaches a loop device to it there.
        let mounted = || self.mounts.iter().filter(|entry| entry.is_node() && entry.target == path);
        is_node(path)
            || mounted()
                .any(|entry| is_node(&Path::new("/dev").join(entry.root.strip_prefix("/").unwrap_or(&entry.root))))
    }

    /// The processes that have the device of that name open.
    fn processes(&self, name: &OsStr) -> Vec<String> {
        let mut found = Vec::new();
        for pid in names(&self.proc).into_iter().filter(|pid| pid.as_encoded_bytes().iter().all(u8::is_ascii_digit)) {
            let process = self.proc.join(&pid);
            let open = names(&process.join("fd")).into_iter().any(|fd| {
                fs::read_link(process.join("fd").join(fd))
                    .is_ok_and(|file| file.starts_with("/dev") && self.is(&file, name))
            });
            if open {
                let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.push(format!("process {} ({})", pid.display(), command.trim()));
            }
            if found.len() >= MOST {
                break;
            }
        }
        found
    }
}

/// The names in a directory, sorted; empty if it cannot be read.
fn names(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn only_nodes_in_dev_are_looked_at() {
        let mounts = "30 1 0:5 /dm-3 /var/lib/kubelet/publish/a rw - devtmpfs udev rw\n\
                      31 1 0:5 /mapper/vg0-raw /var/lib/kubelet/publish/b rw - devtmpfs udev rw\n\
                      32 1 0:5 /dm-4 /var/lib/kubelet/publish/c rw - devtmpfs udev rw\n\
                      33 1 0:50 / /mnt/nfs rw - nfs4 server:/ rw\n";
        let host = Host { sys: PathBuf::new(), proc: PathBuf::new(), mounts: crate::parse(mounts.as_bytes()) };
        let found = |path: &str| {
            host.is_by(Path::new(path), OsStr::new("dm-3"), |path| {
                assert!(path.starts_with("/dev"), "{path:?} was looked at");
                (path == Path::new("/dev/mapper/vg0-raw")).then(|| "dm-3".to_owned())
            })
        };
        for path in ["/dev/dm-3", "/dev/mapper/vg0-raw", "/var/lib/kubelet/publish/a", "/var/lib/kubelet/publish/b"] {
            assert!(found(path), "{path}");
        }
        for path in ["/dev/dm-4", "/var/lib/kubelet/publish/c", "/var/lib/nfs/image", "/mnt/nfs/image", "/mnt/nfs"] {
            assert!(!found(path), "{path}");
        }
    }

    /// A tenant's volume group on a raw block volume, as the host sees it after kubelet detached its loop device.
    #[test]
    fn stacked_devices_are_described_up_to_the_top() {
        let root = tempfile::tempdir().unwrap();
        let (sys, proc) = (root.path().join("sys"), root.path().join("proc"));
        let block = |name: &str, under: &str, text: &str| file(sys.join("class/block").join(name).join(under), text);
        block("dm-3", "dm/name", "vg0-raw\n");
        block("loop0", "loop/backing_file", "/dev/dm-3\n");
        block("loop0", "holders/dm-5", "");
        block("loop1", "loop/backing_file", "/dev/dm-33\n");
        block("loop2", "dev", "7:2\n");
        block("dm-5", "dm/name", "tenantvg-inner\n");
        block("dm-5", "dm/uuid", "LVM-abc\n");
        block("dm-5", "dev", "253:5\n");
        block("dm-4", "holders/md127", "");
        block("dm-4", "holders/dm-6", "");
        block("md127", "dev", "9:127\n");
        block("dm-6", "dm/name", "luks-1\n");
        block("dm-6", "dm/uuid", "CRYPT-LUKS2-1\n");
        file(proc.join("swaps"), "Filename Type Size\n/dev/dm-7 partition 4\n");
        file(proc.join("12/comm"), "dd\n");
        fs::create_dir_all(proc.join("12/fd")).unwrap();
        std::os::unix::fs::symlink("/dev/dm-4", proc.join("12/fd/3")).unwrap();
        let mounted = crate::parse(b"30 1 253:5 / /mnt/inner rw - ext4 /dev/mapper/tenantvg-inner rw\n");
        let host = Host { sys, proc, mounts: mounted };

        let built = |name: &str| host.built_on(OsStr::new(name), DEPTH);
        let loop0 = "loop0 (backing file /dev/dm-3), which is held by the logical volume tenantvg-inner (dm-5), which is \
                     held by the mount at \"/mnt/inner\"";
        assert_eq!(built("dm-3"), [loop0]);
        assert_eq!(built("dm-4"), ["the device-mapper device luks-1 (dm-6)", "the md array md127"]);
        assert_eq!(built("dm-7"), ["swap"]);
        assert_eq!(built("dm-8"), Vec::<String>::new());
        assert_eq!(host.processes(OsStr::new("dm-4")), ["process 12 (dd)"]);
        assert_eq!(host.processes(OsStr::new("dm-3")), Vec::<String>::new());
    }
}
