//! A host made of files, for tests: sysfs, `/dev`, udev's database and the kernel's tables.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use quarry_mount::Device;
use tempfile::TempDir;

use super::{Disk, FoundDisks, Roots, Transport, Udev, find};

/// A host in a temporary folder.
pub(crate) struct Host {
    folder: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(host.path("sys/block")).unwrap();
        host.write("proc/self/mountinfo", "22 1 0:22 / / rw - overlay overlay rw\n");
        host.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
        host
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn roots(&self) -> Roots {
        let root = |name: &str| self.path(name);
        Roots { sys: root("sys"), dev: root("dev"), run: root("run"), proc: root("proc") }
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// Adds a disk of 1 GiB whose folder in sysfs is `devices/PATH`. The last part is its name.
    pub(crate) fn disk(&self, sysfs_path: &str, number: &str) -> Folder<'_> {
        let name = Path::new(sysfs_path).file_name().unwrap().to_str().unwrap().to_owned();
        let folder = Folder { host: self, path: format!("sys/devices/{sysfs_path}"), name: name.clone() };
        for (attribute, text) in [
            ("size", "2097152"),
            ("ro", "0"),
            ("removable", "0"),
            ("hidden", "0"),
            ("diskseq", "7"),
            ("queue/logical_block_size", "512"),
            ("queue/physical_block_size", "4096"),
            ("queue/rotational", "0"),
            ("queue/zoned", "none"),
        ] {
            folder.set(attribute, text);
        }
        folder.set("dev", number);
        fs::create_dir_all(self.path(&format!("{}/holders", folder.path))).unwrap();
        self.link(&format!("sys/block/{name}"), &format!("../devices/{sysfs_path}"));
        self.write(&format!("dev/{}", name.replace('!', "/")), "");
        folder
    }

    pub(crate) fn found(&self) -> FoundDisks {
        find(&self.roots()).unwrap()
    }

    /// Every disk. None may have failed.
    pub(crate) fn disks(&self) -> Vec<Disk> {
        let found = self.found();
        assert!(found.failed.is_empty(), "{:?}", found.failed);
        found.disks
    }

    /// The only disk.
    pub(crate) fn only(&self) -> Disk {
        let [disk] = <[Disk; 1]>::try_from(self.disks()).unwrap();
        disk
    }
}

/// A disk's folder in sysfs.
pub(crate) struct Folder<'a> {
    host: &'a Host,
    path: String,
    name: String,
}

impl Folder<'_> {
    pub(crate) fn set(&self, attribute: &str, text: &str) -> &Self {
        self.host.write(&format!("{}/{attribute}", self.path), format!("{text}\n"));
        self
    }

    pub(crate) fn remove(&self, attribute: &str) -> &Self {
        fs::remove_file(self.host.path(&format!("{}/{attribute}", self.path))).unwrap();
        self
    }

    pub(crate) fn partition(&self, name: &str, index: u32, number: &str) -> &Self {
        self.set(&format!("{name}/partition"), &index.to_string()).set(&format!("{name}/dev"), number);
        self.host.write(&format!("dev/{name}"), "");
        self
    }

    /// Adds a device that is built on the disk or on a partition of it: `sda1/holders/md0`.
    pub(crate) fn holder(&self, place: &str) -> &Self {
        fs::create_dir_all(self.host.path(&format!("{}/{place}", self.path))).unwrap();
        self
    }

    pub(crate) fn by_id(&self, link: &str) -> &Self {
        self.host.link(&format!("dev/disk/by-id/{link}"), &format!("../../{}", self.name));
        self
    }
}

/// A disk without any problem, for tests that need no host.
pub(crate) fn blank(name: &str) -> Disk {
    Disk {
        name: name.to_owned(),
        node: PathBuf::from("/dev").join(name),
        number: Device { major: 8, minor: 16 },
        sequence: Some(7),
        model: Some("Model".to_owned()),
        serial: Some("Serial".to_owned()),
        wwn: None,
        by_id: vec![format!("scsi-{name}")],
        by_path: Vec::new(),
        size: 1 << 30,
        logical_sector: 512,
        physical_sector: 512,
        rotational: false,
        transport: Transport::Scsi,
        read_only: false,
        removable: false,
        zoned: false,
        multipath: false,
        udev: Udev::Current,
        holders: Vec::new(),
        partitions: Vec::new(),
        uses: Vec::new(),
        same_as: Vec::new(),
    }
}
