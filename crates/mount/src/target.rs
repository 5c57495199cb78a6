//! Resolves the path of a mount target to the form that mountinfo shows.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Resolves every symbolic link among the target's ancestors (`/var/lib/kubelet` itself may be one), because mountinfo
/// shows resolved paths only. The last component is never followed. `None` when an ancestor does not exist.
pub(crate) fn resolve(target: &Path) -> Result<Option<PathBuf>, Error> {
    let invalid = |why| Error::InvalidTarget { target: target.to_owned(), why };
    if target.as_os_str().as_bytes().contains(&0) {
        return Err(invalid("it contains a NUL byte"));
    }
    if !target.is_absolute() {
        return Err(invalid("it is not absolute"));
    }
    if target.components().any(|component| component == Component::ParentDir) {
        return Err(invalid("it contains \"..\""));
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(invalid("it has no last component"));
    };
    match parent.canonicalize() {
        Ok(parent) => Ok(Some(parent.join(name))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("resolve the parent of", target, &error)),
    }
}

/// Resolves a target whose parent must exist.
pub(crate) fn resolve_existing(target: &Path) -> Result<PathBuf, Error> {
    let held = |resolved: &PathBuf| !resolved.parent().is_some_and(Path::is_file);
    resolve(target)?.filter(held).ok_or_else(|| Error::NoParent { target: target.to_owned() })
}

/// Checks that a filesystem can be mounted at the target: its parent exists, and it is a directory or
/// missing. Call this before an irreversible step that prepares the mount.
///
/// # Errors
/// The same as [`crate::mount_filesystem`].
pub fn check_target(target: &Path) -> Result<(), Error> {
    let target = resolve_existing(target)?;
    match path_kind(&target)? {
        PathKind::Nothing | PathKind::Directory | PathKind::Unreadable => Ok(()),
        PathKind::Symlink => Err(Error::Symlink { target }),
        found @ (PathKind::File { .. } | PathKind::Other) => {
            Err(Error::WrongKind { target, wanted: "a directory", found: found.words() })
        }
    }
}

/// The kind of file at a path, without following a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathKind {
    Nothing,
    Directory,
    File {
        len: u64,
    },
    Symlink,
    Other,
    /// It exists, but stat(2) fails: the root of a filesystem that is shut down or whose device is gone.
    Unreadable,
}

impl PathKind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Nothing => "missing",
            Self::Directory => "a directory",
            Self::File { len: 0 } => "an empty file",
            Self::File { .. } => "a file with content",
            Self::Symlink => "a symbolic link",
            Self::Other => "neither a directory nor a file",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Reads the kind of a resolved path.
pub(crate) fn path_kind(path: &Path) -> Result<PathKind, Error> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(PathKind::Directory),
        Ok(metadata) if metadata.is_file() => Ok(PathKind::File { len: metadata.len() }),
        Ok(metadata) if metadata.is_symlink() => Ok(PathKind::Symlink),
        Ok(_) => Ok(PathKind::Other),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(PathKind::Nothing),
        Err(error) if is_corruption(&error) => Ok(PathKind::Unreadable),
        Err(error) => Err(Error::io("check", path, &error)),
    }
}

/// Whether stat(2) returns this error on a dead filesystem.
fn is_corruption(error: &std::io::Error) -> bool {
    use nix::libc::{EHOSTDOWN, EIO, ENOTCONN, ESHUTDOWN, ESTALE, EUCLEAN};
    matches!(error.raw_os_error(), Some(EIO | ENOTCONN | ESTALE | ESHUTDOWN | EUCLEAN | EHOSTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_cannot_be_a_target_is_rejected() {
        for bad in ["", "relative/path", "/", "/a/..", "/a/../b", "/nul\0here"] {
            let error = resolve(Path::new(bad)).unwrap_err();
            assert!(matches!(error, Error::InvalidTarget { .. }), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_target_is_checked_before_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("/proc", at("link")).unwrap();
        check_target(dir.path()).unwrap();
        check_target(&at("missing")).unwrap();
        assert!(matches!(check_target(&at("missing/deep")), Err(Error::NoParent { .. })));
        assert!(matches!(check_target(&at("file/deep")), Err(Error::NoParent { .. })));
        assert!(matches!(check_target(&at("file")), Err(Error::WrongKind { .. })));
        assert!(matches!(check_target(&at("link")), Err(Error::Symlink { .. })));
        assert!(matches!(check_target(Path::new("/dev/null")), Err(Error::WrongKind { .. })));
    }

    #[test]
    fn ancestors_are_resolved_but_not_the_last_component() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.join("real/last")).unwrap();
        assert_eq!(resolve(&dir.join("link/last/")).unwrap().unwrap(), dir.join("real/last"));
        assert_eq!(resolve(&dir.join("missing/last")).unwrap(), None);
        assert_eq!(path_kind(&dir.join("real/last")).unwrap(), PathKind::Symlink);
        assert_eq!(path_kind(&dir.join("real")).unwrap(), PathKind::Directory);
        assert_eq!(path_kind(&dir.join("real/x")).unwrap(), PathKind::Nothing);
    }
}
