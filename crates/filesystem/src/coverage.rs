//! How much of its device a mounted filesystem uses, and what keeps it from growing.

use std::fmt;
use std::fs::File;
use std::path::Path;

use crate::Error;

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

/// Opens the directory where a filesystem is mounted, for an ioctl.
pub(crate) fn open(mounted: &Path) -> Result<File, Error> {
    File::open(mounted).map_err(|source| Error::io("open", mounted, source))
}
