//! Block devices: their size, and exclusive access.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

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
    /// Releases the kernel's claim so that mkfs can take it, and returns the lock that mkfs inherits.
    pub(crate) fn release_claim(self) -> OwnedFd {
        self.lock
    }
}

impl Deref for Exclusive {
    type Target = File;

    fn deref(&self) -> &File {
        &self.claim
    }
}

/// Opens a device exclusively: before a wipe, before mkfs, and before the filesystem of an earlier mkfs is
/// adopted (that mkfs may still be writing).
///
/// # Errors
/// [`Error::Busy`] if it is mounted or something else holds it.
pub fn exclusive(device: &Path) -> Result<Exclusive, Error> {
    let attempted = "get exclusive access to";
    let busy = || Error::Busy { attempted, device: device.to_owned() };
    let failed = |source: std::io::Error| match source.raw_os_error() {
        Some(libc::EBUSY | libc::EAGAIN | libc::EACCES) => busy(),
        _ => Error::io(attempted, device, source),
    };
    let open = |flags| File::options().read(true).write(true).custom_flags(flags).open(device);
    let safeguard = !quarry_fault::disabled("exclusive");

    // The lock first: a process that holds the lock without the claim is about to start mkfs.
    let lock = OwnedFd::from(open(0).map_err(|source| Error::io(attempted, device, source))?);
    if safeguard {
        let whole = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).map_err(|errno| failed(errno.into()))?;
    }
    let claim = open(if safeguard { libc::O_EXCL } else { 0 }).map_err(failed)?;
    Ok(Exclusive { claim, lock })
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
    fn the_size_of_something_other_than_a_device_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(device_size(file.path()), Err(Error::Io { .. })));
        assert!(matches!(device_size(Path::new("/no/such/device")), Err(Error::Io { .. })));
    }
}
