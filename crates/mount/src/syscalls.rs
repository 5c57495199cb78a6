//! Calls mount(2) and umount2(2) through sys-mount.
//!
//! The rest of this crate decides when to call them. This module avoids four traps of sys-mount: without a
//! type, it tries every filesystem that the kernel knows, so each call names one; it unmounts a null pointer
//! if a path contains a NUL byte, so such paths are rejected first; its feature `loop`, which turns a source
//! named `*.iso` into a loop device, is off; and its own `NOFOLLOW` for unmounting is a flag of open(2),
//! which umount2(2) rejects.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use sys_mount::{Mount, MountFlags, UnmountFlags};

/// Flags of mount(2) for which sys-mount has no name.
pub(crate) const LAZYTIME: MountFlags = MountFlags::from_bits_retain(libc::MS_LAZYTIME);
pub(crate) const I_VERSION: MountFlags = MountFlags::from_bits_retain(libc::MS_I_VERSION);
/// Since Linux 5.10; libc has no name for it either.
pub(crate) const NOSYMFOLLOW: MountFlags = MountFlags::from_bits_retain(0x100);

/// Not `UnmountFlags::NOFOLLOW`: see above.
const NOFOLLOW: UnmountFlags = UnmountFlags::from_bits_retain(libc::UMOUNT_NOFOLLOW);

/// The type for binds and remounts; the kernel ignores it.
const NO_TYPE: &str = "none";

/// Mounts the filesystem on a block device.
pub(crate) fn mount(device: &Path, target: &Path, fstype: &str, flags: MountFlags, data: &str) -> Result<(), Errno> {
    Mount::builder().fstype(fstype).flags(flags).data(data).mount(device, target).map(drop).map_err(errno)
}

/// Bind-mounts the source at the target.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<(), Errno> {
    Mount::builder().fstype(NO_TYPE).flags(MountFlags::BIND).mount(source, target).map(drop).map_err(errno)
}

/// Changes the flags of a bind mount. Flags that are not repeated are cleared.
pub(crate) fn remount_bind(target: &Path, flags: MountFlags) -> Result<(), Errno> {
    let flags = MountFlags::BIND | MountFlags::REMOUNT | flags;
    Mount::builder().fstype(NO_TYPE).flags(flags).mount("", target).map(drop).map_err(errno)
}

/// Unmounts the topmost mount at the target. Never follows a symbolic link there; neither forced nor lazy.
pub(crate) fn unmount(target: &Path) -> Result<(), Errno> {
    if target.as_os_str().as_bytes().contains(&0) {
        return Err(Errno::EINVAL);
    }
    sys_mount::unmount(target, NOFOLLOW).map_err(errno)
}

/// An error without a number is a path with a NUL byte, which never reached the kernel.
fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_nul_byte_reaches_no_system_call() {
        let path = Path::new("/a\0b");
        assert_eq!(unmount(path), Err(Errno::EINVAL));
        assert_eq!(bind(path, Path::new("/")), Err(Errno::EINVAL));
        assert_eq!(bind(Path::new("/"), path), Err(Errno::EINVAL));
        assert_eq!(remount_bind(path, MountFlags::RDONLY), Err(Errno::EINVAL));
        assert_eq!(mount(Path::new("/dev/null"), path, "ext4", MountFlags::empty(), ""), Err(Errno::EINVAL));
        assert_eq!(
            mount(Path::new("/dev/null"), Path::new("/"), "ext4", MountFlags::empty(), "a\0b"),
            Err(Errno::EINVAL)
        );
    }

    /// sys-mount keeps flags that it has no name for.
    #[test]
    fn flags_are_those_of_the_kernel() {
        for (flag, bits) in [
            (MountFlags::RDONLY, libc::MS_RDONLY),
            (MountFlags::BIND, libc::MS_BIND),
            (MountFlags::REMOUNT, libc::MS_REMOUNT),
            (LAZYTIME, libc::MS_LAZYTIME),
            (I_VERSION, libc::MS_I_VERSION),
            (LAZYTIME | MountFlags::NOATIME, libc::MS_LAZYTIME | libc::MS_NOATIME),
            (NOSYMFOLLOW | MountFlags::BIND, 0x100 | libc::MS_BIND),
        ] {
            assert_eq!(flag.bits(), bits);
        }
        assert_eq!(NOFOLLOW.bits(), libc::UMOUNT_NOFOLLOW);
    }
}
