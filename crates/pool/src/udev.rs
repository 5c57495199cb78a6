//! Watches udev's database for new names of disks.
//!
//! The kernel reports a disk before udev has named it, and udev's own events do not leave the host's network
//! namespace. But its database is visible: a pool that selects disks by name reads them again when an entry
//! appears.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Uevents;

/// The folder of udev's database.
const DATA: &str = "/run/udev/data";
/// The kernel's devices by their numbers.
const DEVICES: &str = "/sys/dev/block";

/// Starts watching in a separate thread, and counts a disk event whenever the names of a disk have changed.
/// If that is not possible, new names are noticed a few seconds later.
pub(crate) fn listen(uevents: Uevents) {
    let mut names = Names { data: DATA.into(), devices: DEVICES.into(), known: HashMap::new() };
    let started = open(&names.data).and_then(|inotify| {
        // After the start of the watch, so that no change is missed.
        names.read_all();
        std::thread::Builder::new()
            .name("udev".to_owned())
            .spawn(move || names.run(&inotify, &uevents))
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
    });
    if let Err(error) = started {
        tracing::warn!(%error, folder = DATA, "no udev events: new names of disks are noticed a few seconds later");
    }
}

fn open(data: &Path) -> Result<Inotify, Errno> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    // udev writes a file under a temporary name, and renames it when it is complete.
    inotify.add_watch(data, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
    Ok(inotify)
}

/// The known names of each disk.
struct Names {
    data: PathBuf,
    devices: PathBuf,
    /// By its entry. udev writes the names in no order.
    known: HashMap<String, BTreeSet<String>>,
}

impl Names {
    /// Reads the names that the disks have now: only what changes later is a change.
    fn read_all(&mut self) {
        let entries = fs::read_dir(&self.data).into_iter().flatten().flatten();
        for entry in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            self.has_changed(&entry);
        }
    }

    fn run(&mut self, inotify: &Inotify, uevents: &Uevents) {
        loop {
            match inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        let entry = event.name.as_ref().and_then(|name| name.to_str());
                        // An event without a name: some events were lost.
                        if entry.is_none_or(|entry| self.has_changed(entry)) {
                            uevents.count(true);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "udev events ended: new names of disks are noticed a few seconds later");
                    return;
                }
            }
        }
    }

    /// Whether the entry belongs to a disk, and its names have changed.
    fn has_changed(&mut self, entry: &str) -> bool {
        // Only block devices, without partitions and device-mapper devices: those come and go with every
        // volume.
        let Some(number) = entry.strip_prefix('b') else { return false };
        let Ok(device) = fs::canonicalize(self.devices.join(number)) else { return false };
        // By its name: while a device-mapper device is being removed, it has no folder `dm` any more.
        let is_mapped = device.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"dm-"));
        if is_mapped || device.join("partition").exists() {
            return false;
        }
        let Ok(text) = fs::read(self.data.join(entry)) else { return false };
        let text = String::from_utf8_lossy(&text);
        let names = text.lines().filter(|line| is_name(line)).map(str::to_owned).collect();
        self.known.insert(entry.to_owned(), names).as_ref() != self.known.get(entry)
    }
}

/// Whether a line of an entry has a fact that a selector uses.
fn is_name(line: &str) -> bool {
    ["S:disk/by-id/", "S:disk/by-path/", "S:disk/by-diskseq/", "E:ID_MODEL", "E:ID_SERIAL", "E:ID_WWN"]
        .iter()
        .any(|begin| line.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_names_count() {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        for folder in ["data", "dev/8:16", "dev/8:17/partition", "block/dm-0"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        // As in sysfs. It is being removed, so it has no folder `dm`.
        std::os::unix::fs::symlink(path("block/dm-0"), path("dev/253:0")).unwrap();
        let mut names = Names { data: path("data"), devices: path("dev"), known: HashMap::new() };
        let mut changed = |entry: &str, text: &str| {
            fs::write(path("data").join(entry), text).unwrap();
            names.has_changed(entry)
        };
        assert!(changed("b8:16", "S:disk/by-id/wwn-1\nE:ID_FS_TYPE=ext4\n"), "it is new");
        assert!(!changed("b8:16", "S:disk/by-id/wwn-1\nS:disk/by-uuid/2\n"), "only its contents have changed");
        assert!(changed("b8:16", "S:disk/by-id/wwn-2\nS:disk/by-path/3\n"));
        assert!(!changed("b8:16", "S:disk/by-path/3\nS:disk/by-id/wwn-2\n"), "udev writes them in no order");
        for entry in ["b8:17", "b253:0", "b8:32", "c1:3", "+block:x"] {
            assert!(!changed(entry, "S:disk/by-id/wwn-1\n"), "{entry}");
        }
    }

    #[test]
    fn the_names_at_the_start_are_no_change() {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        fs::create_dir_all(path("dev/8:16")).unwrap();
        fs::create_dir_all(path("data")).unwrap();
        fs::write(path("data/b8:16"), "S:disk/by-id/wwn-1\n").unwrap();
        let mut names = Names { data: path("data"), devices: path("dev"), known: HashMap::new() };
        names.read_all();
        assert!(!names.has_changed("b8:16"));
        fs::write(path("data/b8:16"), "S:disk/by-id/wwn-2\n").unwrap();
        assert!(names.has_changed("b8:16"));
    }

    #[test]
    fn a_renamed_file_is_noticed() {
        let host = tempfile::tempdir().unwrap();
        let inotify = open(host.path()).unwrap();
        fs::write(host.path().join("b8:16.tmp"), "").unwrap();
        fs::rename(host.path().join("b8:16.tmp"), host.path().join("b8:16")).unwrap();
        let renamed: Vec<_> = inotify.read_events().unwrap().into_iter().filter_map(|event| event.name).collect();
        assert!(renamed.iter().any(|name| name == "b8:16"), "{renamed:?}");
        assert!(open(&host.path().join("none")).is_err());
    }
}
