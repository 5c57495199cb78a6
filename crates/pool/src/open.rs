//! From a configuration to pools.

use std::sync::Arc;

use quarry_disk::Selector;

use crate::{DiskPool, LvmPool, Pool, PoolConfig, PoolKind, Uevents, udev};

/// Opens all pools of a node, in the order of the configuration. Storage that is not there is no error: its pool says so,
/// and serves when it comes.
///
/// They are opened together because a disk that several of them mean is none's.
pub async fn open(configured: Vec<PoolConfig>, uevents: &Uevents) -> Vec<Arc<dyn Pool>> {
    let selectors = selectors(&configured);
    if !selectors.is_empty() {
        udev::listen(uevents.clone());
    }
    let mut pools: Vec<Arc<dyn Pool>> = Vec::new();
    for PoolConfig { name, kind } in configured {
        pools.push(match kind {
            PoolKind::Lvm(config) => Arc::new(LvmPool::open(name, config, uevents.clone()).await),
            PoolKind::Disk(config) => {
                Arc::new(DiskPool::open(name, config.wipe, Arc::clone(&selectors), uevents.clone()).await)
            }
        });
    }
    pools
}

/// The selectors of all pools of disks, with their pools' names.
pub(crate) fn selectors(configured: &[PoolConfig]) -> Arc<[(String, Selector)]> {
    let selectors = configured.iter().filter_map(|pool| match &pool.kind {
        PoolKind::Disk(config) => Some((pool.name.clone(), config.selector.clone())),
        PoolKind::Lvm(_) => None,
    });
    selectors.collect()
}
