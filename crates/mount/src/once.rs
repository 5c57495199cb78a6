//! Mounts a filesystem for a moment, so that the kernel replays its journal.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use crate::{Attempt, Error};

// Of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CREATE: libc::c_uint = 6;
const ATTRIBUTES: libc::c_uint = (libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC) as u32;

/// Mounts the filesystem on a device writable and unmounts it at once, and returns when that is done. The mount has
/// no place in any directory, so no other process sees it, and if this process is killed, the kernel unmounts it.
/// Blocks while the kernel replays the journal. `options` are options of the filesystem itself without values, such as
/// `nouuid`.
///
/// The filesystem must not be mounted already: then this would only mount it a second time.
///
/// # Errors
/// [`Error::DeviceBusy`] if something holds the device; otherwise the error of the system call. Needs Linux 5.2.
pub fn mount_once(device: &Path, fstype: &str, options: &[&str]) -> Result<(), Error> {
    quarry_fault::point(|| "mount:once:before".to_owned());
    let result = mount_and_unmount(device, fstype, options);
    quarry_fault::point(|| "mount:once:after".to_owned());
    result.map_err(|source| match source {
        Errno::EBUSY => Error::DeviceBusy { device: device.to_owned(), target: "(no directory)".into() },
        source => Error::Syscall { attempted: Attempt::Mount, on: device.to_owned(), source },
    })
}

fn mount_and_unmount(device: &Path, fstype: &str, options: &[&str]) -> Result<(), Errno> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let context = open(&text(fstype.as_bytes())?)?;
    configure(&context, SET_STRING, Some(c"source"), Some(&text(device.as_os_str().as_bytes())?))?;
    for option in options {
        configure(&context, SET_FLAG, Some(&text(option.as_bytes())?), None)?;
    }
    configure(&context, CREATE, None, None)?;
    let mount = mount(&context)?;
    // The context holds the filesystem, too. With the last of the two, the kernel unmounts it before close(2) returns.
    drop(context);
    drop(mount);
    Ok(())
}

#[allow(unsafe_code)]
fn open(fstype: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads the text, which ends with a zero and lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
    descriptor(result)
}

#[allow(unsafe_code)]
fn configure(context: &OwnedFd, what: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the kernel reads the texts, which end with a zero and live until the call returns; the descriptor is
    // open.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), what, pointer(key), pointer(value), 0 as libc::c_int)
    };
    Errno::result(result).map(drop)
}

#[allow(unsafe_code)]
fn mount(context: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes no pointers, and the descriptor is open.
    let result = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, ATTRIBUTES) };
    descriptor(result)
}

#[allow(unsafe_code)]
fn descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let number = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_mounted_is_an_error() {
        // Without the right to mount, the kernel rejects even the first call.
        let error = mount_once(Path::new("/no/such/device"), "ext4", &[]).unwrap_err();
        assert!(matches!(error, Error::Syscall { attempted: Attempt::Mount, .. }), "{error}");
        let error = mount_once(Path::new("/a\0b"), "ext4", &[]).unwrap_err();
        assert!(matches!(error, Error::Syscall { source: Errno::EINVAL | Errno::EPERM, .. }), "{error}");
    }
}
