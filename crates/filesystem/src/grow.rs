//! Grows mounted filesystems, and measures how much of its device a mounted filesystem uses.
//!
//! A filesystem is only ever grown while it is mounted: its kernel code does it step by step, safe against a power
//! cut, and what is in use stays in use. resize2fs could also grow an ext4 that is not mounted, but only after a
//! complete check of it.
//!
//! The kernel is asked directly. resize2fs and xfs_growfs do the same, but only if they find the device under the name
//! in /proc/mounts, and that name may be gone: a volume was renamed, or udev removed a link.
//!
//! The sizes come from the kernel (for ext4: from its copy of the superblock). What is on the disk can be older.

use std::path::Path;

use quarry_volume::{Filesystem, MakeOptions};

use crate::thread::blocking;
use crate::{Coverage, Error, device_size, kinds};

/// Measures a filesystem that is mounted at `mounted` from `device`. Blocks if the device hangs.
///
/// # Errors
/// The device or the filesystem cannot be read.
pub fn coverage(kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage, Error> {
    (kinds::of(kind).coverage)(device, mounted, device_size(device)?)
}

/// How far a filesystem that is made with these options can grow, if they limit it, for people.
#[must_use]
pub fn limit_of_growth(options: &MakeOptions) -> Option<&'static str> {
    (kinds::of(options.kind()).limit_of_growth)(options)
}

/// Grows the filesystem that is mounted writable at `mounted` from `device`, until it is as large as possible on the
/// device, and returns its new coverage. Does nothing if it is that large already.
///
/// # Errors
/// [`Error::CannotGrow`] if something prevents it: then nothing was changed. [`Error::StillSmaller`] if the
/// kernel did it, but that did not help.
pub async fn grow(kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage, Error> {
    let measure = async || {
        let mounted = mounted.to_owned();
        blocking(device, move |device| coverage(kind, device, &mounted)).await
    };
    let check = |coverage: &Coverage| match &coverage.obstacle {
        None => Ok(()),
        Some(obstacle) => Err(Error::CannotGrow { kind, device: device.to_owned(), obstacle: obstacle.clone() }),
    };
    let before = measure().await?;
    check(&before)?;
    if before.is_complete() {
        return Ok(before);
    }
    let (target, possible) = (mounted.to_owned(), before.possible);
    let work = move |device: &Path| {
        quarry_fault::point(|| "filesystem:grow:before".to_owned());
        let result = (kinds::of(kind).grow)(device, &target, possible);
        quarry_fault::point(|| "filesystem:grow:after".to_owned());
        Ok(result)
    };
    let result = blocking(device, work).await?;
    // The size that the kernel shows decides, not its answer.
    let after = measure().await?;
    if after.is_complete() {
        return Ok(after);
    }
    check(&after)?;
    result?;
    let device = device.to_owned();
    Err(Error::StillSmaller { kind, device, filesystem: after.filesystem, possible: after.possible })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_device_is_an_error() {
        for kind in Filesystem::ALL {
            let error = grow(kind, Path::new("/no/such/device"), Path::new("/")).await.unwrap_err();
            assert!(matches!(error, Error::Io { attempted: "open", .. }), "{error}");
        }
    }
}
