//! The devices of volumes: their contents and their holders.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use quarry_exec as exec;
use quarry_filesystem::{Coverage, Error, Probe};
use quarry_mount::Device;
use quarry_volume::{Filesystem, Result};
use uuid::Uuid;

use super::State;

/// The contents of a device, as far as a probe can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tests) enum Content {
    /// Remnants of a previous owner, with a signature.
    Remnants,
    /// No signature.
    Blank,
    /// A filesystem. `data`: a user has written files.
    Filesystem { kind: Filesystem, uuid: String, in_progress: bool, data: bool },
    /// A filesystem with a complete superblock, of which other parts are missing.
    Damaged { kind: Filesystem, uuid: String },
    /// A signature that neither Quarry nor a previous owner wrote.
    Foreign,
    /// A part of the contents of another device.
    PartialCopy,
}

/// The bytes of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tests) struct Bytes {
    pub(in crate::tests) content: Content,
    /// How many bytes from the start are zeroed.
    pub(in crate::tests) zeroed: u64,
    /// Where a previous owner left signatures.
    pub(in crate::tests) signatures: Vec<u64>,
    /// The size of the filesystem, if there is one.
    pub(in crate::tests) filesystem: u64,
    /// Stands for what users have written.
    pub(in crate::tests) version: u64,
    /// How many bytes from the start are copied from another device.
    pub(in crate::tests) copied: u64,
    /// Whether its filesystem is as after a power cut.
    pub(in crate::tests) is_dirty: bool,
}

impl Bytes {
    /// No signature is left, and nothing is zeroed.
    fn of(content: Content) -> Self {
        let (signatures, zeroed, filesystem, version, copied, is_dirty) = Default::default();
        Self { content, zeroed, signatures, filesystem, version, copied, is_dirty }
    }

    /// Those of a previous owner, on a device of that size.
    pub(in crate::tests) fn remnants(size: u64) -> Self {
        Self { signatures: vec![0, size.saturating_sub(512)], ..Self::of(Content::Remnants) }
    }

    /// Zeroes everything that a probe could recognize.
    pub(super) fn wipe(&mut self) {
        self.signatures.clear();
        self.content = Content::Blank;
    }

    /// Zeroes a range, in which nothing of the current owner is.
    pub(super) fn zero(&mut self, range: &Range<u64>) {
        if range.start <= self.zeroed {
            self.zeroed = self.zeroed.max(range.end);
        }
        self.signatures.retain(|at| !range.contains(at));
        if self.signatures.is_empty() && (range.start == 0 || self.content == Content::Remnants) {
            self.content = Content::Blank;
        }
    }
}

/// The device of a volume.
#[derive(Clone)]
pub(in crate::tests) struct Disk {
    pub(in crate::tests) number: Device,
    pub(in crate::tests) size: u64,
    /// Whether its node exists.
    pub(in crate::tests) active: bool,
    pub(in crate::tests) bytes: Bytes,
    /// The bytes that survive every power cut.
    pub(in crate::tests) durable: Bytes,
    /// Whether the pool's record says `ready`.
    pub(in crate::tests) ready: bool,
    /// The UUID of the LUKS2 header on it.
    pub(super) header: Option<Uuid>,
    /// The process that has claimed it (`O_EXCL`).
    pub(super) claim: Option<u64>,
    /// The process that has locked its node, which excludes only other processes of Quarry.
    pub(super) lock: Option<u64>,
    /// The mkfs that runs on it, which can outlive its process and has inherited the lock.
    pub(super) mkfs: Option<Mkfs>,
    /// Whether the kernel has shut its mounted filesystem down.
    pub(super) shut_down: bool,
    /// Whether the kernel has made its mounted filesystem read-only.
    pub(super) made_read_only: bool,
}

/// A running mkfs.
#[derive(Clone)]
pub(super) struct Mkfs {
    kind: Filesystem,
    uuid: String,
    /// Whether it has written the complete superblock, which it does last.
    wrote_superblock: bool,
}

impl Content {
    /// The result of a probe.
    pub(super) fn probe(&self) -> Probe {
        let filesystem = |kind: &Filesystem, uuid: &String, in_progress: bool| Probe::Filesystem {
            kind: *kind,
            uuid: uuid.clone(),
            label: None,
            in_progress,
        };
        match self {
            Self::Remnants => Probe::Other { what: "what a previous owner left".to_owned() },
            Self::Blank => Probe::Blank,
            Self::Filesystem { kind, uuid, in_progress, .. } => filesystem(kind, uuid, *in_progress),
            Self::Damaged { kind, uuid } => filesystem(kind, uuid, false),
            Self::Foreign => Probe::Other { what: "foreign data".to_owned() },
            Self::PartialCopy => Probe::Other { what: "a part of a copy".to_owned() },
        }
    }
}

impl Disk {
    pub(in crate::tests) fn new(number: Device, size: u64, bytes: Bytes) -> Self {
        let (active, ready, durable) = (false, false, bytes.clone());
        let (shut_down, made_read_only) = (false, false);
        let (header, claim, lock, mkfs) = Default::default();
        Self { number, size, active, bytes, durable, ready, header, claim, lock, mkfs, shut_down, made_read_only }
    }

    /// Whether an mkfs runs on it.
    pub(in crate::tests) fn has_mkfs(&self) -> bool {
        self.mkfs.is_some()
    }

    /// The mkfs writes its complete superblock.
    pub(super) fn write_superblock(&mut self) {
        if let Some(mkfs) = self.mkfs.as_mut().filter(|mkfs| !mkfs.wrote_superblock) {
            mkfs.wrote_superblock = true;
            let (kind, uuid) = (mkfs.kind, mkfs.uuid.clone());
            self.bytes.content = Content::Filesystem { kind, uuid, in_progress: false, data: false };
            self.bytes.filesystem = self.size;
        }
    }

    /// The mkfs completes its filesystem, or is killed.
    pub(super) fn end_mkfs(&mut self, completes: bool) {
        if completes {
            self.write_superblock();
        }
        self.mkfs = None;
    }

    /// The power fails. If `written_back` is set, the kernel had written back what was not flushed. Of an xfs,
    /// some may be missing nevertheless: mkfs.xfs flushes nothing before it writes the complete superblock.
    pub(super) fn lose_power(&mut self, written_back: bool) {
        (self.active, self.mkfs, self.claim, self.lock) = (false, None, None, None);
        if !written_back {
            self.bytes = self.durable.clone();
        } else if let Content::Filesystem { kind: Filesystem::Xfs, uuid, in_progress: false, .. } = &self.bytes.content
            && self.bytes != self.durable
            && self.bytes.copied == 0
        {
            self.bytes.content = Content::Damaged { kind: Filesystem::Xfs, uuid: uuid.clone() };
        }
        self.durable = self.bytes.clone();
    }
}

impl State {
    /// The disk with that number.
    pub(super) fn disk(&self, number: Device) -> Option<&Disk> {
        self.disks.values().find(|disk| disk.number == number)
    }

    /// The active disk at a node.
    pub(super) fn opened(&self, device: &Path) -> Result<&Disk, Error> {
        self.disks.get(device).filter(|disk| disk.active).ok_or_else(|| Error::Io {
            attempted: "open",
            path: device.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Whether its filesystem is mounted.
    pub(super) fn is_mounted(&self, disk: &Disk) -> bool {
        self.mounts.iter().any(|entry| self.is_of(entry, disk.number))
    }

    /// Whether its node is published.
    pub(super) fn is_published(&self, disk: &Disk) -> bool {
        self.mounts.iter().any(|entry| self.node_device(entry) == Some(disk.number))
    }

    /// Whether a program has claimed the disk: a process of Quarry, or an mkfs. mkfs.btrfs holds its claim only
    /// while it checks the device.
    pub(super) fn is_claimed_by_program(&self, disk: &Disk) -> bool {
        disk.claim.is_some() || disk.mkfs.as_ref().is_some_and(|mkfs| mkfs.kind != Filesystem::Btrfs)
    }

    /// Whether anything has claimed the disk, so that no program can claim it.
    fn is_claimed(&self, disk: &Disk) -> bool {
        self.is_claimed_by_program(disk)
            || self.is_mounted(disk)
            || self.is_loaded(disk.number)
            || self.is_encryption_open(disk.number)
    }

    /// Whether anything has the disk open, so that its pool can neither deactivate nor remove it.
    pub(in crate::tests) fn is_open(&self, disk: &Disk) -> bool {
        self.is_claimed(disk) || disk.lock.is_some() || disk.mkfs.is_some()
    }

    /// Gives a process the lock and the claim.
    pub(super) fn hold(&mut self, device: &Path, process: u64) -> Result<(), Error> {
        let disk = self.opened(device)?;
        if self.is_open(disk) {
            return Err(Error::Busy { attempted: "get exclusive access to", device: device.to_owned() });
        }
        if let Some(disk) = self.disks.get_mut(device) {
            (disk.lock, disk.claim) = (Some(process), Some(process));
        }
        Ok(())
    }

    /// An mkfs starts, and claims the device.
    pub(super) fn start_mkfs(&mut self, device: &Path, kind: Filesystem, uuid: &str) -> Result<(), Error> {
        let disk = self.opened(device)?;
        let problem = match disk.bytes.content {
            _ if self.is_claimed(disk) => Some("the device is in use"),
            Content::Blank => None,
            // It asks only at a terminal.
            _ if kind == Filesystem::Ext4 => None,
            _ => Some("the device appears to contain something"),
        };
        if let Some(problem) = problem {
            let (command, stderr) = (format!("mkfs.{kind}"), problem.to_owned());
            let source = exec::Error::Failed { command, code: 1, stderr };
            return Err(Error::Mkfs { kind, device: device.to_owned(), source });
        }
        let (uuid, data) = (uuid.to_owned(), false);
        self.overwrite(device, "mkfs", |bytes| {
            bytes.content = match kind {
                // Only xfs has a superblock before it is complete.
                Filesystem::Xfs => Content::Filesystem { kind, uuid: uuid.clone(), in_progress: true, data },
                Filesystem::Ext4 | Filesystem::Btrfs => Content::Blank,
            };
        });
        self.made += 1;
        if let Some(disk) = self.disks.get_mut(device) {
            disk.mkfs = Some(Mkfs { kind, uuid, wrote_superblock: false });
        }
        Ok(())
    }

    /// Foreign data appears on every device that a foreign program can claim. Returns whether there was one.
    pub(super) fn write_foreign(&mut self) -> bool {
        let free = |disk: &Disk| !self.is_claimed(disk) && disk.mkfs.is_none();
        let free: Vec<PathBuf> =
            self.disks.iter().filter(|(_, disk)| free(disk)).map(|(node, _)| node.clone()).collect();
        for node in &free {
            if let Some(disk) = self.disks.get_mut(node) {
                disk.bytes = Bytes::of(Content::Foreign);
                disk.durable = disk.bytes.clone();
            }
        }
        !free.is_empty()
    }

    /// Changes the bytes of a disk, which must not be a user's.
    pub(super) fn overwrite(&mut self, node: &Path, what: &str, change: impl FnOnce(&mut Bytes)) {
        let mounted = self.disks.get(node).is_some_and(|disk| self.is_mounted(disk));
        if mounted {
            self.violation(format!("{what} of a device that is mounted"));
        }
        let Some(disk) = self.disks.get_mut(node) else { return };
        // A copy is not used before it is ready.
        let used = matches!(disk.bytes.content, Content::Filesystem { data: true, .. }) && disk.bytes.copied == 0;
        let mut violation = None;
        if used || disk.ready {
            violation = Some(format!("{what} of a volume that is in use: {:?}", disk.bytes));
        }
        change(&mut disk.bytes);
        self.violations.extend(violation);
    }

    /// How much of its device the filesystem at `mounted` covers.
    pub(super) fn coverage(&mut self, device: &Path, mounted: &Path) -> Result<Coverage, Error> {
        let disk = self.opened(device)?;
        let (size, filesystem, number) = (disk.size, disk.bytes.filesystem, disk.number);
        if !self.at(mounted).first().is_some_and(|entry| self.is_of(entry, number)) {
            self.violation(format!("measured what is not mounted at {}", mounted.display()));
        }
        Ok(Coverage { device: size, filesystem, possible: size, groups: 0, obstacle: None })
    }

    /// The filesystem that is mounted at `mounted` grows to a size. The kernel journals that.
    pub(super) fn grow(&mut self, device: &Path, mounted: &Path, size: u64) {
        let Some(disk) = self.disks.get(device) else { return };
        let entry = self.at(mounted).into_iter().next().filter(|entry| self.is_of(entry, disk.number));
        let problem = match (&disk.bytes.content, entry) {
            _ if size < disk.bytes.filesystem => Some("made a filesystem smaller"),
            _ if size > disk.size => Some("grew a filesystem beyond its device"),
            (_, None) => Some("grew a filesystem that is not mounted"),
            (_, Some(entry)) if entry.read_only() => Some("grew a filesystem through a read-only mount"),
            (Content::Filesystem { in_progress: false, .. }, _) => None,
            _ => Some("grew what is not a filesystem"),
        };
        self.violations.extend(problem.map(str::to_owned));
        if let Some(disk) = self.disks.get_mut(device) {
            (disk.bytes.filesystem, disk.durable.filesystem) = (size, size);
        }
    }

    pub(super) fn flush(&mut self, node: &Path) {
        if let Some(disk) = self.disks.get_mut(node) {
            disk.durable = disk.bytes.clone();
        }
    }

    /// The writes since the last flush failed, and another process got the error: what is cached goes.
    pub(super) fn forget_cached(&mut self, node: &Path) {
        if let Some(disk) = self.disks.get_mut(node) {
            disk.bytes = disk.durable.clone();
        }
    }
}
