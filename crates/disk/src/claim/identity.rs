//! The identity of a claim: GUIDs that are derived from the volume's name.

use std::fmt;

use uuid::{Uuid, uuid};

/// The type of the partition that holds the record. Frozen.
pub const METADATA_TYPE: Uuid = uuid!("a7953e1b-d10f-418c-ac8a-a0e6afe8d458");
/// The type of the partition that holds the volume's data. Frozen.
pub const VOLUME_TYPE: Uuid = uuid!("4897e890-2b58-42b9-84ed-933a631248d1");
/// The namespace of the GUIDs of claimed disks. Frozen: claims are recognized by it.
const NAMESPACE: Uuid = uuid!("b5ad58a8-6ed2-47e8-b8b4-795744556627");

/// The GUID of a disk in its partition table. On a claimed disk, it stands for the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskGuid(pub(super) Uuid);

/// The GUID of one partition. (Its type is a GUID, too: [`METADATA_TYPE`], [`VOLUME_TYPE`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionGuid(pub(super) Uuid);

impl fmt::Display for DiskGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PartitionGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The GUIDs of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The disk's GUID: UUID version 5 of the volume's name.
    pub disk: DiskGuid,
    /// The metadata partition's GUID: UUID version 5 of `metadata` in the namespace of the disk's GUID.
    pub metadata: PartitionGuid,
    /// The volume partition's GUID: UUID version 5 of `volume` in the namespace of the disk's GUID.
    pub volume: PartitionGuid,
}

impl Identity {
    /// The identity of the volume with that name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::from_disk(DiskGuid(Uuid::new_v5(&NAMESPACE, name.as_bytes())))
    }

    /// The identity with that disk GUID.
    #[must_use]
    pub fn from_disk(disk: DiskGuid) -> Self {
        let partition = |name: &str| PartitionGuid(Uuid::new_v5(&disk.0, name.as_bytes()));
        Self { disk, metadata: partition("metadata"), volume: partition("volume") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: these GUIDs are on users' disks. They must never change.
    #[test]
    fn identities_are_frozen() {
        assert_eq!(METADATA_TYPE.to_string(), "a7953e1b-d10f-418c-ac8a-a0e6afe8d458");
        assert_eq!(VOLUME_TYPE.to_string(), "4897e890-2b58-42b9-84ed-933a631248d1");
        let identity = Identity::of("pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11");
        assert_eq!(identity.disk.to_string(), "c9f076a8-8be0-5707-9680-6de0ac06dcbf");
        assert_eq!(identity.metadata.to_string(), "79ae3e83-6107-55e8-a391-1f199b210c5f");
        assert_eq!(identity.volume.to_string(), "63c2c0cc-b5f4-5817-917c-4c8691f8a142");
    }
}
