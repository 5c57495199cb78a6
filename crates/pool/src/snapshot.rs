//! Snapshots, as a pool finds them on its storage.

use quarry_volume::StorageId;

use crate::SnapshotRecord;
use crate::key::VolumeKey;

/// A snapshot as its pool finds it on the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// The name in its identifier, unique among the snapshots of the pool: made from the name in its record.
    pub name: String,
    /// The identity of its pool's storage.
    pub storage: StorageId,
    /// Identifies it on its storage.
    pub(crate) key: VolumeKey,
    /// The size of its source when it was taken, in bytes.
    pub size: u64,
    /// The space that it uses on its storage, in bytes.
    pub allocated: u64,
    /// Its record.
    pub record: SnapshotRecord,
    /// The state of the storage under it.
    pub health: SnapshotHealth,
}

/// The state of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotHealth {
    /// Its contents can be read, if its record is `ready`.
    Whole,
    /// Its creation was interrupted. It is removed and taken again.
    Incomplete(String),
    /// Its disk is lost or cannot be reached now; or that of its source.
    Lost(String),
    /// Its contents are gone for good: the space for overwritten blocks became full.
    Invalid(String),
}

impl SnapshotHealth {
    /// The problem, if there is one.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Whole => None,
            Self::Incomplete(why) | Self::Lost(why) | Self::Invalid(why) => Some(why),
        }
    }
}
