//! Grows mounted filesystems, and measures how much of its device a mounted filesystem uses.
//!
//! A filesystem is only ever grown while it is mounted: its kernel code does it step by step, safe against a power
//! cut, and what is in use stays in use. The tools could also grow an ext4 that is not mounted, but only after a
//! complete check of it.
//!
//! The sizes come from the kernel (for ext4: from its copy of the superblock). What is on the disk can be older.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use quarry_exec::Command;
use quarry_volume::Filesystem;

use crate::thread::blocking;
use crate::{Error, device_size, kinds};

/// After this time, growing a filesystem is overdue. The kernel writes the tables of each new group of an ext4, and
/// reads some of each old group.
const GROW_DEADLINE: Duration = Duration::from_secs(300);

/// How much of its device a mounted filesystem uses. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The size of the device.
    pub device: u64,
    /// The size of the filesystem.
    pub filesystem: u64,
    /// The size that the filesystem would have after growing. It is less than `device` if the rest of the device is
    /// too small for a block or for another group.
    pub possible: u64,
    /// The number of allocation groups of an xfs, whose size never changes; 0 for the other filesystems.
    pub groups: u32,
    /// Why the filesystem cannot grow. `None` if it need not grow.
    pub obstacle: Option<Obstacle>,
}

impl Coverage {
    /// Whether the filesystem is as large as possible on its device.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.filesystem >= self.possible
    }

    /// Without an obstacle if nothing has to grow.
    pub(crate) fn new(device: u64, filesystem: u64, possible: u64, obstacle: Option<Obstacle>) -> Self {
        let obstacle = obstacle.filter(|_| filesystem < possible);
        Self { device, filesystem, possible, groups: 0, obstacle }
    }
}

/// Why a filesystem cannot grow. Its text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The kernel recorded errors in it (ext4).
    Errors,
    /// It has a feature with which the kernel does not grow it (ext4).
    Feature(&'static str),
    /// It has no room for the descriptors of more groups, and the kernel is too old to store them elsewhere (ext4).
    Descriptors {
        /// The largest size that it can have, in bytes.
        largest: u64,
    },
    /// It was made without the feature `64bit` (ext4).
    Without64Bit {
        /// The largest size that it can have, in bytes.
        largest: u64,
    },
    /// It would still be smaller than what its kernel code accepts as a new size (btrfs).
    BelowMinimum {
        /// The minimum, in bytes.
        minimum: u64,
    },
    /// It has more than one device (btrfs).
    Devices(u64),
    /// It does something else that excludes growing (btrfs): the kernel's name of that.
    Operation(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors => write!(
                f,
                "the kernel recorded errors in it, and does not grow such a filesystem: end the pods that use it, and \
                 check it with `e2fsck -f` while it is not mounted"
            ),
            Self::Feature(feature) => write!(
                f,
                "it was made with the feature {feature}, with which the kernel does not grow it: copy its files to a \
                 larger volume without that feature"
            ),
            Self::Descriptors { largest } => write!(
                f,
                "it has no reserved blocks for the descriptors of more groups, and this kernel cannot grow it without \
                 (it lacks meta_bg_resize); {largest} bytes is its largest size: copy its files to a larger volume"
            ),
            Self::Without64Bit { largest } => write!(
                f,
                "it was made without the feature 64bit; {largest} bytes is its largest size: copy its files to a \
                 larger volume that has the feature"
            ),
            Self::BelowMinimum { minimum } => write!(
                f,
                "the kernel changes the size of a btrfs only to {minimum} bytes or more: expand the volume to at \
                 least that size"
            ),
            Self::Devices(count) => write!(
                f,
                "it has {count} devices, and Quarry grows only a filesystem on one device: remove the devices that \
                 were added by hand, or grow it with `btrfs filesystem resize`"
            ),
            Self::Operation(operation) => {
                write!(f, "another operation ({operation}) is in progress on it; a retry succeeds once that has ended")
            }
        }
    }
}

/// Measures a filesystem that is mounted at `mounted` from `device`. Blocks if the device hangs.
///
/// # Errors
/// The device or the filesystem cannot be read.
pub fn coverage(kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage, Error> {
    (kinds::of(kind).coverage)(device, mounted, device_size(device)?)
}

/// Grows the filesystem that is mounted writable at `mounted` from `device`, until it is as large as possible on the
/// device, and returns its new coverage. Does nothing if it is that large already.
///
/// # Errors
/// [`Error::CannotGrow`] if something prevents it: then nothing was changed. [`Error::Grow`] if the tool fails, and
/// [`Error::StillSmaller`] if it did not help.
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
    let result = (kinds::of(kind).grow)(device, mounted)
        .deadline(GROW_DEADLINE)
        .on(device.display().to_string())
        .run()
        .await
        .and_then(quarry_exec::Output::require_success);
    // Whatever the tool reported, what counts is what the kernel shows.
    let after = measure().await?;
    if after.is_complete() {
        return Ok(after);
    }
    check(&after)?;
    let (device, mounted) = (device.to_owned(), mounted.to_owned());
    Err(match result {
        Err(source) => Error::Grow { kind, device, mounted, source },
        Ok(_) => Error::StillSmaller { kind, device, filesystem: after.filesystem, possible: after.possible },
    })
}

/// The program that grows a filesystem.
pub(crate) type Tool = fn(device: &Path, mounted: &Path) -> Command;

/// Opens the directory where a filesystem is mounted, for an ioctl.
pub(crate) fn open(mounted: &Path) -> Result<File, Error> {
    File::open(mounted).map_err(|source| Error::io("open", mounted, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_checked_at_startup_and_never_forced() {
        for kind in Filesystem::ALL {
            let command = format!("{:?}", (kinds::of(kind).grow)(Path::new("/dev/d"), Path::new("/m")));
            let tool = kinds::of(kind).tools.iter().find(|tool| command.contains(&format!("{tool:?}")));
            assert!(tool.is_some(), "{kind}: {command}");
            assert!(command.contains("mutation: true"), "{kind}: {command}");
            assert!(!command.contains("\"-f\""), "{kind}: {command}");
        }
    }

    #[tokio::test]
    async fn a_missing_device_is_an_error() {
        for kind in Filesystem::ALL {
            let error = grow(kind, Path::new("/no/such/device"), Path::new("/")).await.unwrap_err();
            assert!(matches!(error, Error::Io { attempted: "open", .. }), "{error}");
        }
    }
}
