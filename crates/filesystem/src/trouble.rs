//! Why a mounted filesystem does not work, and the attempt to write that shows it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;
use quarry_volume::Filesystem;

/// Why a mounted filesystem does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is shut down, or its disk is gone: nothing can be read or written. Contains the kernel's error or
    /// state.
    ShutDown(String),
    /// It was made read-only after an error. Contains the sign of it.
    ReadOnly(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShutDown(sign) => write!(f, "the kernel shut its filesystem down after an error ({sign})"),
            Self::ReadOnly(sign) => write!(f, "the kernel made its filesystem read-only after an error ({sign})"),
        }
    }
}

/// A mount, as mountinfo shows it.
#[derive(Clone, Copy, Debug)]
pub struct Mounted<'a> {
    /// Where it is mounted.
    pub path: &'a Path,
    /// Its filesystem.
    pub kind: Filesystem,
    /// Whether the mount was made read-only on purpose.
    pub read_only: bool,
    /// The options of the filesystem itself, the same in all of its mounts.
    pub super_options: &'a [String],
    /// The kernel's name of its device, such as `dm-3`.
    pub device: Option<&'a str>,
}

/// Tries to create a file. The file has no name and is gone when this returns, so no directory changes. A
/// full filesystem is not a failure. Blocks if the device hangs.
#[must_use]
pub fn try_write(path: &Path) -> Option<Trouble> {
    let nameless = File::options().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(path);
    let error = nameless.err()?;
    if is_failure(&error) {
        Some(Trouble::ShutDown(error.to_string()))
    } else if error.raw_os_error() == Some(libc::EROFS) {
        Some(Trouble::ReadOnly(error.to_string()))
    } else {
        None
    }
}

/// Whether this is an error that a dead filesystem returns.
pub(crate) fn is_failure(error: &io::Error) -> bool {
    use libc::{EHOSTDOWN, EIO, ENODEV, ENOTCONN, ENXIO, ESHUTDOWN, ESTALE, EUCLEAN};
    matches!(error.raw_os_error(), Some(EIO | ENXIO | ENODEV | ENOTCONN | ESTALE | ESHUTDOWN | EUCLEAN | EHOSTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_to_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let before = folder.path().metadata().unwrap().modified().unwrap();
        assert_eq!(try_write(folder.path()), None);
        assert_eq!(folder.path().metadata().unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // No trouble, although nothing can be created there.
        assert_eq!(try_write(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn errors_of_a_dead_filesystem_are_distinguished_from_those_of_a_full_one() {
        let is = |errno: i32| is_failure(&io::Error::from_raw_os_error(errno));
        assert!(is(libc::EIO) && is(libc::ESHUTDOWN) && is(libc::EUCLEAN) && is(libc::ENXIO));
        assert!(!is(libc::ENOSPC) && !is(libc::EDQUOT) && !is(libc::EACCES) && !is(libc::EROFS));
    }
}
