//! Snapshots, and copies from one device to another.

use std::future::pending;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use quarry_filesystem::UuidStep;
use quarry_mount::{Attempt, Device};
use quarry_volume::{Error, Filesystem, Gib, Reason, Result};

use super::filesystems::Held;
use super::{Bytes, Content, Disk, MAPPER, Process, State, node};
use crate::copy::Tail;
use crate::errors;
use crate::kernel::DeviceCopy;
use crate::tasks::Handle;
use crate::zero::Progress;

/// How much is copied at once. The progress is stored at every GiB.
const CHUNK: u64 = 512 << 20;

/// The node of the snapshot with that name.
pub(in crate::tests) fn snapshot_node(snapshot: &str) -> PathBuf {
    node(&format!("snapshot {snapshot}"))
}

impl State {
    /// Begins a snapshot of a volume. It does not have the bytes of one instant yet.
    pub(in crate::tests) fn begin_snapshot(&mut self, snapshot: &str, volume: &str) {
        let number = Device { major: MAPPER, minor: self.next() };
        let size = self.disks.get(&node(volume)).map_or(0, |disk| disk.size);
        self.disks.insert(snapshot_node(snapshot), Disk::new(number, size, Bytes::remnants(size)));
    }

    /// The snapshot has the bytes of this instant, and nothing writes to it.
    pub(in crate::tests) fn complete_snapshot(&mut self, snapshot: &str, volume: &str) {
        let Some(source) = self.disks.get(&node(volume)) else {
            return self.violation("a snapshot without its source");
        };
        // A btrfs has no journal that must be replayed.
        let has_journal = !matches!(source.bytes.content, Content::Filesystem { kind: Filesystem::Btrfs, .. });
        let bytes = Bytes { is_dirty: has_journal && self.is_mounted(source), ..source.bytes.clone() };
        let Some(disk) = self.disks.get_mut(&snapshot_node(snapshot)) else { return };
        (disk.durable, disk.bytes, disk.ready) = (bytes.clone(), bytes, true);
    }

    /// Whether no other mounted device has a filesystem with the same UUID as this one.
    pub(super) fn has_own_uuid(&self, device: &Path) -> bool {
        let uuid = |disk: &Disk| match &disk.bytes.content {
            Content::Filesystem { uuid, .. } => Some(uuid.clone()),
            _ => None,
        };
        let Some(own) = self.disks.get(device).and_then(uuid) else { return true };
        let mut others = self.disks.iter().filter(|(node, disk)| *node != device && self.is_mounted(disk));
        !others.any(|(_, disk)| uuid(disk).as_ref() == Some(&own))
    }

    fn copy(
        &mut self,
        source: &Path,
        target: &Path,
        range: &Range<u64>,
        new_uuid: Option<&String>,
    ) -> Result<(), quarry_filesystem::Error> {
        let from = self.opened(source)?;
        let mounted = self.is_mounted(from) || self.is_published(from);
        let (from, size, ready) = (from.bytes.clone(), from.size, from.ready);
        if !ready {
            self.violation("copied a snapshot that is not complete");
        }
        if mounted {
            self.violation("copied a device while a pod may use it");
        }
        if range.end > size {
            self.violation("copied more than the source has");
        }
        let before = self.disks.get(target).map(|disk| disk.bytes.clone());
        if range.start > 0 && before.is_some_and(|before| before.version != from.version) {
            self.violation("mixed the contents of two instants");
        }
        let mut gap = false;
        self.overwrite(target, "copying", |bytes| {
            bytes.signatures.retain(|at| !range.contains(at));
            gap = range.start > bytes.copied;
            if range.start == 0 {
                bytes.zeroed = 0;
            }
            bytes.copied = if range.start == 0 { range.end } else { bytes.copied.max(range.end) };
            bytes.version = from.version;
            if bytes.copied >= size {
                (bytes.content, bytes.filesystem) = (from.content, from.filesystem);
                (bytes.zeroed, bytes.is_dirty) = (from.zeroed, from.is_dirty);
                bytes.signatures.extend(from.signatures);
                if let (Content::Filesystem { uuid, .. }, Some(new)) = (&mut bytes.content, new_uuid) {
                    uuid.clone_from(new);
                }
            } else {
                bytes.content = Content::PartialCopy;
            }
        });
        if gap {
            self.violation("left a gap in a copy");
        }
        Ok(())
    }

    /// Changes the copied filesystem of a kind on a device.
    fn change_copy(&mut self, kind: Filesystem, device: &Path, what: &str, change: impl FnOnce(&mut Bytes)) {
        let Some(disk) = self.disks.get(device) else { return };
        let found = match &disk.bytes.content {
            Content::Filesystem { kind, in_progress: false, .. } | Content::Damaged { kind, .. } => Some(*kind),
            _ => None,
        };
        let problem = match found {
            _ if disk.ready || self.is_mounted(disk) => Some(format!("{what} of a volume that is in use")),
            Some(found) if found == kind => None,
            _ => Some(format!("{what}: {kind} is not on the device")),
        };
        self.violations.extend(problem);
        if let Some(disk) = self.disks.get_mut(device) {
            change(&mut disk.bytes);
        }
    }
}

/// The mount options of a recovery.
pub(super) const RECOVER: &[&str] = &["recover"];

impl Process {
    /// The steps of a copy.
    pub(super) async fn copy_device(
        &self,
        copy: DeviceCopy,
        handle: &Handle,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let DeviceCopy { source, size, offline, target, start, tail, filesystem, .. } = copy;
        let opened = self.try_read(|state| state.opened(&source).map(|disk| disk.size));
        let Some(opened) = opened else { return pending().await };
        assert_eq!(opened.map_err(errors::filesystem)?, size);
        let hold = |device: &Path| -> Result<Held> {
            self.machine.state().hold(device, self.inner.id).map_err(errors::filesystem)?;
            Ok(Held { process: self.clone(), device: device.to_owned(), closing_blocks: false })
        };
        let _held = if offline { Some(hold(&source)?) } else { None };
        let _target = hold(&target)?;
        let whole = self.machine.state().disks.get(&target).map_or(0, |disk| disk.size);
        // Only the superblocks of btrfs have to change.
        let uuid = filesystem.filter(|(kind, _)| *kind == Filesystem::Btrfs).map(|(_, uuid)| uuid.to_string());
        let total = if tail == Tail::Zero { whole } else { size };
        let mut offset = start.bytes().min(total);
        while offset < total {
            handle.progress(format!("copied {offset} of {total} bytes"));
            while self.try_read(|state| state.stalled).unwrap_or_default() && !handle.cancel.is_cancelled() {
                tokio::time::sleep(super::filesystems::STALL).await;
            }
            if handle.cancel.is_cancelled() {
                return Err(Error::new(Reason::UnderWay, "the copy was stopped"));
            }
            if self.machine.state().fails.take_if(|fails| *fails == "copy").is_some() {
                return Err(Error::host("the copy fails as configured"));
            }
            if offset > 0 && self.machine.state().is_full {
                let source = io::Error::from_raw_os_error(nix::libc::ENOSPC);
                return Err(crate::copy::Error::Write { device: target, offset, source }.into());
            }
            let next = (offset + CHUNK).min(if offset < size { size } else { total });
            if offset < size {
                let copied = self.changes("copy", |state| state.copy(&source, &target, &(offset..next), uuid.as_ref()));
                copied.await.map_err(errors::filesystem)?;
            } else {
                let zero = |state: &mut State| state.overwrite(&target, "zeroing", |bytes| bytes.zero(&(offset..next)));
                self.changes("zero", zero).await;
            }
            offset = next;
            if offset < total && offset.is_multiple_of(1 << 30) {
                self.changes("flush", |state| state.flush(&target)).await;
                progress.store(Gib::whole_in(offset)).await?;
            }
        }
        if tail == Tail::WipeSignatures && size < whole {
            let wipe = |state: &mut State| {
                state.overwrite(&target, "wipe", |bytes| bytes.signatures.retain(|at| *at < size));
            };
            self.changes("wipe", wipe).await;
        }
        if quarry_fault::disabled("copy-flush") {
            return Ok(());
        }
        self.changes("flush", |state| state.flush(&target)).await;
        Ok(())
    }

    /// What has to be done so that a copied filesystem has that UUID.
    pub(super) async fn copied_filesystem_step(&self, kind: Filesystem, device: &Path, uuid: &str) -> Result<UuidStep> {
        let bytes = self.try_read(|state| state.opened(device).map(|disk| disk.bytes.clone()));
        let Some(bytes) = bytes else { return pending().await };
        let bytes = bytes.map_err(errors::filesystem)?;
        match bytes.content {
            Content::Filesystem { uuid: found, .. } if found == uuid && kind == Filesystem::Btrfs => Ok(UuidStep::Done),
            Content::Filesystem { uuid: found, .. } if found == uuid && !bytes.is_dirty => Ok(UuidStep::Done),
            Content::Filesystem { .. } => Ok(UuidStep::Set {
                recover_with: bytes.is_dirty.then_some(RECOVER),
                // The checksums of an old ext4 depend on the UUID.
                repeatable: kind != Filesystem::Ext4,
            }),
            other => Err(Error::host(format!("there is no copied filesystem, but {other:?}"))),
        }
    }

    /// Replays the journal of a copied filesystem.
    pub(super) async fn recover_copy(&self, kind: Filesystem, device: &Path) -> Result<()> {
        if self.machine.state().fails.take_if(|fails| *fails == "recover").is_some() {
            return Err(errors::mount(quarry_mount::Error::Syscall {
                attempted: Attempt::Mount,
                on: device.to_owned(),
                source: Errno::EUCLEAN,
            }));
        }
        self.changes("recover", |state| state.change_copy(kind, device, "a recovery", |bytes| bytes.is_dirty = false))
            .await;
        // The unmount flushes.
        self.changes("flush", |state| state.flush(device)).await;
        Ok(())
    }

    /// The steps of a change of the UUID.
    pub(super) async fn change_uuid(&self, kind: Filesystem, device: &Path, uuid: &str) -> Result<()> {
        if self.machine.state().fails.take_if(|fails| *fails == "set UUID").is_some() {
            let (device, why) = (device.to_owned(), "as configured");
            return Err(errors::filesystem(quarry_filesystem::Error::NotCopied { kind, device, why }));
        }
        self.machine.state().hold(device, self.inner.id).map_err(errors::filesystem)?;
        let held = Held { process: self.clone(), device: device.to_owned(), closing_blocks: false };
        if kind == Filesystem::Ext4 {
            let damage = |state: &mut State| {
                state.change_copy(kind, device, "a new UUID", |bytes| {
                    bytes.content = Content::Damaged { kind, uuid: uuid.to_owned() };
                });
                // It may be written back at any time.
                state.flush(device);
            };
            self.changes("start to set UUID", damage).await;
        }
        let set = |state: &mut State| {
            state.change_copy(kind, device, "a new UUID", |bytes| {
                let data = bytes.version > 0;
                bytes.content = Content::Filesystem { kind, uuid: uuid.to_owned(), in_progress: false, data };
            });
        };
        self.changes("set UUID", set).await;
        drop(held);
        self.changes("flush", |state| state.flush(device)).await;
        Ok(())
    }
}
