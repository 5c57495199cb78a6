//! What a controller asks of the node that holds the disks.
//!
//! Standalone, controller and node are one process and call each other through this trait; apart, the same trait is
//! spoken over the network. Nothing else connects the two.

use std::fmt;
use std::time::Duration;

use futures::stream::BoxStream;

use crate::{AccessTypes, Condition, Filesystem, Layout, Result, Space, StorageId, VolumeId, VolumeSpec};

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
    /// How it lies on the disks; `None` as for `access`.
    pub layout: Option<Layout>,
    /// Whether it was handed out: its bytes may be somebody's data.
    pub ready: bool,
    /// What is wrong with it, for the operator: a lost disk, a record that cannot be read. Empty if nothing is.
    pub problem: String,
    /// The kind of that problem, for programs.
    pub condition: Condition,
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

impl Capacity {
    /// What two pools give together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            available: self.available.saturating_add(other.available),
            largest: self.largest.max(other.largest),
            smallest: match (self.smallest, other.smallest) {
                (0, smallest) | (smallest, 0) => smallest,
                (one, other) => one.min(other),
            },
        }
    }
}

/// A pool as its node describes it. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Its name, as a StorageClass gives it.
    pub name: String,
    /// What it is made of, for example `lvm`.
    pub kind: String,
    /// What it lies on, for example the volume group's name.
    pub on: String,
    /// The identity of its storage; `None` while that cannot be read.
    pub storage: Option<StorageId>,
    /// The sum of its storage.
    pub size: u64,
    /// What it can still give.
    pub space: Space,
    /// The size of its metadata area, and what is left of it; 0 where there is none.
    pub metadata_size: u64,
    /// What is left of the metadata area.
    pub metadata_free: u64,
    /// How many volumes of ours it holds.
    pub volumes: u64,
    /// Why it takes no new volumes, or cannot be read at all; empty if all is well.
    pub problems: Vec<String>,
    /// What an operator could have more of, where nothing is wrong.
    pub hints: Vec<String>,
}

/// Who a node is, told first on every stream of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The node's name.
    pub node: String,
    /// This run of the agent: another one after every start.
    pub instance: String,
    /// The UID of the pod it runs in; empty without Kubernetes.
    pub pod_uid: String,
    /// This run of the host's kernel.
    pub boot_id: String,
    /// Quarry's version there.
    pub version: String,
    /// What it can do beyond the first version of the protocol.
    pub capabilities: Vec<String>,
}

/// Something that became different on a node. Also what a reply to a change says, ahead of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Counts the changes of a node within one run of its agent: what is known from a higher one is newer.
    pub generation: u64,
    /// Pools as they are now; those that are not named are as they were.
    pub pools: Vec<PoolState>,
    /// Volumes that are new, or different.
    pub volumes: Vec<Volume>,
    /// Volumes that are gone.
    pub gone: Vec<VolumeId>,
}

/// What a stream of changes brings, in this order: one greeting, the full state, then changes without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Who speaks.
    Greeting(Greeting),
    /// All pools and volumes there are; what is not in it does not exist, except in pools that cannot be read. Comes
    /// again, and replaces everything, when a reader was too slow for the changes.
    FullState(Change),
    /// What became different since.
    Change(Change),
}

/// A request that leaves a choice of node has one chooser at a time. Its calls carry this, so that a node refuses one
/// that has been replaced meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingToken {
    /// Counts the choosers: a node refuses a lower number than it has seen.
    pub fence: u64,
    /// The run of the node's agent that was asked for the name before: another one may have forgotten the fence.
    pub instance: String,
}

/// The answer to a question for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameLookup {
    /// The run of the agent that answers.
    pub instance: String,
    /// The volume of that name, if there is one.
    pub volume: Option<Volume>,
}

/// A stream of updates; ends, or brings an error, when the node cannot be heard any more.
pub type UpdateStream = BoxStream<'static, Result<Update>>;

/// The storage of one node, as its controller sees it.
///
/// `wait` bounds how long a call waits; the work itself goes on, and a retry finds it under way (`UnderWay`) or done.
#[async_trait::async_trait]
pub trait Agent: Send + Sync {
    /// The node's name: the value of its topology key.
    fn node(&self) -> &str;

    /// Makes a volume, or finds the one that an earlier, equal call made. `token` where another node could have been
    /// asked as well.
    ///
    /// # Errors
    /// `NoSpace` if it does not fit here; `Unavailable` if the chooser was replaced.
    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, wait: Duration) -> Result<(Volume, Change)>;

    /// Deletes a volume; one that does not exist is deleted.
    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<Change>;

    /// Looks one volume up.
    async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume>;

    /// Whether a volume of this name exists in any pool. From now on, choosers below `fence` are refused.
    ///
    /// # Errors
    /// `UnderWay` while the name is being created or deleted; `Unavailable` if a pool cannot be read, or if a chooser
    /// above `fence` has been seen.
    async fn find(&self, name: &str, fence: u64, wait: Duration) -> Result<NameLookup>;

    /// Everything there is, then every change.
    ///
    /// # Errors
    /// The node cannot be heard.
    async fn watch(&self) -> Result<UpdateStream>;
}

impl fmt::Debug for dyn Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agent").field(&self.node()).finish()
    }
}
