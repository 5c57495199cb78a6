//! What filesystems and mounts say, as reasons of a CSI answer.

use std::path::Path;

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
        // Both end by themselves when their user ends: the caller comes again.
        Mount::Busy { .. } | Mount::DeviceBusy { .. } => Reason::UnderWay,
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
        _ => Reason::Host,
    };
    match &error {
        Fs::Busy { device, .. } => Error::new(reason, format!("{error}{}", held_by(device))),
        _ => Error::new(reason, error.to_string()),
    }
}

/// What keeps a device open, to be appended to a message; empty where nothing is seen.
pub(crate) fn held_by(device: &Path) -> String {
    let holders = quarry_mount::Device::of_node(device).map(quarry_mount::holders).unwrap_or_default();
    if holders.is_empty() { String::new() } else { format!("; it is held by {}", holders.join(", ")) }
}

/// Runs what blocks (mounts, ioctls) where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(Error::host(format!("a blocking operation ended unexpectedly ({join}): please report it"))),
    }
}
