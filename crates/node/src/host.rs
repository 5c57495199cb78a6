//! One host: its pools, and what is under way on them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quarry_pool::{Pool, PoolVolume};
use quarry_volume::{Error, Reason, Result, VolumeId};

use crate::tasks::Tasks;

/// How long a pool that was not asked for may hold up a creation in another one.
const OTHER_POOLS: Duration = Duration::from_secs(2);

/// A host and its storage. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    pools: Vec<Arc<dyn Pool>>,
    tasks: Tasks,
}

/// A volume, and the pool in which it was found.
pub(crate) struct Located {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) volume: PoolVolume,
}

impl Host {
    /// The host named `node` with its pools, in the order of the configuration.
    #[must_use]
    pub fn new(node: impl Into<String>, pools: Vec<Arc<dyn Pool>>) -> Self {
        Self { inner: Arc::new(Inner { node: node.into(), pools, tasks: Tasks::default() }) }
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

    /// The identifier of a volume of this host.
    pub(crate) fn id_of(&self, volume: &PoolVolume) -> VolumeId {
        VolumeId { storage: volume.storage.clone(), node: self.node().to_owned(), volume: volume.name.clone() }
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

    /// Finds the volume of an identifier. `None`: its own pool was read completely, and it is not there.
    ///
    /// # Errors
    /// `Unavailable` if the identifier is another node's, or if its storage is not among the pools that can be read
    /// now: neither is a proof that the volume is gone.
    pub(crate) async fn locate(&self, id: &VolumeId) -> Result<Option<Located>> {
        if id.node != self.node() {
            return Err(Error::unavailable(format!(
                "volume {id} is on node {}, and this is node {}: ask there",
                id.node,
                self.node()
            )));
        }
        let mut unread = Vec::new();
        // All at once: a pool that does not answer holds up nobody but the volumes that may be its own.
        let mut storages: FuturesUnordered<_> =
            self.pools().iter().map(|pool| async move { (pool, pool.storage().await) }).collect();
        while let Some((pool, storage)) = storages.next().await {
            match storage {
                Ok(storage) if storage == id.storage => {
                    let volumes = pool.volumes().await?;
                    return Ok(volumes
                        .into_iter()
                        .find(|volume| volume.name == id.volume)
                        .map(|volume| Located { pool: Arc::clone(pool), volume }));
                }
                Ok(_) => {}
                Err(error) => unread.push(error.message),
            }
        }
        let why = if unread.is_empty() {
            "no pool of this node lies on the storage that it names (were the disks, or the configuration, replaced?)"
                .to_owned()
        } else {
            format!("its storage may be one that cannot be read now: {}", unread.join("; "))
        };
        Err(Error::unavailable(format!("volume {id} cannot be looked up on node {}: {why}", self.node())))
    }

    /// Finds the volume that an earlier CreateVolume made under this name: first in the pool that is asked for, which
    /// has to be readable, then in the others, as far as they answer soon. (A name in two pools would take a StorageClass
    /// that names another pool for the same claim, and parameters of a class cannot change.)
    ///
    /// # Errors
    /// `Unavailable` if the asked pool cannot be read.
    pub(crate) async fn find_by_name(&self, name: &str, asked: &Arc<dyn Pool>) -> Result<Option<Located>> {
        let named = |volume: &PoolVolume| volume.record().is_ok_and(|record| record.name == name);
        if let Some(volume) = asked.volumes().await?.into_iter().find(named) {
            return Ok(Some(Located { pool: Arc::clone(asked), volume }));
        }
        let others = self.pools().iter().filter(|pool| pool.name() != asked.name());
        let mut others: FuturesUnordered<_> =
            others.map(|pool| async move { (pool, tokio::time::timeout(OTHER_POOLS, pool.volumes()).await) }).collect();
        while let Some((pool, volumes)) = others.next().await {
            match volumes {
                Ok(Ok(volumes)) => {
                    if let Some(volume) = volumes.into_iter().find(named) {
                        return Ok(Some(Located { pool: Arc::clone(pool), volume }));
                    }
                }
                Ok(Err(error)) => tracing::debug!(pool = pool.name(), %error, "not searched for the name"),
                Err(_) => tracing::warn!(pool = pool.name(), "not searched for the name: it does not answer"),
            }
        }
        Ok(None)
    }
}
