//! Asking the kernel for a disk alone.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::find::{Disk, Error, Roots, open_with};

/// Whether a disk could be had alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Nobody else had it at that moment.
    Yes,
    /// It is mounted somewhere, a part of something, or another program has it to itself.
    Held,
    /// That could not be found out.
    Unknown {
        /// Why, in words that go on after "it", or a sentence of their own.
        why: String,
    },
}

/// Asks for a disk alone, and gives it back at once.
///
/// This sees what no table shows: mounts outside of this container, a program that works on the disk (mkfs, a virtual
/// machine, mdadm). The kernel keeps one exclusive holder of a disk and its partitions; and programs that do without it,
/// as virtual machines do, lock the node, which is looked at too. A program that only has the disk open is not seen: the
/// kernel tells nobody of it.
///
/// Others that want the disk alone in that moment are refused, and so is our own claim: one asks under the pool's turn.
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

/// Whether no program holds a lock on any part of the file. Asks only: a lock of our own would be in others' way.
fn unlocked(file: &File) -> Alone {
    let mut lock = libc::flock {
        // What would be in the way of a write lock: any lock.
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
