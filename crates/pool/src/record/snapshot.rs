//! The record of a snapshot. See docs/record-format.md, version 2.
//!
//! It has version 2 and a kind, so that a Quarry that knows only version 1 neither lists nor changes it. The format
//! is frozen by golden tests.

use quarry_volume::{AccessTypes, Filesystem, VolumeId};
use uuid::Uuid;

use super::State;

/// The contents of the record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// `new`: it may not have the contents of an instant yet. `ready`: it has.
    pub state: State,
    /// The name in CreateSnapshot; for a snapshot that only serves to clone a volume, the name of the clone.
    pub name: String,
    /// The volume that it was taken from.
    pub source: VolumeId,
    /// Whether it only serves to clone a volume: it is not listed, and is removed when the clone is complete.
    pub for_clone: bool,
    /// When it was taken: seconds since 1970-01-01 UTC. 0 while it is `new`.
    pub created: u64,
    /// How the source may be used.
    pub access: AccessTypes,
    /// The filesystem of the source; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// The UUID of that filesystem. `None` if the source had never been used: then it contains nothing.
    pub filesystem_uuid: Option<Uuid>,
    /// Whether the source had never been used, so that the snapshot contains nothing.
    pub empty: bool,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}
