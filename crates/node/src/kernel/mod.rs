//! The seam between this crate and the kernel: what the operations on volumes read from this host, and what
//! they change on it, besides the pools.
//!
//! [`Linux`] is the real host: it calls the crates `mount` and `filesystem`, which keep their guarantees. The
//! unit tests of this crate use a host in memory instead, which can be stopped before any of its changes.
//!
//! Errors already have the reason of the CSI response. Functions that are not async block, possibly for as
//! long as a disk hangs: call them on a thread of their own ([`errors::blocking`] or
//! [`Checks::run`](crate::checks::Checks::run)), except those that only read the kernel's tables.
//!
//! [`errors::blocking`]: crate::errors::blocking

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quarry_encryption::{Header, Layer};
use quarry_exec::Secret;
use quarry_filesystem::{Coverage, Probe, Superblock, Trimmed, Trouble, Usage, UuidStep};
use quarry_mount::{Device, Entry, Mapping};
use quarry_volume::{Filesystem, Gib, MakeOptions, Result, VolumeId};
use uuid::Uuid;

use crate::copy::{Meter, Rate, Tail};
use crate::tasks::Handle;
use crate::zero::Progress;

pub(crate) use linux::Linux;

mod linux;

/// The kernel of one host.
pub(crate) trait Kernel: Mounts + Filesystems + Encryptions {}

impl<T: Mounts + Filesystems + Encryptions> Kernel for T {}

/// Block devices and mounts. The functions have the semantics of those of the same name in the crate `mount`.
pub(crate) trait Mounts: Send + Sync {
    /// The number of the block device at `node`; symbolic links are followed. `None` if there is no block
    /// device. It may block if `node` is not under `/dev`.
    fn number(&self, node: &Path) -> Option<Device>;

    /// The device whose I/O a cgroup can limit for that block device: a partition has no limits of its own, so it is the
    /// disk of a partition. Reads only the kernel's tables.
    fn limited_device(&self, device: Device) -> Device;

    /// The UUID of a device-mapper device. `None` if it is not one. Reads only the kernel's tables.
    fn mapper_uuid(&self, device: Device) -> Option<String>;

    /// The node of the pool's device of an active volume, if the kernel alone can show it (see
    /// [`quarry_pool::device_in_kernel`]). `None` also if the kernel cannot be asked. Reads only the kernel's tables.
    fn active_volume(&self, id: &VolumeId) -> Option<PathBuf>;

    /// The dm-crypt device of a volume on a pool's device, if it is open. Reads only the kernel's tables.
    fn layer_on(&self, raw: &Path) -> Option<Layer>;

    /// The dm-crypt device with that name, if it is open. Reads only the kernel's tables.
    fn layer_named(&self, name: &str) -> Option<Layer>;

    /// What holds a device open, as text to append to a message; empty if no holder is visible.
    fn held_by(&self, device: &Path) -> String;

    /// The topmost mount at `target`.
    fn at(&self, target: &Path) -> Result<Option<Entry>> {
        Ok(self.all_at(target)?.into_iter().next())
    }

    /// All mounts at `target`, the topmost first.
    fn all_at(&self, target: &Path) -> Result<Vec<Entry>>;

    /// Every mount of the filesystem on that block device.
    fn mounts_of_device(&self, device: Device) -> Result<Vec<Entry>>;

    /// Every mount of the node of that block device.
    fn publications_of_block(&self, device: Device) -> Result<Vec<Entry>>;

    /// Whether this is a mount of the filesystem on that block device. Reads only the kernel's tables.
    fn is_of_device(&self, entry: &Entry, device: Device) -> bool;

    /// The number of the block device whose node this mount shows.
    fn node_device(&self, entry: &Entry) -> Option<Device>;

    /// Whether this can be a mount of a volume of any pool (see [`quarry_pool::could_be_volume`]). Reads only
    /// the kernel's tables.
    fn could_be_volume(&self, entry: &Entry) -> bool;

    /// Whether the block device of this mount is gone.
    fn is_device_gone(&self, entry: &Entry) -> bool;

    /// Checks that a filesystem can be mounted at the target.
    fn check_target(&self, target: &Path) -> Result<()>;

    /// Mounts the filesystem on a device at the target; succeeds if that is already so.
    fn mount_filesystem(&self, device: &Path, target: &Path, kind: Filesystem, options: &[String]) -> Result<()>;

    /// Binds the mount at `source` at the target; succeeds if that is already so.
    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<()>;

    /// Binds the node of a block device at the target; succeeds if that is already so.
    fn bind_device(&self, device: &Path, target: &Path) -> Result<()>;

    /// Unmounts these mounts, which are all that [`Self::all_at`] found at the target. Fails if there are others.
    fn unmount(&self, target: &Path, seen: &[Entry]) -> Result<()>;

    /// Removes the directory or the empty file that was made for a mount.
    fn remove_target(&self, target: &Path) -> Result<()>;

    /// All read-only mappings whose keys start with `key`.
    fn read_only_mappings(&self, key: &str) -> Result<Vec<Mapping>>;

    /// Whether a mapping is read-only and maps that device, or a part of it. Reads only the kernel's tables.
    fn is_read_only_mapping_of(&self, mapping: Device, device: Device) -> bool;

    /// Makes the read-only mapping of the device with that key, and returns its node. Never removes one that is published.
    fn map_read_only(&self, device: Device, key: &str) -> Result<PathBuf>;

    /// Removes the read-only mapping with that key.
    fn unmap_read_only(&self, key: &str) -> Result<()>;
}

/// Encrypted devices. The functions have the semantics of those of the same purpose in the crate `encryption`.
#[async_trait::async_trait]
pub(crate) trait Encryptions: Send + Sync {
    /// What is at the place of a LUKS2 header on a pool's device. Blocks.
    fn header(&self, raw: &Path) -> Result<Header>;

    /// Writes a header with that UUID to a blank device, or over one with this UUID that no key opens. `name`: that of the
    /// dm-crypt device.
    async fn format_encrypted(&self, raw: &Path, uuid: Uuid, name: &str, passphrase: &Secret) -> Result<()>;

    /// Gives the copied header on a device that UUID. `name`: that of the dm-crypt device.
    async fn set_header_uuid(&self, raw: &Path, uuid: Uuid, name: &str) -> Result<()>;

    /// Opens the device as the dm-crypt device with that name.
    async fn open_encrypted(&self, raw: &Path, name: &str, passphrase: &Secret, discards: bool) -> Result<()>;

    /// Gives the dm-crypt device with that name the size that the device below it allows.
    async fn resize_encrypted(&self, raw: &Path, name: &str) -> Result<()>;

    /// Closes a dm-crypt device. Unused logical volumes in it that the host activated do not prevent that.
    async fn close_encrypted(&self, layer: &Layer) -> Result<()>;

    /// Removes an unfinished dm-crypt device with that name, which a killed cryptsetup left on a pool's device. Blocks.
    fn remove_unfinished(&self, raw: &Path, name: &str) -> Result<()>;

    /// Opens a pool's device exclusively, of which the dm-crypt device would have that name. Blocks.
    fn hold_encrypted(&self, raw: &Path, name: &str) -> Result<Arc<dyn HeldDevice>>;
}

/// The contents of block devices. The functions have the semantics of those of the same name in the crate
/// `filesystem`.
#[async_trait::async_trait]
pub(crate) trait Filesystems: Send + Sync {
    /// The superblock of a filesystem of that kind on the device.
    async fn superblock(&self, kind: Filesystem, device: &Path) -> Result<Option<Superblock>>;

    /// What the device contains.
    async fn probe(&self, device: &Path) -> Result<Probe>;

    /// Makes a filesystem on a device, which is probed again while it is held exclusively.
    async fn make(&self, kind: Filesystem, device: &Path, uuid: &str, options: &MakeOptions) -> Result<()>;

    /// Checks a complete filesystem before it is adopted.
    async fn check_before_adoption(&self, kind: Filesystem, device: &Path) -> Result<()>;

    /// Opens a device exclusively.
    fn exclusive(&self, device: &Path) -> Result<Arc<dyn HeldDevice>>;

    /// Copies one device to another, which is held exclusively. See [`Job::run`](crate::copy::Job::run).
    async fn copy(&self, copy: DeviceCopy, handle: &Handle, progress: &mut dyn Progress) -> Result<()>;

    /// What has to be done so that a copied filesystem has that UUID.
    async fn uuid_step(&self, kind: Filesystem, device: &Path, uuid: Uuid) -> Result<UuidStep>;

    /// Replays the journal of a copied filesystem: mounts it with these options where only this process sees it, and
    /// unmounts it.
    async fn recover(&self, kind: Filesystem, device: &Path, options: &'static [&'static str]) -> Result<()>;

    /// Sets the UUID of a copied filesystem whose journal was replayed, and flushes it.
    async fn set_uuid(&self, kind: Filesystem, device: &Path, uuid: Uuid) -> Result<()>;

    /// The problem of a mounted filesystem of that kind, if it shows one.
    fn check_mounted(&self, kind: Filesystem, entry: &Entry) -> Option<Trouble>;

    /// The problem of a mounted filesystem that a write shows.
    fn try_write(&self, path: &Path) -> Option<Trouble>;

    /// How full the mounted filesystem is.
    fn usage(&self, path: &Path) -> Result<Usage>;

    /// The size of a block device in bytes.
    fn device_size(&self, device: &Path) -> Result<u64>;

    /// How much of its device the filesystem uses that is mounted there.
    fn coverage(&self, kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage>;

    /// Grows the filesystem that is mounted writable there until it covers its device.
    async fn grow(&self, kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage>;

    /// Discards the unused blocks in a range of the bytes of a mounted filesystem. `None`: this mount is not there any
    /// more.
    fn trim(&self, entry: &Entry, bytes: Range<u64>) -> Result<Option<Trimmed>>;
}

/// A device that is held exclusively: until this value is dropped, nothing else mounts, formats or wipes it.
pub(crate) trait HeldDevice: Send + Sync {
    /// Zeroes everything that a probe could recognize, and flushes.
    fn wipe_signatures(&self) -> Result<()>;

    /// Zeroes these bytes; not flushed.
    fn zero_range(&self, bytes: Range<u64>) -> Result<()>;

    /// Flushes all writes to the disk, and drops the cached pages, so that the next read gets what the disk has: after a
    /// write that failed, the cache has what the disk does not have, and a flush succeeds.
    fn flush(&self) -> io::Result<()>;
}

/// A copy from one device to another.
pub(crate) struct DeviceCopy {
    /// The device that is read.
    pub(crate) source: PathBuf,
    /// The size that it must have, in bytes.
    pub(crate) size: u64,
    /// Whether it is held exclusively, too: it is not a snapshot.
    pub(crate) offline: bool,
    /// The device that is filled.
    pub(crate) target: PathBuf,
    /// How much was copied and flushed by earlier calls.
    pub(crate) start: Gib,
    /// What becomes of the target beyond the contents.
    pub(crate) tail: Tail,
    /// Whether the target reads as zeros wherever this copy has not written: see [`crate::copy::Job::zeroed_target`].
    pub(crate) zeroed_target: bool,
    /// The filesystem that is copied, and the UUID that the copy gets already on the way, if it is of a kind whose UUID
    /// can be changed there.
    pub(crate) filesystem: Option<(Filesystem, Uuid)>,
    /// The limits of its speed.
    pub(crate) rates: Vec<Rate>,
    /// Shows how far it is.
    pub(crate) meter: Meter,
    /// The call that continues it if it is stopped, for messages.
    pub(crate) retry: &'static str,
}
