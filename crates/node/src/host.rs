//! One host: its pools, and the operations in progress on them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use quarry_pool::{Pool, PoolVolume};
use quarry_volume::{Error, FencingToken, Reason, Result, SnapshotId, StorageId, VolumeId};

use crate::checks::Checks;
use crate::copies::Copies;
use crate::kernel::{Kernel, Linux};
use crate::limits::Limits;
use crate::publisher::StatePublisher;
use crate::tasks::Tasks;
use crate::trim::Trims;

/// How long a creation waits for the other pools while it searches them for the name.
pub(crate) const OTHER_POOLS: Duration = Duration::from_secs(2);

/// How long a pool may take to return its storage ID. A sleeping disk has to spin up, and a report may wait
/// for another one; both have their own limits, and this one is above them.
const STORAGE: Duration = Duration::from_secs(60);

/// A host and its storage. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    pools: Vec<Arc<dyn Pool>>,
    kernel: Arc<dyn Kernel>,
    tasks: Tasks,
    checks: Checks,
    copies: Copies,
    trims: Trims,
    limits: Limits,
    publisher: StatePublisher,
    /// The staging paths that were unmounted because the filesystem did not work any more, and have not been mounted again.
    unmounted: Mutex<HashSet<(VolumeId, PathBuf)>>,
    /// The highest fencing token that this run of the agent has seen.
    fence: Mutex<u64>,
    /// Whether a controller has connected to this run of the agent.
    watched: AtomicBool,
}

/// A volume and the pool that contains it.
pub(crate) struct Located {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) volume: PoolVolume,
}

/// The storage ID of a pool, or why it cannot be determined.
async fn storage_of(pool: &Arc<dyn Pool>) -> Result<StorageId> {
    tokio::time::timeout(STORAGE, pool.storage()).await.unwrap_or_else(|_| {
        let seconds = STORAGE.as_secs();
        Err(Error::unavailable(format!("pool {} did not answer within {seconds} s", pool.name())))
    })
}

impl Host {
    /// Creates the host named `node` with its pools, in the order of the configuration.
    #[must_use]
    pub fn new(node: impl Into<String>, pools: Vec<Arc<dyn Pool>>) -> Self {
        Self::in_pod(node, pools, "")
    }

    /// Like [`Host::new`], for an agent that runs in the pod with that UID.
    #[must_use]
    pub fn in_pod(node: impl Into<String>, pools: Vec<Arc<dyn Pool>>, pod_uid: impl Into<String>) -> Self {
        Self::on_kernel(node, pools, pod_uid, Arc::new(Linux))
    }

    /// Like [`Host::in_pod`], on that kernel.
    pub(crate) fn on_kernel(
        node: impl Into<String>,
        pools: Vec<Arc<dyn Pool>>,
        pod_uid: impl Into<String>,
        kernel: Arc<dyn Kernel>,
    ) -> Self {
        let node = node.into();
        let copies = Copies::default();
        let limits = Limits::default();
        let publisher = StatePublisher::new(&node, pod_uid.into(), pools.clone(), copies.clone(), limits.clone());
        let (tasks, checks, trims) = (Tasks::default(), Checks::default(), Trims::default());
        let (fence, watched) = (Mutex::new(0), AtomicBool::new(false));
        let unmounted = Mutex::default();
        let inner =
            Inner { node, pools, kernel, tasks, checks, copies, trims, limits, publisher, unmounted, fence, watched };
        Self { inner: Arc::new(inner) }
    }

    /// Limits how many bytes per second all copies together read from or write to the pool with that name. Copies that
    /// are already running are not affected.
    pub fn limit_copies(&self, pool: &str, bytes_per_second: u64) {
        self.copies().limit(pool, bytes_per_second);
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// The pools, in the order of the configuration.
    #[must_use]
    pub fn pools(&self) -> &[Arc<dyn Pool>] {
        &self.inner.pools
    }

    /// The kernel of this host.
    pub(crate) fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.inner.kernel
    }

    /// The operations in progress on the volumes.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// The checks of volumes, which can hang.
    pub(crate) fn checks(&self) -> &Checks {
        &self.inner.checks
    }

    /// Identifies this run of the agent: every start has a new one.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.inner.publisher.greeting().instance
    }

    /// The copies that are running.
    pub(crate) fn copies(&self) -> &Copies {
        &self.inner.copies
    }

    /// The staging paths that were unmounted because the filesystem did not work any more, and have not been mounted again.
    pub(crate) fn unmounted(&self) -> &Mutex<HashSet<(VolumeId, PathBuf)>> {
        &self.inner.unmounted
    }

    /// The trims of filesystems.
    pub(crate) fn trims(&self) -> &Trims {
        &self.inner.trims
    }

    /// The I/O limits of the volumes in use.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The state publisher of this node.
    pub(crate) fn publisher(&self) -> &StatePublisher {
        &self.inner.publisher
    }

    /// Whether no controller has connected before. Only the first call returns that.
    pub(crate) fn is_first_watch(&self) -> bool {
        !self.inner.watched.swap(true, Ordering::Relaxed)
    }

    /// Rejects fencing tokens lower than this one from now on.
    ///
    /// # Errors
    /// `Unavailable` if a higher token has been seen.
    pub(crate) fn raise_fence(&self, fence: u64) -> Result<()> {
        let mut seen = self.inner.fence.lock();
        if fence < *seen {
            return Err(Error::unavailable(format!(
                "node {} rejected fencing token {fence}, because it has seen token {seen}: another controller has been \
                 elected; retry, and the request reaches that one",
                self.node()
            )));
        }
        *seen = fence;
        Ok(())
    }

    /// Checks the fencing token of a creation. Call it while the task holds the volume's name (see
    /// [`Tasks::run`]): the next elected controller raises the fence first and then looks for the name, so
    /// one of the two notices the other.
    ///
    /// # Errors
    /// `Unavailable` if a higher token has been seen, or if the controller looked for the name at an earlier
    /// run of this agent, which may have seen a higher token.
    pub(crate) fn check_token(&self, token: &FencingToken) -> Result<()> {
        if quarry_fault::disabled("fence") {
            return Ok(());
        }
        if token.instance != self.instance() {
            return Err(Error::unavailable(format!(
                "the agent of node {} was restarted after the controller looked for the name there: retry",
                self.node()
            )));
        }
        self.raise_fence(token.fence)
    }

    /// The pool that a StorageClass selects: the named one, or the only one.
    ///
    /// # Errors
    /// `NoSpace` if this node has no pool of that name: another node may have it. `InvalidRequest` if the
    /// class names no pool and there are several.
    pub(crate) fn pool(&self, name: Option<&str>) -> Result<&Arc<dyn Pool>> {
        let names = || self.pools().iter().map(|pool| pool.name()).collect::<Vec<_>>().join(", ");
        match (name, self.pools()) {
            (Some(name), pools) => pools.iter().find(|pool| pool.name() == name).ok_or_else(|| {
                Error::new(Reason::NoSpace, format!("node {} has no pool {name:?}; it has: {}", self.node(), names()))
            }),
            (None, [only]) => Ok(only),
            (None, _) => Err(Error::invalid(format!(
                "StorageClass parameter \"pool\" is missing, and node {} has several pools: name one of {}",
                self.node(),
                names()
            ))),
        }
    }

    /// Finds a volume by its ID. `None`: its pool was read completely, and the volume is neither there nor
    /// elsewhere on this host.
    ///
    /// # Errors
    /// As for [`Host::pool_of`]. Also `Unavailable` if the volume exists, but not in its pool.
    pub(crate) async fn locate(&self, id: &VolumeId) -> Result<Option<Located>> {
        let pool = self.pool_of(id).await?;
        if let Some(volume) = pool.volume(&id.volume).await? {
            return Ok(Some(Located { pool, volume }));
        }
        match pool.find_elsewhere(&id.volume).await? {
            None => Ok(None),
            Some(place) => Err(Error::unavailable(format!(
                "it is not in pool {}, but elsewhere on this node: {place}",
                pool.name()
            ))),
        }
    }

    /// The pool on the storage that a volume ID names.
    ///
    /// The pool that had this storage when it was last read is asked first and alone, so that a hanging disk
    /// of another pool has no effect. If no pool had it (a volume group was recreated), or if that pool now
    /// has another storage, all the others are asked concurrently.
    ///
    /// # Errors
    /// `Unavailable` if the ID names another node, or if no readable pool has its storage: neither proves
    /// that the volume is gone.
    pub(crate) async fn pool_of(&self, id: &VolumeId) -> Result<Arc<dyn Pool>> {
        self.pool_on(&id.node, &id.storage, &format!("volume {id}")).await
    }

    /// The pool on the storage that a snapshot ID names: see [`Host::pool_of`].
    ///
    /// # Errors
    /// As for [`Host::pool_of`].
    pub(crate) async fn pool_of_snapshot(&self, id: &SnapshotId) -> Result<Arc<dyn Pool>> {
        self.pool_on(&id.node, &id.storage, &format!("snapshot {id}")).await
    }

    /// `named`: what is on that storage, for messages.
    async fn pool_on(&self, node: &str, wanted: &StorageId, named: &str) -> Result<Arc<dyn Pool>> {
        if node != self.node() {
            return Err(Error::unavailable(format!(
                "{named} is on node {node}, but this is node {}: call that node",
                self.node()
            )));
        }
        let mut unread = Vec::new();
        let (likely, others): (Vec<_>, Vec<_>) =
            self.pools().iter().partition(|pool| pool.last_storage().is_some_and(|last| last == *wanted));
        for pools in [likely, others] {
            let mut storages: FuturesUnordered<_> =
                pools.into_iter().map(|pool| async move { (pool, storage_of(pool).await) }).collect();
            while let Some((pool, storage)) = storages.next().await {
                match storage {
                    Ok(storage) if storage == *wanted => return Ok(Arc::clone(pool)),
                    Ok(_) => {}
                    Err(error) => unread.push(error.message),
                }
            }
            if !unread.is_empty() {
                break;
            }
        }
        let attempted = format!("it cannot be looked up on node {}", self.node());
        Err(if unread.is_empty() {
            Error::storage_absent(format!(
                "{attempted}: no pool of this node has the storage {}, which its identifier names (were the disks or the \
                 configuration replaced?); if that storage will not come back, see \"When a node is lost\" in \
                 docs/operating.md",
                wanted.as_str()
            ))
        } else {
            let why = unread.join("; ");
            Error::unavailable(format!("{attempted}: its storage may belong to a pool that cannot be read now: {why}"))
        })
    }

    /// Finds the volume that an earlier CreateVolume made under this name: first in the requested pool, which
    /// must be readable, then in the other pools that answer soon. (A name could be in two pools only if the
    /// StorageClass of the same claim named another pool, and the parameters of a class cannot change.)
    ///
    /// # Errors
    /// `Unavailable` if the requested pool cannot be read.
    pub(crate) async fn find_by_name(&self, name: &str, requested: &Arc<dyn Pool>) -> Result<Option<Located>> {
        if let Some(volume) = requested.find_requested(name).await? {
            return Ok(Some(Located { pool: Arc::clone(requested), volume }));
        }
        Ok(self.find_in_answering(name, Some(requested.name())).await)
    }

    /// Finds the volume that was made under this name in the pools that answer soon, without the pool `except`.
    pub(crate) async fn find_in_answering(&self, name: &str, except: Option<&str>) -> Option<Located> {
        let others = self.pools().iter().filter(|pool| Some(pool.name()) != except);
        let (unresponsive, others): (Vec<_>, Vec<_>) = others.partition(|pool| !pool.unresponsive_disks().is_empty());
        for pool in unresponsive {
            tracing::warn!(
                pool = pool.name(),
                "pool not searched for the volume's name: one of its disks is unresponsive"
            );
        }
        let mut others: FuturesUnordered<_> = others
            .into_iter()
            .map(|pool| async move { (pool, tokio::time::timeout(OTHER_POOLS, pool.find_requested(name)).await) })
            .collect();
        while let Some((pool, answer)) = others.next().await {
            match answer {
                Ok(Ok(Some(volume))) => return Some(Located { pool: Arc::clone(pool), volume }),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(pool = pool.name(), %error, "pool not searched for the volume's name")
                }
                Err(_) => tracing::warn!(
                    pool = pool.name(),
                    "pool not searched for the volume's name: it did not answer in time"
                ),
            }
        }
        None
    }

    /// Finds the volume that was made under this name, in any pool. `None`: every pool was read completely,
    /// and no pool has it.
    ///
    /// # Errors
    /// `Unavailable` if it was not found and a pool could not be read: it may be there.
    pub(crate) async fn find_anywhere(&self, name: &str) -> Result<Option<Located>> {
        let mut unread = None;
        let mut answers: FuturesUnordered<_> =
            self.pools().iter().map(|pool| async move { (pool, pool.find_requested(name).await) }).collect();
        while let Some((pool, answer)) = answers.next().await {
            match answer {
                Ok(Some(volume)) => return Ok(Some(Located { pool: Arc::clone(pool), volume })),
                Ok(None) => {}
                Err(error) => unread = Some(error),
            }
        }
        unread.map_or(Ok(None), Err)
    }
}
