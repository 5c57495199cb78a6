//! What a controller asks of the node that holds the disks.
//!
//! Standalone, controller and node are one process and call each other through this trait; apart, the same trait is
//! spoken over the network. Nothing else connects the two.

use std::time::Duration;

use crate::{AccessTypes, Filesystem, Layout, Result, VolumeId, VolumeSpec};

/// A volume as the node that holds it describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its identifier.
    pub id: VolumeId,
    /// The name it was asked for under.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The pool it lies in.
    pub pool: String,
    /// What it was made for; `None` if its record was written by a newer Quarry.
    pub access: Option<AccessTypes>,
    /// Its filesystem; `None` for raw block.
    pub filesystem: Option<Filesystem>,
}

/// What a pool can still give for one layout, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The sum of what can be carved.
    pub available: u64,
    /// The largest single volume, rounding and the layout's own needs counted.
    pub largest: u64,
    /// The smallest volume: one unit of allocation.
    pub smallest: u64,
}

/// The storage of one node, as its controller sees it.
///
/// `wait` bounds how long a call waits; the work itself goes on, and a retry finds it under way (`UnderWay`) or done.
#[async_trait::async_trait]
pub trait Agent: Send + Sync {
    /// The node's name: the value of its topology key.
    fn node(&self) -> &str;

    /// Makes a volume, or finds the one that an earlier, equal call made.
    async fn create(&self, spec: VolumeSpec, wait: Duration) -> Result<Volume>;

    /// Deletes a volume; one that does not exist is deleted.
    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<()>;

    /// Looks one volume up.
    async fn get(&self, id: &VolumeId) -> Result<Volume>;

    /// All volumes of the pools that can be read.
    async fn list(&self) -> Result<Vec<Volume>>;

    /// What `pool` (all pools, when none is named) can still give. A pool that this node does not have has nothing.
    async fn capacity(&self, pool: Option<&str>, layout: &Layout) -> Result<Capacity>;

    /// Checks mount and mkfs options against what the filesystem allows.
    ///
    /// # Errors
    /// `InvalidRequest` naming the option.
    fn check_options(&self, filesystem: Filesystem, mount_flags: &[String], mkfs_options: &str) -> Result<()>;
}
