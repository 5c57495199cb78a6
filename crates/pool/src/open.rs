//! Creates the pools of a configuration.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::config::selectors;
use crate::disk::Selection;
use crate::lvm::{GroupNotes, GroupState, InvalidSnapshots, LvmDisks, UsedGroups};
use crate::{DiskPool, LvmPool, Pool, PoolConfig, PoolKind, Uevents, udev};

/// Opens all pools of a node, in the order of the configuration. Missing storage is not an error: its pool
/// reports it, and works when the storage appears.
///
/// All are opened at once, so that a pool with a hanging disk does not delay the others. `state`: the folder for what the
/// storage cannot keep. It is on the host's filesystem, and should survive a boot.
pub async fn open(configured: Vec<PoolConfig>, state: &Path, uevents: &Uevents) -> Vec<Arc<dyn Pool>> {
    // A disk that several pools select belongs to none of them, so each pool needs all selectors.
    let selectors = selectors(&configured);
    if !selectors.is_empty() {
        udev::listen(uevents.clone());
    }
    let (disks, invalid, notes) = (LvmDisks::default(), InvalidSnapshots::open(state), GroupNotes::open(state));
    let used = UsedGroups::open(state);
    let mut groups = HashMap::new();
    let mut opening = JoinSet::new();
    for (index, PoolConfig { name, kind, copy_rate: _, trim_interval: _ }) in configured.iter().cloned().enumerate() {
        match kind {
            PoolKind::Lvm(config) => {
                // Several pools may be in one volume group.
                let group = groups.entry(config.volume_group.clone()).or_insert_with(|| {
                    let known = (Arc::clone(&invalid), Arc::clone(&used));
                    GroupState::new(&config, &configured, uevents.clone(), disks.clone(), known)
                });
                let group = group.clone();
                let made_of = config.create.is_some().then(|| {
                    (Selection::new(name.clone(), Arc::clone(&selectors), uevents.clone()), Arc::clone(&notes))
                });
                opening.spawn(async move {
                    let pool: Arc<dyn Pool> = LvmPool::open(name, config, group, made_of).await;
                    (index, pool)
                });
            }
            PoolKind::Disk(config) => {
                let (selectors, uevents) = (Arc::clone(&selectors), uevents.clone());
                opening.spawn(async move {
                    let pool: Arc<dyn Pool> = Arc::new(DiskPool::open(name, config.wipe, selectors, uevents).await);
                    (index, pool)
                });
            }
        }
    }
    let mut pools = opening.join_all().await;
    pools.sort_by_key(|(index, _)| *index);
    pools.into_iter().map(|(_, pool)| pool).collect()
}
