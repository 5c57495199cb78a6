//! Checks that nothing else uses a disk, with an exclusive open.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::find::{Disk, Error, Roots, open_with};

/// Whether a disk could be opened exclusively.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Nothing else held it at that moment.
    Yes,
    /// It is mounted, a part of another device, or held by another program.
    Held,
    /// This could not be determined.
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
pub fn alone(roots: &Roots, disk: &Disk) -> Alone {
    match open_with(roots, disk, libc::O_EXCL) {
        Ok(file) => unlocked(&file),
        Err(Error::Open { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => Alone::Held,
        Err(Error::Open { source, .. }) if source.raw_os_error() == Some(libc::ENOMEDIUM) => {
            Alone::Unknown { why: "has no medium".to_owned() }
        }
        Err(error) => Alone::Unknown { why: error.to_string() },
    }
}

/// Whether no program holds a lock on any part of the file. Only queries: taking a lock would block others.
fn unlocked(file: &File) -> Alone {
    let mut lock = libc::flock {
        // Any existing lock conflicts with a write lock.
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if i32::from(lock.l_type) == libc::F_UNLCK => Alone::Yes,
        Ok(_) => Alone::Held,
        Err(errno) => Alone::Unknown { why: format!("cannot be checked for locks: {errno}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::testing::{Host, blank};

    // The kernel's exclusive holder is a matter of devices: tested where there are some.
    #[test]
    fn a_lock_of_another_is_seen_and_none_is_left() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = || File::open(file.path()).unwrap();
        assert_eq!(unlocked(&reader()), Alone::Yes);
        for kind in [libc::F_RDLCK, libc::F_WRLCK] {
            let other = File::options().read(true).write(true).open(file.path()).unwrap();
            // As virtual machines do it: some bytes, not all.
            let lock = libc::flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: 100,
                l_len: 1,
                l_pid: 0,
            };
            fcntl(&other, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
            assert_eq!(unlocked(&reader()), Alone::Held);
            drop(other);
            assert_eq!(unlocked(&reader()), Alone::Yes);
        }
    }

    #[test]
    fn what_cannot_be_opened_is_not_alone() {
        let host = Host::new();
        host.disk("platform/block/sdb", "8:16");
        let disk = host.only();
        // A file is no node of a disk.
        assert!(matches!(alone(&host.roots(), &disk), Alone::Unknown { .. }));
        let gone = blank("quarry-no-such-disk");
        let Alone::Unknown { why } = alone(&host.roots(), &gone) else { panic!("it does not exist") };
        assert!(why.contains("/dev/quarry-no-such-disk"), "{why}");
    }
}
