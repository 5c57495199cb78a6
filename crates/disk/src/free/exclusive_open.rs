//! Checks that nothing else uses a disk, with an exclusive open.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::find::{Disk, Error, Roots, open_with};

/// Whether a disk could be opened exclusively.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExclusiveOpen {
    /// Nothing else used it at that moment.
    Possible,
    /// It is mounted, part of another device, or held by another program.
    Held,
    /// It could not be checked.
    Unknown {
        /// The reason, phrased to follow "it", or a sentence of its own.
        why: String,
    },
}

/// Opens a disk exclusively, and closes it at once.
///
/// This detects what no table shows: mounts outside this container, and programs that work on the disk (mkfs,
/// a virtual machine, mdadm). The kernel keeps one exclusive holder of a disk and its partitions. Programs
/// that do not use that, such as virtual machines, lock the device node, so locks are checked too. A program
/// that only has the disk open is not detected, because the kernel does not expose it.
///
/// Others that need the disk exclusively at that moment are refused, and so is Quarry's own claim: call this
/// under the pool's lock.
#[must_use]
pub fn try_exclusive_open(roots: &Roots, disk: &Disk) -> ExclusiveOpen {
    match open_with(roots, disk, libc::O_EXCL) {
        Ok(file) => unlocked(&file),
        Err(Error::Open { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => ExclusiveOpen::Held,
        Err(Error::Open { source, .. }) if source.raw_os_error() == Some(libc::ENOMEDIUM) => {
            ExclusiveOpen::Unknown { why: "has no medium".to_owned() }
        }
        Err(error) => ExclusiveOpen::Unknown { why: error.to_string() },
    }
}

/// Whether no program holds a lock on any part of the file. Only queries: taking a lock would block others.
fn unlocked(file: &File) -> ExclusiveOpen {
    let mut lock = libc::flock {
        // Any existing lock conflicts with a write lock.
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if i32::from(lock.l_type) == libc::F_UNLCK => ExclusiveOpen::Possible,
        Ok(_) => ExclusiveOpen::Held,
        Err(errno) => ExclusiveOpen::Unknown { why: format!("cannot be checked for locks: {errno}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::testing::{Host, blank};

    // Exclusive opens work only on block devices, so they are tested elsewhere.
    #[test]
    fn another_lock_is_detected_and_none_is_left_behind() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = || File::open(file.path()).unwrap();
        assert_eq!(unlocked(&reader()), ExclusiveOpen::Possible);
        for kind in [libc::F_RDLCK, libc::F_WRLCK] {
            let other = File::options().read(true).write(true).open(file.path()).unwrap();
            // What virtual machines do: lock some bytes, not all.
            let lock = libc::flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: 100,
                l_len: 1,
                l_pid: 0,
            };
            fcntl(&other, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
            assert_eq!(unlocked(&reader()), ExclusiveOpen::Held);
            drop(other);
            assert_eq!(unlocked(&reader()), ExclusiveOpen::Possible);
        }
    }

    #[test]
    fn a_disk_that_cannot_be_opened_is_unknown() {
        let host = Host::new();
        host.disk("platform/block/sdb", "8:16");
        let disk = host.only();
        // A regular file is not a device node.
        assert!(matches!(try_exclusive_open(&host.roots(), &disk), ExclusiveOpen::Unknown { .. }));
        let gone = blank("quarry-no-such-disk");
        let ExclusiveOpen::Unknown { why } = try_exclusive_open(&host.roots(), &gone) else {
            panic!("it does not exist")
        };
        assert!(why.contains("/dev/quarry-no-such-disk"), "{why}");
    }
}
