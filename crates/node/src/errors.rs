//! What filesystems and mounts say, as reasons of a CSI answer.

use std::path::Path;

use nix::errno::Errno;
use quarry_volume::{Error, Reason};

/// A failed mount operation.
pub(crate) fn mount(error: quarry_mount::Error) -> Error {
    use quarry_mount::Error as Mount;
    let reason = match &error {
        Mount::InvalidTarget { .. } | Mount::Symlink { .. } => Reason::InvalidRequest,
        Mount::Different { .. } => Reason::Exists,
        Mount::NotMounted { .. }
        | Mount::WrongKind { .. }
        | Mount::NoParent { .. }
        | Mount::Foreign { .. }
        | Mount::Dead { .. }
        | Mount::NotEmpty { .. } => Reason::Precondition,
        // They end by themselves when their user ends: the caller comes again.
        Mount::Busy { .. } | Mount::DeviceBusy { .. } | Mount::Claimed { .. } => Reason::UnderWay,
        // Of mount(2), this means that the kernel has no such filesystem.
        Mount::Syscall { source: Errno::ENODEV, .. } => Reason::Host,
        Mount::Syscall { source, .. } if is_device_failure(*source as i32) => Reason::Unavailable,
        // The kernel read the superblock, and would not mount what it found.
        Mount::Syscall { source: Errno::EUCLEAN, .. } => Reason::Precondition,
        Mount::Unverified { .. } | Mount::Syscall { .. } | Mount::Table(_) => Reason::Host,
    };
    match &error {
        Mount::DeviceBusy { device, .. } => Error::new(reason, format!("{error}{}", held_by(device))),
        _ => Error::new(reason, error.to_string()),
    }
}

/// A failed filesystem operation.
pub(crate) fn filesystem(error: quarry_filesystem::Error) -> Error {
    use quarry_filesystem::Error as Fs;
    let reason = match &error {
        // Somebody holds the device exclusively: most often an mkfs that outlived the Quarry that started it.
        Fs::Busy { .. } => Reason::UnderWay,
        // What lies on the device forbids it; it was left alone.
        Fs::NotBlank { .. } | Fs::Damaged { .. } => Reason::Precondition,
        Fs::Options(_) => Reason::InvalidRequest,
        Fs::Io { source, .. } if source.raw_os_error().is_some_and(is_device_failure) => Reason::Unavailable,
        // The medium is gone, or the tool was given up while it waited for the disk.
        Fs::NoSize { .. } | Fs::Command { source: quarry_exec::Error::Deadline { .. }, .. } => Reason::Unavailable,
        Fs::Unverified { .. } | Fs::Mkfs { .. } | Fs::Command { .. } | Fs::Io { .. } | Fs::Unaligned { .. } => {
            Reason::Host
        }
    };
    match &error {
        Fs::Busy { device, .. } => Error::new(reason, format!("{error}{}", held_by(device))),
        _ => Error::new(reason, error.to_string()),
    }
}

/// A failed write of zeros to a new volume: the place is bad, so that a retry at the same place would fail as well, while
/// one that carves anew may find another.
pub(crate) fn zeroing(error: quarry_filesystem::Error) -> Error {
    let error = filesystem(error);
    if error.reason == Reason::Unavailable { Error::host(error.message) } else { error }
}

/// What keeps a device open, to be appended to a message; empty where nothing is seen.
pub(crate) fn held_by(device: &Path) -> String {
    let holders = quarry_mount::Device::of_node(device).map(quarry_mount::holders).unwrap_or_default();
    if holders.is_empty() { String::new() } else { format!("; it is held by {}", holders.join(", ")) }
}

/// Whether the kernel answers so when a disk fails, is gone, or lost its path: it may be back when the call comes again.
fn is_device_failure(errno: i32) -> bool {
    matches!(
        Errno::from_raw(errno),
        Errno::EIO
            | Errno::ENXIO
            | Errno::ENODEV
            | Errno::ENOMEDIUM
            | Errno::ENODATA
            | Errno::EREMOTEIO
            | Errno::ENOLINK
            | Errno::EBADE
            | Errno::EILSEQ
            | Errno::ETIMEDOUT
    )
}

/// Runs what blocks (mounts, ioctls) on a thread of its own. The caller is a task, of which each volume has one at a time.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match quarry_filesystem::on_own_thread(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::host(format!("a thread for a blocking operation: {error}"))),
    }
}
