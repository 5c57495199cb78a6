//! Checks whether a mounted filesystem still works. After an error, the kernel shuts a filesystem down or
//! makes it read-only, but its mounts stay: bind mounts of it look fine but do not work.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;
use quarry_volume::Filesystem;

use crate::kinds;

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

/// Checks a mounted filesystem for signs of trouble. Writes nothing, except if the filesystem may have had
/// errors and only a write shows whether it works (see [`try_write`]). Blocks if the device hangs.
#[must_use]
pub fn check_mounted(mounted: &Mounted<'_>) -> Option<Trouble> {
    check_in(mounted, &Path::new("/sys/fs").join(mounted.kind.as_str()))
}

fn check_in(mounted: &Mounted<'_>, sysfs: &Path) -> Option<Trouble> {
    let has = |word: &str| mounted.super_options.iter().any(|option| option == word);
    if has("shutdown") {
        return Some(Trouble::ShutDown("mountinfo says `shutdown`".to_owned()));
    }
    // This is the only sign of an xfs that is shut down.
    if let Err(error) = mounted.path.symlink_metadata()
        && is_failure(&error)
    {
        return Some(Trouble::ShutDown(error.to_string()));
    }
    if mounted.read_only {
        return None;
    }
    if let Some(word) = ["emergency_ro", "ro"].into_iter().find(|word| has(word)) {
        return Some(Trouble::ReadOnly(format!("mountinfo says `{word}`")));
    }
    (kinds::of(mounted.kind).hidden_trouble)(mounted, sysfs)
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
fn is_failure(error: &io::Error) -> bool {
    use libc::{EHOSTDOWN, EIO, ENODEV, ENOTCONN, ENXIO, ESHUTDOWN, ESTALE, EUCLEAN};
    matches!(error.raw_os_error(), Some(EIO | ENXIO | ENODEV | ENOTCONN | ESTALE | ESHUTDOWN | EUCLEAN | EHOSTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, options: &[&str], read_only: bool) -> Option<Trouble> {
        let super_options: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
        let mounted =
            Mounted { path, kind: Filesystem::Ext4, read_only, super_options: &super_options, device: Some("dm-3") };
        let ext4 = tempfile::tempdir().unwrap();
        std::fs::create_dir(ext4.path().join("dm-3")).unwrap();
        std::fs::write(ext4.path().join("dm-3/errors_count"), "2\n").unwrap();
        check_in(&mounted, ext4.path())
    }

    #[test]
    fn trouble_is_seen_in_the_options_of_a_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(check(path, &["rw", "errors=remount-ro"], false), None, "an error policy alone is not trouble");
        assert!(matches!(check(path, &["ro"], false), Some(Trouble::ReadOnly(_))));
        assert!(matches!(check(path, &["rw", "emergency_ro"], false), Some(Trouble::ReadOnly(_))));
        assert!(matches!(check(path, &["rw", "shutdown"], false), Some(Trouble::ShutDown(_))));
        assert_eq!(check(path, &["ro"], true), None, "read-only on purpose");
        assert!(matches!(check(path, &["ro", "shutdown"], true), Some(Trouble::ShutDown(_))));
    }

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
