//! Unmounts and removes targets, idempotently.

use std::io::ErrorKind;
use std::path::Path;

use nix::errno::Errno;

use crate::mountinfo::stack_at;
use crate::target::{PathKind, path_kind, resolve};
use crate::{Attempt, Entry, Error, holders, syscalls};

/// More stacked mounts on one target than any error could cause.
const DEEPEST_STACK: usize = 256;

/// Unmounts everything that is mounted at the target, also what the caller has not seen: see [`unmount_seen`]. Succeeds
/// if nothing is mounted or the path does not exist.
///
/// Neither forced nor lazy: after a successful unmount, nothing uses the volume through this target. A
/// filesystem that no longer responds (its device is gone) is unmounted like any other.
///
/// # Errors
/// [`Error::Busy`], with the users that this process can see; [`Error::Symlink`] if the target is a symbolic
/// link.
pub fn unmount(target: &Path) -> Result<(), Error> {
    unmount_where(target, |_| true)
}

/// Like [`unmount`], but only mounts that the caller has seen at the target (see [`crate::all_at`]) and knows to be its own:
/// mounts can be stacked, and another one may have come since.
///
/// # Errors
/// As [`unmount`]; [`Error::Foreign`] if there is another mount, even below. Nothing is unmounted then.
pub fn unmount_seen(target: &Path, seen: &[Entry]) -> Result<(), Error> {
    unmount_where(target, |entry| seen.iter().any(|seen| (seen.id, seen.device) == (entry.id, entry.device)))
}

fn unmount_where(target: &Path, is_own: impl Fn(&Entry) -> bool) -> Result<(), Error> {
    let attempted = "unmount the volume";
    let Some(target) = resolve(target)? else { return Ok(()) };
    if let Some(found) = stack_at(&target)?.iter().find(|entry| !is_own(entry)).map(Entry::to_string) {
        return Err(Error::Foreign { attempted, target, found });
    }
    for _ in 0..DEEPEST_STACK {
        if path_kind(&target)? == PathKind::Symlink {
            return Err(Error::Symlink { target });
        }
        let Some(entry) = stack_at(&target)?.into_iter().next() else { return Ok(()) };
        if !is_own(&entry) {
            let found = format!("{entry}, which was mounted there meanwhile");
            return Err(Error::Unverified { attempted: "unmounting", found, target });
        }
        quarry_fault::point(|| "mount:umount:before".to_owned());
        let result = syscalls::unmount(&target);
        quarry_fault::point(|| "mount:umount:after".to_owned());
        match result {
            Ok(()) => {}
            Err(Errno::EBUSY) => {
                let holders = holders::of(&target, entry.id);
                return Err(Error::Busy { attempted: "unmount what is", target, holders });
            }
            // Another process unmounted it first; the next iteration checks.
            Err(Errno::EINVAL | Errno::ENOENT) if stack_at(&target)?.first() != Some(&entry) => {}
            Err(source) => return Err(Error::Syscall { attempted: Attempt::Unmount, on: target, source }),
        }
    }
    Err(Error::Unverified {
        attempted: "unmounting",
        found: format!("more mounts even after {DEEPEST_STACK} of them were unmounted"),
        target,
    })
}

/// Removes the directory or the empty file that was made for a mount. Never recursive: any contents are data
/// that was written while nothing was mounted, and are kept. Succeeds if the target is missing.
///
/// # Errors
/// [`Error::NotEmpty`] if it contains data, [`Error::Busy`] if something is mounted on it,
/// [`Error::WrongKind`] or [`Error::Symlink`] if it is not something that a publish makes.
pub fn remove_target(target: &Path) -> Result<(), Error> {
    let Some(target) = resolve(target)? else { return Ok(()) };
    let found = path_kind(&target)?;
    if found != PathKind::Symlink
        && let Some(entry) = stack_at(&target)?.first()
    {
        return Err(Error::Busy { attempted: "remove the target", target, holders: format!(" by a mount of {entry}") });
    }
    let (what, remove): (_, fn(&Path) -> std::io::Result<()>) = match found {
        PathKind::Nothing => return Ok(()),
        PathKind::Directory => ("rmdir", |path| std::fs::remove_dir(path)),
        PathKind::File { len: 0 } => ("unlink", |path| std::fs::remove_file(path)),
        PathKind::File { .. } => return Err(Error::NotEmpty { target, holds: "the file has content" }),
        PathKind::Symlink => return Err(Error::Symlink { target }),
        PathKind::Other | PathKind::Unreadable => {
            return Err(Error::WrongKind { target, wanted: "an empty directory or file", found: found.words() });
        }
    };
    quarry_fault::point(|| format!("mount:{what}:before"));
    let removed = remove(&target);
    quarry_fault::point(|| format!("mount:{what}:after"));
    match removed {
        Ok(()) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(()),
            ErrorKind::DirectoryNotEmpty => Err(Error::NotEmpty { target, holds: "the directory has entries" }),
            ErrorKind::ResourceBusy => Err(Error::Busy {
                attempted: "remove the target",
                target,
                holders: " by a mount in another mount namespace".to_owned(),
            }),
            _ => Err(Error::io("remove", &target, &error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_target_is_a_success() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["missing", "missing/deep"] {
            unmount(&dir.path().join(path)).unwrap();
            remove_target(&dir.path().join(path)).unwrap();
        }
        // A directory on which nothing is mounted stays.
        unmount(dir.path()).unwrap();
        assert!(dir.path().exists());
    }

    #[test]
    fn the_target_of_a_publish_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (made, file) = (dir.path().join("d e\u{ff}"), dir.path().join("f\n"));
        std::fs::create_dir(&made).unwrap();
        std::fs::write(&file, "").unwrap();
        for path in [made, file] {
            remove_target(&path).unwrap();
            assert!(!path.exists());
        }
    }

    #[test]
    fn data_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "data").unwrap();
        assert!(matches!(remove_target(dir.path()), Err(Error::NotEmpty { .. })));
        assert!(matches!(remove_target(&file), Err(Error::NotEmpty { .. })));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    }

    #[test]
    fn a_link_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        assert!(matches!(unmount(&link), Err(Error::Symlink { .. })));
        assert!(matches!(remove_target(&link), Err(Error::Symlink { .. })));
        assert!(link.is_symlink());
    }
}
