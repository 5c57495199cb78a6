//! Gives a copied filesystem a UUID of its own.
//!
//! A copy has the UUID of its source. The kernel does not mount two xfs filesystems with one UUID, and takes two btrfs
//! filesystems with one UUID for one. So the copy gets its new UUID before it can be used:
//!
//! 1. [`edit_copied`] changes a btrfs while it is copied. The kernel never sees a second btrfs with the old UUID.
//! 2. [`uuid_step`] reads the copy and says what else has to be done.
//! 3. If the copy has a journal that must be replayed (it is the copy of a mounted filesystem), the caller mounts it
//!    once and unmounts it. Only the kernel replays a journal reliably.
//! 4. [`set_uuid`] sets the UUID, flushes it, and checks it.

mod btrfs;
mod ext4;
mod xfs;

use std::os::fd::OwnedFd;
use std::path::Path;

use quarry_exec::{Command, Output};
use quarry_volume::Filesystem;

use crate::kinds::{self, Checked};
use crate::make::flush;
use crate::thread::blocking;
use crate::{Error, exclusive};

pub(crate) use btrfs::BTRFS;
pub(crate) use ext4::EXT4;
pub(crate) use xfs::XFS;

/// The result of an edit, or why it cannot be made.
type Edited = Result<(), &'static str>;

/// How a filesystem of one kind gets a new UUID.
pub(crate) struct NewUuid {
    /// See [`edit_copied`].
    pub(crate) edit_copied: fn(uuid: &[u8; 16], offset: u64, bytes: &mut [u8]) -> Edited,
    /// What has to be done with a copy that does not have its UUID yet, or may not have it completely.
    pub(crate) step: fn(device: &Path, uuid: &str) -> Result<UuidStep, Error>,
    /// Sets the UUID, on a device that nothing else uses. Not flushed and not checked.
    pub(crate) set: for<'a> fn(device: &'a Path, uuid: &'a str) -> Checked<'a>,
}

/// What has to be done so that a copied filesystem has its UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UuidStep {
    /// Set the UUID with [`set_uuid`].
    Set {
        /// Before that, mount the filesystem writable with these options and unmount it, to replay its journal. This
        /// can be repeated after an interruption.
        recover_with: Option<&'static [&'static str]>,
        /// Whether [`set_uuid`] can be repeated after an interruption. If not, an interruption (by the end of the
        /// tool or a power cut) can leave a filesystem that cannot be mounted, or one that only seems complete. So
        /// the caller stores first, flushed, that the copy has to start again from its beginning, and removes that
        /// mark when [`set_uuid`] has returned.
        repeatable: bool,
    },
    /// Nothing: the filesystem has its UUID.
    Done,
}

/// What has to be done so that the filesystem on a device, the copy of another one, has this UUID. The device must
/// not be mounted.
///
/// # Errors
/// [`Error::NotCopied`] if there is no such filesystem on the device, or one that cannot get a new UUID; otherwise
/// errors of the device.
pub async fn uuid_step(kind: Filesystem, device: &Path, uuid: &str) -> Result<UuidStep, Error> {
    let uuid = uuid.to_owned();
    blocking(device, move |device| (kinds::of(kind).new_uuid.step)(device, &uuid)).await
}

/// Sets the UUID of the filesystem on a device, and returns when it is flushed to the disk. The device must not be
/// mounted, and a journal must have been replayed: see [`UuidStep`].
///
/// # Errors
/// [`Error::Busy`] if the device is in use; [`Error::NotCopied`] as for [`uuid_step`]; [`Error::UuidUnchanged`] if
/// the tool reported success, but the filesystem has another UUID (for xfs, its log was not replayed); otherwise
/// errors of the tool or the device.
pub async fn set_uuid(kind: Filesystem, device: &Path, uuid: &str) -> Result<(), Error> {
    (kinds::of(kind).new_uuid.set)(device, uuid).await?;
    blocking(device, flush).await?;
    match crate::superblock(kind, device).await? {
        Some(superblock) if superblock.uuid == uuid => Ok(()),
        found => Err(Error::UuidUnchanged {
            kind,
            device: device.to_owned(),
            found: found.map_or_else(|| "no superblock".to_owned(), |found| format!("the UUID {}", found.uuid)),
        }),
    }
}

/// Changes the UUID of a filesystem in a part of it, while it is copied: `bytes` are what was read at this offset of
/// the source. Parts that contain no superblock stay as they are. The parts must begin at multiples of 64 KiB, and
/// each but the last must be as long as a multiple of that.
///
/// Only btrfs is changed, because its superblocks are all that has to change. What is left to do for the others is
/// what [`uuid_step`] says.
///
/// # Errors
/// [`Error::Uncopyable`] if the superblock is not one that can be changed: then the copy must not be used.
pub fn edit_copied(kind: Filesystem, uuid: uuid::Uuid, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
    (kinds::of(kind).new_uuid.edit_copied)(uuid.as_bytes(), offset, bytes)
        .map_err(|why| Error::Uncopyable { kind, why })
}

/// For filesystems in which more than the superblocks depends on the UUID.
fn edit_nothing(_: &[u8; 16], _: u64, _: &mut [u8]) -> Edited {
    Ok(())
}

/// The device has no filesystem of that kind, or one that cannot get a new UUID.
fn not_copied(kind: Filesystem, device: &Path, why: &'static str) -> Error {
    Error::NotCopied { kind, device: device.to_owned(), why }
}

/// Locks the device for tools that change the UUID: see [`change`].
async fn lock(device: &Path) -> Result<OwnedFd, Error> {
    Ok(blocking(device, exclusive).await?.release_claim())
}

/// Runs a tool that changes the UUID. Like mkfs, it inherits the lock of the device, so that it is noticed if it
/// outlives this process.
async fn change(device: &Path, lock: &OwnedFd, command: Command) -> Result<Output, Error> {
    let lock = lock.try_clone().map_err(|source| Error::io("keep the lock of", device, source))?;
    let command = command.arg(device).on(device.display().to_string()).holding(lock);
    command.run().await.map_err(|source| failed(device, source))
}

fn failed(device: &Path, source: quarry_exec::Error) -> Error {
    Error::Command { attempted: "set the UUID of the filesystem on", device: device.to_owned(), source }
}
