//! Whether a mounted filesystem still serves. After an error the kernel shuts a filesystem down or refuses further writes,
//! and its mounts stay where they are: what is built on them looks whole, and is not.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc;
use quarry_volume::Filesystem;

use crate::kinds;

/// Why a mounted filesystem does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is shut down, or its disk is gone: nothing can be read or written. The kernel's answer, in words.
    ShutDown(String),
    /// It was made read-only after an error. What showed it, in words.
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

/// What mountinfo says of a mount.
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

/// Looks for signs of trouble. Writes nothing, but where ext4 has counted errors ([`try_write`]). Blocks where the device does.
#[must_use]
pub fn signs(mounted: &Mounted<'_>) -> Option<Trouble> {
    signs_in(mounted, &Path::new("/sys/fs").join(mounted.kind.as_str()))
}

fn signs_in(mounted: &Mounted<'_>, sysfs: &Path) -> Option<Trouble> {
    let has = |word: &str| mounted.super_options.iter().any(|option| option == word);
    if has("shutdown") {
        return Some(Trouble::ShutDown("mountinfo says `shutdown`".to_owned()));
    }
    // xfs answers nothing else when it is shut down.
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

/// Tries whether a file can be made, with one that has no name and is gone when this returns. Nobody sees it, and no folder
/// changes. A full filesystem is not in trouble. Blocks where the device does.
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

/// Whether a dead filesystem answers so.
fn is_failure(error: &io::Error) -> bool {
    use libc::{EHOSTDOWN, EIO, ENODEV, ENOTCONN, ENXIO, ESHUTDOWN, ESTALE, EUCLEAN};
    matches!(error.raw_os_error(), Some(EIO | ENXIO | ENODEV | ENOTCONN | ESTALE | ESHUTDOWN | EUCLEAN | EHOSTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(path: &Path, options: &[&str], read_only: bool) -> Option<Trouble> {
        let super_options: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
        let mounted =
            Mounted { path, kind: Filesystem::Ext4, read_only, super_options: &super_options, device: Some("dm-3") };
        let ext4 = tempfile::tempdir().unwrap();
        std::fs::create_dir(ext4.path().join("dm-3")).unwrap();
        std::fs::write(ext4.path().join("dm-3/errors_count"), "2\n").unwrap();
        signs_in(&mounted, ext4.path())
    }

    #[test]
    fn the_options_of_a_filesystem_tell_of_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(look(path, &["rw", "errors=remount-ro"], false), None, "errors alone, of which it has recovered");
        assert!(matches!(look(path, &["ro"], false), Some(Trouble::ReadOnly(_))));
        assert!(matches!(look(path, &["rw", "emergency_ro"], false), Some(Trouble::ReadOnly(_))));
        assert!(matches!(look(path, &["rw", "shutdown"], false), Some(Trouble::ShutDown(_))));
        assert_eq!(look(path, &["ro"], true), None, "read-only on purpose");
        assert!(matches!(look(path, &["ro", "shutdown"], true), Some(Trouble::ShutDown(_))));
    }

    #[test]
    fn trying_to_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let before = folder.path().metadata().unwrap().modified().unwrap();
        assert_eq!(try_write(folder.path()), None);
        assert_eq!(folder.path().metadata().unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // Not in trouble, though nothing can be made there.
        assert_eq!(try_write(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn what_a_dead_filesystem_answers_is_told_from_what_a_full_one_does() {
        let is = |errno: i32| is_failure(&io::Error::from_raw_os_error(errno));
        assert!(is(libc::EIO) && is(libc::ESHUTDOWN) && is(libc::EUCLEAN) && is(libc::ENXIO));
        assert!(!is(libc::ENOSPC) && !is(libc::EDQUOT) && !is(libc::EACCES) && !is(libc::EROFS));
    }
}
