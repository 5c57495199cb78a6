//! The interface of the node that holds the disks, as the controller calls it.
//!
//! Standalone, controller and node are one process and use this trait directly; otherwise the same trait is
//! called over the network. There is no other connection between the two.

use std::fmt;
use std::time::Duration;

use futures::stream::BoxStream;

use crate::{
    AccessTypes, Condition, ContentSource, Encryption, Filesystem, IoLimits, Layout, MutableParameters, Parameters,
    Result, SizeRange, Snapshot, SnapshotId, SnapshotSpec, Space, StorageId, VolumeId, VolumeSpec, show_size,
};

/// A volume, as reported by its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its identifier.
    pub id: VolumeId,
    /// The name in the request that created it.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The pool that it is in.
    pub pool: String,
    /// The access types that it was created for; `None` if its record was written by a newer Quarry.
    pub access: Option<AccessTypes>,
    /// Its filesystem; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// Its layout on the disks; `None` as for `access`.
    pub layout: Option<Layout>,
    /// Whether it was ever published: its bytes may be user data.
    pub ready: bool,
    /// Its problem, for the operator: a lost disk, an unreadable record. Empty if the volume is healthy.
    pub problem: String,
    /// The kind of the problem, for programs.
    pub condition: Condition,
    /// What it was, or is still being, filled with; `None` if it was created empty, or if its node is too old to
    /// report it.
    pub source: Option<ContentSource>,
    /// How much of it is filled; `None` if it is not being filled. Until that is complete, it cannot be used.
    pub copying: Option<CopyProgress>,
    /// Its I/O limits; none if its node is too old to report them.
    pub limits: IoLimits,
    /// Why they are not in force for a pod that uses it, for the operator; empty if they are, or if its node is too old to
    /// report it.
    pub limits_problem: String,
    /// How it is encrypted; `None` if it is not.
    pub encryption: Option<Encryption>,
}

/// How much of a volume is filled with the contents of its source, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Copied, or cleaned beyond the contents of the source; perhaps not flushed.
    pub copied: u64,
    /// The size of the volume.
    pub total: u64,
}

impl CopyProgress {
    /// The part that is filled, in percent, rounded down.
    #[must_use]
    pub fn percent(self) -> u64 {
        let percent = u128::from(self.copied) * 100 / u128::from(self.total.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for CopyProgress {
    /// As `10Gi of 40Gi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", show_size(self.copied), show_size(self.total))
    }
}

impl Volume {
    /// A healthy, new volume of which only the identifier is known.
    #[must_use]
    pub fn new(id: VolumeId) -> Self {
        Self {
            name: id.volume.clone(),
            id,
            size: 0,
            pool: String::new(),
            access: None,
            filesystem: None,
            layout: None,
            ready: false,
            problem: String::new(),
            condition: Condition::Healthy,
            source: None,
            copying: None,
            limits: IoLimits::default(),
            limits_problem: String::new(),
            encryption: None,
        }
    }
}

/// What a pool can still allocate for one layout, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The sum that can be allocated.
    pub available: u64,
    /// The largest single volume, after rounding and the layout's overhead.
    pub largest: u64,
    /// The smallest volume: one unit of allocation.
    pub smallest: u64,
}

impl Capacity {
    /// The capacity of two pools together.
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

/// What a pool can do that not every pool can: nothing, unless its node reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCapabilities {
    /// It wipes a deleted volume in the way that the volume's StorageClass sets ([`Parameters::wipe`]).
    pub wipe: bool,
    /// Its volumes can have snapshots.
    pub snapshots: bool,
    /// Its storage ID identifies its disks: if two nodes report the same ID, they share a disk, or one has a
    /// copy of the other's.
    pub unique_storage: bool,
}

/// A pool, as reported by its node. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Its name, as in a StorageClass.
    pub name: String,
    /// The name of its kind, for people, for example `lvm`. Nothing is decided by it: see `capabilities`.
    pub kind: String,
    /// Its storage, for example the volume group's name.
    pub on: String,
    /// The identity of its storage; `None` while that cannot be read.
    pub storage: Option<StorageId>,
    /// The total size of its storage.
    pub size: u64,
    /// What it can still allocate.
    pub space: Space,
    /// What it can do that not every pool can.
    pub capabilities: PoolCapabilities,
    /// The size of its metadata area; 0 if it has none.
    pub metadata_size: u64,
    /// The free space in the metadata area.
    pub metadata_free: u64,
    /// The number of Quarry's volumes in it.
    pub volumes: u64,
    /// Why it takes no new volumes, or cannot be read at all; empty if it is healthy.
    pub problems: Vec<String>,
    /// What an operator could improve although nothing is wrong.
    pub hints: Vec<String>,
    /// How an operator makes it larger, as an instruction: `add a disk to it (vgextend)`. Empty if its node
    /// does not report that.
    pub enlarge: String,
    /// What an operator does about missing disks, step by step, with the commands in backticks. Empty if none is missing.
    pub repair: Vec<String>,
    /// How full it is, if it is a thin pool: its volumes share a space that they can fill. `None` if it is not, or while
    /// nothing is known about it.
    pub thin: Option<ThinUse>,
}

/// How full a thin pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThinUse {
    /// The used part of its data in percent, rounded up.
    pub data_percent: u8,
    /// The used part of its metadata in percent, rounded up.
    pub metadata_percent: u8,
    /// The size of all volumes and snapshots in it together, in bytes.
    pub virtual_size: u64,
}

impl PoolState {
    /// What it can still allocate for volumes with these parameters; nothing if it does not support them.
    #[must_use]
    pub fn capacity(&self, class: &Parameters) -> Capacity {
        if class.wipe.is_some() && !self.capabilities.wipe {
            return Capacity::default();
        }
        let capacity = self.space.capacity(&class.layout);
        // Volumes are as large as requested, and need more than that.
        let overhead = class.encryption.map_or(0, Encryption::overhead);
        Capacity {
            available: capacity.available.saturating_sub(overhead),
            largest: capacity.largest.saturating_sub(overhead),
            smallest: if capacity.smallest > overhead { capacity.smallest - overhead } else { capacity.smallest },
        }
    }

    /// The space for new volumes, in bytes: 0 while the pool takes none.
    #[must_use]
    pub fn free(&self) -> u64 {
        if self.space.closed.is_some() { 0 } else { self.space.available() }
    }

    /// The part of the metadata area that volumes can use, in bytes. LVM writes a new copy beside the old one,
    /// so only half of the area is usable.
    #[must_use]
    pub fn usable_metadata(&self) -> u64 {
        self.metadata_size / 2
    }

    /// Why the pool takes no new volumes, or cannot be read at all, each reason once.
    #[must_use]
    pub fn all_problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        if let Some(closed) = &self.space.closed
            && !problems.contains(closed)
        {
            problems.push(closed.clone());
        }
        problems
    }
}

/// The capability of a node whose agent has [`Agent::expand`].
pub const EXPAND: &str = "expand";
/// The capability of a node whose agent has [`Agent::create_snapshot`], [`Agent::delete_snapshot`] and
/// [`Agent::get_snapshot`], and that reports its snapshots.
pub const SNAPSHOT: &str = "snapshot";
/// The capability of a node whose agent takes snapshots with [`SnapshotMethod::Copy`](crate::SnapshotMethod::Copy). An
/// older node would ignore the method, and take a copy-on-write snapshot.
pub const SNAPSHOT_COPY: &str = "snapshot-copy";
/// The capability of a node whose agent creates volumes with a [`VolumeSpec::source`]. An older node would ignore
/// the source, and create an empty volume.
pub const COPY: &str = "copy";
/// The capability of a node whose agent obeys [`Parameters::discard`]. An older node would ignore it, and create a volume
/// whose unused space is never discarded.
pub const DISCARD: &str = "discard";
/// The capability of a node that can encrypt volumes: its agent obeys [`Parameters::encryption`], and the host has the
/// tool. An older node would ignore the parameter, and create a volume that is not encrypted.
pub const ENCRYPTION: &str = "encryption";
/// The capability of a node whose agent has [`Agent::modify`], and obeys [`Parameters::limits`] and
/// [`Parameters::requires_limits`]. An older node would ignore them.
pub const LIMITS: &str = "limits";
/// The capability of a node whose [`Agent::modify`] obeys [`MutableParameters::discard`]. An older node rejects it, which
/// would be final.
pub const MODIFY_DISCARD: &str = "modify-discard";

/// The identity of a node, sent first on every stream of updates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The node's name.
    pub node: String,
    /// The ID of this run of the agent: it changes with every start.
    pub instance: String,
    /// The UID of the pod it runs in; empty without Kubernetes.
    pub pod_uid: String,
    /// The ID of this run of the host's kernel.
    pub boot_id: String,
    /// The version of Quarry on the node.
    pub version: String,
    /// Its capabilities beyond the first version of the protocol.
    pub capabilities: Vec<String>,
}

/// A change on a node. Also part of a reply to a change, ahead of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Counts the changes of a node within one run of its agent: the higher generation is the newer one.
    pub generation: u64,
    /// The current state of changed pools; the others are unchanged.
    pub pools: Vec<PoolState>,
    /// New or changed volumes.
    pub volumes: Vec<Volume>,
    /// Deleted volumes.
    pub gone: Vec<VolumeId>,
    /// New or changed snapshots, without those that only serve to clone a volume.
    pub snapshots: Vec<Snapshot>,
    /// Deleted snapshots.
    pub gone_snapshots: Vec<SnapshotId>,
}

/// The updates of a stream, in this order: one greeting, the full state, then changes without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The identity of the node.
    Greeting(Greeting),
    /// All pools, volumes and snapshots; anything missing does not exist, except in pools that cannot be read. Sent
    /// again, replacing everything, when a reader was too slow for the changes.
    FullState(Change),
    /// What changed since.
    Change(Change),
}

/// For requests that permit several nodes, one controller is elected at a time. Its calls carry this token,
/// so that a node rejects a controller that has been replaced meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingToken {
    /// Counts the elections: a node rejects a lower number than it has seen.
    pub fence: u64,
    /// The run of the agent that was queried for the name: another run may have forgotten the fence.
    pub instance: String,
}

/// The answer to a query for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameLookup {
    /// The run of the agent that answered.
    pub instance: String,
    /// The volume with that name, if there is one.
    pub volume: Option<Volume>,
}

/// A stream of updates; ends, or yields an error, when the connection to the node is lost.
pub type UpdateStream = BoxStream<'static, Result<Update>>;

/// The storage of one node, as its controller uses it.
///
/// `wait` limits how long a call waits; the work itself continues, and a retry finds it in progress
/// (`UnderWay`) or done.
#[async_trait::async_trait]
pub trait Agent: Send + Sync {
    /// The node's name: the value of its topology key.
    fn node(&self) -> &str;

    /// Creates a volume, or finds the one that an earlier, equal call created. `token` is set if the request
    /// also permits other nodes. A spec with a source is only for nodes with the capability [`COPY`]. If it has no
    /// minimum size, the new volume has that of its source; a repeated call finds it even if the source has grown.
    ///
    /// # Errors
    /// `NoSpace` if it does not fit here; `Unavailable` if another controller was elected meanwhile. With a source:
    /// `NotFound` if that does not exist, `SizeOutOfRange` if the volume would be smaller, `InvalidRequest` if the
    /// source is used in another way, `UnderWay` with the progress while it is being copied.
    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, wait: Duration) -> Result<(Volume, Change)>;

    /// Deletes a volume; succeeds if it does not exist.
    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<Change>;

    /// Reads one volume.
    async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume>;

    /// Whether a volume with this name exists in any pool. From then on, the node rejects fencing tokens
    /// below `fence`.
    ///
    /// # Errors
    /// `UnderWay` while the name is being created or deleted; `Unavailable` if a pool cannot be read, or if
    /// the node has seen a fencing token above `fence`.
    async fn find(&self, name: &str, fence: u64, wait: Duration) -> Result<NameLookup>;

    /// Makes a volume larger until its size is in the range, or finds that it is large enough already. A
    /// filesystem on it grows later, on its node (CSI `NodeExpandVolume`, and every stage).
    ///
    /// # Errors
    /// `SizeOutOfRange` if its pool cannot make it that large, or cannot make volumes larger at all; `Unsupported`
    /// if the node is older than this call.
    async fn expand(&self, id: &VolumeId, size: SizeRange, wait: Duration) -> Result<(Volume, Change)>;

    /// Changes the mutable parameters of a volume, also for the pods that are using it: all of them, or after an error that
    /// is final none. [`MutableParameters::discard`] is only for nodes with the capability [`MODIFY_DISCARD`].
    ///
    /// # Errors
    /// `NotFound` if it does not exist; `InvalidRequest` if such a volume cannot have a parameter; `Unsupported` if the node
    /// is older than this call.
    async fn modify(&self, id: &VolumeId, changes: MutableParameters, wait: Duration) -> Result<(Volume, Change)>;

    /// Takes a snapshot, or finds the one that an earlier, equal call took. Names are unique among the snapshots of
    /// a node. A full copy ([`SNAPSHOT_COPY`]) is returned as soon as its contents are those of one instant, and is not
    /// `ready` until they are copied; each further call continues that if it was interrupted.
    ///
    /// # Errors
    /// `NotFound` if the source does not exist; `Exists` if a snapshot of another volume, or with another method, has
    /// the name; `NoSpace` if it does not fit; `Precondition` if the source's pool does not support snapshots, or if
    /// its storage is lost; `Unsupported` if the node is older than this call.
    async fn create_snapshot(&self, spec: SnapshotSpec, wait: Duration) -> Result<(Snapshot, Change)>;

    /// Deletes a snapshot; succeeds if it does not exist.
    ///
    /// # Errors
    /// `InUse` while a volume is being filled from it; `Unsupported` if the node is older than this call.
    async fn delete_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Change>;

    /// Reads one snapshot.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; `Unsupported` if the node is older than this call.
    async fn get_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Snapshot>;

    /// The full state, then every change.
    ///
    /// # Errors
    /// The connection to the node is lost.
    async fn watch(&self) -> Result<UpdateStream>;
}

impl fmt::Debug for dyn Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agent").field(&self.node()).finish()
    }
}
