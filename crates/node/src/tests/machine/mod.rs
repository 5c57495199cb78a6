//! A machine in memory: its devices, its mounts and its directories, which outlive the processes that run on
//! it.
//!
//! A [`Process`] is the kernel as one run of Quarry uses it. It counts its effects (everything that changes
//! the machine), so that a test can kill it before any of them, or make foreign data appear there. A change
//! that Quarry must never make is recorded as a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quarry_filesystem::Probe;
use quarry_mount::{Device, Entry};
use quarry_volume::Filesystem;

pub(super) use process::{Plan, Process};

mod filesystems;
mod mounts;
mod process;

/// The directory of all targets.
pub(super) const KUBELET: &str = "/kubelet";

/// A machine. All clones are the same one.
#[derive(Clone)]
pub(super) struct Machine {
    state: Arc<Mutex<State>>,
}

/// What a device contains, as far as a probe can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// What a previous owner left, with a signature.
    Remnants,
    /// No signature.
    Blank,
    /// A filesystem. `data`: a user has written files.
    Filesystem { kind: Filesystem, uuid: String, in_progress: bool, data: bool },
    /// A signature that neither Quarry nor a previous owner wrote.
    Foreign,
}

/// The bytes of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) content: Content,
    /// How many bytes from the start are zeroed.
    pub(super) zeroed: u64,
}

/// The device of a volume.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) number: Device,
    pub(super) size: u64,
    /// Whether its node exists.
    pub(super) active: bool,
    pub(super) bytes: Bytes,
    /// What a power cut leaves.
    pub(super) durable: Bytes,
    /// Whether the pool's record says `ready`.
    pub(super) ready: bool,
    /// The process that holds it exclusively.
    holder: Option<u64>,
    /// The mkfs that runs on it, which can outlive its process: what it makes.
    mkfs: Option<(Filesystem, String)>,
    /// Whether the kernel has shut its mounted filesystem down.
    shut_down: bool,
}

/// A read-only mapping.
#[derive(Clone)]
struct Mapped {
    number: Device,
    of: Device,
    /// Whether it has a table; sysfs does not show it before.
    complete: bool,
}

/// What is at a path on the host's own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

#[derive(Clone, Default)]
pub(super) struct State {
    /// By node.
    pub(super) disks: BTreeMap<PathBuf, Disk>,
    /// By key.
    mappings: BTreeMap<String, Mapped>,
    pub(super) paths: BTreeMap<PathBuf, Kind>,
    /// In the order in which they were mounted.
    pub(super) mounts: Vec<Entry>,
    /// Whether sysfs shows which volume a device is, as for LVM; otherwise only the pool knows.
    pub(super) sysfs_names_volumes: bool,
    /// Targets that a program uses.
    pub(super) busy: BTreeSet<PathBuf>,
    /// The next effect of that name fails.
    pub(super) fails: Option<&'static str>,
    /// What was done that must never be done.
    pub(super) violations: Vec<String>,
    /// The effects of all processes.
    pub(super) effects: Vec<String>,
    /// How many filesystems were made.
    pub(super) made: usize,
    numbers: u64,
}

/// The node of the volume with that name.
pub(super) fn node(volume: &str) -> PathBuf {
    Path::new("/dev/machine").join(volume)
}

impl Machine {
    pub(super) fn new(sysfs_names_volumes: bool) -> Self {
        let paths = BTreeMap::from([(PathBuf::from(KUBELET), Kind::Directory)]);
        let state = State { paths, sysfs_names_volumes, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Ends every mkfs that outlived its process: it completes its filesystem, or is killed.
    pub(super) fn end_orphans(&self, completes: bool) {
        for disk in self.state().disks.values_mut() {
            if let Some((kind, uuid)) = disk.mkfs.take().filter(|_| completes) {
                disk.bytes.content = Content::Filesystem { kind, uuid, in_progress: false, data: false };
            }
        }
    }

    /// Whether an mkfs runs on any device.
    pub(super) fn has_orphans(&self) -> bool {
        self.state().disks.values().any(|disk| disk.mkfs.is_some())
    }

    /// Loses everything that is not on a disk.
    pub(super) fn cut_power(&self) {
        let mut state = self.state();
        state.mounts.clear();
        state.mappings.clear();
        for disk in state.disks.values_mut() {
            (disk.active, disk.mkfs, disk.holder) = (false, None, None);
            disk.bytes = disk.durable.clone();
        }
    }

    /// A mount that is not Quarry's, of a device that is not Quarry's.
    pub(super) fn mount_foreign(&self, target: &Path) -> Entry {
        let mut state = self.state();
        let device = Device { major: 8, minor: 1 };
        state.paths.insert(target.to_owned(), Kind::Directory);
        state.mount(target, device, "/", "ext4", Path::new("/dev/sda1"))
    }

    /// The kernel shuts the filesystem of a volume down.
    pub(super) fn shut_down(&self, volume: &str) {
        if let Some(disk) = self.state().disks.get_mut(&node(volume)) {
            disk.shut_down = true;
        }
    }

    /// The superblock of a volume is lost, so that a probe finds nothing.
    pub(super) fn lose_superblock(&self, volume: &str) {
        if let Some(disk) = self.state().disks.get_mut(&node(volume)) {
            disk.bytes.content = Content::Blank;
            disk.durable = disk.bytes.clone();
        }
    }

    /// The volume contains a complete filesystem with that UUID.
    pub(super) fn set_filesystem(&self, volume: &str, kind: Filesystem, uuid: &str) {
        if let Some(disk) = self.state().disks.get_mut(&node(volume)) {
            disk.bytes.content = Content::Filesystem { kind, uuid: uuid.to_owned(), in_progress: false, data: false };
            disk.durable = disk.bytes.clone();
        }
    }

    /// See [`State::write_foreign`].
    pub(super) fn write_foreign(&self) -> bool {
        self.state().write_foreign()
    }

    /// A pod writes files to the mounted filesystem of a volume.
    pub(super) fn write_files(&self, volume: &str) {
        let mut state = self.state();
        let Some(disk) = state.disks.get_mut(&node(volume)) else { panic!("{volume} does not exist") };
        let Content::Filesystem { data, .. } = &mut disk.bytes.content else { panic!("{:?}", disk.bytes) };
        *data = true;
        disk.durable = disk.bytes.clone();
    }
}

impl Disk {
    pub(super) fn new(number: Device, size: u64, bytes: Bytes) -> Self {
        let (active, ready, shut_down, durable) = (false, false, false, bytes.clone());
        Self { number, size, active, bytes, durable, ready, holder: None, mkfs: None, shut_down }
    }
}

impl State {
    /// A number that no other device or mount has.
    pub(super) fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// The mounts at a target, the topmost first.
    pub(super) fn at(&self, target: &Path) -> Vec<Entry> {
        self.mounts.iter().rev().filter(|entry| entry.target == target).cloned().collect()
    }

    /// Adds a mount.
    fn mount(&mut self, target: &Path, device: Device, root: &str, fstype: &str, source: &Path) -> Entry {
        let words = || vec!["rw".to_owned()];
        let entry = Entry {
            id: self.next(),
            parent: 1,
            device,
            root: root.into(),
            target: target.to_owned(),
            options: words(),
            fstype: fstype.to_owned(),
            source: source.to_owned(),
            super_options: words(),
        };
        self.mounts.push(entry.clone());
        entry
    }

    /// The block device whose node a mount shows.
    pub(super) fn node_device(&self, entry: &Entry) -> Option<Device> {
        let name = entry.root.to_str()?.strip_prefix("/dm-").filter(|_| entry.fstype == "devtmpfs")?;
        Some(Device { major: MAPPER, minor: name.parse().ok()? })
    }

    /// Whether there is any read-only mapping, complete or not.
    pub(super) fn has_mappings(&self) -> bool {
        !self.mappings.is_empty()
    }

    /// Whether there is a complete read-only mapping.
    pub(super) fn is_mapped(&self) -> bool {
        self.mappings.values().any(|mapped| mapped.complete)
    }

    /// The device that a complete read-only mapping maps.
    pub(super) fn mapped(&self, mapping: Device) -> Option<Device> {
        self.mappings.values().find(|mapped| mapped.complete && mapped.number == mapping).map(|mapped| mapped.of)
    }

    /// The disk with that number.
    fn disk(&self, number: Device) -> Option<&Disk> {
        self.disks.values().find(|disk| disk.number == number)
    }

    /// Whether something holds the disk, so that no other process can get exclusive access.
    pub(super) fn is_claimed(&self, disk: &Disk) -> bool {
        disk.holder.is_some()
            || disk.mkfs.is_some()
            || self.mounts.iter().any(|entry| entry.device == disk.number)
            || self.mappings.values().any(|mapping| mapping.complete && mapping.of == disk.number)
    }

    /// Foreign data appears on every device that a foreign program can open exclusively. Returns whether
    /// there was one.
    fn write_foreign(&mut self) -> bool {
        let free: Vec<PathBuf> =
            self.disks.iter().filter(|(_, disk)| !self.is_claimed(disk)).map(|(node, _)| node.clone()).collect();
        for node in &free {
            if let Some(disk) = self.disks.get_mut(node) {
                disk.bytes = Bytes { content: Content::Foreign, zeroed: 0 };
                disk.durable = disk.bytes.clone();
            }
        }
        !free.is_empty()
    }

    /// Changes the bytes of a disk, which must not be a user's.
    fn overwrite(&mut self, node: &Path, what: &str, change: impl FnOnce(&mut Bytes)) {
        let Some(disk) = self.disks.get_mut(node) else { return };
        let used = matches!(disk.bytes.content, Content::Filesystem { data: true, .. });
        let mut violation = None;
        if used || disk.ready {
            violation = Some(format!("{what} of a volume that is in use: {:?}", disk.bytes));
        }
        change(&mut disk.bytes);
        self.violations.extend(violation);
    }

    fn flush(&mut self, node: &Path) {
        if let Some(disk) = self.disks.get_mut(node) {
            disk.durable = disk.bytes.clone();
        }
    }
}

/// The major number of all devices of volumes.
pub(super) const MAPPER: u64 = 253;

/// What a probe reports.
fn probe(content: &Content) -> Probe {
    match content {
        Content::Remnants => Probe::Other { what: "what a previous owner left".to_owned() },
        Content::Blank => Probe::Blank,
        Content::Filesystem { kind, uuid, in_progress, .. } => {
            Probe::Filesystem { kind: *kind, uuid: uuid.clone(), label: None, in_progress: *in_progress }
        }
        Content::Foreign => Probe::Other { what: "foreign data".to_owned() },
    }
}
