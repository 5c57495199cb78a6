//! Identifies a volume on its storage.

use std::fmt;

use quarry_disk::claim::{self, DiskGuid};
use quarry_lvm::{LvUuid, VgUuid};
use quarry_volume::{Error, Result};

use crate::{PoolSnapshot, PoolVolume};

/// How each kind of pool finds its volume, even after the volume was renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeKey {
    /// A logical volume, and the volume group that it was found in.
    Logical { group: VgUuid, volume: LvUuid },
    /// The claim on a whole disk.
    Disk(claim::Identity),
    /// A volume of a simulated pool: the pool's own identifier, and a number that is not used again.
    Simulated { storage: String, number: u64 },
}

impl fmt::Display for VolumeKey {
    /// The part that identifies the volume without its storage. Frozen: the UUIDs of filesystems are derived
    /// from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logical { volume, .. } => volume.fmt(f),
            Self::Disk(identity) => identity.volume.fmt(f),
            Self::Simulated { storage, number } => write!(f, "{storage}-{number}"),
        }
    }
}

impl VolumeKey {
    /// How an operator repairs the volume's record, for a sentence that ends with it.
    pub(crate) fn repair_of_record(&self) -> &'static str {
        match self {
            Self::Logical { .. } => "repair its tag by hand, see docs/record-format.md",
            Self::Disk(_) => "run `quarry disks` on this node, and see \"Repairing it\" in docs/disk-format.md",
            Self::Simulated { .. } => "its pool is simulated, so create the volume again",
        }
    }

    /// How an operator removes one of several objects that have the volume's record, for a sentence that ends with
    /// it.
    pub(crate) fn removal_of_copy(&self) -> &'static str {
        match self {
            Self::Logical { .. } => {
                "remove the copy, or remove the record's tag from it (`lvs -o +lv_tags` shows it, `lvchange --deltag` \
                 removes it)"
            }
            Self::Disk(_) => "remove one of the disks",
            Self::Simulated { .. } => "its pool is simulated, so remove one of them there",
        }
    }
}

impl PoolVolume {
    /// The UUID of its logical volume, which no other volume ever has; on a whole disk, the GUID of its
    /// partition, which only a later volume of the same name gets again. The filesystem's UUID is derived
    /// from it, unless the record has another.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.key.to_string()
    }

    /// The UUIDs of its volume group and of its logical volume.
    pub(crate) fn logical(&self) -> Result<(VgUuid, LvUuid)> {
        match self.key {
            VolumeKey::Logical { group, volume } => Ok((group, volume)),
            VolumeKey::Disk(_) | VolumeKey::Simulated { .. } => Err(self.of_another_kind("a logical volume")),
        }
    }

    /// The GUID of its disk.
    pub(crate) fn disk(&self) -> Result<DiskGuid> {
        match &self.key {
            VolumeKey::Disk(identity) => Ok(identity.disk),
            VolumeKey::Logical { .. } | VolumeKey::Simulated { .. } => Err(self.of_another_kind("a whole disk")),
        }
    }

    fn of_another_kind(&self, wanted: &str) -> Error {
        Error::host(format!("volume {} is not {wanted}; please report this", self.name))
    }
}

impl PoolSnapshot {
    /// The UUIDs of its volume group and of its logical volume.
    pub(crate) fn logical(&self) -> Result<(VgUuid, LvUuid)> {
        match self.key {
            VolumeKey::Logical { group, volume } => Ok((group, volume)),
            VolumeKey::Disk(_) | VolumeKey::Simulated { .. } => {
                Err(Error::host(format!("snapshot {} is not a logical volume; please report this", self.name)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: filesystems on users' disks have UUIDs that are derived from these texts.
    #[test]
    fn the_seeds_of_filesystem_uuids_are_frozen() {
        let group = "Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt".parse().unwrap();
        let volume = "Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3s".parse().unwrap();
        let disk = claim::Identity::of("pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11");
        for (key, text) in [
            (VolumeKey::Logical { group, volume }, "Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3s"),
            (VolumeKey::Disk(disk), "63c2c0cc-b5f4-5817-917c-4c8691f8a142"),
            (VolumeKey::Simulated { storage: "simulated-p".to_owned(), number: 7 }, "simulated-p-7"),
        ] {
            assert_eq!(key.to_string(), text);
        }
    }
}
