//! How a volume is used: as a filesystem or a raw block device, and by how many workloads at once.

use std::fmt;

use crate::{Error, Filesystem, Result};

/// Mounted as a filesystem, or published as a raw block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessType {
    /// A mounted filesystem.
    Mount,
    /// A raw block device.
    Block,
}

impl fmt::Display for AccessType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "a filesystem",
            Self::Block => "a raw block device",
        })
    }
}

/// The access types that a volume was created for. The record keeps them: a volume is never used as another
/// type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessTypes {
    /// A filesystem only.
    Mount,
    /// A raw block device only.
    Block,
    /// Either: the first use decides.
    Both,
}

impl AccessTypes {
    /// Whether the volume was created for `access`.
    #[must_use]
    pub fn includes(self, access: AccessType) -> bool {
        matches!((self, access), (Self::Both, _) | (Self::Mount, AccessType::Mount) | (Self::Block, AccessType::Block))
    }

    /// Whether the volume may ever expose its raw bytes, so that they must be zeroed first.
    #[must_use]
    pub fn shows_bytes(self) -> bool {
        self.includes(AccessType::Block)
    }
}

impl fmt::Display for AccessTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "a filesystem",
            Self::Block => "a raw block device",
            Self::Both => "a filesystem or a raw block device",
        })
    }
}

/// Which workloads may use the volume at once (CSI `AccessMode`; only the single-node modes, because a local
/// disk has one node).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// Read-write, one workload at a time as far as an older orchestrator can express it.
    Writer,
    /// Read-only.
    ReaderOnly,
    /// Read-write, one workload at a time (ReadWriteOncePod).
    SingleWriter,
    /// Read-write, several workloads of the node (ReadWriteOnce).
    MultiWriter,
}

impl AccessMode {
    /// Whether a second publish at another target is rejected (CSI `NodePublishVolume`, the table of second
    /// calls).
    #[must_use]
    pub fn is_exclusive(self) -> bool {
        matches!(self, Self::Writer | Self::SingleWriter)
    }
}

/// One way in which the caller will use the volume (CSI `VolumeCapability`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Mounted or raw block.
    pub access: AccessType,
    /// The requested filesystem; `None` for raw block, or if the caller did not name one.
    pub filesystem: Option<Filesystem>,
    /// Mount options, as given.
    pub mount_flags: Vec<String>,
    /// How many workloads at once.
    pub mode: AccessMode,
}

/// The combination of all capabilities in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Filesystem, raw block, or both.
    pub access: AccessTypes,
    /// The filesystem to create; `None` if the volume is raw block only.
    pub filesystem: Option<Filesystem>,
}

/// The filesystem of a volume for which none was requested.
pub const DEFAULT_FILESYSTEM: Filesystem = Filesystem::Ext4;

impl Usage {
    /// Combines capabilities: a volume must satisfy all of them (CSI `CreateVolume`).
    ///
    /// # Errors
    /// `InvalidRequest` if the list is empty, or if two capabilities name different filesystems.
    pub fn of(capabilities: &[Capability]) -> Result<Self> {
        let mut filesystem: Option<Filesystem> = None;
        for wanted in capabilities.iter().filter_map(|capability| capability.filesystem) {
            match filesystem {
                Some(other) if other != wanted => {
                    return Err(Error::invalid(format!(
                        "volume_capabilities request both {other} and {wanted}: a volume has only one filesystem"
                    )));
                }
                _ => filesystem = Some(wanted),
            }
        }
        let has = |access| capabilities.iter().any(|capability| capability.access == access);
        match (has(AccessType::Mount), has(AccessType::Block)) {
            (false, false) => Err(Error::invalid("volume_capabilities is empty: state how the volume will be used")),
            (true, false) => {
                Ok(Self { access: AccessTypes::Mount, filesystem: Some(filesystem.unwrap_or(DEFAULT_FILESYSTEM)) })
            }
            (false, true) => Ok(Self { access: AccessTypes::Block, filesystem: None }),
            (true, true) => {
                Ok(Self { access: AccessTypes::Both, filesystem: Some(filesystem.unwrap_or(DEFAULT_FILESYSTEM)) })
            }
        }
    }
}
