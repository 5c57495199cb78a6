//! Mounts filesystems at staging paths, and bind-mounts them, or devices, at publish targets.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use sys_mount::MountFlags;

use crate::context::{context_in, is_same_context};
use crate::mountinfo::{Device, Entry, stack_at};
use crate::target::{PathKind, path_kind, resolve_existing};
use crate::{Attempt, Error, options, remove_target, syscalls};

/// The longest option text that mount(2) accepts, in bytes: one page including the terminating NUL.
const DATA_MAX: usize = 4095;

/// Mounts the filesystem on a device, and creates the target directory (its parent must exist). `options` are
/// options of mount(8), one per element.
///
/// Succeeds if it is already mounted there from that device and the visible options match.
///
/// # Errors
/// [`Error::Foreign`] if something else is mounted there, [`Error::Different`] if it is mounted with other
/// options, for example read-only or with another SELinux context, [`Error::DeviceBusy`] if something holds the
/// device, [`Error::Dead`] if the mounted filesystem no longer responds; otherwise the error of the system call.
pub fn mount_filesystem(device: &Path, target: &Path, fstype: &str, options: &[String]) -> Result<(), Error> {
    let attempted = "mount the volume";
    let number = Device::of_node(device).ok_or_else(|| Error::Syscall {
        attempted: Attempt::Other("find the block device"),
        on: device.to_owned(),
        source: Errno::ENOTBLK,
    })?;
    let (flags, data) = options::split(options);
    if data.len() > DATA_MAX {
        return Err(Error::Syscall {
            attempted: Attempt::Other("pass that many options to"),
            on: device.to_owned(),
            source: Errno::E2BIG,
        });
    }
    let target = resolve_existing(target)?;
    let check = |entry: &Entry| {
        if !entry.is_of_device(number) || entry.fstype != fstype {
            return Err(Error::Foreign { attempted, target: target.clone(), found: entry.to_string() });
        }
        if path_kind(&target)? == PathKind::Unreadable {
            return Err(Error::Dead { target: target.clone() });
        }
        let (asked, found) = (options::words(flags), options::words(options::shown(&entry.options)));
        if asked != found {
            return Err(Error::Different { target: target.clone(), asked, found });
        }
        Ok(())
    };
    if let Some(entry) = top(&target)? {
        check(&entry)?;
        return check_context(&entry, context_in(options));
    }
    let made = make_directory(&target)?;
    quarry_fault::point(|| "mount:mount:before".to_owned());
    let result = syscalls::mount(device, &target, fstype, flags, &data);
    quarry_fault::point(|| "mount:mount:after".to_owned());
    if made && result.is_err() {
        // If this fails, the next call finds it.
        let _ = remove_target(&target);
    }
    match (top(&target)?, result) {
        (Some(entry), Ok(())) => check(&entry),
        (None, Ok(())) => Err(unverified("the mount", &target, "nothing")),
        (_, Err(Errno::EBUSY)) => Err(Error::DeviceBusy { device: device.to_owned(), target }),
        (_, Err(source)) => Err(Error::Syscall { attempted: Attempt::Mount, on: device.to_owned(), source }),
    }
}

/// Checks that what is mounted has the SELinux context that is asked for, if one is.
///
/// # Errors
/// [`Error::Different`]: it has another one, or none.
pub fn check_context(entry: &Entry, asked: Option<&str>) -> Result<(), Error> {
    let found = entry.context();
    let Some(asked) = asked.filter(|asked| !found.is_some_and(|found| is_same_context(found, asked))) else {
        return Ok(());
    };
    let with = |context: &str| format!("with the SELinux context {context:?}");
    Err(Error::Different {
        target: entry.target.clone(),
        asked: with(asked),
        found: found.map_or_else(|| "without an SELinux context".to_owned(), with),
    })
}

/// Bind-mounts a mount (a staged volume) at a target, and creates the target directory (its parent must
/// exist).
///
/// A read-only bind takes two system calls; if Quarry is killed between them, a retry completes it. A
/// complete writable bind cannot be distinguished from such a half-made bind, so it becomes read-only too,
/// unless files are open for writing.
///
/// # Errors
/// [`Error::NotMounted`] if nothing is mounted at the source, [`Error::Foreign`] if something else is mounted
/// at the target, [`Error::Different`] if the volume is bound there read-only and should be writable, or the
/// reverse while it is in use, [`Error::Dead`] if the source no longer responds; otherwise the error of the
/// system call. On an error, this call leaves nothing at the target.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), Error> {
    let attempted = "publish the volume";
    let source = source.canonicalize().map_err(|error| Error::io("find the staged volume", source, &error))?;
    let target = resolve_existing(target)?;
    // A directory without a mount is not the volume, but the host's own disk.
    let Some(from) = stack_at(&source)?.into_iter().next() else { return Err(Error::NotMounted { volume: source }) };
    let same = |entry: &Entry| entry.device == from.device && entry.root == from.root;
    // Check before anything is bound to it.
    if path_kind(&source)? == PathKind::Unreadable {
        return Err(Error::Dead { target: source });
    }
    let wanted = read_only || from.read_only();
    match top(&target)? {
        Some(entry) if same(&entry) => ensure_mode(&target, &entry, wanted),
        Some(entry) => Err(Error::Foreign { attempted, target, found: entry.to_string() }),
        None => {
            let made = make_directory(&target)?;
            bind_new(&source, &target, same, wanted).inspect_err(|_| undo(&target, made, same))
        }
    }
}

/// Makes the bind and verifies it.
fn bind_new(source: &Path, target: &Path, same: impl Fn(&Entry) -> bool, read_only: bool) -> Result<(), Error> {
    bind_once(source, target, "bind")?;
    match top(target)? {
        Some(entry) if same(&entry) => ensure_mode(target, &entry, read_only),
        Some(entry) => Err(unverified("the bind", target, &entry.to_string())),
        None => Err(unverified("the bind", target, "nothing")),
    }
}

/// Makes an existing bind read-only if needed; fails if it should be writable but is read-only.
fn ensure_mode(target: &Path, entry: &Entry, read_only: bool) -> Result<(), Error> {
    match (read_only, entry.read_only()) {
        (false, true) => Err(Error::Different {
            target: target.to_owned(),
            asked: "writable".to_owned(),
            found: "read-only".to_owned(),
        }),
        (true, false) => make_read_only(target, entry),
        _ => Ok(()),
    }
}

/// Removes what a failed publish left at its target: its own mount, and the directory or file that it
/// created. If this fails, the next call finds the rest.
fn undo(target: &Path, made: bool, same: impl Fn(&Entry) -> bool) {
    if matches!(top(target), Ok(Some(entry)) if same(&entry)) {
        let _ = syscalls::unmount(target);
    }
    if made {
        let _ = remove_target(target);
    }
}

/// The second half of a read-only bind. It repeats the flags of the mount, or the call would clear them.
fn make_read_only(target: &Path, entry: &Entry) -> Result<(), Error> {
    let flags = MountFlags::RDONLY | options::shown(&entry.options);
    quarry_fault::point(|| "mount:remount read-only:before".to_owned());
    let result = syscalls::remount_bind(target, flags);
    quarry_fault::point(|| "mount:remount read-only:after".to_owned());
    match (top(target)?, result) {
        (Some(now), Ok(())) if now.read_only() => Ok(()),
        (_, Ok(())) => Err(unverified("the read-only bind", target, "a writable mount")),
        // Files are open for writing: it was published writable and is in use.
        (_, Err(Errno::EBUSY)) => Err(Error::Different {
            target: target.to_owned(),
            asked: "read-only".to_owned(),
            found: "writable, and files on it are open for writing".to_owned(),
        }),
        (_, Err(source)) => Err(Error::Syscall { attempted: Attempt::MakeReadOnly, on: target.to_owned(), source }),
    }
}

/// Bind-mounts a block device's node at a target, and creates an empty file for it (its parent must exist).
/// Mount flags do not prevent writes to the device, so the caller must reject a read-only publish or solve it
/// differently.
///
/// # Errors
/// [`Error::Foreign`] if anything but that device is mounted at the target, [`Error::WrongKind`] if the
/// target is neither missing nor an empty file; otherwise the error of the system call.
pub fn bind_device(device: &Path, target: &Path) -> Result<(), Error> {
    let attempted = "publish the device";
    let device = device.canonicalize().map_err(|error| Error::io("find the block device", device, &error))?;
    let number = Device::of_node(&device).ok_or_else(|| Error::Syscall {
        attempted: Attempt::Other("publish as a block device"),
        on: device.clone(),
        source: Errno::ENOTBLK,
    })?;
    let target = resolve_existing(target)?;
    // If the target is a mount point, Device::of_node reads the mounted node.
    if let Some(entry) = top(&target)? {
        return match Device::of_node(&target) {
            Some(found) if found == number => Ok(()),
            _ => Err(Error::Foreign { attempted, target, found: entry.to_string() }),
        };
    }
    let made = make_file(&target)?;
    let bound = bind_once(&device, &target, "bind device").and_then(|()| match top(&target)? {
        Some(_) if Device::of_node(&target) == Some(number) => Ok(()),
        Some(entry) => Err(unverified("the bind", &target, &entry.to_string())),
        None => Err(unverified("the bind", &target, "nothing")),
    });
    bound.inspect_err(|_| undo(&target, made, |entry| entry.node_device() == Some(number)))
}

fn bind_once(source: &Path, target: &Path, what: &'static str) -> Result<(), Error> {
    quarry_fault::point(|| format!("mount:{what}:before"));
    let result = syscalls::bind(source, target);
    quarry_fault::point(|| format!("mount:{what}:after"));
    result.map_err(|source| Error::Syscall { attempted: Attempt::Bind, on: target.to_owned(), source })
}

/// The topmost mount at a resolved path; rejects a symbolic link.
fn top(target: &Path) -> Result<Option<Entry>, Error> {
    if path_kind(target)? == PathKind::Symlink {
        return Err(Error::Symlink { target: target.to_owned() });
    }
    Ok(stack_at(target)?.into_iter().next())
}

fn unverified(attempted: &'static str, target: &Path, found: &str) -> Error {
    Error::Unverified { attempted, target: target.to_owned(), found: found.to_owned() }
}

/// Creates the directory of a target; returns whether it was missing. An existing directory is fine; the
/// mount hides its contents, but they are not lost.
fn make_directory(target: &Path) -> Result<bool, Error> {
    match path_kind(target)? {
        PathKind::Directory => return Ok(false),
        PathKind::Nothing => {}
        found => return Err(wrong_kind(target, "a directory", found)),
    }
    quarry_fault::point(|| "mount:mkdir:before".to_owned());
    // The permissions of the volume's own root apply to pods; only root needs the bare directory.
    let made = std::fs::DirBuilder::new().mode(0o750).create(target);
    quarry_fault::point(|| "mount:mkdir:after".to_owned());
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::io("make the directory", target, &error)),
        made => Ok(made.is_ok()),
    }
}

/// Creates the empty file at which a device's node is bound; returns whether it was missing.
fn make_file(target: &Path) -> Result<bool, Error> {
    match path_kind(target)? {
        PathKind::File { len: 0 } => return Ok(false),
        PathKind::Nothing => {}
        found => return Err(wrong_kind(target, "an empty file", found)),
    }
    quarry_fault::point(|| "mount:create file:before".to_owned());
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    quarry_fault::point(|| "mount:create file:after".to_owned());
    made.map(|_| true).map_err(|error| Error::io("make the file", target, &error))
}

fn wrong_kind(target: &Path, wanted: &'static str, found: PathKind) -> Error {
    Error::WrongKind { target: PathBuf::from(target), wanted, found: found.words() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_at_the_target_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "data").unwrap();
        assert!(matches!(make_directory(&file), Err(Error::WrongKind { .. })));
        assert!(matches!(make_file(&file), Err(Error::WrongKind { .. })));
        assert!(matches!(make_file(dir.path()), Err(Error::WrongKind { .. })));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(bind(Path::new("/proc"), &link, false), Err(Error::Symlink { .. })));
        assert!(matches!(bind(dir.path(), &link, false), Err(Error::NotMounted { .. })));
    }

    #[test]
    fn creating_an_existing_target_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            make_directory(&dir.path().join("d")).unwrap();
            make_file(&dir.path().join("f")).unwrap();
        }
        assert!(make_directory(&dir.path().join("no/d")).is_err(), "the caller must create the parent");
    }

    #[test]
    fn only_block_devices_are_mounted_or_published() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        let error = bind_device(Path::new("/dev/null"), &target).unwrap_err();
        assert!(matches!(error, Error::Syscall { source: Errno::ENOTBLK, .. }), "{error}");
        let error = mount_filesystem(Path::new("/dev/null"), &target, "ext4", &[]).unwrap_err();
        assert!(matches!(error, Error::Syscall { source: Errno::ENOTBLK, .. }), "{error}");
        assert!(!target.exists(), "nothing is created for an invalid device");
    }

    #[test]
    fn options_longer_than_a_page_are_rejected_before_the_kernel_truncates_them() {
        // Any block device works: the call fails before it uses the device.
        let Some(device) = any_block_device() else { return };
        let long = vec!["x".repeat(DATA_MAX + 1)];
        let error = mount_filesystem(&device, Path::new("/nowhere/t"), "ext4", &long).unwrap_err();
        assert!(matches!(error, Error::Syscall { source: Errno::E2BIG, .. }), "{error}");
    }

    fn any_block_device() -> Option<PathBuf> {
        std::fs::read_dir("/dev").ok()?.flatten().map(|e| e.path()).find(|path| Device::of_node(path).is_some())
    }
}
