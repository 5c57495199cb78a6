//! Maps errors of filesystems and mounts to reasons of a CSI response.

use std::io;
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
        | Mount::Published { .. }
        | Mount::NotEmpty { .. } => Reason::Precondition,
        // These end when their user ends: the caller retries.
        Mount::Busy { .. } | Mount::DeviceBusy { .. } | Mount::Claimed { .. } => Reason::UnderWay,
        // From mount(2), this means that the kernel does not have this filesystem.
        Mount::Syscall { source: Errno::ENODEV, .. } => Reason::Host,
        Mount::Syscall { source, .. } if is_device_failure(*source as i32) => Reason::Unavailable,
        // The kernel read the filesystem and refused to mount it: it is damaged, or a checksum in it is wrong.
        Mount::Syscall { source: Errno::EUCLEAN | Errno::EBADMSG, .. } => Reason::Precondition,
        Mount::Unverified { .. } | Mount::Syscall { .. } | Mount::Table(_) => Reason::Host,
    };
    match &error {
        Mount::DeviceBusy { device, .. } => Error::new(reason, format!("{error}{}", held_by(device))),
        _ => Error::new(reason, error.to_string()),
    }
}

/// A failed filesystem operation.
pub(crate) fn filesystem(error: quarry_filesystem::Error) -> Error {
    use quarry_filesystem::{Error as Fs, Obstacle};
    let reason = match &error {
        // Something holds the device exclusively: usually an mkfs that outlived the Quarry process that
        // started it.
        Fs::Busy { .. } => Reason::UnderWay,
        // The other operation ends.
        Fs::CannotGrow { obstacle: Obstacle::Operation(_), .. } => Reason::UnderWay,
        // The contents of the device prevent it; nothing was changed.
        Fs::NotBlank { .. }
        | Fs::Damaged { .. }
        | Fs::CannotGrow { .. }
        | Fs::NotCopied { .. }
        | Fs::Uncopyable { .. } => Reason::Precondition,
        Fs::Options(_) => Reason::InvalidRequest,
        Fs::Io { source, .. } if source.raw_os_error().is_some_and(may_end) => Reason::Unavailable,
        // The medium is gone.
        Fs::NoSize { .. } => Reason::Unavailable,
        Fs::Command { source, .. } | Fs::Mkfs { source, .. } if may_succeed_later(source) => Reason::Unavailable,
        Fs::Unverified { .. }
        | Fs::Mkfs { .. }
        | Fs::UuidUnchanged { .. }
        | Fs::StillSmaller { .. }
        | Fs::Command { .. }
        | Fs::Io { .. }
        | Fs::Unaligned { .. } => Reason::Host,
    };
    match &error {
        Fs::Busy { device, .. } => Error::new(reason, format!("{error}{}", held_by(device))),
        _ => Error::new(reason, error.to_string()),
    }
}

/// Whether a command was killed while it waited for its disk, or was not started because this process stops.
fn may_succeed_later(error: &quarry_exec::Error) -> bool {
    matches!(error, quarry_exec::Error::Deadline { .. } | quarry_exec::Error::Stopping { .. })
}

/// A failed operation on an encrypted device.
pub(crate) fn encryption(error: quarry_encryption::Error) -> Error {
    use quarry_encryption::Error as Encryption;
    let reason = match error {
        Encryption::Device(error) => return filesystem(error),
        Encryption::WrongKey { .. }
        | Encryption::NotBlank { .. }
        | Encryption::NoHeader { .. }
        | Encryption::Passphrase { .. }
        | Encryption::SamePassphrase
        | Encryption::NotText
        | Encryption::NotOpen { .. }
        | Encryption::OtherHeader { .. } => Reason::Precondition,
        Encryption::Busy { .. } => Reason::UnderWay,
        Encryption::Io { ref source, .. } if source.raw_os_error().is_some_and(is_device_failure) => {
            Reason::Unavailable
        }
        Encryption::Command { ref source, .. } if may_succeed_later(source) => Reason::Unavailable,
        Encryption::Unverified { .. }
        | Encryption::Command { .. }
        | Encryption::Mapping { .. }
        | Encryption::Io { .. } => Reason::Host,
    };
    match &error {
        Encryption::Busy { on, .. } => Error::new(reason, format!("{error}{}", held_by(on))),
        _ => Error::new(reason, error.to_string()),
    }
}

/// What to do if the storage below a volume has no space for what is written to it.
pub(crate) const FULL: &str = "the storage of its pool is full: extend it (a thin pool with `lvextend --size +SIZE \
                               VG/POOL`), or delete volumes and snapshots in it";

/// Whether the storage below a device has no space for what is written to it, as a thin pool that is full.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|errno| matches!(Errno::from_raw(errno), Errno::ENOSPC | Errno::EDQUOT))
}

/// A failed write of zeros to a new volume. The sectors are bad, so a retry on the same sectors would fail
/// too, but a volume that is created again may get others. Or there is no space.
pub(crate) fn zeroing(error: quarry_filesystem::Error) -> Error {
    if let quarry_filesystem::Error::Io { source, .. } = &error
        && is_out_of_space(source)
    {
        return Error::new(Reason::NoSpace, format!("{error}; {FULL}"));
    }
    let error = filesystem(error);
    if error.reason == Reason::Unavailable { Error::host(error.message) } else { error }
}

/// What holds a device open, as text to append to a message; empty if no holder is visible.
pub(crate) fn held_by(device: &Path) -> String {
    let holders = quarry_mount::Device::of_node(device).map(quarry_mount::holders).unwrap_or_default();
    if holders.is_empty() { String::new() } else { format!("; it is held by {}", holders.join(", ")) }
}

/// Whether the kernel returns this when a disk fails, is gone, or lost its path: it may be back when the call
/// is retried.
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

/// Whether a retry may succeed after this errno: of a device, see [`is_device_failure`], or because the kernel gave no
/// thread for the operation.
fn may_end(errno: i32) -> bool {
    is_device_failure(errno) || Errno::from_raw(errno) == Errno::EAGAIN
}

/// Runs blocking work (mounts, ioctls) on its own thread. The caller is a task, and each volume has only one
/// task at a time.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match quarry_filesystem::on_own_thread(work).await {
        Ok(result) => result,
        Err(error) => Err(no_answer_of_thread(&error)),
    }
}

/// The error of an operation whose thread gave no answer.
pub(crate) fn no_answer_of_thread(error: &io::Error) -> Error {
    match error.raw_os_error() {
        // The kernel gave no thread. Others end: a retry may get one.
        Some(_) => Error::unavailable(format!("cannot start a thread for an operation: {error}; retry")),
        None => Error::host(format!("an operation gave no answer: {error}")),
    }
}

/// Drops what has a device open on a thread for blocking work, and waits for that: closing a device takes as long as its
/// disk hangs.
pub(crate) async fn dropped<T: Send + 'static>(open: T) {
    let closed = blocking(move || {
        drop(open);
        Ok(())
    });
    if let Err(error) = closed.await {
        // It is closed in any case.
        tracing::debug!(%error, "a device was not closed on a thread of its own");
    }
}
