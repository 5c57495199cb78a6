//! One host: its pools, and what is under way on them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quarry_pool::{Pool, PoolVolume};
use quarry_volume::{Error, FencingToken, Reason, Result, StorageId, VolumeId};

use crate::looks::Looks;
use crate::publisher::StatePublisher;
use crate::tasks::Tasks;

/// How long a pool that was not asked for may hold up a creation in another one.
const OTHER_POOLS: Duration = Duration::from_secs(2);

/// How long a pool may take to say on which storage it lies. A disk that sleeps has to spin up, and a report may wait for
/// another one; both have bounds of their own, and this one is above them.
const STORAGE: Duration = Duration::from_secs(60);

/// A host and its storage. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    pools: Vec<Arc<dyn Pool>>,
    tasks: Tasks,
    looks: Looks,
    publisher: StatePublisher,
    /// The highest number of a chooser that this run of the agent has seen.
    fence: Mutex<u64>,
}

/// A volume, and the pool in which it was found.
pub(crate) struct Located {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) volume: PoolVolume,
}

/// The identity of a pool's storage, or why it cannot be told.
async fn storage_of(pool: &Arc<dyn Pool>) -> Result<StorageId> {
    tokio::time::timeout(STORAGE, pool.storage()).await.unwrap_or_else(|_| {
        let seconds = STORAGE.as_secs();
        Err(Error::unavailable(format!("pool {} has not answered within {seconds} s", pool.name())))
    })
}

impl Host {
    /// The host named `node` with its pools, in the order of the configuration.
    #[must_use]
    pub fn new(node: impl Into<String>, pools: Vec<Arc<dyn Pool>>) -> Self {
        Self::in_pod(node, pools, "")
    }

    /// The same, served from the pod with that UID.
    #[must_use]
    pub fn in_pod(node: impl Into<String>, pools: Vec<Arc<dyn Pool>>, pod_uid: impl Into<String>) -> Self {
        let node = node.into();
        let publisher = StatePublisher::new(&node, pod_uid.into(), pools.clone());
        let (tasks, looks, fence) = (Tasks::default(), Looks::default(), Mutex::new(0));
        Self { inner: Arc::new(Inner { node, pools, tasks, looks, publisher, fence }) }
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

    /// What is under way on the volumes.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// The looks at volumes that may hang.
    pub(crate) fn looks(&self) -> &Looks {
        &self.inner.looks
    }

    /// This run of the agent: another one after every start.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.inner.publisher.greeting().instance
    }

    /// What this node tells of itself.
    pub(crate) fn publisher(&self) -> &StatePublisher {
        &self.inner.publisher
    }

    /// Refuses choosers below this one from now on.
    ///
    /// # Errors
    /// `Unavailable` if a higher one has been seen.
    pub(crate) fn raise(&self, fence: u64) -> Result<()> {
        let mut seen = self.inner.fence.lock().unwrap_or_else(PoisonError::into_inner);
        if fence < *seen {
            return Err(Error::unavailable(format!(
                "node {} has heard of chooser {seen}, and chooser {fence} asks: it has been replaced; retry, and the \
                 present one answers",
                self.node()
            )));
        }
        *seen = fence;
        Ok(())
    }

    /// Whether a chooser may still have its way here. To be asked with the name taken (see [`Tasks::run`]): the chooser
    /// that replaces this one raises the fence first and looks for the name then, so that one of the two sees the other.
    ///
    /// # Errors
    /// `Unavailable` if it has been replaced, or if it asked another run of this agent, which may have known of a higher
    /// one.
    pub(crate) fn admit(&self, token: &FencingToken) -> Result<()> {
        if quarry_fault::disabled("fence") {
            return Ok(());
        }
        if token.instance != self.instance() {
            return Err(Error::unavailable(format!(
                "the agent of node {} was restarted since it was asked for the name: retry",
                self.node()
            )));
        }
        self.raise(token.fence)
    }

    /// The pool that a StorageClass means: the named one, or the only one.
    ///
    /// # Errors
    /// `NoSpace` if this node has no pool of that name: another node may have it. `InvalidRequest` if none is named
    /// and there are several.
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

    /// Finds the volume of an identifier. `None`: its own pool was read completely, and it is not there, nor elsewhere on
    /// this host.
    ///
    /// # Errors
    /// As for [`Host::pool_of`], and `Unavailable` if it exists, but not in its pool.
    pub(crate) async fn locate(&self, id: &VolumeId) -> Result<Option<Located>> {
        let pool = self.pool_of(id).await?;
        if let Some(volume) = pool.volume(&id.volume).await? {
            return Ok(Some(Located { pool, volume }));
        }
        match pool.elsewhere(&id.volume).await? {
            None => Ok(None),
            Some(place) => {
                Err(Error::unavailable(format!("it is not where pool {} would have it: {place}", pool.name())))
            }
        }
    }

    /// The pool that lies on the storage of an identifier.
    ///
    /// The pool that had this storage when it was read last is asked alone: a disk of another pool that hangs is nobody
    /// else's business. Where no pool had it (a volume group made anew), or the one that had it has another one now, all
    /// are asked at once.
    ///
    /// # Errors
    /// `Unavailable` if the identifier is another node's, or if its storage is not among the pools that can be read
    /// now: neither is a proof that the volume is gone.
    pub(crate) async fn pool_of(&self, id: &VolumeId) -> Result<Arc<dyn Pool>> {
        if id.node != self.node() {
            return Err(Error::unavailable(format!(
                "volume {id} is on node {}, and this is node {}: ask there",
                id.node,
                self.node()
            )));
        }
        let mut unread = Vec::new();
        let (likely, others): (Vec<_>, Vec<_>) =
            self.pools().iter().partition(|pool| pool.last_storage().is_some_and(|last| last == id.storage));
        for pools in [likely, others] {
            let mut storages: FuturesUnordered<_> =
                pools.into_iter().map(|pool| async move { (pool, storage_of(pool).await) }).collect();
            while let Some((pool, storage)) = storages.next().await {
                match storage {
                    Ok(storage) if storage == id.storage => return Ok(Arc::clone(pool)),
                    Ok(_) => {}
                    Err(error) => unread.push(error.message),
                }
            }
            if !unread.is_empty() {
                break;
            }
        }
        let why = if unread.is_empty() {
            "no pool of this node lies on the storage that it names (were the disks, or the configuration, replaced?)"
                .to_owned()
        } else {
            format!("its storage may be one that cannot be read now: {}", unread.join("; "))
        };
        Err(Error::unavailable(format!("it cannot be looked up on node {}: {why}", self.node())))
    }

    /// Finds the volume that an earlier CreateVolume made under this name: first in the pool that is asked for, which
    /// has to be readable, then in the others, as far as they answer soon. (A name in two pools would take a StorageClass
    /// that names another pool for the same claim, and parameters of a class cannot change.)
    ///
    /// # Errors
    /// `Unavailable` if the asked pool cannot be read.
    pub(crate) async fn find_by_name(&self, name: &str, asked: &Arc<dyn Pool>) -> Result<Option<Located>> {
        if let Some(volume) = asked.asked(name).await? {
            return Ok(Some(Located { pool: Arc::clone(asked), volume }));
        }
        let others = self.pools().iter().filter(|pool| pool.name() != asked.name());
        let (silent, others): (Vec<_>, Vec<_>) = others.partition(|pool| !pool.silent_disks().is_empty());
        for pool in silent {
            tracing::warn!(pool = pool.name(), "not searched for the name: a disk of it does not answer");
        }
        let mut others: FuturesUnordered<_> = others
            .into_iter()
            .map(|pool| async move { (pool, tokio::time::timeout(OTHER_POOLS, pool.asked(name)).await) })
            .collect();
        while let Some((pool, answer)) = others.next().await {
            match answer {
                Ok(Ok(Some(volume))) => return Ok(Some(Located { pool: Arc::clone(pool), volume })),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(pool = pool.name(), %error, "not searched for the name"),
                Err(_) => tracing::warn!(pool = pool.name(), "not searched for the name: it does not answer"),
            }
        }
        Ok(None)
    }

    /// Finds the volume that was made under this name in any pool. `None`: every pool was read completely, and none has it.
    ///
    /// # Errors
    /// `Unavailable` if it was not found, and a pool cannot be read: it may be there.
    pub(crate) async fn find_anywhere(&self, name: &str) -> Result<Option<Located>> {
        let mut unread = None;
        let mut answers: FuturesUnordered<_> =
            self.pools().iter().map(|pool| async move { (pool, pool.asked(name).await) }).collect();
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
