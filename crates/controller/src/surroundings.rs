//! What a controller must know of the cluster around it, whoever tells: Kubernetes, or files where there is none.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use quarry_volume::{Result, VolumeId};
use tokio::sync::watch;

/// Where one node's agent can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `address:port`.
    pub address: String,
    /// The UID of the pod that serves there; empty where it is not known.
    pub pod_uid: String,
}

/// The nodes that have an agent, by name.
pub type Roster = BTreeMap<String, Endpoint>;

/// The roster as it changes; `None` until it was read completely once.
pub type RosterSource = watch::Receiver<Option<Arc<Roster>>>;

/// What has become of a node, apart from whether its agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there and said to be well.
    Ready,
    /// It is there, and has not been well for this long.
    NotReady(Duration),
    /// It is gone for good: absent from everything that would know it, for long enough. Its disks will not come back
    /// under this name.
    Gone,
    /// Nobody can tell.
    Unknown,
}

/// Knows the nodes as machines.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync {
    /// What has become of this node. Answers from memory as far as it can; `Gone` only when all that could know the
    /// node has been asked.
    async fn fate(&self, node: &str) -> Fate;

    /// Tells whoever watches the cluster that a volume was given up because its node is gone for good.
    async fn gave_up(&self, id: &VolumeId);
}

/// The right to decide on requests that leave a choice of node: one holder at a time.
#[async_trait::async_trait]
pub trait Election: Send + Sync {
    /// The fence of the present term: higher than that of any holder before.
    ///
    /// # Errors
    /// `Unavailable`, naming the holder, if this is not us now.
    async fn fence(&self) -> Result<u64>;
}

/// The volumes that somebody still wants.
pub trait Claims: Send + Sync {
    /// The volume handles of all PersistentVolumes of this driver; `None` if that is not known (yet).
    fn handles(&self) -> Option<Arc<HashSet<String>>>;
}

/// Where there is no Kubernetes: nobody knows more of a node than its agent says.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKubernetes;

#[async_trait::async_trait]
impl Nodes for NoKubernetes {
    async fn fate(&self, _node: &str) -> Fate {
        Fate::Unknown
    }

    async fn gave_up(&self, _id: &VolumeId) {}
}

impl Claims for NoKubernetes {
    fn handles(&self) -> Option<Arc<HashSet<String>>> {
        None
    }
}

/// The only controller there is: always the one that decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

#[async_trait::async_trait]
impl Election for Alone {
    async fn fence(&self) -> Result<u64> {
        Ok(0)
    }
}
