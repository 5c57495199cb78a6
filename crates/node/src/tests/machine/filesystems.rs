//! The contents of the machine's devices. Each function does what its counterpart in the crate `filesystem`
//! documents, in the same steps.

use std::future::pending;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem::{Coverage, Error, Probe, Superblock, Trimmed, Trouble, Usage, UuidStep};
use quarry_mount::Entry;
use quarry_volume::{Filesystem, MakeOptions, Result};
use uuid::Uuid;

use super::copy::RECOVER;
use super::{Bytes, Content, Disk, Process, State};
use crate::errors;
use crate::kernel::{DeviceCopy, Filesystems, HeldDevice};
use crate::tasks::Handle;
use crate::zero::Progress;

/// How long a process waits before it looks again whether zeroing has stalled.
pub(super) const STALL: Duration = Duration::from_millis(1);

/// A device that a process holds.
pub(super) struct Held {
    pub(super) process: Process,
    pub(super) device: PathBuf,
    /// Whether the caller closes it, which must not happen on a thread of the runtime: that may block.
    pub(super) closing_blocks: bool,
}

impl Held {
    /// Releases the claim and keeps the lock.
    fn release_claim(&self) {
        let mut state = self.process.machine.state();
        if let Some(disk) = state.disks.get_mut(&self.device) {
            disk.claim.take_if(|holder| *holder == self.process.inner.id);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release_claim();
        let mut state = self.process.machine.state();
        if self.closing_blocks && self.process.is_alive() && tokio::runtime::Handle::try_current().is_ok() {
            state.violation("closed a device on a thread of the runtime");
        }
        if let Some(disk) = state.disks.get_mut(&self.device) {
            disk.lock.take_if(|holder| *holder == self.process.inner.id);
        }
    }
}

impl HeldDevice for Held {
    fn wipe_signatures(&self) -> Result<()> {
        self.process.effect("wipe", |state| {
            state.overwrite(&self.device, "wipe", Bytes::wipe);
        });
        self.process.effect("flush", |state| state.flush(&self.device));
        Ok(())
    }

    fn zero_range(&self, range: Range<u64>) -> Result<()> {
        while self.process.read(|state| state.stalled) {
            std::thread::sleep(STALL);
        }
        if self.process.read(|state| state.is_full) {
            let (path, source) = (self.device.clone(), io::Error::from_raw_os_error(nix::libc::ENOSPC));
            return Err(errors::zeroing(quarry_filesystem::Error::Io { attempted: "zero", path, source }));
        }
        self.process.effect("zero", |state| {
            state.overwrite(&self.device, "zeroing", |bytes| bytes.zero(&range));
        });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.process.effect("flush", |state| match state.lost_writes {
            true => state.forget_cached(&self.device),
            false => state.flush(&self.device),
        });
        Ok(())
    }
}

impl Process {
    /// An effect of an asynchronous function: a dead process never returns from it.
    pub(super) async fn changes<T>(&self, what: &str, work: impl FnOnce(&mut State) -> T) -> T {
        self.pause().await;
        match self.try_effect(what, work) {
            Some(result) => result,
            None => pending().await,
        }
    }

    /// The contents of a device, for an asynchronous function.
    async fn contents(&self, device: &Path) -> Result<Content> {
        self.before_device_read();
        match self.try_read(|state| state.opened(device).map(|disk| disk.bytes.content.clone())) {
            Some(content) => content.map_err(errors::filesystem),
            None => pending().await,
        }
    }
}

#[async_trait::async_trait]
impl Filesystems for Process {
    async fn superblock(&self, kind: Filesystem, device: &Path) -> Result<Option<Superblock>> {
        let content = self.contents(device).await?;
        self.saw(device, content.probe());
        Ok(match content {
            Content::Filesystem { kind: found, uuid, in_progress, .. } if found == kind => {
                Some(Superblock { uuid, in_progress })
            }
            Content::Damaged { kind: found, uuid } if found == kind => Some(Superblock { uuid, in_progress: false }),
            _ => None,
        })
    }

    async fn probe(&self, device: &Path) -> Result<Probe> {
        let found = self.contents(device).await?.probe();
        self.saw(device, found.clone());
        Ok(found)
    }

    async fn make(&self, kind: Filesystem, device: &Path, uuid: &str, _options: &MakeOptions) -> Result<()> {
        let own = |found: &Probe| matches!(found, Probe::Filesystem { uuid: other, .. } if other == uuid);
        // The crate probes again, but the caller must not rely on it.
        match self.last_seen(device) {
            Some(Probe::Blank) => {}
            Some(Probe::Filesystem { in_progress: true, uuid: found, .. }) if found == uuid => {}
            seen => self.machine.state().violation(format!("mkfs was requested on a device that contains {seen:?}")),
        }
        self.machine.state().hold(device, self.inner.id).map_err(errors::filesystem)?;
        let held = Held { process: self.clone(), device: device.to_owned(), closing_blocks: false };
        match self.contents(device).await?.probe() {
            Probe::Blank => {}
            found @ Probe::Filesystem { in_progress: true, .. } if own(&found) => {
                self.changes("wipe", |state| {
                    state.overwrite(device, "wipe", Bytes::wipe);
                })
                .await;
                self.changes("flush", |state| state.flush(device)).await;
            }
            found if own(&found) => {
                let device = device.to_owned();
                return Err(errors::filesystem(Error::Busy { attempted: "make a filesystem on", device }));
            }
            found => {
                let (device, found) = (device.to_owned(), found.description());
                return Err(errors::filesystem(Error::NotBlank { device, found }));
            }
        }
        // mkfs claims the device itself, so a foreign program can be faster.
        held.release_claim();
        let started = self.changes("start mkfs", |state| state.start_mkfs(device, kind, uuid)).await;
        started.map_err(errors::filesystem)?;
        let step = |change: fn(&mut Disk)| move |state: &mut State| state.disks.get_mut(device).map(change);
        self.changes("write superblock", step(Disk::write_superblock)).await;
        self.changes("end mkfs", step(|disk| disk.end_mkfs(true))).await;
        drop(held);
        self.changes("flush", |state| state.flush(device)).await;
        match self.contents(device).await?.probe() {
            found @ Probe::Filesystem { in_progress: false, .. } if own(&found) => Ok(()),
            found => {
                let (device, found) = (device.to_owned(), found.description());
                Err(errors::filesystem(Error::Unverified { kind, device, found }))
            }
        }
    }

    async fn check_before_adoption(&self, kind: Filesystem, device: &Path) -> Result<()> {
        match self.contents(device).await? {
            Content::Damaged { .. } => Err(errors::filesystem(Error::Damaged { kind, device: device.to_owned() })),
            _ => Ok(()),
        }
    }

    fn exclusive(&self, device: &Path) -> Result<Arc<dyn HeldDevice>> {
        // Not an effect: the access ends with the process.
        self.read(|_| ());
        self.machine.state().hold(device, self.inner.id).map_err(errors::filesystem)?;
        Ok(Arc::new(Held { process: self.clone(), device: device.to_owned(), closing_blocks: true }))
    }

    async fn copy(&self, copy: DeviceCopy, handle: &Handle, progress: &mut dyn Progress) -> Result<()> {
        self.copy_device(copy, handle, progress).await
    }

    async fn uuid_step(&self, kind: Filesystem, device: &Path, uuid: Uuid) -> Result<UuidStep> {
        self.copied_filesystem_step(kind, device, &uuid.to_string()).await
    }

    async fn recover(&self, kind: Filesystem, device: &Path, options: &'static [&'static str]) -> Result<()> {
        assert_eq!(options, RECOVER);
        self.recover_copy(kind, device).await
    }

    async fn set_uuid(&self, kind: Filesystem, device: &Path, uuid: Uuid) -> Result<()> {
        self.change_uuid(kind, device, &uuid.to_string()).await
    }

    fn check_mounted(&self, _kind: Filesystem, entry: &Entry) -> Option<Trouble> {
        let mounted = |state: &State| state.disks.values().find(|disk| state.is_of(entry, disk.number)).cloned();
        let disk = self.read(mounted)?;
        if disk.shut_down {
            return Some(Trouble::ShutDown("as configured".to_owned()));
        }
        // A mount that is read-only on purpose does not show it.
        (disk.made_read_only && !entry.read_only()).then(|| Trouble::ReadOnly("as configured".to_owned()))
    }

    fn try_write(&self, _path: &Path) -> Option<Trouble> {
        self.read(|_| None)
    }

    fn usage(&self, _path: &Path) -> Result<Usage> {
        self.read(|_| ());
        Ok(Usage { total: 100, available: 60, used: 40, inodes: 10, inodes_free: 6, inodes_used: 4 })
    }

    fn device_size(&self, device: &Path) -> Result<u64> {
        let size = |state: &State| state.size_of(state.number(device)?);
        self.read(size).ok_or_else(|| errors::filesystem(Error::NoSize { device: device.to_owned() }))
    }

    fn coverage(&self, _kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage> {
        self.read(|_| ());
        self.machine.state().coverage(device, mounted).map_err(errors::filesystem)
    }

    async fn grow(&self, _kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage> {
        let measure = || self.machine.state().coverage(device, mounted).map_err(errors::filesystem);
        let before = measure()?;
        if before.is_complete() {
            return Ok(before);
        }
        // Group by group.
        let half = before.filesystem.midpoint(before.device);
        let started = self.changes("start growth", |state| {
            if state.fails.take_if(|fails| *fails == "grow").is_some() {
                let (attempted, source) =
                    ("grow the ext4 filesystem that is mounted at", io::Error::other("as configured"));
                return Err(Error::Io { attempted, path: mounted.to_owned(), source });
            }
            state.grow(device, mounted, half);
            Ok(())
        });
        started.await.map_err(errors::filesystem)?;
        self.changes("end growth", |state| state.grow(device, mounted, before.device)).await;
        measure()
    }

    fn trim(&self, entry: &Entry, bytes: Range<u64>) -> Result<Option<Trimmed>> {
        // It has the directory open meanwhile.
        let opened = self.machine.state().begin_trim(entry);
        if !opened {
            return Ok(None);
        }
        while self.read(|state| state.stalled) {
            std::thread::sleep(STALL);
        }
        let trimmed = self.effect("trim", |state| state.end_trim(entry, bytes));
        trimmed.map(Some).map_err(errors::filesystem)
    }
}
