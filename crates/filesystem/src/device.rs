//! Block devices: their size, and exclusive access.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::Error;

/// The size of a block device in bytes.
///
/// # Errors
/// It cannot be opened, is not a block device, or has a size of 0.
pub fn device_size(device: &Path) -> Result<u64, Error> {
    let file = File::open(device).map_err(|source| Error::io("open", device, source))?;
    match quarry_block::size(&file).map_err(|source| Error::io("read the size of", device, source))? {
        0 => Err(Error::NoSize { device: device.to_owned() }),
        size => Ok(size),
    }
}

/// A device that is held exclusively: until this value is dropped, nothing else mounts, formats or wipes it.
/// Reads and writes go through it.
///
/// It has two locks, because neither is enough:
/// * the kernel's claim (`O_EXCL`), which excludes mounts, device-mapper, md and other claims. Every mkfs
///   takes its own claim, so Quarry cannot hold one while mkfs runs; and mkfs.btrfs (seen with btrfs-progs
///   6.2) takes it only to check the device, and then writes without it, so an orphaned mkfs.btrfs would go
///   unnoticed;
/// * a lock on the device's node (an open file description lock), which mkfs inherits
///   ([`Self::release_claim`]): it is free only when this process and every mkfs that it started have ended.
#[derive(Debug)]
pub struct Exclusive {
    claim: File,
    lock: OwnedFd,
}

impl Exclusive {
    /// Releases the kernel's claim so that a program that writes to the device (mkfs, cryptsetup) can take it, and
    /// returns the lock that the program inherits.
    #[must_use]
    pub fn release_claim(self) -> OwnedFd {
        self.lock
    }
}

impl Deref for Exclusive {
    type Target = File;

    fn deref(&self) -> &File {
        &self.claim
    }
}

/// A device whose lock is held, without the kernel's claim: see [`Exclusive`]. No program that Quarry started works on
/// it.
#[derive(Debug)]
pub struct Locked {
    device: PathBuf,
    lock: OwnedFd,
}

impl Locked {
    /// The lock alone, for a program that inherits it.
    #[must_use]
    pub fn into_lock(self) -> OwnedFd {
        self.lock
    }

    /// Takes the kernel's claim, too.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is mounted or something else holds it.
    pub fn claim(self) -> Result<Exclusive, Error> {
        let flags = if safeguards() { libc::O_EXCL } else { 0 };
        let claim = open(&self.device, flags).map_err(|source| not_exclusive(&self.device, source))?;
        Ok(Exclusive { claim, lock: self.lock })
    }
}

/// Opens a device exclusively: before a wipe, before mkfs, and before the filesystem of an earlier mkfs is
/// adopted (that mkfs may still be writing).
///
/// # Errors
/// [`Error::Busy`] if it is mounted or something else holds it.
pub fn exclusive(device: &Path) -> Result<Exclusive, Error> {
    // The lock first: a process that holds the lock without the claim is about to start mkfs.
    lock(device)?.claim()
}

/// Takes the lock of a device, to remove what a program that was killed left on it before [`Locked::claim`].
///
/// # Errors
/// [`Error::Busy`] if a program that Quarry started still works on it.
pub fn lock(device: &Path) -> Result<Locked, Error> {
    let lock = OwnedFd::from(open(device, 0).map_err(|source| Error::io(EXCLUSIVELY, device, source))?);
    if safeguards() {
        let whole = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).map_err(|errno| not_exclusive(device, errno.into()))?;
    }
    Ok(Locked { device: device.to_owned(), lock })
}

/// What an attempt to hold a device is called in messages.
const EXCLUSIVELY: &str = "get exclusive access to";

fn open(device: &Path, flags: i32) -> std::io::Result<File> {
    File::options().read(true).write(true).custom_flags(flags).open(device)
}

fn not_exclusive(device: &Path, source: std::io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EAGAIN | libc::EACCES) => {
            Error::Busy { attempted: EXCLUSIVELY, device: device.to_owned() }
        }
        _ => Error::io(EXCLUSIVELY, device, source),
    }
}

/// Whether devices are really held: a test shows what happens if they are not.
fn safeguards() -> bool {
    !quarry_fault::disabled("exclusive")
}

/// Opens a device of which another part is in use, to write to these bytes of it. Nothing else that uses this function,
/// or [`exclusive`], gets any of them until the file is closed, which is not before its last write has ended.
///
/// # Errors
/// [`Error::Busy`] if something else has got some of them.
pub fn exclusive_range(device: &Path, bytes: Range<u64>) -> Result<File, Error> {
    let attempted = "get exclusive access to a part of";
    let file = File::options().read(true).write(true).open(device);
    let file = file.map_err(|source| Error::io(attempted, device, source))?;
    let signed = |bytes: u64| libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    let part = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: signed(bytes.start),
        // 0 would be all bytes.
        l_len: signed(bytes.end.saturating_sub(bytes.start).max(1)),
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&part)).map_err(|errno| match errno {
        Errno::EAGAIN | Errno::EACCES => Error::Busy { attempted, device: device.to_owned() },
        errno => Error::io(attempted, device, errno),
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The lock works on any file. The kernel's claim works only on devices; the tests that need root cover
    // it.
    #[test]
    fn only_one_holder_gets_a_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = exclusive(file.path()).unwrap();
        assert!(matches!(exclusive(file.path()), Err(Error::Busy { .. })));
        // The lock outlives the claim, until its last holder drops it.
        let lock = first.release_claim();
        let inherited = lock.try_clone().unwrap();
        drop(lock);
        assert!(matches!(exclusive(file.path()), Err(Error::Busy { .. })));
        drop(inherited);
        exclusive(file.path()).unwrap();
    }

    #[test]
    fn parts_of_a_device_are_locked_separately() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let part = |bytes| exclusive_range(file.path(), bytes);
        let first = part(4096..8192).unwrap();
        assert!(matches!(part(8191..9000), Err(Error::Busy { .. })));
        assert!(matches!(exclusive(file.path()), Err(Error::Busy { .. })));
        part(0..4096).unwrap();
        // A write that has not ended keeps the file.
        let writing = first.try_clone().unwrap();
        drop(first);
        assert!(matches!(part(4096..4097), Err(Error::Busy { .. })));
        drop(writing);
        part(4096..8192).unwrap();
    }

    #[test]
    fn the_size_of_something_other_than_a_device_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(device_size(file.path()), Err(Error::Io { .. })));
        assert!(matches!(device_size(Path::new("/no/such/device")), Err(Error::Io { .. })));
    }
}
