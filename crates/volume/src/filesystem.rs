//! The filesystems that a volume may have.

use std::fmt;
use std::str::FromStr;

/// A filesystem that Quarry creates and mounts. Its name is the one in `csi.storage.k8s.io/fstype` and
/// mount(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Filesystem {
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl Filesystem {
    /// Every filesystem, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The filesystem's name, as in mount(8) and the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The name with its article, for sentences: `an ext4`, `a btrfs`.
    #[must_use]
    pub fn with_article(self) -> &'static str {
        match self {
            Self::Ext4 => "an ext4",
            Self::Xfs => "an xfs",
            Self::Btrfs => "a btrfs",
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is not one of the supported filesystems.
#[derive(Debug, thiserror::Error)]
#[error("filesystem {0:?} is not supported; choose one of {all}", all = Filesystem::ALL.map(Filesystem::as_str).join(", "))]
pub struct UnknownFilesystem(pub String);

impl FromStr for Filesystem {
    type Err = UnknownFilesystem;

    fn from_str(name: &str) -> Result<Self, UnknownFilesystem> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| UnknownFilesystem(name.to_owned()))
    }
}
