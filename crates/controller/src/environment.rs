//! What a controller needs to know about the cluster around it. The source is Kubernetes, or files without
//! it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use quarry_volume::{Result, VolumeId};
use tokio::sync::watch;

/// The address of one node's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `address:port`.
    pub address: String,
    /// The UID of the pod that serves there; empty if it is not known.
    pub pod_uid: String,
}

/// The nodes that have an agent, by name.
pub type Roster = BTreeMap<String, Endpoint>;

/// The current roster; `None` until it has been read completely once.
pub type RosterSource = watch::Receiver<Option<Arc<Roster>>>;

/// The state of a node as a machine, independent of whether its agent responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The node exists and is ready.
    Ready,
    /// The node exists, and has not been ready for this long.
    NotReady(Duration),
    /// The node is gone for good: absent from every source that would know it, for long enough. Its disks
    /// will not return under this name.
    Gone,
    /// No source knows now: the API does not answer, or what it says is not certain yet.
    Unknown,
    /// There is no source that could know: see [`NoKubernetes`].
    NoSource,
}

/// Knows the nodes as machines.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync {
    /// The state of this node. Answered from memory if possible; `Gone` only after all sources that could
    /// know the node have been queried.
    async fn fate(&self, node: &str) -> Fate;

    /// Whether an operator has confirmed that the storage of this volume is gone for good. Asked only when its node does not
    /// have that storage.
    async fn is_storage_gone(&self, _id: &VolumeId) -> bool {
        false
    }

    /// Reports, for example as an event, that a volume was abandoned.
    async fn report_abandoned(&self, id: &VolumeId, why: Abandoned);

    /// Reports, for example as an event, that the I/O limits of a volume are not in force. Returns whether that succeeded,
    /// or was reported before, perhaps by another controller.
    async fn report_unlimited(&self, _id: &VolumeId, _why: &str) -> bool {
        true
    }
}

/// Why a volume counts as deleted although nothing was deleted from any disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// Its node is gone for good.
    NodeGone,
    /// Its node does not have its storage, and an operator has confirmed that it is gone for good.
    StorageGone,
}

/// The election of the controller that selects nodes for requests that permit several: one at a time.
#[async_trait::async_trait]
pub trait Election: Send + Sync {
    /// The fencing token of the current term: higher than that of any earlier term.
    ///
    /// # Errors
    /// `Unavailable`, naming the elected controller, if it is not this one.
    async fn fence(&self) -> Result<u64>;
}

/// The volumes and snapshots that are still wanted.
pub trait Claims: Send + Sync {
    /// The volume handles of all PersistentVolumes of this driver; `None` if they are not known (yet).
    fn handles(&self) -> Option<Arc<HashSet<String>>>;

    /// The snapshot handles of all VolumeSnapshotContents of this driver; `None` if they are not known (yet).
    fn snapshot_handles(&self) -> Option<Arc<HashSet<String>>> {
        None
    }
}

/// Without Kubernetes: the agent is the only source of information about a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKubernetes;

#[async_trait::async_trait]
impl Nodes for NoKubernetes {
    async fn fate(&self, _node: &str) -> Fate {
        Fate::NoSource
    }

    async fn report_abandoned(&self, _id: &VolumeId, _why: Abandoned) {}
}

impl Claims for NoKubernetes {
    fn handles(&self) -> Option<Arc<HashSet<String>>> {
        None
    }
}

/// For an installation with a single controller: it is always elected.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysElected;

#[async_trait::async_trait]
impl Election for AlwaysElected {
    async fn fence(&self) -> Result<u64> {
        Ok(0)
    }
}
