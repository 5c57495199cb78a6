//! A machine in memory: its devices, its mounts and its directories, which outlive the processes that run on
//! it.
//!
//! A [`Process`] is the kernel as one run of Quarry uses it. It counts its effects (everything that changes
//! the machine), so that a test can kill it before any of them, or make foreign data appear there. A change
//! that Quarry must never make is recorded as a violation.
//!
//! The machine is kinder than a real one in these respects:
//! * Changes of a pool (volumes and records) and of directories are durable at once, so no test on this machine
//!   finds a missing flush after them.
//! * A power cut loses everything that was not flushed, or nothing of it. Only an xfs can lose a part of what
//!   mkfs wrote.
//! * Nothing foreign writes to a device while an mkfs runs on it. (mkfs.btrfs holds its claim only while it checks
//!   the device.) Foreign programs always claim a device before they write to it.
//! * No write to a mounted filesystem fails, and a claimed device does not show what holds it.
//! * Encrypted volumes are only used raw, and every passphrase opens them.
//! * A snapshot reads the bytes of one instant as soon as its record is `ready`, and never becomes full.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use quarry_mount::{Device, Entry};
use quarry_volume::Filesystem;

pub(super) use copy::snapshot_node;
pub(super) use disk::{Bytes, Content, Disk};
use encrypted::Opened;
use mappings::Mapped;
pub(super) use process::{Plan, Process};
pub(super) use space::{Reserved, space_node};

mod copy;
mod disk;
mod encrypted;
mod filesystems;
mod mappings;
mod mounts;
mod process;
mod space;
mod trims;

/// The directory of all targets.
pub(super) const KUBELET: &str = "/kubelet";

/// A machine. All clones are the same one.
#[derive(Clone)]
pub(super) struct Machine {
    state: Arc<Mutex<State>>,
}

/// The kind of file at a path on the host's own disk.
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
    /// The open encrypted devices, by name.
    encrypted: BTreeMap<String, Opened>,
    pub(super) paths: BTreeMap<PathBuf, Kind>,
    /// In the order in which they were mounted.
    pub(super) mounts: Vec<Entry>,
    /// The sizes of expanded volumes according to their pool, by name.
    sizes: BTreeMap<String, u64>,
    /// The space that is reserved for expansions, by volume.
    pub(super) reserved: BTreeMap<String, Reserved>,
    /// Zeroing makes no progress.
    pub(super) stalled: bool,
    /// The kernel mounts nothing.
    pub(super) refuses_mounts: bool,
    /// Whether sysfs shows which volume a device is, as for LVM; otherwise only the pool knows.
    pub(super) sysfs_names_volumes: bool,
    /// Targets that a program uses.
    pub(super) busy: BTreeSet<PathBuf>,
    /// What was trimmed, in this order.
    pub(super) trimmed: Vec<Range<u64>>,
    /// A change of the pool is running.
    pub(super) changing: bool,
    /// A disk below the pool does not answer.
    pub(super) disk_hangs: bool,
    /// The disks do not support discards.
    pub(super) no_discards: bool,
    /// The next effect of that name fails.
    pub(super) fails: Option<&'static str>,
    /// The storage of the pool has no space for zeros, or for more than the beginning of a copy.
    pub(super) is_full: bool,
    /// Whether what was written since the last flush of a device is lost, although a flush succeeds.
    pub(super) lost_writes: bool,
    /// Changes that must never be made.
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
        self.state().disks.values_mut().for_each(|disk| disk.end_mkfs(completes));
    }

    /// Whether an mkfs runs on any device.
    pub(super) fn has_orphans(&self) -> bool {
        self.state().disks.values().any(Disk::has_mkfs)
    }

    /// Whether anything on a device is not flushed.
    pub(super) fn has_unflushed_data(&self) -> bool {
        self.state().disks.values().any(|disk| disk.bytes != disk.durable)
    }

    /// Whether a power cut damaged a filesystem.
    pub(super) fn has_damage(&self) -> bool {
        self.state().disks.values().any(|disk| matches!(disk.bytes.content, Content::Damaged { .. }))
    }

    /// Loses everything that is not on a disk. `written_back`: see [`Disk::lose_power`].
    pub(super) fn cut_power(&self, written_back: bool) {
        let mut state = self.state();
        state.mounts.clear();
        state.mappings.clear();
        state.encrypted.clear();
        state.disks.values_mut().for_each(|disk| disk.lose_power(written_back));
    }

    /// A foreign program claims the device of a volume, or releases it.
    pub(super) fn set_claimed(&self, volume: &str, claimed: bool) {
        let mut state = self.state();
        let program = state.next();
        if let Some(disk) = state.disks.get_mut(&node(volume)) {
            disk.claim = claimed.then_some(program);
        }
    }

    /// The disk of a volume gets another device number.
    pub(super) fn renumber(&self, volume: &str) {
        let mut state = self.state();
        let minor = state.next();
        if let Some(disk) = state.disks.get_mut(&node(volume)) {
            disk.number.minor = minor;
        }
    }

    /// The disk of a volume is pulled while it is in use.
    pub(super) fn pull_disk(&self, volume: &str) {
        let mut state = self.state();
        let Some(disk) = state.disks.remove(&node(volume)) else { panic!("{volume} does not exist") };
        for entry in &mut state.mounts {
            if entry.root == Path::new(&format!("/dm-{}", disk.number.minor)) {
                entry.root = format!("/dm-{}//deleted", disk.number.minor).into();
            }
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

    /// The kernel makes the filesystem of a volume read-only after an error.
    pub(super) fn make_read_only(&self, volume: &str) {
        if let Some(disk) = self.state().disks.get_mut(&node(volume)) {
            disk.made_read_only = true;
        }
    }

    /// The filesystem of a volume works again.
    pub(super) fn recover(&self, volume: &str) {
        if let Some(disk) = self.state().disks.get_mut(&node(volume)) {
            (disk.shut_down, disk.made_read_only) = (false, false);
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
            disk.bytes.filesystem = disk.size;
            disk.durable = disk.bytes.clone();
        }
    }

    /// See [`State::write_foreign`].
    pub(super) fn write_foreign(&self) -> bool {
        self.state().write_foreign()
    }

    /// A pod writes to the published device of a volume.
    pub(super) fn write_raw(&self, volume: &str) {
        let mut state = self.state();
        let Some(disk) = state.disks.get_mut(&node(volume)) else { panic!("{volume} does not exist") };
        disk.bytes.version += 1;
        disk.durable = disk.bytes.clone();
    }

    /// A pod writes files to the mounted filesystem of a volume.
    pub(super) fn write_files(&self, volume: &str) {
        let mut state = self.state();
        let Some(disk) = state.disks.get_mut(&node(volume)) else { panic!("{volume} does not exist") };
        let Content::Filesystem { data, .. } = &mut disk.bytes.content else { panic!("{:?}", disk.bytes) };
        *data = true;
        disk.bytes.version += 1;
        disk.durable = disk.bytes.clone();
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

    /// Whether this is a mount of the filesystem on that block device.
    pub(super) fn is_of(&self, entry: &Entry, device: Device) -> bool {
        // A btrfs mount has an anonymous device number, so its source counts.
        let source = || entry.device.major == 0 && entry.source.is_absolute();
        entry.device == device || (source() && self.number(&entry.source) == Some(device))
    }
}

/// The major number of all devices of volumes.
pub(super) const MAPPER: u64 = 253;

/// The anonymous device numbers of btrfs mounts start above this minor number, so they differ from that of
/// devtmpfs.
const ANONYMOUS: u64 = 1000;
